"""What an ensemble of three costs in time, beside its slowest member: at most a tenth more.

    python -m bench.ensemble [--rounds N]

Starts a system whose local models are a server that takes 0.5 s, 0.75 s and 1 s for its members' answers, and calls
the seeded ensemble through the gateway. Prints one JSON line: the client's time over the slowest member's own.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.flows.system import System, running
from tests.servers import OllamaServer, Reply

BAR = 1.1
MEMBERS = {"llama3.2": 0.5, "qwen2.5:7b": 0.75, "mistral": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with OllamaServer() as ollama, tempfile.TemporaryDirectory() as folder:
        for model, seconds in MEMBERS.items():
            ollama.when(Reply(text="Forty-two.", first_token=seconds), model=model)
        with running(Path(folder) / "home", OLLAMA_BASE_URL=ollama.url) as system:
            key = system.api_key()
            _ask(system, key, 0)  # what the first call loads is no part of the figure
            ratios = [_ask(system, key, number) for number in range(1, rounds + 1)]
    figure = {"figure": "ensemble.time_over_slowest_member", "value": round(statistics.median(ratios), 3), "bar": BAR}
    sys.stdout.write(json.dumps({**figure, "rounds": [round(ratio, 3) for ratio in ratios]}) + "\n")


def _ask(system: System, key: str, number: int) -> float:
    body = {
        "model": "auto",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"Question {number}"}],
        "metadata": {"task_kind": "ensemble"},
    }
    with system.client(key) as client:
        client.get("/healthz").raise_for_status()  # connected
        began = time.perf_counter()
        answer = client.post("/v1/chat/completions", json=body)
        seconds = time.perf_counter() - began
    answer.raise_for_status()
    attempts = int(answer.headers["x-ziggie-attempts"])
    if attempts != len(MEMBERS):
        raise SystemExit(f"{attempts} members were asked, not {len(MEMBERS)}: {answer.text[:300]}")
    return seconds / max(MEMBERS.values())


if __name__ == "__main__":
    main()
