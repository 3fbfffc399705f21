"""The three wire APIs of chat: how each is read and written, and what stands in the heads of answers."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from routing import service
from routing.gateway.access.limits import Standing
from routing.gateway.access.rates import anthropic_headers, openai_headers
from routing.gateway.exchange.http import Headers, header_text
from routing.gateway.wire import (
    anthropic_answers,
    anthropic_wire,
    openai_answers,
    openai_wire,
    responses_answers,
    responses_events,
    responses_wire,
)
from routing.gateway.wire.reading import Incoming, Json
from routing.types import Candidate, Delta, StopReason, Usage
from routing.walk.attempts import Answer
from ziggie.errors import ZiggieError
from ziggie.values import value


class StreamEncoder(Protocol):
    def deltas(self, deltas: list[Delta]) -> bytes: ...

    def end(self, stop_reason: StopReason, usage: Usage) -> bytes: ...

    def failure(self, error: ZiggieError) -> bytes: ...


@value
class Dialect:
    """One wire API."""

    decode: Callable[[Json, Mapping[str, str], str], Incoming]
    encode: Callable[[Answer, str, str, Incoming], bytes]
    streaming: Callable[[str, str, Incoming, int], StreamEncoder]
    error: Callable[[ZiggieError, int, str], bytes]
    request_id_header: bytes
    rates: Callable[[Standing], Headers]

    def request_id(self, request_id: str) -> Headers:
        """The id under our name and under the one that the API's clients look for."""
        encoded = request_id.encode()
        return [(b"x-ziggie-request-id", encoded), (self.request_id_header, encoded)]


OPENAI = Dialect(
    lambda body, hints, key_id: openai_wire.decode_chat(body, hints, api_key_id=key_id),
    lambda answer, call_id, model, _: openai_answers.encode_result(
        answer.result, call_id=call_id, model=model, others=answer.others
    ),
    lambda call_id, model, incoming, _: openai_answers.StreamEncoder(
        call_id=call_id, model=model, include_usage=incoming.include_usage
    ),
    openai_answers.encode_error,
    b"x-request-id",
    openai_headers,
)
RESPONSES = Dialect(
    lambda body, hints, key_id: responses_wire.decode_response(body, hints, api_key_id=key_id),
    lambda answer, call_id, model, incoming: responses_answers.encode_result(
        answer.result, call_id=call_id, model=model, incoming=incoming
    ),
    lambda call_id, model, incoming, _: responses_events.StreamEncoder(call_id=call_id, model=model, incoming=incoming),
    openai_answers.encode_error,
    b"x-request-id",
    openai_headers,
)
ANTHROPIC = Dialect(
    lambda body, hints, key_id: anthropic_wire.decode_messages(body, hints, api_key_id=key_id),
    lambda answer, call_id, model, _: anthropic_answers.encode_result(answer.result, call_id=call_id, model=model),
    lambda call_id, model, _, prompt: anthropic_answers.StreamEncoder(
        call_id=call_id, model=model, input_tokens=prompt
    ),
    anthropic_answers.encode_error,
    b"request-id",
    anthropic_headers,
)


def call_headers(call: service.OpenCall, name: str, candidate: Candidate, dialect: Dialect) -> Headers:
    """`name` is the call's id."""
    model = candidate.model
    attempts = max(len(call.walk.attempts), 1)
    return [
        *dialect.request_id(name),
        *route_headers(model.slug, model.provider.slug, str(model.source), call.plan.rule),
        (b"x-ziggie-attempts", b"%d" % attempts),
        (b"x-ziggie-cache", call.turn.state.encode()),
    ]


@lru_cache(maxsize=4096)
def route_headers(model: str, provider: str, source: str, rule: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-ziggie-model", header_text(model)),
        (b"x-ziggie-provider", header_text(provider)),
        (b"x-ziggie-source", header_text(source)),
        (b"x-ziggie-rule", header_text(rule)),
    )
