"""Providers' statements beside our records: what matches, what one side alone has, and what nobody explains.

A statement is kept with who loaded it; it is compared with the rollups each time somebody looks. Days are UTC's, as in
providers' reports.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from routing.models import LanguageModel, Provider, Statement, StatementLine
from routing.planning import pricing
from routing.reporting.statement_files import MAX_BYTES, WHOLE, Export, read
from routing.reporting.statement_values import stripped
from ziggie.errors import Conflict, InvalidInput

__all__ = ["MAX_BYTES", "as_json", "as_text", "compare", "load"]

TOLERANCE_MICROUSD = 5_000  # exports are rounded to cents
OURS = """
SELECT (hour AT TIME ZONE 'UTC')::date, model, sum(input_tokens)::bigint, sum(output_tokens)::bigint,
       sum(cost_microusd)::bigint
FROM routing_usagerollup WHERE provider = %s AND hour >= %s AND hour < %s AND attempts > 0 GROUP BY 1, 2
"""


# --- loading --------------------------------------------------------------------------------------


def load(content: bytes, *, file_name: str, provider: str, by: str, replace: bool = False) -> Statement:
    """Reads an export and keeps it, whole or not at all. Raises InvalidInput for a file that cannot be read, and
    Conflict for one that is there already, unless it is to be replaced."""
    known = list(Provider.objects.order_by("slug").values_list("slug", flat=True))
    if provider not in known:
        raise InvalidInput(f"there is no provider {provider[:60]!r}; there are {', '.join(known) or 'none'}")
    export = read(content)
    digest = hashlib.sha256(content).hexdigest()
    with transaction.atomic():
        Provider.objects.select_for_update().get(slug=provider)  # the same file sent twice at once is loaded once
        before = Statement.objects.filter(provider=provider, digest=digest).first()
        if before is not None:
            if not replace:
                raise Conflict(
                    f"this file was loaded before, on {before.loaded_at:%Y-%m-%d %H:%M} UTC by {before.loaded_by}; "
                    "nothing was changed"
                )
            before.delete()
        statement = Statement.objects.create(
            provider=provider,
            file_name=file_name[-200:],
            digest=digest,
            form=export.form,
            first_day=min(export.days),
            last_day=max(export.days),
            file_rows=export.rows,
            loaded_by=by,
        )
        StatementLine.objects.bulk_create(_lines(statement, export))
    return statement


def _lines(statement: Statement, export: Export) -> Iterator[StatementLine]:
    """Its days and models. What is lost or won by rounding one of them goes to the next, so that all of them together
    are the file's own sum to the micro-dollar. Whole micro-dollars, such as none, stay what they are."""
    left = Decimal(0)
    for (day, model), figures in export.lines.items():
        told = figures.cost_usd
        cost = None if told is None else pricing.microusd(told)
        if told is not None and cost is not None and told != cost / pricing.MICRO:
            cost = pricing.microusd(told + left)
            left += told - cost / pricing.MICRO
        yield StatementLine(
            statement=statement,
            day=day,
            model=model,
            input_tokens=figures.input_tokens,
            output_tokens=figures.output_tokens,
            cost_microusd=cost,
        )


# --- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    input_tokens: int | None
    output_tokens: int | None
    cost_microusd: int | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One model on one day, or on all days of an export that tells them in one. Differences are theirs less ours, None
    where they do not tell."""

    day: date
    model: str
    theirs: Side | None
    ours: Side | None
    state: str  # matched, differs, only theirs, only ours

    def difference(self, name: str) -> int | None:
        if self.theirs is not None and getattr(self.theirs, name) is None:
            return None
        return int((getattr(self.theirs, name) if self.theirs else 0) - (getattr(self.ours, name) if self.ours else 0))


@dataclass(frozen=True, slots=True)
class Report:
    """`told` are the figures that the statement has. `unexplained` is the sum of all differences of each."""

    statement: Statement
    lines: list[Compared]
    told: list[str]

    def count(self, state: str) -> int:
        return sum(line.state == state for line in self.lines)

    def total(self, side: str, name: str) -> int:
        sides = (getattr(line, side) for line in self.lines)
        return sum(getattr(one, name) or 0 for one in sides if one is not None)

    def unexplained(self, name: str) -> int:
        return self.total("theirs", name) - self.total("ours", name)


def compare(statement: Statement) -> Report:
    """The statement's lines beside the rollups of the same days."""
    lines = list(statement.lines.all())
    names = _names_of(statement.provider)
    by_model, spans = any(line.model for line in lines), statement.form.endswith(WHOLE)
    theirs: dict[tuple[date, str], Side] = {}
    for line in lines:
        key = (line.day, names.get(stripped(line.model), line.model))
        theirs[key] = _added(theirs.get(key), Side(line.input_tokens, line.output_tokens, line.cost_microusd))
    ours: dict[tuple[date, str], Side] = {}
    for day, model, *sums in _our_rows(statement):
        key = (statement.first_day if spans else day, names.get(stripped(model), model) if by_model else "")
        ours[key] = _added(ours.get(key), Side(*sums))
    told = [name for name in Side.__dataclass_fields__ if any(getattr(line, name) is not None for line in lines)]
    keys = sorted(theirs.keys() | ours.keys())
    return Report(statement, [_compared(key, theirs.get(key), ours.get(key)) for key in keys], told)


def _names_of(provider: str) -> dict[str, str]:
    """Every name of a provider's models -> the slug that stands for them; equal wire names are one model."""
    names: dict[str, str] = {}
    for model in LanguageModel.objects.filter(provider__slug=provider).order_by("slug"):
        known = [stripped(name) for name in (model.name, model.slug, *model.aliases)]
        slug = names.get(known[0], model.slug)
        for name in known:
            names.setdefault(name, slug)
    return names


def _our_rows(statement: Statement) -> list[tuple[Any, ...]]:
    since = datetime.combine(statement.first_day, time.min, UTC)
    until = datetime.combine(statement.last_day, time.min, UTC) + timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(OURS, [statement.provider, since, until])
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _added(one: Side | None, other: Side) -> Side:
    if one is None:
        return other

    def both(name: str) -> int | None:
        known = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        return sum(known) if known else None

    return Side(*(both(name) for name in Side.__dataclass_fields__))


def _compared(key: tuple[date, str], theirs: Side | None, ours: Side | None) -> Compared:
    if theirs is None or ours is None:
        return Compared(*key, theirs, ours, "only ours" if theirs is None else "only theirs")
    line = Compared(*key, theirs, ours, "matched")
    tokens = [line.difference(name) for name in ("input_tokens", "output_tokens")]
    if any(tokens) or abs(line.difference("cost_microusd") or 0) > TOLERANCE_MICROUSD:
        return Compared(*key, theirs, ours, "differs")
    return line


# --- telling --------------------------------------------------------------------------------------

STATES = ("matched", "differs", "only theirs", "only ours")


def as_json(report: Report) -> dict[str, Any]:
    statement = report.statement
    return {
        "id": str(statement.pk),
        "provider": statement.provider,
        "form": statement.form,
        "from": statement.first_day,
        "to": statement.last_day,
        "rows": statement.file_rows,
        "loaded_by": statement.loaded_by,
        "loaded_at": statement.loaded_at,
        "counts": {state: report.count(state) for state in STATES},
        "theirs": {_name(name): _told(name, report.total("theirs", name)) for name in report.told},
        "ours": {_name(name): _told(name, report.total("ours", name)) for name in report.told},
        "unexplained": {_name(name): _told(name, report.unexplained(name)) for name in report.told},
        "lines": [_line_json(line, report.told) for line in report.lines],
    }


def _line_json(line: Compared, told: list[str]) -> dict[str, Any]:
    return {
        "day": line.day,
        "model": line.model,
        "state": line.state,
        "theirs": _side_json(line.theirs),
        "ours": _side_json(line.ours),
        "difference": {_name(name): _told(name, line.difference(name)) for name in told},
    }


def _side_json(side: Side | None) -> Mapping[str, Any] | None:
    if side is None:
        return None
    return {_name(name): _told(name, getattr(side, name)) for name in Side.__dataclass_fields__}


def _name(column: str) -> str:
    return column.replace("_microusd", "_usd")


def _told(name: str, value: int | None) -> Any:
    return pricing.usd(value) if value is not None and name.endswith("_microusd") else value


def as_text(report: Report) -> str:
    statement = report.statement
    lines = [
        f"{statement.form} of {statement.provider}, {statement.first_day} to {statement.last_day}: "
        f"{statement.file_rows} rows, loaded by {statement.loaded_by}.",
        ", ".join(f"{report.count(state)} {state}" for state in STATES) + ".",
    ]
    lines += [_line_text(line, report.told) for line in report.lines if line.state != "matched"]
    for name in report.told:
        sums = [_told(name, n) for n in (report.total("theirs", name), report.total("ours", name))]
        unexplained = _told(name, report.unexplained(name))
        lines.append(f"{_name(name)}: theirs {sums[0]}, ours {sums[1]}, unexplained {unexplained}")
    return "\n".join(lines)


def _line_text(line: Compared, told: list[str]) -> str:
    differences = ", ".join(
        f"{_name(name)} {_told(name, n)}" for name in told if (n := line.difference(name)) is not None
    )
    return f"  {line.day} {line.model or '(no model)'}: {line.state}, theirs less ours: {differences}"
