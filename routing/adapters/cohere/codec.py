"""Cohere's v2 API: chat and embeddings. Options of a provider row: `headers`, `structured_output`."""

from collections.abc import Mapping
from typing import Any

from routing.adapters.asking.forced_calls import CallDecoder, as_answer, as_call, is_forced
from routing.adapters.asking.prompting import (
    effort_of,
    in_prompt,
    joined_text,
    refuse_logprobs,
    structured_output,
    with_instruction,
)
from routing.adapters.asking.prompting import schema_instruction as in_words
from routing.adapters.asking.vectors import get_vectors, refuse_other_number
from routing.adapters.base import EmbedInput, EmbedPurpose, ProviderStatus, StreamDecoder, WireRequest, WireResponse
from routing.adapters.cohere.answers import CohereDecoder, read_message, read_usage
from routing.adapters.faults.errors import error_from_event, error_from_response
from routing.adapters.openai.parts import content_block, tool_definition, tool_result_text
from routing.adapters.reading.wire import (
    Json,
    base_url,
    bearer_headers,
    get_dict,
    get_dicts,
    get_str,
    is_idle,
    load_object,
    protocol_error,
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
    Text,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
)
from ziggie.values import replace

# parameters of other APIs under Cohere's names; native ones pass as they are
_RENAMED = {"top_p": "p", "top_k": "k"}
_NATIVE = frozenset({"p", "k", "presence_penalty", "frequency_penalty", "safety_mode", "thinking", "logprobs"})
_INPUT_TYPES: dict[EmbedPurpose, str] = {"document": "search_document", "query": "search_query"}


class CohereCodec:
    kind = "cohere"
    embed_batch = 96

    # --- chat ---

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        body: Json = {"model": model.name, "stream": stream}
        request = with_found_tools(request)
        calls: tuple[str, ...] = ()
        if request.parallel_tool_calls is False and is_forced(request):  # one call and no more: only so can it be had
            request, calls = as_answer(request)
        refuse_logprobs(request, "Cohere's API")
        request = self._structured(request, model, body)
        body["messages"] = [encoded for turn in request.messages for encoded in self._turn(turn)]
        self._tools(request, body)
        self._sampling(request, body, max_output_tokens)
        for key, value in request.extra.items():
            if is_idle(key, value):
                continue
            if key not in _RENAMED and key not in _NATIVE:
                raise UnsupportedByProvider(f"{key} is not a parameter of Cohere's API")
            body[_RENAMED.get(key, key)] = _thinking(value) if key == "thinking" else value
        sent = self._request(model.provider, "POST", "/v2/chat", body)
        return replace(sent, calls=calls) if calls else sent

    def decode_chat(self, response: WireResponse, sent: WireRequest) -> ChatResult:
        result = read_message(self._object(response, sent), sent)
        return as_call(result, sent) if sent.calls else result

    def decode_error(self, response: WireResponse, sent: WireRequest) -> ProviderError:
        return error_from_response(response, sent)

    def chat_stream(self, sent: WireRequest) -> StreamDecoder:
        decoder = CohereDecoder(self, sent)
        return CallDecoder(decoder, sent) if sent.calls else decoder

    # --- embeddings, counting, status ---

    def encode_embed(
        self, texts: tuple[EmbedInput, ...], model: ModelSpec, *, purpose: EmbedPurpose, dimensions: int | None = None
    ) -> WireRequest:
        body: Json = {"model": model.name, "texts": list(texts), "input_type": _INPUT_TYPES[purpose]}
        # truncate: NONE makes the API refuse what it would otherwise cut in silence
        body |= {"embedding_types": ["float"], "truncate": "NONE"}
        if dimensions:
            body["output_dimension"] = dimensions
        return self._request(model.provider, "POST", "/v2/embed", body)

    def decode_embed(self, response: WireResponse, sent: WireRequest) -> Embeddings:
        answer = self._object(response, sent)
        told = answer.get("embeddings")  # of the API's first version a list
        vectors = get_vectors(told if isinstance(told, list) else get_dict(answer, "embeddings").get("float"))
        refuse_other_number(vectors, (sent.body or {}).get("texts"))
        return Embeddings(vectors, read_usage(get_dict(answer, "meta")))

    def encode_count(self, request: ChatRequest, model: ModelSpec) -> WireRequest | None:
        return None  # /v1/tokenize counts a text, not a conversation with its template

    def decode_count(self, response: WireResponse, sent: WireRequest) -> int:
        raise protocol_error("this API does not count a conversation's tokens")

    def encode_status(self, provider: ProviderSpec) -> tuple[WireRequest, ...]:
        return (self._request(provider, "GET", "/v1/models?page_size=1000", None),)

    def decode_status(self, responses: tuple[WireResponse | None, ...]) -> ProviderStatus:
        answer = load_object(responses[0].body) if responses[0] else {}
        return ProviderStatus(models=tuple(filter(None, (get_str(row, "name") for row in get_dicts(answer, "models")))))

    # --- requests ---

    def _request(self, provider: ProviderSpec, method: str, path: str, body: Mapping[str, Any] | None) -> WireRequest:
        url = base_url(provider.base_url, "", ("/v2", "/v1")) + path
        return WireRequest(method, url, bearer_headers(provider), body, provider.api_key)

    def _structured(self, request: ChatRequest, model: ModelSpec, body: Json) -> ChatRequest:
        if request.json_schema is None and not request.json_object:
            return request
        how = structured_output(model)
        if request.tools or how in ("prompt", "tool"):
            return in_prompt(request)  # JSON mode and tools exclude each other
        body["response_format"] = {"type": "json_object"}
        if request.json_schema is None:
            return in_prompt(request)  # Cohere asks for the words beside the mode
        if how == "object":
            return with_instruction(request, in_words(request.json_schema))
        body["response_format"]["json_schema"] = request.json_schema
        return request

    def _sampling(self, request: ChatRequest, body: Json, max_output_tokens: int | None) -> None:
        given = {
            "max_tokens": max_output_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop_sequences": list(request.stop) or None,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        if effort := effort_of(request):
            body["thinking"] = {"type": "disabled" if effort in ("none", "minimal") else "enabled"}

    def _tools(self, request: ChatRequest, body: Json) -> None:
        if not request.tools:
            return
        if request.parallel_tool_calls is False:
            raise UnsupportedByProvider("parallel_tool_calls: Cohere cannot be kept from several calls at once")
        tools, choice = request.tools, request.tool_choice
        if choice not in ("", "auto", "none", "required"):
            tools = tuple(tool for tool in tools if tool.name == choice)  # the one tool there is, required
            choice = "required"
            if not tools:
                raise UnsupportedByProvider(f"tool_choice names {request.tool_choice!r}, which is no tool here")
        body["tools"] = [tool_definition(tool) for tool in tools]
        if choice in ("none", "required"):
            body["tool_choice"] = choice.upper()

    def _turn(self, turn: Message) -> list[Json]:
        turns: list[Json] = [
            {"role": "tool", "tool_call_id": part.tool_call_id, "content": tool_result_text(part)}
            for part in turn.parts
            if isinstance(part, ToolResult)
        ]
        if turns and len(turns) == len(turn.parts):
            return turns
        if turn.role == "assistant":
            return [*turns, _assistant(turn)]
        if not any(isinstance(part, (Image, Pdf, Cited)) for part in turn.parts):
            return [*turns, {"role": "user" if turn.role == "tool" else turn.role, "content": joined_text(turn)}]
        if turn.role == "system":
            raise UnsupportedByProvider("an image or a document in a system message")
        if any(isinstance(part, (Pdf, Cited)) for part in turn.parts):
            raise UnsupportedByProvider("a PDF document, or one to be cited: Cohere's API takes none")
        blocks = [content_block(part) for part in turn.parts if isinstance(part, (Text, Image))]
        return [*turns, {"role": "user", "content": blocks}]

    def _object(self, response: WireResponse, sent: WireRequest) -> Json:
        if not 200 <= response.status < 300:
            raise self.decode_error(response, sent)
        answer = load_object(response.body)
        if answer.get("error") or ("message" in answer and isinstance(answer["message"], str)):
            raise error_from_event(answer, sent)
        return answer


def _thinking(asked: Any) -> Any:
    """Anthropic's words for thinking in Cohere's; Cohere's own stay as they are."""
    match asked:
        case {"type": "enabled", "budget_tokens": int(budget)}:
            return {"type": "enabled", "token_budget": budget}
        case {"type": "adaptive"}:
            return {"type": "enabled"}
    return asked


def _assistant(turn: Message) -> Json:
    if any(isinstance(part, (Image, Pdf, Cited)) for part in turn.parts):
        raise UnsupportedByProvider("an image or a document in an assistant's turn")
    encoded: Json = {"role": "assistant"}
    text = joined_text(turn)
    calls = [part for part in turn.parts if isinstance(part, ToolCall)]
    if text or not calls:
        encoded["content"] = text
    if calls:
        encoded["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments.strip() or "{}"},
            }
            for call in calls
        ]
    return encoded
