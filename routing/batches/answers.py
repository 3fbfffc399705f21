"""A batch's answer, put through the walk that every answer goes through: judged, counted, priced."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from routing.adapters import CODECS, claude_batches
from routing.adapters.answers.assembly import deltas_of
from routing.adapters.base import WireRequest
from routing.adapters.claude_batches import BatchLine
from routing.adapters.sending.delivery import begun
from routing.types import Candidate, ChatRequest, ChatResult, Delta, Features, Plan, ProviderError, RuleOptions
from routing.walk.reaching import Requests


def plan_of(decision: dict[str, Any], candidate: Candidate) -> Plan:
    """The decision that a receipt will bear, with the one model that the batch asked, once."""
    features = decision["features"]
    sets = {name: frozenset(features[name]) for name in ("capabilities", "estimated")}
    return Plan(
        policy=decision["policy"],
        version=decision["policy_version"],
        rule=decision["rule"],
        pattern="single",
        options=RuleOptions(max_attempts=1, first_token_seconds=None),
        features=Features(**{**features, **sets}),
        candidates=(candidate,),
        dropped=(),
    )


def wire(request: ChatRequest, candidate: Candidate) -> WireRequest:
    """A request as a batch holds it. Raises ProviderError, RoutingError or ValueError where none can hold it."""
    codec = CODECS[candidate.model.provider.kind]()
    return codec.encode_chat(request, candidate.model, max_output_tokens=candidate.max_output_tokens, stream=False)


class Told:
    """Answers a walk with what a batch said."""

    def __init__(self, line: BatchLine, sent: WireRequest) -> None:
        self._line, self._sent = line, sent

    async def ask(
        self, candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[list[Delta], None]:
        begun()
        if self._line.kind != "succeeded":
            raise ProviderError("bad_request", self._line.problem, retryable=False)
        result: ChatResult = claude_batches.read(self._line, self._sent)
        yield list(deltas_of(result))


class Nobody:
    """What a batch says of its requests says nothing about how the provider answers calls."""

    def slot(
        self, candidate: Candidate, *, wait_seconds: float, requests: Requests | None = None
    ) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def succeeded(self, candidate: Candidate) -> None: ...

    async def failed(
        self, candidate: Candidate, error: ProviderError, *, unheard: ChatRequest | None = None
    ) -> None: ...
