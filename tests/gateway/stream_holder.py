"""One process that holds a stream of a key until it is killed; prints "held" then.

python -m tests.gateway.stream_holder DATABASE KEY_ID LIMIT
"""

import asyncio
import sys

from tests.child import begin


async def main(key_id: str, limit: int) -> None:
    from routing.gateway.access.keys import Key
    from routing.gateway.access.streams import streams

    async with streams().one_of(Key(key_id, "holder", frozenset(), frozenset(), None, None, limit, None)):
        print("held", flush=True)
        await asyncio.sleep(600)


if __name__ == "__main__":
    begin(sys.argv[1])
    asyncio.run(main(sys.argv[2], int(sys.argv[3])))
