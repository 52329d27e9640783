"""Redact secrets in log records."""

import logging
import re
from urllib.parse import unquote

# The secret may contain spaces and quotes, so everything is redacted up to " HTTP/1.1" or the end of the line. The
# agency's id is kept.
_WEBHOOK_SECRET = re.compile(r"(/webhook-ingest/(?:[0-9a-fA-F-]{36}/)?)[\s\S]+?(?= HTTP/\d|$)", re.MULTILINE)
# A percent-encoded path leads to the same view.
_PERCENT_ENCODED = re.compile(r"\S*%\S*")
# gunicorn logs invalid headers as they were sent.
_BEARER_TOKEN = re.compile(r"(?i)(\bbearer\s+)[^\s'\"]+")


class WithoutSecrets(logging.Filter):
    """Replaces tokens, and the secret in webhook URLs, with ``***``. Drops no record."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        redacted = _BEARER_TOKEN.sub(r"\1***", message)
        if _WEBHOOK_SECRET.search(unquote(redacted)):
            redacted = _PERCENT_ENCODED.sub("***", _WEBHOOK_SECRET.sub(r"\1***", redacted))
        if redacted != message:
            record.msg, record.args = redacted, ()
        return True
