"""Is an answer what was asked for, as far as its shape can tell, and how is it asked for again? Pure, but for the
thread that checks schemas."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from routing.offline.checking import Checker
from routing.offline.leaves import Unfillable
from routing.types import ChatRequest, ChatResult, Verdict, message
from ziggie.values import replace

_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
ACCEPTED = Verdict(ok=True)


def judge(request: ChatRequest, result: ChatResult) -> Verdict:
    """The caller's own verdict where there is one, else whether a JSON answer is one and fits its schema."""
    if request.accept is not None:
        return request.accept(result)
    if (request.json_schema is None and not request.json_object) or result.tool_calls:
        return ACCEPTED
    cut = result.stop_reason == "length" and request.max_output_tokens is not None
    if request.model != "auto" and (cut or result.stop_reason == "content_filter"):
        return (
            ACCEPTED  # the caller's own limit cut it, or the one model that may serve refuses: to ask again is no help
        )
    try:
        document = json_of(result.text)
    except ValueError:
        return Verdict(ok=False, problem="it is not one JSON document")
    if request.json_schema is None:
        return ACCEPTED if isinstance(document, dict) else Verdict(ok=False, problem="it is not a JSON object")
    return ACCEPTED if fits(request.json_schema, document) else Verdict(ok=False, problem="it does not fit the schema")


async def judged(request: ChatRequest, result: ChatResult) -> Verdict:
    """The same for the event loop, which no schema of a stranger may hold up."""
    if request.accept is None and request.json_schema is not None:
        return await asyncio.to_thread(judge, request, result)
    return judge(request, result)


def repair_request(request: ChatRequest, result: ChatResult, problem: str) -> ChatRequest:
    """The request again, with the refused answer and what was wrong with it."""
    refused = result.text[:20_000] or "(no text)"
    return replace(
        request,
        messages=(
            *request.messages,
            message("assistant", refused),
            message(
                "user",
                f"That answer cannot be used: {problem[:2000]}\n"
                "Give the whole answer again, corrected, as one JSON document and nothing else."
                if request.json_schema is not None
                else f"That answer cannot be used: {problem[:2000]}\nGive the whole answer again, corrected.",
            ),
        ),
    )


def json_of(text: str) -> Any:
    """The JSON document that an answer is, also within a code fence. Raises ValueError."""
    fenced = _FENCE.match(text)
    try:
        return json.loads(fenced.group(1) if fenced else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def fits(schema: Mapping[str, Any], document: Any) -> bool:
    """Whether the document validates. A schema that is none asks for nothing that could be checked."""
    try:
        checker = Checker(schema)
        return checker.accepts(checker.root, document)
    except (ValueError, Unfillable):
        return True
