"""Requests that no honest client sends, as bytes, and the statuses that answer them. The table is what the tests
and `python -m bench.bad_input` share."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
TURN = {"role": "user", "content": "hi"}


@dataclass(frozen=True)
class BadRequest:
    """`body` is sent to `path` with a good key and a right length, unless `head` says otherwise."""

    name: str
    statuses: tuple[int, ...]
    body: bytes = b"{}"
    head: str = ""  # further lines
    verb: str = "POST"
    version: str = "1.1"
    framed: bool = True  # a content-length is added
    may_hang_up: bool = False  # a server may close without a word

    def encoded(self, path: str, key: str) -> bytes:
        lines = [f"{self.verb} {path} HTTP/{self.version}", "host: x"]
        lines += [f"x-api-key: {key}"] if "authorization" not in self.head else []
        lines += [f"content-length: {len(self.body)}"] if self.framed else []
        lines += self.head.split("\n") if self.head else []
        return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1") + self.body


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt", "max_tokens": 5, "messages": [TURN], **fields}).encode()


def _deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _with(text: str) -> Callable[[str], bytes]:
    return lambda field: asked().replace(b'"max_tokens": 5', f'"{field}": {text}'.encode())


MILLION = b'{"model":"gpt","max_tokens":5,"messages":[' + b'{"role":"user","content":"x"},' * 600_000 + b"{}]}"
KEYS = asked()[:-1] + b',"metadata":{' + b",".join(b'"k%d":"x"' % n for n in range(500_000)) + b"}}"
LISTS = asked()[:-1] + b',"metadata":[' + b"[]," * 2_000_000 + b"[]]}"
PARTS = (
    b'{"model":"gpt","max_tokens":5,"messages":[{"role":"user","content":[' + b'{"type":"text"},' * 900_000 + b"{}]}]}"
)
MANY_PARTS = asked(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 1_900}] * 24)
ROUND = b'{"model":"gpt","max_tokens":5,"messages":[' + b"{}," * 999_999 + b"{}]}"

BODIES = [
    BadRequest("nothing", (400,), b""),
    BadRequest("half a document", (400,), asked()[:-5]),
    BadRequest("an array", (400,), b"[]"),
    BadRequest("binary", (400,), bytes(range(256))),
    BadRequest("utf-16", (400,), asked().decode().encode("utf-16")),
    BadRequest("a lone surrogate", (400,), asked(messages=[{"role": "user", "content": "\ud800"}])),
    BadRequest("NaN", (400,), _with("NaN")("max_tokens")),
    BadRequest("Infinity", (400,), _with("Infinity")("temperature")),
    BadRequest("a number too large for a float", (400,), _with("1e999")("max_tokens")),
    BadRequest("a number of 5,000 digits", (400,), _with("9" * 5_000)("max_tokens")),
    BadRequest("a negative limit", (400,), asked(max_tokens=-1)),
    BadRequest("no limit left", (400,), asked(max_tokens=0)),
    BadRequest("100,000 levels of arrays", (400,), b"[" * 100_000 + b"]" * 100_000),
    BadRequest("100,000 levels of objects", (400,), b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    BadRequest("900 levels in a schema", (400,), asked(tools=[{"type": "function", "name": "t", "function":
               {"name": "t", "parameters": _deep(900)}, "input_schema": _deep(900)}])),
    BadRequest("900 levels in an unknown field", (400,), asked(surprise=_deep(900))),
    BadRequest("a key twice", (200, 400), asked().replace(b"{", b'{"model": "nobody", ', 1)),
    BadRequest("a million empty messages", (413,), ROUND),
    BadRequest("half a million keys", (413,), KEYS),
    BadRequest("two million lists", (413,), LISTS),
    BadRequest("a million parts", (413,), PARTS),
    BadRequest("45,600 parts of 24 messages", (413,), MANY_PARTS),
    BadRequest("600,000 messages in 18 MB", (413,), MILLION),
    BadRequest("an unknown role", (400,), asked(messages=[{"role": "pirate", "content": "x"}])),
    BadRequest("a message that is a number", (400,), asked(messages=[1])),
    BadRequest("a model of the wrong kind", (400,), asked(model=["gpt"])),
    BadRequest("a NUL in the model's name", (404,), asked(model="g\0pt")),
    BadRequest("3,000 tools", (413,), asked(tools=[{}] * 3_000)),
    BadRequest("a tool without a name", (400,), asked(tools=[{"type": "function", "function": {}}])),
    BadRequest("21 MB of spaces", (413,), b" " * (21 << 20)),
    BadRequest("a compressed body", (415,), gzip.compress(asked()), "content-encoding: gzip"),
    BadRequest("another kind of content", (400,), b"a=b&c=d", "content-type: application/x-www-form-urlencoded"),
]  # fmt: skip
HEADS = [
    BadRequest("an unknown key", (401,), asked(), "authorization: Bearer zg_wrong"),
    BadRequest("a key of 10,000 characters", (401,), asked(), "authorization: Bearer " + "z" * 10_000),
    BadRequest("a key of odd characters", (401,), asked(), "authorization: Bearer zg_\xff\x80"),
    BadRequest("another method", (405,), b"", verb="GET"),
    BadRequest("a method that nobody knows", (400, 405, 501), b"", verb="BREW"),
    BadRequest("a hint that is no text", (400,), b"{}", "x-ziggie-complexity: \xff\xfe"),
    BadRequest("a length that is no number", (400,), asked(), "content-length: five", framed=False),
    BadRequest("a negative length", (400,), asked(), "content-length: -5", framed=False),
    BadRequest("two lengths", (400,), asked(), "content-length: 5"),
    BadRequest("a length of 16 digits", (413,), asked(), "content-length: 1000000000000000", framed=False),
    BadRequest("a length of 30 digits", (400, 413), asked(), "content-length: " + "9" * 30, framed=False),
    BadRequest("two hosts", (400,), asked(), "host: y"),
    BadRequest("a version that nobody speaks here", (400, 505), asked(), version="2.0"),
    BadRequest("a version that nobody speaks", (400,), asked(), version="3.7"),
    BadRequest("a name with a space", (400,), asked(), "bad name: x"),
    BadRequest("a NUL in a header", (400,), asked(), "x-odd: a\0b"),
    BadRequest("a head of 100,000 bytes", (431,), b"", "x-long: " + "a" * 100_000, may_hang_up=True),
    BadRequest("5,000 headers", (431,), b"", "\n".join(f"x-{n}: 0123456789" for n in range(5_000)), may_hang_up=True),
    BadRequest("a negative chunk", (400,), b"-5\r\nx\r\n0\r\n\r\n", "transfer-encoding: chunked", framed=False),
    BadRequest("a chunk that is no number", (400,), b"zz\r\nx\r\n0\r\n\r\n", "transfer-encoding: chunked",
               framed=False),
]  # fmt: skip
