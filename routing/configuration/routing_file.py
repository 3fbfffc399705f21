"""The routing file: providers, models, policies, budgets and settings in one text, loaded all or nothing.

A section that the file does not hold, a row that it does not name and a key that it leaves out stay as
they are: nothing is ever deleted by a file. To switch a row off, say `enabled: false`. A policy is
whole: its rules are those in the file. `apply(export())` changes nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import yaml
from django.db import transaction

from routing.configuration import policies, rows
from routing.configuration.reading import read
from routing.configuration.shape import (
    Document,
    Entry,
    ModelEntry,
    Placed,
    PolicyEntry,
    Problem,
    SettingsEntry,
)
from routing.configuration.text import Parsed, parse
from routing.configuration.validation import check, errors
from routing.models import RoutingPolicy
from ziggie.errors import InvalidInput

E = TypeVar("E", bound=Entry)


class _Dumper(yaml.SafeDumper):
    """Escapes the line ends of Unicode, which YAML would fold."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(end in data for end in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


@dataclass(slots=True)
class Changes:
    """What was written, and, each with its place, what may not be as meant."""

    written: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def export(file_format: Literal["yaml", "json"] = "yaml") -> str:
    """The whole configuration that is in force, with the newest draft of each policy."""
    data = export_data()
    if file_format == "json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def export_data() -> dict[str, Any]:
    document = rows.load()
    sections = {
        name: [rows.plain(placed.entry) for placed in getattr(document, name) or ()]
        for name in ("providers", "models", "policies", "budgets")
    }
    assert document.settings is not None
    return sections | {"settings": rows.plain(document.settings.entry)}


def apply(text: str, *, by: str, name: str = "the routing file") -> Changes:
    """Loads a routing file. Raises InvalidInput with every mistake and its place; then nothing is changed."""
    parsed = parse(text)
    problems = list(parsed.problems)
    document = Document()
    with transaction.atomic():
        rows.lock_configuration()
        if parsed.data is not None or not problems:
            document, more = read(_completed(parsed.data))
            problems += more
        return apply_document(document, by=by, name=name, parsed=parsed, problems=problems)


def _completed(data: Any) -> Any:
    """The data with what every row has to say, where it names a row in force and leaves that out."""
    if not isinstance(data, dict):
        return data
    current = rows.load()
    sections = {}
    for name in ("providers", "models", "budgets"):
        if isinstance(data.get(name), list):
            known = rows.by_slug(getattr(current, name))
            sections[name] = [_with_what_it_must_say(item, known) for item in data[name]]
    return data | sections


def _with_what_it_must_say(item: Any, known: dict[str, Placed[Any]]) -> Any:
    slug = item.get("slug") if isinstance(item, dict) else None
    if not isinstance(slug, str) or slug not in known:
        return item
    entry = known[slug].entry
    needed = {name for name, field in type(entry).model_fields.items() if field.is_required()}
    return {**item, **{name: value for name, value in rows.plain(entry).items() if name in needed - item.keys()}}


def apply_document(
    document: Document,
    *,
    by: str,
    name: str,
    parsed: Parsed | None = None,
    problems: Iterable[Problem] = (),
) -> Changes:
    """Loads a document that was read already, with the mistakes found in reading it."""
    with transaction.atomic():
        rows.lock_configuration()
        merged, found = _examine(document)
        new, parsed = [*problems, *found], parsed or Parsed()
        if mistakes := errors(new):
            raise _refusal(mistakes, parsed, name)
        warnings = [f"{parsed.place(problem.path)}: {problem.message}" for problem in new if problem.warning]
        return Changes(_write(merged, document, by=by), warnings)


def problems_with(data: dict[str, Any]) -> list[Problem]:
    """What applying this plain data would be refused for, or warned of. Writes nothing."""
    document, problems = read(data)
    return [*problems, *_examine(document)[1]]


def _examine(document: Document) -> tuple[Document, list[Problem]]:
    """The configuration with the document put over it, and the problems that it would bring."""
    current = _in_database(rows.load())
    merged, found = _merge(current, document)
    api_keys = rows.api_key_names()
    known = set(check(current, api_keys=api_keys))
    found = [*found, *check(merged, api_keys=api_keys)]
    return merged, [problem for problem in found if problem not in known]


def _refusal(mistakes: list[Problem], parsed: Parsed, name: str) -> InvalidInput:
    mistakes = list(dict.fromkeys(mistakes))
    ordered = sorted(mistakes, key=lambda problem: parsed.position(problem.path))
    details = [{"place": parsed.place(problem.path), "problem": problem.message} for problem in ordered]
    return InvalidInput(
        f"{name} has {len(details)} mistake{'s'[: len(details) != 1]}; nothing was changed", details=details
    )


# --- what the configuration would be ------------------------------------------------------------


def _in_database(document: Document) -> Document:
    """The same with paths that say that an entry does not stand in the file."""
    sections: dict[str, Any] = {
        name: [Placed(("database", name, p.entry.slug), p.entry) for p in getattr(document, name) or ()]
        for name in ("providers", "models", "policies", "budgets")
    }
    assert document.settings is not None
    return Document(**sections, settings=Placed(("database", "settings"), document.settings.entry))


def _merge(current: Document, given: Document) -> tuple[Document, list[Problem]]:
    """The configuration with the document put over it, and what cannot be merged."""
    problems: list[Problem] = []
    merged = Document(
        providers=_merge_rows(current.providers, given.providers),
        models=_merge_rows(current.models, given.models),
        policies=_merge_policies(current.policies or [], given.policies or []),
        budgets=_merge_rows(current.budgets, given.budgets),
        settings=_merge_settings(current, given),
        damaged=given.damaged,
    )
    before = rows.by_slug(current.models)
    for placed in given.models or ():
        problems += _price_taken_away(placed, before.get(placed.entry.slug))
    return merged, problems


def _merge_rows(current: list[Placed[E]] | None, given: list[Placed[E]] | None) -> list[Placed[E]]:
    before = rows.by_slug(current)
    result = []
    for placed in given or ():
        known = before.get(placed.entry.slug)  # type: ignore[attr-defined]  # rows have a slug
        result.append(Placed(placed.path, _over(known.entry, placed.entry)) if known else placed)
    named = {placed.entry.slug for placed in given or ()}  # type: ignore[attr-defined]
    return result + [placed for slug, placed in before.items() if slug not in named]


def _over(old: E, new: E) -> E:
    stated = {name: getattr(new, name) for name in new.model_fields_set}
    if isinstance(new, ModelEntry) and "price_origin" not in stated:
        priced = {name: value for name, value in stated.items() if name in rows.PRICE_COLUMNS}
        if any(getattr(old, name) != value for name, value in priced.items()):
            stated["price_origin"] = ""
    return old.model_copy(update=stated)


def _price_taken_away(placed: Placed[ModelEntry], before: Placed[ModelEntry] | None) -> list[Problem]:
    path, given = placed.path, placed.entry
    taken = "input_usd_per_mtok" in given.model_fields_set and given.input_usd_per_mtok is None
    if not taken or before is None or before.entry.input_usd_per_mtok is None:
        return []
    return [
        Problem((*path, "input_usd_per_mtok"), "a price in force can be changed, not taken away: disable the model")
    ]


def _merge_policies(current: list[Placed[PolicyEntry]], given: list[Placed[PolicyEntry]]) -> list[Placed[PolicyEntry]]:
    replaced = {(placed.entry.slug, placed.entry.live) for placed in given}
    has_live = any(placed.entry.live for placed in given)
    kept = [
        placed
        for placed in current
        if (placed.entry.slug, placed.entry.live) not in replaced and not (placed.entry.live and has_live)
    ]
    return given + kept


def _merge_settings(current: Document, given: Document) -> Placed[SettingsEntry]:
    assert current.settings is not None
    if given.settings is None:
        return current.settings
    return Placed(given.settings.path, _over(current.settings.entry, given.settings.entry))


# --- writing -------------------------------------------------------------------------------------


def _write(merged: Document, given: Document, *, by: str) -> list[str]:
    written = []
    for name, save in (
        ("providers", rows.save_provider),
        ("models", rows.save_model),
        ("budgets", rows.save_budget),
    ):
        named = {placed.entry.slug for placed in getattr(given, name) or ()}
        entries = [placed.entry for placed in getattr(merged, name) if placed.entry.slug in named]
        written += [f"{name} {entry.slug}" for entry in entries if save(entry)]
    if given.settings is not None and merged.settings is not None and rows.save_settings(merged.settings.entry):
        written.append("settings")
    return written + [line for placed in given.policies or () for line in _write_policy(placed.entry, by=by)]


def _write_policy(entry: PolicyEntry, *, by: str) -> list[str]:
    state = "live" if entry.live else "draft"
    present = RoutingPolicy.objects.filter(slug=entry.slug, state=state).order_by("-version").first()
    if present is not None:
        before = policies.entry_of(present)
        if "notes" not in entry.model_fields_set:
            entry = entry.model_copy(update={"notes": before.notes})
        if rows.plain(before) == rows.plain(entry):
            return []
    if entry.live:
        row = policies.put_live(entry, by=by)
        return [f"policies {row.slug} version {row.version}, live"]
    if present is not None:
        policies.replace_draft(present, entry, by=by)
        return [f"policies {present.slug} version {present.version}, draft"]
    row = policies.create_draft(entry, by=by)
    return [f"policies {row.slug} version {row.version}, draft"]
