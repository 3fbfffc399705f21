"""Other gateways beside ours in one run: LiteLLM's proxy and Portkey's gateway, where they can be had.

    python -m bench.peers [--seconds N] [--rounds N]

Each is installed once into a folder of its own below ZIGGIE_HOME/peers (a Python environment, an npm folder), of
their newest release then; delete the folder for a newer one. All stand before the same upstream with one process
each and are driven in turn, round after round; the best round of each counts. LiteLLM checks a key, Portkey takes
what it is told in headers; neither keeps budgets or records here, ours does. Prints one JSON line a gateway and load,
with the ratio to ours; a peer that cannot be had is a line that says why.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._stage import REPOSITORY, Load, Stage, drive, free_port, missing_programs

CONNECTIONS = (1, 16, 64)
STREAM_CONNECTIONS = 16
INSTALL_SECONDS = 900.0
START_SECONDS = 300.0  # LiteLLM imports for half a minute where others use the machine
STOP_SECONDS = 15.0
MAX_SECONDS, MAX_ROUNDS = 60, 10
LITELLM_KEY = "sk-bench"
LITELLM_CONFIG = """
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: {key}}}
"""


class Unavailable(Exception):
    """A peer that cannot be measured here, and why in one line."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A gateway that answers at `url` and what a client says to it."""

    name: str
    version: str
    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, *, stream: bool) -> str:
        message = {"model": self.model, "messages": [{"role": "user", "content": "hello"}]}
        return json.dumps(message | ({"stream": True} if stream else {}))

    def script(self, folder: Path, *, stream: bool) -> Path:
        """What wrk sends."""
        headers = {"content-type": "application/json", **self.headers}
        lines = ['wrk.method = "POST"', f"wrk.body = {_lua(self.body(stream=stream))}"]
        lines += [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in headers.items()]
        path = folder / f"{self.name}-{'stream' if stream else 'whole'}.lua"
        path.write_text("\n".join(lines) + "\n")
        return path


def _lua(text: str) -> str:
    """A string of Lua. Its escapes are JSON's for what stands here."""
    return json.dumps(text)


# --- installing ------------------------------------------------------------------------------------


def cache_folder() -> Path:
    home = Path(os.environ.get("ZIGGIE_HOME") or REPOSITORY / ".ziggie")
    return home.expanduser().absolute() / "peers"


def installed(folder: Path, program: str, *commands: list[str]) -> Path:
    """`folder`/`program`, by these commands where it is missing. An installation that was cut off is begun again.

    Raises Unavailable; then nothing half-made stays."""
    complete = folder / "complete"
    if complete.exists():
        return folder / program
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    until = time.monotonic() + INSTALL_SECONDS
    try:
        for command in commands:
            _install(command, until - time.monotonic())
        if not (folder / program).exists():
            raise Unavailable(f"its installation brought no {program}")
    except BaseException:  # Ctrl-C as well
        shutil.rmtree(folder, ignore_errors=True)
        raise
    complete.touch()
    return folder / program


def _install(command: list[str], seconds: float) -> None:
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=max(seconds, 1)
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"its installation took more than {INSTALL_SECONDS:.0f} s") from error
    except OSError as error:
        raise Unavailable(f"{command[0]} does not run: {error.strerror}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        telling = [line for line in words if re.search(r"\berror\b", line, re.IGNORECASE)] or words
        raise Unavailable(f"{Path(command[0]).name} could not install it: {telling[0].strip()[:300]}")


def install_litellm() -> tuple[Path, str]:
    folder = cache_folder() / "litellm"
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1"]
    program = installed(folder, "bin/litellm", [sys.executable, "-m", "venv", str(folder)], [*pip, "litellm[proxy]"])
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    return program, subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def install_portkey() -> tuple[Path, str]:
    if missing := missing_programs("node", "npm"):
        raise Unavailable(f"needs {' and '.join(missing)}")
    folder = cache_folder() / "portkey"
    npm = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--fetch-retries", "1"]
    package = "node_modules/@portkey-ai/gateway"
    program = installed(folder, f"{package}/build/start-server.js", [*npm, "@portkey-ai/gateway"])
    return program, str(json.loads((folder / package / "package.json").read_text())["version"])


# --- running ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def litellm(stage: Stage) -> Iterator[Contestant]:
    program, version = install_litellm()
    port = free_port()
    config = stage.folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(upstream=stage.upstream_port, key=LITELLM_KEY))
    # Its list of prices comes with the package: nothing is fetched while it starts.
    environment = clean_environment() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    made = Contestant("litellm", version, url, "mock", {"authorization": f"Bearer {LITELLM_KEY}"})
    with serving(made, command, environment, stage.folder):
        yield made


@contextlib.contextmanager
def portkey(stage: Stage) -> Iterator[Contestant]:
    program, version = install_portkey()
    port = free_port()
    headers = {
        "authorization": "Bearer none",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{stage.upstream_port}/v1",
    }
    made = Contestant("portkey", version, f"http://127.0.0.1:{port}/v1/chat/completions", "mock", headers)
    command = ["node", str(program), f"--port={port}", "--headless"]
    # Without this it refuses a provider on this machine's own address.
    environment = clean_environment() | {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    with serving(made, command, environment, stage.folder):
        yield made


PEERS: dict[str, Callable[[Stage], contextlib.AbstractContextManager[Contestant]]] = {
    "litellm": litellm,
    "portkey": portkey,
}


def clean_environment() -> dict[str, str]:
    """Ours without keys and addresses of real services, which a peer might use on its own."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_URL", "_TOKEN", "_SECRET")) and not name.startswith(("PYTHON", "DJANGO"))
    }


@contextlib.contextmanager
def serving(contestant: Contestant, command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """The peer while it runs, once it has given the upstream's answer. Raises Unavailable with its last words."""
    log = folder / f"{contestant.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + START_SECONDS
        while (problem := asked(contestant)) is not None:
            if process.poll() is not None or time.monotonic() > until:
                words = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
                raise Unavailable(f"it did not start ({problem}): {words[-1][:300]}")
            time.sleep(0.2)
        yield
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def asked(contestant: Contestant) -> str | None:
    """None once the gateway gives the upstream's answer, else what it gave."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        contestant.url,
        data=contestant.body(stream=False).encode(),
        headers={"content-type": "application/json", **contestant.headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read(200).decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return str(error)
    content = body.get("choices", [{}])[0].get("message", {}).get("content")
    return None if content == "Hello." or contestant.name == "ziggie" else f"it answered {str(body)[:200]}"


# --- measuring -------------------------------------------------------------------------------------


def measure(stage: Stage, seconds: int, rounds: int) -> Iterator[dict[str, Any]]:
    ours = Contestant("ziggie", "", stage.url, "auto", {"authorization": f"Bearer {stage.key}"})
    absent: set[str] = set()
    for stream in (False, True):
        upstream = stage.streaming_upstream() if stream else stage.nginx()
        with contextlib.ExitStack() as running:
            running.enter_context(upstream)
            running.enter_context(stage.serving())
            contestants = [ours]
            for name in (name for name in PEERS if name not in absent):
                try:
                    contestants.append(running.enter_context(PEERS[name](stage)))
                except Unavailable as error:
                    absent.add(name)
                    yield {"name": "peers.requests_per_second", "gateway": name, "skipped": str(error)}
            if len(contestants) == 1:
                return
            for connections in (STREAM_CONNECTIONS,) if stream else CONNECTIONS:
                yield from compare(contestants, stage.folder, connections, seconds, rounds, stream=stream)


def compare(
    contestants: list[Contestant], folder: Path, connections: int, seconds: int, rounds: int, *, stream: bool
) -> Iterator[dict[str, Any]]:
    """Drives each in turn, `rounds` times; a line for the best round of each."""
    scripts = {one.name: one.script(folder, stream=stream) for one in contestants}
    for one in contestants:
        drive(one.url, connections, 1, scripts[one.name])  # warm
    loads: dict[str, list[Load]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            loads[one.name].append(drive(one.url, connections, seconds, scripts[one.name]))
    best = {name: max(each, key=lambda load: load.per_second) for name, each in loads.items()}
    for one in contestants:
        yield {
            "name": f"peers.{'streams' if stream else 'requests'}_per_second",
            "gateway": one.name,
            **({"version": one.version} if one.version else {}),
            "connections": connections,
            "value": round(best[one.name].per_second, 1),
            "ratio_to_ours": round(best[one.name].per_second / max(best["ziggie"].per_second, 0.1), 3),
            "median_ms": round(best[one.name].median_ms, 2),
            "refused": sum(load.refused for load in loads[one.name]),
            "load": round(os.getloadavg()[0], 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, MAX_SECONDS + 1), metavar="N")
    parser.add_argument("--rounds", type=int, default=2, choices=range(1, MAX_ROUNDS + 1), metavar="N")
    options = parser.parse_args()
    if missing := missing_programs("nginx", "wrk"):
        say({"name": "peers.requests_per_second", "skipped": f"needs {' and '.join(missing)}"})
        return
    with tempfile.TemporaryDirectory(prefix="ziggie-peers-") as folder:
        for line in measure(Stage.prepare(Path(folder)), options.seconds, options.rounds):
            say(line)


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
