"""Adds the catalogue's rows that are missing."""

from typing import Any

from routing.seeding import seed
from ziggie.commands import ZiggieCommand


class Command(ZiggieCommand):
    help = "Add the providers, models, prices, rules, budget and settings of the catalogue that are missing."
    offers_json = True

    def handle(self, *args: Any, **options: Any) -> None:
        added = seed()
        names = ", ".join(f"{count} {name}" for name, count in added.items() if count)
        self.emit({"added": added}, f"Added {names}." if names else "Nothing was missing.")
