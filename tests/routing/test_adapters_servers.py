"""What single servers make of OpenAI's and Anthropic's APIs: answers as their recordings and reports show them."""
# ruff: noqa: E501 - answers are written as they come

import json
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_response
from routing.adapters.sending.rewording import again
from routing.gateway.wire import anthropic_answers
from routing.types import (
    ChatRequest,
    ChatResult,
    Message,
    ProviderError,
    Tool,
    message,
)
from tests.routing.adapters_support import ask, model, provider, run_decoder
from tests.routing.test_adapters_dialects import (
    CITY,
    START,
    Read,
    block,
    chunk,
    completion,
    ended,
    events,
    sse,
)

FORMAT = {"response_format": {"type": "json_schema"}}
TOOLS = {"tools": [{"type": "function", "function": {"name": name}} for name in ("now", "lookup", "lookup_all")]}


def read(kind: str, body: bytes, asked: dict[str, Any]) -> ChatResult:
    codec, sent = CODECS[kind](), WireRequest("POST", "x", body=asked)
    if not body.startswith((b"data:", b"event:", b":")):
        return codec.decode_chat(WireResponse(200, {}, body), sent)
    results = []
    for size in (1, 11, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        deltas, error = run_decoder(lambda: codec.chat_stream(sent), pieces)
        if error is not None:
            raise error
        assembler = Assembler()
        for delta in deltas:
            assembler.add(delta)
        results.append(assembler.result())
    assert results[0] == results[1] == results[2]
    return results[0]


def part(index: int, name: str | None, arguments: str, identity: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": identity, "function": {"name": name, "arguments": arguments}}


def annotation(finish: str | None = None) -> dict[str, Any]:
    choice = {
        "content_filter_offsets": {"check_offset": 9},
        "content_filter_results": {},
        "finish_reason": finish,
        "index": 0,
    }
    return {"choices": [choice], "created": 0, "id": "", "model": "", "object": ""}


HELD = [{"type": "text", "text": "Hi"}]
THOUGHT = {
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Hm", "signature": "s"}, {"type": "summary_text", "text": "."}],
}

ANSWERS: dict[str, tuple[str, bytes, dict[str, Any], Read]] = {
    "cloudflare: the JSON as an object": (
        "openai", completion({"content": {"city": "Oslo"}, "refusal": None}), FORMAT, Read('{"city":"Oslo"}')),
    "databricks: thinking in a block": (
        "openai", completion({"content": [THOUGHT, *HELD]}), {}, Read("Hi", "Hm.")),
    "databricks: thinking in a block, streamed": (
        "openai", sse(chunk(role="assistant", content=[THOUGHT]), chunk("stop", content=HELD)), {}, Read("Hi", "Hm.")),
    "text-generation-inference: one call without a list": (
        "openai", sse(*(chunk(role="assistant", tool_calls={"index": 0, "id": "c1", "type": "function", "function":
            {"name": "weather", "arguments": text}}) for text in ('{"city"', ': "Oslo"}')), chunk("tool_calls")), {},
        Read(calls=(("c1", "weather", CITY),), stop="tool_calls")),
    "a name that goes on behind the arguments, two calls at once": (
        "openai", sse(chunk(tool_calls=[part(0, "look", '{"n":', "a"), part(1, "lookup", '{"n":', "b")]),
            chunk(tool_calls=[part(1, None, "2}"), part(0, "up", "1}")]), chunk("tool_calls")), TOOLS,
        Read(calls=(("a", "lookup", '{"n":1}'), ("b", "lookup", '{"n":2}')), stop="tool_calls")),
    "a tool whose name begins another's": (
        "openai", sse(chunk(tool_calls=[part(0, "lookup", '{"n":', "a")]), chunk(tool_calls=[part(0, None, "1}")]),
            chunk("tool_calls")), TOOLS, Read(calls=(("a", "lookup", '{"n":1}'),), stop="tool_calls")),
    "a half name is all there is": (
        "openai", sse(chunk(tool_calls=[part(0, "loo", '{"n":1}', "a")]), chunk("tool_calls")), TOOLS,
        Read(calls=(("a", "loo", '{"n":1}'),), stop="tool_calls")),
    "vllm: a named function ends with stop": (
        "openai", sse(chunk(tool_calls=[part(0, "now", "{}", "a")]), chunk("stop")), TOOLS,
        Read(calls=(("a", "now", "{}"),), stop="tool_calls")),
    "lm studio: the JSON as thinking": (
        "openai", completion({"content": "", "reasoning_content": ' {"city": "Oslo"}\n'}), FORMAT, Read('{"city": "Oslo"}')),
    "lm studio: the JSON as thinking, streamed": (
        "openai", sse(chunk(role="assistant", reasoning_content='{"city": '), chunk(reasoning_content='"Oslo"}'), chunk("stop")),
        FORMAT, Read('{"city": "Oslo"}', '{"city": "Oslo"}')),
    "thinking of JSON, and then the answer": (
        "openai", sse(chunk(role="assistant", reasoning_content="{}"), chunk(content="[1]"), chunk("stop")), FORMAT, Read("[1]", "{}")),
    "thinking that was cut is no answer": (
        "openai", completion({"content": "", "reasoning_content": "[1]"}, "length"), FORMAT, Read("", "[1]", stop="length")),
    "thinking is no answer where no JSON was asked for": (
        "openai", completion({"content": "", "reasoning_content": "[1]"}), {}, Read("", "[1]")),
    "mlx-vlm: the same thinking under two names": (
        "openai", sse(chunk(role="assistant", content=None, reasoning="Hm.", reasoning_content="Hm.", tool_calls=None),
            {**chunk("stop", content="Hi"), "usage": None}), {}, Read("Hi", "Hm.")),
    "azure: verdicts before, within and behind the answer": (
        "openai", sse({"choices": [], "id": "", "model": "", "prompt_filter_results": []}, annotation(), chunk(content="Hi"),
            annotation(), chunk("stop"), annotation(), {"id": "1", "model": "m", "choices": [], "usage":
            {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}), {}, Read("Hi", usage=(9, 2, None, None))),
    "azure: a verdict that ends the answer": (
        "openai", sse(chunk(content="Hi"), annotation("content_filter")), {}, Read("Hi", stop="content_filter")),
    "an input as a text": (
        "anthropic", json.dumps({"type": "message", "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": CITY},
            {"type": "tool_use", "id": "c2", "name": "now", "input": ""}], "stop_reason": "tool_use", "usage": {}}).encode(), {},
        Read(calls=(("c1", "weather", CITY), ("c2", "now", "{}")), stop="tool_calls")),
    "an input as a text, streamed": (
        "anthropic", events(START, *block(0, {"type": "tool_use", "id": "c1", "name": "weather", "input": ""},
            {"type": "input_json_delta", "partial_json": CITY}), *block(1, {"type": "tool_use", "id": "c2", "name": "now", "input": ""}),
            *ended("tool_use")), {}, Read(calls=(("c1", "weather", CITY), ("c2", "now", "{}")), stop="tool_calls", usage=(9, 5, None, None))),
    "an end in the other API's words": (
        "anthropic", events(START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"}), ended("end_turn")[0])
        + b"data: [DONE]\n\n", {}, Read("Hi", usage=(9, 5, None, None))),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "asked", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_a_servers_own_shape_is_read_for_what_it_says(
    kind: str, body: bytes, asked: dict[str, Any], expected: Read
) -> None:
    result = read(kind, body, asked)
    reasoning = "".join(part.text for part in result.parts if hasattr(part, "signature"))
    assert (result.text, reasoning, result.stop_reason) == (expected.text, expected.reasoning, expected.stop)
    assert tuple((call.id, call.name, call.arguments) for call in result.tool_calls) == expected.calls
    usage = result.usage
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens)
    assert counts == expected.usage


def test_an_answer_bears_the_name_of_its_model_behind_chunks_without_one() -> None:
    assert read("openai", sse(annotation(), chunk(content="Hi"), chunk("stop")), {}).model == "m"


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b""])
def test_a_message_that_ends_before_its_reason_is_cut(done: bytes) -> None:
    body = events(START, *block(0, {"type": "text", "text": "Hi"})) + done
    with pytest.raises(ProviderError) as caught:
        read("anthropic", body, {})
    assert caught.value.kind == "cut"


def test_a_stream_that_is_done_and_ends_as_it_should_is_whole_without_a_reason() -> None:
    role, piece = chunk(role="assistant", content=""), chunk(content="Once upon")
    assert role["choices"][0]["finish_reason"] is None
    result = read("openai", sse(role, piece), {})
    assert (result.text, result.stop_reason) == ("Once upon", "stop")


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_server_that_never_gives_a_reason_but_counts_has_given_a_whole_answer(nothing: str | None) -> None:
    pieces = [chunk(content=text) for text in ("", "Once ", "upon")]
    for piece in pieces:
        piece["choices"][0]["finish_reason"] = nothing
    counted = {"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    answer = read("openai", sse(*pieces, counted), {})
    assert (answer.text, answer.stop_reason, answer.usage.output_tokens) == ("Once upon", "stop", 2)


def test_what_the_first_piece_says_of_the_reason_does_not_bind_the_last() -> None:
    last = chunk(content="Once upon")
    del last["choices"][0]["finish_reason"]
    assert read("openai", sse(chunk(role="assistant", content=""), last), {}).text == "Once upon"


@pytest.mark.parametrize("behind", ['"[DONE]"', "[done]", "bye"])
def test_what_is_no_json_behind_a_whole_answer_does_it_no_harm(behind: str) -> None:
    body = sse(chunk(content="Hi"), chunk("stop")).removesuffix(b"data: [DONE]\n\n") + f"data: {behind}\n\n".encode()
    assert (read("openai", body, {}).text, read("openai", body, {}).stop_reason) == ("Hi", "stop")


def test_a_stream_that_knows_no_reasons_ends_by_itself() -> None:
    said = [{"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": word}}]} for word in ("Hi", " you")]
    assert (read("openai", sse(*said), {}).text, read("openai", sse(*said), {}).stop_reason) == ("Hi you", "stop")


REFUSALS: dict[str, tuple[int, Any, str]] = {
    "mlx-lm: takes no images": (404, {"error": "Only 'text' content type is supported."}, "bad_request"),
    "mlx-lm: no such model": (404, {"error": "Repository Not Found for url: https://huggingface.co/api/models/x."}, "not_found"),
    "mlx-vlm: what is wrong with the body": (422, {"detail": [{"type": "list_type", "loc": ["body", "messages"], "msg":
        "Input should be a valid list", "input": "hi"}]}, "bad_request"),
    "mlx-vlm: too long": (400, {"detail": "Protected conversation exceeds the available context budget."}, "context_overflow"),
    "vllm: a limit beyond the model's": (400, {"error": {"message": "max_tokens=300000 cannot be greater than "
        "max_model_len=max_total_tokens=262144", "type": "BadRequestError", "param": "max_tokens", "code": 400}}, "bad_request"),
    "vllm: no parser of tool calls": (400, {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice and '
        "--tool-call-parser to be set", "type": "BadRequestError", "param": None, "code": 400}}, "bad_request"),
    "groq: a call that came out wrong": (400, {"error": {"message": "Tool choice is required, but model did not call a tool", "type":
        "invalid_request_error", "code": "tool_use_failed", "failed_generation": "maybe"}}, "bad_request"),
    "groq: terms": (400, {"error": {"message": "The model `m` requires terms acceptance.", "code": "model_terms_required"}}, "not_found"),
    "groq: a model that is closed to a project": (403, {"error": {"message": "The model `m` is blocked at the project level.", "type":
        "permissions_error", "code": "model_permission_blocked_project"}}, "not_found"),
    "zhipu: no money": (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, "quota"),
    "zhipu: what it will not read": (400, {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}, "content_filter"),
    "zhipu: no such model": (400, {"error": {"code": "1211", "message": "模型不存在，请检查模型代码。"}}, "not_found"),
    "zhipu: too long": (400, {"error": {"code": "1261", "message": "Prompt 超长"}}, "context_overflow"),
    "zhipu: too much at once": (429, {"error": {"code": "1302", "message": "您当前使用该API的并发数过高"}}, "rate_limited"),
    "siliconflow: no money": (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, "quota"),
    "siliconflow: too long": (400, {"code": 20015, "message": "length of prompt_tokens (40000) must be less than max_seq_len (32768)."}, "context_overflow"),
    "ark: no money": (403, {"error": {"code": "AccountOverdueError", "message": "your account has an overdue balance.", "type": "Forbidden"}}, "quota"),
    "ark: the limit that was set": (429, {"error": {"code": "SetLimitExceeded", "message": "Your account [2] has reached the set inference "
        "limit for the [m] model", "type": "TooManyRequests"}}, "quota"),
    "ark: what it will not read": (400, {"error": {"code": "InputTextSensitiveContentDetected", "message": "The request failed because the "
        "input text may contain sensitive information.", "type": "BadRequest"}}, "content_filter"),
    "ark: too long": (400, {"error": {"code": "InvalidParameter", "message": "Total tokens of image and text exceed max message tokens."}},
        "context_overflow"),
    "ark: too long for its numbers": (400, {"error": {"code": "InvalidParameter", "message": "Input length 131073 exceeds the maximum length"}},
        "context_overflow"),
    "stepfun: blocked": (451, {"error": {"message": "The content you provided is blocked.", "type": "censorship_blocked"}}, "content_filter"),
    "fireworks: suspended": (412, {"error": {"code": "PRECONDITION_FAILED", "message": "Account x is suspended, possibly due to reaching the "
        "monthly spending limit"}}, "quota"),
    "cloudflare: the day's free ones": (429, {"errors": [{"message": "you have used up your daily free allocation of 10,000 neurons",
        "code": 4006}], "success": False}, "quota"),
    "cohere: the month's free calls": (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}, "quota"),
    "cohere: the minute's": (429, {"message": "You are using a Trial key, which is limited to 10 API calls / minute."}, "rate_limited"),
    "bedrock: the day's": (429, {"message": "Too many tokens per day, please wait before trying again."}, "quota"),
    "bedrock: the minute's": (429, {"message": "Too many tokens, please wait before trying again."}, "rate_limited"),
    "lm studio: nothing loaded": (400, {"error": "No models loaded. Please load a model in the developer page."}, "not_found"),
    "text-generation-inference: too long": (422, {"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
        "error_type": "validation"}, "context_overflow"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_a_servers_own_refusal_is_understood(status: int, body: Any, kind: str) -> None:
    sent = WireRequest("POST", "x", body={})
    assert error_from_response(WireResponse(status, {}, json.dumps(body).encode()), sent).kind == kind


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"code": 1113, "msg": "Insufficient balance or no resource package.", "success": False}, "quota"),
        ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, "server"),
        ({"error_code": 17, "error_msg": "Too many requests"}, "rate_limited"),
    ],
)
def test_a_failure_that_comes_as_a_success_is_told_for_what_it_is(kind: str, body: Any, expected: str) -> None:
    with pytest.raises(ProviderError) as caught:
        read(kind, json.dumps(body).encode(), {})
    assert caught.value.kind == expected


def test_a_server_that_cannot_have_one_tool_chosen_is_given_that_tool_alone() -> None:
    words = "Invalid tool_choice type: 'object'. Supported string values: none, auto, required"
    refusal = ProviderError("bad_request", words, retryable=False, status=400)
    tools = (Tool("look", "", {}), Tool("weather", "", {}))
    asked = ask(tools=tools, tool_choice="weather")
    row = provider("openai")
    another = again(asked, refusal, row, streamed=True)
    assert another is not None
    reworded, streamed = another
    assert (reworded.tools, reworded.tool_choice, streamed) == (tools[1:], "required", True)
    assert again(reworded, refusal, row, streamed=True) is None
    assert again(asked, refusal, row, streamed=True, began=True) is None
    assert again(ask(tools=tools, tool_choice="auto"), refusal, row, streamed=True) is None


def test_mistral_is_asked_in_its_own_words_alone() -> None:
    """It refuses what it does not know."""
    asked = ask(seed=7, end_user="ada")
    for address, expected in (("https://api.mistral.ai/v1", {"random_seed"}), ("https://x.test/v1", {"seed", "user"})):
        row = model(provider("openai", address), "some-model")
        sent = CODECS["openai"]().encode_chat(asked, row, max_output_tokens=9, stream=False)
        assert set(sent.body or {}) & {"seed", "random_seed", "user"} == expected


@pytest.mark.parametrize(
    "address", ["https://api.groq.com/openai/v1", "https://api.mistral.ai/v1", "https://api.cerebras.ai/v1"]
)
def test_what_changes_no_answer_is_kept_from_servers_that_would_refuse_it(address: str) -> None:
    idle = {"prompt_cache_key": "a", "safety_identifier": "b", "service_tier": "default", "verbosity": "medium"}
    for base_url, expected in ((address, set()), ("https://x.test/v1", idle.keys() - {"verbosity"})):
        row = model(provider("openai", base_url), "some-model")
        sent = CODECS["openai"]().encode_chat(ask(extra=idle), row, max_output_tokens=9, stream=False)
        assert idle.keys() & (sent.body or {}).keys() == expected


@pytest.mark.parametrize(
    ("name", "effort", "expected"),
    [
        ("gemini-3-pro", "max", {"thinkingLevel": "high"}),
        ("gemini-3-pro", "none", {"thinkingLevel": "minimal"}),
        ("gemini-3-pro", "low", {"thinkingLevel": "low"}),
        ("gemini-2.5-pro", "xhigh", {"thinkingBudget": 24576}),
    ],
)
def test_gemini_thinks_as_far_as_it_can(name: str, effort: str, expected: Any) -> None:
    sent = CODECS["gemini"]().encode_chat(
        ask(reasoning_effort=effort), model("gemini", name), max_output_tokens=9, stream=False
    )
    assert (sent.body or {})["generationConfig"]["thinkingConfig"] == expected


def test_what_a_request_leaves_empty_is_no_trouble_for_its_answer() -> None:
    asked = {"tools": None, "response_format": None, "stop": None, "messages": None, "options": None}
    calls = sse(chunk(tool_calls=[part(0, "f", CITY)]), chunk("tool_calls"))
    assert [call.name for call in read("openai", calls, asked).tool_calls] == ["f"]
    thought = completion({"content": "", "reasoning_content": "[1]"})
    assert read("openai", thought, {"response_format": {"type": "text"}}).text == ""
    told = {"model": "m", "message": {"content": "Hi"}, "done": True, "prompt_eval_count": 9}
    assert read("ollama", json.dumps(told).encode(), asked).text == "Hi"
    turns = [{"role": "assistant", "tool_calls": []}, {"role": "user", "content": "Hello?"}]
    cut = {"options": {"num_ctx": 9}, "messages": turns}
    with pytest.raises(ProviderError) as caught:
        read("ollama", json.dumps(told).encode(), cut)
    assert caught.value.kind == "context_overflow"


def test_events_without_blank_lines_between_them_are_events_all_the_same() -> None:
    chunks = [chunk(role="assistant", content=""), chunk(content="Hi"), chunk("stop", content=" you")]
    body = "".join(f"data: {json.dumps(one)}\n" for one in chunks).encode() + b"data: [DONE]\n"
    for ending in (b"\n", b"\r\n"):
        assert read("openai", body.replace(b"\n", ending), {}).text == "Hi you"
    told = [START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"}), *ended("end_turn")]
    body = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n" for one in told).encode()
    assert read("anthropic", body, {}).text == "Hi"


def test_json_over_several_lines_of_an_event_is_one_event() -> None:
    lines = json.dumps(chunk("stop", content="Hi", role="assistant"), indent=1).split("\n")
    body = "".join(f"data: {line}\n" for line in lines) + "\n"
    assert read("openai", body.encode(), {}).text == "Hi"


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("max_length", "length"),
        ("MAX_OUTPUT_TOKENS", "length"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("eos", "stop"),
    ],
)
def test_an_ending_is_known_by_its_other_names(finish: str, expected: str) -> None:
    assert read("openai", completion({"content": "Hi"}, finish), {}).stop_reason == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("null", {}),
        ("", {}),
        ('""', {}),
        (json.dumps(CITY), {"city": "Oslo"}),
        ("[1]", None),
        ("{bad", None),
        ("7", None),
    ],
)
def test_arguments_are_the_object_that_a_model_meant(arguments: str, expected: Any) -> None:
    """No arguments as `null`, and JSON in JSON."""
    result = read(
        "openai", completion({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]}), {}
    )
    streamed = read("openai", sse(chunk("tool_calls", tool_calls=[part(0, "f", arguments, "c")])), {})
    assert streamed.tool_calls[0].arguments == ("{}" if arguments in ("", "null") else arguments)
    shown = {"INVALID_JSON": arguments} if expected is None else expected
    told = json.loads(anthropic_answers.encode_result(result, call_id="1", model="m"))["content"][0]["input"]
    assert told == shown
    turns = (message("user", "a"), Message("assistant", result.parts))
    row = model("gemini", "gemini-2.5-pro")
    sent = CODECS["gemini"]().encode_chat(ChatRequest(turns), row, max_output_tokens=9, stream=False)
    assert (sent.body or {})["contents"][1]["parts"][0]["functionCall"]["args"] == shown


VECTORS: dict[str, tuple[str, Any, Any, int]] = {
    "openai: one text": ("openai", {"data": [{"index": 0, "embedding": [1, 0]}]}, {"input": "Hello"}, 1),
    "openai: the tokens of one text": ("openai", {"data": [{"index": 0, "embedding": [1, 0]}]}, {"input": [5, 6, 7]}, 1),
    "openai: tokens of two texts": ("openai", {"data": [{"index": n, "embedding": [1, 0]} for n in (0, 1)]}, {"input": [[5], [6, 7]]}, 2),
    "ollama: one text": ("ollama", {"embeddings": [[1, 0]]}, {"input": "Hello"}, 1),
    "llama.cpp: in a list of its own": ("openai", {"data": [{"index": 0, "embedding": [[1, 0]]}]}, {"input": "Hello"}, 1),
    "ollama: in the older way": ("ollama", {"embedding": [1, 0]}, {"prompt": "Hello"}, 1),
    "gemini: one text": ("gemini", {"embedding": {"values": [1, 0]}}, {"content": {"parts": [{"text": "Hello"}]}}, 1),
    "cohere: its first version": ("cohere", {"embeddings": [[1, 0], [0, 1]], "texts": ["a", "b"]}, {"texts": ["a", "b"]}, 2),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "answer", "asked", "expected"), VECTORS.values(), ids=VECTORS)
def test_vectors_are_counted_as_they_were_asked_for(kind: str, answer: Any, asked: Any, expected: int) -> None:
    response = WireResponse(200, {}, json.dumps(answer).encode())
    found = CODECS[kind]().decode_embed(response, WireRequest("POST", "x", body=asked))
    assert len(found.vectors) == expected
    more = {key: ["a", "b", "c"] for key in ("input", "texts", "requests")}
    with pytest.raises(ProviderError, match="embeddings for"):
        CODECS[kind]().decode_embed(response, WireRequest("POST", "x", body=more))


def test_vectors_of_tokens_are_no_embedding_of_a_text() -> None:
    answer = {"data": [{"index": 0, "embedding": [[1.5, 0.5], [0.25, 2.0]]}]}
    sent = WireRequest("POST", "http://127.0.0.1/", body={"input": "Hello"})
    with pytest.raises(ProviderError, match="a vector for each token"):
        CODECS["openai"]().decode_embed(WireResponse(200, {}, json.dumps(answer).encode()), sent)


@pytest.mark.parametrize("reason", ["repetition_truncation", "repetition"])
def test_an_answer_that_went_round_in_circles_was_cut_short(reason: str) -> None:
    whole = read("openai", completion({"content": "Hi Hi Hi"}, reason), {})
    streamed = read("openai", sse(chunk(content="Hi Hi Hi"), chunk(reason)), {})
    assert (whole.text, whole.stop_reason) == (streamed.text, streamed.stop_reason) == ("Hi Hi Hi", "length")


def test_a_message_that_went_round_in_circles_was_cut_short() -> None:
    said = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "repetition_truncation"}
    assert read("anthropic", json.dumps(said).encode(), {}).stop_reason == "length"


@pytest.mark.parametrize(("reason", "kind"), [("aborted", "server"), ("engine_overloaded", "overloaded")])
def test_an_answer_that_its_server_left_is_no_answer(reason: str, kind: str) -> None:
    for body in (completion({"content": "Hi"}, reason), sse(chunk(content="Hi"), chunk(reason))):
        with pytest.raises(ProviderError) as caught:
            read("openai", body, {})
        assert (caught.value.kind, caught.value.retryable) == (kind, True)
