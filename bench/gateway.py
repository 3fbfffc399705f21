"""Requests a second through `manage.py gateway --workers 1` with everything on, beside the bare upstream.

    python -m bench.gateway [--seconds N] [--rounds N]

nginx is the upstream; wrk drives it and the gateway in turn. Each request is authenticated, rate limited, routed by
a rule, held against a hard budget, settled and recorded. Prints one JSON line a number of connections (the best of
all rounds), with the CPU that the gateway and PostgreSQL took for a request: on a busy machine that says more than
the rate. Where nginx or wrk is absent it says so and measures nothing.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench._stage import Stage, drive, missing_programs

CONNECTIONS = (1, 16, 64)
BARS = {1: 1_000, 16: 4_000, 64: 4_500}
COLD_START_BAR_SECONDS = 3.0
ADDED_BAR_MS = 1.0


def measure(stage: Stage, seconds: int, rounds: int) -> Iterator[dict[str, Any]]:
    with stage.nginx(), stage.serving():
        yield {
            "name": "gateway.cold_start_seconds",
            "value": round(stage.cold_start_seconds, 2),
            "bar": COLD_START_BAR_SECONDS,
        }
        drive(stage.url, 16, 3, stage.script())  # warm
        for connections in CONNECTIONS:
            lines = [one_round(stage, connections, seconds) for _ in range(rounds)]
            yield max(lines, key=lambda line: float(line["value"]))
    checked = json.loads(stage.manage("usage", "--json", "check"))
    yield {"name": "gateway.books_agree", "value": checked["ok"]}


def one_round(stage: Stage, connections: int, seconds: int) -> dict[str, Any]:
    direct = drive(stage.upstream_url, connections, max(seconds // 3, 1), stage.script())
    before = stage.cost()
    through = drive(stage.url, connections, seconds, stage.script())
    cost = stage.cost().per_request(before, through.requests)
    line: dict[str, Any] = {
        "name": "gateway.requests_per_second",
        "connections": connections,
        "value": round(through.per_second),
        "bar": BARS[connections],
        "direct": round(direct.per_second),
        "ratio_to_direct": round(through.per_second / direct.per_second, 3),
        **cost,
        "refused": through.refused,
        "load": round(os.getloadavg()[0], 1),
    }
    if connections == 1:
        added = through.median_ms - direct.median_ms
        line |= {"added_ms_p50": round(added, 3), "added_ms_bar": ADDED_BAR_MS}
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if missing := missing_programs("nginx", "wrk"):
        sys.stdout.write(json.dumps({"name": "gateway.requests_per_second", "skipped": f"needs {missing}"}) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as folder:
        for line in measure(Stage.prepare(Path(folder)), options.seconds, options.rounds):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
