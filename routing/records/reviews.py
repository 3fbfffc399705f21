"""What people say of answers: one review a call, said again or taken back at any time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from routing.models import ReviewedOutcome, RoutedCall
from ziggie.errors import Conflict, InvalidInput, NotFound, is_storable

MAX_NOTE_CHARACTERS = 500
REVIEWING = "routing.add_reviewedoutcome"  # the permission that it needs
VERDICTS: Mapping[str, bool | None] = {"correct": True, "wrong": False, "undo": None}


def review(call_id: UUID, *, good: bool, note: str = "", by: str = "") -> ReviewedOutcome:
    """Keeps what a person says of a routed call's answer; said again, it replaces what was said before.

    Raises NotFound, Conflict for a call without an answer, InvalidInput for a note that cannot be kept.
    """
    note = checked_note(note)
    call = RoutedCall.objects.filter(pk=call_id).first()
    if call is None:
        raise NotFound("there is no such call")
    served = next((attempt for attempt in call.attempts if attempt.get("served")), None)
    if served is None:
        raise Conflict("this call has no answer to review")
    outcome, _ = ReviewedOutcome.objects.update_or_create(
        call_id=call_id,
        defaults={
            "task_kind": call.task_kind,
            "model": served["model"],
            "confidence": served.get("confidence"),
            "good": good,
            "note": note,
            "reviewed_by": by,
        },
    )
    return outcome


def checked_note(note: str) -> str:
    """Raises InvalidInput."""
    note = note.strip()
    if len(note) > MAX_NOTE_CHARACTERS:
        raise InvalidInput(f"note: is longer than {MAX_NOTE_CHARACTERS} characters")
    if not is_storable(note):
        raise InvalidInput("note: holds a NUL character or half a surrogate pair")
    return note


def withdraw(call_ids: Iterable[UUID | str]) -> int:
    """Takes back what was said of these calls; returns of how many something was."""
    return ReviewedOutcome.objects.filter(call_id__in=list(call_ids)).delete()[0]


def newest_review(call_ids: Iterable[UUID | str]) -> ReviewedOutcome | None:
    """The review of these calls, which are reviewed together."""
    return ReviewedOutcome.objects.filter(call_id__in=list(call_ids)).order_by("-reviewed_at").first()


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says on a page. `good` is None where an earlier review is taken back."""

    good: bool | None
    note: str
    by: str


def said_in(form: Mapping[str, str], *, by: str) -> Said:
    """Raises InvalidInput."""
    if form.get("verdict") not in VERDICTS:
        raise InvalidInput(f"verdict: should be one of {', '.join(VERDICTS)}")
    return Said(VERDICTS[form["verdict"]], form.get("note", ""), by)
