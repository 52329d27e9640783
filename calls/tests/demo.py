"""
``make demo``: a batch is dialled, cancelled half-way, and the provider's own log is held against the answer.

Everything is real but the provider, whose stand-in speaks its protocol over HTTP: PostgreSQL, gunicorn, two workers.
Exits with 1 if a single call was asked for that had not been claimed before the cancel's answer.
"""

from __future__ import annotations

import logging
import sys
import time

import django
from django.core.management import call_command

CONTACTS = 600
WEBHOOK_SECRET = "the-secret-of-the-address"
# Faster than the API would let a batch be, since nobody wants to watch for an hour.
AT_ONCE, CALLS_PER_MINUTE = 30, 10_000


def main() -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from calls.models import CallBatch
    from calls.tests.support.deployment import Cancelled, deployed, settled
    from calls.tests.support.factories import Tenant, checked_counters, new_contacts
    from calls.tests.support.provider import provider_running

    say = Console(width=100, highlight=False).print
    harbour = Tenant.create("harbour")
    harbour.agency.webhook_secret = WEBHOOK_SECRET
    harbour.agency.save()
    batch = harbour.batch("pending")
    CallBatch.objects.filter(pk=batch.pk).update(max_concurrent=AT_ONCE, calls_per_minute=CALLS_PER_MINUTE)
    batch.add_contacts(new_contacts(CONTACTS))
    bar = Progress(
        TextColumn("{task.description:12}"),
        BarColumn(50),
        TextColumn("{task.completed:>4.0f}"),
        console=Console(width=100),
    )
    names = ("waiting", "in progress", "completed", "failed", "skipped")
    with (
        provider_running() as provider,
        deployed(provider, harbour.agency, workers=2, RETRY_PAUSE="60", ULTRAVOX_TIMEOUT="15") as deployment,
        bar,
    ):
        provider.lasts, provider.late = (0.4, 1.2), 0.3
        bars = [bar.add_task(name, total=CONTACTS) for name in names]

        def look() -> CallBatch:
            seen = CallBatch.objects.get(pk=batch.pk)
            counters = (seen.queued, seen.in_progress, seen.completed, seen.failed, seen.skipped)
            for task, count in zip(bars, counters, strict=True):
                bar.update(task, completed=count)
            time.sleep(0.1)
            return seen

        while look().queued > CONTACTS / 2:
            pass
        answer = deployment.cancel(batch, harbour.owner)
        cancelled = Cancelled.now(batch, answer)
        bar.console.print(
            f"\nPOST calls-batch-cancel: {answer['status']}, {answer['contacts_skipped']} contacts skipped\n"
        )
        while not settled():
            look()
        # And a while longer, for whoever might still have something in hand.
        time.sleep(3)
        look()
        asked, later = cancelled.asked_for(provider), cancelled.asked_since(provider)
        last = max(request.at for request in asked) - cancelled.at
    counters = checked_counters(batch)
    say(f"\nThe provider was asked for {len(asked)} calls, the last one {abs(last) * 1000:.0f} ms", end=" ")
    say(f"{'after' if last > 0 else 'before'} the answer.")
    say(f"Claimed before the answer: {len(asked) - len(later)} of {len(asked)}. Claimed after it: {len(later)}.")
    say(f"The counters, as a fresh count says: {', '.join(f'{count} {name}' for name, count in counters.items())}.")
    return 1 if later else 0


if __name__ == "__main__":
    django.setup()
    logging.disable(logging.WARNING)
    call_command("migrate", verbosity=0)
    sys.exit(main())
