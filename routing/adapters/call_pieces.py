"""Putting the pieces of streamed tool calls together, whichever of index, id and name a server says with each."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from routing.adapters.base import WireRequest
from routing.adapters.wire import Json, call_id, get_dict, get_str, protocol_error
from routing.types import Delta

_LONGEST_LOOKED_AT = 20_000  # characters of arguments; no server is known that leaves ids out and writes more


@dataclass(slots=True)
class _Call:
    server_index: Any
    identity: str
    name: str
    told: bool = False
    arguments: list[str] = field(default_factory=list)


class CallPieces:
    """The calls of one answer. Each is told from its first arguments on, since until then its name may grow: some
    servers write it piece by piece, or after the arguments, and some repeat it with every piece."""

    def __init__(self, sent: WireRequest) -> None:
        self._sent = sent
        self._calls: list[_Call] = []

    def add(self, piece: Json, out: list[Delta]) -> None:
        """Raises ProviderError("protocol") for a piece that is none."""
        function = get_dict(piece, "function")
        identity, name, arguments = get_str(piece, "id"), get_str(function, "name"), arguments_text(function)
        number = self._number_of(piece.get("index"), identity, name)
        if number is None:
            if not (identity or name or arguments):  # a place kept for a call that may not come
                return
            self._tell_named(out)
            number = len(self._calls)
            self._calls.append(_Call(piece.get("index"), identity, name))
        call = self._calls[number]
        if arguments:
            call.arguments.append(arguments)
        if call.told:
            if arguments:
                out.append(Delta(tool_index=number, tool_arguments=arguments))
            return
        call.identity = call.identity or identity
        call.name = name if name.startswith(call.name) else call.name + name
        if call.name and call.arguments:
            self._tell(number, out)
        elif name or arguments:  # a sign of life all the same
            out.append(Delta(held=name + arguments))

    def end(self, out: list[Delta]) -> bool:
        """Tells what is left of the calls; one without arguments has an empty object. True if there are any.
        Raises ProviderError("protocol") for a call without a name."""
        for number, call in enumerate(self._calls):
            if call.told and call.arguments:
                continue
            if not call.name:
                raise protocol_error("a tool call has no name")
            call.arguments.append("{}")
            if call.told:
                out.append(Delta(tool_index=number, tool_arguments="{}"))
            else:
                self._tell(number, out)
        return bool(self._calls)

    def _tell_named(self, out: list[Delta]) -> None:
        """Another call begins: those before it have their names."""
        for number, call in enumerate(self._calls):
            if call.name and not call.told:
                self._tell(number, out)

    def _tell(self, number: int, out: list[Delta]) -> None:
        call = self._calls[number]
        call.told = True
        identity = call.identity = call.identity or call_id(self._sent, number)
        arguments = "".join(call.arguments)
        out.append(Delta(tool_index=number, tool_id=identity, tool_name=call.name, tool_arguments=arguments))

    def _number_of(self, server_index: Any, identity: str, name: str) -> int | None:
        """Our number of the call that a piece belongs to; None for a new call. Servers that leave the
        index out, or number every call 0, tell their calls apart by id."""
        for number in range(len(self._calls) - 1, -1, -1):
            call = self._calls[number]
            if identity and identity == call.identity:
                return number
            # an id that changes from piece to piece of one call (seen in vLLM) comes without a name
            if server_index is not None and server_index == call.server_index and not (call.name and identity and name):
                return None if name and call.name and not identity and _is_whole(call.arguments) else number
        if self._calls and server_index is None and not identity and not name:
            return len(self._calls) - 1
        return None


def arguments_text(function: Json) -> str:
    """Arguments as JSON text; some servers send the object itself."""
    arguments = function.get("arguments")
    if isinstance(arguments, (dict, list)):
        return orjson.dumps(arguments).decode()
    return get_str(function, "arguments")


def _is_whole(pieces: list[str]) -> bool:
    """True for arguments that nothing can be added to: what follows them with a name is another call."""
    if not pieces or not pieces[-1].rstrip().endswith("}") or sum(map(len, pieces)) > _LONGEST_LOOKED_AT:
        return False
    try:
        return isinstance(orjson.loads("".join(pieces)), dict)
    except orjson.JSONDecodeError:
        return False
