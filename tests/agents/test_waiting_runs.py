"""Runs that a rule with `batch: true` takes wait for its window."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from agents import runner
from agents.models import AgentRun
from agents.seeding import seed as seed_agents
from tests.agents.test_run_budgets import run_of
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db(transaction=True)
RULE = "L3 agents"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        seed_agents()
        installation.ollama.default = Reply(text="done")
        yield installation


@pytest.fixture
def key(here: Installation) -> str:
    return create_api_key("coordinator", scopes=["coordinator"])[1]


def window(*, is_open: bool) -> str:
    begins = datetime.now(UTC) + timedelta(hours=-1 if is_open else 10)
    return f"{begins:%H:%M}-{begins + timedelta(hours=2):%H:%M}"


def micro_task(key: str, model: str) -> AgentRun:
    return run_of(key, agent="assistant", model=model)


def test_a_run_waits_for_the_window_of_its_rule(here: Installation, key: str) -> None:
    here.change_rule(RULE, options={"batch": True, "batch_window": window(is_open=False)})
    run = micro_task(key, "auto")
    for _ in range(8):  # looking costs none of its tries
        assert not runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.tries, run.started_at) == ("queued", 0, None)
    here.change_rule(RULE, options={"batch_window": window(is_open=True)})
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.answer) == ("completed", "done")


def test_a_run_that_names_its_model_waits_for_no_rule(here: Installation, key: str) -> None:
    here.change_rule(RULE, options={"batch": True, "batch_window": window(is_open=False)})
    run = micro_task(key, "llama3.2")
    assert runner.execute(str(run.pk))
