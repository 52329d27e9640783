from django.apps import AppConfig
from django.db.models.signals import pre_migrate


class CallsConfig(AppConfig):
    name = "calls"
    verbose_name = "Calls"

    def ready(self) -> None:
        from calls import checks  # noqa: F401 - registers itself
        from calls.database.adoption.undo import refuse_to_drop_tables

        pre_migrate.connect(refuse_to_drop_tables, sender=self)
