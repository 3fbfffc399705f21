"""A routing file looked at before it is applied: it is applied, read and taken back."""

from dataclasses import dataclass

from django.db import transaction

from routing.configuration import policies, routing_file, rows
from routing.configuration.routing_file import Changes
from routing.evidence import preview
from routing.models import ConfigEpoch, RoutingPolicy
from ziggie.errors import Conflict


@dataclass(frozen=True, slots=True)
class Checked:
    """What applying would write and warn of. `diff` is between the policy that is live and the one that would be;
    `policy` is whether the file speaks of policies at all; `seen` stands for the configuration it was checked on."""

    changes: Changes
    diff: list[tuple[str, str]]
    policy: bool
    seen: str


def check(text: str, *, name: str) -> Checked:
    """Raises InvalidInput with every mistake and its place. Nothing is changed."""
    with transaction.atomic():
        rows.lock_configuration()
        seen = _seen()
        before = _live()
        changes = routing_file.apply(text, by="check", name=name)
        after = RoutingPolicy.objects.filter(state="live").first()
        diff = policies.difference(before, after) if after and after != before else ""
        transaction.set_rollback(True)
    speaks = any(line.startswith("policies ") for line in changes.written)
    return Checked(changes, preview.as_lines(diff), speaks, seen)


def apply_seen(text: str, *, by: str, name: str, seen: str) -> Changes:
    """Applies what was checked. Raises InvalidInput; Conflict if the configuration has changed since."""
    with transaction.atomic():
        rows.lock_configuration()
        if seen != _seen():
            raise Conflict("the configuration has changed since this file was checked: check it again")
        return routing_file.apply(text, by=by, name=name)


def _seen() -> str:
    return str(ConfigEpoch.objects.values_list("epoch", flat=True).first() or 0)


def _live() -> RoutingPolicy | None:
    return RoutingPolicy.objects.filter(state="live").first()
