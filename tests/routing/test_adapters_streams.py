"""Streams are read the same however the network cuts them, and no bytes bring a decoder to anything but
ProviderError."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler, deltas_of
from routing.adapters.base import StreamDecoder, WireRequest, WireResponse
from routing.adapters.reading.sse import LineSplitter, SSESplitter
from routing.types import ChatResult, Delta, ProviderError, Reasoning, Text, ToolCall, Usage
from tests.routing.adapters_support import KEY, run_decoder
from tests.servers import AnthropicServer, Call, CohereServer, GeminiServer, OllamaServer, OpenAIServer, Reply
from ziggie.values import replace

SENT = WireRequest("POST", "x", body={"model": "m", "messages": []}, secret=KEY)
REPLY = Reply(
    text="Grüße, 世界! 🦀 A second\nline.",
    reasoning="Let me think… 思考",
    calls=(Call("look_up", {"city": "Zürich", "n": 3}), Call("stop")),
    input_tokens=31,
    output_tokens=17,
    cached_tokens=8,
)
ASKED = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": True}}
SERVERS = {
    "ollama": OllamaServer,
    "openai": OpenAIServer,
    "anthropic": AnthropicServer,
    "gemini": GeminiServer,
    "cohere": CohereServer,
}


def recorded(kind: str) -> bytes:
    return b"".join(SERVERS[kind]().stream(REPLY, ASKED))


def decoder(kind: str) -> Callable[[], StreamDecoder]:
    return lambda: CODECS[kind]().chat_stream(SENT)


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


def assembled(deltas: list[Delta]) -> ChatResult:
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    return assembler.result()


KINDS = sorted(CODECS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_deltas(kind: str, ending: bytes, cuts: list[int]) -> None:
    data = recorded(kind).replace(b"\n", ending)
    whole, error = run_decoder(decoder(kind), [data])
    assert error is None
    assert run_decoder(decoder(kind), chunks_of(data, cuts)) == (whole, None)


@pytest.mark.parametrize("kind", sorted(SERVERS))
def test_a_stream_says_what_the_complete_answer_says(kind: str) -> None:
    server = SERVERS[kind]()
    whole = CODECS[kind]().decode_chat(WireResponse(200, {}, json.dumps(server.complete(REPLY, ASKED)).encode()), SENT)
    deltas, _ = run_decoder(decoder(kind), [recorded(kind)])
    streamed = assembled(deltas)
    assert _comparable(streamed) == _comparable(whole)
    assert whole.text == REPLY.text
    assert [(call.name, json.loads(call.arguments)) for call in whole.tool_calls] == [
        ("look_up", {"city": "Zürich", "n": 3}),
        ("stop", {}),
    ]
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (31, 17)
    assert whole.stop_reason == "tool_calls"


def _comparable(result: ChatResult) -> ChatResult:
    """With the arguments of its calls in one spelling."""
    parts = (
        replace(part, arguments=json.dumps(json.loads(part.arguments))) if isinstance(part, ToolCall) else part
        for part in result.parts
    )
    return replace(result, parts=tuple(parts))


def test_cohere_bills_its_own_units_and_plans_aloud() -> None:
    result = assembled(run_decoder(decoder("cohere"), [recorded("cohere")])[0])
    assert result.parts[:2] == (Reasoning(REPLY.reasoning), Text(REPLY.text))
    assert result.usage == Usage(input_tokens=31, output_tokens=17, cached_input_tokens=8)


@pytest.mark.parametrize("kind", KINDS)
@given(cut=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 10_000), max_size=10))
@settings(max_examples=60, deadline=None)
def test_a_stream_that_ends_early_is_cut_or_complete_and_never_wrong(kind: str, cut: int, cuts: list[int]) -> None:
    data = recorded(kind)
    part = data[: cut % len(data)]
    whole, _ = run_decoder(decoder(kind), [data])
    deltas, error = run_decoder(decoder(kind), chunks_of(part, cuts))
    at_once, same_error = run_decoder(decoder(kind), [part])
    assert (deltas, str(error)) == (at_once, str(same_error))
    if error is None:  # only what follows the answer is missing
        assert assembled(deltas).parts == assembled(whole).parts
    else:
        assert error.kind in ("cut", "protocol")
        assert deltas == whole[: len(deltas)]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_raise_nothing_but_a_provider_error(kind: str, data: bytes, cuts: list[int]) -> None:
    run_decoder(decoder(kind), chunks_of(data, cuts))
    run_decoder(decoder(kind), chunks_of(b"data: " + data + b"\n\n", cuts))
    codec = CODECS[kind]()
    for read in (codec.decode_chat, codec.decode_embed, codec.decode_count):
        with pytest.raises(ProviderError):
            read(WireResponse(200, {}, data), SENT)
    assert isinstance(codec.decode_error(WireResponse(500, {}, data), SENT), ProviderError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "text",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "index",
                    "id",
                    "usage",
                    "error",
                    "type",
                    "code",
                    "finish_reason",
                    "prompt_tokens",
                    "done",
                    "done_reason",
                    "response",
                    "model",
                    "candidates",
                    "parts",
                    "functionCall",
                    "args",
                    "content_block",
                    "event",
                    "details",
                    "retryDelay",
                    "billed_units",
                    "logprobs",
                    "timings",
                    "message_start",
                    "embeddings",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
TYPES = (
    st.sampled_from(
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
            "tool-call-start",
            "tool-call-delta",
            "content-delta",
            "message-end",
            "error",
        ]
    )
    | st.none()
)


@pytest.mark.parametrize("kind", KINDS)
@given(values=st.lists(st.tuples(TYPES, JSON), max_size=4), status=st.sampled_from([200, 400, 429, 500]))
@settings(max_examples=150, deadline=None)
def test_json_of_any_shape_raises_nothing_but_a_provider_error(
    kind: str, values: list[tuple[str | None, object]], status: int
) -> None:
    documents = [{**value, "type": name} if name and isinstance(value, dict) else value for name, value in values]
    lines = [json.dumps(document).encode() for document in documents]
    run_decoder(decoder(kind), [b"".join(b"data: " + line + b"\n\n" for line in lines)])
    run_decoder(decoder(kind), [b"\n".join(lines)])
    codec = CODECS[kind]()
    for line in lines:
        for read in (codec.decode_chat, codec.decode_embed, codec.decode_count):
            try:
                read(WireResponse(status, {"retry-after": "soon", "content-type": "?"}, line), SENT)
            except ProviderError as error:
                assert error.retry_after_seconds is None or error.retry_after_seconds >= 0  # noqa: PT017
        codec.decode_error(WireResponse(status, {}, line), SENT)


# --- the splitters -----------------------------------------------------------------------------------


@given(
    lines=st.lists(st.binary(max_size=10).filter(lambda line: b"\r" not in line and b"\n" not in line), max_size=8),
    endings=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=8, max_size=8),
    cuts=st.lists(st.integers(0, 100), max_size=10),
)
@settings(deadline=None)
def test_lines_are_split_at_every_kind_of_ending(lines: list[bytes], endings: list[bytes], cuts: list[int]) -> None:
    # an empty line after CR would read as the LF of CRLF: give it a letter
    lines = [line or b"x" for line in lines]
    data = b"".join(line + ending for line, ending in zip(lines, endings, strict=False))
    splitter = LineSplitter()
    found = [line for chunk in chunks_of(data, cuts) for line in splitter.feed(chunk)]
    lines[:1] = [line.removeprefix(b"\xef\xbb\xbf") for line in lines[:1]]
    assert [*found, *filter(None, [splitter.flush()])] == lines


def test_events_come_with_joined_data_and_without_comments() -> None:
    splitter = SSESplitter()
    stream = b"\xef\xbb\xbf: hello\nevent: a\nid: 7\nretry: 10\ndata:1\ndata: 2\ndata\n\n\nevent: lost\n\ndata:  3\n\n"
    assert splitter.feed(stream) == [(b"a", b"1\n2\n"), (b"", b" 3")]
    assert splitter.flush() == []


def test_the_last_event_counts_without_its_blank_line() -> None:
    splitter = SSESplitter()
    assert splitter.feed(b"data: 1\n") == []
    assert splitter.flush() == [(b"", b"1")]


@pytest.mark.parametrize("piece", [b"x" * 100_000, b"data: " + b"x" * 100_000 + b"\n"])
def test_a_line_or_event_without_end_is_refused(piece: bytes) -> None:
    splitter = SSESplitter()
    for _ in range(40):
        splitter.feed(piece)
    with pytest.raises(ProviderError, match="4 MB"):
        splitter.feed(piece * 3)


# --- dialects ----------------------------------------------------------------------------------------


def chunk(**delta: object) -> bytes:
    finish = delta.pop("finish", None)
    more = delta.pop("more", {})
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    assert isinstance(more, dict)
    return b"data: " + json.dumps({"id": "i", "model": "m", "choices": [choice], **more}).encode() + b"\n\n"


def read_chunks(*chunks: bytes) -> ChatResult:
    deltas, error = run_decoder(decoder("openai"), list(chunks))
    if error:
        raise error
    return assembled(deltas)


def test_moonshot_puts_usage_into_the_choice_and_cached_tokens_at_its_top() -> None:
    data = b"".join(
        OpenAIServer(dialect="moonshot").stream(Reply(input_tokens=30, output_tokens=4, cached_tokens=20), ASKED)
    )
    usage = read_chunks(data).usage
    assert usage == Usage(30, 4, 20)


def test_usage_that_is_not_reported_is_missing_and_not_zero() -> None:
    data = b"".join(OpenAIServer(dialect="llama_cpp").stream(Reply(), ASKED))
    assert read_chunks(data).usage == Usage()
    zeros = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    assert read_chunks(chunk(content="x", finish="stop", more=zeros)).usage == Usage(0, 0)


def test_a_call_that_llama_cpp_says_in_both_ways_is_one_call() -> None:
    reply = Reply("", calls=(Call("look_up", {"city": "Oslo"}), Call("look_up", {"city": "Rome"})))
    result = read_chunks(b"".join(OpenAIServer(dialect="llama_cpp").stream(reply, ASKED)))
    assert [json.loads(call.arguments) for call in result.tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    legacy = {"function_call": {"name": "look_up", "arguments": '{"city": "Oslo"}'}}
    (call,) = read_chunks(chunk(**legacy), chunk(finish="function_call")).tool_calls
    assert json.loads(call.arguments) == {"city": "Oslo"}


def test_calls_without_ids_that_all_claim_index_0_are_told_apart_by_their_ends() -> None:
    def call(name: str, arguments: str) -> bytes:
        return chunk(tool_calls=[{"index": 0, "id": "", "function": {"name": name, "arguments": arguments}}])

    pieces = [call("f", '{"a"'), call("f", ": 1}"), call("f", '{"a": 2}'), call("g", "{}")]
    calls = read_chunks(*pieces, chunk(finish="stop")).tool_calls
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("f", {"a": 1}), ("f", {"a": 2}), ("g", {})]
    assert len({c.id for c in calls}) == 3


def test_azures_first_chunk_hides_neither_model_nor_id() -> None:
    filtered = b'data: {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}\n\n'
    result = read_chunks(filtered, chunk(content="hi", finish="stop"))
    assert (result.model, result.response_id, result.text) == ("m", "i", "hi")


def test_an_answer_that_vllm_aborted_is_no_answer() -> None:
    with pytest.raises(ProviderError, match="abort") as caught:
        read_chunks(chunk(content="x"), chunk(finish="abort"))
    assert caught.value.kind == "server"


@pytest.mark.parametrize("key", ["stop_reason", "matched_stop"])
@pytest.mark.parametrize(("told", "sequence"), [("END", "END"), (128009, ""), (None, ""), ("end_turn", "")])
def test_the_stop_sequence_that_ended_an_answer_is_passed_on(key: str, told: object, sequence: str) -> None:
    sent = WireRequest("POST", "x", body={"stop": ["END"]})
    choice = {"index": 0, "message": {"content": "x"}, "delta": {"content": "x"}, "finish_reason": "stop", key: told}
    body = json.dumps({"choices": [choice]}).encode()
    whole = CODECS["openai"]().decode_chat(WireResponse(200, {}, body), sent)
    deltas, error = run_decoder(lambda: CODECS["openai"]().chat_stream(sent), [b"data: " + body + b"\n\n"])
    assert error is None
    assert (whole.stop_sequence, assembled(deltas).stop_sequence) == (sequence, sequence)


def test_llama_cpp_reports_its_timings_instead_of_usage() -> None:
    timings = {"timings": {"prompt_n": 5, "cache_n": 20, "predicted_n": 9}}
    assert read_chunks(chunk(content="x"), chunk(finish="stop", more=timings)).usage == Usage(25, 9, 20)


def test_xai_bills_reasoning_outside_of_completion_tokens() -> None:
    usage = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 341}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 300}}
    got = read_chunks(chunk(content="x", finish="stop", more={"usage": usage})).usage
    assert (got.output_tokens, got.reasoning_tokens) == (309, 300)


def test_calls_that_all_claim_index_0_are_told_apart_by_id() -> None:
    calls = [{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    result = read_chunks(*(chunk(tool_calls=[call]) for call in calls), chunk(finish="stop"))
    assert result.tool_calls == (ToolCall("a", "a", "{}"), ToolCall("b", "b", "{}"))
    assert result.stop_reason == "tool_calls"


def test_pieces_of_a_call_without_index_or_with_changing_ids_belong_together() -> None:
    first = chunk(tool_calls=[{"id": "c", "function": {"name": "f", "arguments": '{"a"'}}])
    second = chunk(tool_calls=[{"function": {"arguments": ": 1}"}}])
    assert read_chunks(first, second, chunk(finish="tool_calls")).tool_calls == (ToolCall("c", "f", '{"a": 1}'),)
    first = chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}])
    second = chunk(tool_calls=[{"index": 0, "id": "c2", "function": {"name": None, "arguments": ": 1}"}}])
    assert read_chunks(first, second, chunk(finish="tool_calls")).tool_calls == (ToolCall("c1", "f", '{"a": 1}'),)


def test_arguments_given_as_an_object_become_text() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    assert read_chunks(chunk(tool_calls=[call]), chunk(finish="tool_calls")).tool_calls[0].arguments == '{"a":1}'


def test_thinking_in_blocks_of_content_is_reasoning() -> None:
    blocks = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    assert read_chunks(chunk(content=blocks), chunk(finish="stop")).parts == (Reasoning("hm"), Text("yes"))


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'data: {"error": {"message": "slow down", "code": 429, "type": "rate_limit_exceeded"}}\n\n', "rate_limited"),
        (b'data: {"error": "boom"}\n\n', "server"),
        (b'error: {"code": 500, "message": "boom", "type": "server_error"}\n\n', "server"),
        (b'data: {"object": "error", "message": "too long: maximum context length is 512", "code": 400}\n\n',
         "context_overflow"),
        (b'data: {"detail": "Internal"}\n\n', "server"),
        (b'data: {"choices": [{"delta": {}, "finish_reason": "error"}]}\n\n', "server"),
    ],
)  # fmt: skip
def test_errors_inside_a_stream_keep_what_came_before(event: bytes, kind: str) -> None:
    for chunks in ([chunk(content="Half an ans"), event], [chunk(content="Half an ans") + event]):
        deltas, error = run_decoder(decoder("openai"), chunks)
        assert "".join(delta.text for delta in deltas) == "Half an ans"
        assert error is not None
        assert error.kind == kind


def test_a_server_that_does_not_stream_is_understood_all_the_same() -> None:
    body = json.dumps(OpenAIServer().complete(Reply(text="whole"), ASKED)).encode()
    deltas, error = run_decoder(decoder("openai"), [body[:9], body[9:]])
    assert error is None
    assert assembled(deltas).text == "whole"


def test_half_of_a_surrogate_pair_does_not_poison_the_answer() -> None:
    result = read_chunks(b'data: {"choices": [{"delta": {"content": "a\\ud83d"}, "finish_reason": "stop"}]}\n\n')
    assert result.text.encode().decode() == "a\ufffd"


def test_log_probabilities_are_averaged_over_the_answer() -> None:
    more = {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"logprob": -1.0}, {"logprob": -3.0}]}}]}
    assert read_chunks(chunk(more=more), chunk(finish="stop")).mean_logprob == -2.0


def test_several_blocks_of_thinking_keep_their_own_signatures() -> None:
    parts = (
        Reasoning("a", "1"),
        Reasoning("b", "2"),
        Reasoning("zzz", redacted=True),
        Text("t"),
        ToolCall("i", "n", "{}"),
    )
    result = ChatResult(parts, "tool_calls", Usage(1, 2), "m", "r", -0.5)
    assert assembled(deltas_of(result)) == result
