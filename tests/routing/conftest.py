from collections.abc import Iterator

import pytest

from routing import snapshot


@pytest.fixture(autouse=True)
def fresh_snapshot() -> Iterator[None]:
    """What one test configured is not what the next one sees."""
    snapshot.forget()
    yield
    snapshot.forget()
