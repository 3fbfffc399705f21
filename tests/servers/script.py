"""What a test server is told to answer: replies, the rules that choose one, and what was received."""

import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Fault = Literal[
    "",
    "hang",  # takes the request and never answers
    "reset",  # breaks the connection before the head
    "not_http",  # answers something that is not HTTP
    "empty",  # 200 with an empty body
    "garbage",  # 200 with bytes that are no JSON; in a stream: such an event
    "truncated",  # 200 with half of its JSON, and a content-length that fits
    "html",  # 200 with a web page
    "wrong_schema",  # 200 with JSON of another shape
    "cut",  # breaks the connection in mid-answer (streams: after `fault_after` pieces)
    "end_early",  # ends the stream properly, but before the answer is complete
    "left",  # as llama-cpp-python when another request comes: done without a reason, and breaks the connection
    "stall",  # sends `fault_after` pieces, then nothing more
    "error_in_stream",  # reports an error inside a 200 (streams: after `fault_after` pieces)
    "huge",  # sends a body without end, 1 MB at a time
]


@dataclass(frozen=True)
class Call:
    """A tool call in an answer."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """One answer. Times are seconds. Token counts left None are worked out as characters / 4."""

    text: str = "Hello from the test server."
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    stop: Literal["", "length", "content_filter"] = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage: bool = True  # False: the server does not report usage
    piece: int = 4  # characters of a streamed piece
    latency: float = 0.0  # before the head
    first_token: float = 0.0  # before the first piece (or before the whole, if not streaming)
    per_piece: float = 0.0  # between pieces
    fault: Fault = ""
    fault_after: int = 1
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None  # sent as it is (str, or JSON), whatever the status
    error: str = ""  # the message of an error in the API's own shape
    error_type: str = ""
    model: str = ""  # the model name reported, if not the one asked for
    packed: bool = False  # comes as gzip, whether or not that was asked for
    cited: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] = ()  # Anthropic's texts, with citations
    after: threading.Event | None = None  # what the head waits for, however long that takes

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Reply":
        """A reply from its JSON form."""
        values = dict(value)
        values["calls"] = tuple(Call(**call) for call in values.get("calls", ()))
        return cls(**values)

    @property
    def pieces(self) -> list[str]:
        return [self.text[at : at + self.piece] for at in range(0, len(self.text), self.piece)]


@dataclass(frozen=True)
class Received:
    """A request as it came. `json` is None where the body is no JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    json: Any
    at: float


@dataclass
class Rule:
    """A reply for the requests that match: by model, by words anywhere in the body, by the path's start."""

    reply: Reply
    model: str = ""
    contains: str = ""
    path: str = ""
    times: int | None = None

    def matches(self, received: Received, model: str) -> bool:
        return (
            (self.times is None or self.times > 0)
            and (not self.model or self.model == model)
            and (not self.path or received.path.startswith(self.path))
            and (not self.contains or self.contains in json.dumps(received.json, ensure_ascii=False))
        )


class Script:
    """Chooses the reply to a call: first what is queued, then the first rule that matches, then the default."""

    def __init__(self) -> None:
        self.default = Reply()
        self.queued: deque[Reply] = deque()
        self.rules: list[Rule] = []

    def load(self, script: Mapping[str, Any]) -> None:
        self.default = Reply.of(script.get("default", {}))
        self.queued = deque(Reply.of(reply) for reply in script.get("queue", ()))
        self.rules = [Rule(**{**rule, "reply": Reply.of(rule.get("reply", {}))}) for rule in script.get("rules", ())]

    def choose(self, received: Received, model: str) -> Reply:
        if self.queued:
            return self.queued.popleft()
        for rule in self.rules:
            if rule.matches(received, model):
                if rule.times is not None:
                    rule.times -= 1
                return rule.reply
        return self.default
