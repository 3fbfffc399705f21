"""PURE: what OpenAI's responses API takes and answers here, as OpenAPI 3.0 says it."""

from routing.gateway.wire.openapi_bodies import (
    COUNT,
    FLAG,
    LIMIT,
    MODEL,
    NAME,
    PICTURE_ADDRESS,
    SCHEMA,
    SHARE,
    STRING,
    Described,
    listed,
    may,
    obj,
    one_of,
)
from routing.gateway.wire.reading import MAX_MESSAGES, MAX_TOOLS

# --- requests --------------------------------------------------------------------------------------

_TEXT = obj("type", "text", type=one_of("input_text"), text=STRING)
_PICTURE = obj("type", "image_url", type=one_of("input_image"), image_url=PICTURE_ADDRESS)
_SAID = obj("type", "text", type=one_of("output_text"), text=STRING)
_SEEN: Described = {"oneOf": [STRING, listed({"oneOf": [_TEXT, _PICTURE]})]}
_ITEMS: list[Described] = [
    obj("role", "content", role=one_of("system", "developer"), content={"oneOf": [STRING, listed(_TEXT)]}),
    obj("role", "content", role=one_of("user"), content=_SEEN),
    obj("role", "content", role=one_of("assistant"), content={"oneOf": [STRING, listed(_SAID)]}),
    obj(
        *("type", "call_id", "name", "arguments"),
        type=one_of("function_call"),
        call_id=STRING,
        name=NAME,
        arguments=STRING,
    ),
    obj("type", "call_id", "output", type=one_of("function_call_output"), call_id=STRING, output=_SEEN),
    obj(
        *("type", "summary"),
        type=one_of("reasoning"),
        summary=listed(obj("type", "text", type=one_of("summary_text"), text=STRING)),
        encrypted_content=may(STRING),
    ),
]
_FUNCTION = obj(
    *("type", "name"),
    type=one_of("function"),
    name=NAME,
    description=may(STRING),
    parameters=may(SCHEMA),
    strict=FLAG,
)
_CHOSEN = obj("type", "name", type=one_of("function"), name=NAME)
_FORMS: list[Described] = [
    obj("type", type=one_of("text", "json_object")),
    obj("type", "name", "schema", type=one_of("json_schema"), name=NAME, schema=SCHEMA, strict=FLAG),
]
RESPOND = obj(
    "model",
    "input",
    model=MODEL,
    input={"oneOf": [STRING, listed({"oneOf": _ITEMS}, minItems=1, maxItems=MAX_MESSAGES)]},
    instructions=may(STRING),
    max_output_tokens=may(LIMIT),
    temperature={"type": "number", "minimum": 0, "maximum": 2, "nullable": True},
    top_p=SHARE,
    stream=FLAG,
    tools=may(listed(_FUNCTION, maxItems=MAX_TOOLS)),
    tool_choice={
        "oneOf": [
            one_of("auto", "none", "required"),
            _CHOSEN,
            obj(
                *("type", "mode", "tools"),
                type=one_of("allowed_tools"),
                mode=one_of("auto", "required"),
                tools=listed(_CHOSEN, minItems=1),
            ),
        ],
        "nullable": True,
    },
    parallel_tool_calls=FLAG,
    text=may(obj(format=may({"oneOf": _FORMS}), verbosity=one_of("low", "medium", "high", None))),
    reasoning=may(obj(effort=may(STRING), summary=one_of("auto", "concise", "detailed", None))),
    include=may(listed(one_of("reasoning.encrypted_content", "message.output_text.logprobs"))),
    top_logprobs={"type": "integer", "minimum": 0, "maximum": 20, "nullable": True},
    truncation=one_of("disabled", None),
    store=FLAG,
    user=may(STRING),
    metadata=may({"type": "object", "additionalProperties": STRING}),
)

COUNTED_INPUT: Described = {
    **RESPOND,
    "required": ["input"],
    "properties": {
        name: RESPOND["properties"][name]
        for name in (
            "model",
            "input",
            "instructions",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "text",
            "reasoning",
        )
    },
}

# --- answers ---------------------------------------------------------------------------------------

_STATUS = one_of("completed", "incomplete")
_USAGE = obj(
    *("input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"),
    input_tokens=COUNT,
    input_tokens_details=obj("cached_tokens", cached_tokens=COUNT),
    output_tokens=COUNT,
    output_tokens_details=obj("reasoning_tokens", reasoning_tokens=COUNT),
    total_tokens=COUNT,
)
RESPONSE = obj(
    *("id", "object", "created_at", "status", "model", "output", "usage", "error", "incomplete_details", "store"),
    id=STRING,
    object=one_of("response"),
    created_at=COUNT,
    status=_STATUS,
    model=STRING,
    output=listed(
        obj("type", "id", "status", type=one_of("message", "function_call", "reasoning"), id=STRING, status=_STATUS)
    ),
    usage=_USAGE,
    error={"type": "object", "nullable": True},
    incomplete_details=may(obj("reason", reason=one_of("max_output_tokens", "content_filter"))),
    store=FLAG,
)
INPUT_TOKENS = obj("object", "input_tokens", object=one_of("response.input_tokens"), input_tokens=COUNT)
