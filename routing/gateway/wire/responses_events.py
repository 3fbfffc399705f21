"""PURE: streamed answers as the events of OpenAI's responses API: items that open, grow and close, each told whole at
its end, and the whole answer at the end of all."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from routing.gateway.wire.openai_answers import error_object
from routing.gateway.wire.reading import Incoming, Json
from routing.gateway.wire.responses_answers import Answer, ending, said, summary, with_bytes
from routing.types import Delta, Reasoning, StopReason, ToolCall, Usage
from ziggie.errors import RateLimited, ZiggieError

_MOST_LOOKS = 8  # at a call that grows on while new items begin: after them it ends with the answer


@dataclass(slots=True)
class _Message:
    """A message that grows. `refuses` says of which kind its open part is; None: there is none. `head`: how the events
    begin that tell its text, up to their number."""

    place: int
    head: bytes = b""
    content: list[Json] = field(default_factory=list)
    refuses: bool | None = None
    text: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class _Thinking:
    place: int
    text: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    place: int
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)
    last: str = ""  # character of the arguments that is no space
    looks: int = 0

    def add(self, arguments: str) -> None:
        self.arguments.append(arguments)
        self.last = arguments.rstrip()[-1:] or self.last

    def is_whole(self) -> bool:
        """True for arguments that nothing can be added to. To be asked once they grew: it reads all of them, and so
        not for ever."""
        if self.last != "}" or self.looks == _MOST_LOOKS:
            return False
        self.looks += 1
        try:
            return isinstance(orjson.loads("".join(self.arguments)), dict)
        except orjson.JSONDecodeError:
            return False


class StreamEncoder:
    """One answer as events. An item ends where the next one begins; a call whose arguments are not whole by then grows
    beside it."""

    def __init__(self, *, call_id: str, model: str, incoming: Incoming) -> None:
        self._answer = Answer(call_id=call_id, model=model, incoming=incoming)
        self._number = 0
        self._events: list[bytes] = []  # not taken yet
        self._output: list[Json] = []  # as its items stand; those that are open without what they hold
        self._open: _Message | _Thinking | None = None
        self._calls: dict[int, _Call] = {}  # the open ones, by the model's own number
        self._grown: dict[int, None] = {}  # those of them that grew since the last item began
        self._closed: set[int] = set()
        self._refused = False

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """These deltas as bytes of the stream; empty if a client would see nothing of them."""
        for delta in deltas:
            if delta.is_output or delta.reasoning_signature or delta.logprobs:
                self._begin()
                self._delta(delta)
        return self._taken()

    def end(self, stop_reason: StopReason, usage: Usage) -> bytes:
        self._begin()
        if not self._output:
            self._say(Delta())
        status, reason = ending(stop_reason, refused=self._refused)
        last = len(self._output) - 1
        for number, call in list(self._calls.items()):
            self._end_call(number, status if call.place == last else "completed")
        self._close(status)
        response = self._answer.response(status, self._output, reason=reason, usage=usage)
        self._event(f"response.{status}", response=response)
        return self._taken()

    def failure(self, error: ZiggieError) -> bytes:
        """The error, which ends the stream for some clients, and the answer as far as it came, which ends it for the
        others."""
        self._begin()
        told = error_object(error, error.http_status)
        self._event("error", code=told["code"], message=told["message"], param=told["param"], error=told)
        code = "rate_limit_exceeded" if isinstance(error, RateLimited) else "server_error"
        failed = self._answer.response("failed", self._output, error={"code": code, "message": error.message})
        self._event("response.failed", response=failed)
        return self._taken()

    # --- events and items ---

    def _event(self, name: str, /, **fields: object) -> None:
        told = orjson.dumps({"type": name, "sequence_number": self._number, **fields}, default=str)
        self._number += 1
        self._events.append(b"event: " + name.encode() + b"\ndata: " + told + b"\n\n")

    def _taken(self) -> bytes:
        taken, self._events = b"".join(self._events), []
        return taken

    def _begin(self) -> None:
        if self._number == 0:
            response = self._answer.response("in_progress", [])
            self._event("response.created", response=response)
            self._event("response.in_progress", response=response)

    def _delta(self, delta: Delta) -> None:
        if delta.reasoning or delta.reasoning_signature:
            self._think(delta)
        if delta.text or delta.logprobs:
            self._say(delta)
        if delta.tool_index is not None and delta.tool_index not in self._closed:
            self._call(delta, delta.tool_index)

    def _add(self, item: Json) -> None:
        self._event("response.output_item.added", output_index=len(self._output), item=item)
        self._output.append(item)

    def _done(self, place: int, item: Json) -> None:
        self._output[place] = item
        self._event("response.output_item.done", output_index=place, item=item)

    def _next_place(self) -> int:
        """Where the next item stands, once what is before it is closed."""
        self._close()
        grown, self._grown = self._grown, {}
        for number in grown:
            if self._calls[number].is_whole():
                self._end_call(number, "completed")
        return len(self._output)

    def _close(self, status: str = "completed") -> None:
        item, self._open = self._open, None
        if isinstance(item, _Message):
            self._end_part(item)
            self._done(item.place, self._answer.message(item.place, status, item.content))
        elif item is not None:
            self._end_thinking(item, Reasoning("".join(item.text)), status)

    # --- text ---

    def _say(self, delta: Delta) -> None:
        message = self._open if isinstance(self._open, _Message) else self._new_message()
        if message.refuses is not delta.refuses:
            self._end_part(message)
            message.refuses = delta.refuses
            self._refused = self._refused or delta.refuses
            self._part_event("response.content_part.added", message, part=said("", refuses=delta.refuses))
            message.head = self._head_of_deltas(message)
        message.text.append(delta.text)
        if delta.refuses:
            self._part_event("response.refusal.delta", message, delta=delta.text)
        elif delta.logprobs:
            told = with_bytes(delta.logprobs)
            message.logprobs += told
            self._part_event("response.output_text.delta", message, delta=delta.text, logprobs=told)
        elif delta.text:  # nearly all events of most answers
            self._events.append(b'%b%d,"delta":%b}\n\n' % (message.head, self._number, orjson.dumps(delta.text)))
            self._number += 1

    def _head_of_deltas(self, message: _Message) -> bytes:
        place, index = message.place, len(message.content)
        told: Json = {"type": "response.output_text.delta", "item_id": self._answer.id("msg", place), "logprobs": []}
        told |= {"output_index": place, "content_index": index}
        return b"event: response.output_text.delta\ndata: " + orjson.dumps(told)[:-1] + b',"sequence_number":'

    def _new_message(self) -> _Message:
        message = self._open = _Message(self._next_place())
        self._add(self._answer.message(message.place, "in_progress", []))
        return message

    def _end_part(self, message: _Message) -> None:
        if message.refuses is None:
            return
        text = "".join(message.text)
        if message.refuses:
            self._part_event("response.refusal.done", message, refusal=text)
        else:
            self._part_event("response.output_text.done", message, text=text, logprobs=message.logprobs)
        part = said(text, refuses=message.refuses, logprobs=message.logprobs)
        self._part_event("response.content_part.done", message, part=part)
        message.content.append(part)
        message.refuses, message.text, message.logprobs = None, [], []

    def _part_event(self, name: str, message: _Message, /, **fields: object) -> None:
        place, index = message.place, len(message.content)
        self._event(name, item_id=self._answer.id("msg", place), output_index=place, content_index=index, **fields)

    # --- thinking ---

    def _think(self, delta: Delta) -> None:
        """A redacted block is an item, and so is what a signature ends: thinking that follows is another."""
        thinking = self._open if isinstance(self._open, _Thinking) else None
        if thinking is None or delta.reasoning_redacted:
            thinking = self._new_thinking()
        if delta.reasoning and not delta.reasoning_redacted:
            if not thinking.text:
                self._summary_event(
                    "response.reasoning_summary_part.added", thinking, part={"type": "summary_text", "text": ""}
                )
            thinking.text.append(delta.reasoning)
            self._summary_event("response.reasoning_summary_text.delta", thinking, delta=delta.reasoning)
        if delta.reasoning_redacted:
            self._open = None
            self._end_thinking(thinking, Reasoning(delta.reasoning, redacted=True))
        elif delta.reasoning_signature:
            self._open = None
            self._end_thinking(thinking, Reasoning("".join(thinking.text), delta.reasoning_signature))

    def _new_thinking(self) -> _Thinking:
        thinking = self._open = _Thinking(self._next_place())
        self._add(self._answer.thinking(thinking.place, "in_progress", Reasoning("")))
        return thinking

    def _end_thinking(self, thinking: _Thinking, whole: Reasoning, status: str = "completed") -> None:
        for part in summary(whole):
            self._summary_event("response.reasoning_summary_text.done", thinking, text=whole.text)
            self._summary_event("response.reasoning_summary_part.done", thinking, part=part)
        self._done(thinking.place, self._answer.thinking(thinking.place, status, whole))

    def _summary_event(self, name: str, thinking: _Thinking, /, **fields: object) -> None:
        place = thinking.place
        self._event(name, item_id=self._answer.id("rs", place), output_index=place, summary_index=0, **fields)

    # --- calls ---

    def _call(self, delta: Delta, number: int) -> None:
        call = self._calls.get(number)
        if call is None:
            call = self._calls[number] = _Call(self._next_place(), delta.tool_id, delta.tool_name)
            self._add(self._answer.call(call.place, "in_progress", ToolCall(call.id, call.name, "")))
        if delta.tool_arguments:
            call.add(delta.tool_arguments)
            self._grown[number] = None
            self._arguments_event("response.function_call_arguments.delta", call, delta=delta.tool_arguments)

    def _end_call(self, number: int, status: str) -> None:
        call = self._calls.pop(number)
        self._closed.add(number)
        if not call.arguments:
            call.arguments.append("{}")
            self._arguments_event("response.function_call_arguments.delta", call, delta="{}")
        arguments = "".join(call.arguments)
        item = self._answer.call(call.place, status, ToolCall(call.id, call.name, arguments))
        self._arguments_event("response.function_call_arguments.done", call, name=item["name"], arguments=arguments)
        self._done(call.place, item)

    def _arguments_event(self, name: str, call: _Call, /, **fields: object) -> None:
        self._event(name, item_id=self._answer.id("fc", call.place), output_index=call.place, **fields)
