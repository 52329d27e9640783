"""What the tables need to be fast and sane, and an adopted database may lack."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("calls", "0001_initial")]

    operations = [
        migrations.AddConstraint(
            model_name="callbatch",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("status__in", ["pending", "scheduled", "processing", "paused", "completed", "cancelled", "failed"])
                ),
                name="batch_status_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="callbatch",
            constraint=models.CheckConstraint(
                condition=models.Q(("mode__in", ["immediate", "scheduled"])), name="batch_mode_known"
            ),
        ),
        migrations.AddIndex(
            model_name="campaigncontact",
            index=models.Index(fields=["batch", "id"], name="contact_of_batch"),
        ),
        migrations.AddConstraint(
            model_name="campaigncontact",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("status__in", ["pending", "queued", "scheduled", "in_progress", "completed", "failed", "skipped"])
                ),
                name="contact_status_known",
            ),
        ),
    ]
