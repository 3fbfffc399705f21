from django.apps import AppConfig


class KnowledgeConfig(AppConfig):
    name = "knowledge"

    def ready(self) -> None:
        from knowledge.videos import owner_of
        from routing import owners

        owners.register(owner_of)
