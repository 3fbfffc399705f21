"""How long things are waited for while tests run, here and in the processes that tests start."""

from typing import Any

LONG_SECONDS = 60.0


def every_limit() -> list[tuple[Any, str, float]]:
    """(where, which, how long): what gives up after a few seconds, so that others are served."""
    from httpx2._config import DEFAULT_TIMEOUT_CONFIG

    from routing import database
    from routing.adapters import transport
    from routing.gateway.access import limits
    from routing.gateway.providers import pool
    from routing.money import ledger
    from routing.world import health
    from ziggie import live, pgrelay

    return [
        (database, "CONNECT_TIMEOUT_SECONDS", int(LONG_SECONDS)),
        (database, "CHECKOUT_TIMEOUT_SECONDS", LONG_SECONDS),
        (database, "SILENT_SECONDS", LONG_SECONDS),
        (database, "TRIAL_SECONDS", LONG_SECONDS),
        (ledger, "RESERVE_PATIENCE_SECONDS", LONG_SECONDS),
        (health, "LOCAL_CHECK_SECONDS", LONG_SECONDS),
        (health, "CLOUD_CHECK_SECONDS", LONG_SECONDS),
        (transport, "CONNECT_SECONDS", LONG_SECONDS),
        (transport, "STATUS_SECONDS", LONG_SECONDS),
        (pool, "CONNECT_SECONDS", LONG_SECONDS),
        (limits, "PATIENCE_SECONDS", LONG_SECONDS),
        (live, "PUBLISH_SECONDS", LONG_SECONDS),
        (live, "SEND_SECONDS", LONG_SECONDS),
        (live, "PROBE_SECONDS", LONG_SECONDS),
        (pgrelay, "_OPERATION_SECONDS", LONG_SECONDS),
        # of the tests' own calls
        *((DEFAULT_TIMEOUT_CONFIG, name, LONG_SECONDS) for name in ("connect", "read", "write", "pool")),
    ]
