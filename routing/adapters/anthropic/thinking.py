"""Where Claude's API takes no thinking, and what may then not stand in a request either."""

import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.reading.wire import Json, clears_thinking

# these think within a budget of tokens, and not unless it is said; later models take an effort
_WITH_BUDGET = re.compile(
    r"^claude-(?:3-7|(?:sonnet|opus|haiku)-4(?:-0|-1|-\d{8})?(?:-\d{8})?$|(?:sonnet|opus|haiku)-4-5)"
)
_THINKS_OR_CALLS = re.compile(r"^claude-(?:opus-4-[67]|sonnet-4-6)\b")
_THOUGHTS = ("thinking", "redacted_thinking")


def with_budget(name: str) -> bool:
    """True for a model that thinks within a budget of tokens."""
    return _WITH_BUDGET.match(name) is not None


def wants_budget(thinking: Any) -> bool:
    """True for Anthropic's `thinking` parameter where it gives a budget."""
    return isinstance(thinking, Mapping) and thinking.get("type") == "enabled"


def takes_no_budget(body: Json) -> bool:
    """True where the API refuses to think within a budget: a tool must be called, or a turn goes on that began without
    thinking."""
    return forces_call(body) or _goes_on_without_thinking(body["messages"])


def forces_call(body: Json) -> bool:
    """True where a tool must be called."""
    return (body.get("tool_choice") or {}).get("type") in ("any", "tool")


def thinks_or_calls(body: Json) -> bool:
    """True where a tool must be called by one of the first models that think as they see fit: with both in a request
    they were seen to refuse it, or to think and call nothing. Later ones do both."""
    return forces_call(body) and _THINKS_OR_CALLS.match(body["model"]) is not None


def _goes_on_without_thinking(turns: list[Json]) -> bool:
    """True for the results of calls before which nothing was thought, or nothing that came back signed: another model
    made them, or the caller's API has no place for signatures. Claude thinks again in the next turn, and in all of
    one that it began so: of its answers there, often the first alone has thinking before its calls."""
    turns = [turn for turn in turns if turn["role"] != "system"]
    place = len(turns) - 1
    while place > 0 and _begins_with(turns[place], "tool_result"):
        if _begins_with(turns[place - 1], *_THOUGHTS):
            return False
        place -= 2
    return place < len(turns) - 1


def _begins_with(turn: Json, *kinds: str) -> bool:
    return turn["content"][0]["type"] in kinds


def leave_out_refused(body: Json, name: str) -> None:
    """Takes a budget of thinking out of a body where the API takes none, and what is to be forgotten of thinking where
    there is none: it would refuse that, too."""
    gives_up = wants_budget(body.get("thinking")) and takes_no_budget(body)
    if gives_up:
        del body["thinking"]
    if "context_management" in body and (gives_up or _is_off(body, name)):
        _forget_no_thinking(body)


def _is_off(body: Json, name: str) -> bool:
    """True where the model is not to think; some of the later ones do so unasked."""
    thinking = body.get("thinking")
    if thinking is None:
        return with_budget(name)
    return isinstance(thinking, Mapping) and thinking.get("type") == "disabled"


def _forget_no_thinking(body: Json) -> None:
    asked = body.pop("context_management")
    if edits := [edit for edit in asked.get("edits", ()) if not clears_thinking(edit)]:
        body["context_management"] = {**asked, "edits": edits}
