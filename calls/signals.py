"""Signals that other apps can receive."""

from django.dispatch import Signal

# Sent by CallBatch.cancel() after its commit, with ``result`` (a CancelResult). A receiver that raises is logged and
# does not affect the cancel.
batch_cancelled = Signal()

# Sent by CallBatch.create() and CallBatch.replace() after their commit, with ``result`` (a CreateResult).
batch_created = Signal()

# Sent by Agency.hold() and Agency.release() after their commit, with ``result`` (a HoldResult). Not sent if hold()
# raises HoldUnconfirmed.
agency_held = Signal()
agency_released = Signal()
