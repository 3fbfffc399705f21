"""How many clients a process lets in, in all and from one address: nobody alone may hold every file that it can open.

A connection on which nothing is asked only keeps a place: it makes room for one that comes. Where all places are taken
by calls, who comes is told so. A call that opens several connections to providers at a time takes of what is left.
"""

import time
from collections import Counter, OrderedDict
from typing import Protocol

from django.conf import settings

from routing.gateway.exchange.sockets import most_files
from routing.loops import OfLoop
from ziggie.guesses import caller_address, is_proxy

OTHER_FILES = 192  # of the process: the database, what listens, what is read, who is told that there is no place
FEWEST = 32
FILES_OF_A_CALL = 2  # the client's connection and one to a provider
LENT = 4  # one of so many places may be lent to calls that need more
MOST_TOLD = 64  # connections that are told that there is no place, at a time; any others are closed without a word
LOOKS = 256  # for one that makes room
NEW_SECONDS = 0.05  # so long one that has come may take to be read
TOLD_SECONDS = 2.0  # for who has no place to ask, and so to hear of it in the words of the API


class Guest(Protocol):
    """A client's connection."""

    @property
    def keeps_a_place(self) -> bool:
        """Whether nothing is asked on it, and nothing of an answer is on its way."""

    def make_room(self) -> None:
        """Ends it."""


Places = OrderedDict[Guest, tuple[str, float]]  # with their addresses, and since when


class Crowd:
    """The clients of one event loop, those who have been there longest in front."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._all: Places = OrderedDict()
        self._of: dict[str, Places] = {}
        self._told: set[Guest] = set()
        self._lent: Counter[str] = Counter()  # files, by address

    def enter(self, guest: Guest, peer: str) -> bool:
        """Whether there is a place for it; `peer` is its address, "" where it has none."""
        address = _address_of(peer)
        others = self._of.get(address)
        if address and others and self._taken_by(address) >= self._most_of_one and not self._make_room(others):
            return False
        if self._taken() >= self._most and not self._make_room(self._all):
            return False
        self._all[guest] = place = address, time.monotonic()
        self._of.setdefault(address, OrderedDict())[guest] = place
        return True

    def turn_away(self, guest: Guest) -> bool:
        """Whether it may stay until it has heard that there is no place."""
        if len(self._told) >= MOST_TOLD:
            return False
        self._told.add(guest)
        return True

    def leave(self, guest: Guest) -> None:
        self._told.discard(guest)
        place = self._all.pop(guest, None)
        if place is not None:
            places = self._of[place[0]]
            del places[guest]
            if not places:
                del self._of[place[0]]

    def lend(self, peer: str) -> bool:
        """Whether a call from there may open another file beside its own two. Most places, and of each address, are for
        those who come; nobody has to make room for what is lent."""
        address = _address_of(peer)
        self._lent[address] += 1
        is_lent = self._taken() <= self._most and _places(self._lent.total()) <= self._most // LENT
        if address:
            is_lent &= self._taken_by(address) <= self._most_of_one
            is_lent &= _places(self._lent[address]) <= self._most_of_one // LENT
        if not is_lent:
            self.take_back(peer)
        return is_lent

    def take_back(self, peer: str) -> None:
        address = _address_of(peer)
        self._lent[address] -= 1
        if not self._lent[address]:
            del self._lent[address]

    def _taken(self) -> int:
        return len(self._all) + _places(self._lent.total()) if self._lent else len(self._all)

    def _taken_by(self, address: str) -> int:
        return len(self._of.get(address, ())) + _places(self._lent[address])

    def _make_room(self, places: Places) -> bool:
        since = time.monotonic() - NEW_SECONDS
        for _ in range(min(LOOKS, len(places))):
            guest, (_, entered) = next(iter(places.items()))
            if entered < since and guest.keeps_a_place:
                self.leave(guest)
                guest.make_room()
                return True
            places.move_to_end(guest)  # it is looked at again after all others
        return False


def _address_of(peer: str) -> str:
    return "" if is_proxy(peer) else caller_address(peer, "")


def _places(files: int) -> int:
    return -(-files // FILES_OF_A_CALL)


def _made() -> Crowd:
    files = max(most_files() - OTHER_FILES, FEWEST)
    most = min(settings.MAX_CONNECTIONS or files // FILES_OF_A_CALL, files)
    return Crowd(most, min(settings.MAX_CONNECTIONS_PER_ADDRESS or most // 2, most))


crowd = OfLoop(_made).get
