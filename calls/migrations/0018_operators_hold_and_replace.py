"""Permissions to hold an agency and to replace a batch in the admin. The group "Call operators" gets them."""

from django.db import migrations

GROUP = "Call operators"
PERMISSIONS = [
    ("agency", "view_agency", "Can view agency"),
    ("agency", "hold_agency", "Can hold and release an agency"),
    ("callbatch", "replace_callbatch", "Can replace call batch"),
]


def permit_operators(apps, schema_editor):
    """Create the permissions and give them to the group, unless staff have deleted it."""
    group = apps.get_model("auth", "Group").objects.filter(name=GROUP).first()
    for model, codename, name in PERMISSIONS:
        content_type, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
            app_label="calls", model=model
        )
        permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
            content_type=content_type, codename=codename, defaults={"name": name}
        )
        if group is not None:
            group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [("calls", "0017_refuse_claims_during_holds")]

    operations = [
        migrations.AlterModelOptions(
            name="agency",
            options={
                "permissions": [
                    ("set_ultravox_key", "Can set the Ultravox key of an agency"),
                    ("hold_agency", "Can hold and release an agency"),
                ],
                "verbose_name_plural": "agencies",
            },
        ),
        migrations.AlterModelOptions(
            name="callbatch",
            options={
                "permissions": [
                    ("cancel_callbatch", "Can cancel call batch"),
                    ("pause_callbatch", "Can pause call batch"),
                    ("resume_callbatch", "Can resume call batch"),
                    ("replace_callbatch", "Can replace call batch"),
                ],
                "verbose_name_plural": "call batches",
            },
        ),
        # Undoing this migration keeps the permissions, which users may have.
        migrations.RunPython(permit_operators, migrations.RunPython.noop),
    ]
