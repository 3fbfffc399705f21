"""How long a change made in the admin takes to be in force in every process.

    python -m bench.policy_change

Starts a system with two web processes, two workers and a gateway of two processes, keeps all of them at work, and
changes a rule, a price, a provider and a budget in the admin's forms. Prints one JSON line a kind of change: the
seconds after which the slowest process decided a call as before, for the last time.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.flows.changes import CHANGED_WITHIN_SECONDS, CHANGES, seconds_until_in_force
from tests.flows.replicas import replicas


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, replicas(Path(folder)) as here:
        for what in CHANGES:
            here.renew(latency=0.1, input_tokens=1000, output_tokens=1000)
            late = seconds_until_in_force(here, what)
            figure = {"figure": f"policy_change.{what}_seconds", "value": max(late.values())}
            sys.stdout.write(json.dumps({**figure, "bar": CHANGED_WITHIN_SECONDS, "processes": late}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
