"""The words in which one request is put to one model, and what is remembered of what its server would not take.

What a server refuses and then takes in other words it will refuse the next time, too, as far as that lies with the
model and not with what one request says. So for an hour requests are put to that model in those words at once: else
each of them would be made twice.
"""

import time

from routing.adapters.sending.rewording import LASTING, Reworded, again
from routing.types import ChatRequest, ModelSpec, ProviderError

REMEMBERED_SECONDS = 3_600.0
MOST_MODELS = 500

_Lessons = dict[Reworded, tuple[ProviderError, float]]
_learnt: dict[tuple[int, str], _Lessons] = {}  # by provider and name: what was refused, and until when that counts


class Wording:
    """`request` is to be sent next, and `streamed` whether as a stream."""

    __slots__ = ("_as_asked", "_foreseen", "_model", "_taught", "_was_foreseen_wrongly", "request", "streamed")

    def __init__(self, request: ChatRequest, model: ModelSpec, *, streamed: bool) -> None:
        self._as_asked, self._model = request, model
        self._taught: list[tuple[Reworded, ProviderError]] = []
        self.request, self.streamed = worded(request, model), streamed
        self._foreseen = self.request is not request
        self._was_foreseen_wrongly = False

    def finds_another(self, error: ProviderError, *, began: bool = False) -> bool:
        """Whether there is another way to ask after the request failed so, before any piece of an answer."""
        if self._was_foreseen_wrongly:  # and was now asked as it came: nothing is left
            return False
        another = again(self.request, error, self._model.provider, streamed=self.streamed, began=began)
        if another is None:
            return not began and self._unlearns(error)
        for reworded in LASTING:
            if reworded(self.request, error) is not None:
                # A copy: the error itself leads to all that it went through.
                self._taught.append((reworded, ProviderError(error.kind, error.message, retryable=False)))
                break
        self.request, self.streamed = another
        return True

    def _unlearns(self, error: ProviderError) -> bool:
        """What was foreseen may hold no more."""
        if not self._foreseen or error.kind != "bad_request":
            return False
        _learnt.pop(_key(self._model), None)
        self._was_foreseen_wrongly, self.request = True, self._as_asked
        self._taught.clear()
        return True

    def was_taken(self) -> None:
        """The last request was answered."""
        if not self._taught:
            return
        if len(_learnt) >= MOST_MODELS:
            _learnt.clear()
        lessons = _learnt.setdefault(_key(self._model), {})
        until = time.monotonic() + REMEMBERED_SECONDS
        lessons.update((reworded, (error, until)) for reworded, error in self._taught)


def worded(request: ChatRequest, model: ModelSpec) -> ChatRequest:
    """The request as this model's server is known to take it."""
    lessons = _learnt.get(_key(model)) if _learnt else None
    if lessons is None:
        return request
    now = time.monotonic()
    for reworded, (error, until) in lessons.items():
        if now < until:
            request = reworded(request, error) or request
    return request


def forget() -> None:
    """All that was learnt."""
    _learnt.clear()


def _key(model: ModelSpec) -> tuple[int, str]:
    return model.provider.id, model.name
