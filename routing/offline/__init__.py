"""The offline model: answers by quoting and counting, so that work goes on when no language model can be reached.

All of it is pure and deterministic: no network, no key, no weights, no clock, no randomness.
"""

from routing.offline.model import answer, confidence, stream

__all__ = ["answer", "confidence", "stream"]
