"""Find the events of a contact's calls, for the dialler and the sweep."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Webhooks continue while the index is built.
    atomic = False

    dependencies = [
        ("calls", "0007_name_the_contact_of_events"),
    ]

    operations = [
        # An interrupted build leaves an invalid index behind.
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS webhook_event_of_contact", migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name="webhookevent",
            index=models.Index(
                condition=models.Q(("contact_id__isnull", False)),
                fields=["contact_id"],
                name="webhook_event_of_contact",
            ),
        ),
    ]
