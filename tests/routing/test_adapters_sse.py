"""Server-sent events whose lines come in odd orders, or without the blank line between them."""

import pytest

from routing.adapters.reading.sse import SSESplitter

ONE, TWO = b'{"a":1}', b'{"a":2}'
DATA, MORE, NAME, OTHER = b"data: " + ONE, b"data: " + TWO, b"event: error", b"event: ping"
ORDERS: dict[str, tuple[list[bytes], list[tuple[bytes, bytes]]]] = {
    "a name before its data": ([NAME, DATA, b""], [(b"error", ONE)]),
    "a name behind its data": ([DATA, NAME, b""], [(b"error", ONE)]),
    "a name behind its data, then a plain event": ([DATA, NAME, b"", MORE, b""], [(b"error", ONE), (b"", TWO)]),
    "a name behind the last data": ([DATA, NAME], [(b"error", ONE)]),
    "no blank line, names before": ([NAME, DATA, OTHER, MORE, b""], [(b"error", ONE), (b"ping", TWO)]),
    "no blank line, the second alone with a name": ([DATA, NAME, MORE, b""], [(b"", ONE), (b"error", TWO)]),
    "no blank line, the first alone with a name": ([NAME, DATA, MORE, b""], [(b"error", ONE), (b"", TWO)]),
    "no blank line, a name behind and one before": (
        [DATA, NAME, OTHER, MORE, b""],
        [(b"error", ONE), (b"ping", TWO)],
    ),
    "a name between two halves": ([b"data: {", NAME, b"data: }", b""], [(b"error", b"{\n}")]),
}


@pytest.mark.parametrize(("lines", "expected"), ORDERS.values(), ids=ORDERS)
def test_an_event_has_its_own_name_wherever_that_stands(
    lines: list[bytes], expected: list[tuple[bytes, bytes]]
) -> None:
    data = b"".join(line + b"\n" for line in lines)
    for size in (1, len(data)):
        splitter = SSESplitter()
        found = [event for at in range(0, len(data), size) for event in splitter.feed(data[at : at + size])]
        assert [*found, *splitter.flush()] == expected
