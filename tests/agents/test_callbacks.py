"""The end of a run, told to whoever asked for it: signed, again after failures, to public addresses only."""

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from agents import callbacks, runner, tasks
from agents.models import AgentRun, Callback
from agents.runs import NewRun, cancel_run, create_run
from agents.seeding import seed as seed_agents
from tests.installation import Installation, installed
from tests.servers import Reply
from tests.servers.receiver import Receiver
from ziggie import outbound
from ziggie.errors import InvalidInput
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def here(transactional_db: None, settings: Any) -> Iterator[Installation]:
    settings.CALLBACK_PRIVATE_NETWORKS = ["127.0.0.0/8"]
    with installed() as installation:
        seed_agents()
        installation.ollama.default = Reply(text="done")
        yield installation


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


def ended_run(url: str) -> Callback:
    run, _ = create_run(NewRun(agent="assistant", prompt="Do it.", callback_url=url))
    runner.execute(str(run.pk))
    return Callback.objects.get(run=run)


def tried(callback: Callback) -> Callback:
    Callback.objects.filter(state="waiting").update(next_at=timezone.now())
    callbacks.deliver(str(callback.pk))
    callback.refresh_from_db()
    return callback


def test_a_run_that_is_over_is_sent_as_its_json_and_signed(
    here: Installation, receiver: Receiver, settings: Any
) -> None:
    callback = tried(ended_run(f"{receiver.url}/done?token=secret"))
    assert (callback.state, callback.attempts, callback.status, callback.problem) == ("delivered", 1, 200, "")
    (received,) = receiver.received
    assert (received.method, received.path) == ("POST", "/done?token=secret")
    key = create_api_key("reader", scopes=["coordinator"])[1]
    run = Client().get(f"/api/agents/runs/{callback.run_id}", headers={"Authorization": f"Bearer {key}"}).json()
    same = [name for name in run if name != "callback"]
    assert {name: received.json[name] for name in same} == {name: run[name] for name in same}
    assert run["callback"]["state"] == "delivered"
    stamp, _, digest = received.headers["x-ziggie-signature"].partition(",v1=")
    signed = stamp.removeprefix("t=").encode() + b"." + received.body
    assert hmac.new(settings.CALLBACK_SECRET.encode(), signed, hashlib.sha256).hexdigest() == digest
    assert received.headers["x-ziggie-delivery"] == str(callback.pk)


def test_a_receiver_that_fails_is_tried_again_after_growing_pauses_and_then_no_more(
    here: Installation, receiver: Receiver
) -> None:
    receiver.answers.extend([(500, {})] * 20)
    callback = ended_run(receiver.url)
    pauses = []
    while callback.state == "waiting":
        before = timezone.now()
        callback = tried(callback)
        if callback.next_at:
            shortest, longest = callback.next_at - timezone.now(), callback.next_at - before
            pauses += [pause for pause in callbacks.PAUSES_SECONDS if shortest <= timedelta(seconds=pause) <= longest]
    assert (callback.state, callback.problem) == ("failed", "answered 500")
    assert callback.attempts == len(receiver.received) == callbacks.MAX_ATTEMPTS
    assert pauses == list(callbacks.PAUSES_SECONDS)


def test_a_second_try_may_succeed_and_nothing_is_sent_before_its_time(here: Installation, receiver: Receiver) -> None:
    receiver.answers.append((503, {}))
    callback = tried(ended_run(receiver.url))
    assert not callbacks.deliver(str(callback.pk))
    assert len(receiver.received) == 1
    assert tried(callback).state == "delivered"


def test_a_redirect_is_not_followed(here: Installation, receiver: Receiver) -> None:
    receiver.answers.append((307, {"location": f"{receiver.url}/elsewhere"}))
    callback = tried(ended_run(receiver.url))
    assert (callback.status, callback.problem) == (307, "answered 307, and redirects are not followed")
    assert len(receiver.received) == 1


def test_an_endless_answer_is_cut_and_a_silent_receiver_is_given_up(
    here: Installation, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.answers.extend(["endless", "silent"])
    assert tried(ended_run(receiver.url)).state == "delivered"
    monkeypatch.setattr(outbound, "TOTAL_SECONDS", 0.5)
    silent = tried(ended_run(receiver.url))
    assert (silent.state, silent.problem) == ("waiting", "no complete answer within 0.5 s")


def test_nobody_there_is_a_failed_try(here: Installation) -> None:
    callback = tried(ended_run("http://127.0.0.1:1/"))
    assert (callback.state, callback.status) == ("waiting", None)
    assert "connection" in callback.problem


def test_the_address_is_judged_when_it_is_connected_to(here: Installation, receiver: Receiver, settings: Any) -> None:
    port = receiver.url.rpartition(":")[2]
    settings.CALLBACK_PRIVATE_NETWORKS = []
    for host in ("localhost", "2130706433", "0x7f.1", "127.1"):
        callback = tried(ended_run(f"http://{host}:{port}/"))
        assert "is no public address" in callback.problem or "no host named" in callback.problem
    assert not receiver.received


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "ff02::1"],
)  # fmt: skip
def test_private_addresses_are_refused_at_once(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidInput, match="no public address"):
        outbound.check_url(f"https://{host}/hook", "callback_url")


def test_public_addresses_and_allowed_networks_are_not_refused(settings: Any) -> None:
    for url in ("https://example.com/hook?x=1", "http://93.184.216.34:8080/", "https://[2606:4700::1111]/"):
        outbound.check_url(url, "callback_url")
    settings.CALLBACK_PRIVATE_NETWORKS = ["10.0.0.0/8"]
    outbound.check_url("http://10.1.2.3/", "callback_url")
    assert outbound.is_allowed(ipaddress.ip_address("::ffff:10.1.2.3"))
    assert not outbound.is_allowed(ipaddress.ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "file:///etc/passwd", "example.com", "//example.com/", "http://", "http://user:pw@example.com/",
     "https://example.com:99999/", "http://exa mple.com/", "http://example.com/\r\nX: y", "http://münchen.de/",
     "https://example.com/" + "x" * 2000, "http://[::1", "gopher://127.0.0.1:70/"],
)  # fmt: skip
def test_an_address_that_cannot_be_meant_is_refused_and_makes_no_run(here: Installation, url: str) -> None:
    key = create_api_key("coordinator", scopes=["coordinator"])[1]
    body = {"agent": "assistant", "prompt": "Do it.", "callback_url": url}
    answer = Client().post("/api/agents/runs", data=json.dumps(body), content_type="application/json",
                           headers={"Authorization": f"Bearer {key}"})  # fmt: skip
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("callback_url")
    assert not AgentRun.objects.exists()


def test_a_cancelled_run_is_told_too(here: Installation, receiver: Receiver) -> None:
    run, _ = create_run(NewRun(agent="assistant", prompt="Do it.", callback_url=receiver.url))
    cancel_run(run)
    assert tried(Callback.objects.get()).state == "delivered"
    assert receiver.received[0].json["status"] == "cancelled"


def test_a_worker_that_died_has_its_try_made_by_another(here: Installation, receiver: Receiver) -> None:
    callback = ended_run(receiver.url)
    Callback.objects.update(
        lease_until=timezone.now() - timedelta(seconds=1), lease_owner="gone:1:0", fence=1, attempts=1
    )
    tasks.sweep()
    assert tried(callback).state == "delivered"
    assert callback.attempts == 2


def test_the_run_page_shows_how_the_delivery_went_and_keeps_the_addresss_secret(
    here: Installation, receiver: Receiver
) -> None:
    receiver.answers.append((500, {}))
    callback = tried(ended_run(f"{receiver.url}/done?token=secret"))
    staff = User.objects.create_user("ann", password="x", is_staff=True)
    client = Client()
    client.force_login(staff)
    page = client.get(f"/runs/{callback.run_id}/").content.decode()
    assert f"{receiver.url}/done" in page
    assert "answered 500" in page
    assert "token=secret" not in page
