"""The headers that staff have sent along to a provider: which there may be, and where the keys in them come from."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

# they say how a request's bytes are to be read, or what becomes of its connection
OURS = frozenset({"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"})
OURS |= {"host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
_REFERENCE = re.compile(r"\$\{([A-Z][A-Z0-9_]*_API_KEY)\}")


def mistake(headers: Mapping[str, str]) -> str:
    """What is wrong with them; "" for nothing."""
    names = Counter(name.lower() for name in headers)
    if ours := sorted(OURS & names.keys()):
        return f"{ours[0]} is not yours to set"
    if twice := [name for name, times in names.items() if times > 1]:
        return f"{twice[0]} stands there twice"
    if any("${" in _REFERENCE.sub("", value) for value in headers.values()):
        return "${…} names an environment variable that ends in _API_KEY"
    return ""


def resolved(headers: Any, keys: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The headers as they are sent, `${NAME_API_KEY}` being its value in `keys`, and the first such name that has none
    ("" where all have). Rows may be older than a check of them: what must not be sent is left out."""
    if not isinstance(headers, Mapping):
        return {}, ""
    missing: list[str] = []

    def value_of(found: re.Match[str]) -> str:
        if found[1] not in keys:
            missing.append(found[1])
        return keys.get(found[1], "")

    sent = {
        str(name).lower(): _REFERENCE.sub(value_of, str(value))
        for name, value in headers.items()
        if str(name).lower() not in OURS
    }
    return sent, missing[0] if missing else ""
