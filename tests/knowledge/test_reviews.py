"""What staff say of analyses and runs on their pages, and what comes of it."""

import json
from collections.abc import Iterator

import pytest
from django.test import Client

from agents.models import AgentRun
from agents.runner import execute
from agents.runs import NewRun, create_run
from agents.seeding import seed as seed_agents
from knowledge import analysis
from knowledge.models import Analysis, Video
from knowledge.reviewing import redo_on_cloud
from knowledge.videos import request_analysis
from routing.models import LanguageModel, ReviewedOutcome, RoutedCall
from tests.flows.jobs import insights
from tests.installation import Installation, installed
from tests.knowledge.test_analysis import long_talk, video
from tests.routing.pages_support import seen, staff_client
from tests.servers import Reply
from ziggie.errors import Conflict

pytestmark = pytest.mark.django_db(transaction=True)
REVIEWING = "routing.add_reviewedoutcome"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text=json.dumps(insights(60)))
        installation.anthropic.default = Reply(text=json.dumps(insights(65)))
        yield installation


@pytest.fixture
def unsure(here: Installation) -> Video:
    """A video whose analysis nobody was sure of."""
    made = video()
    analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert made.state == "needs_review"
    return made


@pytest.fixture
def staff(here: Installation) -> Client:
    return staff_client(REVIEWING)


def say(client: Client, path: str, verdict: str, note: str = "") -> str:
    return seen(client.post(f"{path}review/", {"verdict": verdict, "note": note}, follow=True))


def test_an_unsure_analysis_is_approved_and_the_approval_taken_back(staff: Client, unsure: Video) -> None:
    path, version = unsure.get_absolute_url(), unsure.version
    assert "Approve" in seen(staff.get(path))
    shown = say(staff, path, "correct", "checked <b>against</b> the video")
    unsure.refresh_from_db()
    assert (unsure.state, unsure.version) == ("analysed", version + 1)
    assert "correct said staff0" in shown
    assert "checked <b>against</b> the video" in shown
    assert "<b>against" not in staff.get(path).content.decode()
    outcome = ReviewedOutcome.objects.get()
    assert (outcome.good, outcome.task_kind, outcome.confidence) == (True, "analysis", 65)
    say(staff, path, "undo")
    unsure.refresh_from_db()
    assert unsure.state == "needs_review"
    assert not ReviewedOutcome.objects.exists()
    assert "nothing was said" in say(staff, path, "undo")


def test_a_sure_analysis_that_is_wrong_needs_review(staff: Client, here: Installation) -> None:
    here.ollama.default = Reply(text=json.dumps(insights(95)))
    made = video()
    analysis.analyse(str(made.pk))
    say(staff, made.get_absolute_url(), "wrong")
    made.refresh_from_db()
    assert (made.state, ReviewedOutcome.objects.get().good) == ("needs_review", False)
    say(staff, made.get_absolute_url(), "undo")
    made.refresh_from_db()
    assert made.state == "analysed"


def test_nonsense_and_a_video_without_an_analysis_are_refused(staff: Client, unsure: Video, here: Installation) -> None:
    assert "verdict: should be one of" in say(staff, unsure.get_absolute_url(), "maybe")
    assert "longer than 500" in say(staff, unsure.get_absolute_url(), "wrong", "x" * 501)
    assert not ReviewedOutcome.objects.exists()
    assert "has no analysis yet" in say(staff, video(title="Other").get_absolute_url(), "correct")


def test_what_is_being_analysed_again_is_not_reviewed(staff: Client, unsure: Video) -> None:
    Video.objects.update(state="queued")
    assert "is being analysed again" in say(staff, unsure.get_absolute_url(), "correct")
    assert not ReviewedOutcome.objects.exists()


def test_staff_without_the_permission_see_the_review_and_no_buttons(staff: Client, unsure: Video) -> None:
    say(staff, unsure.get_absolute_url(), "wrong", "the steps are out of order")
    reader = staff_client()
    shown = seen(reader.get(unsure.get_absolute_url()))
    assert "the steps are out of order" in shown
    assert "Take back" not in shown
    assert "Redo on cloud" not in shown


def test_a_video_is_redone_by_what_critical_work_gets(staff: Client, unsure: Video, here: Installation) -> None:
    here.anthropic.default = Reply(text=json.dumps(insights(97)))
    redo_on_cloud(unsure, wake_worker=False)
    analysis.analyse(str(unsure.pk))
    unsure.refresh_from_db()
    newest = unsure.newest_analysis()
    assert newest is not None
    assert (unsure.state, newest.model, newest.source) == ("analysed", "claude-sonnet-4-5", "cloud")
    assert RoutedCall.objects.first().rule == "critical and high analysis"  # type: ignore[union-attr]
    assert "Redo on cloud" in seen(staff.get(unsure.get_absolute_url()))


def test_nothing_is_redone_on_cloud_where_there_is_none(staff: Client, unsure: Video, here: Installation) -> None:
    here.change_provider("anthropic", enabled=False)
    with pytest.raises(Conflict, match="no cloud model may serve critical work"):
        redo_on_cloud(unsure)
    shown = seen(staff.post(f"{unsure.get_absolute_url()}redo/", follow=True))
    assert "no cloud model may serve critical work just now: llama3.2 would" in shown


def test_an_ordinary_analysis_after_one_on_cloud_goes_by_the_tier_again(unsure: Video, here: Installation) -> None:
    redo_on_cloud(unsure, wake_worker=False)
    analysis.analyse(str(unsure.pk))
    request_analysis(unsure, wake_worker=False)
    analysis.analyse(str(unsure.pk))
    rules = list(RoutedCall.objects.order_by("created_at").values_list("rule", flat=True))
    assert rules == ["medium and low analysis", "critical and high analysis", "medium and low analysis"]


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def run(here: Installation) -> AgentRun:
    seed_agents()
    here.ollama.default = Reply(text="At nine.")
    made, _ = create_run(NewRun(agent="assistant", prompt="When does the shop open?", requested_by="nina"))
    assert execute(str(made.pk))
    made.refresh_from_db()
    return made


def test_a_runs_answer_is_reviewed_and_linked_to_its_receipt(staff: Client, run: AgentRun) -> None:
    path, version = run.get_absolute_url(), run.version
    assert f"/usage/calls/{run.call_id}/" in staff.get(path).content.decode()
    assert "wrong said staff0" in say(staff, path, "wrong", "it opens at ten")
    run.refresh_from_db()
    assert run.version == version + 1
    receipt = staff.get(f"/usage/calls/{run.call_id}/")
    assert "wrong, by staff0: it opens at ten" in seen(receipt)
    assert run.get_absolute_url() in receipt.content.decode()
    assert "Your review is noted" in say(staff, path, "undo")


def test_a_run_without_an_answer_is_not_reviewed(staff: Client, run: AgentRun) -> None:
    AgentRun.objects.update(status="failed")
    assert "has no answer to review" in say(staff, run.get_absolute_url(), "correct")


# --- several parts -------------------------------------------------------------------------------


def test_a_review_of_a_video_read_in_parts_counts_for_each_of_its_calls(staff: Client, here: Installation) -> None:
    here.ollama.default = Reply(text=json.dumps(insights(90, key_points=[{"text": "x", "start_seconds": 3}])))
    LanguageModel.objects.filter(slug="llama3.2").update(context_window=8192, max_output_tokens=2048)
    made = video(long_talk(minutes=30))
    analysis.analyse(str(made.pk))
    say(staff, made.get_absolute_url(), "correct")
    found = Analysis.objects.get()
    assert ReviewedOutcome.objects.filter(call_id__in=found.call_ids, good=True).count() == len(found.call_ids)
    shown = staff.get(made.get_absolute_url()).content.decode()
    assert all(f"/usage/calls/{call_id}/" in shown for call_id in found.call_ids)
