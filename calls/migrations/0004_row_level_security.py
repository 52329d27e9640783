"""Close the tables of Django, pghistory and procrastinate to Supabase's Data API."""

from django.db import migrations

# The Data API serves every table of the public schema that has no row level security. With row level security and
# without a policy only the owner can read a table: otherwise the password hashes in auth_user would be served too.
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
    "procrastinate_events",
    "procrastinate_jobs",
    "procrastinate_periodic_defers",
    "procrastinate_workers",
]


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0003_guards_history_and_own_tables"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("pghistory", "0007_auto_20250421_0444"),
        ("procrastinate", "0041_post_retry_failed_job"),
        ("sessions", "0001_initial"),
    ]

    operations = [
        # Undoing this migration leaves the tables in place, so they stay closed.
        migrations.RunSQL(
            "\n".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in TABLES),
            migrations.RunSQL.noop,
        ),
    ]
