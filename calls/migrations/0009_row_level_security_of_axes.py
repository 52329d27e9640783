"""Close the tables of django-axes to Supabase's Data API."""

from django.db import migrations

TABLES = ["axes_accessattempt", "axes_accessattemptexpiration", "axes_accessfailurelog", "axes_accesslog"]


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0008_find_events_by_contact"),
        ("axes", "0010_accessattemptexpiration"),
    ]

    operations = [
        # Without a policy only the owner can read them. Undoing this migration leaves the tables in place, so they stay
        # closed.
        migrations.RunSQL(
            "\n".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in TABLES),
            migrations.RunSQL.noop,
        ),
    ]
