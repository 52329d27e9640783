"""Add ``contact_id`` to webhook events, from the metadata of their calls. Existing rows keep NULL."""

from django.db import migrations, models

from calls.database.adoption.steps import run_with_short_lock_timeout


def lock_events(apps, schema_editor):
    """Lock the table in short attempts, so that webhooks do not wait behind this migration."""
    run_with_short_lock_timeout(
        lambda: schema_editor.execute("LOCK TABLE call_webhook_events IN ACCESS EXCLUSIVE MODE")
    )


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0006_refuse_second_claims"),
    ]

    # Undone from the last to the first.
    operations = [
        migrations.RunPython(lock_events, migrations.RunPython.noop),
        migrations.AddField(
            model_name="webhookevent",
            name="contact_id",
            field=models.UUIDField(null=True),
        ),
        migrations.RunPython(migrations.RunPython.noop, lock_events),
    ]
