"""PURE: one alternative of an older condition -> the conditions of a rule."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from routing.importing.conditions import Comparison, Term
from routing.models import AGENT_LEVELS, CREATOR_TIERS, STRATEGIES

STEP = 0.0001  # fractions have four decimals, so "at least x" is "above x - 0.0001"
DEMANDS = ("requires_", "require_", "needs_", "need_")
HINTS = ("has_", "is_")
# What the older files call capabilities that have another name here.
CAPABILITIES = {
    "moe": "mixture_of_experts",
    "trillion_params": "trillion_parameters",
    "trillion_parameter": "trillion_parameters",
    "trillion_parameter_model": "trillion_parameters",
    "trillion_parameter_task": "trillion_parameters",
    "trillion_parameter_tasks": "trillion_parameters",
    "image": "vision",
    "images": "vision",
    "tool_use": "tools",
    "function_calling": "tools",
}
CONTEXT_NAMES = ("context", "context_length", "context_size", "context_tokens", "context_window")
TOKEN_NAMES = ("tokens", "token_count", "input_tokens", "prompt_tokens")
MEASURES = {
    "complexity": ("complexity", "complexity_score", "task_complexity"),
    "context_tokens": CONTEXT_NAMES + TOKEN_NAMES,
    "budget_left": ("budget_left", "budget_remaining", "remaining_budget", "budget"),
    "local_queue": ("local_queue", "queue", "queue_length", "queue_size", "queue_depth", "local_queue_length"),
}
CHOICES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "agent_levels": (("level", "agent_level", "tier_level"), AGENT_LEVELS),
    "creator_tiers": (("tier", "creator_tier", "priority", "creator_priority"), CREATOR_TIERS),
    "strategies": (("strategy", "llm_strategy"), STRATEGIES),
    "task_kinds": (("task", "task_type", "task_kind", "task_name", "type", "task.type", "kind"), ()),
    "capabilities": (("capability", "requires"), ()),
}
MEASURE_OF = {name: measure for measure, names in MEASURES.items() for name in names}
CHOICE_OF = {name: choice for choice, (names, _) in CHOICES.items() for name in names}


class NotMapped(ValueError):
    """No rule can say this; says why."""


def capability_of(name: str, known: Iterable[str]) -> str | None:
    """The capability that a name of the older files means, or None if it means none."""
    plain = name.lower()
    demanded = plain.startswith(DEMANDS) or plain.endswith("_required")
    for prefix in (*DEMANDS, *HINTS):
        plain = plain.removeprefix(prefix)
    plain = plain.removesuffix("_required")
    plain = CAPABILITIES.get(plain, plain)
    return plain if demanded or plain in known else None


@dataclass(slots=True)
class Conditions:
    """A `when` in the making, and in plain words what each part of it stands for.

    `taken` are the conditions of the rules before it. What one of them takes for itself, whatever else is said, never
    comes here: so a part that excludes exactly that needs no condition.
    """

    known_capabilities: frozenset[str]
    taken: Sequence[Mapping[str, Any]] = ()
    when: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def add(self, term: Term) -> None:
        """Raises NotMapped."""
        if isinstance(term, Comparison):
            self._compare(term)
        else:
            key, value = self._meaning(term.name)
            if term.holds:
                self._only(key, value, term.name)
            else:
                self._exclude(key, value, f"not {term.name}", f"a rule cannot ask that {term.name!r} does not hold")

    def _meaning(self, name: str) -> tuple[str, str]:
        """What a bare name asks for."""
        if name.upper() in AGENT_LEVELS:
            return "agent_levels", name.upper()
        capability = capability_of(name, self.known_capabilities)
        return ("task_kinds", name) if capability is None else ("capabilities", capability)

    def _compare(self, term: Comparison) -> None:
        name = term.name.lower()
        if name in MEASURE_OF:
            self._bound(MEASURE_OF[name], term)
        elif name in CHOICE_OF:
            self._choose(CHOICE_OF[name], term)
        else:
            raise NotMapped(f"nothing here is called {term.name!r}")

    def _choose(self, choice: str, term: Comparison) -> None:
        value = str(term.value)
        allowed = {known.lower(): known for known in CHOICES[choice][1]}
        if allowed and value.lower() not in allowed:
            raise NotMapped(f"{term.name} is one of {', '.join(allowed.values())}, not {value!r}")
        value, said = allowed.get(value.lower(), value), f"{term.name} {term.operator} {value}"
        if term.operator == "==":
            self._only(choice, value, said)
        elif term.operator == "!=":
            self._exclude(choice, value, said, f"a rule can ask what {term.name!r} is, not !=")
        else:
            raise NotMapped(f"a rule can ask what {term.name!r} is, not {term.operator}")

    def _only(self, key: str, value: str, said: str) -> None:
        value = _word(value)
        if key == "capabilities" and self.when.get(key, [value]) != [value]:
            other = self.when[key][0]
            taken = next((each for each in (other, value) if self._is_taken(key, each)), None)
            if taken is not None:
                raise NotMapped(f"is never reached: an earlier rule takes all with {key} {taken}")
            raise NotMapped(f"a rule cannot ask for {other!r} and {value!r} at once")
        if value not in self.when.get(key, [value]):
            raise NotMapped(f"nothing is {self.when[key][0]!r} and {value!r} at once")
        self.when[key] = [value]
        self.said.append(f"{said} -> {key} {value}")

    def _is_taken(self, key: str, value: str) -> bool:
        return any(list(when) == [key] and value in when[key] for when in self.taken)

    def _exclude(self, key: str, value: str, said: str, why_not: str) -> None:
        """Raises NotMapped with `why_not` if no rule can say it."""
        value = _word(value)
        if self._is_taken(key, value):
            self.said.append(f"{said} -> an earlier rule takes all with {key} {value}")
            return
        # Every request has a strategy, the installation's if it states none; other things may be stated or not.
        others = self.when.get(key) or (list(STRATEGIES) if key == "strategies" else [])
        if not others or key == "capabilities":  # of which a request may have several
            raise NotMapped(why_not)
        left = [other for other in others if other != value]
        if not left:
            raise NotMapped(f"nothing is {value!r} and is not")
        self.when[key] = left
        self.said.append(f"{said} -> {key} {', '.join(left)}")

    def _bound(self, measure: str, term: Comparison) -> None:
        if isinstance(term.value, str):
            raise NotMapped(f"{term.name} is a number, and {term.value!r} is none")
        bounds = _fraction_bounds(term) if measure in {"complexity", "budget_left"} else _count_bounds(term)
        if measure == "local_queue" and "at_most" in bounds:
            self._shorter_queue(term, bounds.pop("at_most"))
            if not bounds:
                return
        mine = self.when.setdefault(measure, {})
        for side, tightest in (("above", max), ("at_most", min)):
            if side in bounds:
                mine[side] = _tightest(tightest, mine.get(side), bounds[side])
        if mine.get("above", -1) >= mine.get("at_most", float("inf")):
            raise NotMapped(f"the bounds of {term.name} exclude each other")
        self.said.append(f"{term.name} {term.operator} {term.value:g} -> {measure} {mine}")

    def _shorter_queue(self, term: Comparison, at_most: float) -> None:
        """Rules cannot ask for it; what an earlier one takes leaves no longer queue."""
        longer = [when["local_queue"].get("above") for when in self.taken if list(when) == ["local_queue"]]
        if not any(above is not None and above <= at_most for above in longer):
            raise NotMapped("a rule can only ask for a local queue above a length")
        self.said.append(f"{term.name} {term.operator} {term.value:g} -> an earlier rule takes all with a longer queue")


def _word(value: str) -> str:
    """ "code review" is one word in a hint."""
    return "_".join(value.split())


def _tightest(choose: Callable[..., Any], old: float | None, new: float) -> float:
    return new if old is None else choose(old, new)


def _fraction_bounds(term: Comparison) -> dict[str, float]:
    value = float(term.value)
    if not 0 <= value <= 1:
        raise NotMapped(f"{term.name} is a fraction from 0 to 1, and {value:g} is none")
    below = round(max(value - STEP, 0.0), 4)
    value = round(value, 4)
    bounds = {
        ">": {"above": value},
        ">=": {"above": below} if value > 0 else {},
        "<": {"at_most": below},
        "<=": {"at_most": value},
        "==": {"above": below, "at_most": value},
    }
    if term.operator not in bounds:
        raise NotMapped(f"a rule cannot ask that {term.name} is not {value:g}")
    return bounds[term.operator]


def _count_bounds(term: Comparison) -> dict[str, float]:
    value = float(term.value)
    if value != int(value) or not 0 <= value <= 2_147_483_647:
        raise NotMapped(f"{term.name} is a whole number, and {value:g} is none")
    count = int(value)
    bounds: dict[str, dict[str, float]] = {
        ">": {"above": count},
        ">=": {"above": count - 1} if count else {},
        "<": {"at_most": max(count - 1, 0)},
        "<=": {"at_most": count},
        "==": {"above": count - 1, "at_most": count} if count else {"at_most": 0},
    }
    if term.operator not in bounds:
        raise NotMapped(f"a rule cannot ask that {term.name} is not {count}")
    return bounds[term.operator]
