"""The gateway's resident memory over many requests, with everything on.

    python -m bench.soak [--requests N] [--connections N] [--streams]

The first tenth of the requests warms the process up; of what is resident then, memory may grow by GROWTH_BAR until
the end. One JSON line each tenth, and one for the whole: its value is the most that was resident at any of the later
points over what was resident after the first. With --streams every answer is a stream of 20 pieces.
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

TENTHS = 10
GROWTH_BAR = 1.05
SLICE_SECONDS = 5


def measure(stage: Stage, requests: int, connections: int, *, streams: bool) -> Iterator[dict[str, Any]]:
    resident: list[float] = []
    served = warm_up = refused = 0
    with stage.streaming_upstream() if streams else stage.nginx(), stage.serving():
        while served < requests:
            slice_ = drive(stage.url, connections, SLICE_SECONDS, stage.script(stream=streams))
            served, refused = served + slice_.requests, refused + slice_.refused
            if served >= (len(resident) + 1) * requests / TENTHS:
                resident.append(round(stage.resident_megabytes(), 1))
                warm_up = warm_up or served
                yield {"name": "soak.resident_megabytes", "requests": served, "value": resident[-1]}
    yield {
        "name": "soak.growth",
        "value": round(max(resident) / resident[0], 3),
        "bar": GROWTH_BAR,
        "requests": served,
        "warm_up_requests": warm_up,
        "resident_megabytes": resident,
        "refused": refused,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--streams", action="store_true", help="streamed answers instead of whole ones")
    options = parser.parse_args()
    if missing := missing_programs("wrk", *(() if options.streams else ("nginx",))):
        sys.stdout.write(json.dumps({"name": "soak.growth", "skipped": f"needs {missing}"}) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as folder:
        stage = Stage.prepare(Path(folder))
        for line in measure(stage, options.requests, options.connections, streams=options.streams):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
