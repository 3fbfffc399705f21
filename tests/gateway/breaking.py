"""Ziggie in daphne, with three addresses that fail: before their answer, behind its head, and within it."""

import asyncio
from typing import Any

import ziggie.asgi

PLACES = ("/before", "/head", "/within")


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http" or scope["path"] not in PLACES:
        await ziggie.asgi.application(scope, receive, send)
        return
    if scope["path"] != "/before":
        headers = [(b"content-type", b"text/csv"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/within":
        await send({"type": "http.response.body", "body": b"a,b\r\n", "more_body": True})
        await asyncio.sleep(0.1)
    raise RuntimeError("the database has gone")
