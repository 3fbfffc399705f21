"""The settings under test: Ziggie's own, with a home apart from the one that holds real data."""

import os
import sys
from pathlib import Path

_checkout = Path(__file__).resolve().parent.parent
# Set once by the first process; workers and children of the test run inherit it.
os.environ.setdefault("ZIGGIE_TEST_HOME", str(Path(os.environ.get("ZIGGIE_HOME") or _checkout / ".ziggie") / "tests"))
os.environ["ZIGGIE_HOME"] = os.environ["ZIGGIE_TEST_HOME"]
# The run starts many Pythons. Where they may not keep their bytecode beside the sources (containers often say so),
# each would compile everything again, which is half of a start.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(os.environ["ZIGGIE_TEST_HOME"]) / "bytecode"))
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]
    sys.dont_write_bytecode = False

from ziggie.settings import *  # noqa: E402, F403

INSTALLED_APPS = ["tests", *INSTALLED_APPS]  # noqa: F405 - for its command `flush`
# One of Django's own takes a third of a second for each login, on purpose. The flow tests log in with the real one.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
