"""Who may cancel, pause and resume a batch in the admin: permissions of their own, and a group that has them."""

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
    """Permissions are made after all migrations; these are needed now, and then found as they are."""
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
        # Going back leaves the group alone: people may be in it.
        migrations.RunPython(create_group, migrations.RunPython.noop),
    ]
