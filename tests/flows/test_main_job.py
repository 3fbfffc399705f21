"""The main job by real processes: from an empty folder to insights on a page that sits still."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from jsonschema import Draft202012Validator

from knowledge.insights import SCHEMA
from tests.flows.jobs import DONE, TALK, analysed, assert_nothing_is_held, post_video
from tests.flows.system import System, until

pytestmark = [pytest.mark.flow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def key(system: System) -> str:
    return system.api_key()


def test_the_sample_is_analysed_by_the_offline_model_where_no_other_is_at_hand(system: System, key: str) -> None:
    with system.client(key) as client:
        videos = client.get("/api/knowledge/videos").json()["results"]
    sample = next(video for video in videos if video["external_id"] == "sample")
    body = analysed(system, key, sample["id"])
    assert body["state"] == "needs_review", body
    assert body["source"] == "offline"
    assert "offline extractive" in body["insights"]["summary"].lower()
    Draft202012Validator(SCHEMA).validate(body["insights"])


def is_over(event: dict[str, Any], video_id: str) -> bool:
    data = event["data"]
    return event["type"] == "video.changed" and data["video_id"] == video_id and data["state"] in DONE


def test_a_posted_transcript_is_told_step_by_step_on_the_socket(system: System, key: str) -> None:
    async def watch() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        address = system.url.replace("http", "ws", 1) + "/ws/live/?topics=videos,usage"
        events = []
        headers = {"Authorization": f"Bearer {key}"}
        async with websockets.connect(address, additional_headers=headers, open_timeout=60) as socket:
            video = await asyncio.to_thread(post_video, system, key)
            with suppress(TimeoutError):
                async with asyncio.timeout(30):
                    while not (events and is_over(events[-1], video["id"])):
                        events.append(json.loads(await socket.recv()))
            return video, events

    for _ in range(3):  # a busy worker may lose an event: pages make that good, and a socket alone cannot
        video, events = asyncio.run(watch())
        changes = [
            event for event in events if event["type"] == "video.changed" and event["data"]["video_id"] == video["id"]
        ]
        states = list(dict.fromkeys(event["data"]["state"] for event in changes))
        if len(states) == 3 and any(event["type"] == "usage.recorded" for event in events):
            break
    assert states == ["queued", "analysing", "needs_review"]
    versions = [event["version"] for event in changes]
    assert versions == sorted(versions)
    assert any(event["type"] == "usage.recorded" for event in events)
    assert changes[-1]["data"]["model"] == "offline"


def test_every_attempt_is_on_record_and_nothing_stays_held(system: System, key: str) -> None:
    video = post_video(system, key, title="For the record")
    body = analysed(system, key, video["id"])
    records = system.rows(
        "SELECT model, outcome FROM routing_usagerecord WHERE call_id = ANY(%s::uuid[]) ORDER BY attempt",
        body["call_ids"],
    )
    assert [record[0] for record in records][-1] == "offline"
    assert records[-1][1] in ("ok", "low_confidence")
    assert_nothing_is_held(system)


def test_the_command_line_gives_the_same_insights(system: System, tmp_path: Path) -> None:
    talk = tmp_path / "talk.vtt"
    talk.write_text(TALK)
    done = system.manage("analyze", str(talk), "--creator", "instasd", "--priority", "high", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["source"] == "offline"
    Draft202012Validator(SCHEMA).validate(body["insights"])


@pytest.mark.parametrize(
    ("content", "status"), [("", 400), ("WEBVTT\n", 400), ("\x00\x01\x02binary", 400), ("word " * 5_000_000, 413)]
)
def test_a_bad_transcript_gets_one_clear_error_and_leaves_nothing(
    system: System, key: str, content: str, status: int
) -> None:
    before = system.rows("SELECT count(*) FROM knowledge_video")
    body = {"creator": "nobody-yet", "title": "Bad", "transcript": {"format": "vtt", "content": content}}
    with system.client(key) as client:
        answer = client.post("/api/knowledge/videos", json=body)
    assert answer.status_code == status, answer.text
    assert "line" in answer.json()["error"]["message"]
    assert system.rows("SELECT count(*) FROM knowledge_video") == before
    assert system.rows("SELECT count(*) FROM knowledge_creator WHERE slug = 'nobody-yet'") == [(0,)]


def test_pages_are_for_staff_and_show_the_analysis(system: System, key: str) -> None:
    video = post_video(system, key, title="Seen by <staff>")
    analysed(system, key, video["id"])
    for path in ("/", "/runs/", "/knowledge/", f"/knowledge/videos/{video['id']}/"):
        assert httpx2.get(system.url + path).status_code == 302
    with system.staff_client() as client:
        page = client.get(f"/knowledge/videos/{video['id']}/")
        assert page.status_code == 200
        assert "Seen by &lt;staff&gt;" in page.text
        assert "offline" in page.text
        assert client.get("/").status_code == 200


def test_an_agent_run_is_carried_out_once_per_idempotency_key(system: System, key: str) -> None:
    body = {"name": "Clerk", "level": "L3", "prompt": "The shop opens at nine.\n\nWhen does the shop open?"}
    with system.client(key) as client:
        first = client.post("/api/agents/runs", json=body, headers={"Idempotency-Key": "k1"})
        second = client.post("/api/agents/runs", json=body, headers={"Idempotency-Key": "k1"})
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json()["id"] == second.json()["id"]

        def over() -> dict[str, Any] | None:
            run = client.get(f"/api/agents/runs/{first.json()['id']}").json()
            return run if run["status"] in ("completed", "failed") else None

        run = until(over, 60, system.output)
    assert run["status"] == "completed", run
    assert "nine" in run["answer"]
    assert run["source"] == "offline"
