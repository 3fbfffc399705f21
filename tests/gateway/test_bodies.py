"""Requests and answers are stored where a rule says so, redacted, and nowhere else."""

import json
import logging
import time
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from routing import service
from routing.models import RoutingRule, RoutingSettings, StoredBody, UsageRecord
from routing.types import ChatRequest, message
from tests.gateway.conftest import Gateway
from tests.gateway.test_calls import ASKED, CHAT, MESSAGES, post
from tests.servers.script import Reply

SECRET = "sk-ant-api03-AbCdEf0123456789"
QUESTION = f"Write to ada@example.com with the key {SECRET}, please."
ANSWER = "Call +49 30 901820-12 <script>alert(1)</script>"


def store(gateway: Gateway, **settings: Any) -> None:
    RoutingRule.objects.update(options={"store_bodies": True})
    RoutingSettings.objects.update(**settings)
    gateway.openai.default = gateway.ollama.default = Reply(ANSWER)


def stored(count: int = 1) -> list[StoredBody]:
    until = time.monotonic() + 60
    while StoredBody.objects.count() < count and time.monotonic() < until:
        time.sleep(0.02)
    return list(StoredBody.objects.order_by("call_id"))


def asked(stream: bool = False) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": QUESTION}], "stream": stream}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_rule_that_stores_bodies_keeps_both_without_what_is_secret(gateway: Gateway, path: str, stream: bool) -> None:
    store(gateway)
    answer = httpx2.post(gateway.url + path, json={**ASKED, **asked(stream)}, headers=gateway.headers, timeout=30)
    assert answer.status_code == 200
    (body,) = stored()
    assert str(body.call_id) == answer.headers["x-ziggie-request-id"]
    kept = json.dumps([body.request, body.answer])
    assert body.request["messages"][0]["parts"][0]["text"] == "Write to [mail address] with the key [key], please."
    assert body.answer["parts"][0]["text"] == "Call [phone number] <script>alert(1)</script>"
    assert (SECRET in kept, "901820" in kept, body.cut, body.redactions) == (False, False, False, 3)


def test_what_a_tool_gave_in_several_texts_is_kept_once(gateway: Gateway) -> None:
    store(gateway)
    rows = [{"type": "text", "text": said} for said in ("first finding", "second finding")]
    called = {"type": "tool_use", "id": "t", "name": "look_up", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": rows}
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]
    assert post(gateway, MESSAGES, model="auto", messages=turns, max_tokens=50).status_code == 200
    (body,) = stored()
    assert json.dumps(body.request).count("second finding") == 1


def test_without_the_option_nothing_is_stored(gateway: Gateway) -> None:
    post(gateway, **asked())
    (receipt,) = gateway.settled(1)
    assert receipt.bodies is None
    assert not StoredBody.objects.exists()


def test_a_call_that_names_its_model_follows_no_rule_and_is_not_stored(gateway: Gateway) -> None:
    store(gateway)
    post(gateway, **{**asked(), "model": "gpt"})
    gateway.settled(1)
    assert not StoredBody.objects.exists()


def test_a_call_without_an_answer_keeps_its_request(gateway: Gateway) -> None:
    store(gateway)
    gateway.openai.default = gateway.ollama.default = Reply(status=500, error="broken")
    assert post(gateway, **asked()).status_code == 502
    (body,) = stored()
    assert body.answer is None
    assert body.request["messages"]


def test_a_call_through_the_service_is_stored_the_same_way(gateway: Gateway) -> None:
    store(gateway)
    routed = service.submit(ChatRequest(messages=(message("user", QUESTION),))).result(30)
    (body,) = stored()
    assert str(body.call_id) == routed.call_id
    assert SECRET not in json.dumps(body.request)


def test_long_bodies_are_cut_and_images_are_told_by_their_size(gateway: Gateway) -> None:
    store(gateway, body_kilobytes=1)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo=" * 100}}
    text = {"type": "text", "text": "long " * 2_000}
    assert post(gateway, model="auto", messages=[{"role": "user", "content": [image, text]}]).status_code == 200
    (body,) = stored()
    assert body.cut
    assert body.request["messages"][0]["parts"][0] == {"kind": "image", "media_type": "image/png", "bytes": 900}
    assert len(json.dumps(body.request)) < 2_500


def test_the_staffs_patterns_and_the_providers_keys_are_taken_out(gateway: Gateway) -> None:
    store(gateway, redact_patterns=["(?i)project \\w+"])
    post(gateway, model="auto", messages=[{"role": "user", "content": "Project Nightjar uses sk-upstream"}])
    (body,) = stored()
    assert body.request["messages"][0]["parts"][0]["text"] == "[redacted] uses [key]"


def test_bodies_that_cannot_be_stored_do_not_fail_the_call(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    store(gateway)
    RoutingSettings.objects.update(redact_patterns=["("])  # past the forms that refuse it
    with caplog.at_level(logging.WARNING):
        assert post(gateway, **asked()).status_code == 200
        gateway.settled(1)
        until = time.monotonic() + 60
        while "are not kept" not in caplog.text and time.monotonic() < until:
            time.sleep(0.02)
    assert "are not kept: PatternError" in caplog.text
    assert not StoredBody.objects.exists()
    assert SECRET not in caplog.text


def test_only_those_who_may_see_them_do_and_they_are_escaped(gateway: Gateway, django_user_model: Any) -> None:
    store(gateway)
    post(gateway, **asked())
    (body,) = stored()
    user = django_user_model.objects.create_user("ada", password="x", is_staff=True)
    client = Client()
    client.force_login(user)
    page = client.get(f"/usage/calls/{body.call_id}/").content.decode()
    assert "your account may not see them" in page
    assert "Write to" not in page
    user.user_permissions.add(Permission.objects.get(codename="view_storedbody"))
    page = client.get(f"/usage/calls/{body.call_id}/").content.decode()
    assert "Write to [mail address]" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


def test_bodies_are_in_no_list_or_export(gateway: Gateway, admin_client: Client) -> None:
    store(gateway)
    post(gateway, **asked())
    (body,) = stored()
    assert UsageRecord.objects.count() == 1
    for address in ("/api/usage/records", "/api/usage/records.csv", "/usage/", "/usage/calls/",
                    f"/admin/routing/routedcall/{body.call_id}/change/"):  # fmt: skip
        response: Any = admin_client.get(address)
        text = b"".join(response.streaming_content) if response.streaming else response.content
        assert response.status_code == 200
        assert b"Write to" not in text
