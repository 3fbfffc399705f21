"""A small site around the live socket and static/live.js: its rows stand in a file that the test writes.

The far end of the browser tests: real daphne, real socket, real script; only the rows are not a database's.
"""

import html
import json
import os
from pathlib import Path
from typing import Any

from channels.routing import ProtocolTypeRouter

from ziggie.asgi import application as real

STATE = Path(os.environ["LIVE_SITE_STATE"])
SCRIPT = Path(__file__).resolve().parent.parent.parent / "static" / "live.js"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>live</title>
<script src="/live.js" defer></script></head>
<body data-live-topics="runs,usage"><p data-live-connection role="status" aria-live="polite"></p>
<section><table><tbody id="list" data-live-list="run" data-live-row-url="/rows/{{id}}/" data-live-limit="5">
{rows}</tbody></table>{empty}</section>
<div id="figures" data-live-refresh-url="/figures/" data-live-refresh-on="usage">{figures}</div>
<div id="alone" data-live-id="run:{alone}" data-live-version="0" data-live-row-url="/bodies/{alone}/">{body}</div>
<div id="fields" data-live-id="run:{alone}" data-live-version="0"><span class="chip queued" data-live-field="status"
 data-live-format="words">queued</span><progress max="100" value="0" data-live-field="progress"></progress>
<b data-live-field="seconds" data-live-format="fixed"></b><i data-live-field="error"></i></div></body></html>"""
ROW = '<tr data-live-id="run:{id}" data-live-version="{version}"><td><a href="#{id}">{status}</a></td></tr>'
HEADERS = [(b"content-security-policy", b"default-src 'self'; connect-src 'self' ws: wss:")]


def state() -> dict[str, Any]:
    return json.loads(STATE.read_text())  # type: ignore[no-any-return]


def row(key: str, columns: dict[str, Any]) -> str:
    return ROW.format(id=key, version=columns["version"], status=html.escape(columns["status"]))


def render(path: str) -> tuple[int, str, bytes]:
    now = state()
    rows = now["rows"]
    kind, _, key = path.strip("/").partition("/")
    if path == "/":
        newest = "".join(row(key, rows[key]) for key in sorted(rows, reverse=True)[:5])
        empty = "" if rows else "<p data-live-empty>nothing yet</p>"
        page = PAGE.format(rows=newest, empty=empty, figures=now["figures"], alone=now["alone"], body=now["body"])
        return 200, "text/html", page.encode()
    if kind == "live.js":
        return 200, "text/javascript", SCRIPT.read_bytes()
    if kind == "figures":
        return 200, "text/html", now["figures"].encode()
    if kind == "bodies":
        return 200, "text/html", now["body"].encode()
    if kind == "favicon.ico":
        return 204, "image/x-icon", b""
    if kind == "rows" and key in rows:
        return 200, "text/html", row(key, rows[key]).encode()
    return 404, "text/plain", b""


async def pages(scope: dict[str, Any], receive: Any, send: Any) -> None:
    status, content_type, body = render(scope["path"])
    if state().get("signed_out") and scope["path"] != "/login/":
        status, body = 302, b""
    if scope["path"] == "/login/":
        status, body = 200, b"log in"
    headers = [(b"content-type", content_type.encode()), *HEADERS]
    headers += [(b"location", b"/login/")] if status == 302 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = ProtocolTypeRouter({"http": pages, "websocket": real.application_mapping["websocket"]})
