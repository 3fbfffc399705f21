"""Imports the users' older JSON of rules: a draft policy, and a report of what it could not say.

Sections: `cloud_models`, `task_routing`, `routing_rules`, `fallback_chains`, `cost_controls`,
`health_checks`. Files differ in how they write them; every way that is known is read, and what is not
understood is reported, never guessed. Nothing but the draft is written.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routing.configuration import policies
from routing.configuration.reading import read
from routing.configuration.shape import MAX_RULES, PolicyEntry, RuleEntry
from routing.configuration.text import parse
from routing.importing.conditions import ConditionError, Term, alternatives
from routing.importing.order import in_order
from routing.importing.when import Conditions, NotMapped
from routing.models import LanguageModel
from ziggie.errors import InvalidInput

SECTIONS = ("cloud_models", "task_routing", "routing_rules", "fallback_chains", "cost_controls", "health_checks")
NAME_KEYS = ("name", "id", "rule", "title")
CONDITION_KEYS = ("condition", "when", "if")
FALLBACK_KEYS = ("fallback", "fallbacks", "fallback_models", "fallback_chain")
SILENT_KEYS = frozenset({"description", "comment", "notes", "reason", "rationale", "_comment"})
UNDERSTOOD_KEYS = frozenset(
    {"primary", "model", "models", "enhanced_by", "strategy", "mode", "pattern", "priority"}
) | {
    *NAME_KEYS,
    *CONDITION_KEYS,
    *FALLBACK_KEYS,
    *SILENT_KEYS,
}
PARALLEL = frozenset({"ensemble", "parallel", "consensus"})
# Of a model's entry: what a model row says itself, so that nothing of it is lost.
MODEL_KEYS = frozenset({"model", "name", "id", "capabilities"}) | SILENT_KEYS
OPTION_OF = {
    "cache_ttl": "cache_ttl_seconds",
    "cache_ttl_seconds": "cache_ttl_seconds",
    "max_attempts": "max_attempts",
    "confidence_threshold": "min_confidence",
    "min_confidence": "min_confidence",
    "fallback_threshold": "first_token_seconds",
    "fallback_threshold_seconds": "first_token_seconds",
}
ELSEWHERE = {
    "max_requests_per_day": "a provider's max_requests_per_day says this",
    "daily_request_limit": "a provider's max_requests_per_day says this",
    "requests_per_day": "a provider's max_requests_per_day says this",
    "monthly_budget": "a budget says this",
    "monthly_budget_usd": "a budget says this",
    "max_monthly_cost": "a budget says this",
    "daily_budget": "a budget of the period day says this",
    "max_retries": "max_attempts counts the first call too; set it in the rules",
}
DURATION = re.compile(r"(\d+)\s*(s|sec|seconds|m|min|minutes|h|hours?|d|days?)?")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(slots=True)
class Report:
    """What became of each part of the file."""

    policy: str = ""
    version: int = 0
    rules: list[str] = field(default_factory=list)
    mapped: list[dict[str, str]] = field(default_factory=list)
    not_mapped: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def took(self, place: str, what: str) -> None:
        self.mapped.append({"place": place, "what": what})

    def left(self, place: str, why: str) -> None:
        self.not_mapped.append({"place": place, "why": why})

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def as_text(self) -> str:
        lines = [f"Draft {self.policy} version {self.version} with {len(self.rules)} rules; nothing is live yet."]
        lines += ["Mapped:", *(f"  {entry['place']}: {entry['what']}" for entry in self.mapped)]
        if self.not_mapped:
            lines += ["Not mapped:", *(f"  {entry['place']}: {entry['why']}" for entry in self.not_mapped)]
        if self.warnings:
            lines += ["Before it can go live:", *(f"  {w['place']}: {w['problem']}" for w in self.warnings)]
        return "\n".join(lines)


def import_draft(text: str, *, slug: str, by: str, name: str) -> Report:
    """Writes the draft. Raises InvalidInput if the file cannot be read or holds no rule that could be mapped."""
    parsed = parse(text)
    if parsed.problems or not isinstance(parsed.data, dict):
        found = [{"place": parsed.place(p.path), "problem": p.message} for p in parsed.problems]
        raise InvalidInput(f"{name} is no file of rules", details=found)
    report, rules = convert(parsed.data, model_names=_model_names(), capabilities=_capabilities())
    if not rules:
        details = [{"place": entry["place"], "problem": entry["why"]} for entry in report.not_mapped]
        raise InvalidInput(f"{name} holds no rule that could be mapped", details=details)
    entry = _policy_entry(slug, rules, report, name)
    draft = policies.create_draft(entry, by=by)
    report.policy, report.version, report.rules = draft.slug, draft.version, [rule.name for rule in entry.rules]
    report.warnings = [{"place": p.place, "problem": p.message} for p in policies.problems_if_live(entry)]
    return report


def _policy_entry(slug: str, rules: list[dict[str, Any]], report: Report, name: str) -> PolicyEntry:
    """The rules that fit, each read by itself: a rule of which a part is refused would mean something else."""
    fitting = []
    for rule in rules[:MAX_RULES]:
        document, problems = read({"policies": [{"slug": slug, "rules": [rule]}]})
        if not document.policies:
            raise InvalidInput(f"{slug!r} cannot be the name of a policy")
        if problems:
            report.left(f"rule {rule['name']!r}", f"{problems[0].path[-1]} {problems[0].message}")
        else:
            fitting += document.policies[0].entry.rules
    note = f"Imported from {Path(name).name}."
    return PolicyEntry(slug=slug, rules=_named_apart(fitting), notes=note[:1000])


def _named_apart(rules: list[RuleEntry]) -> list[RuleEntry]:
    taken: set[str] = set()
    result = []
    for rule in rules:
        new, number = rule.name, 2
        while new in taken:
            new, number = f"{rule.name[:90]} ({number})", number + 1
        taken.add(new)
        result.append(rule.model_copy(update={"name": new}))
    return result


def _model_names() -> dict[str, str]:
    """Slug by everything a model may be called, lower case. A slug goes before other models' wire names."""
    models = list(LanguageModel.objects.order_by("slug"))
    names = {alias.lower(): model.slug for model in models for alias in (*model.aliases, model.name)}
    return names | {model.slug.lower(): model.slug for model in models}


def _capabilities() -> frozenset[str]:
    return frozenset(name for model in LanguageModel.objects.all() for name in model.capabilities)


def convert(
    data: dict[str, Any], *, model_names: dict[str, str], capabilities: frozenset[str]
) -> tuple[Report, list[dict[str, Any]]]:
    """PURE: the rules in the routing file's shape, and the report."""
    converter = _Converter(data, model_names, capabilities, Report())
    return converter.report, converter.run()


@dataclass(slots=True)
class _Converter:
    data: dict[str, Any]
    model_names: dict[str, str]
    capabilities: frozenset[str]
    report: Report
    options: dict[str, Any] = field(default_factory=dict)
    used: set[str | None] = field(default_factory=set)  # names of fallback chains
    taken: list[dict[str, Any]] = field(default_factory=list)  # conditions of the rules so far

    def run(self) -> list[dict[str, Any]]:
        for key in self.data.keys() - set(SECTIONS) - SILENT_KEYS:
            self.report.left(str(key), "this section is not known")
        self._cloud_models()
        self._cost_controls()
        rules = [rule for place, name, spec in self._specs() for rule in self._rules(place, name, spec)]
        default = self._default()
        self._unused_chains()
        if self.data.get("health_checks"):
            self.report.left("health_checks", "the router checks the health of every provider by itself")
        return rules + default

    # --- sections ------------------------------------------------------------------------------

    def _cloud_models(self) -> None:
        """Models are looked up, not made. A label that stands for a model may be used in rules."""
        for place, label, spec in _named(self.data.get("cloud_models"), "cloud_models"):
            stated = spec.get("model") or spec.get("name") or spec.get("id") if isinstance(spec, dict) else spec
            slug = self.model_names.get(str(stated or label).lower()) or self.model_names.get(label.lower())
            if slug is None:
                self.report.left(
                    place, f"there is no model {stated or label!r}; add it, with its price, and import again"
                )
                continue
            self.model_names.setdefault(label.lower(), slug)
            self.report.took(place, f"is the model {slug}")
            if isinstance(spec, dict):
                self.capabilities |= frozenset(map(str, _listed(spec.get("capabilities"))))
                for key in spec.keys() - MODEL_KEYS:
                    self.report.left(f"{place}.{key}", "models are edited in the catalogue; the row there is as it was")

    def _cost_controls(self) -> None:
        controls = self.data.get("cost_controls")
        for key, value in controls.items() if isinstance(controls, dict) else ():
            place, option = f"cost_controls.{key}", OPTION_OF.get(str(key))
            number = _seconds(value) if option and option.endswith("seconds") else value
            if option and isinstance(number, (int, float)) and not isinstance(number, bool):
                percent = option == "min_confidence" and 0 < number <= 1
                self.options[option] = number * 100 if percent else number
                self.report.took(place, f"every rule gets {option} {self.options[option]:g}")
            else:
                self.report.left(place, ELSEWHERE.get(str(key), "no rule can say this"))

    def _specs(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """What says which model serves: rules with conditions first, then the routes of single tasks."""
        rules = list(_named(self.data.get("routing_rules"), "routing_rules"))
        for place, name, spec in in_order(rules, self.report):
            if isinstance(spec, dict):
                yield place, name, spec
            else:
                self.report.left(place, "is no rule")
        for place, task, spec in _named(self.data.get("task_routing"), "task_routing"):
            route = spec if isinstance(spec, dict) else {"models": spec}
            if "priority" in route:
                self.report.left(f"{place}.priority", "routes of tasks stand in the order of the file, after the rules")
            if any(route.get(key) for key in CONDITION_KEYS):
                yield place, task, route
            else:
                yield place, task, {**route, "condition": task if task.isidentifier() else f'task == "{task}"'}

    def _default(self) -> list[dict[str, Any]]:
        chain = self._chain("fallback_chains.default", self._named_chain("default"))
        if not chain:
            return []
        self.report.took("fallback_chains.default", "serves what no other rule takes")
        return [{"name": "default", "chain": chain, "options": dict(self.options)}]

    # --- one rule ------------------------------------------------------------------------------

    def _rules(self, place: str, name: str, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One rule for each alternative of the condition; capabilities alone share one."""
        chain = self._chain(place, self._stated_chain(spec))
        if not chain:
            self.report.left(place, "names no model that is known")
            return
        for key in spec.keys() - UNDERSTOOD_KEYS:
            self.report.left(f"{place}.{key}", "no rule can say this")
        pattern = self._pattern(place, spec)
        made = [
            {"name": name[:100], "when": when, "chain": chain, "options": dict(self.options)} | pattern
            for when in self._whens(place, spec)
        ]
        self.taken += [rule["when"] for rule in made if _fits(rule)]
        yield from made

    def _whens(self, place: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
        stated = next((spec[key] for key in CONDITION_KEYS if spec.get(key) not in (None, "")), "true")
        place = f"{place}.condition"
        if isinstance(stated, bool):
            stated = str(stated)
        if not isinstance(stated, str):
            self.report.left(place, "is no text")
            return []
        try:
            terms = alternatives(stated)
        except ConditionError as error:
            self.report.left(place, f"cannot be read: {error}")
            return []
        if not terms:
            self.report.left(place, "never holds")
        return _joined([when for each in terms if (when := self._when(place, each)) is not None])

    def _when(self, place: str, terms: Iterable[Term]) -> dict[str, Any] | None:
        conditions = Conditions(self.capabilities, self.taken)
        try:
            for term in terms:
                conditions.add(term)
        except NotMapped as reason:
            self.report.left(place, str(reason))
            return None
        self.report.took(place, " and ".join(conditions.said) or "always")
        return conditions.when

    def _pattern(self, place: str, spec: dict[str, Any]) -> dict[str, Any]:
        mode = str(spec.get("mode") or spec.get("pattern") or spec.get("strategy") or "").lower()
        members = [slug for name in _own_models(spec) if (slug := self._slug(name))]
        if mode in PARALLEL and len(members) > 1:
            self.report.took(place, f"{mode} -> ensemble of {', '.join(members)}")
            return {"pattern": "ensemble", "roles": {"members": members[:8]}}
        reviewers = self._chain(f"{place}.enhanced_by", _listed(spec.get("enhanced_by")))
        if not reviewers:
            return {}
        self.report.took(f"{place}.enhanced_by", f"{reviewers[0]} reviews the answer (verify)")
        for other in reviewers[1:]:
            self.report.left(f"{place}.enhanced_by", f"one model reviews an answer; {other} does not")
        return {"pattern": "verify", "roles": {"verifier": reviewers[0]}}

    # --- chains --------------------------------------------------------------------------------

    def _stated_chain(self, spec: dict[str, Any]) -> list[Any]:
        own = _own_models(spec)
        fallbacks = [name for key in FALLBACK_KEYS for name in _listed(spec.get(key))]
        named = [model for name in fallbacks for model in (self._named_chain(name) or [name])]
        return [*own, *(named or (self._named_chain(own[0]) if own else []))]

    def _named_chain(self, name: Any) -> list[Any]:
        """A chain of `fallback_chains` by its name, which may be that of its first model."""
        chains = self.data.get("fallback_chains")
        if isinstance(chains, dict) and isinstance(name, str):
            slug = self._slug(name)
            same = (key for key in chains if key == name or (slug is not None and self._slug(key) == slug))
            key = name if name in chains else next(same, None)
            self.used.add(key)
            return _listed(chains.get(key))
        if isinstance(chains, list) and all(isinstance(item, str) for item in chains):
            return chains if name == "default" or name in chains[:1] else []
        return []

    def _unused_chains(self) -> None:
        chains = self.data.get("fallback_chains")
        for name in chains if isinstance(chains, dict) else ():
            if name not in self.used:
                self.report.left(f"fallback_chains.{name}", "no rule begins with it or names it")

    def _chain(self, place: str, names: Iterable[Any]) -> list[str]:
        """Slugs, each once; what is no model is reported."""
        chain: dict[str, None] = {}
        for name in names:
            slug = self._slug(name)
            if slug is None:
                self.report.left(place, f"there is no model {name!r}")
            else:
                chain[slug] = None
        return list(chain)

    def _slug(self, name: Any) -> str | None:
        return self.model_names.get(name.lower()) if isinstance(name, str) else None


def _fits(rule: dict[str, Any]) -> bool:
    return not read({"policies": [{"slug": "any", "rules": [rule]}]})[1]


def _named(section: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    """(place, name, spec) of a section that may be a mapping by name or a list."""
    if isinstance(section, dict):
        yield from ((f"{name}.{key}", str(key), spec) for key, spec in section.items())
    elif isinstance(section, list):
        for index, spec in enumerate(section):
            stated = next((spec[key] for key in NAME_KEYS if spec.get(key)), None) if isinstance(spec, dict) else spec
            yield f"{name}[{index}]", str(stated) if stated else f"{name} {index + 1}", spec


def _own_models(spec: dict[str, Any]) -> list[Any]:
    """What a rule names itself, without its fallbacks."""
    return [*_listed(spec.get("primary")), *_listed(spec.get("model")), *_listed(spec.get("models"))]


def _listed(value: Any) -> list[Any]:
    """A list, one value, or a chain written as `a -> b -> c`."""
    if isinstance(value, str):
        return [part.strip() for part in re.split(r"->|,", value) if part.strip()]
    if isinstance(value, dict):
        return _listed(value.get("models") or value.get("chain") or value.get("model"))
    return value if isinstance(value, list) else []


def _joined(whens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Alternatives that differ in one list of names become one: any of them is enough."""
    result: list[dict[str, Any]] = []
    for when in whens:
        (key, *others) = when or [""]
        twin = next((before for before in result if not others and list(before) == [key]), None)
        if twin is not None and isinstance(when[key], list):
            twin[key] += [name for name in when[key] if name not in twin[key]]
        else:
            result.append(when)
    return result


def _seconds(value: Any) -> int | float | None:
    """Seconds from 3600, "3600" or "1h"."""
    if isinstance(value, str):
        found = DURATION.fullmatch(value.strip().lower())
        return int(found[1]) * UNIT_SECONDS[(found[2] or "s")[0]] if found else None
    return value if isinstance(value, (int, float)) else None
