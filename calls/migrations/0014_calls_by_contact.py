"""Find the calls of a contact by an index."""

from django.db import migrations, models

from calls.database.adoption.operations import add_missing


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
        add_missing("calls: index call_of_contact"),
    ]
