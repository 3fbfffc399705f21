"""Requests and answers that a rule wants kept (`store_bodies`): redacted, cut, and kept for some days.

Nothing else stores what was asked or answered, and nothing here can fail a call. Bodies are shown on the receipt's
page to those who may see them; they are in no log, list or export.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
import psycopg

from routing import database
from routing.money.ledger_rows import scrubbed
from routing.records import kept_answers, kept_requests
from routing.redaction import NOT_LOOKED_THROUGH, Redactor, TooLong
from routing.types import ChatRequest, Snapshot
from routing.walk.attempts import Answer
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

MIN_SECRET = 8  # a provider's key that is shorter is no secret
KEEP = """
INSERT INTO routing_storedbody (call_id, created_at, request, answer, redactions, cut)
VALUES (%s, now(), %s, %s, %s, %s)
ON CONFLICT (call_id) DO UPDATE SET created_at = excluded.created_at, request = excluded.request,
    answer = excluded.answer, redactions = excluded.redactions, cut = excluded.cut
"""


async def keep(call_id: UUID, request: ChatRequest, answer: Answer | None, snapshot: Snapshot) -> None:
    """Stores what was asked and answered, for a caller that knows the rule to want it. Never raises for what it
    may meet."""
    try:
        row = await asyncio.to_thread(_row, request, answer, snapshot)
        async with database.connection() as connection:
            await connection.execute(KEEP, (call_id, *row))
    except (Unavailable, psycopg.Error, TypeError, ValueError) as error:
        logger.warning("the bodies of call %s are not kept: %s", call_id, type(error).__name__)


def _row(request: ChatRequest, answer: Answer | None, snapshot: Snapshot) -> tuple[str, str | None, int, bool]:
    asked, answered = _redactor(snapshot), _redactor(snapshot)
    body = kept_requests.to_json(request) | ({"choices": request.choices} if request.choices != 1 else {})
    question = _json(asked, _plain(body))
    reply = _json(answered, _said(answer)) if answer else None
    return question, reply, asked.found + answered.found, asked.cut or answered.cut


def _said(answer: Answer) -> dict[str, Any]:
    said: dict[str, Any] = {"parts": kept_answers.answer_json(answer)["parts"]}
    return said | {"others": [_said(other) for other in answer.others]} if answer.others else said


def _redactor(snapshot: Snapshot) -> Redactor:
    keys = {model.provider.api_key for model in snapshot.models.values()}
    return Redactor(
        characters=snapshot.settings.body_kilobytes * 1024,
        patterns=snapshot.settings.redact_patterns,
        secrets=frozenset(key for key in keys if len(key) >= MIN_SECRET),
    )


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without what was left empty, and with what images and PDFs are instead of them."""
    return {name: _without_files(value) for name, value in body.items() if value not in (None, "", [], {}, ())}


_FILES = ("image", "pdf")
_KEPT_OF_FILES = ("kind", "media_type", "title", "context")


def _without_files(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_files(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.get("kind") == "cited":
        return {"kind": "cited", "text": value.get("text", "")}  # its block is the same again, or a PDF
    if value.get("kind") in _FILES and value.get("data"):
        kept = {name: said for name, said in value.items() if name in _KEPT_OF_FILES}
        return {**kept, "bytes": len(value["data"]) * 3 // 4}
    if "rows" in value:
        return {name: said for name, said in value.items() if name != "rows"}  # they are in its content
    return {name: _without_files(item) for name, item in value.items()} if "parts" in value else value


def _json(redactor: Redactor, body: dict[str, Any]) -> str:
    try:
        kept = redactor.of(body)
    except TooLong:
        redactor.cut = True
        kept = {"note": NOT_LOOKED_THROUGH}
    return orjson.dumps(scrubbed(kept)).decode()
