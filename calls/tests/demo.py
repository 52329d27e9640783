"""
``make demo``: dial a batch, cancel it half-way, compare the provider's log with the answer, and replace the batch.

PostgreSQL, gunicorn and the two workers are real. The provider is a fake that speaks its protocol over HTTP. The demo
exits with 1 if the provider received a call request that was not claimed before the cancel was answered, or if both
batches called the same number.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import django
from django.core.management import call_command

CONTACTS = 600
WEBHOOK_SECRET = "the-secret-of-the-address"
# More than the API allows, so that the demo takes seconds and not an hour.
MAX_CONCURRENT, CALLS_PER_MINUTE = 30, 10_000


def numbers_called(provider: Any, batch: Any) -> set[str]:
    """Return the numbers that the provider was asked to call for the batch."""
    with provider.lock:
        of_batch = [asked.body for asked in provider.asked if asked.metadata["batch_id"] == str(batch.pk)]
    return {body["medium"]["telnyx"]["outgoing"]["to"] for body in of_batch}


def main() -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from calls.models import CallBatch
    from calls.tests.support.deployment import AnsweredCancel, has_calls_in_progress, running_deployment
    from calls.tests.support.factories import Tenant, checked_counters, new_contacts
    from calls.tests.support.provider import KEY, fake_provider

    say = Console(width=100, highlight=False).print
    harbour = Tenant.create("harbour")
    harbour.agency.webhook_secret = WEBHOOK_SECRET
    harbour.agency.save()
    batch = harbour.batch("pending")
    CallBatch.objects.filter(pk=batch.pk).update(max_concurrent=MAX_CONCURRENT, calls_per_minute=CALLS_PER_MINUTE)
    batch.add_contacts(new_contacts(CONTACTS))
    progress = Progress(
        TextColumn("{task.description:12}"),
        BarColumn(50),
        TextColumn("{task.completed:>4.0f}"),
        console=Console(width=100),
    )
    names = ("queued", "in progress", "completed", "failed", "skipped")
    with (
        fake_provider() as provider,
        running_deployment(
            provider, {KEY: harbour.agency}, workers=2, RETRY_PAUSE="60", ULTRAVOX_TIMEOUT="15"
        ) as deployment,
        progress,
    ):
        provider.call_seconds, provider.webhook_delay = (0.4, 1.2), 0.3
        bars = [progress.add_task(name, total=CONTACTS) for name in names]

        def show_progress(shown: CallBatch = batch) -> CallBatch:
            current = CallBatch.objects.get(pk=shown.pk)
            counters = (current.queued, current.in_progress, current.completed, current.failed, current.skipped)
            for bar, count in zip(bars, counters, strict=True):
                progress.update(bar, completed=count)
            time.sleep(0.1)
            return current

        while show_progress().queued > CONTACTS / 2:
            pass
        answer = deployment.cancel(batch, harbour.owner)
        cancelled = AnsweredCancel.record(batch, answer)
        progress.console.print(
            f"\nPOST calls-batch-cancel: {answer['status']}, {answer['contacts_skipped']} contacts skipped\n"
        )
        while has_calls_in_progress():
            show_progress()
        # Wait a little longer, in case a worker still sends a request.
        time.sleep(3)
        show_progress()
        requests, unclaimed = cancelled.requests(provider), cancelled.requests_without_claim(provider)
        last = max(request.at for request in requests) - cancelled.at

        replacement = deployment.create(harbour.owner, replaces=str(batch.pk))
        progress.console.print(
            f"\nPOST calls-batch-create, replaces: {replacement['status']}, {replacement['total_contacts']} contacts\n"
        )
        new = CallBatch.objects.get(pk=replacement["batch_id"])
        for bar in bars:
            progress.update(bar, total=replacement["total_contacts"])
        while new.contacts.filter(last_attempt_at=None).exists() or has_calls_in_progress():
            show_progress(new)
        called, called_by_new = numbers_called(provider, batch), numbers_called(provider, new)
    counters = checked_counters(batch)
    say(f"\nThe provider received {len(requests)} call requests, the last one {abs(last) * 1000:.0f} ms", end=" ")
    say(f"{'after' if last > 0 else 'before'} the cancel was answered.")
    say(f"Claimed before the answer: {len(requests) - len(unclaimed)} of {len(requests)}. After it: {len(unclaimed)}.")
    say(f"Counters, confirmed by a fresh count: {', '.join(f'{count} {name}' for name, count in counters.items())}.")
    twice = called & called_by_new
    say(f"The cancelled batch called {len(called)} people, and its replacement {len(called_by_new)}", end=" ")
    say(f"others. Called by both: {len(twice)}.")
    return 1 if unclaimed or twice else 0


if __name__ == "__main__":
    django.setup()
    logging.disable(logging.WARNING)
    call_command("migrate", verbosity=0)
    sys.exit(main())
