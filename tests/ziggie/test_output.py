"""Commands whose output cannot be written say so in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_told_in_one_line(tmp_path: Path) -> None:
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "manage.py", "diffsettings", "--all"],
            cwd=settings.BASE_DIR,
            env=os.environ | {"ZIGGIE_HOME": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "The output could not be written: No space left on device\n")
