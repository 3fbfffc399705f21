"""From a transcript to insights: parts, priorities, failures, and what a dead worker leaves behind."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from jsonschema import Draft202012Validator

from knowledge import analysis, tasks
from knowledge.insights import SCHEMA
from knowledge.models import Analysis, AnalysisPart, Video
from knowledge.transcripts import Segment, Transcript, parse
from knowledge.videos import NewVideo, add_video, request_analysis
from routing.models import LanguageModel, RoutedCall
from tests.flows.jobs import TALK, insights
from tests.flows.system import until
from tests.installation import Installation, installed
from tests.seeding import seed
from tests.servers import Received, Reply
from ziggie import queue
from ziggie.errors import Conflict, InvalidInput, TooLarge

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text=json.dumps(insights(90)))
        yield installation


def video(transcript: Transcript | None = None, **fields: Any) -> Video:
    new = NewVideo(**({"creator": "instasd", "title": "Sprites", "priority": "low"} | fields))
    made, _ = add_video(new, transcript or parse(TALK.encode(), name="talk.vtt"), wake_worker=False)
    return made


def long_talk(minutes: int) -> Transcript:
    """A line every five seconds, each with words of its own."""
    lines = tuple(
        Segment(
            5.0 * number, 5.0 * number + 4.5, f"Step {number}: set the value number{number} and look at it closely."
        )
        for number in range(minutes * 12)
    )
    return Transcript(segments=lines, format="vtt")


def asked_for_answers(here: Installation) -> list[Received]:
    """The calls that the local model has received."""
    return [received for received in here.ollama.requests if received.path == "/api/chat"]


def test_a_video_is_analysed_by_the_model_of_its_priority(here: Installation) -> None:
    made = video()
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert (made.state, made.progress, made.lease_until) == ("analysed", 100, None)
    found = Analysis.objects.get()
    assert (found.model, found.source, found.confidence) == ("llama3.2", "local", 90)
    Draft202012Validator(SCHEMA).validate(found.insights)
    assert RoutedCall.objects.get().bodies is None


def test_a_transcript_longer_than_the_models_context_is_read_in_parts_and_merged(here: Installation) -> None:
    LanguageModel.objects.filter(slug="llama3.2").update(context_window=8192, max_output_tokens=2048)
    here.change_provider("anthropic", enabled=False)
    here.ollama.default = Reply(text=json.dumps(insights(90, key_points=[{"text": "x", "start_seconds": 3}])))
    talk = long_talk(minutes=30)
    made = video(talk)
    analysis.analyse(str(made.pk))

    prompts = [r.json["messages"][-1]["content"] for r in here.ollama.requests if r.path == "/api/chat"]
    assert len(prompts) > 2
    said = "\n".join(prompts)
    assert all(segment.text in said for segment in talk.segments)
    assert all(r.json["options"]["num_ctx"] <= 8192 for r in here.ollama.requests if r.path == "/api/chat")
    found = Analysis.objects.get()
    assert len(found.call_ids) == len(prompts)
    assert len(found.insights["key_points"]) == 1  # what all parts say is said once
    here.assert_books_are_closed()


@pytest.fixture
def in_parts(here: Installation) -> Installation:
    """A local model with a small context, which reads a long talk in parts."""
    LanguageModel.objects.filter(slug="llama3.2").update(context_window=8192, max_output_tokens=2048)
    here.ollama.default = Reply(
        text=json.dumps(insights(90, summary="One part.", key_points=[{"text": "x", "start_seconds": 3}])),
        input_tokens=1000,
        output_tokens=100,
    )
    return here


SUMS_UP = "was read in parts"


def test_the_parts_get_one_summary_by_one_more_call(in_parts: Installation) -> None:
    in_parts.ollama.when(Reply(text='{"summary": "The whole talk."}', output_tokens=10), contains=SUMS_UP)
    made = video(long_talk(minutes=30))
    analysis.analyse(str(made.pk))
    found = Analysis.objects.get()
    asked = [r.json["messages"] for r in in_parts.ollama.requests if r.path == "/api/chat"]
    parts = sum(SUMS_UP not in messages[0]["content"] for messages in asked)
    assert found.insights["summary"] == "The whole talk."
    assert asked[-1][1]["content"].count("One part.") == parts
    assert (found.note, len(found.call_ids), len(found.attempts)) == ("", parts + 1, parts + 1)
    assert found.output_tokens == 100 * parts + 10
    assert found.confidence == 90
    in_parts.assert_books_are_closed()


def test_a_video_in_one_part_is_summed_up_by_nobody_else(here: Installation) -> None:
    analysis.analyse(str(video().pk))
    assert len(Analysis.objects.get().call_ids) == 1


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(text="no JSON at all")])
def test_where_the_summary_fails_the_parts_own_stand_and_the_page_says_so(
    in_parts: Installation, admin_client: Client, reply: Reply
) -> None:
    in_parts.change_provider("anthropic", enabled=False)
    in_parts.change_rule("medium and low analysis", chain=["llama3.2"])
    in_parts.ollama.when(reply, contains=SUMS_UP)
    made = video(long_talk(minutes=30))
    analysis.analyse(str(made.pk))
    made.refresh_from_db()
    found = Analysis.objects.get()
    assert made.state == "analysed"
    assert found.insights["summary"].startswith("One part.\n\nOne part.")
    assert found.note.startswith("The summary is those of the parts, one after another")
    assert found.attempts[-1]["outcome"] in ("error", "invalid")
    assert found.cost_microusd == sum(call.cost_microusd for call in RoutedCall.objects.all())
    assert found.note.split(":")[0] in admin_client.get(made.get_absolute_url()).content.decode()
    in_parts.assert_books_are_closed()


def test_the_offline_model_sums_up_nothing_that_models_have_read(in_parts: Installation) -> None:
    in_parts.change_provider("anthropic", enabled=False)
    in_parts.ollama.when(Reply(status=500), contains=SUMS_UP)
    analysis.analyse(str(video(long_talk(minutes=30)).pk))
    found = Analysis.objects.get()
    assert found.insights["summary"].startswith("One part.\n\nOne part.")
    assert "no model was there to do it" in found.note


def test_a_summary_that_is_there_is_not_asked_for_again(in_parts: Installation) -> None:
    in_parts.ollama.when(Reply(text='{"summary": "The whole talk."}'), contains=SUMS_UP)
    made = video(long_talk(minutes=30))
    analysis.analyse(str(made.pk))
    asked = len(in_parts.ollama.requests)
    Analysis.objects.all().delete()
    Video.objects.update(state="analysing", lease_until=timezone.now() - timedelta(seconds=1))
    analysis.analyse(str(made.pk))
    assert len(in_parts.ollama.requests) == asked
    assert Analysis.objects.get().insights["summary"] == "The whole talk."


def test_parts_that_are_done_are_not_asked_for_again(here: Installation) -> None:
    LanguageModel.objects.filter(slug="llama3.2").update(context_window=8192, max_output_tokens=2048)
    here.ollama.default = Reply(text=json.dumps(insights(90, key_points=[{"text": "x", "start_seconds": 3}])))
    made = video(long_talk(minutes=30))
    analysis.analyse(str(made.pk))
    asked = len(here.ollama.requests)
    # As a worker leaves it that dies before the last step.
    Analysis.objects.all().delete()
    Video.objects.update(state="analysing", lease_until=timezone.now() - timedelta(seconds=1))
    analysis.analyse(str(made.pk))
    assert len(here.ollama.requests) == asked
    assert Analysis.objects.count() == 1
    here.assert_books_are_closed()


def test_a_video_is_claimed_by_one_worker_only(here: Installation) -> None:
    made = video()
    Video.objects.update(state="analysing", lease_until=timezone.now() + timedelta(seconds=60), lease_owner="else:1:1")
    assert not analysis.analyse(str(made.pk))


def test_a_worker_that_lost_its_claim_writes_nothing_more(here: Installation) -> None:
    made = video()

    stolen = threading.Event()

    def steal() -> None:
        until(lambda: asked_for_answers(here), 60)
        Video.objects.update(fence=99)
        connection.close()
        stolen.set()

    here.ollama.default = Reply(text=json.dumps(insights(90)), after=stolen, fault="stall", fault_after=3)
    with ThreadPoolExecutor(1) as thief:
        theft = thief.submit(steal)
        assert not analysis.analyse(str(made.pk))
        theft.result(60)
    assert not Analysis.objects.exists()
    until(lambda: RoutedCall.objects.filter(outcome="cancelled").exists(), 60)  # its books are closed all the same


def test_connections_lost_while_a_model_reads_cost_no_second_call(here: Installation) -> None:
    broken = threading.Event()
    here.ollama.default = Reply(text=json.dumps(insights(90)), after=broken)
    made = video()

    def break_all() -> None:
        """As a database that dies and is back at once looks like from here."""
        until(lambda: asked_for_answers(here), 60)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        connection.close()
        broken.set()

    with ThreadPoolExecutor(1) as breaker:
        breaking = breaker.submit(break_all)
        assert analysis.analyse(str(made.pk))
        breaking.result(60)
    assert Analysis.objects.count() == 1
    assert [r.path for r in here.ollama.requests].count("/api/chat") == 1
    here.assert_books_are_closed()


def test_a_failed_analysis_says_why_and_may_be_asked_for_again(here: Installation) -> None:
    here.change_rule("medium and low analysis", chain=["llama3.2"])
    here.ollama.default = Reply(status=400, error="this model is broken")
    made = video()
    analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert made.state == "failed"
    assert "this model is broken" in made.error
    here.ollama.default = Reply(text=json.dumps(insights(90)))
    request_analysis(made, wake_worker=False)
    analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert (made.state, made.error, made.round) == ("analysed", "", 2)


def test_an_analysis_under_way_cannot_be_asked_for_twice(here: Installation) -> None:
    with pytest.raises(Conflict):
        request_analysis(video(), wake_worker=False)


def test_the_same_external_id_is_the_same_video(here: Installation) -> None:
    first = video(external_id="abc")
    analysis.analyse(str(first.pk))
    again = video(external_id="abc")
    assert again.pk == first.pk
    assert again.state == "analysed"
    changed = video(long_talk(1), external_id="abc")
    assert (changed.pk, changed.state, changed.round) == (first.pk, "queued", 2)


def test_the_sweep_wakes_a_worker_for_what_was_left_behind(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    made = video()
    gone = f"{queue.this_worker().rsplit(':', 2)[0]}:999999999:0.00"
    Video.objects.update(state="analysing", lease_until=timezone.now() + timedelta(seconds=60), lease_owner=gone)
    assert tasks.sweep() == 1
    assert queue.pending() == 1
    assert analysis.analyse(str(made.pk))


def test_what_is_wrong_with_a_video_is_said_before_anything_is_stored(here: Installation) -> None:
    for wrong in (
        {"title": " "},
        {"creator": "no spaces"},
        {"priority": "urgent"},
        {"url": "ftp://x"},
        {"title": "x" * 301},
        {"title": "a\x00b"},
    ):
        with pytest.raises(InvalidInput):
            video(**wrong)
    assert not Video.objects.exists()
    assert not AnalysisPart.objects.exists()


def test_a_huge_file_is_refused_at_once(here: Installation, tmp_path: Any) -> None:
    seed()
    huge = tmp_path / "huge.vtt"
    huge.write_bytes(b"WEBVTT\n\n" + b"x" * 50_000_000)
    with pytest.raises(TooLarge, match=r"huge\.vtt, line 1"):
        call_command("analyze", str(huge))
    assert not Video.objects.exists()
