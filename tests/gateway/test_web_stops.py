"""The web server's end: calls through the gateway that is mounted in it are in the books before its process is gone."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from threading import Event

import httpx2
import pytest
from django.db import connection

from routing.models import Reservation, RoutedCall
from tests.gateway.conftest import Gateway, wait_until
from tests.servers.script import Reply
from tests.ziggie.live_process import database_url, web_server

ASKED = {"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def test_a_call_that_was_answered_just_before_is_settled(gateway: Gateway) -> None:
    with served(gateway) as port:
        assert ask(gateway, port).status_code == 200
    assert [call.outcome for call in RoutedCall.objects.all()] == ["ok"]
    assert not Reservation.objects.exists()


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_under_way_is_cut_and_settled(gateway: Gateway, stream: bool) -> None:
    gate = Event()
    gateway.openai.default = Reply(after=gate)
    with ThreadPoolExecutor(1) as client:
        with served(gateway) as port:
            asking = client.submit(ask, gateway, port, stream=stream)
            wait_until(lambda: len(gateway.openai.calls) == 1)
        with suppress(httpx2.HTTPError):
            asking.result(60)
    gate.set()
    assert [call.outcome for call in RoutedCall.objects.all()] == ["cancelled"]
    assert not Reservation.objects.exists()


def served(gateway: Gateway) -> AbstractContextManager[int]:
    environment = {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    return web_server(environment=environment)


def ask(gateway: Gateway, port: int, *, stream: bool = False) -> httpx2.Response:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return httpx2.post(url, json={**ASKED, "stream": stream}, headers=gateway.headers, timeout=60)
