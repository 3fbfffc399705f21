"""The servers as pytest fixtures: `pytest_plugins = ["tests.servers.fixtures"]` in conftest.py."""

from collections.abc import Iterator

import pytest

from tests.servers import OllamaServer, OpenAIServer


@pytest.fixture
def ollama_server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def openai_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def moonshot_server() -> Iterator[OpenAIServer]:
    with OpenAIServer(dialect="moonshot") as server:
        yield server
