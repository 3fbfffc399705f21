"""PURE: requests of OpenAI's responses API -> routing.types. Nothing is stored: a request holds all that was said."""

from collections.abc import Mapping

from routing.gateway.wire.openai_parts import answer_form
from routing.gateway.wire.reading import (
    MAX_OUTPUT_TOKENS,
    Incoming,
    Json,
    by_one_model,
    effort,
    flag,
    hints,
    mapping,
    model,
    number,
    passed_through,
    refuse,
    refuse_asked,
    shown_in,
    text,
    unsupported,
    whole,
)
from routing.gateway.wire.responses_items import conversation
from routing.gateway.wire.responses_tools import Tools, decode_tools
from routing.types import ChatRequest

# What is read here or changes no answer; everything else passes through to providers that know it.
_READ = frozenset(
    {"model", "input", "instructions", "max_output_tokens", "temperature", "stream", "stream_options", "tools"}
    | {"tool_choice", "parallel_tool_calls", "text", "reasoning", "include", "top_logprobs", "metadata", "store"}
    | {"user", "truncation", "background", "previous_response_id", "conversation", "prompt", "max_tool_calls"}
    | {
        "client_metadata",
        "prompt_cache_options",
        "context_management",
        "moderation",
        "access_programs",
        "image",
        "thread",
        "background_options",
    }
)
_NEEDS_STORE = ("previous_response_id", "conversation", "prompt")
_REFUSED = ("context_management", "moderation", "access_programs", "image", "thread", "background_options")
# Words of the other chat API: passed on they would mean something, and their answer would have no place.
_OF_COMPLETIONS = (
    *("messages", "max_tokens", "max_completion_tokens", "n", "response_format", "reasoning_effort", "logprobs"),
    *("functions", "function_call", "audio", "modalities", "prediction", "web_search_options", "verbosity", "seed"),
    "stop",
)
_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = ("reasoning.encrypted_content", _LOGPROBS)
_SUMMARIES = ("", "auto", "concise", "detailed")
_VERBOSITIES = ("", "low", "medium", "high")
_READ_OF_REASONING = frozenset({"effort", "summary", "generate_summary", "mode", "context"})
_DEFAULTS_OF_REASONING = {"mode": "standard", "context": "auto"}
_CACHE_OPTIONS = {"mode": ("implicit", "explicit"), "ttl": ("30m",), "prewarm": (False,)}


def decode_response(body: Json, headers: Mapping[str, str], *, api_key_id: str | None = None) -> Incoming:
    """Raises InvalidInput, TooLarge or Unsupported. `headers` are hints by name, without `x-ziggie-`."""
    _refuse_what_cannot_be_answered(body)
    _check_what_changes_nothing(body)
    messages = conversation(body)
    said, paying = hints(mapping(body, "metadata"), headers)
    logprobs = _logprobs(body)
    if logprobs is not None:
        said = by_one_model(said, "logprobs")
    tools = decode_tools(body)
    form = mapping(mapping(body, "text"), "format", "text.")
    request = ChatRequest(
        messages=messages,
        model=model(body),
        hints=said,
        max_output_tokens=whole(body, "max_output_tokens", least=1, most=MAX_OUTPUT_TOKENS),
        temperature=number(body, "temperature", least=0, most=2),
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=flag(body, "parallel_tool_calls"),
        reasoning_effort=_effort(body),
        logprobs=logprobs,
        end_user=text(body, "user", default=""),
        extra={**passed_through(body, _READ), **_verbosity(body)},
        api_key_id=api_key_id,
        **_output(form),
        **paying,
    )
    shown_in(request)
    stream = bool(flag(body, "stream"))
    return Incoming(request, stream, True, _echo(body, request, tools, form), tools.namespaces)


def _refuse_what_cannot_be_answered(body: Json) -> None:
    for key in _NEEDS_STORE:
        if body.get(key):
            unsupported(
                key, "is not supported: this gateway stores no answers, so a request must hold all that was said"
            )
    if flag(body, "background"):
        unsupported("background", "is not supported: this gateway keeps no answers for later reading")
    refuse_asked(body, _REFUSED)
    for key in _OF_COMPLETIONS:
        if body.get(key) is not None:
            unsupported(key, "belongs to /v1/chat/completions, not to /v1/responses")


def _check_what_changes_nothing(body: Json) -> None:
    """What is neither passed on nor done must be clear all the same, and ask for nothing else."""
    flag(body, "store")  # whatever it says, the answer says false
    flag(mapping(body, "stream_options"), "include_obfuscation", "stream_options.")
    whole(body, "max_tool_calls", least=1, most=MAX_OUTPUT_TOKENS)  # of OpenAI's own tools, of which there are none
    if text(body, "truncation", default="disabled") != "disabled":
        unsupported("truncation", "must be disabled: nothing is left out of a prompt here")
    for key, value in mapping(body, "prompt_cache_options").items():
        if value is not None and value not in _CACHE_OPTIONS.get(key, ()):
            unsupported(f"prompt_cache_options.{key[:40]}")


def _logprobs(body: Json) -> int | None:
    """How many likely tokens to name beside each of the answer; None: nothing of that kind."""
    included = body.get("include")
    if included is not None and not isinstance(included, list):
        refuse("include", "must be an array")
    for what in included or ():
        if what not in _INCLUDED:
            unsupported("include", f"must hold {' and '.join(_INCLUDED)} alone, not {str(what)[:60]!r}")
    beside = whole(body, "top_logprobs", least=0, most=20)
    if _LOGPROBS in (included or ()):
        return beside or 0
    if beside:
        refuse("top_logprobs", f"needs {_LOGPROBS!r} in include")
    return None


def _effort(body: Json) -> str:
    """How much to think. What is told of it is always told."""
    asked = mapping(body, "reasoning")
    for key, value in asked.items():
        if value is not None and (key not in _READ_OF_REASONING or value != _DEFAULTS_OF_REASONING.get(key, value)):
            unsupported(f"reasoning.{key[:40]}")
    for key in ("summary", "generate_summary"):
        _one_of(asked, key, "reasoning.", _SUMMARIES)
    return effort(asked, "effort", "reasoning.")


def _verbosity(body: Json) -> Json:
    said = _one_of(mapping(body, "text"), "verbosity", "text.", _VERBOSITIES)
    return {"verbosity": said} if said else {}


def _one_of(holder: Json, key: str, where: str, known: tuple[str, ...]) -> str:
    said = text(holder, key, where, default="")
    if said not in known:
        refuse(where + key, f"must be one of {', '.join(known[1:])}")
    return said


def _output(form: Json) -> Json:
    """The fields of a ChatRequest that say what form the answer has."""
    asked = answer_form(form, "text.format.")
    if "json_schema" not in asked:
        return asked
    about = text(form, "description", "text.format.", default="")
    return {**asked, "json_schema": {"description": about, **asked["json_schema"]}} if about else asked


def _echo(body: Json, request: ChatRequest, tools: Tools, form: Json) -> Json:
    """What an answer repeats of the request."""
    told_form = {"type": form.get("type", "text")}
    if request.json_schema is not None:
        told_form |= {
            "name": request.json_schema_name,
            "description": form.get("description"),
            "schema": request.json_schema,
            "strict": bool(request.json_schema_strict),
        }
    asked = mapping(body, "reasoning")
    return {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": {key: value for key, value in mapping(body, "metadata").items() if isinstance(value, str)},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": text(body, "prompt_cache_key", default="") or None,
        "reasoning": {"effort": request.reasoning_effort or None, "summary": asked.get("summary")},
        "safety_identifier": text(body, "safety_identifier", default="") or None,
        "service_tier": text(body, "service_tier", default="default").replace("auto", "default"),
        "store": False,
        "temperature": request.temperature,
        "text": {"format": told_form, "verbosity": request.extra.get("verbosity", "medium")},
        "tool_choice": tools.chosen,
        "tools": tools.echo,
        "top_logprobs": request.logprobs or 0,
        "top_p": number(body, "top_p", least=0, most=1),
        "truncation": "disabled",
        "user": request.end_user or None,
    }
