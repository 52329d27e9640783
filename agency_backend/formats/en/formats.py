"""The admin's time format: 24 hours, with seconds and the time zone, to compare times in an incident."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
