"""PURE: a recorded call under another policy: who would have served it, and for how much.

What is known of a call is kept: a model that failed it fails it again, an answer that was too unsure stays so.
A model that was not asked then is taken to answer with as many tokens as the one that did. All money is at the
prices of the snapshot, for what was and for what would be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from routing.planning.demand import Demand
from routing.planning.pricing import batched, cost_microusd
from routing.planning.roles import DEFAULT_MIN_CONFIDENCE
from routing.types import Candidate, ModelSpec, Plan, Source, Usage

Attempts = Sequence[Mapping[str, Any]]  # as the receipt has them
FAILED = frozenset({"error", "timeout", "cut", "invalid"})
SERVED = ("ok", "low_confidence")
CACHE_ROLE = "cache"  # of an attempt that was an answer kept from before
# Attempts at the task itself. What a model said of an answer tells nothing of what it would answer.
ANSWERING = frozenset({"answer", "choice", "draft", "refiner", "member"})
OF_THE_ANSWER = frozenset({"critic", "revision"})  # done by whoever gave the answer
_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A recorded call. `model` served it, or "" if none did; `chosen` was the planner's first choice. `is_late`:
    its time was over before a model had answered."""

    id: str
    at: datetime
    rule: str
    pattern: str
    model: str
    chosen: str
    from_cache: bool
    is_late: bool
    demand: Demand
    circumstances: Mapping[str, Any]
    attempts: Attempts

    @property
    def by_batch(self) -> bool:
        """A provider's batch answered it, at half price."""
        return bool(self.circumstances.get("batch"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call comes to. `model` is None where every candidate fails; `spent` is micro-dollars by model.
    `guessed`: nobody knows how many tokens it would have, so its cost is left out."""

    model: ModelSpec | None
    spent: Mapping[str, int]
    guessed: bool = False

    @property
    def cost_microusd(self) -> int:
        return sum(self.spent.values())


Models = Mapping[str, ModelSpec]


def as_recorded(receipt: Receipt, models: Models) -> Outcome:
    """What the call was, at today's prices. Models that are gone by now have none."""
    spent: dict[str, int] = {}
    for attempt in receipt.attempts:
        model = models.get(attempt["model"])
        if model is not None and not receipt.from_cache:
            price = batched(model).price if receipt.by_batch else model.price
            spent[model.slug] = spent.get(model.slug, 0) + cost_microusd(_usage(attempt), price)
    return Outcome(models.get(receipt.model), spent)


def as_planned(receipt: Receipt, plan: Plan, models: Models) -> Outcome:
    """What the call would be by this plan."""
    if receipt.from_cache:
        return Outcome(plan.candidates[0].model, {})
    if plan.pattern == receipt.pattern != "single" and _same_models(receipt, plan):
        return as_recorded(receipt, models)
    walk = _Walk(receipt, plan, models)
    walk.go()
    return Outcome(walk.served, walk.spent, walk.guessed)


def _same_models(receipt: Receipt, plan: Plan) -> bool:
    planned = {(candidate.role, candidate.model.slug) for candidate in (*plan.candidates, *plan.parts)}
    chosen = plan.candidates[0].model.slug == receipt.chosen
    return chosen and all((_role(attempt), attempt["model"]) in planned for attempt in receipt.attempts)


def _role(attempt: Mapping[str, Any]) -> str:
    """The role by which the plan knows who was asked."""
    return "answer" if attempt["role"] in OF_THE_ANSWER else str(attempt["role"])


class _Walk:
    """The walk of attempts.py with recorded outcomes instead of calls."""

    def __init__(self, receipt: Receipt, plan: Plan, models: Models) -> None:
        self.plan = plan
        self.models = models
        self.answers = receipt.demand.answers
        self.task = task_usage(receipt)
        self.served: ModelSpec | None = None
        self.spent: dict[str, int] = {}
        self.guessed = False
        self.asked = 0
        self.is_late = receipt.is_late
        self.by_batch = receipt.by_batch and plan.pattern == "single"
        self._known: dict[str, list[Mapping[str, Any]]] = {}
        for attempt in receipt.attempts:
            known = self._known.setdefault(attempt["model"], [])
            # What a member said in later rounds is no other try of the task; one of several answers is.
            if attempt["role"] in ANSWERING and (self.answers > 1 or not (known and known[-1]["outcome"] in SERVED)):
                known.append(attempt)
        if self.answers > 1:
            for known in self._known.values():  # the last one says how it went with all of them
                known.sort(key=lambda attempt: (attempt.get("served", False), attempt["outcome"] in FAILED))

    def go(self) -> None:
        if self.plan.pattern in ("ensemble", "debate"):
            self.ask_members()
        elif self.plan.pattern == "cascade":
            self.refine()
        if self.served is None:
            self.ask_chain()
            self.add_reviews()

    def ask_chain(self) -> None:
        unsure: ModelSpec | None = None
        for candidate in self.plan.candidates:
            model = candidate.model
            if self.asked >= self.answers * self.plan.options.max_attempts and model.source is not Source.OFFLINE:
                continue
            if unsure is not None and model.source is not Source.CLOUD:
                continue
            attempt = self._asked(model)
            if attempt is not None and attempt["outcome"] in FAILED:
                if self.is_late:
                    return
                continue
            if attempt is None or not self._is_unsure(candidate, attempt):
                self.served = model
                return
            unsure = model
        self.served = unsure

    def _asked(self, model: ModelSpec) -> Mapping[str, Any] | None:
        """What is known of the model's answer, None if nothing is; its cost is spent."""
        known = self._known.get(model.slug)
        if not known:
            self.charge(model, self.task, self.answers)
            return None
        self.asked += len(known)
        for attempt in known:
            self.spend(model, _usage(attempt))
        return known[-1]

    def _is_unsure(self, candidate: Candidate, attempt: Mapping[str, Any]) -> bool:
        minimum, confidence = self.plan.options.min_confidence, attempt.get("confidence")
        if minimum is None or confidence is None or candidate.model.source is not Source.LOCAL:
            return False
        return bool(confidence < minimum)

    def ask_members(self) -> None:
        """All members, once a round; whoever puts their answers together serves. The chain is not asked."""
        answering = [model for model in self._models_of("member") if self._answers(model)]
        later = int(self.plan.roles.get("rounds", 1)) - 1
        if len(answering) < 2:
            self.served = answering[0] if answering else None
            return
        for model in answering if later else ():
            self.charge(model, self._with_answers(len(answering)), later)
        self.served = answering[0]
        for model in self._models_of("synthesiser"):
            self.charge(model, self._with_answers(len(answering)), 1)
            self.served = model

    def refine(self) -> None:
        """A draft that was too unsure, or that nobody has seen, is refined."""
        minimum = self.plan.options.min_confidence
        minimum = DEFAULT_MIN_CONFIDENCE if minimum is None else minimum
        drafts = 0
        for model in self._models_of("draft"):
            attempt = self._asked(model)
            if attempt is None or attempt["outcome"] not in FAILED:
                drafts += 1
                sure = attempt.get("confidence") if attempt is not None else None
                if sure is not None and sure > minimum:
                    self.served = model
                    return
        for model in self._models_of("refiner"):
            known = self._known.get(model.slug)
            if not known:
                self.charge(model, self._with_answers(drafts), 1)
                self.served = model
            elif self._answers(model):
                self.served = model

    def _models_of(self, role: str) -> list[ModelSpec]:
        return [part.model for part in self.plan.parts if part.role == role]

    def _answers(self, model: ModelSpec) -> bool:
        attempt = self._asked(model)
        return attempt is None or attempt["outcome"] not in FAILED

    def add_reviews(self) -> None:
        """What is said of the answer once it is there: it is read with the task."""
        if self.served is None:
            return
        for model in self._models_of("verifier"):
            self.charge(model, self._with_answers(1), 1)
        if self.plan.pattern == "critique":
            self.charge(self.served, self._with_answers(2), 2 * int(self.plan.roles.get("rounds", 0)))

    def _with_answers(self, answers: int) -> Usage | None:
        task = self.task
        if task is None:
            return None
        return Usage((task.input_tokens or 0) + answers * (task.output_tokens or 0), task.output_tokens)

    def charge(self, model: ModelSpec, usage: Usage | None, times: int) -> None:
        self.asked += times
        if usage is None:
            self.guessed = True
        else:
            self.spend(model, usage, times)

    def spend(self, model: ModelSpec, usage: Usage, times: int = 1) -> None:
        # What could wait still can: another model's batch costs half as well.
        price = batched(model).price if self.by_batch else model.price
        self.spent[model.slug] = self.spent.get(model.slug, 0) + times * cost_microusd(usage, price)


def task_usage(receipt: Receipt) -> Usage | None:
    """The tokens of the task and its answer (of several: as many as they had on average), as any model would see
    them, nothing cached; None if no attempt got so far as to have any."""
    attempts = [attempt for attempt in receipt.attempts if attempt["usage"].get("output_tokens")]
    if not attempts:
        return None
    serving = [a for a in attempts if a["model"] == receipt.model and a["outcome"] in SERVED] or attempts
    read = [attempt["usage"].get("input_tokens") for attempt in receipt.attempts if attempt["role"] != CACHE_ROLE]
    known = [tokens for tokens in read if tokens]
    of_the_answer = serving[-1:] if receipt.demand.answers == 1 else serving
    written = sum(attempt["usage"]["output_tokens"] for attempt in of_the_answer)
    return Usage(min(known, default=None), round(written / len(of_the_answer)))


def _usage(attempt: Mapping[str, Any]) -> Usage:
    kept = attempt["usage"]
    return Usage(**{name: kept.get(name) for name in _COUNTS})
