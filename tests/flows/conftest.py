"""A system for flow tests that do it no harm."""

from collections.abc import Iterator

import pytest

from tests.flows.system import System, running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("system") / "home") as system:
        yield system
