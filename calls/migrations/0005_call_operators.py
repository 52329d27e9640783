"""Permissions to cancel, pause and resume a batch in the admin, and the group "Call operators" that has them."""

from django.db import migrations

GROUP = "Call operators"
PERMISSIONS = [
    ("callbatch", "view_callbatch", "Can view call batch"),
    ("callbatch", "cancel_callbatch", "Can cancel call batch"),
    ("callbatch", "pause_callbatch", "Can pause call batch"),
    ("callbatch", "resume_callbatch", "Can resume call batch"),
    ("campaigncontact", "view_campaigncontact", "Can view campaign contact"),
]


def create_group(apps, schema_editor):
    """
    Create the group and its permissions.

    Django creates permissions only after all migrations have run, and then finds these and keeps them.
    """
    group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=GROUP)
    for model, codename, name in PERMISSIONS:
        content_type, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
            app_label="calls", model=model
        )
        permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
            content_type=content_type, codename=codename, defaults={"name": name}
        )
        group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [("calls", "0004_row_level_security")]

    operations = [
        migrations.AlterModelOptions(
            name="callbatch",
            options={
                "permissions": [
                    ("cancel_callbatch", "Can cancel call batch"),
                    ("pause_callbatch", "Can pause call batch"),
                    ("resume_callbatch", "Can resume call batch"),
                ],
                "verbose_name_plural": "call batches",
            },
        ),
        # Undoing this migration keeps the group, because it may have members.
        migrations.RunPython(create_group, migrations.RunPython.noop),
    ]
