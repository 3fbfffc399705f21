"""How long `manage.py gateway` takes to refuse what no honest client sends.

    python -m bench.bad_input [--rounds N]

Sends each bad request of the tests' table several times to both APIs and prints one JSON line each: the best time from
the last byte sent to the last byte of the answer, and the slowest of all at the end. The bound is 50 ms; what is
refused only after 20 MB were taken in is measured from the end of the sending, too.
"""

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench._stage import Stage
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
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as folder, Stage.prepare(Path(folder)).serving() as stage:
        address, slowest = ("127.0.0.1", urlsplit(stage.url).port or 0), 0.0
        for bad in (*BODIES, *HEADS):
            found = measure(bad, address, stage.key, options.rounds)
            slowest = max(slowest, float(str(found["best_ms"])))
            tell(found)
        tell(
            {
                "name": "gateway.bad_input",
                "slowest_best_ms": slowest,
                "bound_ms": BOUND_MS,
                "holds": slowest <= BOUND_MS,
            }
        )


def tell(found: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
