"""PURE: what the gateway's endpoints take and answer, as OpenAPI 3.0 says it. Named is what the gateway reads itself;
what else these APIs have goes through to the providers that know it."""

from typing import Any

from routing.gateway.wire.reading import (
    MAX_DIMENSIONS,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_OUTPUT_TOKENS,
    MAX_STOPS,
    MAX_TEXTS,
    MAX_TOOLS,
)
from routing.planning.demand import MOST_ANSWERS

Described = dict[str, Any]


def obj(*required: str, **properties: Described) -> Described:
    return {"type": "object", **({"required": list(required)} if required else {}), "properties": properties}


def listed(items: Described, **limits: int) -> Described:
    return {"type": "array", "items": items, **limits}


def one_of(*values: str | None) -> Described:
    return {"type": "string", "enum": list(values), **({"nullable": True} if None in values else {})}


def may(described: Described) -> Described:
    """A field that says nothing where it is null."""
    return {**described, "nullable": True}


STRING: Described = {"type": "string"}
NAME: Described = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
MODEL: Described = {**NAME, "description": "`auto`, a model's slug or its wire name."}
FLAG: Described = {"type": "boolean", "nullable": True}
COUNT: Described = {"type": "integer", "minimum": 0}
LIMIT: Described = {"type": "integer", "minimum": 1, "maximum": MAX_OUTPUT_TOKENS}
SHARE: Described = {"type": "number", "minimum": 0, "maximum": 1, "nullable": True}
STOPS: Described = listed(STRING, maxItems=MAX_STOPS)
SCHEMA: Described = {"type": "object"}
PICTURE_ADDRESS: Described = {"type": "string", "pattern": r"^(https?://|data:image/[a-z0-9]+;base64,[\w/+]+=*$)"}

# --- errors ----------------------------------------------------------------------------------------

OPENAI_ERROR = obj("error", error=obj("message", "type", "code", message=STRING, type=STRING, code=STRING))
ANTHROPIC_ERROR = obj(
    "type",
    "error",
    "request_id",
    type=one_of("error"),
    error=obj("type", "message", type=STRING, message=STRING),
    request_id=STRING,
)

# One event of a stream, as server-sent events are told apart.
EVENT = obj("data", event=STRING, data=STRING)

# --- OpenAI's --------------------------------------------------------------------------------------

_TEXT = obj("type", "text", type=one_of("text"), text=STRING)
_PICTURE = obj(
    "type",
    "image_url",
    type=one_of("image_url"),
    image_url=obj("url", url=PICTURE_ADDRESS),
)
# base64 of what begins with %PDF-1
_PDF_DATA = r"JVBERi0x([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_FILE = obj(
    "type",
    "file",
    type=one_of("file"),
    file=obj(
        "file_data",
        filename={"type": "string", "maxLength": MAX_NAME},
        file_data={"type": "string", "pattern": rf"^data:application/pdf;base64,{_PDF_DATA}"},
    ),
)
_FUNCTION = obj("name", name=NAME, arguments=may(STRING))
_CALL = obj("id", "function", id=STRING, type=one_of("function"), function=_FUNCTION)
_TURNS: list[Described] = [
    obj("role", "content", role=one_of("system", "developer"), content=STRING),
    obj(
        "role", "content", role=one_of("user"), content={"oneOf": [STRING, listed({"oneOf": [_TEXT, _PICTURE, _FILE]})]}
    ),
    obj("role", role=one_of("assistant"), content=may(STRING), tool_calls=may(listed(_CALL))),
    obj("role", "tool_call_id", role=one_of("tool"), tool_call_id=STRING, content=may(STRING)),
]
_TOOL = obj(
    "function",
    type=one_of("function"),
    function=obj("name", name=NAME, description=may(STRING), parameters=may(SCHEMA), strict=FLAG),
)
_CHOSEN = obj("type", "function", type=one_of("function"), function=obj("name", name=NAME))
_ALLOWED = obj("mode", "tools", mode=one_of("auto", "required"), tools=listed(_CHOSEN, minItems=1))
CHAT = obj(
    "model",
    "messages",
    model=MODEL,
    messages=listed({"oneOf": _TURNS}, minItems=1, maxItems=MAX_MESSAGES),
    max_completion_tokens=may(LIMIT),
    max_tokens=may(LIMIT),
    temperature={"type": "number", "minimum": 0, "maximum": 2, "nullable": True},
    top_p=SHARE,
    stop={"oneOf": [STRING, STOPS], "nullable": True},
    seed={"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1, "nullable": True},
    n={"type": "integer", "minimum": 1, "maximum": MOST_ANSWERS, "nullable": True},
    stream=FLAG,
    stream_options=may(obj(include_usage=FLAG)),
    tools=may(listed(_TOOL, maxItems=MAX_TOOLS)),
    tool_choice={
        "oneOf": [
            one_of("auto", "none", "required"),
            _CHOSEN,
            obj("type", "allowed_tools", type=one_of("allowed_tools"), allowed_tools=_ALLOWED),
        ],
        "nullable": True,
    },
    parallel_tool_calls=FLAG,
    logprobs=FLAG,
    top_logprobs={"type": "integer", "minimum": 0, "maximum": 20, "nullable": True},
    response_format=may(obj("type", type=one_of("text", "json_object", "json_schema"), json_schema=may(SCHEMA))),
    user=may(STRING),
    metadata=may({"type": "object", "additionalProperties": STRING}),
)
_CHOICE = obj(
    "index",
    "message",
    "finish_reason",
    index=COUNT,
    message=obj("role", "content", role=one_of("assistant"), content=may(STRING), tool_calls=listed(_CALL)),
    finish_reason=one_of("stop", "length", "tool_calls", "content_filter"),
)
COMPLETION = obj(
    *("id", "object", "created", "model", "choices", "usage"),
    id=STRING,
    object=one_of("chat.completion"),
    created=COUNT,
    model=STRING,
    choices=listed(_CHOICE, minItems=1, maxItems=MOST_ANSWERS),
    usage=obj(
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        prompt_tokens=COUNT,
        completion_tokens=COUNT,
        total_tokens=COUNT,
    ),
)
_TOKEN: Described = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TEXTS: list[Described] = [
    {"type": "string", "minLength": 1},
    listed({"type": "string", "minLength": 1}, minItems=1, maxItems=MAX_TEXTS),
    listed(_TOKEN, minItems=1),
    listed(listed(_TOKEN, minItems=1), minItems=1, maxItems=MAX_TEXTS),
]
EMBED: Described = {
    **obj(
        "model",
        "input",
        model=MODEL,
        input={"oneOf": _TEXTS},
        encoding_format=one_of("float", "base64", None),
        dimensions={"type": "integer", "minimum": 1, "maximum": MAX_DIMENSIONS, "nullable": True},
        user=may(STRING),
    ),
    "additionalProperties": False,
}
_VECTOR: Described = {"oneOf": [listed({"type": "number"}), {"type": "string", "format": "byte"}]}
EMBEDDINGS = obj(
    *("object", "data", "model", "usage"),
    object=one_of("list"),
    data=listed(obj("index", "embedding", object=one_of("embedding"), index=COUNT, embedding=_VECTOR)),
    model=STRING,
    usage=obj("prompt_tokens", "total_tokens", prompt_tokens=COUNT, total_tokens=COUNT),
)
ONE_MODEL = obj(
    *("id", "object", "created", "owned_by", "type", "display_name"),
    id=STRING,
    object=one_of("model"),
    created=COUNT,
    owned_by=STRING,
    type=one_of("model"),
    display_name=STRING,
)
MODELS = obj("object", "data", "has_more", object=one_of("list"), data=listed(ONE_MODEL), has_more=FLAG)

# --- Anthropic's -----------------------------------------------------------------------------------

_IMAGE_TYPE: Described = {"type": "string", "pattern": "^image/[a-z0-9]+$"}
_SOURCES: list[Described] = [
    obj("type", "media_type", "data", type=one_of("base64"), media_type=_IMAGE_TYPE, data=STRING),
    obj("type", "url", type=one_of("url"), url={"type": "string", "pattern": "^https?://"}),
]
_PDF = obj(
    *("type", "media_type", "data"),
    type=one_of("base64"),
    media_type=one_of("application/pdf"),
    data={"type": "string", "pattern": f"^{_PDF_DATA}"},
)
_PLAIN = obj("type", "data", type=one_of("text"), media_type=one_of("text/plain"), data=STRING)
_DOCUMENT = obj(
    "type",
    "source",
    type=one_of("document"),
    source={"oneOf": [_PDF, _SOURCES[1], _PLAIN]},
    title=may(STRING),
    context=may(STRING),
    citations=may(obj(enabled=FLAG)),
)
_USERS: list[Described] = [
    _TEXT,
    obj("type", "source", type=one_of("image"), source={"oneOf": _SOURCES}),
    _DOCUMENT,
    obj(
        *("type", "tool_use_id"),
        type=one_of("tool_result"),
        tool_use_id=STRING,
        content=may({"oneOf": [STRING, listed({"oneOf": [_TEXT, _DOCUMENT]})]}),
        is_error=FLAG,
    ),
]
_ASSISTANTS: list[Described] = [
    _TEXT,
    obj("type", "id", "name", "input", type=one_of("tool_use"), id=STRING, name=NAME, input={"type": "object"}),
]
_SAID: list[Described] = [
    obj("role", "content", role=one_of("user"), content={"oneOf": [STRING, listed({"oneOf": _USERS})]}),
    obj("role", "content", role=one_of("assistant"), content={"oneOf": [STRING, listed({"oneOf": _ASSISTANTS})]}),
]
_CUSTOM = obj(
    "name",
    "input_schema",
    type=one_of("custom", None),
    name=NAME,
    description=may(STRING),
    input_schema=SCHEMA,
)
COUNTED = obj(
    "model",
    "messages",
    model=MODEL,
    messages=listed({"oneOf": _SAID}, minItems=1, maxItems=MAX_MESSAGES),
    system={"oneOf": [STRING, listed(_TEXT)], "nullable": True},
    tools=may(listed(_CUSTOM, maxItems=MAX_TOOLS)),
    tool_choice=may(obj("type", type=one_of("auto", "any", "tool", "none"), name=NAME)),
)
MESSAGES: Described = {
    **COUNTED,
    "required": ["model", "max_tokens", "messages"],
    "properties": {
        **COUNTED["properties"],
        "max_tokens": LIMIT,
        "temperature": SHARE,
        "top_p": SHARE,
        "stop_sequences": may(STOPS),
        "stream": FLAG,
        "metadata": may(obj(user_id=may(STRING))),
    },
}
MESSAGE = obj(
    *("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
    id=STRING,
    type=one_of("message"),
    role=one_of("assistant"),
    model=STRING,
    content=listed(obj("type", type=STRING)),
    stop_reason=one_of("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"),
    stop_sequence=may(STRING),
    usage=obj("input_tokens", "output_tokens", input_tokens=COUNT, output_tokens=COUNT),
)
TOKENS = obj("input_tokens", input_tokens=COUNT)
