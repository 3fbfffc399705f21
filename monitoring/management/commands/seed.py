"""Adds the rows that a new installation starts with."""

from typing import Any

import agents.seeding
import knowledge.seeding
import routing.seeding
from monitoring import schedules
from ziggie.commands import ZiggieCommand


class Command(ZiggieCommand):
    help = "Add the rows of the catalogue that are missing; rows that staff changed are left alone."
    offers_json = True

    def handle(self, *args: Any, **options: Any) -> None:
        added = routing.seeding.seed() | knowledge.seeding.seed() | agents.seeding.seed()
        schedules.ensure()
        names = ", ".join(f"{count} {name}" for name, count in added.items() if count)
        self.emit({"added": added}, f"Added {names}." if names else "Nothing was missing.")
