"""Real providers' wire formats, sudden deaths, and retuning while it runs."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.jobs import analysed, assert_done_once, change_in_admin, insights, post_video, video_state
from tests.flows.system import System, running, until
from tests.servers import AnthropicServer, OllamaServer, Reply
from tests.servers.redis_server import running_redis

pytestmark = [pytest.mark.flow, pytest.mark.timeout(900)]


@dataclass
class World:
    """A system whose local and cloud models are servers of these tests. The sample is out of the way."""

    system: System
    ollama: OllamaServer
    anthropic: AnthropicServer
    key: str

    def calls(self) -> list[str]:
        """Who was asked for answers, in order of arrival."""
        asked = [(r.at, "local") for r in self.ollama.requests if r.path == "/api/chat"]
        asked += [(r.at, "cloud") for r in self.anthropic.requests if r.path.startswith("/v1/messages")]
        return [who for _, who in sorted(asked)]

    def renew(self) -> None:
        """Makes good what the test before did: to the processes, the servers, the rows."""
        if self.system.process.poll() is not None:
            self.system.start()
        for server, reply in (
            (self.ollama, Reply(text=json.dumps(insights(90)))),
            (self.anthropic, Reply(text=json.dumps(insights(95)), input_tokens=2000, output_tokens=500)),
        ):
            server.load({})
            server.default = reply
        idle = "SELECT 1 FROM knowledge_video WHERE state IN ('queued', 'analysing')"
        until(lambda: not self.system.rows(idle), 90, self.system.output)
        for table in (
            "knowledge_analysis",
            "routing_circuit",
            "routing_routedcall",
            "routing_usagerecord",
            "routing_budgetperiod",
        ):
            self.system.rows(f"WITH gone AS (DELETE FROM {table} RETURNING 1) SELECT count(*) FROM gone")
        self.system.rows("UPDATE routing_provider SET enabled = true WHERE slug = 'ollama' RETURNING 1")
        self.ollama.requests.clear()
        self.anthropic.requests.clear()


@pytest.fixture(scope="module")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with OllamaServer() as ollama, AnthropicServer() as anthropic:
        addresses = {
            "OLLAMA_BASE_URL": ollama.url,
            "ANTHROPIC_BASE_URL": anthropic.url,
            "ANTHROPIC_API_KEY": "sk-test",
        }
        with running(tmp_path_factory.mktemp("world") / "home", **addresses) as system:
            yield World(system, ollama, anthropic, system.api_key())


@pytest.fixture
def world(running_world: World) -> World:
    running_world.renew()
    return running_world


def test_a_low_confidence_local_answer_is_redone_on_cloud(world: World) -> None:
    world.ollama.default = Reply(text=json.dumps(insights(40)))
    video = post_video(world.system, world.key, priority="low")
    body = analysed(world.system, world.key, video["id"])
    assert (body["state"], body["source"], body["model"]) == ("analysed", "cloud", "claude-haiku-4-5")
    assert [attempt["outcome"] for attempt in body["attempts"]] == ["low_confidence", "ok"]
    # 2,000 tokens in at $1 and 500 out at $5 a million
    assert body["cost_usd"] == "0.004500"
    assert body["insights"]["confidence"] == 95
    assert_done_once(world.system, video["id"])

    asked = next(r for r in world.ollama.requests if r.path == "/api/chat").json
    assert asked["options"]["num_ctx"] >= 4000
    assert asked["format"]["required"]


def test_a_creators_priority_decides_where_the_analysis_is_made(world: World) -> None:
    video = post_video(world.system, world.key, priority="critical")
    assert analysed(world.system, world.key, video["id"])["model"] == "claude-sonnet-4-5"
    video = post_video(world.system, world.key, priority="medium")
    assert analysed(world.system, world.key, video["id"])["source"] == "local"


def test_a_worker_killed_in_mid_analysis_costs_neither_the_video_nor_a_second_charge(world: World) -> None:
    slow = Reply(text=json.dumps(insights(95)), input_tokens=2000, output_tokens=500, first_token=60)
    world.anthropic.queue(slow)
    video = post_video(world.system, world.key, priority="high")
    until(world.calls, 60, world.system.output)
    world.system.kill_those_of("manage.py worker")
    body = analysed(world.system, world.key, video["id"], 150)
    assert body["state"] == "analysed"
    assert world.calls() == ["cloud", "cloud"]
    assert_done_once(world.system, video["id"])


def test_a_power_cut_in_mid_analysis_is_made_good_by_the_next_start(world: World) -> None:
    world.anthropic.queue(Reply(text=json.dumps(insights(95)), first_token=60))
    video = post_video(world.system, world.key, priority="high")
    until(world.calls, 60, world.system.output)
    world.system.kill_all()
    world.system.start()
    body = analysed(world.system, world.key, video["id"], 150)
    assert body["state"] == "analysed"
    assert_done_once(world.system, video["id"])


def test_a_killed_database_in_mid_analysis_is_restarted_and_the_work_finished(world: World) -> None:
    world.anthropic.queue(Reply(text=json.dumps(insights(95)), input_tokens=2000, output_tokens=500, first_token=6))
    video = post_video(world.system, world.key, priority="high")
    until(world.calls, 60, world.system.output)
    pid = int((world.system.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    body = analysed(world.system, world.key, video["id"], 150)
    assert body["state"] == "analysed"
    assert_done_once(world.system, video["id"])


def test_a_killed_web_server_is_back_and_the_page_answers(world: World) -> None:
    world.system.kill_those_of("daphne")
    with world.system.client(world.key) as client:
        assert client.get("/healthz").status_code == 200


def test_a_change_in_the_admin_takes_effect_within_two_seconds(world: World) -> None:
    [(provider,)] = world.system.rows("SELECT id FROM routing_provider WHERE slug = 'ollama'")
    with world.system.staff_client() as staff:
        answer = change_in_admin(staff, f"/admin/routing/provider/{provider}/change/", enabled=None)
        assert answer.status_code in (200, 302)
    errors = re.findall(r"(?s)<[^>]*errorlist.*?</ul>|errornote.*?<", answer.text)
    assert world.system.rows("SELECT enabled FROM routing_provider WHERE slug = 'ollama'") == [(False,)], errors
    time.sleep(2)
    video = post_video(world.system, world.key, priority="low")
    body = analysed(world.system, world.key, video["id"])
    assert body["source"] == "cloud"
    assert "local" not in world.calls()


def test_a_half_valid_edit_is_refused_in_the_form_with_the_reason(world: World) -> None:
    [(provider,)] = world.system.rows("SELECT id FROM routing_provider WHERE slug = 'ollama'")
    with world.system.staff_client() as staff:
        answer = change_in_admin(staff, f"/admin/routing/provider/{provider}/change/", base_url="not an address")
    assert answer.status_code == 200
    assert 'id="id_base_url_error"' in answer.text
    [(base_url,)] = world.system.rows("SELECT base_url FROM routing_provider WHERE slug = 'ollama'")
    assert base_url == world.ollama.url


def test_nothing_stays_behind_after_a_stop(world: World) -> None:
    processes = world.system.processes()
    began = time.monotonic()
    world.system.stop()
    assert time.monotonic() - began < 30  # generous: others may use this machine
    gone = until(lambda: all(not process.is_running() for process in processes), 60)
    assert gone


@pytest.mark.redis
def test_queue_and_live_layer_run_on_redis_where_it_is_set(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    with running_redis() as address, running(tmp_path / "home", REDIS_URL=address) as system:
        key = system.api_key()
        video = post_video(system, key)
        assert analysed(system, key, video["id"])["source"] == "offline"
        assert system.rows("SELECT count(*) FROM django_q_ormq") == [(0,)]
        with system.client(key) as client:
            ready = client.get("/readyz")
            assert ready.status_code == 200, ready.text
            assert video_state(client, video["id"])["state"] == "needs_review"
