"""Defaults, indexes and constraints of the tables of 0001, and whatever else an adopted table is missing."""

from django.db import migrations, models

from calls.database.adoption.operations import add_missing


class Migration(migrations.Migration):
    # Other services are writing these tables, so each step has its own transaction, or none (CONCURRENTLY).
    atomic = False

    dependencies = [("calls", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddConstraint(
                    model_name="callbatch",
                    constraint=models.CheckConstraint(
                        condition=models.Q(
                            (
                                "status__in",
                                ["pending", "scheduled", "processing", "paused", "completed", "cancelled", "failed"],
                            )
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
                    model_name="callbatch",
                    index=models.Index(fields=["-created_at", "-id"], name="batch_by_creation"),
                ),
                migrations.AddIndex(
                    model_name="callbatch",
                    index=models.Index(fields=["agency", "-created_at", "-id"], name="batch_of_agency"),
                ),
                migrations.AddConstraint(
                    model_name="campaigncontact",
                    constraint=models.CheckConstraint(
                        condition=models.Q(
                            (
                                "status__in",
                                ["pending", "queued", "scheduled", "in_progress", "completed", "failed", "skipped"],
                            )
                        ),
                        name="contact_status_known",
                    ),
                ),
                migrations.AddIndex(
                    model_name="campaigncontact",
                    index=models.Index(fields=["batch", "created_at", "id"], name="contact_in_order"),
                ),
                migrations.AddIndex(
                    model_name="campaigncontact",
                    index=models.Index(fields=["phone_number"], name="contact_by_phone_number"),
                ),
                migrations.AddIndex(
                    model_name="campaigncontact",
                    index=models.Index(
                        condition=models.Q(("completed_at", None)),
                        fields=["batch", "completed_at", "created_at", "id"],
                        name="contact_not_over",
                    ),
                ),
                migrations.AddIndex(
                    model_name="campaigncontact",
                    index=models.Index(
                        models.Case(
                            models.When(last_attempt_at__isnull=False, outcome=None, then="batch"),
                            output_field=models.UUIDField(),
                        ),
                        name="contact_under_way_in",
                    ),
                ),
                migrations.AddIndex(
                    model_name="campaigncontact",
                    index=models.Index(
                        models.Case(
                            models.When(last_attempt_at__isnull=False, then="batch"), output_field=models.UUIDField()
                        ),
                        models.F("last_attempt_at"),
                        name="contact_attempted_in",
                    ),
                ),
            ],
        ),
        add_missing(),
    ]
