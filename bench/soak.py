"""The gateway's resident memory over many requests, with everything on.

    python -m bench.soak [--requests N] [--connections N]

After a tenth of the requests memory should stay where it is. One JSON line each tenth, one for the whole.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench._stage import Stage, drive, missing_programs

TENTHS = 10
GROWTH_BAR = 1.05  # of what was resident after the first tenth
SLICE_SECONDS = 5


def measure(stage: Stage, requests: int, connections: int) -> Iterator[dict[str, Any]]:
    with stage.nginx(), stage.serving():
        served, resident = 0, []
        while served < requests:
            served += drive(stage.url, connections, SLICE_SECONDS, stage.script()).requests
            if served >= (len(resident) + 1) * requests / TENTHS:
                resident.append(round(stage.resident_megabytes(), 1))
                yield {"name": "soak.resident_megabytes", "requests": served, "value": resident[-1]}
    growth = resident[-1] / resident[0]
    yield {"name": "soak.growth", "requests": served, "value": round(growth, 3), "bar": GROWTH_BAR}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    if missing := missing_programs("nginx", "wrk"):
        sys.stdout.write(json.dumps({"name": "soak.growth", "skipped": f"needs {missing}"}) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as folder:
        for line in measure(Stage.prepare(Path(folder)), options.requests, options.connections):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
