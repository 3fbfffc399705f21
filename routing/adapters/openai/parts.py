"""Parts of a conversation as OpenAI's chat completions have them, and the APIs that took them over."""

from urllib.parse import urlsplit

from routing.adapters.asking.documents import NO_CITATIONS, file_name, said_of
from routing.adapters.reading.wire import INVALID_JSON, Json, inline_image, json_text, read_arguments
from routing.planning.deferral import said_by
from routing.types import (
    Cited,
    Image,
    ModelSpec,
    Pdf,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
)

# They have documents read by other means than their models, or search in them, and ask a price for that.
_READ_APART = ("x.ai", "mistral.ai", "openrouter.ai")


def content_block(part: Text | Image) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    inline = inline_image(part)
    image = {"url": f"data:{inline[0]};base64,{inline[1]}" if inline else part.url}
    return {"type": "image_url", "image_url": {**image, "detail": part.detail} if part.detail else image}


def content_blocks(part: Text | Image | Pdf | Cited, model: ModelSpec) -> list[Json]:
    """Raises UnsupportedByProvider for what this API, or this server, does not take."""
    if isinstance(part, Pdf):
        return _file_blocks(part, model)
    if isinstance(part, Cited):
        raise UnsupportedByProvider(NO_CITATIONS)
    return [content_block(part)]


def _file_blocks(pdf: Pdf, model: ModelSpec) -> list[Json]:
    """A PDF document, after what is said about it and has no place in a `file`."""
    if pdf.url:
        raise UnsupportedByProvider("a PDF by address: this API takes none")
    if _reads_apart(model.provider.base_url):
        raise UnsupportedByProvider("a PDF: what reading it costs here is not in the model's price")
    said = said_of(pdf, named=True)
    file = {"filename": file_name(pdf), "file_data": f"data:application/pdf;base64,{pdf.data}"}
    return [*([{"type": "text", "text": said}] if said else []), {"type": "file", "file": file}]


def _reads_apart(address: str) -> bool:
    host = (urlsplit(address).hostname or "").rstrip(".")  # in small letters
    return any(host == house or host.endswith("." + house) for house in _READ_APART)


def tool_definition(tool: Tool) -> Json:
    # an empty schema is none: DeepSeek's and OpenAI's servers want its type said
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function: Json = {"name": tool.name, "description": tool.description, "parameters": parameters}
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def call_arguments(call: ToolCall, model: ModelSpec) -> str:
    """An earlier call's arguments. The servers that people run themselves read them for their templates, and refuse the
    whole conversation where a model wrote no JSON."""
    if model.provider.location is Source.LOCAL and read_arguments(call.arguments) is None:
        return json_text({INVALID_JSON: call.arguments})
    return call.arguments if call.arguments.strip() else "{}"


def tool_result_text(result: ToolResult) -> str:
    """A tool's answer for the APIs that have no field for failure: the text has to say it."""
    said = said_by(result)
    if result.is_error and not said.lower().startswith("error"):
        return f"Error: {said}"
    return said
