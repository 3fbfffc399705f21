"""Adds the rows that a new installation starts with."""

from typing import Any

from agents.seeding import seed as seed_agents
from knowledge.seeding import seed as seed_knowledge
from monitoring import schedules
from routing.configuration.seeding import seed as seed_routing
from ziggie.commands import ZiggieCommand


class Command(ZiggieCommand):
    help = "Add the rows of the catalogue that are missing; rows that staff changed are left alone."
    offers_json = True

    def handle(self, *args: Any, **options: Any) -> None:
        added = seed_routing() | seed_knowledge() | seed_agents()
        schedules.ensure()
        names = ", ".join(f"{count} {name}" for name, count in added.items() if count)
        self.emit({"added": added}, f"Added {names}." if names else "Nothing was missing.")
