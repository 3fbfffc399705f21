"""PURE: reading a client's JSON. Every wrong shape becomes InvalidInput that names its place."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import orjson

from routing.adapters.reading.exact import exactly
from routing.gateway.exchange.heads import BETAS
from routing.planning.demand import SINGLE
from routing.planning.roles import PATTERNS
from routing.types import ChatRequest, Cited, Hints, Image, Pdf, Text, Tool
from ziggie.errors import InvalidInput, TooLarge, Unsupported
from ziggie.values import Value, replace

Json = dict[str, Any]

MAX_MESSAGES = 5_000
MOST_ROLES = 2 * MAX_MESSAGES  # tools and schemas may have properties of that name
MOST_VALUES = 200_000
SMALL_BODY_BYTES = 128 * 1024  # parsed in a millisecond, whatever it holds
MAX_PARTS = 2_000  # of one message
MAX_ALL_PARTS = 10_000  # of all messages together, with those of tools' results: each takes some microseconds
MAX_TOOLS = 512
MAX_IMAGES = 100
MAX_PDFS = 100
MAX_STOPS = 16
MAX_DEPTH = 64
MAX_EXTRA = 256  # parameters that are passed on as they are
MAX_NAME = 256
MAX_OUTPUT_TOKENS = 10_000_000
MAX_DIMENSIONS = 65_536
MAX_TEXTS = 2_048  # of one embedding request
MAX_EMBED_TOKENS = 300_000  # of one, as OpenAI has it
MOST_EMBED_VALUES = MAX_EMBED_TOKENS + 2 * MAX_TEXTS

HINTS = ("task_kind", "agent_level", "creator_tier", "complexity", "capabilities", "pattern", "run_id", "creator",
         "strategy", "budget_fit")  # fmt: skip
# what the hints may say that the rules know by name
_HINTS_OF = {
    "budget_fit": ("", "clamp", "refuse"),
    "agent_level": ("", "L1", "L2", "L3"),
    "creator_tier": ("", "critical", "high", "medium", "low"),
    "strategy": ("", "cost-optimized", "performance-optimized", "balanced"),
    "pattern": ("", *PATTERNS),
}
MAX_HINT = 200
EFFORTS = ("", "none", "minimal", "low", "medium", "high", "xhigh", "max", "default")


class Incoming(Value):
    """A chat request as it came: what is asked, and how the answer is to be told. `echo`: what an answer repeats of it,
    in the words of an API that wants that. `namespaces`: the tools that stand in one, as (namespace, name) by the name
    that models know."""

    request: ChatRequest
    stream: bool = False
    include_usage: bool = False
    echo: Json | None = None
    namespaces: Mapping[str, tuple[str, str]] | None = None


def parse(body: bytes, *, most_values: int = MOST_VALUES) -> Json:
    """The JSON object in a request's body. Raises InvalidInput or TooLarge."""
    if len(body) > SMALL_BODY_BYTES:
        _refuse_masses(body, most_values)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not valid JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    if b'"tool_use"' in body:
        _read_inputs_exactly(value, exactly(body, value))
    if len(body) > SMALL_BODY_BYTES:  # a smaller one holds fewer
        for key in ("messages", "input"):
            _refuse_many_parts(value.get(key), key)
    return value


def _read_inputs_exactly(value: Json, exact: Json) -> None:
    """Gives calls their arguments as they stand in the body; everywhere else numbers are those of the wire."""
    if exact is value:
        return
    for turn, told in zip(dicts(value.get("messages")), dicts(exact.get("messages")), strict=True):
        for block, again in zip(dicts(turn.get("content")), dicts(told.get("content")), strict=True):
            if block.get("type") == "tool_use":
                block["input"] = again.get("input")


def _refuse_many_parts(turns: Any, where: str) -> None:
    """Raises TooLarge where the turns of a conversation have more parts in all than are accepted."""
    lists = [value for turn in dicts(turns) for value in turn.values() if isinstance(value, list)]
    within = [part.get("content") for parts in lists for part in dicts(parts)]
    count = sum(map(len, lists)) + sum(len(content) for content in within if isinstance(content, list))
    if count > MAX_ALL_PARTS:
        raise TooLarge(f"{where}: at most {MAX_ALL_PARTS} parts of all messages are accepted, and there are {count}")


def dicts(rows: Any) -> list[Json]:
    """The objects of a list; none where it is no list."""
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _refuse_masses(body: bytes, most_values: int) -> None:
    """Hundreds of thousands of messages, or of anything, would take a second to parse, in which nobody else is served.
    Inside a text `"role"` cannot stand: its quotes would be escaped."""
    if body.count(b'"role"') > MOST_ROLES:
        raise TooLarge(f"messages: at most {MAX_MESSAGES} are accepted, and there are many more")
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    if plain.count(b'"') > 2 * most_values or _separators(b"".join(plain.split(b'"')[::2])) > most_values:
        raise TooLarge(f"a body may hold at most {most_values} values")


def _separators(structure: bytes) -> int:
    """How many values JSON without its texts has, about."""
    return structure.count(b",") + structure.count(b"[") + structure.count(b"{")


def refuse(where: str, expected: str) -> NoReturn:
    raise InvalidInput(f"{where}: {expected}", details=[{"param": where}])


def unsupported(where: str, why: str = "is not supported by this gateway") -> NoReturn:
    """Refuses what is right, and cannot be done here."""
    raise Unsupported(f"{where} {why}", details=[{"param": where}])


def refuse_asked(body: Json, names: Collection[str]) -> None:
    """Refuses these parameters where they ask for anything; so does an empty object, which asks for the defaults."""
    for name in names:
        said = body.get(name)
        if said or said == {}:
            unsupported(name)


def text(holder: Mapping[str, Any], key: str, where: str = "", *, default: str | None = None) -> str:
    """A string. Raises InvalidInput for another type, or where it is absent and has no default."""
    value = holder.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        refuse(where + key, "must be a string")
    return value


def flag(holder: Mapping[str, Any], key: str, where: str = "") -> bool | None:
    value = holder.get(key)
    if value is not None and not isinstance(value, bool):
        refuse(where + key, "must be true or false")
    return value


def whole(holder: Mapping[str, Any], key: str, *, least: int, most: int) -> int | None:
    value = holder.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        refuse(key, f"must be a whole number from {least} to {most}")
    return value


def number(holder: Mapping[str, Any], key: str, *, least: float, most: float) -> float | None:
    value = holder.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        refuse(key, f"must be a number from {least:g} to {most:g}")
    return value


def mapping(holder: Mapping[str, Any], key: str, where: str = "") -> Json:
    """An object; {} where it is absent or null."""
    value = holder.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        refuse(where + key, "must be an object")
    return value


def objects(holder: Mapping[str, Any], key: str, where: str = "", *, most: int) -> list[Json]:
    """A list of objects, [] where it is absent or null. Raises TooLarge above `most`."""
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        refuse(where + key, "must be an array")
    if len(value) > most:
        raise TooLarge(f"{where}{key}: at most {most} are accepted, and there are {len(value)}")
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            refuse(f"{where}{key}[{place}]", "must be an object")
    return value


def stops(value: Any, where: str, *, or_one: bool = False) -> tuple[str, ...]:
    """Stop sequences: nothing, or a list of them (`or_one`: or a string by itself). An empty one stops nothing: there
    are servers that it would stop at once."""
    if value is None:
        return ()
    sequences = [value] if or_one and isinstance(value, str) else value
    if not isinstance(sequences, list) or not all(isinstance(item, str) for item in sequences):
        refuse(where, "must be a string or an array of strings" if or_one else "must be an array of strings")
    if len(sequences) > MAX_STOPS:
        raise TooLarge(f"{where}: at most {MAX_STOPS} are accepted")
    return tuple(filter(None, sequences))


def schema(value: Any, where: str) -> Json:
    """A JSON Schema object, not nested too deeply to be worked with."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        refuse(where, "must be a JSON Schema object")
    shallow(value, where)
    return value


def shallow(value: Any, where: str) -> None:
    """What is to be written again, which takes a call for each level. Raises InvalidInput for what is too deep."""
    if isinstance(value, dict | list) and _deeper_than(value, MAX_DEPTH):
        refuse(where, f"is nested more than {MAX_DEPTH} levels deep")


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for item in layer
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def needed(holder: Mapping[str, Any], key: str, where: str) -> Any:
    """What must be there. Raises InvalidInput where it is absent or null."""
    value = holder.get(key)
    if value is None:
        refuse(where + key, "is required")
    return value


def passed_through(body: Mapping[str, Any], read: frozenset[str]) -> Json:
    """The parameters that are not read here and go to providers that know them. Of those that many know the kind is
    looked at, so that none is asked in vain."""
    extra = {key: value for key, value in body.items() if key not in read}
    if len(extra) > MAX_EXTRA:
        raise TooLarge(f"at most {MAX_EXTRA} parameters are passed on, and there are {len(extra)}")
    for key, value in extra.items():
        shallow(value, key[:MAX_NAME])
    if BETAS in extra:  # its place among the parameters is for what the header may say
        unsupported(BETAS, "is a header")
    for key in extra.keys() & _RANGES.keys():
        number(extra, key, least=_RANGES[key][0], most=_RANGES[key][1])
    if "logit_bias" in extra:
        mapping(extra, "logit_bias")
    return extra


_RANGES = {
    "top_p": (0, 1),
    "min_p": (0, 1),
    "top_k": (-1, 1_000_000),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


def effort(holder: Mapping[str, Any], key: str, where: str = "") -> str:
    """How much a model is to think, in the words of any provider."""
    said = text(holder, key, where, default="")
    if said not in EFFORTS:
        refuse(where + key, f"must be one of {', '.join(EFFORTS[1:])}")
    return said


def chosen_tool(choice: str, tools: tuple[Tool, ...]) -> str:
    """`choice`, if there is what it says must be called. Raises InvalidInput."""
    if choice not in ("", "auto", "none"):
        if not tools:
            refuse("tool_choice", "asks for a call, and there are no tools")
        if choice != "required" and all(tool.name != choice for tool in tools):
            refuse("tool_choice", f"names {choice!r}, which is none of the tools")
    return choice


def shown_in(request: ChatRequest) -> list[Image | Pdf | Cited]:
    """Its images and documents. Raises TooLarge for more images or PDFs than are accepted."""
    shown = [
        part
        for message in request.messages
        for part in message.parts
        if not isinstance(part, Text) and isinstance(part, (Image, Pdf, Cited))  # nearly all are texts
    ]
    if shown and len(shown) > min(MAX_IMAGES, MAX_PDFS):
        images = sum(isinstance(part, Image) for part in shown)
        pdfs = sum(isinstance(part, Pdf) or (isinstance(part, Cited) and part.pages is not None) for part in shown)
        for what, count, most in (("images", images, MAX_IMAGES), ("PDF documents", pdfs, MAX_PDFS)):
            if count > most:
                raise TooLarge(f"at most {most} {what} are accepted, and there are {count}")
    return shown


def tool_name(holder: Mapping[str, Any], where: str) -> str:
    name = text(holder, "name", where)
    if not 0 < len(name) <= MAX_NAME:
        refuse(f"{where}name", f"must have 1 to {MAX_NAME} characters")
    return name


def model(body: Mapping[str, Any]) -> str:
    name = text(body, "model")
    if not 0 < len(name) <= MAX_NAME:
        refuse("model", f"must have 1 to {MAX_NAME} characters")
    return name


# --- hints ---------------------------------------------------------------------------------------


def hints(metadata: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[Hints, Json]:
    """What the client tells the router, in `metadata` or in headers (`x-ziggie-task-kind`), which go first;
    then the fields of ChatRequest that say who pays: run_id, creator, budget_fit."""
    if not metadata and not headers:
        return _NO_HINTS, {}
    said: dict[str, str] = {}
    for name in HINTS:
        value = headers.get(name, metadata.get(name))
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > MAX_HINT:
            refuse(f"metadata.{name}", f"must be a string of at most {MAX_HINT} characters")
        said[name] = value.strip()
    for name, spelt in (("agent_level", str.upper), ("creator_tier", str.lower)):  # as records and budgets have them
        if name in said:
            said[name] = spelt(said[name])
    if "strategy" not in headers and said.get("strategy", "") not in _HINTS_OF["strategy"]:
        del said["strategy"]  # metadata is its client's own, and this word not ours alone
    for name, known in _HINTS_OF.items():
        if said.get(name, "") not in known:
            refuse(f"metadata.{name}", f"must be one of {', '.join(known[1:])}")
    capabilities = frozenset(filter(None, (name.strip() for name in said.get("capabilities", "").split(","))))
    found = Hints(
        task_kind=said.get("task_kind", ""),
        agent_level=said.get("agent_level", ""),
        creator_tier=said.get("creator_tier", ""),
        complexity=_complexity(said["complexity"]) if said.get("complexity") else None,
        capabilities=capabilities,
        strategy=said.get("strategy", ""),
        pattern=said.get("pattern", ""),
    )
    paying = {name: said[name] for name in ("run_id", "creator", "budget_fit") if said.get(name)}
    return found, paying


_NO_HINTS = Hints()


def by_one_model(said: Hints, why: str) -> Hints:
    """For a request whose answer no second model may have a part in, because of the parameter `why`."""
    if said.pattern not in ("", SINGLE):
        unsupported(why, f"and the pattern {said.pattern!r} do not go together")
    return replace(said, pattern=SINGLE)


def _complexity(said: str) -> float:
    try:
        value = float(said)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:  # not true of NaN either
        refuse("metadata.complexity", "must be a number from 0 to 1")
    return value
