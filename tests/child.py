"""What a process that a test starts does first."""

import gc
import os

import django


def begin(database: str) -> None:
    """Loads Django for the test database of this name, and waits as patiently as the tests do."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    gc.disable()  # as in manage.py
    django.setup()
    from django.db import connections

    from tests.patience import every_limit

    connections["default"].settings_dict["NAME"] = database
    for where, which, seconds in every_limit():
        setattr(where, which, seconds)
    gc.freeze()
    gc.enable()
