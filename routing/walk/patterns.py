"""How several calls make one answer: verify, cascade, ensemble, debate, critique.

Built on the walk, which keeps the deadline, the limits and the records of every part. Nothing is decided about
models here: the plan says who takes which part. A part that fails never takes the answer away that is there.
The offline model answers where nobody else does; it never reviews, criticises, drafts or synthesises.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from routing.planning.roles import DEFAULT_MIN_CONFIDENCE
from routing.types import Candidate, ChatRequest, Source, Text
from routing.walk import calibration, voting
from routing.walk import pattern_prompts as prompts
from routing.walk.attempts import Answer, Walk
from routing.walk.judging import judge
from ziggie.values import replace

# Of the time that is left, what members may take where a synthesiser comes after them.
MEMBERS_SHARE = 0.7
# A review cut shorter than this says nothing; with less room none is asked for.
LEAST_REVIEW_TOKENS = 64
MAX_NOTE = 500  # characters


def run(walk: Walk) -> Awaitable[Answer | None]:
    """The answer of the plan's pattern, with what was found on the way; None if nobody gave one."""
    return PATTERNS[walk.plan.pattern](walk)


# --- verify: one answers, another reviews ----------------------------------------------------------


async def _verify(walk: Walk) -> Answer | None:
    answer = await walk.run()
    if answer is None:
        return None
    review, found = await _review(walk, answer)
    if review is None or review.right:
        return replace(answer, findings={"review": found}, sound=answer.sound and review is not None)
    better = await _revised(walk, answer, review.problems)
    if better is not None:
        then = {"then": "revised", "revised_by": better.candidate.model.slug}
        return replace(better, findings={"review": found | then})
    chain = walk.plan.candidates
    others = [other for other in chain[chain.index(answer.candidate) + 1 :] if not _is_offline(other)]
    other = await walk.run(others)
    if other is not None:
        then = {"then": "asked another", "asked": other.candidate.model.slug}
        return replace(other, findings={"review": found | then})
    return replace(answer, findings={"review": found | {"then": "kept"}}, sound=False)


async def _review(walk: Walk, answer: Answer) -> tuple[prompts.Review | None, dict[str, Any]]:
    """The review, None if there is none, and what to tell of it."""
    verifier = _part(walk, "verifier")
    if verifier is None:
        return None, {"verdict": "none", "reason": "no verifier may serve"}
    if verifier.max_output_tokens < LEAST_REVIEW_TOKENS:
        return None, {"verdict": "none", "reason": "the caller's limit of output tokens leaves no room for a review"}
    if answer.result.tool_calls:
        return None, {"verdict": "none", "reason": "tool calls are not reviewed"}
    said = await walk.ask(verifier, prompts.review(walk.request, _quote(answer)), role="verifier")
    if said is None:
        return None, {"verdict": "none", "reason": f"{verifier.model.slug} gave no usable review"}
    review = prompts.read_review(said.result.text)
    found: dict[str, Any] = {"verdict": "right" if review.right else "wrong", "by": verifier.model.slug}
    walk.note(said, "; ".join([f"found it {found['verdict']}", *review.problems])[:MAX_NOTE])
    return review, found | {"problems": list(review.problems)}


async def _revised(walk: Walk, answer: Answer, problems: Sequence[str]) -> Answer | None:
    """The answer again by whom it came from, if the plan has a call left for that."""
    if _is_offline(answer.candidate):
        return None
    request = prompts.revision(walk.request, _quote(answer), problems)
    return await walk.ask(answer.candidate, request, role="revision")


# --- cascade: a cheap draft, and money only where it is not sure -----------------------------------


async def _cascade(walk: Walk) -> Answer | None:
    minimum = walk.plan.options.min_confidence
    minimum = DEFAULT_MIN_CONFIDENCE if minimum is None else minimum
    draft, found = await _draft(walk)
    if draft is not None and draft.verdict.confidence is not None and draft.verdict.confidence > minimum:
        return replace(draft, findings={"draft": found | {"used": True}})
    findings = {"draft": found | {"used": False}}
    refiner = _part(walk, "refiner")
    refined = None
    if refiner is not None:
        request = walk.request if draft is None else prompts.refinement(walk.request, _quote(draft))
        refined = await walk.ask(refiner, request, role="refiner", hurry=bool(_others(walk, [refiner], offline=False)))
    if refined is None:
        tried = [part for part in (refiner, None if draft is None else draft.candidate) if part is not None]
        refined = await walk.run(_others(walk, tried, offline=draft is None))
    if refined is not None:
        return replace(refined, findings=findings)
    return None if draft is None else replace(draft, findings={"draft": found | {"used": True}}, sound=False)


async def _draft(walk: Walk) -> tuple[Answer | None, dict[str, Any]]:
    """The draft as a plain answer with its calibrated confidence, and what to tell of it."""
    candidate = _part(walk, "draft")
    if candidate is None:
        return None, {"reason": "no model may draft"}
    wrapped = prompts.can_say_more(walk.request)
    request = prompts.with_confidence(walk.request) if wrapped else walk.request
    answer = await walk.ask(candidate, _with_logprobs(request, candidate), role="draft", hurry=True)
    if answer is None:
        return None, {"by": candidate.model.slug, "reason": "gave no usable draft"}
    stated = answer.verdict.confidence
    if wrapped:
        result, _ = prompts.unwrapped(answer.result, "confidence", prompts.CONFIDENCE_SCHEMA)
        answer = replace(answer, result=result)
    elif stated is None:
        stated = prompts.stated_confidence(walk.request, answer.result)
    return await _judged(walk, answer, stated)


async def _judged(walk: Walk, draft: Answer, stated: float | None) -> tuple[Answer, dict[str, Any]]:
    """A model that claims more than its own token probabilities show is not believed."""
    mean = draft.result.mean_logprob
    shown = None if mean is None or not math.isfinite(mean) else 100 * math.exp(min(mean, 0.0))
    known = [figure for figure in (stated, shown) if figure is not None]
    model = draft.candidate.model.slug
    found: dict[str, Any] = {"by": model, "stated": stated, "log_probability": shown and round(shown, 1)}
    if not known:
        walk.note(draft, "stated no confidence")
        return replace(draft, verdict=replace(draft.verdict, confidence=None)), found | {"confidence": None}
    raw = min(known)
    sure = await calibration.calibrated(walk.plan.features.task_kind, model, raw)
    reckoning = f"calibrated on {sure.outcomes} reviewed outcomes" if sure.outcomes else "the raw figure"
    walk.note(draft, f"confidence {sure.confidence:.0f} ({reckoning}; raw {raw:.0f})", confidence=raw)
    found |= {"raw": round(raw, 1), "confidence": round(sure.confidence, 1), "calibrated_on": sure.outcomes}
    return replace(draft, verdict=replace(draft.verdict, confidence=sure.confidence)), found


def _with_logprobs(request: ChatRequest, candidate: Candidate) -> ChatRequest:
    """Asks for token probabilities where they are known to be welcome: elsewhere the parameter may be refused."""
    provider = candidate.model.provider
    if request.logprobs is not None:  # the caller has
        return request
    if provider.kind == "ollama" or provider.options.get("logprobs"):
        return replace(request, extra={"logprobs": True, **request.extra})
    return request


# --- ensemble: several answer at once, then a vote or a synthesis ----------------------------------


async def _ensemble(walk: Walk) -> Answer | None:
    members = _members(walk)
    until = _members_until(walk)
    answers = await _ask_all(
        walk, [_Question(member, _quietly(walk.request), hurry=len(members) > 1) for member in members], until=until
    )
    if not answers:
        return await _without_members(walk, len(members))
    return await _one_of(walk, answers, {"members": len(members), "answered": len(answers)})


async def _without_members(walk: Walk, asked: int) -> Answer | None:
    answer = await walk.run()
    return None if answer is None else replace(answer, findings={"members": asked, "answered": 0}, sound=False)


async def _one_of(walk: Walk, answers: Sequence[Answer], findings: dict[str, Any]) -> Answer:
    """One answer out of at least one: what all say, else a synthesis, else what most say."""
    as_json = walk.request.json_schema is not None or walk.request.json_object
    ballot = voting.vote([answer.result for answer in answers], as_json=as_json)
    findings = findings | {"votes": ballot.votes}
    synthesiser = _part(walk, "synthesiser")
    if len(answers) == 1:
        return replace(answers[0], findings=findings | {"chosen_by": "only answer"})
    if ballot.unanimous:
        return replace(answers[0], findings=findings | {"chosen_by": "agreement"})
    if synthesiser is not None and not any(answer.result.tool_calls for answer in answers):
        request = prompts.synthesis(walk.request, [_quote(answer) for answer in answers])
        whole = await walk.ask(synthesiser, request, role="synthesiser")
        if whole is not None:
            return replace(whole, findings=findings | {"chosen_by": "synthesis"})
    winner = _winner(walk, answers, ballot)
    sound = winner.sound and (synthesiser is None or "synthesiser" not in walk.plan.roles)
    return replace(winner, findings=findings | {"chosen_by": "vote"}, sound=sound)


def _winner(walk: Walk, answers: Sequence[Answer], ballot: voting.Ballot) -> Answer:
    """The elected answer. A document that was put together must pass what every answer has to pass."""
    elected = answers[ballot.winner]
    if ballot.merged is not None:
        result = replace(elected.result, parts=(Text(json.dumps(ballot.merged, ensure_ascii=False)),))
        verdict = judge(walk.request, result)
        if verdict.ok:
            walk.note(elected, "its answer, with the fields that most others have otherwise")
            return replace(elected, result=result, verdict=verdict)
    walk.note(elected, f"elected with {ballot.votes} of {ballot.of} votes")
    return elected


# --- debate: members see each other's answers ------------------------------------------------------


async def _debate(walk: Walk) -> Answer | None:
    members = _members(walk)
    rounds = int(walk.plan.roles.get("rounds", 1))
    until = _members_until(walk)
    opening = [_Question(member, _quietly(walk.request), hurry=len(members) > 1) for member in members]
    answers = await _ask_all(walk, opening, until=until)
    if not answers:
        return await _without_members(walk, len(members))
    held, agreed = 1, _agree(walk, answers)
    while held < rounds and len(answers) > 1 and not agreed and (until is None or time.monotonic() < until):
        answers, agreed = await _round(walk, answers, until=until)
        held += 1
    findings = {"members": len(members), "answered": len(answers), "rounds": held, "agreed": agreed}
    if agreed and len(answers) > 1:
        return replace(answers[0], findings=findings | {"chosen_by": "agreement"})
    return await _one_of(walk, answers, findings)


async def _round(walk: Walk, answers: Sequence[Answer], *, until: float | None) -> tuple[list[Answer], bool]:
    """Everybody's next answer, the last one of those who gave none now; and whether all agree."""
    asks_agreement = prompts.can_say_more(walk.request)
    questions = []
    for answer in answers:
        others = [_quote(other) for other in answers if other is not answer]
        request = prompts.debate(walk.request, _quote(answer), others)
        request = prompts.with_agreement(request) if asks_agreement else request
        questions.append(_Question(answer.candidate, request, hurry=True, before=answer))
    latest = await _ask_all(walk, questions, until=until)
    if not asks_agreement:
        return latest, _agree(walk, latest)
    opened = [_opened(answer, answers) for answer in latest]
    agreed = all(agrees for _, agrees in opened)
    return [answer for answer, _ in opened], agreed


def _opened(answer: Answer, before: Sequence[Answer]) -> tuple[Answer, bool]:
    """The plain answer, and whether its author says that all agree. One from the round before says nothing."""
    if answer in before:
        return answer, False
    result, agrees = prompts.unwrapped(answer.result, "agrees", prompts.AGREES_SCHEMA)
    return replace(answer, result=result), agrees


def _agree(walk: Walk, answers: Sequence[Answer]) -> bool:
    as_json = walk.request.json_schema is not None or walk.request.json_object
    return voting.vote([answer.result for answer in answers], as_json=as_json).unanimous


# --- critique: one revises its own answer ----------------------------------------------------------


async def _critique(walk: Walk) -> Answer | None:
    answer = await walk.run()
    if answer is None:
        return None
    history: list[dict[str, Any]] = []
    for _ in range(int(walk.plan.roles.get("rounds", 1))):
        objections = await _objections(walk, answer)
        if objections is None:
            return replace(answer, findings={"rounds": history, "ended": "no usable critique"}, sound=False)
        if not objections:
            return replace(answer, findings={"rounds": history, "ended": "no objections"})
        revised = await _revised(walk, answer, objections)
        history.append({"objections": list(objections), "revised": revised is not None})
        if revised is None:
            return replace(answer, findings={"rounds": history, "ended": "no usable revision"}, sound=False)
        answer = revised
    return replace(answer, findings={"rounds": history, "ended": "rounds used up"})


async def _objections(walk: Walk, answer: Answer) -> tuple[str, ...] | None:
    """None if the model has no usable ones to give."""
    candidate = answer.candidate
    if _is_offline(candidate) or answer.result.tool_calls or candidate.max_output_tokens < LEAST_REVIEW_TOKENS:
        return None
    said = await walk.ask(candidate, prompts.objections(walk.request, _quote(answer)), role="critic")
    if said is None:
        return None
    objections = prompts.read_objections(said.result.text)
    walk.note(said, "; ".join(["objects", *objections])[:MAX_NOTE] if objections else "objects to nothing")
    return objections


# --- parts and members -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Question:
    """What a member is asked; `before` is its answer if it gives none now."""

    member: Candidate
    request: ChatRequest
    hurry: bool
    before: Answer | None = None


async def _ask_all(walk: Walk, questions: Sequence[_Question], *, until: float | None) -> list[Answer]:
    """The answers of those who gave one, in the members' order. All are asked at the same time."""
    answers = await _together(
        [
            walk.ask(question.member, question.request, role="member", hurry=question.hurry, until=until)
            for question in questions
        ]
    )
    found = [answer or question.before for answer, question in zip(answers, questions, strict=True)]
    return [answer for answer in found if answer is not None]


async def _together(work: Sequence[Coroutine[Any, Any, Answer | None]]) -> list[Answer | None]:
    """Results in order. Whatever ends the wait, every piece of work has ended too, and is on the record."""
    tasks = [asyncio.create_task(piece) for piece in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _members(walk: Walk) -> list[Candidate]:
    return [part for part in walk.plan.parts if part.role == "member" and not _is_offline(part)]


def _members_until(walk: Walk) -> float | None:
    """When members must have ended, so that there is time for what comes after them."""
    if walk.deadline is None or _part(walk, "synthesiser") is None:
        return walk.deadline
    now = time.monotonic()
    return now + MEMBERS_SHARE * (walk.deadline - now)


def _part(walk: Walk, role: str) -> Candidate | None:
    return next((part for part in walk.plan.parts if part.role == role and not _is_offline(part)), None)


def _others(walk: Walk, tried: Sequence[Candidate], *, offline: bool) -> list[Candidate]:
    """The chain without the models that took a part in vain, and without offline where it could only harm."""
    slugs = {part.model.slug for part in tried}
    return [c for c in walk.plan.candidates if c.model.slug not in slugs and (offline or not _is_offline(c))]


def _is_offline(candidate: Candidate) -> bool:
    return candidate.model.source == Source.OFFLINE


def _quote(answer: Answer) -> str:
    return prompts.quoted(answer.result.text, max_tokens=answer.candidate.max_output_tokens)


def _quietly(request: ChatRequest) -> ChatRequest:
    """Of several answers at once none tells how far it is."""
    return replace(request, on_output=None)


PATTERNS: dict[str, Callable[[Walk], Awaitable[Answer | None]]] = {
    "single": Walk.run,
    "verify": _verify,
    "cascade": _cascade,
    "ensemble": _ensemble,
    "debate": _debate,
    "critique": _critique,
}
