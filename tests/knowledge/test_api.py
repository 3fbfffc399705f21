"""The knowledge base over REST: shapes, refusals, and who may call."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from knowledge.models import Creator, Video
from tests.flows.jobs import TALK
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db
VIDEOS = "/api/knowledge/videos"


@pytest.fixture
def key() -> str:
    return create_api_key("coordinator", scopes=["coordinator"])[1]


def post(key: str, body: Any, path: str = VIDEOS) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return Client().post(path, data=text, content_type="application/json", headers={"Authorization": f"Bearer {key}"})


def video(**changes: Any) -> dict[str, Any]:
    return {"creator": "instasd", "title": "Sprites", "transcript": {"format": "vtt", "content": TALK}} | changes


def test_a_video_with_a_transcript_is_queued(key: str) -> None:
    answer = post(key, video(external_id="abc"))
    assert answer.status_code == 201
    body = answer.json()
    assert (body["external_id"], body["state"]) == ("abc", "queued")
    again = post(key, video(external_id="abc"))
    assert (again.status_code, again.json()["id"]) == (200, body["id"])


def test_a_video_without_a_transcript_waits_for_one(key: str) -> None:
    answer = post(key, video(transcript=None))
    assert (answer.status_code, answer.json()["state"]) == (201, "new")
    analyse = post(key, "", f"{VIDEOS}/{answer.json()['id']}/analyze")
    assert analyse.status_code == 400
    assert "transcript" in analyse.json()["error"]["message"]


def test_parsed_json_transcripts_are_taken_as_they_are(key: str) -> None:
    content = [{"text": "Hello there", "start": 0.0, "duration": 2.0}, {"text": "again", "start": 2.0, "duration": 2.0}]
    assert post(key, video(transcript={"format": "json", "content": content})).status_code == 201


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": ""}, "title"),
        ({"title": None}, "title"),
        ({"title": "a\x00b"}, "title"),
        ({"title": "x" * 301}, "300"),
        ({"creator": "not a slug"}, "creator"),
        ({"priority": "urgent"}, "priority"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"transcript": "text"}, "transcript"),
        ({"transcript": {"format": "docx", "content": "x"}}, "format"),
        ({"transcript": {"format": "vtt"}}, "content"),
        ({"transcript": {"format": "txt", "content": 5}}, "content"),
        ({"transcript": {"format": "txt", "content": {"a": 1}}}, "content"),
        ({"transcript": {"format": "vtt", "content": "no header"}}, "line 1"),
    ],
)
def test_wrong_input_is_refused_in_one_shape_and_leaves_nothing(key: str, changes: dict[str, Any], said: str) -> None:
    answer = post(key, video(**changes))
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert not Video.objects.exists()
    assert not Creator.objects.exists()


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000, "[]", "7", '"text"'])
def test_a_body_that_is_no_object_is_refused(key: str, body: str) -> None:
    assert post(key, body).status_code == 400


def test_what_is_not_there_has_the_same_error_shape(key: str) -> None:
    answer = Client().get(f"{VIDEOS}/01890a5d-ac96-774b-bcce-b302099a8057", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_filter_that_cannot_be_stored_finds_no_way_to_a_fault(key: str) -> None:
    answer = Client().get(f"{VIDEOS}?creator=%00", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 400


def test_only_staff_and_keys_with_the_scope_may_call(key: str) -> None:
    gateway_only = create_api_key("gateway", scopes=["gateway"])[1]
    assert Client().get(VIDEOS).status_code == 401
    assert Client().get(VIDEOS, headers={"Authorization": "Bearer zg_wrong"}).status_code == 401
    assert Client().get(VIDEOS, headers={"Authorization": f"Bearer {gateway_only}"}).status_code == 403
    assert Client().get(VIDEOS, headers={"x-api-key": key}).status_code == 200
    somebody, staff = Client(), Client()
    somebody.force_login(User.objects.create_user("somebody"))
    staff.force_login(User.objects.create_user("staff", is_staff=True))
    assert somebody.get(VIDEOS).status_code == 403
    assert staff.get(VIDEOS).status_code == 200
