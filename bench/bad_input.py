"""How long a running gateway takes to refuse what no honest client sends.

    python -m bench.bad_input --url http://127.0.0.1:8400 --key zg_… [--rounds N]

Sends each bad request of the tests' table several times to both APIs and prints one JSON line each: the best time from
the last byte sent to the last byte of the answer, and the slowest of all at the end. The bound is 50 ms; what is refused
only after 20 MB were taken in is measured from the end of the sending, too.
"""

import argparse
import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

from tests.gateway.bad_requests import BODIES, CHAT, HEADS, MESSAGES, BadRequest

BOUND_MS = 50.0


def refusal_ms(address: tuple[str, int], sent: bytes) -> tuple[float, int]:
    """Milliseconds until the answer was complete, and its status; 0 where the server hung up."""
    received = b""
    with socket.create_connection(address, timeout=30) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        began = time.perf_counter()
        with contextlib.suppress(ConnectionError):
            while chunk := client.recv(65536):
                received += chunk
                if _is_whole(received):
                    break
        took = (time.perf_counter() - began) * 1000
    return took, int(received.split(b" ")[1]) if received else 0


def _is_whole(received: bytes) -> bool:
    head, found, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(found) and length.isdigit() and len(body) >= int(length)


def measure(bad: BadRequest, address: tuple[str, int], key: str, rounds: int) -> dict[str, object]:
    results = [refusal_ms(address, bad.encoded(path, key)) for _ in range(rounds) for path in (CHAT, MESSAGES)]
    return {
        "bad_input": bad.name,
        "status": results[0][1],
        "best_ms": round(min(took for took, _ in results), 2),
        "worst_ms": round(max(took for took, _ in results), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8400")
    parser.add_argument("--key", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    where = urlsplit(options.url)
    address = (where.hostname or "127.0.0.1", where.port or 80)
    slowest = 0.0
    for bad in (*BODIES, *HEADS):
        found = measure(bad, address, options.key, options.rounds)
        slowest = max(slowest, float(str(found["best_ms"])))
        print(json.dumps(found), flush=True)
    print(json.dumps({"bad_input": "slowest best", "ms": slowest, "bound_ms": BOUND_MS, "holds": slowest <= BOUND_MS}))


if __name__ == "__main__":
    main()
