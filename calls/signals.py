"""Signals that other apps can receive."""

from django.dispatch import Signal

# Sent by CallBatch.cancel() after its commit, with ``result`` (a CancelResult). A receiver that raises is logged and
# does not affect the cancel.
batch_cancelled = Signal()
