"""Keep Django's own tables from Supabase's Data API."""

from django.db import migrations

# The Data API serves every table of the public schema that row level security does not close. None of these has a
# policy, so nobody but their owner gets in: not even to the password hashes in auth_user.
TABLES = [
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "auth_user",
    "auth_user_groups",
    "auth_user_user_permissions",
    "django_admin_log",
    "django_content_type",
    "django_migrations",
    "django_session",
    "pghistory_context",
]


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0003_guards_and_history"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("pghistory", "0007_auto_20250421_0444"),
        ("sessions", "0001_initial"),
    ]

    operations = [
        # The way back leaves the tables, and so leaves them closed.
        migrations.RunSQL(
            "\n".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in TABLES),
            migrations.RunSQL.noop,
        ),
    ]
