"""PURE: system messages in the midst of a conversation, for servers whose templates know of one at the beginning."""

import re

from routing.types import ChatRequest, Message, Part, ProviderError, Text, message
from ziggie.values import replace

# in the words of Qwen's, Mistral's and Gemma's templates, and of Anthropic's API
_REFUSED = re.compile(
    r"system (?:message|role|prompt)|role\W{1,3}system|unexpected role|only user.{1,40} roles|roles must alternate"
)
_TAG = "system-reminder"  # what Claude Code marks such words with, for models that know no later system messages


def as_users(request: ChatRequest, refusal: ProviderError) -> ChatRequest | None:
    """The request for a server that has just refused later system messages. None where there are none, or where that is
    not what the server said."""
    if refusal.kind not in ("bad_request", "server") or not _REFUSED.search(refusal.message.lower()):
        return None
    told = in_users_turns(request)
    return None if told is request else told


def in_users_turns(request: ChatRequest) -> ChatRequest:
    """The request with later system messages in the user's turns beside them, where they stand: at the beginning they
    would change it each time, and no cache could keep it."""
    turns = request.messages
    first = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if all(turn.role != "system" for turn in turns[first:]):
        return request
    kept: list[Message] = []
    for turn in turns[first:]:
        said = message("user", _tagged(turn)) if turn.role == "system" else turn
        if kept and kept[-1].role == said.role == "user" and kept[-1].name == said.name:
            kept[-1] = replace(kept[-1], parts=_joined(kept[-1], said))
        else:
            kept.append(said)
    return replace(request, messages=(*turns[:first], *kept))


def _tagged(turn: Message) -> str:
    text = "\n\n".join([part.text for part in turn.parts if isinstance(part, Text)])
    return text if text.startswith(f"<{_TAG}>") else f"<{_TAG}>\n{text}\n</{_TAG}>"


def _joined(turn: Message, other: Message) -> tuple[Part, ...]:
    """Texts of their own stay apart: not every API keeps them so."""
    first = other.parts[0] if other.parts else None
    if not turn.parts or not isinstance(turn.parts[-1], Text) or not isinstance(first, Text):
        return (*turn.parts, *other.parts)
    return (*turn.parts, replace(first, text=f"\n\n{first.text}"), *other.parts[1:])
