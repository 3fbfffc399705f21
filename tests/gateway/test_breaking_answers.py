"""Answers that fail on their way, beside Django: who asked hears of it, and so does everybody after."""

import os
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead

import pytest
from django.db import connection

from tests.ziggie.live_process import database_url, web_server


@pytest.fixture(scope="module")
def breaking(django_db_setup: None) -> Iterator[int]:
    environment = {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    with web_server(environment=environment, application="tests.gateway.breaking:application") as port:
        yield port


@pytest.mark.parametrize("_", range(2))
@pytest.mark.parametrize("path", ["/before", "/head", "/within"])
def test_an_answer_that_fails_on_its_way_ends_each_time(breaking: int, path: str, _: int) -> None:
    client = HTTPConnection("127.0.0.1", breaking, timeout=20)
    client.request("GET", path)
    answer = client.getresponse()
    if path == "/within":
        with pytest.raises((IncompleteRead, ConnectionResetError)):
            answer.read()
    else:
        assert (answer.status, answer.getheader("content-type")) == (500, "text/html; charset=utf-8")
        assert b"Internal Server Error" in answer.read()
