"""What the admin's list of batches, and its search for a phone number, read."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # An index that is built concurrently keeps no writer waiting, and has no transaction around it.
    atomic = False

    dependencies = [("calls", "0005_call_operators")]

    operations = [
        AddIndexConcurrently(
            model_name="callbatch",
            index=models.Index(fields=["-created_at", "-id"], name="batch_by_creation"),
        ),
        AddIndexConcurrently(
            model_name="campaigncontact",
            index=models.Index(fields=["phone_number"], name="contact_by_phone_number"),
        ),
    ]
