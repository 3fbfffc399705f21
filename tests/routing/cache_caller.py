"""One process of the cache tests: makes one call each time it is told to.

    python -m tests.routing.cache_caller DATABASE LEASE_SECONDS BEAT_SECONDS [DEADLINE_SECONDS]

Prints "ready"; for each line on stdin, which is the prompt, prints one JSON line {text, cache, seconds} or {error}.
May be killed at any moment.
"""

import asyncio
import json
import sys
import time

from tests.child import begin


async def call(prompt: str, deadline_seconds: float | None) -> dict[str, object]:
    from routing import service
    from routing.types import ChatRequest, Hints, message
    from ziggie.errors import ZiggieError

    started = time.monotonic()
    request = ChatRequest(
        messages=(message("user", prompt),),
        hints=Hints(task_kind="nl_query"),
        max_output_tokens=200,
        temperature=0,
        deadline_seconds=deadline_seconds,
    )
    try:
        routed = await service.complete(request)
    except ZiggieError as error:
        return {"error": error.code, "seconds": time.monotonic() - started}
    return {"text": routed.result.text, "cache": routed.cache, "seconds": time.monotonic() - started}


if __name__ == "__main__":
    begin(sys.argv[1])
    from routing.caching import cache

    cache.LEASE_SECONDS, cache.BEAT_SECONDS = float(sys.argv[2]), float(sys.argv[3])
    deadline = float(sys.argv[4]) if len(sys.argv) > 4 else None
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asyncio.run(call(line.strip(), deadline))), flush=True)
