"""JSON with whole numbers of more than 64 bits, as ids of calls' arguments are: orjson reads them as floats, and writes
none. Few bodies have one, and only those are read or written a second time."""

import json
from collections.abc import Callable
from typing import Any

import orjson

_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 19  # digits; one more than 64 bits always hold


def exactly(body: bytes, value: Any) -> Any:
    """`value`, which orjson has read from this JSON, with its whole numbers as they stand there."""
    if _LONG not in body.translate(_AS_ZEROS):
        return value
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # thousands of digits, or nested more deeply than Python goes
        return value


def dumps(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Raises TypeError for what JSON cannot say, or is nested too deeply."""
    try:
        return orjson.dumps(value, default=default, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError as error:
        if "64-bit" not in str(error):
            raise
    try:
        return json.dumps(value, default=default, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise TypeError(str(error)) from None
