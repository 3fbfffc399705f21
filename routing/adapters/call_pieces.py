"""Putting the pieces of streamed tool calls together, whichever of index, id and name a server says with each."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from routing.adapters.base import WireRequest
from routing.adapters.wire import SIGNATURE_MARK, Json, call_id, get_dict, get_str, protocol_error
from routing.types import Delta

_LONGEST_LOOKED_AT = 20_000  # characters of arguments; no server is known that leaves ids out and writes more
_LONGEST_NAME = 1_000  # characters
_MOST_CALLS = 1_000


@dataclass(slots=True)
class _Call:
    server_index: Any
    identity: str
    name: str
    told: bool = False
    arguments: list[str] = field(default_factory=list)
    size: int = 0  # characters of the arguments
    is_named_again: bool = False  # after its arguments
    signature: str = ""  # Google's

    def named(self, name: str) -> str:
        """Its name with one more piece, which may tell it anew from the beginning."""
        return name if name.startswith(self.name) else self.name + name

    def take(self, arguments: str) -> str:
        """One more piece; returns what is to be told of it. `null` for all of them says that there are none."""
        if not arguments or (not self.arguments and arguments.strip() == "null"):
            return ""
        self.arguments.append(arguments)
        self.size += len(arguments)
        return arguments

    def is_whole(self) -> bool:
        """True for arguments that nothing can be added to: what follows them with a name is another call."""
        if not self.arguments or self.size > _LONGEST_LOOKED_AT or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(orjson.loads("".join(self.arguments)), dict)
        except orjson.JSONDecodeError:
            return False


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
        if number is not None and not identity and self._is_another(self._calls[number], name, arguments):
            name = name or self._calls[number].name
            number = None
        if number is None:
            if not (identity or name or arguments):  # a place kept for a call that may not come
                return
            number = self._begin(_Call(piece.get("index"), identity, name), out)
        call = self._calls[number]
        call.signature = call.signature or google_signature(piece)
        arguments = call.take(arguments)
        if call.told:
            if arguments:
                out.append(Delta(tool_index=number, tool_arguments=arguments))
            return
        call.identity = call.identity or identity
        call.name = call.named(name)
        if len(call.name) > _LONGEST_NAME:
            raise protocol_error(f"the name of a tool call is longer than {_LONGEST_NAME} characters")
        if call.name and call.arguments and self._is_sure(call.name):
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
            if not call.arguments:
                call.arguments.append("{}")
            if call.told:
                out.append(Delta(tool_index=number, tool_arguments="{}"))
            else:
                self._tell(number, out)
        return bool(self._calls)

    def _begin(self, another: _Call, out: list[Delta]) -> int:
        """The number of another call. Those before it have their names now, and are told."""
        if len(self._calls) >= _MOST_CALLS:
            raise protocol_error(f"the answer calls more than {_MOST_CALLS} tools")
        for number, call in enumerate(self._calls):
            if call.name and not call.told and self._is_sure(call.name):
                self._tell(number, out)
        self._calls.append(another)
        return len(self._calls) - 1

    def _is_sure(self, name: str) -> bool:
        """False for a name that may be the beginning of a tool's: servers may go on with it behind arguments."""
        tools = self._tools()
        return name in tools or not any(tool.startswith(name) for tool in tools)

    def _tools(self) -> list[str]:
        tools = (self._sent.body or {}).get("tools") or ()
        return [get_str(get_dict(tool, "function"), "name") for tool in tools]

    def _tell(self, number: int, out: list[Delta]) -> None:
        call = self._calls[number]
        call.told = True
        identity = call.identity = call.identity or call_id(self._sent, number)
        arguments = "".join(call.arguments)
        if call.signature:
            out.append(Delta(reasoning_signature=call.signature))
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
                return number
        if self._calls and server_index is None and not identity and not name:
            return len(self._calls) - 1
        return None

    def _is_another(self, call: _Call, name: str, arguments: str) -> bool:
        """True if a piece without an id, which came in the place of `call`, begins a call of its own."""
        if not call.name:
            return False
        if call.arguments:
            if name == call.name and not arguments and call.is_whole():  # told anew, or for arguments that follow
                call.is_named_again = True
                return False
            return bool(name or (call.is_named_again and arguments.strip())) and call.is_whole()
        if not name or name == call.name:
            return False
        tools = self._tools()
        return call.name in tools and not any(tool.startswith(call.named(name)) for tool in tools)


def google_signature(holder: Json) -> str:
    """The signature that a call from Google's imitation of OpenAI's API bears, marked as it travels here; else ""."""
    value: Any = holder
    for key in ("extra_content", "google", "thought_signature"):
        value = value.get(key) if isinstance(value, dict) else None
    return SIGNATURE_MARK + value if value and isinstance(value, str) else ""


def whole_arguments(function: Json) -> str:
    """The arguments of a call that came in one piece; none are an empty object."""
    text = arguments_text(function)
    return text if text.strip() not in ("", "null") else "{}"


def arguments_text(function: Json) -> str:
    """Arguments as JSON text; some servers send the object itself."""
    arguments = function.get("arguments")
    if isinstance(arguments, (dict, list)):
        return orjson.dumps(arguments).decode()
    return get_str(function, "arguments")
