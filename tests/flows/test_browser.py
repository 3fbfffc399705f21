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
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def page(system: System) -> Iterator[Page]:
    """A page whose user has logged in. Nothing may go wrong in its console."""
    expect.set_options(timeout=WORK_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_context(base_url=system.url).new_page()
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
    expect(row.locator(".chip")).to_have_text("needs review")
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
    expect(page.get_by_role("heading", name="Key points")).to_be_visible()
    page.get_by_role("button", name="Analyse again").click()
    expect(page.locator("[role=status] .chip").first).to_have_text("needs review")
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
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()
    expect(page.locator("[role=status] .chip")).to_have_text("completed")


# --- what staff decide ---------------------------------------------------------------------------


def test_an_analysis_is_approved_and_another_page_shows_it(page: Page) -> None:
    page.goto("/knowledge/")
    page.get_by_role("link", name="Uploaded by hand").click()
    watching = page.context.new_page()
    watching.goto(page.url)
    expect(watching.locator("[data-live-connection]")).to_have_text("Live")
    page.get_by_label("Note").fill("checked against the video")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("[role=status] .chip").first).to_have_text("analysed")
    expect(watching.get_by_text("checked against the video")).to_be_visible()
    expect(watching.locator("[role=status] .chip").first).to_have_text("analysed")
    watching.close()
    page.get_by_role("button", name="Take back").click()
    expect(page.locator("[role=status] .chip").first).to_have_text("needs review")


def test_a_run_leads_to_the_receipt_of_its_call_and_back(page: Page) -> None:
    page.goto("/runs/")
    page.locator("td.main a").first.click()
    page.get_by_role("link", name="Receipt").click()
    expect(page.get_by_role("heading", name="Models that were looked at")).to_be_visible()
    expect(page.locator("dd", has_text="estimated").first).to_be_visible()
    page.locator("dl a", has_text="When does the shop open?").click()
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()


def test_explain_is_asked_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/policies/explain/")
    page.get_by_label("Task kind").focus()
    page.keyboard.type("analysis")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("high")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#answer-title")).to_contain_text("would serve")  # whether Ollama is known to be away or not
    expect(page.get_by_text("critical and high analysis")).to_be_visible()
    expect(page.locator("tr", has_text="claude-sonnet-4-5")).to_contain_text("has no API key")


def test_a_tick_stands_at_no_other_price_when_its_own_has_gone_and_the_browser_goes_back(page: Page) -> None:
    page.goto("/usage/prices/")
    offers = page.locator("input[name=accept]")
    count = offers.count()
    assert count > 1
    offers.first.check()
    page.get_by_role("button", name="Take over what is ticked").click()
    expect(offers).to_have_count(count - 1)
    page.go_back()
    expect(offers).to_have_count(count - 1)
    expect(page.locator("input[name=accept]:checked")).to_have_count(0)


def test_a_draft_is_published_with_its_evidence_after_a_confirmation(system: System, page: Page) -> None:
    page.goto("/policies/")
    page.get_by_role("link", name="default version 1").first.click()
    page.get_by_role("button", name="Duplicate as a draft").click()
    page.get_by_role("link", name="Look and publish…").click()
    expect(page.get_by_role("heading", name="What changes")).to_be_visible()
    expect(page.get_by_text("calls of 7 days, at today's prices")).to_be_visible()
    page.get_by_role("button", name="Publish version 2").click()
    assert page.url.endswith("/publish/")  # the box is not ticked yet
    page.get_by_label("I have looked").check()
    page.get_by_role("button", name="Publish version 2").dblclick()
    expect(page.get_by_role("status").filter(has_text="default version 2 is live.")).to_be_visible()
    assert system.rows("SELECT version, state FROM routing_routingpolicy ORDER BY version") == [
        (1, "retired"),
        (2, "live"),
    ]


PHONE_PAGES = (
    "/",
    "/runs/",
    "/knowledge/",
    "/usage/",
    "/usage/calls/",
    "/usage/prices/",
    "/usage/statements/",
    "/policies/",
    "/policies/default/2/",
    "/policies/explain/",
    "/providers/",
)


def test_every_page_fits_a_phone_and_shows_what_was_paid_and_saved(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for path in PHONE_PAGES:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth <= 390"), path
        if path in ("/runs/", "/knowledge/", "/usage/calls/"):
            for name in ("Cost", "Saved"):
                figure = page.locator(f"td[data-label={name}]").first
                expect(figure).to_contain_text("$")
                box = figure.bounding_box()
                assert box is not None
                assert 0 <= box["x"] < box["x"] + box["width"] <= 390
