"""OpenAI's responses API: the official client, served by each kind of provider."""

from typing import Any

import pytest

from routing.models import UsageRecord
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import MODELS, openai_client, set_reply
from tests.servers.script import Reply

PRICES = {"gpt": (1, 5), "claude": (3, 15), "llama": (0, 0), "flash": (2, 10), "command": (4, 20)}


@pytest.mark.parametrize("model", MODELS)
def test_a_whole_answer_comes_from_every_provider(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply("Hello, Ada.", input_tokens=11, output_tokens=5))
    raw = openai_client(gateway).responses.with_raw_response.create(
        model=model, input="Say hello.", instructions="Be brief.", max_output_tokens=50
    )
    answer = raw.parse()
    assert (answer.output_text, answer.status, answer.model) == ("Hello, Ada.", "completed", model)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (11, 5, 16)
    (receipt,) = gateway.settled(1)
    assert answer.id == f"resp_{receipt.id}"
    assert raw.headers["x-request-id"] == raw.headers["x-ziggie-request-id"] == str(receipt.id)
    input_price, output_price = PRICES[model]
    assert receipt.cost_microusd == 11 * input_price + 5 * output_price
    assert raw.headers["x-ziggie-cost-usd"] == f"0.{receipt.cost_microusd:06d}"


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_comes_from_every_provider(gateway: Gateway, model: str) -> None:
    text = "A longer answer that comes in many pieces, with ünïcode and 🦉."
    set_reply(gateway, Reply(text, input_tokens=11, output_tokens=5))
    asked: dict[str, Any] = {"model": model, "input": [{"role": "user", "content": "Say hello."}]}
    with openai_client(gateway).responses.stream(**asked) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert answer.output_text == text
    assert answer.usage is not None
    assert answer.usage.total_tokens == 16
    record = UsageRecord.objects.get() if gateway.settled(1) else None
    assert record is not None
    assert (record.input_tokens, record.output_tokens, record.estimated) == (11, 5, [])
