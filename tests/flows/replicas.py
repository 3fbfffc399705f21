"""A system with two web processes, two workers and a gateway of two, and providers that are processes, too."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.flows.system import ROOT, System, running, until
from tests.ports import free_port

PROVIDERS = ("north", "south")
MODELS = {"alpha": "north", "beta": "south", "gamma": "south"}
ROUTING = """
providers:
  - {{slug: north, kind: openai, location: cloud, base_url: "{north}/v1", enabled: true, timeout_seconds: 60}}
  - {{slug: south, kind: openai, location: cloud, base_url: "{south}/v1", enabled: true, timeout_seconds: 60}}
  - {{slug: home, kind: openai, location: local, base_url: "{south}/v1", enabled: true, timeout_seconds: 60,
     max_concurrency: 64}}
models:
  - {{slug: alpha, provider: north, name: alpha, context_window: 32768, max_output_tokens: 1000,
     capabilities: [chat, json], input_usd_per_mtok: "1", output_usd_per_mtok: "1"}}
  - {{slug: beta, provider: south, name: beta, context_window: 32768, max_output_tokens: 1000,
     capabilities: [chat, json], input_usd_per_mtok: "1", output_usd_per_mtok: "1"}}
  - {{slug: gamma, provider: home, name: gamma, context_window: 32768, max_output_tokens: 1000,
     capabilities: [chat, json], input_usd_per_mtok: "0", output_usd_per_mtok: "0"}}
policies:
  - slug: replicas
    live: true
    rules:
      - {{name: everything, chain: [alpha, beta, gamma], options: {{first_token_seconds: 1.5}}}}
budgets:
  - {{slug: monthly-cloud, scope: {{locations: [cloud]}}, period: month, limit_usd: "1000", hard: true}}
"""


class Upstream:
    """An OpenAI-compatible server in a process of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.script = folder / f"{name}.json"
        self.script.write_text("{}")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.servers.openai", "--port", str(self.port), "--script", str(self.script)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline())["url"]

    def play(self, **reply: Any) -> None:
        script = {"models": list(MODELS), "default": {"text": f"from {self.script.stem}", "piece": 100, **reply}}
        self.script.write_text(json.dumps(script))
        httpx2.put(f"{self.url}/__script", json=script).raise_for_status()

    def calls(self) -> int:
        rows = httpx2.get(f"{self.url}/__requests").json()
        return sum(row["method"] == "POST" for row in rows)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """It takes connections and requests, and answers none."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def renew(self, **reply: Any) -> None:
        """There again, sound, whatever befell it."""
        if self.process.poll() is None:
            self.thaw()
        else:
            self.start()
        self.play(**reply)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.kill()


@dataclass
class Replicas:
    """`doors` are where clients may call: each web process, and the gateway of two processes."""

    system: System
    doors: dict[str, str]
    north: Upstream
    south: Upstream
    key: str

    def renew(self, **reply: Any) -> None:
        self.north.renew(**reply)
        self.south.renew(**reply)
        self.apply(ROUTING.format(north=self.north.url, south=self.south.url))
        self.system.rows("WITH gone AS (DELETE FROM routing_circuit RETURNING 1) SELECT count(*) FROM gone")
        time.sleep(1.0)  # until every process has seen that

    def apply(self, text: str) -> None:
        with self.system.client(self.key) as client:
            answer = client.put("/api/routing/file", content=text)
        assert answer.status_code == 200, answer.text


@contextmanager
def replicas(folder: Path) -> Iterator[Replicas]:
    with ExitStack() as stack:
        servers = [Upstream(folder, name) for name in PROVIDERS]
        for server in servers:
            stack.callback(server.stop)
        system = stack.enter_context(running(folder / "home", WORKERS="2"))
        web, gateway = free_port(), free_port()
        address = ["-p", str(web), "ziggie.asgi:application"]
        stack.enter_context(_program(system, f"http://127.0.0.1:{web}", "-m", "daphne", "-v", "0", *address))
        words = ["manage.py", "gateway", "--port", str(gateway), "--workers", "2"]
        stack.enter_context(_program(system, f"http://127.0.0.1:{gateway}", *words))
        doors = {"web 1": system.url, "web 2": f"http://127.0.0.1:{web}", "gateway": f"http://127.0.0.1:{gateway}"}
        made = Replicas(system, doors, *servers, system.api_key(scopes="coordinator,gateway,admin"))
        made.renew()
        yield made


@contextmanager
def _program(system: System, url: str, *words: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=system.environment, start_new_session=True)
    try:
        until(lambda: _answers(url), 120)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/v1/models", timeout=10).status_code == 401
    except httpx2.TransportError:
        return False


# --- clients ---------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a client got. `began`: a piece of the answer had reached it. `problem` is "" where all went well."""

    door: str
    streaming: bool
    sent_at: float
    seconds: float
    problem: str = ""
    began: bool = False
    text: str = ""
    model: str = ""
    headers: dict[str, str] = field(default_factory=dict)


async def call(client: httpx2.AsyncClient, here: Replicas, door: str, *, streaming: bool = False, **body: Any) -> Told:
    """One call by one client. Never raises."""
    told = Told(door, streaming, time.time(), 0.0)
    request = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}], **body}
    url, headers = f"{here.doors[door]}/v1/chat/completions", {"Authorization": f"Bearer {here.key}"}
    try:
        if streaming:
            async with client.stream("POST", url, json=request | {"stream": True}, headers=headers) as answer:
                await _read_stream(answer, told)
        else:
            answer = await client.post(url, json=request, headers=headers)
            _read_whole(answer, told)
    except (httpx2.HTTPError, ValueError, KeyError) as error:
        told.problem = f"{type(error).__name__}: {error}"
    told.seconds = time.time() - told.sent_at
    return told


def _read_whole(answer: httpx2.Response, told: Told) -> None:
    told.headers = dict(answer.headers)
    if answer.status_code != 200:
        told.problem = f"{answer.status_code} {answer.text[:300]}"
        return
    told.model = answer.headers["x-ziggie-model"]
    told.text = answer.json()["choices"][0]["message"]["content"]


async def _read_stream(answer: httpx2.Response, told: Told) -> None:
    told.headers = dict(answer.headers)
    if answer.status_code != 200:
        told.problem = f"{answer.status_code} {(await answer.aread())[:300]!r}"
        return
    told.model = answer.headers["x-ziggie-model"]
    ended = False
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            ended = True
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            if "error" in event:
                told.problem = f"in the stream: {event['error']}"
                return
            told.text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            told.began = True
    told.problem = "" if ended else "the stream has no end"


class Load:
    """So many clients at once, each calling again as soon as it has its answer, in a thread of their own."""

    def __init__(self, here: Replicas, clients: list[tuple[str, bool]], *, pause: float = 0.0, **body: Any) -> None:
        self.told: list[Told] = []
        self._here, self._clients, self._pause, self._body = here, clients, pause, body
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    async def _drive(self) -> None:
        limits = httpx2.Limits(max_connections=len(self._clients))
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
            await asyncio.gather(*(self._client(client, *which) for which in self._clients))

    async def _client(self, client: httpx2.AsyncClient, door: str, streaming: bool) -> None:
        while not self._over.is_set():
            self.told.append(await call(client, self._here, door, streaming=streaming, **self._body))
            await asyncio.sleep(self._pause)

    def wait_for(self, answers: int, seconds: float = 60) -> None:
        until(lambda: len(self.told) >= answers, seconds, lambda: f"{len(self.told)} answers")

    def wait_for_sent_after(self, moment: float, answers: int, seconds: float = 60) -> None:
        def answered() -> int:
            return sum(one.sent_at > moment for one in list(self.told))

        until(lambda: answered() >= answers, seconds, lambda: f"{answered()} answers")


# --- workers ---------------------------------------------------------------------------------------


class Runs:
    """Agent runs without end, so that every worker is always at work. `seen` maps each worker (its process id) to
    what its calls were made with: (when asked, model, cost in micro-dollars)."""

    def __init__(self, here: Replicas, *, at_once: int = 8) -> None:
        self._here, self._at_once = here, at_once
        self._over = threading.Event()
        self._owners: dict[str, str] = {}
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._watch)]

    def __enter__(self) -> "Runs":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        waiting = "SELECT count(*) FROM agents_agentrun WHERE status IN ('queued', 'working')"
        body = {"name": "Clerk", "level": "L3", "prompt": "Say hello."}
        with self._here.system.client(self._here.key) as client, self._here.system.database() as database:
            while not self._over.is_set():
                row = database.execute(waiting).fetchone()
                for _ in range(self._at_once - (row[0] if row else 0)):
                    with suppress(httpx2.TransportError):
                        client.post("/api/agents/runs", json=body)
                self._over.wait(0.05)

    def _watch(self) -> None:
        owned = "SELECT id::text, lease_owner FROM agents_agentrun WHERE lease_owner <> ''"
        with self._here.system.database() as database:
            while not self._over.is_set():
                self._owners.update(database.execute(owned).fetchall())
                self._over.wait(0.02)

    def seen(self) -> dict[str, list[tuple[float, str, int]]]:
        calls = self._here.system.rows(
            "SELECT run_id, extract(epoch FROM (attempts->0->>'started_at')::timestamptz)::float8, model, cost_microusd"
            " FROM routing_routedcall WHERE run_id <> '' AND outcome = 'ok' ORDER BY 2"
        )
        found: defaultdict[str, list[tuple[float, str, int]]] = defaultdict(list)
        for run, at, model, cost in calls:
            if run in self._owners:
                found[f"worker {self._owners[run].split(':')[1]}"].append((at, model, cost))
        return dict(found)
