"""What an operator can do to batches in the admin: pause, resume and cancel."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from django.contrib.admin import ModelAdmin
from django.http import HttpRequest

from calls.admin.display import counted
from calls.audit import Actor, Source
from calls.models import CallBatch, CancelResult, PauseResult
from calls.statuses import PAUSABLE, BatchStatus

R = TypeVar("R", CancelResult, PauseResult)


class BatchAction(Generic[R]):
    """
    One verb of a batch: how the admin calls it, and what the admin says before and after.

    ``columns`` are the headings of :meth:`numbers` on the confirmation page.
    """

    name: ClassVar[str]
    done: ClassVar[str]
    permission: ClassVar[str]
    warning: ClassVar[str]
    columns: ClassVar[list[str]]
    is_dangerous: ClassVar[bool] = False
    takes_reason: ClassVar[bool] = False

    def is_permitted(self, request: HttpRequest, model_admin: ModelAdmin[CallBatch]) -> bool:
        """Return whether the user may look at batches and may perform this action."""
        return model_admin.has_view_permission(request) and request.user.has_perm(self.permission)

    def applies_to(self, batch: CallBatch) -> bool:
        """Return whether the batch's page shows a button for this action."""
        raise NotImplementedError

    def preview(self, batch: CallBatch) -> R:
        """Return what :meth:`perform` would do, or raise what it would raise. Nothing is changed."""
        raise NotImplementedError

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> R:
        """Call the batch's method. May raise :class:`calls.exceptions.CallsError`."""
        raise NotImplementedError

    def numbers(self, result: R) -> list[int]:
        """Return the numbers that the confirmation page shows, one for each of ``columns``."""
        raise NotImplementedError

    def button(self, results: list[R]) -> str:
        """Return the label of the button that performs the action on all batches that were previewed."""
        return f"{self.name.title()} {counted(len(results), 'batch', 'es')}"

    def outcome(self, result: R, announced: list[int] | None) -> str:
        """
        Return the result as text. The caller puts the batch's name in front of it.

        :param announced: the numbers that the confirmation page showed, if they are known.
        """
        raise NotImplementedError


class Pause(BatchAction[PauseResult]):
    name, done, permission = "pause", "paused", "calls.pause_callbatch"
    warning = "No new call starts until the batch is resumed. Calls in progress continue until they end."
    columns = ["Contacts left to call", "Calls that will finish"]
    takes_reason = True

    def applies_to(self, batch: CallBatch) -> bool:
        return batch.status in PAUSABLE

    def preview(self, batch: CallBatch) -> PauseResult:
        return batch.preview_pause()

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> PauseResult:
        return batch.pause(actor=actor, source=Source.ADMIN, reason=reason)

    def numbers(self, result: PauseResult) -> list[int]:
        return [result.queued, result.in_progress]

    def outcome(self, result: PauseResult, announced: list[int] | None) -> str:
        return (
            f"paused. {counted(result.queued, 'contact')} left to call; "
            f"{counted(result.in_progress, 'call')} in progress will finish."
        )


class Resume(BatchAction[PauseResult]):
    name, done, permission = "resume", "resumed", "calls.resume_callbatch"
    warning = "Calls start again: at the batch's scheduled time if that is in the future, otherwise now."
    columns = ["Contacts left to call"]

    def applies_to(self, batch: CallBatch) -> bool:
        return bool(batch.status == BatchStatus.PAUSED)

    def preview(self, batch: CallBatch) -> PauseResult:
        return batch.preview_resume()

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> PauseResult:
        return batch.resume(actor=actor, source=Source.ADMIN)

    def numbers(self, result: PauseResult) -> list[int]:
        return [result.queued]

    def outcome(self, result: PauseResult, announced: list[int] | None) -> str:
        return f"resumed, and {result.status} again. {counted(result.queued, 'contact')} left to call."


class Cancel(BatchAction[CancelResult]):
    name, done, permission = "cancel", "cancelled", "calls.cancel_callbatch"
    warning = (
        "Every contact that was not called yet is skipped. Calls in progress continue until they end. "
        "This cannot be undone."
    )
    columns = ["Contacts to skip", "Calls that will finish"]
    is_dangerous = True
    takes_reason = True

    def applies_to(self, batch: CallBatch) -> bool:
        return not batch.has_ended

    def preview(self, batch: CallBatch) -> CancelResult:
        return batch.preview_cancel()

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> CancelResult:
        return batch.cancel(actor=actor, source=Source.ADMIN, reason=reason)

    def numbers(self, result: CancelResult) -> list[int]:
        return [result.contacts_skipped, result.in_progress]

    def button(self, results: list[CancelResult]) -> str:
        skipped = sum(result.contacts_skipped for result in results)
        return f"Skip {counted(skipped, 'contact')} in {counted(len(results), 'batch', 'es')}"

    def outcome(self, result: CancelResult, announced: list[int] | None) -> str:
        text = (
            f"cancelled. {counted(result.contacts_skipped, 'contact')} skipped; "
            f"{counted(result.in_progress, 'call')} in progress will finish."
        )
        if announced and announced != self.numbers(result):
            text += f" The confirmation page showed {' and '.join(map(str, announced))}; these have changed."
        return text


PAUSE, RESUME, CANCEL = Pause(), Resume(), Cancel()

# In the order of the buttons on a batch's page.
BATCH_ACTIONS: list[BatchAction[Any]] = [PAUSE, RESUME, CANCEL]
