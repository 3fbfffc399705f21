"""PURE: system messages in the midst of a conversation, for servers whose templates know of one at the beginning."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from routing.adapters.asking.marks import without_marks
from routing.types import ChatRequest, Cited, Message, Part, Pdf, ProviderError, Text, ToolResult, message
from ziggie.values import replace

# in the words of Qwen's, Mistral's and Gemma's templates, and of Anthropic's API
_REFUSED = re.compile(
    r"system (?:message|role|prompt)|role\W{1,3}system|unexpected role|only user.{1,40} roles|roles must alternate"
)
# Of our own: Claude Code writes <system-reminder> into users' turns itself, and means it to stay there.
_TAG = "system-role-message"
_MARK = re.compile(rf"<(?=\s?/?\s?{_TAG})", re.IGNORECASE)


def as_users(request: ChatRequest, refusal: ProviderError) -> ChatRequest | None:
    """The request for a server that has just refused later system messages. None where there are none, or where that is
    not what the server said."""
    if refusal.kind not in ("bad_request", "server") or not _REFUSED.search(refusal.message.lower()):
        return None
    told = in_users_turns(request)
    return None if told is request else told


def in_users_turns(request: ChatRequest) -> ChatRequest:
    """The request with later system messages in the user's turns beside them, where they stand: at the beginning they
    would change it each time, and no cache could keep it. Nobody else's words bear the tags that mark them."""
    turns = request.messages
    first = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if all(turn.role != "system" for turn in turns[first:]):
        return request
    kept: list[tuple[Message, list[Part]]] = []
    for turn in turns[first:]:
        said = message("user", _tagged(turn)) if turn.role == "system" else _untagged(turn)
        last = kept[-1][0] if kept else None
        if last is not None and last.role == said.role == "user" and last.name == said.name:
            _join(kept[-1][1], said.parts)
        else:
            kept.append((said, list(said.parts)))
    told = [replace(turn, parts=tuple(parts)) for turn, parts in kept]
    return replace(request, messages=(*turns[:first], *told))


def _tagged(turn: Message) -> str:
    text = "\n\n".join([part.text for part in turn.parts if isinstance(part, Text)])
    return f"<{_TAG}>\n{_harmless(text)}\n</{_TAG}>"


def _untagged(turn: Message) -> Message:
    """A turn that no system speaks in. What the model itself said is in a turn that nobody takes for a system's."""
    if turn.role == "assistant":
        return turn
    whole = _harmless("".join([part.text for part in turn.parts if isinstance(part, Text)]))  # a tag may be in pieces
    place = 0
    parts: list[Part] = []
    for part in turn.parts:
        if isinstance(part, Text):
            parts.append(replace(part, text=whole[place : place + len(part.text)]))
            place += len(part.text)
        else:
            parts.append(_harmless_part(part))
    return replace(turn, parts=tuple(parts))


def _harmless_part(part: Part) -> Part:
    match part:
        case ToolResult():
            rows = tuple([row and _harmless(row) for row in part.rows])
            return replace(part, content=_harmless(part.content), rows=rows)
        case Pdf():
            return replace(part, title=_harmless(part.title), context=_harmless(part.context))
        case Cited():
            return replace(part, block=_harmless_block(part.block), text=_harmless(part.text))
    return part


def _harmless_block(value: Any) -> Any:
    if isinstance(value, str):
        return _harmless(value)
    if isinstance(value, Mapping):
        return {key: _harmless_block(inner) for key, inner in value.items()}
    return [_harmless_block(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _harmless(text: str) -> str:
    """As long as before: citations count its characters."""
    return without_marks(text, _MARK, (_TAG,), "(")


def _join(parts: list[Part], more: Sequence[Part]) -> None:
    """Texts of their own stay apart: not every API keeps them so."""
    first = more[0] if more else None
    if parts and isinstance(parts[-1], Text) and isinstance(first, Text):
        more = (replace(first, text=f"\n\n{first.text}"), *more[1:])
    parts += more
