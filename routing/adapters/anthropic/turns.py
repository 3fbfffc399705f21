"""A conversation as Anthropic's API has it: `system`, turns of alternating roles, tools.

Its later models are told of system messages where they stand, and of tools that wait to be found as such: so their
cache keeps what stands before. The earlier ones are told all of it at the beginning.
"""

import re
from collections.abc import Iterator

from routing.adapters.reading.wire import SIGNATURE_MARK, Json, arguments_object, digest, inline_image
from routing.planning.deferral import is_any_deferred, said_by, with_found_tools
from routing.types import (
    ChatRequest,
    Cited,
    Image,
    Message,
    Part,
    Pdf,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
)

_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_IS_CLAUDE = re.compile(r"^claude-")
# before Opus 4.8, and all of the fourth line's smaller ones
_WITHOUT_SYSTEM_TURNS = re.compile(r"^claude-(?:instant|[123]\b|(?:sonnet|haiku)-4\b|opus-4(?:$|-[0-7](?:-|$)|-\d{8}))")
_WITHOUT_SEARCH = re.compile(r"^claude-(?:instant|[123]\b|haiku-4\b)")
_NO_BLOCK: Json = {}


def conversation(request: ChatRequest, model: str, *, marks: bool) -> Json:
    """system, messages, tools and tool_choice; `marks`: with those that say what to cache."""
    if not _knows(model, _WITHOUT_SEARCH):
        request = with_found_tools(request)
    names = frozenset([tool.name for tool in request.tools]) if is_any_deferred(request.tools) else frozenset()
    encoder = _Turns(names, marks=marks, in_place=_knows(model, _WITHOUT_SYSTEM_TURNS))
    for turn in request.messages:
        encoder.add(turn)
    system, messages = encoder.end()
    encoded: Json = {}
    if system:
        is_plain = len(system) == 1 and "cache_control" not in system[0]
        encoded["system"] = system[0]["text"] if is_plain else system
    encoded["messages"] = messages
    if request.tools:
        encoded["tools"] = [_marked(tool_definition(tool), tool, marks=marks) for tool in request.tools]
        choice = tool_choice(request)
        if choice:
            encoded["tool_choice"] = choice
    return encoded


def _knows(model: str, without: re.Pattern[str]) -> bool:
    """Whether one of Anthropic's own models is none of the earlier ones; imitators' are left as they are known."""
    return _IS_CLAUDE.match(model) is not None and without.match(model) is None


class _Turns:
    """Turns of alternating roles: results of tools belong to the user's turn, neighbours merge.

    `found` are the tools that a result may refer to. `in_place`: system messages stay in the conversation, each behind
    the user's turn that it stands in or before, since nowhere else the API takes one. What comes before all turns, or
    after the last of the user's, goes to the beginning.
    """

    def __init__(self, found: frozenset[str], *, marks: bool, in_place: bool) -> None:
        self._found = found
        self._marks = marks
        self._in_place = in_place
        self._system: list[Json] = []
        self._messages: list[Json] = []
        self._waiting: list[Json] = []  # for the end of the user's turn
        self._ids = _ToolIds()

    def add(self, turn: Message) -> None:
        if turn.role == "system":
            wait = self._in_place and self._messages
            (self._waiting if wait else self._system).extend(self._texts(turn))
            return
        role = "assistant" if turn.role == "assistant" else "user"
        if role == "assistant" and self._messages and self._messages[-1]["role"] != role:
            self._ids.begin()
        blocks = self._blocks(turn, role)
        if role == "user":  # the API wants the results of tools first
            blocks.sort(key=lambda block: block["type"] != "tool_result")
        if not blocks:
            return
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += blocks
            return
        if role == "assistant":
            self._place()
        self._messages.append({"role": role, "content": blocks})

    def end(self) -> tuple[list[Json], list[Json]]:
        """(system, messages)"""
        self._place()
        return [*self._system, *self._waiting], self._messages

    def _place(self) -> None:
        if self._waiting and self._messages[-1]["role"] == "user":
            self._messages.append({"role": "system", "content": self._waiting})
            self._waiting = []

    def _texts(self, turn: Message) -> Iterator[Json]:
        for part in _texts_only(turn):
            if part.text.strip():
                yield _marked({"type": "text", "text": part.text}, part, marks=self._marks)

    def _blocks(self, turn: Message, role: str) -> list[Json]:
        """A turn's content blocks; images and documents that a tool gave stand within its result, in their places."""
        blocks: list[Json] = []
        results: dict[str, Json] = {}
        for part in turn.parts:
            for plain in encode_part(part, role, self._found, self._ids):
                block = _marked(plain, part, marks=self._marks)
                if isinstance(part, (Image, Pdf, Cited)) and part.tool_call_id in results:
                    _put_into(results[part.tool_call_id], block)
                    continue
                if isinstance(part, ToolResult):
                    results[part.tool_call_id] = block
                blocks.append(block)
        for result in results.values():
            if isinstance(result["content"], list):  # without the places of what did not come with it
                result["content"] = [block for block in result["content"] if block]
        return blocks


class _ToolIds:
    """Calls' ids as this API takes them: of few characters, and no two calls of a conversation with the same one. There
    are servers that number the calls of each answer anew. A result answers the latest call of its id that has none."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._open: dict[
            str, list[str]
        ] = {}  # given id -> those that stand for it in the latest turn, not answered yet
        self._latest: dict[str, str] = {}

    def begin(self) -> None:
        """Another turn of the model's."""
        self._open = {}

    def of_call(self, given: str) -> str:
        number, name = 0, _tool_id(given)
        while name in self._taken:
            number += 1
            name = f"call_{digest(f'{given} {number}')}"
        self._taken.add(name)
        self._latest[given] = name
        self._open.setdefault(given, []).append(name)
        return name

    def of_result(self, given: str) -> str:
        waiting = self._open.get(given)
        if waiting:
            return waiting.pop(0)
        return self._latest.get(given) or _tool_id(given)


def encode_part(part: Part, role: str, found: frozenset[str], ids: _ToolIds) -> list[Json]:
    """One of our parts as content blocks; none for what this API has no use for. `found`: tools to refer to."""
    if isinstance(part, Text):
        cited = {"citations": part.citations} if part.citations else {}
        return [{"type": "text", "text": part.text, **cited}] if part.text.strip() else []  # the API refuses blank ones
    if isinstance(part, Image):
        if role == "assistant":
            raise UnsupportedByProvider("an image in an assistant's turn")
        return [{"type": "image", "source": _image_source(part)}]
    if isinstance(part, (Pdf, Cited)):
        if role == "assistant":
            raise UnsupportedByProvider("a document in an assistant's turn")
        return [_document(part) if isinstance(part, Pdf) else {**part.block}]
    if isinstance(part, ToolCall):
        arguments = arguments_object(part.arguments)
        return [{"type": "tool_use", "id": ids.of_call(part.id), "name": part.name, "input": arguments}]
    if isinstance(part, ToolResult):
        content = _rows(part, found) if part.rows or part.references else part.content
        block: Json = {"type": "tool_result", "tool_use_id": ids.of_result(part.tool_call_id), "content": content}
        return [{**block, "is_error": True}] if part.is_error else [block]
    return _thinking(part)


def _rows(result: ToolResult, found: frozenset[str]) -> str | list[Json]:
    """A result's texts and references; _NO_BLOCK holds the place of what it showed."""
    names = [name for name in result.references if name in found]
    if result.references and not names:
        return said_by(result)
    rows = result.rows or (result.content,)
    told = [_NO_BLOCK if row is None else {"type": "text", "text": row} for row in rows if row is None or row.strip()]
    return told + [{"type": "tool_reference", "tool_name": name} for name in names]


def _put_into(result: Json, block: Json) -> None:
    content = result["content"]
    if isinstance(content, str):
        result["content"] = [{"type": "text", "text": content}, block] if content else [block]
    else:
        try:
            content[content.index(_NO_BLOCK)] = block
        except ValueError:
            content.append(block)


def _marked(block: Json, part: Part | Tool, *, marks: bool) -> Json:
    if marks and not isinstance(part, Reasoning) and part.cache_mark and "defer_loading" not in block:
        block["cache_control"] = {"type": "ephemeral"}
    return block


def _tool_id(given: str) -> str:
    """Other providers' ids ("functions.weather:0") in the few characters that this API allows."""
    return given if _TOOL_ID.fullmatch(given) else f"call_{digest(given)}"


def _thinking(part: Reasoning) -> list[Json]:
    if part.redacted:
        return [{"type": "redacted_thinking", "data": part.text}]
    if part.signature and not part.signature.startswith(SIGNATURE_MARK):
        return [{"type": "thinking", "thinking": part.text, "signature": part.signature}]
    return []  # another model's thinking: without a signature the API refuses it, and it is no part of the talk


def _texts_only(turn: Message) -> list[Text]:
    if any(not isinstance(part, Text) for part in turn.parts):
        raise UnsupportedByProvider("a system message that is not text")
    return [part for part in turn.parts if isinstance(part, Text)]


def _document(pdf: Pdf) -> Json:
    by_value = {"type": "base64", "media_type": "application/pdf", "data": pdf.data}
    block: Json = {"type": "document", "source": {"type": "url", "url": pdf.url} if pdf.url else by_value}
    said = {"title": pdf.title, "context": pdf.context}
    return block | {name: value for name, value in said.items() if value}


def _image_source(image: Image) -> Json:
    inline = inline_image(image)
    if inline is None:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": inline[0], "data": inline[1]}


def tool_definition(tool: Tool) -> Json:
    schema = {"type": "object", **(tool.parameters or {"properties": {}})}  # the API wants its type said
    definition: Json = {"name": tool.name, "input_schema": schema}
    if tool.description:
        definition["description"] = tool.description
    if tool.strict:
        definition["strict"] = True
    if tool.deferred:
        definition["defer_loading"] = True
    return definition


def tool_choice(request: ChatRequest) -> Json:
    choice: Json = {}
    if request.tool_choice in ("auto", "none"):
        choice["type"] = request.tool_choice
    elif request.tool_choice == "required":
        choice["type"] = "any"
    elif request.tool_choice:
        choice |= {"type": "tool", "name": request.tool_choice}
    if request.parallel_tool_calls is False and request.tool_choice != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return choice
