"""The doctor's report, the system checks, and what all commands share."""

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import BaseCommand
from django.utils.module_loading import autodiscover_modules
from pytest_django.fixtures import Settings

from ziggie import checks, commands, doctor
from ziggie.commands import ZiggieCommand
from ziggie.doctor import Finding, Problem
from ziggie.errors import InvalidInput


@pytest.fixture
def registry() -> Iterator[dict[str, doctor.Check]]:
    """The doctor without its own checks."""
    autodiscover_modules("doctor")
    kept = dict(doctor._checks)
    doctor._checks.clear()
    yield doctor._checks
    doctor._checks.clear()
    doctor._checks.update(kept)


def test_each_check_says_how_it_is_and_none_stops_another(registry: dict[str, doctor.Check]) -> None:
    @doctor.check("fine")
    def fine() -> str:
        return "all well"

    @doctor.check("broken")
    def broken() -> str:
        raise ZeroDivisionError("by zero")

    @doctor.check("leaning", needs="broken")
    def leaning() -> str:
        raise AssertionError("not run when what it needs has failed")

    @doctor.check("optional")
    def optional() -> str:
        raise Problem("not there", hint="fetch it", needed=False)

    @doctor.check("several")
    def several() -> Iterator[Finding]:
        yield Finding("one", "ok", "here")
        yield Finding("two", "warning", "silent", "ask it")

    found = {finding.name: finding for finding in doctor.examine()}
    assert [(name, found[name].state) for name in found] == [
        ("fine", "ok"),
        ("broken", "failed"),
        ("leaning", "failed"),
        ("optional", "warning"),
        ("one", "ok"),
        ("two", "warning"),
    ]
    assert found["optional"].hint == "fetch it"
    assert "broken" in found["leaning"].text


@pytest.mark.django_db
def test_database_extension_and_tables_of_a_migrated_database_are_well() -> None:
    assert doctor.check_database().startswith("PostgreSQL ")
    assert doctor.check_vector().startswith("pgvector ")
    assert doctor.check_migrations() == "all applied"
    assert "UTC" in doctor.check_clock()


@pytest.mark.django_db
def test_a_clock_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MOST_CLOCK_SECONDS", -1.0)
    with pytest.raises(Problem, match="apart from the database") as caught:
        doctor.check_clock()
    assert "NTP" in caught.value.hint


def test_a_full_disk_fails_and_a_filling_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_FREE_BYTES", 1 << 62)
    with pytest.raises(Problem) as caught:
        doctor.check_disk()
    assert not caught.value.needed
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 62)
    with pytest.raises(Problem) as caught:
        doctor.check_disk()
    assert caught.value.needed


def ids(*found: list[Any]) -> list[str]:
    return [message.id for messages in found for message in messages]


def test_debug_is_no_worry_on_this_machine_alone(settings: Settings) -> None:
    settings.DEBUG = True
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        settings.HOST = host
        assert checks.check_reach(None) == []
    settings.HOST = "192.0.2.7"
    assert ids(checks.check_reach(None)) == ["ziggie.W002"]


def test_listening_everywhere_wants_names(settings: Settings) -> None:
    settings.DEBUG = False
    settings.HOST = "0.0.0.0"
    settings.ALLOWED_HOSTS = ["0.0.0.0", "localhost"]
    assert ids(checks.check_reach(None)) == ["ziggie.W003"]
    settings.ALLOWED_HOSTS = ["*"]
    assert ids(checks.check_reach(None)) == ["ziggie.W004"]
    settings.ALLOWED_HOSTS = ["ziggie.example"]
    assert checks.check_reach(None) == []


def test_one_secret_for_two_purposes_is_worth_a_warning(settings: Settings) -> None:
    settings.DEBUG = False
    settings.SECRET_KEY = settings.FIELD_ENCRYPTION_KEY = "one for both"
    assert ids(checks.check_secret_key(None)) == ["ziggie.W001"]


@pytest.mark.parametrize(("workers", "port", "expected"), [(0, 8000, "E002"), (65, 8000, "E002"), (2, 70000, "E003")])
def test_numbers_that_cannot_work_are_errors(settings: Settings, workers: int, port: int, expected: str) -> None:
    settings.WORKERS, settings.PORT = workers, port
    assert ids(checks.check_numbers(None)) == [f"ziggie.{expected}"]


class Chatty(ZiggieCommand):
    offers_json = True

    def handle(self, **options: Any) -> None:
        sys.stdout.write("a library prints\n")
        self.stdout.write("working …")
        self.emit({"cost_usd": "0.09"}, "It cost $0.09")


def run(command: BaseCommand, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    command.run_from_argv(["manage.py", "chatty", *words])
    output = capsys.readouterr()
    return output.out, output.err


@pytest.mark.django_db
def test_with_json_stdout_holds_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(Chatty(), "--json", "--skip-checks", capsys=capsys)
    assert json.loads(out) == {"cost_usd": "0.09"}
    assert "a library prints" in err
    assert "working" in err
    out, _err = run(Chatty(), "--skip-checks", capsys=capsys)
    assert out == "a library prints\nworking …\nIt cost $0.09\n"


def test_a_result_can_be_caught_by_a_caller() -> None:
    caught = io.StringIO()
    Chatty().execute(json=True, stdout=caught, skip_checks=True, force_color=False, no_color=True)
    assert json.loads(caught.getvalue()) == {"cost_usd": "0.09"}


def test_an_error_is_one_line_with_its_details_below(capsys: pytest.CaptureFixture[str]) -> None:
    error = InvalidInput("two faults\nin the file", details=[{"where": "line 3", "message": "no such key"}])
    assert commands.report(error) == 2
    assert capsys.readouterr().err == "two faults in the file\n  line 3: no such key\n"
