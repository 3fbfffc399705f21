"""PURE: what the gateway's endpoints take and answer, as OpenAPI 3.0 says it. Named is what the gateway reads itself;
what else these APIs have goes through to the providers that know it."""

from typing import Any

from routing.demand import MOST_ANSWERS
from routing.gateway.reading import (
    MAX_DIMENSIONS,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_OUTPUT_TOKENS,
    MAX_STOPS,
    MAX_TEXTS,
    MAX_TOOLS,
)

Described = dict[str, Any]


def _object(*required: str, **properties: Described) -> Described:
    return {"type": "object", **({"required": list(required)} if required else {}), "properties": properties}


def _list(items: Described, **limits: int) -> Described:
    return {"type": "array", "items": items, **limits}


def _one_of(*values: str | None) -> Described:
    return {"type": "string", "enum": list(values), **({"nullable": True} if None in values else {})}


def _may(described: Described) -> Described:
    """A field that says nothing where it is null."""
    return {**described, "nullable": True}


STRING: Described = {"type": "string"}
NAME: Described = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
MODEL: Described = {**NAME, "description": "`auto`, a model's slug or its wire name."}
FLAG: Described = {"type": "boolean", "nullable": True}
COUNT: Described = {"type": "integer", "minimum": 0}
LIMIT: Described = {"type": "integer", "minimum": 1, "maximum": MAX_OUTPUT_TOKENS}
SHARE: Described = {"type": "number", "minimum": 0, "maximum": 1, "nullable": True}
STOPS: Described = _list(STRING, maxItems=MAX_STOPS)
SCHEMA: Described = {"type": "object"}

# --- errors ----------------------------------------------------------------------------------------

OPENAI_ERROR = _object("error", error=_object("message", "type", "code", message=STRING, type=STRING, code=STRING))
ANTHROPIC_ERROR = _object(
    "type",
    "error",
    "request_id",
    type=_one_of("error"),
    error=_object("type", "message", type=STRING, message=STRING),
    request_id=STRING,
)

# One event of a stream, as server-sent events are told apart.
EVENT = _object("data", event=STRING, data=STRING)

# --- OpenAI's --------------------------------------------------------------------------------------

_TEXT = _object("type", "text", type=_one_of("text"), text=STRING)
_PICTURE = _object(
    "type",
    "image_url",
    type=_one_of("image_url"),
    image_url=_object("url", url={"type": "string", "pattern": r"^(https?://|data:image/[a-z0-9]+;base64,[\w/+]+=*$)"}),
)
# base64 of what begins with %PDF-1
_PDF_DATA = r"JVBERi0x([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_FILE = _object(
    "type",
    "file",
    type=_one_of("file"),
    file=_object(
        "file_data",
        filename={"type": "string", "maxLength": MAX_NAME},
        file_data={"type": "string", "pattern": rf"^data:application/pdf;base64,{_PDF_DATA}"},
    ),
)
_FUNCTION = _object("name", name=NAME, arguments=_may(STRING))
_CALL = _object("id", "function", id=STRING, type=_one_of("function"), function=_FUNCTION)
_TURNS: list[Described] = [
    _object("role", "content", role=_one_of("system", "developer"), content=STRING),
    _object(
        "role", "content", role=_one_of("user"), content={"oneOf": [STRING, _list({"oneOf": [_TEXT, _PICTURE, _FILE]})]}
    ),
    _object("role", role=_one_of("assistant"), content=_may(STRING), tool_calls=_may(_list(_CALL))),
    _object("role", "tool_call_id", role=_one_of("tool"), tool_call_id=STRING, content=_may(STRING)),
]
_TOOL = _object(
    "function",
    type=_one_of("function"),
    function=_object("name", name=NAME, description=_may(STRING), parameters=_may(SCHEMA), strict=FLAG),
)
_CHOSEN = _object("type", "function", type=_one_of("function"), function=_object("name", name=NAME))
_ALLOWED = _object("mode", "tools", mode=_one_of("auto", "required"), tools=_list(_CHOSEN, minItems=1))
CHAT = _object(
    "model",
    "messages",
    model=MODEL,
    messages=_list({"oneOf": _TURNS}, minItems=1, maxItems=MAX_MESSAGES),
    max_completion_tokens=_may(LIMIT),
    max_tokens=_may(LIMIT),
    temperature={"type": "number", "minimum": 0, "maximum": 2, "nullable": True},
    top_p=SHARE,
    stop={"oneOf": [STRING, STOPS], "nullable": True},
    seed={"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1, "nullable": True},
    n={"type": "integer", "minimum": 1, "maximum": MOST_ANSWERS, "nullable": True},
    stream=FLAG,
    stream_options=_may(_object(include_usage=FLAG)),
    tools=_may(_list(_TOOL, maxItems=MAX_TOOLS)),
    tool_choice={
        "oneOf": [
            _one_of("auto", "none", "required"),
            _CHOSEN,
            _object("type", "allowed_tools", type=_one_of("allowed_tools"), allowed_tools=_ALLOWED),
        ],
        "nullable": True,
    },
    parallel_tool_calls=FLAG,
    logprobs=FLAG,
    top_logprobs={"type": "integer", "minimum": 0, "maximum": 20, "nullable": True},
    response_format=_may(_object("type", type=_one_of("text", "json_object", "json_schema"), json_schema=_may(SCHEMA))),
    user=_may(STRING),
    metadata=_may({"type": "object", "additionalProperties": STRING}),
)
_CHOICE = _object(
    "index",
    "message",
    "finish_reason",
    index=COUNT,
    message=_object("role", "content", role=_one_of("assistant"), content=_may(STRING), tool_calls=_list(_CALL)),
    finish_reason=_one_of("stop", "length", "tool_calls", "content_filter"),
)
COMPLETION = _object(
    *("id", "object", "created", "model", "choices", "usage"),
    id=STRING,
    object=_one_of("chat.completion"),
    created=COUNT,
    model=STRING,
    choices=_list(_CHOICE, minItems=1, maxItems=MOST_ANSWERS),
    usage=_object(
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        prompt_tokens=COUNT,
        completion_tokens=COUNT,
        total_tokens=COUNT,
    ),
)
_TOKEN: Described = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TEXTS: list[Described] = [
    {"type": "string", "minLength": 1},
    _list({"type": "string", "minLength": 1}, minItems=1, maxItems=MAX_TEXTS),
    _list(_TOKEN, minItems=1),
    _list(_list(_TOKEN, minItems=1), minItems=1, maxItems=MAX_TEXTS),
]
EMBED: Described = {
    **_object(
        "model",
        "input",
        model=MODEL,
        input={"oneOf": _TEXTS},
        encoding_format=_one_of("float", "base64", None),
        dimensions={"type": "integer", "minimum": 1, "maximum": MAX_DIMENSIONS, "nullable": True},
        user=_may(STRING),
    ),
    "additionalProperties": False,
}
_VECTOR: Described = {"oneOf": [_list({"type": "number"}), {"type": "string", "format": "byte"}]}
EMBEDDINGS = _object(
    *("object", "data", "model", "usage"),
    object=_one_of("list"),
    data=_list(_object("index", "embedding", object=_one_of("embedding"), index=COUNT, embedding=_VECTOR)),
    model=STRING,
    usage=_object("prompt_tokens", "total_tokens", prompt_tokens=COUNT, total_tokens=COUNT),
)
ONE_MODEL = _object(
    *("id", "object", "created", "owned_by", "type", "display_name"),
    id=STRING,
    object=_one_of("model"),
    created=COUNT,
    owned_by=STRING,
    type=_one_of("model"),
    display_name=STRING,
)
MODELS = _object("object", "data", "has_more", object=_one_of("list"), data=_list(ONE_MODEL), has_more=FLAG)

# --- Anthropic's -----------------------------------------------------------------------------------

_IMAGE_TYPE: Described = {"type": "string", "pattern": "^image/[a-z0-9]+$"}
_SOURCES: list[Described] = [
    _object("type", "media_type", "data", type=_one_of("base64"), media_type=_IMAGE_TYPE, data=STRING),
    _object("type", "url", type=_one_of("url"), url={"type": "string", "pattern": "^https?://"}),
]
_PDF = _object(
    *("type", "media_type", "data"),
    type=_one_of("base64"),
    media_type=_one_of("application/pdf"),
    data={"type": "string", "pattern": f"^{_PDF_DATA}"},
)
_PLAIN = _object("type", "data", type=_one_of("text"), media_type=_one_of("text/plain"), data=STRING)
_DOCUMENT = _object(
    "type",
    "source",
    type=_one_of("document"),
    source={"oneOf": [_PDF, _SOURCES[1], _PLAIN]},
    title=_may(STRING),
    context=_may(STRING),
    citations=_may(_object(enabled=FLAG)),
)
_USERS: list[Described] = [
    _TEXT,
    _object("type", "source", type=_one_of("image"), source={"oneOf": _SOURCES}),
    _DOCUMENT,
    _object(
        *("type", "tool_use_id"),
        type=_one_of("tool_result"),
        tool_use_id=STRING,
        content=_may({"oneOf": [STRING, _list({"oneOf": [_TEXT, _DOCUMENT]})]}),
        is_error=FLAG,
    ),
]
_ASSISTANTS: list[Described] = [
    _TEXT,
    _object("type", "id", "name", "input", type=_one_of("tool_use"), id=STRING, name=NAME, input={"type": "object"}),
]
_SAID: list[Described] = [
    _object("role", "content", role=_one_of("user"), content={"oneOf": [STRING, _list({"oneOf": _USERS})]}),
    _object("role", "content", role=_one_of("assistant"), content={"oneOf": [STRING, _list({"oneOf": _ASSISTANTS})]}),
]
_CUSTOM = _object(
    "name",
    "input_schema",
    type=_one_of("custom", None),
    name=NAME,
    description=_may(STRING),
    input_schema=SCHEMA,
)
COUNTED = _object(
    "model",
    "messages",
    model=MODEL,
    messages=_list({"oneOf": _SAID}, minItems=1, maxItems=MAX_MESSAGES),
    system={"oneOf": [STRING, _list(_TEXT)], "nullable": True},
    tools=_may(_list(_CUSTOM, maxItems=MAX_TOOLS)),
    tool_choice=_may(_object("type", type=_one_of("auto", "any", "tool", "none"), name=NAME)),
)
MESSAGES: Described = {
    **COUNTED,
    "required": ["model", "max_tokens", "messages"],
    "properties": {
        **COUNTED["properties"],
        "max_tokens": LIMIT,
        "temperature": SHARE,
        "top_p": SHARE,
        "stop_sequences": _may(STOPS),
        "stream": FLAG,
        "metadata": _may(_object(user_id=_may(STRING))),
    },
}
MESSAGE = _object(
    *("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
    id=STRING,
    type=_one_of("message"),
    role=_one_of("assistant"),
    model=STRING,
    content=_list(_object("type", type=STRING)),
    stop_reason=_one_of("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"),
    stop_sequence=_may(STRING),
    usage=_object("input_tokens", "output_tokens", input_tokens=COUNT, output_tokens=COUNT),
)
TOKENS = _object("input_tokens", input_tokens=COUNT)
