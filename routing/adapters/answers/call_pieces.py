"""Putting the pieces of streamed tool calls together, whichever of index, id and name a server says with each."""

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from routing.adapters.answers.call_ids import CallIds, refuse_too_many
from routing.adapters.base import WireRequest
from routing.adapters.reading.wire import SIGNATURE_MARK, Json, get_dict, get_str, get_text, json_text, protocol_error
from routing.types import Delta

_LONGEST_LOOKED_AT = 20_000  # characters of arguments; no server is known that leaves ids out and writes more
_LONGEST_NAME = 1_000  # characters


@dataclass(slots=True)
class _Call:
    server_index: Any
    identity: str
    name: str
    arguments: list[str] = field(default_factory=list)
    size: int = 0  # characters of the arguments
    is_named_again: bool = False  # after its arguments
    signature: str = ""  # Google's

    def named(self, name: str) -> str:
        """Its name with one more piece, which may tell it anew from the beginning."""
        return name if name.startswith(self.name) else self.name + name

    def take(self, arguments: str) -> str:
        """One more piece; returns what is to be told of it. `null` for all of them says that there are none."""
        if not self.arguments and arguments.strip() == "null":
            return ""
        if arguments := self._unsaid(arguments):
            self.arguments.append(arguments)
            self.size += len(arguments)
        return arguments

    def _unsaid(self, arguments: str) -> str:
        """A piece without what was said before it: some servers end with all arguments once more, or with all of them
        where a part had come (vLLM's parsers of GLM's calls and xLAM's). Where a value may begin, such a piece is one.
        """
        if not self.size or len(arguments) < self.size or not arguments.rstrip().endswith("}"):
            return arguments
        said = "".join(self.arguments)
        if not arguments.startswith(said) or said.rstrip().endswith((":", "[", ",")) or not _is_object(arguments):
            return arguments
        return arguments[self.size :]

    def is_whole(self) -> bool:
        """True for arguments that nothing can be added to: what follows them with a name is another call."""
        if not self.arguments or self.size > _LONGEST_LOOKED_AT or not self.arguments[-1].rstrip().endswith("}"):
            return False
        return _is_object("".join(self.arguments))


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


class CallPieces:
    """The calls of one answer, told in the order in which they begin. Each is told from its first arguments on, since
    until then its name may grow: some servers write it piece by piece, or after the arguments, and some repeat it
    with every piece. Where their signatures may come later (`signed_late`), they are told at the end.

    `signatures` are those that came apart from the calls, by their ids; "" stands for the first call.
    """

    def __init__(self, sent: WireRequest, *, signed_late: bool = False) -> None:
        self.signatures: dict[str, str] = {}
        self._signed_late = signed_late
        self._sent = sent
        self._calls: list[_Call] = []
        self._told = 0  # so many of them, from the first on
        self._ids = CallIds(sent)
        self._ids_told: set[str] = set()

    def add_all(self, pieces: list[Json], out: list[Delta]) -> None:
        """The pieces of one delta. Where they say no more than arguments, their order tells whose these are.
        Raises ProviderError("protocol") for a piece that is none."""
        calls = self._calls[-len(pieces) :]
        in_order = 1 < len(pieces) == len(calls) and not any(map(_says_whose, pieces))
        # What nothing can be added to tells that all of them are of the latest call, whose pieces came together.
        if in_order and not any(map(_is_too_much, calls, pieces)):
            for number, piece in enumerate(pieces, len(self._calls) - len(pieces)):
                self.add(piece, out, number)
            return
        for piece in pieces:
            self.add(piece, out)

    def add(self, piece: Json, out: list[Delta], number: int | None = None) -> None:
        """One piece, of our call of this number if that is known. Raises ProviderError("protocol") for a piece that is
        none."""
        function = get_dict(piece, "function")
        identity, name, arguments = get_text(piece, "id"), get_str(function, "name"), arguments_text(function)
        if number is None:
            number = self._number_of(piece.get("index"), identity, name, arguments)
        if number is not None and not identity and self._is_another(self._calls[number], name, arguments):
            name = name or self._calls[number].name
            number = None
        if number is None:
            if not (identity or name or arguments):  # a place kept for a call that may not come
                return
            refuse_too_many(len(self._calls))
            number = len(self._calls)
            self._calls.append(_Call(piece.get("index"), identity, name))
        call = self._calls[number]
        call.signature = call.signature or google_signature(piece)
        arguments = call.take(arguments)
        if number < self._told:
            if arguments:
                out.append(Delta(tool_index=number, tool_arguments=arguments))
            return
        call.identity = call.identity or identity
        call.name = call.named(name)
        if len(call.name) > _LONGEST_NAME:
            raise protocol_error(f"the name of a tool call is longer than {_LONGEST_NAME} characters")
        if not self._signed_late and (number == self._told or number == len(self._calls) - 1):
            self._tell_all_known(out)
        if number >= self._told and (name or arguments):  # a sign of life all the same
            out.append(Delta(held=name + arguments))

    def __bool__(self) -> bool:
        """True if any has come."""
        return bool(self._calls)

    def end(self, out: list[Delta]) -> None:
        """Tells what is left of the calls; one without arguments has an empty object.
        Raises ProviderError("protocol") for a call without a name."""
        for number, call in enumerate(self._calls):
            if number < self._told and call.arguments:
                continue
            if not call.name:
                raise protocol_error("a tool call has no name")
            if not call.arguments:
                call.arguments.append("{}")
                if number < self._told:
                    out.append(Delta(tool_index=number, tool_arguments="{}"))
            if number >= self._told:
                self._tell_next(out)

    def _tell_all_known(self, out: list[Delta]) -> None:
        """Tells the calls whose names are known, up to the first that is not: nobody gets them out of order."""
        while self._told < len(self._calls):
            call = self._calls[self._told]
            is_last = self._told == len(self._calls) - 1
            if not call.name or (is_last and not call.arguments):
                return
            # once another call has begun, no name goes on behind whole arguments
            if not self._is_sure(call.name) and (is_last or not call.is_whole()):
                return
            self._tell_next(out)

    def _is_sure(self, name: str) -> bool:
        """False for a name that may be the beginning of a tool's: servers may go on with it behind arguments."""
        return self._first_tool(name) in (name, "")

    def _first_tool(self, beginning: str) -> str:
        """The first tool, in the order of the alphabet, whose name begins like this; "" if there is none."""
        place = bisect_left(self._tools, beginning)
        found = self._tools[place] if place < len(self._tools) else ""
        return found if found.startswith(beginning) else ""

    @cached_property
    def _tools(self) -> list[str]:
        tools = (self._sent.body or {}).get("tools") or ()
        return sorted(get_str(get_dict(tool, "function"), "name") for tool in tools)

    def _tell_next(self, out: list[Delta]) -> None:
        number, call = self._told, self._calls[self._told]
        self._told += 1
        # a client finds its calls by their ids: one that the server has given twice would lose one of them
        identity = call.identity if call.identity not in self._ids_told else ""
        identity = identity or self._ids.of(number)
        self._ids_told.add(identity)
        arguments = "".join(call.arguments)
        signature = call.signature or self.signatures.get(call.identity) or ("" if number else self.signatures.get(""))
        if signature:
            out.append(Delta(reasoning_signature=signature))
        out.append(Delta(tool_index=number, tool_id=identity, tool_name=call.name, tool_arguments=arguments))

    def _number_of(self, server_index: Any, identity: str, name: str, arguments: str) -> int | None:
        """Our number of the call that a piece belongs to; None for a new call. Servers that leave the
        index out, or number every call 0, tell their calls apart by id."""
        elsewhere = None  # the last call of this id, at another index
        for number in range(len(self._calls) - 1, -1, -1):
            call = self._calls[number]
            at_its_index = server_index is not None and server_index == call.server_index
            if identity and identity == call.identity:
                if at_its_index or server_index is None or call.server_index is None:
                    return number
                elsewhere = number if elsewhere is None else elsewhere
            # an id that changes from piece to piece of one call (seen in vLLM) comes without a name
            elif at_its_index and elsewhere is None and not (call.name and identity and name):
                return number
        if elsewhere is not None:
            return None if _begins_with_the_same_id(self._calls[elsewhere], name, arguments) else elsewhere
        if self._calls and server_index is None and not identity and name in ("", self._calls[-1].name):
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
            if name and not arguments and not self._is_sure(call.name) and self._first_tool(call.named(name)):
                call.is_named_again = True  # the rest of its name, or another's name, if arguments follow
                return False
            return bool(name or (call.is_named_again and arguments.strip())) and call.is_whole()
        if not name or name == call.name:
            return False
        return self._first_tool(call.name) == call.name and not self._first_tool(call.named(name))


def _says_whose(piece: Json) -> bool:
    """True for a piece of a call that says which one it belongs to."""
    told = piece.get("index") is not None or piece.get("id") not in (None, "")
    return told or bool(get_str(get_dict(piece, "function"), "name"))


def _is_too_much(call: _Call, piece: Json) -> bool:
    """True for more arguments than `call` has room for."""
    return bool(arguments_text(get_dict(piece, "function")).strip()) and call.is_whole()


def _begins_with_the_same_id(call: _Call, name: str, arguments: str) -> bool:
    """True if a piece at another index than `call`, whose id it has, begins a call of its own."""
    return bool(name) and (name != call.name or bool(arguments.strip())) and call.is_whole()


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
    """Arguments as JSON text; some servers send the object itself, or a piece of it that is JSON for itself."""
    arguments = function.get("arguments")
    if isinstance(arguments, dict | list | int | float):
        return json_text(arguments)
    return get_str(function, "arguments")
