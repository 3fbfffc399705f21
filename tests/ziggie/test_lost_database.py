"""The address of a database that may be lost without a word, as Django's own connections have it."""

import socket
import time

import pytest
from django.db import OperationalError
from django.db.utils import ConnectionHandler

from ziggie import environment

ADDRESS = "postgres://ziggie@127.0.0.1:{port}/ziggie"


@pytest.mark.django_db  # a server of our own, and no rows
def test_who_connects_to_a_server_that_says_nothing_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.IF_SERVER_IS_LOST, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = environment.database_settings(ADDRESS.format(port=silent.getsockname()[1]))
        connection = ConnectionHandler({"default": settings})["default"]
        began = time.monotonic()
        with pytest.raises(OperationalError):
            connection.ensure_connection()
        assert time.monotonic() - began < 20


def test_a_connection_whose_server_is_lost_is_given_up_and_the_address_has_the_last_word() -> None:
    options = environment.database_settings(ADDRESS.format(port=5432))["OPTIONS"]
    assert options == environment.IF_SERVER_IS_LOST
    assert {"connect_timeout", "keepalives_idle", "tcp_user_timeout"} <= options.keys()

    longer = environment.database_settings(ADDRESS.format(port=5432) + "?connect_timeout=60&sslmode=require")["OPTIONS"]
    assert longer == {**options, "connect_timeout": 60, "sslmode": "require"}
