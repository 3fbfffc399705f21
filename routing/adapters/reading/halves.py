"""Characters that a server has cut in two: an emoji is two code units in JavaScript, Java and .NET, and a stream that
is cut between them says each half as an escape of its own."""

from typing import Any

from routing.types import Delta
from ziggie.values import replace

LOST = "\ufffd"  # what stands for half a character
# the names under which the pieces of an answer come; nothing else goes on in the next piece
_PIECES = frozenset(
    {"content", "text", "refusal", "reasoning", "reasoning_content", "thinking", "response", "arguments"}
    | {"partial_json"}
)
_WHOLE = frozenset({"args", "arguments", "input"})  # an object under these is a call's arguments, all of them

Place = str | int  # "text", "reasoning", or a call's number


def encodable(text: str) -> str:
    """The text with both halves of each character put together, and LOST for one without the other."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encodable_all(value: Any) -> Any:
    """The same of every text in a piece of JSON."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [encodable_all(item) for item in value]
    if isinstance(value, dict):
        return {encodable_all(key): encodable_all(item) for key, item in value.items()}
    return value


class Halves:
    """Puts them together over the pieces of one stream. Until there is one (`seen`) nothing needs to be looked at."""

    def __init__(self) -> None:
        self.seen = False
        self._held: dict[Place, str] = {}  # the first halves that wait for what follows

    def kept(self, value: Any, name: str = "") -> Any:
        """A piece of JSON in which only those halves are left that another piece may complete."""
        if isinstance(value, str):
            return self._ends_kept(value) if name in _PIECES else encodable(value)
        if isinstance(value, list):
            return [self.kept(item, name) for item in value]
        if isinstance(value, dict):
            return {encodable(key): self._kept_under(key, item) for key, item in value.items()}
        return value

    def _kept_under(self, key: str, value: Any) -> Any:
        if key in _WHOLE and isinstance(value, dict):
            return encodable_all(value)
        return self.kept(value, key)

    def joined(self, deltas: list[Delta]) -> list[Delta]:
        """The deltas of such pieces, made whole. What waits in vain is told before the answer's end."""
        told: list[Delta] = []
        for delta in deltas:
            if delta.stop_reason is not None:
                told += [_lost(place) for place in self._held]
                self._held.clear()
            told.append(self._joined(delta))
        return told

    def _ends_kept(self, text: str) -> str:
        first = text[0] if text and "\udc00" <= text[0] <= "\udfff" else ""
        last = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        self.seen = self.seen or bool(first or last)
        return first + encodable(text[len(first) : len(text) - len(last)]) + last

    def _joined(self, delta: Delta) -> Delta:
        text, reasoning = self._whole("text", delta.text), self._whole("reasoning", delta.reasoning)
        arguments = delta.tool_arguments
        if delta.tool_index is not None:
            arguments = self._whole(delta.tool_index, arguments)
        if (text, reasoning, arguments) == (delta.text, delta.reasoning, delta.tool_arguments):
            return delta
        held = encodable(delta.held) or LOST  # a sign of life
        return replace(delta, text=text, reasoning=reasoning, tool_arguments=arguments, held=held)

    def _whole(self, place: Place, piece: str) -> str:
        if not piece:
            return piece
        piece = self._held.pop(place, "") + piece
        if "\ud800" <= piece[-1] <= "\udbff":
            self._held[place] = piece[-1]
            piece = piece[:-1]
        return piece if piece.isascii() else encodable(piece)


def _lost(place: Place) -> Delta:
    if isinstance(place, int):
        return Delta(tool_index=place, tool_arguments=LOST)
    return Delta(LOST) if place == "text" else Delta(reasoning=LOST)
