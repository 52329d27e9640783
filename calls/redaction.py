"""Keep out of logs what opens a door."""

import logging
import re
from urllib.parse import unquote

# Up to the end of the line, unless it is a request's: a secret may have spaces and quotes in it. The agency's id may
# stay, where there is one.
_SECRET = re.compile(r"(/webhook-ingest/(?:[0-9a-fA-F-]{36}/)?)[\s\S]+?(?= HTTP/\d|$)", re.MULTILINE)
# What is written otherwise leads to the same place.
_ENCODED = re.compile(r"\S*%\S*")
# A header that is none is told as it came.
_TOKEN = re.compile(r"(?i)(\bbearer\s+)[^\s'\"]+")


class WithoutSecrets(logging.Filter):
    """A filter that lets every record through, with tokens and the secret of each webhook's address struck out."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        harmless = _TOKEN.sub(r"\1***", message)
        if _SECRET.search(unquote(harmless)):
            harmless = _ENCODED.sub("***", _SECRET.sub(r"\1***", harmless))
        if harmless != message:
            record.msg, record.args = harmless, ()
        return True
