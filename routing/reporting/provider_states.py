"""How each provider is just now, for people: its circuits, slots, daily count, loaded models, last check. Read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db import connection
from django.utils import timezone

from routing.configuration import snapshot
from routing.models import Circuit, ProviderDay
from routing.reporting import usage
from routing.types import ProviderSpec, SettingsSpec, Source
from routing.world import slots

# What the state of a circuit means for the next call.
WORDS = {"closed": "up", "open": "down", "half_open": "trying"}
DUE = "trying"  # open, but its time is over: the next call tries it


@dataclass(frozen=True, slots=True)
class CircuitState:
    """A circuit that is not closed. `model` is "" for the whole provider; it is not called before `until`."""

    model: str
    state: str
    reason: str
    failures: int
    until: datetime | None
    seconds_left: int


@dataclass(frozen=True, slots=True)
class ProviderState:
    """`state` is up, down, trying, no key, off or not checked. Limits are None where there is none."""

    slug: str
    kind: str
    location: str
    state: str
    reason: str
    circuits: Sequence[CircuitState]
    running: int
    waiting: int
    max_concurrency: int | None
    requests_today: int
    max_requests_per_day: int | None
    timeout_seconds: float
    loaded: Sequence[str]
    checked_at: datetime | None

    @property
    def models(self) -> list[CircuitState]:
        """Those of its models that are not called for now."""
        return [circuit for circuit in self.circuits if circuit.model]


def provider_states() -> list[ProviderState]:
    """Every enabled provider that has a model, by slug."""
    configuration = snapshot.current()
    specs = {model.provider.slug: model.provider for model in configuration.models.values() if model.provider.enabled}
    usable = {"", *(model.slug for model in configuration.models.values() if model.enabled)}
    circuits: dict[int, list[Circuit]] = {}
    for circuit in Circuit.objects.filter(model_slug__in=usable).order_by("model_slug"):
        circuits.setdefault(circuit.provider_id, []).append(circuit)
    counts, today = _slots(), _today()
    return [
        _state(spec, circuits.get(spec.id, []), configuration.settings, counts.get(spec.id, (0, 0)), today)
        for _, spec in sorted(specs.items())
    ]


def _slots() -> dict[int, tuple[int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(slots.COUNTS, slots.COUNTS_PARAMETERS)
        return {provider: (running, waiting) for provider, running, waiting in cursor.fetchall()}


def _today() -> dict[int, int]:
    day = timezone.localtime(timezone=ZoneInfo(usage.time_zone())).date()
    return dict(ProviderDay.objects.filter(day=day).values_list("provider_id", "requests"))


def _state(
    spec: ProviderSpec,
    circuits: Sequence[Circuit],
    settings: SettingsSpec,
    counts: tuple[int, int],
    today: dict[int, int],
) -> ProviderState:
    whole = next((circuit for circuit in circuits if not circuit.model_slug), None)
    state, reason = state_of(spec, whole, settings)
    return ProviderState(
        slug=spec.slug,
        kind=spec.kind,
        location=str(spec.location),
        state=state,
        reason=reason,
        circuits=[_circuit(circuit) for circuit in circuits if circuit.state != "closed"],
        running=counts[0],
        waiting=counts[1],
        max_concurrency=spec.max_concurrency,
        requests_today=today.get(spec.id, 0),
        max_requests_per_day=spec.max_requests_per_day,
        timeout_seconds=spec.timeout_seconds,
        loaded=whole.loaded_models if whole else (),
        checked_at=whole.checked_at if whole else None,
    )


def state_of(spec: ProviderSpec, circuit: Circuit | None, settings: SettingsSpec) -> tuple[str, str]:
    """A provider's state in a word, and why. `circuit` is that of the whole provider."""
    if spec.location == Source.OFFLINE:
        return "up", "built in"
    if spec.switch and not getattr(settings, f"{spec.switch}_enabled"):
        return "off", "switched off in the settings"
    if spec.needs_api_key and not spec.api_key:
        return "no key", spec.api_key_problem
    if circuit is None:
        return "not checked", ""
    return _word(circuit), circuit.reason


def _word(circuit: Circuit) -> str:
    over = circuit.state == "open" and (circuit.open_until is None or circuit.open_until <= timezone.now())
    return DUE if over else WORDS[circuit.state]


def _circuit(circuit: Circuit) -> CircuitState:
    until = circuit.open_until if circuit.state == "open" else circuit.probe_until
    left = (until - timezone.now()).total_seconds() if until else 0.0
    return CircuitState(
        model=circuit.model_slug,
        state=_word(circuit),
        reason=circuit.reason,
        failures=circuit.failures,
        until=until,
        seconds_left=max(0, round(left)),
    )
