"""The processes of a gateway with several workers, as their supervisor looks after them."""

import asyncio
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from django.db import connections

from routing import database
from routing.configuration import snapshot
from routing.gateway import app
from routing.gateway.serving.server import START_SECONDS, Worker


def starting() -> Worker:
    """One that has not begun to answer."""
    worker = Worker(uvicorn.Config("nobody:nothing"), [])
    worker.process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    return worker


def test_a_worker_that_dies_while_it_is_asked_is_not_waited_for() -> None:
    worker = starting()
    threading.Timer(0.5, worker.process.kill).start()
    began = time.monotonic()
    assert not worker.is_alive(timeout=START_SECONDS)
    assert time.monotonic() - began < START_SECONDS / 2
    worker.join()


def test_a_worker_is_alive_once_it_answers_and_given_up_where_it_does_not() -> None:
    worker = starting()
    try:
        assert not worker.is_alive(timeout=0.2)
        worker.child_conn.send(False)
        assert worker.is_alive()
        assert not worker.is_ready(timeout=0.2)
        worker.child_conn.send(True)
        assert worker.is_ready()
    finally:
        worker.kill()
        worker.join()


@pytest.mark.django_db
def test_a_worker_begins_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that takes the place of another would end them all otherwise: its supervisor has it that none can begin."""
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", str(tmp_path))
    monkeypatch.setattr(database, "AWAY_SECONDS", 0.1)
    snapshot.forget()
    said = iter(["lifespan.startup", "lifespan.shutdown"])
    told = []

    async def receive() -> dict[str, Any]:
        return {"type": next(said)}

    async def send(message: Any) -> None:
        told.append(message["type"])

    async def work() -> None:
        await app.application({"type": "lifespan"}, receive, send)
        await database.close()

    asyncio.run(work())
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
