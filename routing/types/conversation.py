"""What is said: messages and their parts, tools.

A `cache_mark` says that the prompt up to here is worth keeping to a provider that keeps what is marked (Anthropic's
cache_control). It changes no answer, and the others need not know.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from ziggie.values import Value


class Source(StrEnum):
    """Where an answer is made; also a provider's location."""

    LOCAL = "local"
    CLOUD = "cloud"
    OFFLINE = "offline"


Role = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Text(Value):
    """`refuses`: the model says here that it will not answer, where its API tells that apart. `citations`: where in the
    documents that it was to cite stands what it says, in Anthropic's words."""

    text: str
    cache_mark: bool = False
    refuses: bool = False
    citations: tuple[Mapping[str, Any], ...] = ()


class Image(Value):
    """An image by value (`data`, base64 without prefix, with `media_type`) or by address (`url`). `detail` says how
    closely it is to be looked at, to servers with OpenAI's API; the others look as closely as they can. One that a
    tool gave bears that call's id and stands in the turn of the ToolResult: few APIs can show it within the result."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    detail: str = ""
    tool_call_id: str = ""
    cache_mark: bool = False


class Pdf(Value):
    """A PDF document by value (`data`, base64 without prefix) or by address (`url`). `title` is its name, `context`
    what the caller says about it, `pages` about how many it has (0: nobody has looked). One that a tool gave bears that
    call's id, as an Image does."""

    data: str = ""
    url: str = ""
    title: str = ""
    context: str = ""
    pages: int = 0
    tool_call_id: str = ""
    cache_mark: bool = False


class Cited(Value):
    """A document or search result that the model is to cite: `block` as Anthropic's clients have it, since nobody else
    can. `text` is what of it is text, `pages` about how many pages its PDF has, None where it is no PDF."""

    block: Mapping[str, Any]
    text: str = ""
    pages: int | None = None
    tool_call_id: str = ""
    cache_mark: bool = False


class ToolCall(Value):
    """A model's wish to call a tool. `arguments` is a JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str
    cache_mark: bool = False


class ToolResult(Value):
    """The caller's answer to a ToolCall, as one text. `references` name the deferred tools that it found. `rows`: its
    texts in their order, None for each image or document that the tool gave between them, where one text is not all
    that there is to say."""

    tool_call_id: str
    content: str
    is_error: bool = False
    cache_mark: bool = False
    references: tuple[str, ...] = ()
    rows: tuple[str | None, ...] = ()


class Reasoning(Value):
    """A model's visible thinking. `signature` is Anthropic's, needed to send it back."""

    text: str
    signature: str = ""
    redacted: bool = False


Part = Text | Image | Pdf | Cited | ToolCall | ToolResult | Reasoning


class Message(Value):
    """One turn. `name` tells speakers of one role apart; it goes to providers that have a field for it."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""

    @property
    def text(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, Text)])


def message(role: Role, text: str) -> Message:
    """A message of plain text."""
    return Message(role, (Text(text),))


class Tool(Value):
    """A function that the model may call. `parameters` is a JSON Schema object. One that is `deferred` is told to the
    model once a ToolResult refers to it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False
    cache_mark: bool = False
    deferred: bool = False
