"""`manage.py apikey create NAME`: a key for a program. Its secret is printed once and never stored."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from routing.models import Budget
from routing.pricing import microusd
from ziggie.commands import ZiggieCommand
from ziggie.errors import InvalidInput
from ziggie.models import SCOPES, create_api_key


class Command(ZiggieCommand):
    help = "Creates an API key and prints it once."
    offers_json = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="Creates an API key.")
        create.add_argument("name")
        create.add_argument("--scopes", default="gateway", help=f"some of {','.join(SCOPES)}; default: gateway")
        create.add_argument("--budget-usd", default="", metavar="X", help="a hard monthly budget for this key")

    def handle(self, **options: Any) -> None:
        limit = _limit(options["budget_usd"])
        scopes = [scope.strip() for scope in options["scopes"].split(",") if scope.strip()]
        try:
            with transaction.atomic():
                key, secret = create_api_key(options["name"], scopes=scopes)
                if limit is not None:
                    Budget.objects.create(
                        slug=f"key-{key.pk.hex[-12:]}",
                        scope={"api_keys": [str(key.pk)]},
                        period="month",
                        limit_microusd=limit,
                        hard=True,
                        on_exhausted="deny",
                    )
        except ValidationError as error:
            raise InvalidInput("; ".join(error.messages)) from error
        document = {"id": str(key.pk), "name": key.name, "scopes": key.scopes, "key": secret}
        self.emit(document, f"{secret}\nThis is the only time that the key of {key.name!r} is shown.")


def _limit(budget_usd: str) -> int | None:
    """The budget in micro-dollars; None if none was asked for."""
    if not budget_usd:
        return None
    try:
        limit = microusd(budget_usd)
    except ValueError as error:
        raise InvalidInput(f"--budget-usd: {error}") from error
    if limit < 0:
        raise InvalidInput("--budget-usd: must not be negative")
    return limit
