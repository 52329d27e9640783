"""Times as an incident needs them: to the second, in 24 hours, and with the zone said."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
