"""Anthropic's Message Batches, through the anthropic package: many requests at half price, answered within a day."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from routing.adapters import CODECS, transport
from routing.adapters.anthropic import claude
from routing.adapters.anthropic.answers import read_message
from routing.adapters.base import WireRequest, WireResponse
from routing.types import ChatResult, ProviderError, ProviderSpec

if TYPE_CHECKING:
    # As in claude.py: loading the package costs a second and 47 MB.
    from anthropic import AsyncAnthropic

KIND = "anthropic"
CREATE_SECONDS = 300.0
POLL_SECONDS = 30.0
RESULTS_SECONDS = 900.0
MOST_LISTED = 1_000
_STATUS_PATH = "/v1/models?limit=1000"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """What became of one request. `message` is Anthropic's answer if it succeeded, `problem` why it did not."""

    custom_id: str
    kind: Literal["succeeded", "errored", "canceled", "expired"]
    message: dict[str, Any]
    problem: str = ""


async def create(provider: ProviderSpec, requests: Sequence[tuple[str, WireRequest]]) -> str:
    """The id of the new batch. Raises ProviderError."""
    wanted: Any = [
        {"custom_id": custom_id, "params": {k: v for k, v in (sent.body or {}).items() if k != "stream"}}
        for custom_id, sent in requests
    ]
    async with _client(provider, CREATE_SECONDS) as client:
        batch = await client.messages.batches.create(requests=wanted)
        return batch.id


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch that the provider has, with how many requests."""

    id: str
    created_at: datetime
    requests: int


async def since(provider: ProviderSpec, moment: datetime) -> list[RemoteBatch]:
    """The provider's batches that were made since, the oldest first, at most MOST_LISTED. Raises ProviderError."""
    found: list[RemoteBatch] = []
    async with _client(provider, POLL_SECONDS) as client:
        async for batch in client.messages.batches.list(limit=100):  # the newest come first
            if batch.created_at < moment or len(found) >= MOST_LISTED:
                break
            counts = batch.request_counts
            told = (counts.processing, counts.succeeded, counts.errored, counts.canceled, counts.expired)
            found.append(RemoteBatch(batch.id, batch.created_at, sum(told)))
    return found[::-1]


async def state_of(provider: ProviderSpec, batch_id: str) -> str:
    """ "in_progress", "canceling" or "ended". Raises ProviderError; of the kind not_found for a batch that is gone."""
    async with _client(provider, POLL_SECONDS) as client:
        batch = await client.messages.batches.retrieve(batch_id)
        return batch.processing_status


async def cancel(provider: ProviderSpec, batch_id: str) -> None:
    """Has the provider stop; what it has answered by then is paid. Raises ProviderError."""
    async with _client(provider, POLL_SECONDS) as client:
        await client.messages.batches.cancel(batch_id)


async def results(provider: ProviderSpec, batch_id: str) -> AsyncGenerator[BatchLine, None]:
    """The lines of an ended batch, in any order. Raises ProviderError."""
    async with _client(provider, RESULTS_SECONDS) as client:
        async for line in await client.messages.batches.results(batch_id):
            result: Any = line.result
            message = result.message.model_dump(mode="json") if result.type == "succeeded" else {}
            problem = result.error.error.message if result.type == "errored" else result.type
            yield BatchLine(line.custom_id, result.type, message, problem if result.type != "succeeded" else "")


def read(line: BatchLine, sent: WireRequest) -> ChatResult:
    """The answer of a line that succeeded. Raises ProviderError for one that is no answer."""
    return read_message(line.message, sent)


@asynccontextmanager
async def _client(provider: ProviderSpec, seconds: float) -> AsyncIterator["AsyncAnthropic"]:
    await claude.load()
    from anthropic import AnthropicError, APIConnectionError, APIStatusError, AsyncAnthropic

    codec = CODECS[KIND]()
    (status,) = codec.encode_status(provider)
    client = AsyncAnthropic(
        api_key=provider.api_key,
        base_url=status.url.removesuffix(_STATUS_PATH),
        http_client=transport.http_client(status.url),
        max_retries=0,
        timeout=seconds,
    )
    try:
        async with asyncio.timeout(seconds):
            yield client
    except APIStatusError as error:
        response = error.response
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise codec.decode_error(WireResponse(response.status_code, headers, response.content), status) from None
    except (TimeoutError, APIConnectionError) as error:
        raise ProviderError("connection", f"{provider.slug} does not answer", retryable=True) from error
    except (AnthropicError, ValueError, AttributeError, TypeError) as error:
        raise ProviderError("protocol", f"{provider.slug} answers what is no batch", retryable=True) from error
