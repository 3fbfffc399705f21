"""The providers we speak with: one row a kind. `transport.py` moves the bytes."""

from routing.adapters.anthropic import AnthropicCodec
from routing.adapters.base import Codec
from routing.adapters.ollama import OllamaCodec
from routing.adapters.openai import OpenAICodec

CODECS: dict[str, type[Codec]] = {
    "ollama": OllamaCodec,
    "anthropic": AnthropicCodec,
    "openai": OpenAICodec,
}
