"""Real local HTTP servers that speak the providers' wire formats: the far side of the socket in tests.

    with OllamaServer() as server:                          # in a thread of its own, on a free port
        server.default = Reply(text="hello", first_token=0.2)
        server.queue(Reply(status=429, headers={"retry-after": "7"}), Reply(fault="cut"))   # next two calls
        server.when(Reply(text='{"a": 1}'), model="llama3.2", contains="transcript", times=1)
        ... call server.url ...
        assert server.requests[-1].json["options"]["num_ctx"] == 8192

In a process of its own (`python -m tests.servers.ollama --port 0 --script FILE.json`) the script is JSON:
`{"default": {…reply…}, "queue": [{…}], "rules": [{"model": "m", "contains": "text", "times": 1, "reply": {…}}],
"models": ["llama3.2"]}`. It prints one JSON line `{"url": …}` when it listens. `PUT /__script__` replaces the
script while it runs, `GET /__requests__` lists what was received. What a Reply can do stands in `script.py`.
"""

from tests.servers.anthropic import AnthropicServer
from tests.servers.cohere import CohereServer
from tests.servers.gemini import GeminiServer
from tests.servers.ollama import OllamaServer
from tests.servers.openai import OpenAIServer
from tests.servers.script import Call, Received, Reply

__all__ = [
    "AnthropicServer",
    "Call",
    "CohereServer",
    "GeminiServer",
    "OllamaServer",
    "OpenAIServer",
    "Received",
    "Reply",
]
