from collections.abc import Iterator

import pytest
from channels.layers import channel_layers

from ziggie import live
from ziggie.pglayer import PostgresChannelLayer


@pytest.fixture
def own_layer(django_db_setup: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresChannelLayer]:
    """The channel layer of one test, whose loops flush it. What the test puts in its place goes with it."""
    monkeypatch.setattr(live, "_health", live._Health())  # a rest after another test's failure is not ours
    made = PostgresChannelLayer()
    channel_layers.set("default", made)
    yield made
    channel_layers.backends.pop("default", None)  # the next one to ask gets one of its own
