from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"

    def ready(self) -> None:
        from agents.runs import owner_of
        from routing import owners

        owners.register(owner_of)
