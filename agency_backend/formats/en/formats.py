"""Times in the admin: 24 hours, with seconds and the time zone, as an incident needs them."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
