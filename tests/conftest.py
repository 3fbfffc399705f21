"""What every test may use. The database starts with the first test that needs one and ends with the run."""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from asgiref.sync import SyncToAsync
from channels.layers import channel_layers
from django.conf import settings
from django.db import connections

from tests.patience import every_limit
from ziggie import embedded

if TYPE_CHECKING:
    from tests.installation import Installation
    from ziggie.pglayer import PostgresChannelLayer

pytest_plugins = ["tests.servers.fixtures"]
# The same examples in every run, however slow: a chance find is for those who look for it with a profile of their own.
hypothesis.settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: two workers a core, because tests that drive processes mostly wait for them."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: the garbage collector need not walk over it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that drive processes go first: one of their files at the end would keep the whole run waiting."""
    items.sort(key=lambda item: not (item.get_closest_marker("flow") or item.get_closest_marker("e2e")))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test without broken connections.

    Some tests have the server end every connection, and that of the thread in which asgiref runs the synchronous
    parts of asynchronous tests outlives its test.
    """
    _close_broken_connections()
    SyncToAsync.single_thread_executor.submit(_close_broken_connections).result(60)


def _close_broken_connections() -> None:
    for own in connections.all(initialized_only=True):
        if own.connection is not None and not own.is_usable():
            own.close()


@pytest.fixture(autouse=True)
def unlearnt() -> None:
    """No test knows what another's servers refused: they have the same names."""
    from routing.adapters.sending import wording

    wording.forget()


@pytest.fixture
def here(transactional_db: None) -> Iterator["Installation"]:
    """The seeded installation, with servers in the places of Ollama and Anthropic."""
    from tests.installation import installed

    with installed() as installation:
        yield installation


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A machine that stands still for some seconds breaks no test.

    What gives up after a few seconds, so that others are served, gives up after a minute here. Where giving up is
    what a test is about, it says itself after how long.
    """
    with pytest.MonkeyPatch.context() as patched:
        for where, which, seconds in every_limit():
            patched.setattr(where, which, seconds)
        yield


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    """What one test configured or learned is not what the next one sees."""
    from routing.configuration import snapshot
    from routing.walk import calibration
    from routing.world import circuits
    from ziggie.guesses import gate

    def forget() -> None:
        gate.forget()  # all tests call from one address
        snapshot.forget()
        calibration.forget()
        circuits.remember(circuits.Known())

    forget()
    yield
    forget()


@pytest.fixture
def own_layer(django_db_setup: None, monkeypatch: pytest.MonkeyPatch) -> Iterator["PostgresChannelLayer"]:
    """The channel layer of one test, whose loops flush it. What the test puts in its place goes with it."""
    from ziggie import live
    from ziggie.pglayer import PostgresChannelLayer

    monkeypatch.setattr(live, "_health", live._Health())  # a rest after another test's failure is not ours
    made = PostgresChannelLayer()
    channel_layers.set("default", made)
    yield made
    channel_layers.backends.pop("default", None)  # the next one to ask gets one of its own


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings, collections and models that are too large or not ours to ship."""
    folder = Path(os.environ.get("ZIGGIE_SHARED") or settings.BASE_DIR.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data; {folder} is absent (set ZIGGIE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def database_server() -> Iterator[None]:
    """A running PostgreSQL: that of DATABASE_URL, else one for all workers of this run, without fsync."""
    if settings.DATABASE_URL:
        yield
        return
    embedded.ensure_running(settings.ZIGGIE_HOME, durable=False)
    yield
    embedded.stop(settings.ZIGGIE_HOME)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    database_server: None,
    django_db_modify_db_settings_parallel_suffix: None,
) -> None:
    """pytest-django asks for this before it makes the test database."""
