"""The processes of a gateway with several workers, as their supervisor looks after them."""

import multiprocessing
import threading
import time

import uvicorn

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
