"""PURE: which models a pattern needs beside its chain, and how often each of them may be called.

The patterns keep to these bounds: what is held for a call is worked out from them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from routing.types import ModelSpec, RuleSpec, Source
from ziggie.errors import InvalidInput
from ziggie.values import Value

PATTERNS = ("single", "verify", "cascade", "ensemble", "debate", "critique")
DEFAULT_MEMBERS = 3
MAX_MEMBERS = 8
DEFAULT_ROUNDS = 2
MAX_ROUNDS = 5
DEFAULT_MIN_CONFIDENCE = 85.0  # of a draft, where the rule names none
# What is wrapped around an answer that is sent back or on: instructions, numbering, the problem found.
WRAPPING_TOKENS = 4_096


class Calls(Value):
    """How often a model may be called: `first` times with the request alone, `again` times with `echoes`
    answers as long as its own sent back. `sees_others`: with what the pattern's other models wrote, too."""

    first: int
    again: int = 0
    echoes: int = 1
    sees_others: bool = False

    @property
    def total(self) -> int:
        return self.first + self.again

    def times(self, answers: int) -> "Calls":
        """The calls of so many answers that are independent of each other."""
        return Calls(self.first * answers, self.again * answers, self.echoes, self.sees_others)

    def at_most(self, total: int) -> "Calls":
        """The dearest calls of these, at most so many of them."""
        again = min(self.again, total)
        return Calls(min(self.first, total - again), again, self.echoes, self.sees_others)


def resolve(rule: RuleSpec, pattern: str, chain: Sequence[ModelSpec]) -> dict[str, Any]:
    """The pattern's roles by name, model slugs as values; what the rule leaves open comes from its chain.

    Raises InvalidInput for a pattern that does not exist.
    """
    if pattern == "single":
        return {}
    stated = {name: value for name, value in rule.roles.items() if value is not None}
    slugs = [model.slug for model in chain]
    first = slugs[:1]
    match pattern:
        case "verify":
            return _one("verifier", stated, slugs[1:2] or first)
        case "cascade":
            cheap = [model.slug for model in chain if model.source is not Source.CLOUD]
            return _one("draft", stated, cheap[:1] or slugs[-1:]) | _one("refiner", stated, first)
        case "ensemble" | "debate":
            roles: dict[str, Any] = {
                "members": tuple(stated.get("members") or slugs[:DEFAULT_MEMBERS])[:MAX_MEMBERS],
                "vote": bool(stated.get("vote", False)),
            }
            if not roles["vote"]:
                roles |= _one("synthesiser", stated, first)
            return roles | ({"rounds": _rounds(stated)} if pattern == "debate" else {})
        case "critique":
            return {"rounds": _rounds(stated)}
    raise InvalidInput(f"no such pattern: {pattern[:40]!r}; there are {', '.join(PATTERNS)}")


def parts(roles: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(role, model slug) of every model that the pattern needs beside the chain."""
    if not roles:
        return []
    single = [(role, roles[role]) for role in ("draft", "refiner", "verifier") if role in roles]
    members = [("member", slug) for slug in roles.get("members", ())]
    synthesiser = [("synthesiser", roles["synthesiser"])] if "synthesiser" in roles else []
    return single + members + synthesiser


def part_calls(role: str, roles: Mapping[str, Any]) -> Calls:
    """A part is called once, a debater once a round, and may be asked once more for a usable answer.
    All but drafts and lone members see what the others wrote."""
    rounds = int(roles.get("rounds", 1)) if role == "member" else 1
    alone = role == "draft" or (role == "member" and "rounds" not in roles)
    return Calls(1, rounds, sees_others=not alone)


def chain_calls(source: Source, rule: RuleSpec, pattern: str, roles: Mapping[str, Any], *, repair: bool) -> Calls:
    """Tries, each with one repair, and what the pattern sends back to the model that answered."""
    tries = max(1, rule.options.local_tries) if source is Source.LOCAL else 1
    repairs = tries if repair else 0
    if pattern == "single":
        return Calls(tries, repairs)
    revisions = {"verify": 1, "critique": 2 * int(roles.get("rounds", 0))}.get(pattern, 0)
    # A revision sees the answer and what was said of it, which the same model may have written.
    return Calls(tries, repairs + revisions, echoes=2, sees_others=True)


def _one(role: str, stated: Mapping[str, Any], otherwise: list[str]) -> dict[str, Any]:
    slug = stated.get(role) or (otherwise[0] if otherwise else None)
    return {role: slug} if slug else {}


def _rounds(stated: Mapping[str, Any]) -> int:
    return max(1, min(int(stated.get("rounds", DEFAULT_ROUNDS)), MAX_ROUNDS))
