"""What the gateway's benchmarks stand on: a database in a folder of its own, an upstream, the gateway, wrk.

The stage is set as in production: a key with a rate limit, a rule, a hard budget, prices, everything recorded.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench._upstream import ANSWER

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
LIMIT_KEY = "from ziggie.models import ApiKey; ApiKey.objects.update(requests_per_minute=100_000_000)"
ROUTING = """
providers:
  - {{slug: mock, kind: openai, location: cloud, base_url: "http://127.0.0.1:{port}/v1", enabled: true}}
  - {{slug: paced, kind: openai, location: cloud, base_url: "http://127.0.0.1:{port}/pause-20/v1", enabled: true}}
  - {{slug: slow, kind: openai, location: cloud, base_url: "http://127.0.0.1:{port}/pause-2000/v1", enabled: true}}
models:
  - {{slug: mock, provider: mock, name: mock, context_window: 131072, max_output_tokens: 4096,
     input_usd_per_mtok: "1", output_usd_per_mtok: "5", capabilities: [chat], enabled: true}}
  - {{slug: paced, provider: paced, name: mock, context_window: 131072, max_output_tokens: 4096,
     input_usd_per_mtok: "1", output_usd_per_mtok: "5", capabilities: [chat], enabled: true}}
  - {{slug: slow, provider: slow, name: mock, context_window: 131072, max_output_tokens: 4096,
     input_usd_per_mtok: "1", output_usd_per_mtok: "5", capabilities: [chat], enabled: true}}
policies:
  - slug: bench
    live: true
    rules:
      - {{name: code, when: {{task_kinds: [code]}}, pattern: single, chain: [mock, offline]}}
      - {{name: everything, when: {{}}, pattern: single, chain: [mock, offline]}}
budgets:
  - {{slug: monthly-cloud, scope: {{locations: [cloud]}}, period: month, limit_usd: "100000000", hard: true,
     on_exhausted: deny, alert_at_percent: [80]}}
"""
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{answer}'; }} }}
}}
"""
LUA = """
wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
"""


def missing_programs(*programs: str) -> list[str]:
    return [program for program in programs if shutil.which(program) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU that the gateway and PostgreSQL have used so far, with all their processes."""

    gateway: float
    database: float

    def per_request(self, before: "Cost", requests: int) -> dict[str, int]:
        """Microseconds a request since `before`."""
        scale = 1e6 / max(requests, 1)
        return {
            "gateway_cpu_us": round((self.gateway - before.gateway) * scale),
            "database_cpu_us": round((self.database - before.database) * scale),
        }


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk says of one run."""

    requests: int
    per_second: float
    median_ms: float
    refused: int


@dataclass(slots=True)
class Stage:
    """A prepared home. The gateway answers at `url` while it is `serving`."""

    folder: Path
    upstream_port: int
    port: int
    key: str
    gateway: psutil.Process | None = None
    cold_start_seconds: float = 0.0

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "ZIGGIE_HOME": str(self.folder / "home")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}/v1/chat/completions"

    @classmethod
    def prepare(cls, folder: Path) -> "Stage":
        """Migrates, seeds and configures: `auto` is the model `mock`, `paced` and `slow` wait before each piece."""
        stage = cls(folder, free_port(), free_port(), "")
        (folder / "routing.yaml").write_text(ROUTING.format(port=stage.upstream_port))
        for words in (("migrate",), ("seed",), ("routing", "apply", str(folder / "routing.yaml"))):
            stage.manage(*words)
        stage.key = json.loads(stage.manage("apikey", "--json", "create", "bench"))["key"]
        stage.manage("shell", "-c", LIMIT_KEY)
        return stage

    def manage(self, *words: str) -> str:
        command = [sys.executable, "manage.py", *words]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    @contextlib.contextmanager
    def nginx(self) -> Iterator[None]:
        """The fastest upstream there is, for whole answers."""
        config = NGINX.format(folder=self.folder, port=self.upstream_port, answer=json.dumps(ANSWER))
        (self.folder / "nginx.conf").write_text(config)
        with running(["nginx", "-c", str(self.folder / "nginx.conf")], self.environment, self.upstream_port):
            yield

    @contextlib.contextmanager
    def streaming_upstream(self) -> Iterator[None]:
        with running(
            [sys.executable, "-m", "bench._upstream", str(self.upstream_port)], self.environment, self.upstream_port
        ):
            yield

    @contextlib.contextmanager
    def serving(self) -> Iterator["Stage"]:
        """`manage.py gateway --workers 1`."""
        began = time.monotonic()
        command = [sys.executable, "manage.py", "gateway", "--port", str(self.port), "--workers", "1"]
        with running(command, self.environment, self.port) as process:
            self._wait_until_healthy(began)
            self.cold_start_seconds = time.monotonic() - began
            self.gateway = psutil.Process(process.pid)
            yield self

    def _wait_until_healthy(self, began: float) -> None:
        while time.monotonic() - began < START_SECONDS:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=1),
            ):
                return
            time.sleep(0.02)
        raise SystemExit("the gateway did not answer")

    def cost(self) -> Cost:
        assert self.gateway is not None
        postmaster = int((self.folder / "home" / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        database = _cpu_seconds(psutil.Process(postmaster))
        started_it = any(child.pid == postmaster for child in self.gateway.children(recursive=True))
        return Cost(_cpu_seconds(self.gateway) - (database if started_it else 0.0), database)

    def resident_megabytes(self) -> float:
        assert self.gateway is not None
        return float(self.gateway.memory_info().rss) / 1e6

    def script(self, *, stream: bool = False) -> Path:
        """What wrk sends."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]} | (
            {"stream": True} if stream else {}
        )
        path = self.folder / ("stream.lua" if stream else "post.lua")
        path.write_text(LUA.format(body=json.dumps(body), key=self.key))
        return path


def _cpu_seconds(process: psutil.Process) -> float:
    """By the scheduler's own clock: times in ticks mislead for what runs in bursts shorter than a tick."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        for clock in Path(f"/proc/{one.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                total += int(clock.read_text().split()[0])
    return total / 1e9


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """The command while it runs, once somebody listens at `port`."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not _listens(port):
            if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise SystemExit(f"{command} did not start")
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def drive(url: str, connections: int, seconds: int, script: Path) -> Load:
    """One run of wrk on one thread."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    count = re.search(r"(\d+) requests in", told)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    if rate is None or median is None or count is None:
        raise SystemExit(f"wrk said nothing that is understood: {told[-300:]}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]]
    return Load(int(count[1]), float(rate[1]), float(median[1]) * scale, int(refused[1]) if refused else 0)
