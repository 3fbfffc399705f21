"""Requests a second through `manage.py gateway --workers 1` with everything on, beside the bare upstream.

    python -m bench.gateway [--seconds N]

Starts a database in a folder of its own, nginx as the upstream and the gateway; wrk drives both in turn. Each
request is authenticated, rate limited, routed by a rule, held against a hard budget, settled and recorded.
Prints one JSON line a number of connections. Where nginx or wrk is absent it says so and measures nothing.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CONNECTIONS = (1, 16, 64)
BARS = {1: 1_000, 16: 4_000, 64: 4_500}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "mock",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
}
ROUTING = """
providers:
  - {{slug: mock, kind: openai, location: cloud, base_url: "http://127.0.0.1:{port}/v1", enabled: true}}
models:
  - {{slug: mock, provider: mock, name: mock, context_window: 131072, max_output_tokens: 4096,
     input_usd_per_mtok: "1", output_usd_per_mtok: "5", capabilities: [chat], enabled: true}}
policies:
  - slug: bench
    live: true
    rules: [{{name: everything, when: {{}}, pattern: single, chain: [mock, offline]}}]
budgets:
  - {{slug: bench, scope: {{locations: [cloud]}}, period: month, limit_usd: "100000", hard: true, on_exhausted: deny,
     alert_at_percent: [80]}}
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
wrk.body = '{{"model":"auto","messages":[{{"role":"user","content":"hello"}}]}}'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def manage(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "manage.py", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], url: str) -> Iterator[float]:
    """The command while it runs, given once `url` answers: how many seconds that took."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own address
                break
            if process.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit(f"{command} did not start")
            time.sleep(0.02)
        yield time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def drive(url: str, connections: int, seconds: int, script: Path) -> dict[str, float]:
    """Requests a second, median milliseconds, and answers other than 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    if rate is None or median is None:
        raise SystemExit(f"wrk said nothing that is understood: {told[-300:]}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]]
    return {
        "per_second": float(rate[1]),
        "median_ms": round(float(median[1]) * scale, 3),
        "refused": float(refused[1]) if refused else 0,
    }


def measure(folder: Path, seconds: int) -> Iterator[dict[str, object]]:
    upstream, port = free_port(), free_port()
    environment = {**os.environ, "ZIGGIE_HOME": str(folder / "home")}
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=upstream, answer=json.dumps(ANSWER)))
    (folder / "routing.yaml").write_text(ROUTING.format(port=upstream))
    for words in (("migrate",), ("seed",), ("routing", "apply", str(folder / "routing.yaml"))):
        manage(environment, *words)
    key = json.loads(manage(environment, "apikey", "--json", "create", "bench"))["key"]
    script = folder / "post.lua"
    script.write_text(LUA.format(key=key))
    nginx = ["nginx", "-c", str(folder / "nginx.conf")]
    gateway = [sys.executable, "manage.py", "gateway", "--port", str(port), "--workers", "1"]
    direct_url = f"http://127.0.0.1:{upstream}/v1/chat/completions"
    url = f"http://127.0.0.1:{port}"
    with running(nginx, environment, direct_url), running(gateway, environment, f"{url}/healthz") as started:
        drive(f"{url}/v1/chat/completions", 16, 2, script)  # warm
        for connections in CONNECTIONS:
            direct = drive(direct_url, connections, max(seconds // 2, 1), script)
            through = drive(f"{url}/v1/chat/completions", connections, seconds, script)
            yield {
                "name": "gateway.requests_per_second",
                "connections": connections,
                "value": round(through["per_second"]),
                "bar": BARS[connections],
                "direct": round(direct["per_second"]),
                "added_ms_p50": round(through["median_ms"] - direct["median_ms"], 3),
                "refused": int(through["refused"]),
                "cold_start_seconds": round(started, 2),
                "load": os.getloadavg()[0],
            }
    checked = json.loads(manage(environment, "usage", "--json", "check"))
    yield {"name": "gateway.books_agree", "value": checked["ok"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    missing = [program for program in ("nginx", "wrk") if shutil.which(program) is None]
    if missing:
        sys.stdout.write(json.dumps({"name": "gateway.requests_per_second", "skipped": f"needs {missing}"}) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as folder:
        for line in measure(Path(folder), options.seconds):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
