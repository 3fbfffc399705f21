"""How many clients a process lets in, in all and from one address: nobody alone may hold every file that it can open.

A connection on which nothing is asked only keeps a place: it makes room for one that comes. Where all places are taken
by calls, who comes is told so.
"""

import time
from collections import OrderedDict
from typing import Protocol

from django.conf import settings

from routing.gateway.exchange.sockets import most_files
from routing.loops import OfLoop
from ziggie.guesses import caller_address, is_proxy

OTHER_FILES = 192  # of the process: the database, what listens, what is read, who is told that there is no place
FEWEST = 32
FILES_OF_A_CALL = 2  # the client's connection and one to a provider
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

    def enter(self, guest: Guest, peer: str) -> bool:
        """Whether there is a place for it; `peer` is its address, "" where it has none."""
        address = "" if is_proxy(peer) else caller_address(peer, "")
        others = self._of.get(address)
        if address and others and len(others) >= self._most_of_one and not self._make_room(others):
            return False
        if len(self._all) >= self._most and not self._make_room(self._all):
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


def _made() -> Crowd:
    files = max(most_files() - OTHER_FILES, FEWEST)
    most = min(settings.MAX_CONNECTIONS or files // FILES_OF_A_CALL, files)
    return Crowd(most, min(settings.MAX_CONNECTIONS_PER_ADDRESS or most // 2, most))


crowd = OfLoop(_made).get
