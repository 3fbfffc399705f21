from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"

    def ready(self) -> None:
        from agents.runs import owner_of
        from agents.waiting import waiting
        from routing.batches import waiting_work
        from routing.reporting import owners

        owners.register(owner_of)
        waiting_work.register(waiting)
