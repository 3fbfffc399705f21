from django.apps import AppConfig


class KnowledgeConfig(AppConfig):
    name = "knowledge"

    def ready(self) -> None:
        from knowledge.videos import owner_of
        from knowledge.waiting import waiting
        from routing.batches import waiting_work
        from routing.reporting import owners

        owners.register(owner_of)
        waiting_work.register(waiting)
