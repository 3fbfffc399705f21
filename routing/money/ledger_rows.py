"""The rows that the ledger writes: receipts and usage records, as plain columns.

Field names are column names. Texts from outside are made to fit here, never in the hot path: only a row that
the database refused is repaired.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any
from uuid import UUID

from django.db import models
from msgspec import Struct, field
from msgspec.json import decode, encode
from msgspec.structs import asdict

from routing.models import RoutedCall, UsageRecord
from routing.types import Attempt, Features
from ziggie.ids import uuid7
from ziggie.values import Value

MAX_INTEGER = 2**31 - 1
TOKEN_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")


def _now() -> datetime:
    return datetime.now(UTC)


class CallRow(Struct):
    """A receipt: one RoutedCall. `outcome` is "ok" or an error's code."""

    id: UUID
    rule: str
    outcome: str
    created_at: datetime = field(default_factory=_now)
    policy: str = ""
    policy_version: int = 0
    pattern: str = "single"
    features: Features | Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, Any]] = ()
    request: Struct | Mapping[str, Any] = field(default_factory=dict)
    attempts: Sequence[Attempt] = ()
    error: str = ""
    model: str = ""
    provider: str = ""
    source: str = ""
    cache: str = "off"
    reserved_microusd: int = 0
    cost_microusd: int = 0
    saved_microusd: int = 0
    duration_ms: int = 0
    task_kind: str = ""
    agent_level: str = ""
    creator: str = ""
    run_id: str = ""
    api_key_id: str = ""
    bodies: Mapping[str, Any] | None = None
    findings: Mapping[str, Any] | None = None
    paid_by: dict[str, int] = field(default_factory=dict)  # filled by the ledger


class UsageRow(Struct):
    """One attempt: one UsageRecord."""

    attempt: int  # from 1
    model: str
    provider: str
    source: str
    outcome: str
    created_at: datetime = field(default_factory=_now)
    role: str = "answer"
    error: str = ""
    status: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: Collection[str] = ()
    price_id: int | None = None
    cost_microusd: int = 0
    baseline_microusd: int = 0
    energy_microusd: int = 0
    saved_microusd: int = 0
    energy_wh: float = 0.0
    duration_ms: int = 0
    first_token_ms: int | None = None
    # which record it is, and what it shares with its call: filled by the ledger
    id: UUID | None = None
    call_id: UUID | None = None
    rule: str = ""
    task_kind: str = ""
    agent_level: str = ""
    creator: str = ""
    run_id: str = ""
    api_key_id: str = ""

    def belong_to(self, call: CallRow) -> None:
        """Fills all its columns."""
        self.id = self.id or uuid7()
        self.call_id = call.id
        self.rule, self.task_kind, self.agent_level = call.rule, call.task_kind, call.agent_level
        self.creator, self.run_id, self.api_key_id = call.creator, call.run_id, call.api_key_id


class Written(Value):
    """A receipt and its records as JSON, the records with commas between them. What waits to be settled is some hundred
    calls, whose objects would take ten times the memory, and keep it from those that come after them."""

    call: bytes
    records: bytes
    created_at: datetime

    @classmethod
    def of(cls, call: CallRow, records: Sequence[UsageRow]) -> "Written":
        for record in records:
            record.belong_to(call)
        try:
            return cls(_json(call), b",".join(map(_json, records)), call.created_at)
        except UnicodeEncodeError:  # lone surrogates
            plain = [_json(scrubbed(row)) for row in (call, *records)]
            return cls(plain[0], b",".join(plain[1:]), call.created_at)

    def fitting(self) -> "Written":
        """The same with NUL gone, texts cut and numbers kept within their columns."""
        call = _fitted(decode(self.call), RoutedCall)
        records = [_json(_fitted(record, UsageRecord)) for record in decode(b"[%b]" % self.records)]
        return Written(_json(call), b",".join(records), self.created_at)


_json = partial(encode, order="deterministic")


def _fitted(row: Mapping[str, Any], model: type[models.Model]) -> dict[str, Any]:
    limits = _limits(model)
    return {name: _fit(value, limits.get(name)) for name, value in row.items()}


def abandoned_call(
    call_id: UUID, context: Mapping[str, Any], *, cost_microusd: int, created_at: datetime, now: datetime
) -> tuple[CallRow, list[UsageRow]]:
    """The receipt of a call that nobody settled, from the columns in `context`; all figures are estimates."""
    fixed = {"id", "outcome", "error", "cost_microusd", "created_at", "duration_ms", "estimated"}
    fixed |= {"baseline_microusd", "energy_microusd", "saved_microusd"}  # it answered nobody: what it cost is lost
    known = {name: value for name, value in context.items() if name not in fixed}
    call_columns = set(CallRow.__struct_fields__) & known.keys()
    record_columns = set(UsageRow.__struct_fields__) & known.keys()
    duration_ms = min(int((now - created_at).total_seconds() * 1000), MAX_INTEGER)
    error = "the process that served this call ended before it could settle it"
    call = CallRow(
        **{"rule": "", **{name: known[name] for name in call_columns}},
        id=call_id,
        outcome="abandoned",
        error=error,
        cost_microusd=cost_microusd,
        saved_microusd=-cost_microusd,
        created_at=created_at,
        duration_ms=duration_ms,
    )
    record = UsageRow(
        **{"attempt": 1, "model": "", "provider": "", "source": "", **{name: known[name] for name in record_columns}},
        outcome="cut",
        error=error,
        cost_microusd=cost_microusd,
        saved_microusd=-cost_microusd,
        created_at=created_at,
        duration_ms=duration_ms,
        estimated=[*(name for name in TOKEN_COUNTS if known.get(name) is not None), "cost"],
    )
    return call, [record]


@cache
def _limits(model: type[models.Model]) -> dict[str, int]:
    """The longest text of each text column, the greatest number of each integer column."""
    limits = {}
    for column in model._meta.concrete_fields:
        if isinstance(column, models.PositiveSmallIntegerField):
            limits[column.attname] = 2**15 - 1
        elif isinstance(column, models.PositiveIntegerField):
            limits[column.attname] = MAX_INTEGER
        elif isinstance(column, models.CharField) and column.max_length:
            limits[column.attname] = column.max_length
    return limits


def _fit(value: Any, limit: int | None) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if limit is None else min(max(value, 0), limit)
    fitted = scrubbed(value)
    return fitted[:limit] if isinstance(fitted, str) else fitted


def scrubbed(value: Any) -> Any:
    """The same JSON-like value, or Struct as one, without what PostgreSQL cannot store in text: NUL and lone
    surrogates."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, Struct):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {scrubbed(str(name)): scrubbed(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrubbed(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
