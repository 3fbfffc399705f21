"""The providers we speak with: one row a kind. `transport.py` moves the bytes.

A provider of kind "offline" answers in this process and needs no codec.
"""

from routing.adapters.anthropic.codec import AnthropicCodec
from routing.adapters.base import Codec
from routing.adapters.cohere.codec import CohereCodec
from routing.adapters.gemini.codec import GeminiCodec
from routing.adapters.ollama.codec import OllamaCodec
from routing.adapters.openai.codec import OpenAICodec

CODECS: dict[str, type[Codec]] = {
    "ollama": OllamaCodec,
    "anthropic": AnthropicCodec,
    "openai": OpenAICodec,
    "gemini": GeminiCodec,
    "cohere": CohereCodec,
}
