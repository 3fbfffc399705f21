"""`manage.py apikey`: a key for a program, or a new secret for one. A secret is printed once and never stored."""

import re
from argparse import SUPPRESS, ArgumentParser
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.utils import timezone

from routing.models import Budget
from routing.money.ledger import MAX_MICROUSD
from routing.planning.pricing import MICRO, microusd
from ziggie.commands import ZiggieCommand
from ziggie.errors import InvalidInput, NotFound
from ziggie.models import SCOPES, ApiKey, create_api_key, rotate

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST_DAYS = 36_500


class Command(ZiggieCommand):
    help = "Creates an API key, or gives one a new secret, and prints it once."
    offers_json = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="Creates an API key.")
        create.add_argument("name")
        create.add_argument("--scopes", default="gateway", help=f"some of {','.join(SCOPES)}; default: gateway")
        create.add_argument("--budget-usd", default="", metavar="X", help="a hard monthly budget for this key")
        create.add_argument("--expires", default="", metavar="TIME", help="when it stops: 90d, 12h; default: never")
        renewed = actions.add_parser("rotate", help="Gives a key a new secret.")
        renewed.add_argument("name")
        renewed.add_argument(
            "--grace",
            default="24h",
            metavar="TIME",
            help="how long the old secret still works: 24h, 30m, 0; default: 24h",
        )
        for action in actions.choices.values():
            action.add_argument("--json", action="store_true", default=SUPPRESS, help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        try:
            key, secret, note = self._create(options) if options["action"] == "create" else self._rotate(options)
        except ValidationError as error:
            raise InvalidInput(_told(error)) from error
        document = {"id": str(key.pk), "name": key.name, "scopes": key.scopes, "key": secret}
        self.emit(document, f"{secret}\nThis is the only time that the key of {key.name!r} is shown.{note}")

    def _create(self, options: dict[str, Any]) -> tuple[ApiKey, str, str]:
        limit = _limit(options["budget_usd"])
        scopes = [scope.strip() for scope in options["scopes"].split(",") if scope.strip()]
        expires_at = _end(options["expires"]) if options["expires"] else None
        with transaction.atomic():
            key, secret = create_api_key(options["name"], scopes=scopes, expires_at=expires_at)
            if limit is not None:
                Budget.objects.create(
                    slug=f"key-{key.pk.hex[-12:]}",
                    scope={"api_keys": [str(key.pk)]},
                    period="month",
                    limit_microusd=limit,
                    hard=True,
                    on_exhausted="deny",
                )
        return key, secret, ""

    def _rotate(self, options: dict[str, Any]) -> tuple[ApiKey, str, str]:
        grace = _time(options["grace"], "--grace")
        key = ApiKey.objects.filter(name=options["name"]).first()
        if key is None:
            raise NotFound(f"there is no API key named {options['name']!r}")
        secret = rotate(key, grace=grace)
        until = f"works until {timezone.now() + grace:%Y-%m-%d %H:%M} UTC" if grace else "stopped working"
        return key, secret, f" The old one {until}."


def _told(error: ValidationError) -> str:
    """Each mistake with the field that it is about."""
    named = [
        message if field in message.lower() or field == NON_FIELD_ERRORS else f"{field}: {message}"
        for field, messages in getattr(error, "message_dict", {}).items()
        for message in messages
    ]
    return "; ".join(named or error.messages)


def _end(said: str) -> datetime:
    time = _time(said, "--expires")
    if not time:
        raise InvalidInput("--expires: a key that ends at once is of no use; without --expires it never ends")
    return timezone.now() + time


def _time(said: str, option: str) -> timedelta:
    """A number with its unit; 0 needs none."""
    found = re.fullmatch(r"([0-9]{1,8})([smhd])", said)
    if found is None and said != "0":
        raise InvalidInput(f"{option}: {said[:40]!r} is no time: a number with s, m, h or d, as in 24h")
    time = timedelta(**{UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if time > timedelta(days=LONGEST_DAYS):
        raise InvalidInput(f"{option}: must be at most {LONGEST_DAYS} days")
    return time


def _limit(budget_usd: str) -> int | None:
    """The budget in micro-dollars; None if none was asked for."""
    if not budget_usd:
        return None
    try:
        limit = microusd(budget_usd)
        is_whole = Decimal(budget_usd) * MICRO == limit
    except ValueError as error:
        raise InvalidInput(f"--budget-usd: {error}") from error
    if not is_whole:
        raise InvalidInput("--budget-usd: at most six decimal places, as in 0.000001")
    if not 0 <= limit <= MAX_MICROUSD:
        raise InvalidInput(f"--budget-usd: must be from 0 to {MAX_MICROUSD // 1_000_000}")
    return limit
