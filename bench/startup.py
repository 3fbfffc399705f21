"""How long a newcomer waits, and what Ziggie takes of the machine while it does nothing.

    python -m bench.startup

Runs `manage.py up` in an empty home, twice, as real processes. One JSON line for each figure. Memory is given as
PSS (each page counted once, shared pages by their share) with the plain sum of RSS beside it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.flows.system import System, until

IDLE_SECONDS = 20.0


def figure(name: str, value: float, bar: float, **more: float) -> None:
    line = {"figure": name, "value": round(value, 2), "bar": bar, "ratio": round(value / bar, 3), **more}
    sys.stdout.write(json.dumps(line) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        system = System(Path(folder) / "home")
        began = time.monotonic()
        system.start()
        answered = time.monotonic()
        figure("startup.first_seconds", answered - began, 120)
        try:
            done = (
                "SELECT 1 FROM knowledge_video WHERE external_id = 'sample' AND state IN ('analysed', 'needs_review')"
            )
            until(lambda: system.rows(done), 60, system.output)
            figure("startup.sample_analysed_seconds", time.monotonic() - answered, 15)
            time.sleep(IDLE_SECONDS)
            pss, rss, count = memory(system)
            figure("startup.idle_megabytes", pss, 700, rss_megabytes=round(rss, 1), processes=count)
        finally:
            system.stop()
        began = time.monotonic()
        system.start()
        figure("startup.second_seconds", time.monotonic() - began, 10)
        system.stop()


def memory(system: System) -> tuple[float, float, int]:
    """PSS and RSS of all processes together in megabytes, and how many there are."""
    pss = rss = 0
    processes = system.processes()
    for process in processes:
        try:
            taken = process.memory_full_info()
        except psutil.Error:
            continue
        pss += taken.pss
        rss += taken.rss
    return pss / 1e6, rss / 1e6, len(processes)


if __name__ == "__main__":
    main()
