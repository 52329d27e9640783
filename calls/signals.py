"""What others may listen to."""

from django.dispatch import Signal

# Sent by CallBatch.cancel() once its transaction has committed, with ``result`` (a CancelResult). A receiver that
# raises is logged and changes nothing: the batch is cancelled.
batch_cancelled = Signal()
