"""A permission to set an agency's Ultravox key in the admin."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("calls", "0011_call_order")]

    operations = [
        migrations.AlterModelOptions(
            name="agency",
            options={
                "permissions": [("set_ultravox_key", "Can set the Ultravox key of an agency")],
                "verbose_name_plural": "agencies",
            },
        ),
    ]
