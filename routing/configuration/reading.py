"""PURE: plain data -> a Document, and every mistake of shape with its path.

What fits is kept, so that `validation.py` finds the mistakes of meaning in the same run.
"""

import copy
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from routing.configuration.shape import (
    MAX_BUDGETS,
    MAX_KEYS,
    MAX_MODELS,
    MAX_POLICIES,
    MAX_PROBLEMS,
    MAX_PROVIDERS,
    MAX_RULES,
    MAX_RULES_IN_ALL,
    BudgetEntry,
    Document,
    E,
    Entry,
    ModelEntry,
    Path,
    Placed,
    PolicyEntry,
    Problem,
    ProviderEntry,
    RolesEntry,
    RuleEntry,
    SettingsEntry,
)

SECTIONS: dict[str, tuple[type[Entry], int]] = {
    "providers": (ProviderEntry, MAX_PROVIDERS),
    "models": (ModelEntry, MAX_MODELS),
    "policies": (PolicyEntry, MAX_POLICIES),
    "budgets": (BudgetEntry, MAX_BUDGETS),
}
ROLE_NAMES = frozenset(RolesEntry.model_fields)
# What a damaged entry goes on with, so that the rest of it is looked at too: values that nothing refuses.
STAND_INS: dict[type[Entry], dict[str, Any]] = {
    ModelEntry: {"name": "?", "context_window": 100_000_000},
    BudgetEntry: {"limit_usd": "0"},
}
PLAIN_WORDS = {
    "missing": "is missing",
    "string_pattern_mismatch": "is no valid name here",
    "model_type": "should be a mapping",
    "dict_type": "should be a mapping",
    "list_type": "should be a list",
    "string_type": "should be a text",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
}


def read(data: Any) -> tuple[Document, list[Problem]]:
    """A document from plain data (what a YAML, JSON or TOML reader gives), and every mistake of shape."""
    if not isinstance(data, dict):
        return Document(), [Problem((), "should be a mapping with providers, models, policies, budgets, settings")]
    problems = [
        Problem((str(key),), f"unknown section; known are {', '.join([*SECTIONS, 'settings'])}")
        for key in data
        if key not in SECTIONS and key != "settings"
    ]
    damaged: set[str] = set()
    sections: dict[str, Any] = {
        name: _section(name, data[name], problems, damaged) for name in SECTIONS if name in data
    }
    if "settings" in data:
        sections["settings"] = _salvage(SettingsEntry, data["settings"], ("settings",), problems)
    return Document(**sections, damaged=frozenset(damaged)), problems[:MAX_PROBLEMS]


def _section(name: str, raw: Any, problems: list[Problem], damaged: set[str]) -> list[Placed[Any]]:
    kind, limit = SECTIONS[name]
    placed: list[Placed[Any]] = []
    for path, item in _items(raw, (name,), limit, problems):
        if len(problems) >= MAX_PROBLEMS:
            break
        entry = _policy(item, path, problems) if kind is PolicyEntry else _salvage(kind, item, path, problems)
        if entry is not None:
            placed.append(entry)
        elif isinstance(item, dict) and isinstance(item.get("slug"), str):
            damaged.add(item["slug"])
    return placed


def _items(raw: Any, path: Path, limit: int, problems: list[Problem]) -> Iterator[tuple[Path, Any]]:
    if not isinstance(raw, list):
        problems.append(Problem(path, "should be a list"))
    elif path == ("policies",) and (rules := _rule_count(raw)) > MAX_RULES_IN_ALL:
        problems.append(Problem(path, f"hold {rules} rules together; at most {MAX_RULES_IN_ALL} are allowed"))
    elif len(raw) > limit:
        problems.append(Problem(path, f"holds {len(raw)} entries; at most {limit} are allowed"))
    else:
        yield from (((*path, index), item) for index, item in enumerate(raw))


def _rule_count(policies: list[Any]) -> int:
    rules = [policy["rules"] for policy in policies if isinstance(policy, dict) and "rules" in policy]
    return sum(len(each) for each in rules if isinstance(each, list))


def _policy(raw: Any, path: Path, problems: list[Problem]) -> Placed[PolicyEntry] | None:
    """A policy whose damaged rules stay in place as far as they can be read, so that rules keep their numbers."""
    if not isinstance(raw, dict):
        problems.append(Problem(path, "should be a mapping"))
        return None
    header = _salvage(PolicyEntry, {key: raw[key] for key in raw if key != "rules"}, path, problems)
    rules = [
        _salvage(RuleEntry, _with_roles(item), rule_path, problems)
        for rule_path, item in _items(raw.get("rules", []), (*path, "rules"), MAX_RULES, problems)
    ]
    if header is None:
        return None
    nameless = RuleEntry.model_construct(name="")
    entry = header.entry.model_copy(update={"rules": [rule.entry if rule else nameless for rule in rules]})
    return Placed(path, entry)


def _with_roles(rule: Any) -> Any:
    """Roles may also stand beside the chain (`verifier: M`); they are moved to where they belong."""
    if not isinstance(rule, dict) or not ROLE_NAMES & rule.keys() or not isinstance(rule.get("roles", {}), dict):
        return rule
    beside = {key: rule[key] for key in rule if key in ROLE_NAMES and key not in rule.get("roles", {})}
    rest = {key: value for key, value in rule.items() if key not in beside}
    return {**rest, "roles": {**rule.get("roles", {}), **beside}}


def _salvage(kind: type[E], raw: Any, path: Path, problems: list[Problem]) -> Placed[E] | None:
    """The entry without its mistakes, each of which is reported; None if nothing usable is left."""
    if not isinstance(raw, dict):
        problems.append(Problem(path, "should be a mapping"))
        return None
    wide = _too_wide(raw)
    if wide is not None:
        problems.append(Problem((*path, *wide), f"holds more than {MAX_KEYS} keys"))
        return None
    rest = raw
    reported: set[tuple[int | str, ...]] = set()
    for _ in range(4):  # a mistake may hide another one once
        try:
            return Placed(path, kind.model_validate(rest))
        except ValidationError as error:
            rest = copy.deepcopy(rest)
            details = error.errors(include_url=False, include_input=False, include_context=False)
            for detail in reversed(details):
                _remove(rest, detail["loc"])
            fresh = [detail for detail in details if detail["loc"] not in reported]
            problems += [_problem(kind, detail, path) for detail in fresh[:MAX_PROBLEMS]]
            reported |= {detail["loc"] for detail in fresh}
            stand_ins = STAND_INS.get(kind, {})
            absent = {str(detail["loc"][0]) for detail in details if detail["type"] == "missing"}
            if absent - stand_ins.keys():
                return None
            rest |= {key: stand_ins[key] for key in absent}
    return None


def _too_wide(data: Any, depth: int = 3) -> Path | None:
    """Where a mapping has more keys than any mapping of ours could have."""
    if not isinstance(data, dict) or not depth:
        return None
    if len(data) > MAX_KEYS:
        return ()
    wide = ((key, _too_wide(value, depth - 1)) for key, value in data.items())
    return next(((str(key), *path) for key, path in wide if path is not None), None)


def _problem(kind: type[Entry], detail: ErrorDetails, path: Path) -> Problem:
    message = detail["msg"].removeprefix("Input ")
    if detail["type"] == "extra_forbidden":
        message = "unknown key" + _known_keys(kind, detail["loc"])
    elif detail["type"] in PLAIN_WORDS:
        message = PLAIN_WORDS[detail["type"]]
    return Problem((*path, *_steps(kind, detail["loc"])), message)


def _known_keys(kind: type[Entry], location: tuple[int | str, ...]) -> str:
    if location[-1] == "api_key":
        return ": keys are not kept here; name an environment variable in api_key_env"
    for step in location[:-1]:
        annotation = kind.model_fields[str(step)].annotation if str(step) in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Entry)):
            return ""
        kind = annotation
    return f"; known are {', '.join(kind.model_fields)}"


def _steps(kind: type[Entry], location: tuple[int | str, ...]) -> Path:
    """The path without the names that pydantic adds for the branches of a union."""
    steps = list(location)
    if len(steps) > 1 and kind is ProviderEntry and steps[0] == "options":
        return tuple(steps[:2])
    return tuple(step for index, step in enumerate(steps) if index == 0 or not _is_branch(step))


def _is_branch(step: int | str) -> bool:
    return isinstance(step, str) and ("[" in step or step in {"constrained-str", "literal['']"})


def _remove(data: Any, location: tuple[int | str, ...]) -> None:
    """Takes away what is at the location, or the nearest thing around it that is there."""
    parent, key = None, None
    for step in location:
        inside = isinstance(data, dict) and step in data
        inside = inside or (isinstance(data, list) and isinstance(step, int) and step < len(data))
        if not inside:
            break
        parent, key = data, step
        data = data[step]
    if parent is not None:
        del parent[key]
