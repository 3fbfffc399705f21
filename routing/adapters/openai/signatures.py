"""What Gemini signs its calls of tools with: Google's imitation of this API has it at the call, OpenRouter beside the
message as `reasoning_details`, by the call's id. Later models refuse a turn whose first call has lost it."""

import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.reading.wire import SIGNATURE_MARK, UNSIGNED, Json, signs
from routing.types import Message, ModelSpec, Reasoning, ToolCall

_IS_GOOGLES = re.compile(r"^https?://[^/]*\.googleapis\.com(?:[:/]|$)")
_IS_ROUTED = re.compile(r"(?:^|/)google/gemini-(?:[3-9]|\d\d)")  # as OpenRouter names the models that sign
_FORMAT = "google-gemini-v1"


def sign(turn: Json, said: Message, model: ModelSpec) -> None:
    """Gives Gemini its signatures back, in the words of whoever stands before it."""
    calls: list[Json] = turn["tool_calls"]
    is_googles = _IS_GOOGLES.search(model.provider.base_url) is not None
    is_routed = not is_googles and _IS_ROUTED.search(model.name) is not None
    details: list[Json] = []
    signature, place = "", 0
    for part in said.parts:
        if isinstance(part, Reasoning) and part.signature.startswith(SIGNATURE_MARK):
            signature = part.signature.removeprefix(SIGNATURE_MARK)
        elif isinstance(part, ToolCall):
            proof = signature or ("" if place else UNSIGNED)
            if proof and is_routed:
                detail = {"type": "reasoning.encrypted", "data": proof, "id": calls[place]["id"]}
                details.append({**detail, "format": _FORMAT, "index": len(details)})
            if proof and (signature or (is_googles and signs(model))):
                calls[place]["extra_content"] = {"google": {"thought_signature": proof}}
            signature = ""
            place += 1
    if details:
        turn["reasoning_details"] = details


def may_come_late(body: Mapping[str, Any] | None) -> bool:
    """True where a stream may tell a call's signature behind the call."""
    name = (body or {}).get("model")
    return isinstance(name, str) and _IS_ROUTED.search(name) is not None


def routed_signatures(message: Json) -> dict[str, str]:
    """The signatures in a message or a delta of OpenRouter's, by the ids of their calls; "" stands for the first
    call."""
    details = message.get("reasoning_details")
    found: dict[str, str] = {}
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and (detail.get("type"), detail.get("format")) == ("reasoning.encrypted", _FORMAT):
            data, identity = detail.get("data"), detail.get("id")
            if data and isinstance(data, str):
                found[identity if isinstance(identity, str) else ""] = SIGNATURE_MARK + data
    return found
