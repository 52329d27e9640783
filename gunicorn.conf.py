"""What ``gunicorn agency_backend.wsgi`` reads by itself when it is started here."""

import os

from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agency_backend.settings")

# A worker that is ended in the middle of a cancel answers nobody: let the database's own limit come first, also when
# the server is told to stop.
timeout = graceful_timeout = int(settings.CANCEL_TIMEOUT) + 30
threads = 8
# A token too long to be one is answered by the API, in its own words, up to here.
limit_request_field_size = 128 * 1024
