"""Analyses of a rule with `batch: true`: they wait for its window, or go by a provider's batch."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from knowledge import analysis, waiting
from knowledge.models import Analysis, AnalysisPart, Video
from knowledge.transcripts import parse
from knowledge.videos import NewVideo, add_video, request_analysis
from routing.batches import batching
from routing.configuration import snapshot
from routing.models import BatchItem, BudgetPeriod, ProviderBatch, RoutedCall
from tests.flows.jobs import TALK, insights
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.ids import uuid7
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db(transaction=True)
CLOUD_RULE, LOCAL_RULE = "critical and high analysis", "medium and low analysis"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text=json.dumps(insights(90)))
        installation.anthropic.default = Reply(text=json.dumps(insights(95)), input_tokens=10_000, output_tokens=4_000)
        yield installation


def video(priority: str) -> Video:
    new = NewVideo(creator="instasd", title="Sprites", priority=priority)
    return add_video(new, parse(TALK.encode(), name="talk.vtt"), wake_worker=False)[0]


def window(*, is_open: bool) -> str:
    """An hour that is now, or one that is far from it."""
    begins = datetime.now(UTC) + timedelta(hours=-1 if is_open else 10)
    return f"{begins:%H:%M}-{begins + timedelta(hours=2):%H:%M}"


def tick() -> None:
    """A minute later."""
    snapshot.forget()
    ProviderBatch.objects.update(checked_at=timezone.now() - timedelta(minutes=2))
    batching.tick()


def test_an_analysis_waits_for_the_window_of_its_rule(here: Installation) -> None:
    closed = window(is_open=False)
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": closed})
    made = video("low")
    for _ in range(8):  # looking costs none of its tries
        assert not analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert (made.state, made.step, made.tries) == ("queued", f"waits for the time between {closed}", 0)
    assert not here.ollama.calls
    here.change_rule(LOCAL_RULE, options={"batch_window": window(is_open=True)})
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert (made.state, Analysis.objects.get().model) == ("analysed", "llama3.2")
    assert not BatchItem.objects.exists()


def test_what_a_provider_can_batch_goes_by_its_batch_at_half_price(here: Installation) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": window(is_open=True)})
    made = video("critical")
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert (made.state, made.step, made.lease_until) == ("queued", "waits for the answer of a batch", None)
    tick()
    assert not analysis.analyse(str(made.pk))
    assert not waiting.sweepable().exists()
    assert len(here.anthropic.batches["msgbatch_1"]) == 1
    tick()
    assert waiting.sweepable().get() == made
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    found = Analysis.objects.get()
    assert (made.state, found.model, found.confidence) == ("analysed", "claude-sonnet-4-5", 95)
    assert found.cost_microusd == 45_000  # 10,000 in and 4,000 out would be $0.09
    call = RoutedCall.objects.get()
    assert (found.call_ids, AnalysisPart.objects.get().call_id, call.bodies) == ([str(call.pk)], call.pk, None)
    here.assert_books_are_closed()


def test_a_batch_waits_for_its_window_itself(here: Installation) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": window(is_open=False)})
    made = video("critical")
    assert analysis.analyse(str(made.pk))
    tick()
    assert not analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert made.step.startswith("waits for the time between")
    assert made.step.endswith(", then the answer of a batch")
    assert BatchItem.objects.get().state == "queued"
    assert not here.anthropic.batches


def test_an_answer_that_is_no_analysis_is_asked_for_again_at_once(here: Installation) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": ""})
    wrong = insights(95, key_points=[{"text": "beyond the end", "start_seconds": -5}])
    here.anthropic.default = Reply(text=json.dumps(wrong), input_tokens=100, output_tokens=100)
    made = video("critical")
    analysis.analyse(str(made.pk))
    tick()
    tick()
    here.anthropic.default = Reply(text=json.dumps(insights(95)), input_tokens=100, output_tokens=100)
    for pk in BatchItem.objects.filter(state="ready").values_list("pk", flat=True):
        batching.run(str(pk))
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert (made.state, Analysis.objects.get().source) == ("analysed", "cloud")
    here.assert_books_are_closed()


def test_work_that_failed_as_a_batch_is_asked_for_again_at_once(here: Installation) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": ""})
    made = video("critical")
    analysis.analyse(str(made.pk))
    BatchItem.objects.update(state="failed", error="given up", request=None)
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert made.state == "analysed"


def test_who_waits_for_an_analysis_gets_it_at_once(here: Installation, tmp_path: Path) -> None:
    for rule in (CLOUD_RULE, LOCAL_RULE):
        here.change_rule(rule, options={"batch": True, "batch_window": window(is_open=False)})
    file = tmp_path / "talk.vtt"
    file.write_text(TALK)
    out = StringIO()
    call_command("analyze", str(file), "--priority", "critical", "--json", stdout=out)
    assert json.loads(out.getvalue())["state"] == "analysed"
    assert not BatchItem.objects.exists()


def post(made: Video, action: str) -> int:
    key = create_api_key(uuid7().hex, scopes=["coordinator"])[1]
    headers = {"Authorization": f"Bearer {key}"}
    return Client().post(f"/api/knowledge/videos/{made.pk}/{action}", headers=headers).status_code


def test_a_video_that_waits_for_its_window_is_hurried(here: Installation, admin_client: Client) -> None:
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": window(is_open=False)})
    made = video("low")
    assert post(made, "hurry") == 409  # nobody has looked at it yet
    analysis.analyse(str(made.pk))
    page = admin_client.get("/policies/waiting/").content.decode()
    assert f"/knowledge/videos/{made.pk}/" in page
    assert "Analyse now" in admin_client.get(f"/knowledge/videos/{made.pk}/").content.decode()
    admin_client.post(f"/knowledge/videos/{made.pk}/hurry/")
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert made.state == "analysed"
    assert f"/knowledge/videos/{made.pk}/" not in admin_client.get("/policies/waiting/").content.decode()


def test_a_video_whose_batch_is_out_is_analysed_now_and_the_batch_is_cancelled(here: Installation) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": ""})
    here.anthropic.batches_end = False
    made = video("critical")
    analysis.analyse(str(made.pk))
    tick()
    analysis.analyse(str(made.pk))
    assert post(made, "hurry") == 202
    assert analysis.analyse(str(made.pk))
    tick()
    assert here.anthropic.batches_cancelled == {"msgbatch_1"}
    tick()
    made.refresh_from_db()
    assert (made.state, Analysis.objects.get().cost_microusd) == ("analysed", 90_000)
    assert BudgetPeriod.objects.get().settled_microusd == 90_000
    assert post(made, "hurry") == 409
    here.assert_books_are_closed()


def test_the_next_analysis_of_a_video_that_was_hurried_waits_again(here: Installation) -> None:
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": window(is_open=False)})
    made = video("low")
    analysis.analyse(str(made.pk))
    post(made, "hurry")
    analysis.analyse(str(made.pk))
    made.refresh_from_db()
    request_analysis(made, wake_worker=False)
    assert not analysis.analyse(str(made.pk))


def test_parts_that_no_batch_could_answer_are_read_within_the_window(here: Installation) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": window(is_open=True)})
    here.anthropic.batch_kinds = {"": "errored"}
    made = video("critical")
    analysis.analyse(str(made.pk))
    for _ in range(3):
        tick()
    here.change_rule(CLOUD_RULE, options={"batch_window": window(is_open=False)})
    assert not analysis.analyse(str(made.pk))
    here.change_rule(CLOUD_RULE, options={"batch_window": window(is_open=True)})
    assert analysis.analyse(str(made.pk))
    made.refresh_from_db()
    assert made.state == "analysed"
    here.assert_books_are_closed()
