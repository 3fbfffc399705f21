"""Every server that speaks OpenAI's chat completions: OpenAI, Moonshot, xAI, vLLM, llama.cpp, MLX, LM Studio, ...

Options of a provider row: `headers` (sent along), `max_tokens_field`, `stream_usage` (false for a server that
refuses stream_options), `structured_output` (schema, object, prompt), `send_reasoning` (true for a server that
wants earlier thinking back; so do Kimi's and DeepSeek's own, unless it is false).
"""

import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.answers.assembly import assembled, is_stream
from routing.adapters.answers.logprobs import LogprobsDecoder
from routing.adapters.asking.prompting import (
    effort_of,
    in_efforts,
    in_prompt,
    is_left_to_model,
    joined_text,
    schema_instruction,
    structured_output,
    with_instruction,
    without_thinking,
)
from routing.adapters.asking.vectors import get_vectors, refuse_other_number
from routing.adapters.base import EmbedInput, EmbedPurpose, ProviderStatus, StreamDecoder, WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_event, error_from_response
from routing.adapters.openai.answers import ChatDecoder, read_result
from routing.adapters.openai.parts import call_arguments, content_blocks, tool_definition, tool_result_text
from routing.adapters.openai.plain_answers import plain_result
from routing.adapters.openai.signatures import sign
from routing.adapters.openai.strictness import is_strict
from routing.adapters.openai.usage import read_usage
from routing.adapters.reading.wire import (
    Json,
    base_url,
    bearer_headers,
    digest,
    forgets_thinking_alone,
    get_count,
    get_dict,
    get_dicts,
    get_number,
    get_str,
    is_idle,
    is_neutral,
    load_object,
    load_rows,
    merge_extra,
    protocol_error,
    shortened,
)
from routing.planning.deferral import with_found_tools
from routing.types import (
    ChatRequest,
    ChatResult,
    Cited,
    Embeddings,
    Image,
    Message,
    ModelSpec,
    Pdf,
    ProviderError,
    ProviderSpec,
    Reasoning,
    Source,
    Text,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
    Usage,
)
from ziggie.values import replace

# o1, o3-mini, gpt-5-mini, openai/gpt-5.2: they refuse max_tokens
_WANTS_COMPLETION_TOKENS = re.compile(r"^(?:openai/)?(?:o\d|gpt-(?:[5-9]|\d\d))", re.IGNORECASE)
_OPENAIS_OWN = re.compile(r"^(?:openai/)?(?:o\d|gpt-\d|chatgpt)", re.IGNORECASE)
# whose servers refuse what they do not know, also where it changes no answer
_REFUSE_UNKNOWN = re.compile(r"^https?://[^/]*\.(?:mistral\.ai|groq\.com|cerebras\.ai)(?:[:/]|$)")
# whose thinking models refuse what they called before, unless they are told what they thought
_WANT_THINKING = re.compile(r"^https?://[^/]*\.(?:moonshot\.(?:ai|cn)|kimi\.com|deepseek\.com)(?:[:/]|$)")
_NO_THINKING = " "  # in the place of what they want told, and nobody knows
_REFUSED = frozenset({"context_management"})  # Anthropic's own
_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_ID_CHARACTERS = 40
_USER_CHARACTERS = 64


class OpenAICodec:
    kind = "openai"
    embed_batch = 512

    # --- chat ---

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        body: Json = {}
        request = self._structured(_thinking(with_found_tools(request), model), model, body)
        body |= {"model": model.name, "messages": self._messages(request, model), "stream": stream}
        options = model.provider.options
        is_mistral = "mistral.ai" in model.provider.base_url  # which refuses what it does not know
        if stream and options.get("stream_usage", not is_mistral):
            body["stream_options"] = {"include_usage": True}
        if max_output_tokens is not None:
            body[self._max_tokens_field(model)] = max_output_tokens
        self._sampling(request, model, body, seed="random_seed" if is_mistral else "seed")
        self._tools(request, body)
        if request.extra.get("n") not in (None, 1):
            raise UnsupportedByProvider("n: one call gives one answer")
        if request.logprobs is not None:
            body["logprobs"] = True
            body |= {"top_logprobs": request.logprobs} if request.logprobs else {}
        if request.end_user and not is_mistral:
            body["user"] = shortened(request.end_user, _USER_CHARACTERS)
        if request.extra:
            leave = is_idle if _REFUSE_UNKNOWN.search(model.provider.base_url) else _is_neutral
            merge_extra(body, request.extra, refuse=_REFUSED, leave=leave)
        sent = self._request(model.provider, "POST", "/chat/completions", body)
        return sent if request.logprobs is None else replace(sent, logprobs=True)

    def decode_chat(self, response: WireResponse, sent: WireRequest) -> ChatResult:
        try:
            answer = self._object(response, sent)
        except ProviderError:
            if is_stream(response):  # from a server that knows nothing else
                return assembled(self.chat_stream(sent), response.body)
            raise
        return (None if sent.logprobs else plain_result(answer)) or read_result(answer, sent)

    def decode_error(self, response: WireResponse, sent: WireRequest) -> ProviderError:
        return error_from_response(response, sent)

    def chat_stream(self, sent: WireRequest) -> StreamDecoder:
        decoder = ChatDecoder(self, sent)
        return LogprobsDecoder(decoder, sent) if sent.logprobs else decoder

    # --- embeddings, counting, status ---

    def encode_embed(
        self, texts: tuple[EmbedInput, ...], model: ModelSpec, *, purpose: EmbedPurpose, dimensions: int | None = None
    ) -> WireRequest:
        body: Json = {"model": model.name, "input": list(texts), "encoding_format": "float"}
        if dimensions is None and model.provider.options.get("send_dimensions"):
            dimensions = model.dimensions
        if dimensions:
            body["dimensions"] = dimensions
        return self._request(model.provider, "POST", "/embeddings", body)

    def decode_embed(self, response: WireResponse, sent: WireRequest) -> Embeddings:
        answer = self._object(response, sent)
        rows = get_dicts(answer, "data")
        refuse_other_number(rows, (sent.body or {}).get("input"))
        rows = sorted(rows, key=lambda row: get_number(row, "index") or 0)
        vectors = get_vectors([row.get("embedding") for row in rows])
        usage = read_usage(answer, {}) or Usage()
        if usage.input_tokens is None:  # Voyage tells nothing but the total
            usage = Usage(input_tokens=get_count(get_dict(answer, "usage"), "total_tokens"))
        return Embeddings(vectors, usage, get_str(answer, "model"))

    def encode_count(self, request: ChatRequest, model: ModelSpec) -> WireRequest | None:
        return None

    def decode_count(self, response: WireResponse, sent: WireRequest) -> int:
        raise protocol_error("this API does not count tokens")

    def encode_status(self, provider: ProviderSpec) -> tuple[WireRequest, ...]:
        return (self._request(provider, "GET", "/models", None),)

    def decode_status(self, responses: tuple[WireResponse | None, ...]) -> ProviderStatus:
        rows = load_rows(responses[0].body, "data", "models") if responses[0] else []
        names = tuple(get_str(row, "id") or get_str(row, "name") for row in rows)
        return ProviderStatus(models=tuple(filter(None, names)))

    # --- requests ---

    def _request(self, provider: ProviderSpec, method: str, path: str, body: Mapping[str, Any] | None) -> WireRequest:
        url = base_url(provider.base_url, "/v1") + path
        return WireRequest(method, url, bearer_headers(provider), body, provider.api_key)

    def _max_tokens_field(self, model: ModelSpec) -> str:
        field = model.provider.options.get("max_tokens_field")
        if field in ("max_tokens", "max_completion_tokens"):
            return str(field)
        return "max_completion_tokens" if _WANTS_COMPLETION_TOKENS.match(model.name) else "max_tokens"

    def _structured(self, request: ChatRequest, model: ModelSpec, body: Json) -> ChatRequest:
        """Fills `response_format`, or says the schema in the prompt; returns the request to encode."""
        if request.json_schema is None and not request.json_object:
            return request
        how = structured_output(model)
        if how in ("prompt", "tool"):
            return in_prompt(request)
        if request.json_schema is not None and how == "schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": _NAME.sub("_", request.json_schema_name)[:64] or "answer",
                    "schema": request.json_schema,
                    "strict": is_strict(request.json_schema)
                    if request.json_schema_strict is None
                    else request.json_schema_strict,
                },
            }
            return request
        body["response_format"] = {"type": "json_object"}
        if request.json_schema is not None:
            return with_instruction(request, schema_instruction(request.json_schema))
        if not any("json" in turn.text.lower() for turn in request.messages):
            return in_prompt(request)  # the API refuses JSON mode unless the prompt speaks of JSON
        return request

    def _sampling(self, request: ChatRequest, model: ModelSpec, body: Json, *, seed: str) -> None:
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.stop:
            body["stop"] = list(request.stop)
        if request.seed is not None:
            body[seed] = request.seed
        if request.reasoning_effort and (effort := _effort(request, model)):
            body["reasoning_effort"] = effort

    def _tools(self, request: ChatRequest, body: Json) -> None:
        if not request.tools:
            return
        body["tools"] = [tool_definition(tool) for tool in request.tools]
        if request.tool_choice in ("auto", "none", "required"):
            body["tool_choice"] = request.tool_choice
        elif request.tool_choice:
            body["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls

    def _messages(self, request: ChatRequest, model: ModelSpec) -> list[Json]:
        turns: list[Json] = []
        address = model.provider.base_url
        thinks = request.thinking_back or bool(
            model.provider.options.get("send_reasoning", _WANT_THINKING.search(address))
        )
        for turn in request.messages:
            first = turn.parts[0] if len(turn.parts) == 1 else None
            if (
                isinstance(first, Text) and turn.role != "tool" and not turn.name
            ):  # nearly all, without looking for more
                turns.append({"role": turn.role, "content": first.text})
            else:
                turns += self._turn(turn, model, thinks=thinks)
        if request.thinking_back:
            for said in turns:
                if said["role"] == "assistant":
                    said.setdefault("reasoning_content", _NO_THINKING)
        if "mistral.ai" in address:
            _shorten_ids(turns, 9)
        return turns

    def _turn(self, turn: Message, model: ModelSpec, *, thinks: bool) -> list[Json]:
        turns: list[Json] = [
            {
                "role": "tool",
                "tool_call_id": shortened(part.tool_call_id, _ID_CHARACTERS),
                "content": tool_result_text(part),
            }
            for part in turn.parts
            if isinstance(part, ToolResult)
        ]
        if all(isinstance(part, ToolResult) for part in turn.parts) and turns:
            return turns
        if turn.role == "assistant":
            said = self._assistant(turn, model, thinks=thinks)
        else:
            said = {"role": "user" if turn.role == "tool" else turn.role, "content": self._content(turn, model)}
        if turn.name and "mistral.ai" not in model.provider.base_url:
            said["name"] = turn.name
        return [*turns, said]

    def _assistant(self, turn: Message, model: ModelSpec, *, thinks: bool) -> Json:
        """`thinks`: with what the model thought."""
        if any(isinstance(part, (Image, Pdf, Cited)) for part in turn.parts):
            raise UnsupportedByProvider("an image or a document in an assistant's turn")
        calls = [part for part in turn.parts if isinstance(part, ToolCall)]
        text = joined_text(turn)
        # OpenAI says null of a turn that only calls; of the servers that people run themselves some refuse that
        nothing = "" if model.provider.location is Source.LOCAL else None
        encoded: Json = {"role": "assistant", "content": text if text or not calls else nothing}
        if calls:
            encoded["tool_calls"] = [
                {
                    "id": shortened(call.id, _ID_CHARACTERS),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call_arguments(call, model)},
                }
                for call in calls
            ]
            if "gemini" in model.name.lower():
                sign(encoded, turn, model)
        thinking = "".join(p.text for p in turn.parts if isinstance(p, Reasoning) and not p.redacted) if thinks else ""
        if thinking:
            encoded["reasoning_content"] = thinking
        return encoded

    def _content(self, turn: Message, model: ModelSpec) -> str | list[Json]:
        said = [part for part in turn.parts if isinstance(part, (Text, Image, Pdf, Cited))]
        if turn.role == "system":
            if any(isinstance(part, (Image, Pdf, Cited)) for part in said):
                raise UnsupportedByProvider("an image or a document in a system message")
            return joined_text(turn)  # many compatible servers take only a string here
        if len(said) <= 1 and all(isinstance(part, Text) for part in said):
            return turn.text
        return [block for part in said for block in content_blocks(part, model)]

    def _object(self, response: WireResponse, sent: WireRequest) -> Json:
        """The answer's JSON object; errors of every shape are raised."""
        if not 200 <= response.status < 300:
            raise self.decode_error(response, sent)
        answer = load_object(response.body)
        if answer.get("error") and not answer.get("choices"):
            raise error_from_event(answer, sent)
        if answer.get("object") == "error" or answer.get("type") == "error":
            raise error_from_event(answer, sent)
        return answer


def _thinking(request: ChatRequest, model: ModelSpec) -> ChatRequest:
    """Anthropic's `thinking` as OpenAI's own models know it; other servers have a parameter of that name."""
    if not _OPENAIS_OWN.match(model.name):
        return request
    asked = in_efforts(request)
    if asked is request or _WANTS_COMPLETION_TOKENS.match(model.name):
        return asked
    if is_left_to_model(request):
        return without_thinking(request)
    if asked.reasoning_effort != "none":
        raise UnsupportedByProvider(f"thinking: {model.name} does not think")
    return replace(asked, reasoning_effort="")


def _effort(request: ChatRequest, model: ModelSpec) -> str:
    """How much to think; "default" is a word that Groq alone knows."""
    return request.reasoning_effort if "groq.com" in model.provider.base_url else effort_of(request)


def _is_neutral(key: str, value: Any) -> bool:
    """Also the usual tier in the words of Anthropic's clients, and what they want forgotten that is not sent here."""
    own = key == "service_tier" and value == "standard_only"
    return own or is_neutral(key, value) or forgets_thinking_alone(key, value)


def _shorten_ids(turns: list[Json], length: int) -> None:
    """Mistral takes ids of exactly nine letters and digits."""
    for turn in turns:
        for holder, key in [(turn, "tool_call_id"), *((call, "id") for call in turn.get("tool_calls", ()))]:
            if key in holder and not (len(holder[key]) == length and holder[key].isalnum()):
                holder[key] = digest(holder[key])[:length]
