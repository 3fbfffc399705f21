"""Anthropic's messages API. The bytes go through the anthropic package (`claude.py`); this reads and writes them.

Options of a provider row: `headers`, `structured_output` (schema: output_config.format; tool: one forced tool;
prompt), `version` (the anthropic-version header).
"""

import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.anthropic.answers import ANSWER_TOOL, CALLS, MessageDecoder, read_message
from routing.adapters.anthropic.thinking import (
    leave_out_refused,
    takes_no_budget,
    thinks_or_calls,
    wants_budget,
    with_budget,
)
from routing.adapters.anthropic.turns import conversation
from routing.adapters.asking.prompting import (
    JSON_ONLY,
    StructuredOutput,
    effort_of,
    in_prompt,
    is_left_to_model,
    refuse_logprobs,
    with_instruction,
    without_thinking,
)
from routing.adapters.base import EmbedInput, EmbedPurpose, ProviderStatus, StreamDecoder, WireRequest, WireResponse
from routing.adapters.faults.error_bodies import holds_error
from routing.adapters.faults.errors import error_from_event, error_from_response
from routing.adapters.reading.wire import (
    Json,
    base_url,
    extra_headers,
    get_count,
    get_dicts,
    get_str,
    is_idle,
    load_object,
    merge_extra,
    protocol_error,
    shortened,
)
from routing.types import (
    ChatRequest,
    ChatResult,
    Embeddings,
    ModelSpec,
    ProviderError,
    ProviderSpec,
    UnsupportedByProvider,
)
from ziggie.values import replace

API_VERSION = "2023-06-01"
DEFAULT_OUTPUT_TOKENS = 4096  # the API wants a number
LEAST_BUDGET = 1024  # of thinking
LEAST_LIMIT = 2 * LEAST_BUDGET  # with room for an answer
# before structured outputs (and before 4.5 of each line): claude-3-5-sonnet-20241022, claude-sonnet-4-20250514
_WITHOUT_FORMAT = re.compile(r"^claude-(?:instant|[123]\b|(?:sonnet|opus|haiku)-4(?:-0|-\d{8})?$)")
_WITH_BOTH = re.compile(r"^claude-opus-4-5")
_WITHOUT_THINKING = re.compile(r"^claude-(?:instant|[12]\b|3-(?!7))")
_BUDGETS = {"low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
# parameters of other APIs that this one does not know
_REFUSED = frozenset(
    {"n", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "min_p"}
    | {"repetition_penalty", "repeat_penalty", "store", "prediction", "modalities", "audio", "verbosity", "best_of"}
    # what another call would be made of, or what its answer or its bill would be
    | {"container", "mcp_servers", "thread", "compaction", "diagnostics", "billing_policy", "fallback_credit_token"}
    | {"user_profile_id"}
)
_USER_CHARACTERS = 256


class AnthropicCodec:
    kind = "anthropic"
    embed_batch = 1

    # --- chat ---

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        limit = max_output_tokens or model.max_output_tokens or DEFAULT_OUTPUT_TOKENS
        body: Json = {"model": model.name, "max_tokens": limit, "stream": stream}
        refuse_logprobs(request, "Anthropic's API")
        request = self._structured(_thinking_as_known(request, model.name, limit), model, body)
        price = model.price  # without a price for what is written to a cache, no budget could hold it
        marks = price is not None and price.cache_write_usd_per_mtok is not None
        body |= conversation(request, model.name, marks=marks)
        self._sampling(request, model, body)
        if request.end_user:
            body["metadata"] = {"user_id": shortened(request.end_user, _USER_CHARACTERS)}
        merge_extra(body, request.extra, refuse=_REFUSED, leave=_is_idle)
        leave_out_refused(body, model.name)
        _fit_budget(body, request)
        betas = request.extra.get("anthropic_beta")
        return self._request(model.provider, "POST", "/v1/messages", body, betas=betas)

    def decode_chat(self, response: WireResponse, sent: WireRequest) -> ChatResult:
        return read_message(self._object(response, sent), sent)

    def decode_error(self, response: WireResponse, sent: WireRequest) -> ProviderError:
        return error_from_response(response, sent)

    def chat_stream(self, sent: WireRequest) -> StreamDecoder:
        return MessageDecoder(self, sent)

    # --- embeddings, counting, status ---

    def encode_embed(
        self, texts: tuple[EmbedInput, ...], model: ModelSpec, *, purpose: EmbedPurpose, dimensions: int | None = None
    ) -> WireRequest:
        raise UnsupportedByProvider("embeddings: Anthropic's API has none")

    def decode_embed(self, response: WireResponse, sent: WireRequest) -> Embeddings:
        raise protocol_error("this API has no embeddings")

    def encode_count(self, request: ChatRequest, model: ModelSpec) -> WireRequest | None:
        body: Json = {"model": model.name}
        request = self._structured(request, model, body)
        body |= conversation(request, model.name, marks=False)
        return self._request(model.provider, "POST", "/v1/messages/count_tokens", body)

    def decode_count(self, response: WireResponse, sent: WireRequest) -> int:
        count = get_count(self._object(response, sent), "input_tokens")
        if count is None:
            raise protocol_error("the answer holds no input_tokens")
        return count

    def encode_status(self, provider: ProviderSpec) -> tuple[WireRequest, ...]:
        return (self._request(provider, "GET", "/v1/models?limit=1000", None),)

    def decode_status(self, responses: tuple[WireResponse | None, ...]) -> ProviderStatus:
        answer = load_object(responses[0].body) if responses[0] else {}
        return ProviderStatus(models=tuple(filter(None, (get_str(row, "id") for row in get_dicts(answer, "data")))))

    # --- requests ---

    def _request(
        self, provider: ProviderSpec, method: str, path: str, body: Mapping[str, Any] | None, *, betas: Any = None
    ) -> WireRequest:
        version = provider.options.get("version", API_VERSION)
        headers = {**extra_headers(provider), "anthropic-version": str(version)}
        if provider.api_key:
            headers["x-api-key"] = provider.api_key
        if isinstance(betas, str):
            headers["anthropic-beta"] = ",".join(filter(None, (headers.get("anthropic-beta"), betas)))
        url = base_url(provider.base_url, "", ("/v1",)) + path
        return WireRequest(method, url, headers, body, provider.api_key)

    def _structured(self, request: ChatRequest, model: ModelSpec, body: Json) -> ChatRequest:
        """Asks for JSON in the best way the model knows; returns the request to encode."""
        if request.json_schema is None:
            return with_instruction(request, JSON_ONLY) if request.json_object else request
        how = self._how(request, model)
        if how == "schema":
            body["output_config"] = {"format": {"type": "json_schema", "schema": request.json_schema}}
            return request
        if how == "prompt":
            return in_prompt(request)
        body["tools"] = [
            {
                "name": ANSWER_TOOL,
                "description": "Gives the answer. Call it once, with the whole answer.",
                "input_schema": request.json_schema,
            }
        ]
        body["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL}
        return request

    def _how(self, request: ChatRequest, model: ModelSpec) -> StructuredOutput:
        how: StructuredOutput = "tool" if _WITHOUT_FORMAT.match(model.name) else "schema"
        chosen = model.provider.options.get("structured_output")
        if chosen in ("schema", "tool", "prompt"):
            how = chosen
        # a tool's input is always an object, one forced tool leaves no room for the caller's own, and
        # the API allows no forced tool while the model thinks
        schema = request.json_schema or {}
        thinks = effort_of(request) or wants_budget(request.extra.get("thinking"))
        if how == "tool" and (request.tools or thinks or schema.get("type") != "object"):
            return "prompt"
        return how

    def _sampling(self, request: ChatRequest, model: ModelSpec, body: Json) -> None:
        if request.seed is not None:
            raise UnsupportedByProvider("seed is not supported by Anthropic's API")
        if request.temperature is not None:
            if request.temperature > 1:
                raise UnsupportedByProvider("temperature above 1 is not supported by Anthropic's API")
            body["temperature"] = request.temperature
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        if effort := effort_of(request):
            self._think(effort, model, body, request.extra)

    def _think(self, effort: str, model: ModelSpec, body: Json, extra: Mapping[str, Any]) -> None:
        """Where `extra` has `thinking`, and be it None, the caller says in this API's words whether to think, and with
        `effort` how much to write at all."""
        if effort in ("none", "minimal"):
            body["thinking"] = {"type": "disabled"}
            return
        if effort not in _BUDGETS or _WITHOUT_THINKING.match(model.name):
            raise UnsupportedByProvider(f"reasoning effort {effort!r} is not known to {model.name}")
        in_budget = with_budget(model.name)
        knows_effort = not in_budget or _WITH_BOTH.match(model.name) is not None
        if extra.get("thinking") is not None and not knows_effort:
            raise UnsupportedByProvider(f"effort beside thinking is not known to {model.name}")
        in_own_words = "thinking" in extra and knows_effort
        if in_own_words or not in_budget:
            body["output_config"] = {**body.get("output_config", {}), "effort": effort}
            body |= {} if in_own_words or thinks_or_calls(body) else {"thinking": {"type": "adaptive"}}
            return
        if takes_no_budget(body):
            return
        budget = min(_BUDGETS[effort], body["max_tokens"] - LEAST_BUDGET)
        if budget < LEAST_BUDGET:
            raise UnsupportedByProvider("reasoning needs max_tokens of at least 2048 here")
        if body.get("temperature") not in (None, 1, 1.0):
            raise UnsupportedByProvider("temperature other than 1 together with reasoning")
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _object(self, response: WireResponse, sent: WireRequest) -> Json:
        if not 200 <= response.status < 300:
            raise self.decode_error(response, sent)
        answer = load_object(response.body, calls=CALLS)
        if answer.get("type") == "error" or answer.get("error") or ("content" not in answer and holds_error(answer)):
            raise error_from_event(answer, sent)
        return answer


def _thinking_as_known(request: ChatRequest, name: str, limit: int) -> ChatRequest:
    """Thinking that is left to the model, for one that knows no such word: within a budget, where it may have one."""
    if not is_left_to_model(request) or not (with_budget(name) or _WITHOUT_THINKING.match(name)):
        return request
    plain = without_thinking(request)
    if not with_budget(name) or limit < LEAST_LIMIT or request.temperature not in (None, 1, 1.0):
        return plain
    return replace(plain, reasoning_effort=effort_of(request) or "medium")


def _fit_budget(body: Json, request: ChatRequest) -> None:
    """A budget of thinking that the caller's own limit had room for, within the lower one that is sent."""
    thinking, limit, asked = body.get("thinking") or {}, body["max_tokens"], request.max_output_tokens
    if not wants_budget(thinking) or asked is None:
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or not limit <= budget < asked:  # what is no number is the API's to refuse
        return
    if limit < LEAST_LIMIT:
        raise UnsupportedByProvider("thinking within a budget needs max_tokens of at least 2048 here")
    body["thinking"] = {**thinking, "budget_tokens": limit - LEAST_BUDGET}


def _is_idle(key: str, value: Any) -> bool:
    """What this API alone has is no idle word here: `standard_only` keeps a call out of a tier that may have been
    bought."""
    return key != "context_management" and is_idle(key, value) and value != "standard_only"
