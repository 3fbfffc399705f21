"""Ollama's native API. Left alone it cuts an over-long prompt in silence, so every call says how much context
it needs (`num_ctx`) and that nothing may be cut (`truncate`, `shift`: newer servers then refuse), and every answer
is checked for a prompt that came out shorter than it went in, as older servers do all the same.

Options of a provider row: `keep_alive`, `min_num_ctx` (4096), `headers`, `structured_output` (schema, prompt).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.answers.call_ids import CallIds, refuse_too_many
from routing.adapters.answers.decoding import EventDecoder
from routing.adapters.answers.logprobs import LogprobsDecoder, entries, of_the_end, refuse_silence
from routing.adapters.asking.call_order import with_names
from routing.adapters.asking.forced_calls import CallDecoder, as_answer, as_call, is_forced
from routing.adapters.asking.prompting import effort_of, images, in_efforts, in_prompt, joined_text, structured_output
from routing.adapters.asking.vectors import get_vectors, refuse_other_number
from routing.adapters.base import EmbedInput, EmbedPurpose, ProviderStatus, StreamDecoder, WireRequest, WireResponse
from routing.adapters.faults.errors import make_error
from routing.adapters.ollama.context import (
    context_size,
    embed_context,
    estimate_tokens,
    likely_tokens,
    refuse_overflow,
    refuse_truncated,
)
from routing.adapters.ollama.refusals import refused, reported
from routing.adapters.openai.parts import tool_definition, tool_result_text
from routing.adapters.reading.sse import NDJSONSplitter
from routing.adapters.reading.wire import (
    Json,
    arguments_object,
    base_url,
    bearer_headers,
    get_count,
    get_dict,
    get_dicts,
    get_number,
    get_str,
    inline_image,
    is_idle,
    json_text,
    load_object,
    load_piece,
    protocol_error,
)
from routing.planning.deferral import with_found_tools
from routing.types import (
    ChatRequest,
    ChatResult,
    Delta,
    Embeddings,
    Image,
    Message,
    ModelSpec,
    Part,
    ProviderError,
    ProviderSpec,
    Reasoning,
    StopReason,
    Text,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
    Usage,
)
from ziggie.values import replace

DEFAULT_OUTPUT_TOKENS = 2048
# parameters of other APIs that Ollama knows, as fields of its `options`
_OPTIONS = frozenset(
    {"top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "repeat_penalty"}
    | {"repeat_last_n", "mirostat", "mirostat_eta", "mirostat_tau", "num_keep"}
)
_FIELDS = frozenset({"think", "logprobs", "top_logprobs"})
# They have the model loaded anew, put out of memory or kept there: whoever asks would decide that for all others.
_OF_THE_MACHINE = frozenset({"keep_alive", "num_gpu", "num_thread", "num_batch", "main_gpu", "use_mmap"})
# gpt-oss always thinks, at one of three levels; other models take yes or no
_KNOWS_LEVELS = re.compile(r"(?:^|/)gpt-oss")
_CALLS = b'"tool_calls"'
_LEVELS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}


class OllamaCodec:
    kind = "ollama"
    embed_batch = 512

    # --- chat ---

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        body: Json = {"model": model.name, "stream": stream, "truncate": False, "shift": False}
        request = with_found_tools(request)
        request, calls = as_answer(request) if is_forced(request) else (request, ())
        request = in_efforts(request)
        # a schema would keep the model from calling tools at all, so it is said in words beside them
        if request.tools or structured_output(model) == "prompt":
            request = in_prompt(request)
        if request.json_schema is not None:
            body["format"] = request.json_schema
        elif request.json_object:
            body["format"] = "json"
        body["messages"] = self._messages(request)
        self._tools(request, body)
        self._think(request, model, body)
        keep_alive = model.provider.options.get("keep_alive")
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        body["options"] = self._options(request, model, body, max_output_tokens)
        sent = self._request(model.provider, "POST", "/api/chat", body)
        refuse_overflow(sent, stated=request.hints.context_tokens)
        if calls:  # whose text nobody sees
            return replace(sent, calls=calls)
        return replace(sent, logprobs=True) if request.logprobs is not None else sent

    def decode_chat(self, response: WireResponse, sent: WireRequest) -> ChatResult:
        if not 200 <= response.status < 300:
            raise self.decode_error(response, sent)
        answer = load_object(response.body, calls=_CALLS)
        if answer.get("error"):
            raise reported(answer, sent)
        message = get_dict(answer, "message")
        if not message and not isinstance(answer.get("response"), str):
            raise protocol_error("the answer holds no message")
        if answer.get("done") is not True:
            raise make_error("cut", "the answer ends before it is done", sent)
        usage = _usage(answer)
        refuse_truncated(usage, sent)
        calls = tool_calls(message, 0, CallIds(sent))
        reasoning, text = get_str(message, "thinking"), get_str(message, "content") or get_str(answer, "response")
        parts: list[Part] = [Reasoning(reasoning)] if reasoning else []
        if text:
            parts.append(Text(text))
        logprobs = entries(answer.get("logprobs")) if sent.logprobs else ()
        logprobs = of_the_end(logprobs, text) if reasoning else logprobs
        refuse_silence(sent, logprobs, has_text=bool(text), usage=usage)
        result = ChatResult(
            parts=(*parts, *calls),
            stop_reason=_stop_reason(answer, has_calls=bool(calls)),
            usage=usage,
            model=get_str(answer, "model"),
            mean_logprob=_mean_logprob(answer),
            logprobs=logprobs,
        )
        return as_call(result, sent) if sent.calls else result

    def decode_error(self, response: WireResponse, sent: WireRequest) -> ProviderError:
        return refused(response, sent)

    def chat_stream(self, sent: WireRequest) -> StreamDecoder:
        decoder = OllamaDecoder(self, sent)
        if sent.logprobs:
            return LogprobsDecoder(decoder, sent)
        return CallDecoder(decoder, sent) if sent.calls else decoder

    # --- embeddings, counting, status ---

    def encode_embed(
        self, texts: tuple[EmbedInput, ...], model: ModelSpec, *, purpose: EmbedPurpose, dimensions: int | None = None
    ) -> WireRequest:
        # truncate: false makes the server refuse what it would otherwise cut in silence
        body: Json = {"model": model.name, "input": list(texts), "truncate": False}
        if dimensions:
            body["dimensions"] = dimensions
        if size := embed_context(texts, model):
            body["options"] = {"num_ctx": size}
        return self._request(model.provider, "POST", "/api/embed", body)

    def decode_embed(self, response: WireResponse, sent: WireRequest) -> Embeddings:
        if not 200 <= response.status < 300:
            raise self.decode_error(response, sent)
        answer = load_object(response.body)
        if answer.get("error"):
            raise reported(answer, sent)
        alone = answer.get("embedding")  # as /api/embeddings has it
        vectors = get_vectors(answer.get("embeddings") if alone is None else [alone])
        refuse_other_number(vectors, (sent.body or {}).get("input"))
        usage = Usage(input_tokens=get_count(answer, "prompt_eval_count"))
        return Embeddings(tuple(map(_unit, vectors)), usage, get_str(answer, "model"))

    def encode_count(self, request: ChatRequest, model: ModelSpec) -> WireRequest | None:
        return None

    def decode_count(self, response: WireResponse, sent: WireRequest) -> int:
        raise protocol_error("this API does not count tokens")

    def encode_status(self, provider: ProviderSpec) -> tuple[WireRequest, ...]:
        return tuple(self._request(provider, "GET", path, None) for path in ("/api/tags", "/api/ps", "/api/version"))

    def decode_status(self, responses: tuple[WireResponse | None, ...]) -> ProviderStatus:
        tags, loaded, version = responses
        return ProviderStatus(
            models=_names(tags) if tags else None,
            loaded=_names(loaded) if loaded else None,
            version=get_str(load_object(version.body), "version") if version else "",
        )

    # --- requests ---

    def _request(self, provider: ProviderSpec, method: str, path: str, body: Mapping[str, Any] | None) -> WireRequest:
        url = base_url(provider.base_url, "", ("/v1", "/api")) + path
        return WireRequest(method, url, bearer_headers(provider), body, provider.api_key)

    def _messages(self, request: ChatRequest) -> list[Json]:
        return [encoded for turn, names in with_names(request.messages) for encoded in self._turn(turn, names)]

    def _turn(self, turn: Message, names: Mapping[str, str]) -> list[Json]:
        results = [part for part in turn.parts if isinstance(part, ToolResult)]
        turns: list[Json] = [
            {
                "role": "tool",
                "tool_name": names.get(part.tool_call_id, ""),
                "tool_call_id": part.tool_call_id,
                "content": tool_result_text(part),
            }
            for part in results
        ]
        if results and len(results) == len(turn.parts):
            return turns
        encoded: Json = {"role": "user" if turn.role == "tool" else turn.role, "content": joined_text(turn)}
        pictures = [_base64(image) for image in images(turn)]
        if pictures:
            encoded["images"] = pictures
        thinking = "".join(p.text for p in turn.parts if isinstance(p, Reasoning) and not p.redacted)
        if thinking:
            encoded["thinking"] = thinking
        calls = [part for part in turn.parts if isinstance(part, ToolCall)]
        if calls:
            encoded["tool_calls"] = [
                {
                    "id": call.id,
                    "function": {"name": call.name, "arguments": arguments_object(call.arguments)},
                }
                for call in calls
            ]
        return [*turns, encoded]

    def _tools(self, request: ChatRequest, body: Json) -> None:
        if not request.tools or request.tool_choice == "none":
            return  # "none" means to answer without tools: the model then need not know of them
        if request.parallel_tool_calls is False:
            raise UnsupportedByProvider("parallel_tool_calls: Ollama cannot forbid several calls at once")
        body["tools"] = [tool_definition(tool) for tool in request.tools]

    def _think(self, request: ChatRequest, model: ModelSpec, body: Json) -> None:
        effort = effort_of(request)
        if not effort:
            return
        if _KNOWS_LEVELS.search(model.name):
            body["think"] = _LEVELS.get(effort, effort)
        else:
            body["think"] = effort not in ("none", "minimal")

    def _options(self, request: ChatRequest, model: ModelSpec, body: Json, max_output_tokens: int | None) -> Json:
        options: Json = {}
        for key, value in request.extra.items():
            if is_idle(key, value):
                continue
            if key in _OPTIONS:
                options[key] = value
            elif key in _FIELDS:
                body[key] = value
            elif key in _OF_THE_MACHINE:
                raise UnsupportedByProvider(f"{key} is not for a caller to say: it changes the server for all others")
            else:
                raise UnsupportedByProvider(f"{key} is not a parameter of Ollama")
        if request.logprobs is not None:
            body["logprobs"] = True
            body |= {"top_logprobs": request.logprobs} if request.logprobs else {}
        given = {"temperature": request.temperature, "seed": request.seed, "stop": list(request.stop) or None}
        options |= {key: value for key, value in given.items() if value is not None}
        stated = request.hints.context_tokens or 0
        wanted = max_output_tokens or min(model.max_output_tokens or DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
        options["num_ctx"] = context_size(max(estimate_tokens(body), stated), wanted, model)
        if max_output_tokens is not None:
            # past the end of its context Ollama forgets the beginning: the answer has to end before that
            room = options["num_ctx"] - max(likely_tokens(body), stated)
            options["num_predict"] = max(1, min(max_output_tokens, room))
        return options


# --- answers -----------------------------------------------------------------------------------------


class OllamaDecoder(EventDecoder):
    """Lines of JSON up to the one with `done: true`."""

    def __init__(self, codec: OllamaCodec, sent: WireRequest) -> None:
        super().__init__(codec, sent, NDJSONSplitter())
        self._introduced = False
        self._calls = 0
        self._ids = CallIds(sent)
        self._logprobs: list[float] = []
        self._thinks = False

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        line = load_piece(data, "a line of the stream", self.halves, _CALLS)
        if line.get("error"):
            raise reported(line, self.sent, self.usage)
        message = get_dict(line, "message")
        if not message and "done" not in line:
            raise protocol_error("a line of the stream is no part of an answer")
        if not self._introduced:
            self._introduced = True
            out.append(Delta(model=get_str(line, "model")))
        text, reasoning = get_str(message, "content") or get_str(line, "response"), get_str(message, "thinking")
        self._thinks = not text and (self._thinks or bool(reasoning))
        logprobs = entries(line.get("logprobs")) if self.sent.logprobs and not self._thinks else ()
        if text or reasoning or logprobs:
            out.append(Delta(text=text, reasoning=reasoning, logprobs=logprobs))
        for call in tool_calls(message, self._calls, self._ids):
            out.append(
                Delta(tool_index=self._calls, tool_id=call.id, tool_name=call.name, tool_arguments=call.arguments)
            )
            self._calls += 1
        self._logprobs += _logprobs(line)
        if line.get("done") is True:
            self._end(line, out)

    def _end(self, line: Json, out: list[Delta]) -> None:
        self.usage = _usage(line)
        refuse_truncated(self.usage, self.sent)
        mean = sum(self._logprobs) / len(self._logprobs) if self._logprobs else None
        reason = _stop_reason(line, has_calls=self._calls > 0)
        out.append(Delta(stop_reason=reason, usage=self.usage, mean_logprob=mean))
        self.done = True

    def on_end(self, out: list[Delta]) -> None:
        raise self.cut()


def tool_calls(message: Json, first: int, ids: CallIds) -> list[ToolCall]:
    """The calls of a message. Ollama's have no id (newer ones do) and objects as arguments."""
    calls = []
    for number, call in enumerate(get_dicts(message, "tool_calls"), first):
        function = get_dict(call, "function")
        name = get_str(function, "name")
        if not name:
            raise protocol_error("a tool call has no name")
        refuse_too_many(number)
        given = function.get("arguments")
        arguments = given if isinstance(given, str) else json_text(given or {})
        calls.append(ToolCall(get_str(call, "id") or ids.of(number), name, arguments))
    return calls


def _usage(answer: Json) -> Usage:
    # older servers leave prompt_eval_count out when the prompt was still in the cache: then nobody knows it
    return Usage(
        input_tokens=get_count(answer, "prompt_eval_count"),
        output_tokens=get_count(answer, "eval_count"),
        cached_input_tokens=get_count(answer, "prompt_eval_cached_count"),
    )


def _stop_reason(answer: Json, *, has_calls: bool) -> StopReason:
    if get_str(answer, "done_reason") == "length":
        return "length"
    return "tool_calls" if has_calls else "stop"


def _logprobs(answer: Json) -> list[float]:
    tokens = answer.get("logprobs")
    if not isinstance(tokens, list):
        return []
    numbers = (get_number(token, "logprob") for token in tokens if isinstance(token, dict))
    return [number for number in numbers if number is not None]


def _mean_logprob(answer: Json) -> float | None:
    numbers = _logprobs(answer)
    return sum(numbers) / len(numbers) if numbers else None


def _names(response: WireResponse) -> tuple[str, ...]:
    rows = get_dicts(load_object(response.body), "models")
    return tuple(filter(None, (get_str(row, "name") or get_str(row, "model") for row in rows)))


def _unit(vector: tuple[float, ...]) -> tuple[float, ...]:
    """The vector at length 1, as /api/embed promises; a model converted badly may not keep it."""
    length = math.sqrt(sum(number * number for number in vector))
    if length == 0 or abs(length - 1) < 1e-3:
        return vector
    return tuple(number / length for number in vector)


def _base64(image: Image) -> str:
    inline = inline_image(image)
    if inline is None:
        raise UnsupportedByProvider("an image by address: Ollama takes images by value only")
    return inline[1]
