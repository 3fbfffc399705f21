"""The settings under test: Ziggie's own, with a home apart from the one that holds real data."""

import os
from pathlib import Path

_checkout = Path(__file__).resolve().parent.parent
# Set once by the first process; workers and children of the test run inherit it.
os.environ.setdefault("ZIGGIE_TEST_HOME", str(Path(os.environ.get("ZIGGIE_HOME") or _checkout / ".ziggie") / "tests"))
os.environ["ZIGGIE_HOME"] = os.environ["ZIGGIE_TEST_HOME"]

from ziggie.settings import *  # noqa: E402, F403
