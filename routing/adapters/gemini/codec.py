"""Google's native Gemini API. Options of a provider row: `headers`, `structured_output` (schema, object, prompt).

Gemini signs its calls of tools and wants the signatures back. They travel as the signature of a Reasoning
part before the call, marked so that no other provider is sent one.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from routing.adapters.answers.logprobs import LogprobsDecoder
from routing.adapters.asking.call_order import in_call_order, with_names
from routing.adapters.asking.documents import NO_CITATIONS, said_of
from routing.adapters.asking.forced_calls import CallDecoder, as_answer, as_call, is_forced
from routing.adapters.asking.prompting import (
    effort_of,
    in_efforts,
    in_prompt,
    joined_text,
    schema_instruction,
    structured_output,
    with_instruction,
)
from routing.adapters.asking.system_turns import in_users_turns
from routing.adapters.asking.vectors import get_vectors, refuse_other_number
from routing.adapters.base import EmbedInput, EmbedPurpose, ProviderStatus, StreamDecoder, WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_event, error_from_response
from routing.adapters.gemini.answers import CALLS, ContentDecoder, read_content
from routing.adapters.reading.wire import (
    SIGNATURE_MARK,
    UNSIGNED,
    Json,
    arguments_object,
    base_url,
    extra_headers,
    get_count,
    get_dict,
    get_dicts,
    get_str,
    inline_image,
    is_idle,
    load_object,
    loads,
    protocol_error,
    signs,
)
from routing.planning.deferral import said_by, with_found_tools
from routing.types import (
    ChatRequest,
    ChatResult,
    Cited,
    Embeddings,
    Image,
    Message,
    ModelSpec,
    Part,
    Pdf,
    ProviderError,
    ProviderSpec,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
    Usage,
)
from ziggie.values import replace

# parameters of other APIs under Google's names; native ones pass as they are
_GENERATION = {
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
_NATIVE_GENERATION = frozenset({"topP", "topK", "presencePenalty", "frequencyPenalty", "thinkingConfig"})
_NATIVE = frozenset({"safetySettings"})
# of tokens, in which earlier models think; levels are what later ones know. Neither goes further than "high".
_BUDGETS = {"none": 0, "minimal": 0, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = {"none": "minimal", "xhigh": "high", "max": "high"}
_TASK_TYPES: dict[EmbedPurpose, str] = {"document": "RETRIEVAL_DOCUMENT", "query": "RETRIEVAL_QUERY"}


class GeminiCodec:
    kind = "gemini"
    embed_batch = 100

    # --- chat ---

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        generation: Json = {}
        request = in_users_turns(with_found_tools(request))
        calls: tuple[str, ...] = ()
        if request.parallel_tool_calls is False and is_forced(request):  # one call and no more: only so can it be had
            request, calls = as_answer(request)
        request = self._structured(in_efforts(request), model, generation)
        body = self._conversation(request, model)
        self._sampling(request, model, generation)
        if max_output_tokens is not None:
            generation["maxOutputTokens"] = max_output_tokens
        self._extra(request, body, generation)
        if generation:
            body["generationConfig"] = generation
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        sent = self._request(model.provider, "POST", f"/{_path(model)}:{method}", body)
        if calls:  # whose text nobody sees
            return replace(sent, calls=calls)
        return replace(sent, logprobs=True) if request.logprobs is not None else sent

    def decode_chat(self, response: WireResponse, sent: WireRequest) -> ChatResult:
        result = read_content(self._chunks(response, sent), sent)
        return as_call(result, sent) if sent.calls else result

    def decode_error(self, response: WireResponse, sent: WireRequest) -> ProviderError:
        return error_from_response(response, sent)

    def chat_stream(self, sent: WireRequest) -> StreamDecoder:
        decoder = ContentDecoder(self, sent)
        if sent.logprobs:
            return LogprobsDecoder(decoder, sent, at_end=True)
        return CallDecoder(decoder, sent) if sent.calls else decoder

    # --- embeddings, counting, status ---

    def encode_embed(
        self, texts: tuple[EmbedInput, ...], model: ModelSpec, *, purpose: EmbedPurpose, dimensions: int | None = None
    ) -> WireRequest:
        each: Json = {"model": _path(model), "taskType": _TASK_TYPES[purpose]}
        if dimensions or model.dimensions:
            each["outputDimensionality"] = dimensions or model.dimensions
        requests = [{**each, "content": {"parts": [{"text": text}]}} for text in texts]
        return self._request(model.provider, "POST", f"/{_path(model)}:batchEmbedContents", {"requests": requests})

    def decode_embed(self, response: WireResponse, sent: WireRequest) -> Embeddings:
        answer = self._object(response, sent)
        alone = get_dict(answer, "embedding")  # of a request for one
        rows = [alone] if alone else get_dicts(answer, "embeddings")
        refuse_other_number(rows, (sent.body or {}).get("requests"))
        read = get_count(get_dict(answer, "usageMetadata"), "promptTokenCount")
        return Embeddings(get_vectors([row.get("values") for row in rows]), Usage(input_tokens=read))

    def encode_count(self, request: ChatRequest, model: ModelSpec) -> WireRequest | None:
        body = {"generateContentRequest": {"model": _path(model), **self._conversation(request, model)}}
        return self._request(model.provider, "POST", f"/{_path(model)}:countTokens", body)

    def decode_count(self, response: WireResponse, sent: WireRequest) -> int:
        count = get_count(self._object(response, sent), "totalTokens")
        if count is None:
            raise protocol_error("the answer holds no totalTokens")
        return count

    def encode_status(self, provider: ProviderSpec) -> tuple[WireRequest, ...]:
        return (self._request(provider, "GET", "/models?pageSize=1000", None),)

    def decode_status(self, responses: tuple[WireResponse | None, ...]) -> ProviderStatus:
        answer = load_object(responses[0].body) if responses[0] else {}
        names = (get_str(row, "name").removeprefix("models/") for row in get_dicts(answer, "models"))
        return ProviderStatus(models=tuple(filter(None, names)))

    # --- requests ---

    def _request(self, provider: ProviderSpec, method: str, path: str, body: Mapping[str, Any] | None) -> WireRequest:
        headers = extra_headers(provider)
        if provider.api_key:
            headers["x-goog-api-key"] = provider.api_key  # never in the address, which gets logged
        return WireRequest(method, base_url(provider.base_url, "/v1beta") + path, headers, body, provider.api_key)

    def _structured(self, request: ChatRequest, model: ModelSpec, generation: Json) -> ChatRequest:
        if request.json_schema is None and not request.json_object:
            return request
        how = structured_output(model)
        if request.tools or how in ("prompt", "tool"):
            return in_prompt(request)  # JSON mode and tools exclude each other
        generation["responseMimeType"] = "application/json"
        if request.json_schema is None:
            return request
        if how == "object":
            return with_instruction(request, schema_instruction(request.json_schema))
        generation["responseJsonSchema"] = request.json_schema
        return request

    def _sampling(self, request: ChatRequest, model: ModelSpec, generation: Json) -> None:
        if request.temperature is not None:
            generation["temperature"] = request.temperature
        if request.stop:
            generation["stopSequences"] = list(request.stop)
        if request.seed is not None:
            generation["seed"] = request.seed
        if request.logprobs is not None:
            generation["responseLogprobs"] = True
            generation |= {"logprobs": request.logprobs} if request.logprobs else {}
        effort = effort_of(request)
        if not effort:
            return
        if signs(model):
            generation["thinkingConfig"] = {"thinkingLevel": _LEVELS.get(effort, effort)}
        elif effort in _BUDGETS:
            generation["thinkingConfig"] = {"thinkingBudget": _BUDGETS[effort]}
        else:
            raise UnsupportedByProvider(f"reasoning effort {effort!r} is not known to {model.name}")

    def _extra(self, request: ChatRequest, body: Json, generation: Json) -> None:
        for key, value in request.extra.items():
            if is_idle(key, value):
                continue
            if key in _GENERATION or key in _NATIVE_GENERATION:
                generation[_GENERATION.get(key, key)] = value
            elif key in _NATIVE:
                body[key] = value
            else:
                raise UnsupportedByProvider(f"{key} is not a parameter of the Gemini API")

    def _conversation(self, request: ChatRequest, model: ModelSpec) -> Json:
        body: Json = {"contents": self._contents(request, signs=signs(model))}
        system = [part for turn in request.messages if turn.role == "system" for part in _system_texts(turn)]
        if system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
        if request.tools:
            if request.parallel_tool_calls is False:
                raise UnsupportedByProvider("parallel_tool_calls: Gemini cannot be kept from several calls at once")
            body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in request.tools]}]
            choice = _tool_choice(request.tool_choice)
            if choice:
                body["toolConfig"] = {"functionCallingConfig": choice}
        return body

    def _contents(self, request: ChatRequest, *, signs: bool) -> list[Json]:
        contents: list[Json] = []
        for turn, names in with_names(in_call_order(request.messages)):
            if turn.role == "system":
                continue
            role = "model" if turn.role == "assistant" else "user"
            parts = _parts(turn, names, signs=signs)
            if not parts:
                continue
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"] += parts
            else:
                contents.append({"role": role, "parts": parts})
        return contents

    def _object(self, response: WireResponse, sent: WireRequest) -> Json:
        return self._chunks(response, sent)[0]

    def _chunks(self, response: WireResponse, sent: WireRequest) -> list[Json]:
        """The answer, or those of a stream that was not asked for as events and came as a list (at least one)."""
        if not 200 <= response.status < 300:
            raise self.decode_error(response, sent)
        value = loads(response.body, calls=CALLS)
        chunks = value if isinstance(value, list) and value else [value]
        for chunk in chunks:
            if not isinstance(chunk, dict):
                raise protocol_error("the answer is not a JSON object")
            if chunk.get("error"):
                raise error_from_event(chunk, sent)
        return chunks


def _path(model: ModelSpec) -> str:
    name = quote(model.name, safe="/:@.-_")
    return name if "/" in name else f"models/{name}"


def _system_texts(turn: Message) -> list[str]:
    if any(not isinstance(part, Text) for part in turn.parts):
        raise UnsupportedByProvider("a system message that is not text")
    text = joined_text(turn)
    return [text] if text else []


def _declaration(tool: Tool) -> Json:
    """One without parameters has no schema: an empty one says that anything may be given."""
    declaration: Json = {"name": tool.name, "description": tool.description}
    return {**declaration, "parametersJsonSchema": tool.parameters} if tool.parameters else declaration


def _tool_choice(choice: str) -> Json:
    if not choice:
        return {}
    modes = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
    if choice in modes:
        return {"mode": modes[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


def _parts(turn: Message, names: Mapping[str, str], *, signs: bool) -> list[Json]:
    encoded: list[Json] = []
    signature = ""
    for part in turn.parts:
        if isinstance(part, Reasoning):  # thinking itself is not sent back, only what proves it
            if part.signature.startswith(SIGNATURE_MARK):
                signature = part.signature.removeprefix(SIGNATURE_MARK)
            continue
        if isinstance(part, Pdf) and (said := said_of(part, named=False)):
            encoded.append({"text": said})
        block = _part(part, turn.role, names)
        if not block:
            continue
        if isinstance(part, ToolCall) and signs and not signature and not _signed(encoded):
            signature = UNSIGNED
        if signature:
            block["thoughtSignature"] = signature
            signature = ""
        encoded.append(block)
    if signature:  # of the text before it: a stream tells it last
        encoded.append({"text": "", "thoughtSignature": signature})
    return encoded


def _signed(blocks: list[Json]) -> bool:
    """Of several calls in one turn only the first bears a signature."""
    return any("functionCall" in block for block in blocks)


def _part(part: Part, role: str, names: Mapping[str, str]) -> Json:
    if isinstance(part, Text):
        return {"text": part.text} if part.text else {}
    if isinstance(part, Image):
        inline = inline_image(part)
        if inline is None or role == "assistant":
            raise UnsupportedByProvider("an image by address or in an assistant's turn: Gemini takes neither")
        return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
    if isinstance(part, Cited):
        raise UnsupportedByProvider(NO_CITATIONS)
    if isinstance(part, Pdf):
        if part.url or role == "assistant":
            raise UnsupportedByProvider("a PDF by address or in an assistant's turn: Gemini takes neither")
        return {"inlineData": {"mimeType": "application/pdf", "data": part.data}}
    if isinstance(part, ToolCall):
        return {"functionCall": {"name": part.name, "args": arguments_object(part.arguments)}}
    if isinstance(part, ToolResult):
        name = names.get(part.tool_call_id)
        if name is None:
            raise UnsupportedByProvider("a tool's result without the call it answers")
        return {"functionResponse": {"name": name, "response": {"error" if part.is_error else "result": said_by(part)}}}
    return {}
