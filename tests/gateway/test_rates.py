"""What a key has left of its limits, as the two APIs tell their clients in headers."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.conftest import Gateway
from tests.servers.script import Reply
from ziggie.models import create_api_key

TURNS: Any = [{"role": "user", "content": "hello"}]
OPENAI = "x-ratelimit-{1}-{0}"
ANTHROPIC = "anthropic-ratelimit-{0}-{1}"


def openai_client(gateway: Gateway, key: str) -> Any:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0).chat.completions.with_raw_response


def anthropic_client(gateway: Gateway, key: str) -> Any:
    return anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0).messages.with_raw_response


def told(headers: Any, form: str, kind: str) -> tuple[int, int]:
    return int(headers[form.format(kind, "limit")]), int(headers[form.format(kind, "remaining")])


def names(headers: Any) -> set[str]:
    return {name for name in headers if "ratelimit" in name}


@pytest.mark.parametrize("stream", [False, True])
def test_requests_left_are_told_to_both_clients(gateway: Gateway, stream: bool) -> None:
    _, key = create_api_key("few", requests_per_minute=10)
    first = openai_client(gateway, key).create(model="gpt", messages=TURNS, stream=stream)
    second = anthropic_client(gateway, key).create(model="gpt", max_tokens=9, messages=TURNS, stream=stream)
    assert told(first.headers, OPENAI, "requests") == (10, 9)
    assert told(second.headers, ANTHROPIC, "requests") == (10, 8)
    assert (len(names(first.headers)), len(names(second.headers))) == (3, 3)
    assert re.fullmatch(r"(\d+m)?\d+s", first.headers["x-ratelimit-reset-requests"])
    free_at = datetime.fromisoformat(second.headers["anthropic-ratelimit-requests-reset"])
    assert datetime.now(UTC) - timedelta(minutes=5) < free_at < datetime.now(UTC) + timedelta(minutes=2)


def test_tokens_left_are_told_with_those_of_the_call_itself(gateway: Gateway) -> None:
    _, key = create_api_key("few", tokens_per_minute=5_000)
    gateway.openai.default = Reply("Hi.", input_tokens=500, output_tokens=300)
    client = openai_client(gateway, key)
    first = client.create(model="gpt", messages=TURNS, max_tokens=1_000).headers
    assert told(first, OPENAI, "tokens")[0] == 5_000
    assert 3_900 < told(first, OPENAI, "tokens")[1] < 4_000  # its estimate
    second = client.create(model="gpt", messages=TURNS, max_tokens=1_000).headers
    assert told(first, OPENAI, "tokens")[1] + 200 == told(second, OPENAI, "tokens")[1] + 1_000  # 800 of the first
    assert len(names(second)) == 3


def test_both_limits_are_told_and_embeddings_and_counts_tell_them_too(gateway: Gateway) -> None:
    _, key = create_api_key("few", requests_per_minute=9, tokens_per_minute=9_000)
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)
    embedded = client.embeddings.with_raw_response.create(model="embedder", input=["a", "b"])
    assert (told(embedded.headers, OPENAI, "requests"), len(names(embedded.headers))) == ((9, 8), 6)
    counted = anthropic_client(gateway, key).count_tokens(model="gpt", messages=TURNS)
    assert (told(counted.headers, ANTHROPIC, "requests"), len(names(counted.headers))) == ((9, 7), 6)


def test_who_is_refused_hears_that_nothing_is_left_and_when_something_is(gateway: Gateway) -> None:
    _, key = create_api_key("few", requests_per_minute=1)
    openai_client(gateway, key).create(model="gpt", messages=TURNS)
    with pytest.raises(openai.RateLimitError) as refused:
        openai_client(gateway, key).create(model="gpt", messages=TURNS)
    headers = refused.value.response.headers
    assert told(headers, OPENAI, "requests") == (1, 0)
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", headers["x-ratelimit-reset-requests"]).groups()  # type: ignore[union-attr]
    assert int(minutes or 0) * 60 + int(seconds) == int(headers["retry-after"])
    with pytest.raises(anthropic.RateLimitError) as refused_too:
        anthropic_client(gateway, key).create(model="gpt", max_tokens=9, messages=TURNS)
    assert told(refused_too.value.response.headers, ANTHROPIC, "requests") == (1, 0)


def test_errors_that_come_after_tell_it_too(gateway: Gateway) -> None:
    _, key = create_api_key("few", requests_per_minute=10)
    with pytest.raises(openai.NotFoundError) as refused:
        openai_client(gateway, key).create(model="no-such-model", messages=TURNS)
    assert told(refused.value.response.headers, OPENAI, "requests") == (10, 9)


def test_a_key_without_limits_hears_nothing_of_them(gateway: Gateway) -> None:
    answer = openai_client(gateway, gateway.key).create(model="gpt", messages=TURNS)
    assert not names(answer.headers)


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_told_beside_django_too(mounted: Gateway, stream: bool) -> None:
    _, key = create_api_key("few", requests_per_minute=10, tokens_per_minute=50_000)
    answer = openai_client(mounted, key).create(model="gpt", messages=TURNS, stream=stream)
    assert (told(answer.headers, OPENAI, "requests"), len(names(answer.headers))) == ((10, 9), 6)
