from django.apps import AppConfig


class ZiggieConfig(AppConfig):
    name = "ziggie"
    verbose_name = "Access"
