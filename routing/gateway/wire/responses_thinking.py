"""PURE: thinking on its way to a client of OpenAI's responses and back. What must come back as it was (its text, what
its house signed it with) travels in `encrypted_content`, which clients keep and do not read."""

import base64
import binascii

import orjson

from routing.gateway.wire.reading import MAX_PARTS, Json, objects, text
from routing.types import Reasoning

_OURS = "ziggie:"


def sealed(thinking: Reasoning) -> str:
    told = orjson.dumps([thinking.text, thinking.signature, thinking.redacted])
    return _OURS + base64.urlsafe_b64encode(told).decode()


def _unsealed(content: str) -> Reasoning | None:
    """None for what was not sealed here, or came to harm since: earlier thinking is no condition of an answer."""
    if not content.startswith(_OURS):
        return None
    try:
        match orjson.loads(base64.b64decode(content.removeprefix(_OURS), altchars=b"-_", validate=True)):
            case [str() as said, str() as signature, bool() as redacted]:
                return Reasoning(said, signature, redacted)
    except (binascii.Error, ValueError):
        pass
    return None


def thinking_of(item: Json, where: str) -> list[Reasoning]:
    """What a `reasoning` item holds: ours as it was, somebody else's as far as it can be read."""
    ours = _unsealed(text(item, "encrypted_content", where, default=""))
    if ours is not None:
        return [ours]
    pieces = objects(item, "content", where, most=MAX_PARTS) or objects(item, "summary", where, most=MAX_PARTS)
    told = "\n\n".join([text(piece, "text", where) for piece in pieces])
    return [Reasoning(told)] if told else []
