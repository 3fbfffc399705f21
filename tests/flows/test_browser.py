"""Staff at a browser: what workers do shows on a page that nobody touches."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.flows.jobs import TALK, post_video
from tests.flows.system import System

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
WORK_MS = 60_000
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def page(system: System) -> Iterator[Page]:
    """A page whose user has logged in. Nothing may go wrong in its console."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(base_url=system.url)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto("/")
        assert "/login/" in page.url
        assert system.login is not None
        page.get_by_label("Name").fill(system.login[0])
        page.get_by_label("Password").fill(system.login[1])
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
        yield page
        browser.close()
    assert problems == []


def test_the_dashboard_shows_an_analysis_while_it_sits_still(system: System, page: Page) -> None:
    page.goto("/")
    expect(page.locator("[data-live-connection]")).to_have_text("Live")
    page.evaluate("window.untouched = true")
    post_video(system, system.api_key("browser"), title="Seen on a still page")
    row = page.locator("tr", has_text="Seen on a still page")
    expect(row.locator(".chip")).to_have_text("needs review", timeout=WORK_MS)
    expect(row).to_contain_text("offline")
    assert page.evaluate("window.untouched") is True
    figure = page.locator(".figures div", has_text="Saved").locator("dd")
    expect(figure).not_to_have_text("$0.000000")


def test_a_transcript_is_uploaded_analysed_and_analysed_again(system: System, page: Page, tmp_path: Path) -> None:
    talk = tmp_path / "sprites.vtt"
    talk.write_text(TALK)
    page.goto("/knowledge/")
    page.get_by_label("Transcript (.vtt").set_input_files(talk)
    page.get_by_label("Title", exact=True).fill("Uploaded by hand")
    page.get_by_label("Creator", exact=True).fill("instasd")
    page.get_by_role("button", name="Analyse", exact=True).click()
    expect(page.get_by_role("heading", name="Uploaded by hand")).to_be_visible()
    expect(page.get_by_role("heading", name="Key points")).to_be_visible(timeout=WORK_MS)
    page.get_by_role("button", name="Analyse again").click()
    expect(page.locator("[role=status] .chip")).to_have_text("needs review", timeout=WORK_MS)
    assert system.rows("SELECT max(round) FROM knowledge_analysis") == [(2,)]


def test_a_bad_upload_is_refused_with_its_line(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.srt"
    broken.write_text("1\n00:00:05,000 --> 00:00:02,000\nbackwards\n")
    page.goto("/knowledge/")
    page.get_by_label("Transcript (.vtt").set_input_files(broken)
    page.get_by_label("Creator", exact=True).fill("instasd")
    page.get_by_role("button", name="Analyse", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("broken.srt, line 2")


def test_a_run_is_started_and_its_page_ends_with_the_answer(page: Page) -> None:
    page.goto("/runs/")
    page.get_by_label("Agent").select_option(label="Assistant (L3)")
    page.get_by_label("Task").fill("The shop opens at nine.\n\nWhen does the shop open?")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("heading", name="Answer")).to_be_visible(timeout=WORK_MS)
    expect(page.locator("[role=status] .chip")).to_have_text("completed")
