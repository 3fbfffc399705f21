"""What the flow tests ask of a running system, and what they look at afterwards."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx2

from tests.flows.system import System, until

DONE = ("analysed", "needs_review", "failed")
TALK = """WEBVTT

00:00:01.000 --> 00:00:06.000
First load the checkpoint in ComfyUI and connect the KSampler node.

00:00:06.500 --> 00:00:12.000
Set the CFG to 7 and use 20 steps with the Euler sampler.

00:00:12.500 --> 00:00:18.000
Then lower the denoise to 0.4, so that the sprite keeps its outline.

00:00:18.500 --> 00:00:24.000
ControlNet with a strength of 0.8 holds the pose of the character.
"""


def insights(confidence: float, **changes: Any) -> dict[str, Any]:
    """An answer that a good model could give about TALK."""
    return {
        "summary": "How to keep a sprite's outline in ComfyUI.",
        "key_points": [{"text": "Lower the denoise to keep the outline.", "start_seconds": 12}],
        "workflow_steps": ["Load the checkpoint", "Connect the KSampler"],
        "tools": ["ComfyUI", "ControlNet"],
        "settings": ["CFG 7", "denoise 0.4"],
        "topics": ["sprites"],
        "technical_level": "intermediate",
        "confidence": confidence,
    } | changes


def post_video(system: System, key: str, **changes: Any) -> dict[str, Any]:
    body = {
        "creator": "instasd",
        "title": "Sprites",
        "transcript": {"format": "vtt", "content": TALK},
    } | changes
    with system.client(key) as client:
        answer = client.post("/api/knowledge/videos", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def video_state(client: httpx2.Client, video_id: str) -> dict[str, Any]:
    return dict(client.get(f"/api/knowledge/videos/{video_id}/analysis").json())


def analysed(system: System, key: str, video_id: str, seconds: float = 90) -> dict[str, Any]:
    """The analysis once the video is done, whatever came of it; survives a web server that is away."""

    def look() -> dict[str, Any] | None:
        try:
            body = video_state(client, video_id)
        except (httpx2.TransportError, ValueError):
            return None
        return body if body.get("state") in DONE else None

    with system.client(key) as client:
        return until(look, seconds, system.output)


def assert_nothing_is_held(system: System) -> None:
    """Soon: calls are settled beside those who have their answers."""
    until(lambda: system.rows("SELECT count(*) FROM routing_reservation") == [(0,)], 60)


def assert_done_once(system: System, video_id: str) -> None:
    """One analysis, paid once: the records are those of its calls, and nothing is held."""
    assert_nothing_is_held(system)
    [(analyses,)] = system.rows("SELECT count(*) FROM knowledge_analysis WHERE video_id = %s", video_id)
    assert analyses == 1
    [(calls, cost)] = system.rows(
        "SELECT jsonb_array_length(call_ids), cost_microusd FROM knowledge_analysis WHERE video_id = %s", video_id
    )
    [(receipts, paid)] = system.rows(
        "SELECT count(*), coalesce(sum(cost_microusd), 0)::bigint FROM routing_routedcall WHERE task_kind = 'analysis'"
    )
    assert (receipts, paid) == (calls, cost)
    [(settled, held)] = system.rows(
        "SELECT coalesce(sum(settled_microusd), 0)::bigint, coalesce(sum(held_microusd), 0)::bigint"
        " FROM routing_budgetperiod"
    )
    assert (settled, held) == (cost, 0)


class _Form(HTMLParser):
    """The fields of the page's change form, as a browser would send them."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[tuple[str, str]] = []
        self._select = self._textarea = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        at = {name: value or "" for name, value in attributes}
        name = at.get("name", "")
        if tag == "select":
            self._select = name
        elif tag == "option" and self._select and "selected" in at:
            self.fields.append((self._select, at.get("value", "")))
        elif tag == "textarea":
            self._textarea = name
            self.fields.append((name, ""))
        elif tag == "input" and name and at.get("type") not in ("submit", "button", "file"):
            if at.get("type") in ("checkbox", "radio") and "checked" not in at:
                return
            self.fields.append((name, at.get("value", "on" if at.get("type") in ("checkbox", "radio") else "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._textarea = ""

    def handle_data(self, data: str) -> None:
        if self._textarea:
            name, text = self.fields[-1]
            self.fields[-1] = (name, text + data)


def change_in_admin(client: httpx2.Client, path: str, **changes: str | None) -> httpx2.Response:
    """Opens a change form of the admin, changes fields (None unchecks), sends it as a browser does."""
    page = client.get(path)
    assert page.status_code == 200, page.text[:300]
    inner = re.search(r'<form[^>]*id="\w+_form".*</form>', page.text, re.DOTALL)
    assert inner is not None, page.text[:500]
    form = _Form()
    form.feed(inner[0])
    sent = [(name, value) for name, value in form.fields if name not in changes]
    sent += [(name, value) for name, value in changes.items() if value is not None]
    data: dict[str, list[str]] = {}
    for name, value in [*sent, ("_save", "Save")]:
        data.setdefault(name, []).append(value)
    return client.post(path, data=data, headers={"Referer": str(page.url)})
