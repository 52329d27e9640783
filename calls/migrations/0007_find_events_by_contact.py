"""Find the events of a contact's calls, for the sweep. Events that were stored before have no ``contact_id``."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Webhooks continue while the index is built.
    atomic = False

    dependencies = [
        ("calls", "0006_refuse_second_claims"),
    ]

    operations = [
        migrations.AddField(
            model_name="webhookevent",
            name="contact_id",
            field=models.UUIDField(null=True),
        ),
        AddIndexConcurrently(
            model_name="webhookevent",
            index=models.Index(
                condition=models.Q(("contact_id__isnull", False)),
                fields=["contact_id"],
                name="webhook_event_of_contact",
            ),
        ),
    ]
