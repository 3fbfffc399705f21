"""Clients that ask again by themselves: when they may, and that nothing is paid twice."""

import anthropic
import httpx2
import openai
import pytest

from routing.models import Circuit, UsageRecord
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_clients import QUESTION
from tests.servers.script import Reply

BUSY = Reply(status=429, error="slow down", headers={"retry-after": "2"})


def ask(gateway: Gateway, path: str = "/v1/chat/completions") -> httpx2.Response:
    body = {"model": "gpt", "messages": QUESTION, "max_tokens": 20}
    return httpx2.post(f"{gateway.url}{path}", headers=gateway.headers, json=body, timeout=60)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_who_asks_too_early_hears_when_to_ask_again(gateway: Gateway, path: str) -> None:
    gateway.openai.default = BUSY
    refused = ask(gateway, path)
    assert (refused.status_code, refused.headers["retry-after"]) == (502, "2"), "as the provider said"
    answers = [refused]

    def is_left_alone() -> bool:
        answers.append(ask(gateway, path))
        return answers[-1].status_code == 503

    wait_until(is_left_alone)
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 30, "the model's circuit says it"
    assert Circuit.objects.filter(state="open").exists()
    gateway.settled(len(answers) - 1)


def test_a_failure_that_says_nothing_of_it_names_no_time(gateway: Gateway) -> None:
    gateway.openai.default = Reply(status=500, error="broken")
    refused = ask(gateway)
    assert (refused.status_code, "retry-after" in refused.headers) == (502, False)
    gateway.settled(1)


def busy(seconds: int) -> Reply:
    return Reply(status=429, error="slow down", headers={"retry-after": str(seconds)})


REFUSED = Reply(status=400, error="no such thing", headers={"retry-after": "7"})
BROKEN = Reply(status=500, error="broken")


@pytest.mark.parametrize(
    ("models", "status", "told"),
    [
        ((busy(7_200), busy(5)), 502, "5"),
        ((busy(5), busy(7_200)), 502, "5"),
        ((busy(7_200), busy(9_000)), 502, "300"),
        ((busy(30), BROKEN), 502, None),
        ((BROKEN, busy(30)), 502, None),
        ((busy(30), REFUSED), 502, "30"),
        ((busy(30), Reply(status=401, error="who?")), 502, "30"),
        ((REFUSED, REFUSED), 400, None),
    ],
)
@pytest.mark.parametrize("answers", [1, 2])
def test_it_is_told_when_the_first_of_those_that_were_asked_may_be_asked_again(
    gateway: Gateway, answers: int, models: tuple[Reply, Reply], status: int, told: str | None
) -> None:
    gateway.openai.default, gateway.ollama.default = models
    body = {"model": "auto", "messages": QUESTION, "max_tokens": 20, "n": answers}
    refused = httpx2.post(f"{gateway.url}/v1/chat/completions", headers=gateway.headers, json=body, timeout=60)
    assert (refused.status_code, refused.headers.get("retry-after")) == (status, told), refused.text
    assert gateway.openai.calls
    assert gateway.ollama.calls
    gateway.settled(1)


@pytest.mark.parametrize("failing", [Reply(status=500, error="broken"), Reply(fault="reset")])
def test_openais_client_asks_again_and_pays_once(gateway: Gateway, failing: Reply) -> None:
    gateway.openai.default = Reply("Hello.", input_tokens=11, output_tokens=5)
    gateway.openai.queue(failing)
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=2)
    answer = client.chat.completions.create(model="gpt", messages=QUESTION)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "Hello."
    gateway.settled(2)
    paid = list(UsageRecord.objects.order_by("id").values_list("outcome", "cost_microusd"))
    assert [cost for outcome, cost in paid if outcome == "ok"] == [11 + 25]
    if failing.status == 500:
        assert [cost for outcome, cost in paid if outcome != "ok"] == [0]


def test_anthropics_client_asks_again_and_pays_once(gateway: Gateway) -> None:
    gateway.anthropic.default = Reply("Hello.", input_tokens=11, output_tokens=5)
    gateway.anthropic.queue(Reply(status=529, error="Overloaded"))
    client = anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=2)
    with client.messages.stream(model="claude", max_tokens=20, messages=QUESTION) as stream:  # type: ignore[arg-type]
        assert stream.get_final_text() == "Hello."
    gateway.settled(2)
    assert sum(UsageRecord.objects.values_list("cost_microusd", flat=True)) == 11 * 3 + 5 * 15


def test_mistrals_word_for_a_call_that_must_be_is_known(gateway: Gateway) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "gpt", "messages": QUESTION, "tools": [tool], "tool_choice": "any"}
    httpx2.post(f"{gateway.url}/v1/chat/completions", headers=gateway.headers, json=body, timeout=60)
    assert gateway.openai.calls[-1].json["tool_choice"] == "required"
    gateway.settled(1)
