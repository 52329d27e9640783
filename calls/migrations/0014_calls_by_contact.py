"""Find the calls of a contact by an index."""

from django.db import migrations, models

from calls.database.adoption import steps
from calls.database.adoption.survey import missing_steps


def add_missing(apps, schema_editor):
    steps.apply(missing_steps(apps))


def undo(apps, schema_editor):
    steps.undo("calls: index call_of_contact")


class Migration(migrations.Migration):
    # Other services are writing the table, so the index is built concurrently.
    atomic = False

    dependencies = [("calls", "0013_clients")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddIndex(model_name="call", index=models.Index(fields=["contact"], name="call_of_contact")),
            ],
        ),
        migrations.RunPython(add_missing, undo),
    ]
