"""static/live.js in a real browser: what happens elsewhere shows on a page that sits still."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.ports import free_port
from tests.ziggie.live_process import CHROMIUM, database_url, web_server
from ziggie import live
from ziggie.pglayer import GAP_GROUP, GAP_TYPE, PostgresChannelLayer

# One event loop for all, because they share a browser.
pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True), pytest.mark.asyncio(loop_scope="module")]
APPLICATION = "tests.ziggie.live_site:application"
RUNS = [f"01890a5d-ac96-774b-bcce-b302099a80{number:02x}" for number in range(10)]


class Site:
    """The page in the browser, the rows behind it, and the events about them."""

    def __init__(self, page: Page, port: int, file: Path) -> None:
        self.page = page
        self.port = port
        self.file = file
        self.now = self.empty()
        self.save()

    @staticmethod
    def empty() -> dict[str, Any]:
        return {"rows": {}, "figures": "0 calls", "alone": RUNS[0], "body": "asleep"}

    @staticmethod
    def write_state(file: Path, now: dict[str, Any]) -> None:
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(now))
        draft.rename(file)

    def save(self) -> None:
        self.write_state(self.file, self.now)

    def write(self, run_id: str, status: str, version: int) -> None:
        self.now["rows"][run_id] = {"status": status, "version": version}
        self.save()

    async def announce(self, run_id: str, status: str, version: int, **data: Any) -> None:
        await live.apublish("runs", "run.changed", version=version, data={"run_id": run_id, "status": status, **data})

    async def open(self) -> None:
        url = f"http://127.0.0.1:{self.port}/"
        # The page compares itself with the server once it is connected.
        async with self.page.expect_response(lambda r: r.url == url and r.request.resource_type == "fetch") as compared:
            await self.page.goto(url)
        await (await compared.value).finished()
        await expect(self.page.locator("[data-live-connection]")).to_have_text("Live")
        await asyncio.sleep(0.3)  # it has the answer and will use it

    async def rows(self) -> list[str]:
        return await self.page.locator("#list tr").all_inner_texts()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, transactional_db: None) -> AsyncIterator[BrowserContext]:
    def log_in() -> str:
        client = Client()
        client.force_login(User.objects.create_user("ada", password="x", is_staff=True))
        return client.cookies["sessionid"].value

    made = await browser.new_context()
    made.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    cookie = await sync_to_async(log_in)()
    await made.add_cookies([{"name": "sessionid", "value": cookie, "domain": "127.0.0.1", "path": "/"}])
    yield made
    await made.close()


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("site") / "state.json"
    Site.write_state(file, Site.empty())
    return file


@pytest.fixture(scope="module")
def environment(django_db_setup: None, state_file: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url(connection.settings_dict),
        "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"],
        "LIVE_SITE_STATE": str(state_file),
    }


@pytest.fixture(scope="module")
def port(environment: dict[str, str]) -> Iterator[int]:
    with web_server(application=APPLICATION, environment=environment) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def layer(own_layer: PostgresChannelLayer) -> AsyncIterator[None]:
    yield
    await own_layer.flush()


@pytest_asyncio.fixture(loop_scope="module")
async def site(context: BrowserContext, layer: None, port: int, state_file: Path) -> Site:
    return Site(await context.new_page(), port, state_file)


async def test_rows_appear_change_and_keep_their_order_and_number(site: Site) -> None:
    await site.open()
    await expect(site.page.locator("[data-live-empty]")).to_have_count(1)
    for run_id in (RUNS[3], RUNS[1], RUNS[5]):
        site.write(run_id, f"queued {run_id[-1]}", 1)
        await site.announce(run_id, "queued", 1)
    await expect(site.page.locator("#list tr")).to_have_text(["queued 5", "queued 3", "queued 1"])
    await expect(site.page.locator("[data-live-empty]")).to_have_count(0)

    site.write(RUNS[3], "completed 3", 2)
    await site.announce(RUNS[3], "completed", 2)
    await expect(site.page.locator("#list tr")).to_have_text(["queued 5", "completed 3", "queued 1"])

    for run_id in (RUNS[6], RUNS[7], RUNS[8]):
        site.write(run_id, f"new {run_id[-1]}", 1)
        await site.announce(run_id, "queued", 1)
    await expect(site.page.locator("#list tr")).to_have_text(["new 8", "new 7", "new 6", "queued 5", "completed 3"])


async def test_fields_are_filled_from_the_event_and_older_events_are_ignored(site: Site) -> None:
    await site.open()
    fields = site.page.locator("#fields")
    await site.announce(RUNS[0], "waiting_approval", 5, progress=80, seconds=1.25, error="<img src=x onerror=alert(1)>")
    await expect(fields.locator(".chip")).to_have_text("waiting approval")
    await expect(fields.locator(".chip")).to_have_class("chip waiting_approval")
    await expect(fields.locator("progress")).to_have_js_property("value", 80)
    await expect(fields.locator("b")).to_have_text("1.3")
    await expect(fields.locator("i")).to_have_text("<img src=x onerror=alert(1)>")
    await site.announce(RUNS[0], "queued", 4, progress=0)
    await site.announce(RUNS[0], "working", 5, progress=90)  # the same version may bring news
    await expect(fields.locator("progress")).to_have_js_property("value", 90)
    await expect(fields.locator(".chip")).to_have_text("working")


async def test_an_element_alone_is_rendered_anew_by_the_server(site: Site) -> None:
    await site.open()
    site.now["body"] = "<p>awake</p>"
    site.save()
    await site.announce(RUNS[0], "working", 1)
    await expect(site.page.locator("#alone p")).to_have_text("awake")


async def test_an_event_without_data_still_brings_the_row_up_to_date(site: Site) -> None:
    await site.open()
    site.write(RUNS[2], "failed", 3)
    await site.announce(RUNS[2], "failed", 3, error="x" * 20_000)
    await expect(site.page.locator("#list tr")).to_have_text(["failed"])


async def test_a_region_is_refreshed_on_its_topics_and_not_for_each_of_many_events(site: Site) -> None:
    await site.open()
    asked: list[str] = []
    site.page.on("request", lambda request: asked.append(request.url))
    began = time.monotonic()
    for number in range(1, 31):
        site.now["figures"] = f"{number} calls"
        site.save()
        await live.apublish("usage", "usage.recorded", version=1, data=usage(number))
    await expect(site.page.locator("#figures")).to_have_text("30 calls")
    assert sum("/figures/" in url for url in asked) < 3 + (time.monotonic() - began)  # one a second


def usage(number: int) -> live.UsageRecorded:
    return {
        "call_id": f"01890a5d-ac96-774b-bcce-b302099b80{number:02x}",
        "model": "m",
        "provider": "p",
        "source": "local",
        "cost_usd": "0",
        "saved_usd": "0",
        "input_tokens": 1,
        "output_tokens": 1,
        "seconds": 1.0,
        "task_kind": "chat",
    }


async def test_after_a_gap_the_page_reads_the_truth_again(site: Site) -> None:
    site.write(RUNS[1], "working", 1)
    await site.open()
    site.write(RUNS[1], "completed", 2)
    site.write(RUNS[2], "queued", 1)
    site.now["figures"] = "7 calls"
    site.save()
    await asyncio.sleep(0.2)
    assert await site.rows() == ["working"]
    await get_channel_layer().group_send(GAP_GROUP, {"type": GAP_TYPE})
    await expect(site.page.locator("#list tr")).to_have_text(["queued", "completed"])
    await expect(site.page.locator("#figures")).to_have_text("7 calls")


async def test_the_page_reconnects_by_itself_and_makes_up_for_what_it_missed(
    context: BrowserContext, layer: None, environment: dict[str, str], state_file: Path
) -> None:
    status = (page := await context.new_page()).locator("[data-live-connection]")
    first = web_server(application=APPLICATION, port=free_port(), environment=environment)
    site = Site(page, await asyncio.to_thread(first.__enter__), state_file)
    site.write(RUNS[1], "working", 1)
    await site.open()
    await asyncio.to_thread(first.__exit__, None, None, None)
    await expect(status).to_have_text("Not live: reconnecting…")
    site.write(RUNS[1], "completed", 2)
    second = web_server(application=APPLICATION, port=site.port, environment=environment)
    await asyncio.to_thread(second.__enter__)
    try:
        await expect(page.locator("#list tr")).to_have_text(["completed"], timeout=60_000)
        await expect(status).to_have_text("Live")
    finally:
        await asyncio.to_thread(second.__exit__, None, None, None)


async def test_a_page_whose_session_is_over_says_so_and_stops_asking(site: Site) -> None:
    await site.open()
    site.now["signed_out"] = True
    site.save()
    await sync_to_async(Session.objects.all().delete)()
    await get_channel_layer().group_send(GAP_GROUP, {"type": GAP_TYPE})
    await expect(site.page.locator("[data-live-connection]")).to_have_text("Signed out: log in again")
    asked: list[str] = []
    site.page.on("request", lambda request: asked.append(request.url))
    site.page.on("websocket", lambda socket: asked.append(socket.url))
    await asyncio.sleep(2)
    assert asked == []


async def test_the_keyboards_place_survives_a_change_of_its_row(site: Site) -> None:
    site.write(RUNS[1], "working", 1)
    await site.open()
    await site.page.locator("#list a").focus()
    site.write(RUNS[1], "completed", 2)
    await site.announce(RUNS[1], "completed", 2)
    await expect(site.page.locator("#list a")).to_have_text("completed")
    await expect(site.page.locator("#list a")).to_be_focused()


async def test_the_script_raises_no_error_under_a_strict_content_security_policy(site: Site) -> None:
    complaints: list[str] = []
    site.page.on("pageerror", lambda error: complaints.append(str(error)))
    site.page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    await site.open()
    site.write(RUNS[1], "<script>document.title = 'owned'</script>", 1)
    await site.announce(RUNS[1], "working", 1)
    await expect(site.page.locator("#list a")).to_have_text("<script>document.title = 'owned'</script>")
    assert complaints == []
    assert await site.page.title() == "live"
