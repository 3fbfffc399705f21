"""Reading and writing JSON that others wrote: every wrong shape becomes ProviderError("protocol")."""

import base64
import binascii
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import orjson

from routing.adapters.reading import exact
from routing.adapters.reading.exact import exactly
from routing.adapters.reading.halves import Halves, encodable_all
from routing.planning import pdfs
from routing.types import Image, ModelSpec, ProviderError, ProviderSpec, UnsupportedByProvider

Json = dict[str, Any]
LONGEST_COUNT = 10  # digits
SIGNATURE_MARK = "gemini:"  # of what Google signed: it goes back to Google alone
UNSIGNED = "skip_thought_signature_validator"  # Google's own word for calls that another model made
MOST_TOKENS = 100_000_000  # no prompt or answer has more, whatever a server says


def protocol_error(message: str, *, unbilled: bool = False) -> ProviderError:
    return ProviderError("protocol", message, retryable=True, unbilled=unbilled)


def dumps(body: Mapping[str, Any]) -> bytes:
    """JSON bytes. Raises UnsupportedByProvider for what JSON cannot say (NaN, foreign objects)."""
    try:
        return orjson.dumps(body, default=_plain)
    except TypeError:
        # orjson refuses lone surrogates, very large integers and non-string keys; json escapes them
        try:
            return json.dumps(body, default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UnsupportedByProvider(f"the request is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def loads(body: bytes, *, calls: bytes = b"") -> Any:
    """Any JSON value, read exactly if `calls`, what names a call's arguments, stands in it. Raises
    ProviderError("protocol")."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _forgiven(body, "the answer", encodable_all)
    return exactly(body, value) if calls and calls in body else value


def _forgiven(body: bytes, what: str, mend: Callable[[Any], Any]) -> Any:
    """JSON with NaN, as it stands in log probabilities, or with halves of characters: both come from real servers."""
    try:
        return mend(json.loads(body))
    except (ValueError, RecursionError):
        # What is neither empty nor a web page may be a model's answer that came to harm. Blanks alone are what
        # servers send that are at work.
        no_model = not body or body.lstrip()[:1] == b"<"
        raise protocol_error(f"{what} is not JSON: {_looks(body)}", unbilled=no_model) from None


def load_piece(body: bytes, what: str, halves: Halves, calls: bytes = b"") -> Json:
    """An object that is a piece of a stream, whose `halves` may be completed by another one. Raises
    ProviderError("protocol")."""
    try:
        value = orjson.loads(body)
        if calls and calls in body:
            value = exactly(body, value)
    except orjson.JSONDecodeError:
        value = _forgiven(body, what, halves.kept)
    if isinstance(value, dict):
        return value
    raise protocol_error(f"{what} is not a JSON object: {_looks(body)}")


def load_rows(body: bytes, *keys: str) -> list[Json]:
    """The objects of a list, which stands under the first of `keys` that holds any, or, as Together's and GitHub's
    lists of models, by itself. Raises ProviderError("protocol")."""
    value = loads(body)
    listed = {"": value} if isinstance(value, list) else value
    if not isinstance(listed, dict):
        raise protocol_error(f"the answer is not a list: {_looks(body)}")
    return next((rows for key in ("", *keys) if (rows := get_dicts(listed, key))), [])


def load_object(body: bytes, *, calls: bytes = b"") -> Json:
    """A JSON object, read exactly if `calls` stands in it. Raises ProviderError("protocol")."""
    value = loads(body, calls=calls)
    if not isinstance(value, dict):
        raise protocol_error(f"the answer is not a JSON object: {_looks(body)}")
    return value


def _looks(body: bytes) -> str:
    """What a body that could not be read looks like. Never its words: they may repeat a secret."""
    start = body[:200].lstrip()
    if not start:
        return "it is empty"
    kind = "looks like HTML" if start[:1] == b"<" else "begins like JSON" if start[:1] in b"{[" else "is something else"
    return f"its {len(body)} bytes {kind}" if kind != "looks like HTML" else f"it {kind}"


# --- fields of an answer: absent or null is fine, of another type is not ---------------------------


def get_str(holder: Json, key: str) -> str:
    value = holder.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise _wrong(key, "text", value)


def get_text(holder: Json, key: str) -> str:
    """A text, or what stands in its place where a server took a word for JSON: 6, 0.5, true."""
    value = holder.get(key)
    return json_text(value) if isinstance(value, int | float) else get_str(holder, key)


def get_dict(holder: Json, key: str) -> Json:
    value = holder.get(key)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise _wrong(key, "an object", value)


def get_dicts(holder: Json, key: str) -> list[Json]:
    value = holder.get(key)
    if value is None:
        return []
    if isinstance(value, list) and set(map(type, value)) <= {dict}:
        return value
    raise _wrong(key, "a list of objects", value)


def get_count(holder: Json, key: str) -> int | None:
    """A token count. Nonsense counts as not reported: it must not cost us an answer that was paid for, nor be paid."""
    value = holder.get(key)
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= LONGEST_COUNT else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    return None


def get_number(holder: Json, key: str) -> float | None:
    value = holder.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    return None


def _wrong(key: str, expected: str, value: Any) -> ProviderError:
    return protocol_error(f"{key!r} of the answer is {type(value).__name__}, not {expected}")


# --- parts of a request ----------------------------------------------------------------------------

_SIGNS = re.compile(r"gemini-(?:[3-9]|\d\d)")


def signs(model: ModelSpec) -> bool:
    """True for the Gemini models that sign their calls of tools, and think at levels; earlier ones think within a
    budget of tokens."""
    return _SIGNS.search(model.name) is not None


@lru_cache(maxsize=256)
def base_url(url: str, default_path: str, drop: tuple[str, ...] = ()) -> str:
    """`url` without trailing slash and without the suffixes in `drop`; `default_path` is added to a bare host."""
    url = url.strip().rstrip("/")
    for suffix in drop:
        url = url.removesuffix(suffix).rstrip("/")
    return url if urlsplit(url).path else url + default_path


def bearer_headers(provider: ProviderSpec) -> dict[str, str]:
    headers = extra_headers(provider)
    if provider.api_key:
        headers["authorization"] = f"Bearer {provider.api_key}"
    return headers


def extra_headers(provider: ProviderSpec) -> dict[str, str]:
    """`options.headers` of a provider row: what a proxy in front of it may want."""
    headers = provider.options.get("headers")
    if headers is None or not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


_IMAGE_TYPE = re.compile(r"image/[a-z0-9][a-z0-9.+-]*")


def is_image_type(media_type: str) -> bool:
    return _IMAGE_TYPE.fullmatch(media_type) is not None


def inline_image(image: Image) -> tuple[str, str] | None:
    """(media type, base64) of an image by value, also of a data: address; None for one elsewhere. What is no image is
    not sent as one: it would be read for a price that nobody has held."""
    media_type, data = image.media_type, image.data
    if not data and image.url.startswith("data:"):
        head, _, data = image.url[5:].partition(",")
        if not head.endswith(";base64") or not data:
            raise UnsupportedByProvider("an image's data: address is not base64")
        media_type = head.removesuffix(";base64").split(";")[0]
    if not data:
        return None
    if pdfs.is_encoded(data) or (media_type and not is_image_type(media_type.lower())):
        raise UnsupportedByProvider("a document that is said to be an image")
    return media_type or _sniff(data), data


def _sniff(data: str) -> str:
    try:
        head = base64.b64decode(data[:16])
    except (binascii.Error, ValueError):
        raise UnsupportedByProvider("an image is not base64") from None
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    raise UnsupportedByProvider("an image is of an unknown kind: say its media type")


INVALID_JSON = "INVALID_JSON"  # the name under which Anthropic has a model shown what it wrote in the place of JSON


def arguments_object(arguments: str) -> Json:
    """A tool call's arguments as an object, for the APIs that want it so. What a model wrote that is none is shown as
    it is: to refuse it would refuse the conversation for good, and it stands there with the error that it led to."""
    value = read_arguments(arguments)
    return {INVALID_JSON: arguments} if value is None else value


def read_arguments(arguments: str) -> Json | None:
    """The object that a model wrote as a call's arguments: also as JSON in JSON, and `null` for none. None for what is
    no object."""
    try:
        value = orjson.loads(arguments or "{}")
        if isinstance(value, str):
            arguments = value
            value = orjson.loads(value or "{}")
    except orjson.JSONDecodeError:
        return None if arguments.strip() else {}
    value = {} if value is None else value
    return exactly(arguments.encode(), value) if isinstance(value, dict) else None


def json_text(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A part of an answer as text. Raises ProviderError("protocol") where it cannot be told: nested too deeply."""
    try:
        return exact.dumps(value, default)
    except TypeError:
        raise protocol_error("the answer holds JSON that is nested too deeply") from None


def digest(text: str) -> str:
    """32 characters that stand for `text`, always the same."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def shortened(text: str, most: int) -> str:
    """`text`, or what stands for it where an API takes at most `most` (>= 32) characters."""
    return text if len(text) <= most else digest(text)


_NEUTRAL: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "logit_bias": {},
    "store": False,
    "service_tier": "auto",
    "verbosity": "medium",
    "speed": "standard",
}


def is_neutral(key: str, value: Any) -> bool:
    """True for a parameter that states the default, so that leaving it out changes nothing; also for the header that
    stands among them, which Anthropic's codec sends by itself."""
    return value is None or key == "anthropic_beta" or (key in _NEUTRAL and value == _NEUTRAL[key])


# OpenAI keeps its caches and watches for abuse by these; they change no answer, and mean nothing to anybody else.
_OPENAIS_OWN = frozenset({"prompt_cache_key", "prompt_cache_retention", "safety_identifier"})


def is_idle(key: str, value: Any) -> bool:
    """The same, of a provider whose API is not OpenAI's."""
    if key == "service_tier":
        return value is None or value in ("auto", *_USUAL_TIERS)
    return key in _OPENAIS_OWN or is_neutral(key, value) or forgets_thinking_alone(key, value)


def forgets_thinking_alone(key: str, value: Any) -> bool:
    """True for Anthropic's context_management where it leaves out what goes to no other house anyway."""
    if key != "context_management" or not isinstance(value, Mapping):
        return False
    return all(map(clears_thinking, value.get("edits", ())))


def clears_thinking(edit: Mapping[str, Any]) -> bool:
    """True for one of the edits of context_management that leave thinking out."""
    return str(edit.get("type", "")).startswith("clear_thinking_")


# What OpenAI's and Anthropic's clients call the tier that is paid by the model's price.
_USUAL_TIERS = ("default", "standard", "standard_only")


def merge_extra(
    body: Json, extra: Mapping[str, Any], *, refuse: frozenset[str], leave: Callable[[str, Any], bool]
) -> None:
    """Adds the caller's own provider parameters to a body. One that says nothing (`leave`) is left out; one in
    `refuse`, one that the request already decides, or one whose price nobody knows, raises UnsupportedByProvider."""
    for key, value in extra.items():
        if leave(key, value):
            continue
        if key in refuse:
            raise UnsupportedByProvider(f"{key} is not supported by this provider")
        if key in _PRICED_APART and value not in _PRICED_APART[key]:
            raise UnsupportedByProvider(f"{key}: what it costs is not in the model's price, so no budget could hold it")
        if key in body or key in _DECIDED:
            raise UnsupportedByProvider(f"{key} is decided elsewhere in the request")
        body[key] = value


_DECIDED = frozenset(
    {"model", "messages", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens"}
    # the same in the words of some servers, which take the longer one
    | {"n_predict", "max_new_tokens", "max_length", "max_tokens_to_sample"}
)
# Parameters that have a provider charge more than its price for tokens, and their values that do not.
_PRICED_APART: dict[str, tuple[str, ...]] = {
    "service_tier": ("auto", "default", "standard", "standard_only", "on_demand", "flex"),
    "speed": ("standard",),
    "inference_geo": ("global",),
    "web_search_options": (),
    "search_parameters": (),
    "plugins": (),
    "models": (),
    "provider": (),
    "preset": (),
    "route": (),
    "mcp_servers": (),
    "fallbacks": (),
    "container": (),
}
