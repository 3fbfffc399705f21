from django.apps import AppConfig


class ZiggieConfig(AppConfig):
    name = "ziggie"
    verbose_name = "Access"

    def ready(self) -> None:
        from ziggie import checks  # noqa: F401  # registers the system checks
