"""Starting a run from the list: the run gets what was typed, and one mistake costs nobody the rest of it."""

import html

import pytest
from django.test import Client

from agents.models import AgentRun
from agents.seeding import seed as seed_agents
from routing.configuration import snapshot
from tests.seeding import seed

pytestmark = pytest.mark.django_db(transaction=True)
TYPED = {"agent": "assistant", "prompt": "Weigh it.", "budget_usd": "0.25", "callback_url": "https://example.com/done"}


@pytest.fixture
def staff(transactional_db: None, admin_client: Client) -> Client:
    seed()
    seed_agents()
    snapshot.forget()
    return admin_client


def test_a_run_gets_the_budget_and_the_callback_that_were_typed(staff: Client) -> None:
    answer = staff.post("/runs/", TYPED)
    run = AgentRun.objects.get()
    assert answer.headers["location"] == f"/runs/{run.pk}/"
    assert (run.budget_microusd, run.callback_url) == (250_000, "https://example.com/done")
    page = html.unescape(staff.get(f"/runs/{run.pk}/").content.decode())
    assert "$0.25" in page
    assert "Callback to https://example.com/done" in page


def test_a_run_needs_neither(staff: Client) -> None:
    staff.post("/runs/", {"agent": "assistant", "prompt": "Weigh it."})
    run = AgentRun.objects.get()
    assert (run.budget_microusd, run.callback_url) == (None, "")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("budget_usd", "a lot", "Budget: not an amount of dollars: 'a lot'"),
        ("budget_usd", "-1", "Budget: must be from 0"),
        ("budget_usd", "1e12", "Budget: must be from 0 to 100000000 dollars"),
        ("budget_usd", "NaN", "Budget: not an amount"),
        ("callback_url", "ftp://example.com", "callback_url"),
        ("prompt", " ", "prompt: must not be empty"),
        ("agent", "nobody", "agent: there is none called 'nobody'"),
        ("agent", "\0", "holds a NUL"),
    ],
)
def test_what_was_typed_is_there_again_beside_what_was_wrong(
    staff: Client, name: str, value: str, complaint: str
) -> None:
    answer = staff.post("/runs/", {**TYPED, name: value})
    assert 400 <= answer.status_code < 500
    page = html.unescape(answer.content.decode())
    assert complaint in page
    assert all(typed in page for typed in ({**TYPED, name: value}).values() if typed.strip(" \0"))
    assert not AgentRun.objects.exists()
