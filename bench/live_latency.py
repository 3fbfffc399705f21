"""How long an event takes from a worker process to a socket, and to pixels in a browser that sits still.

    python -m bench.live_latency [--events N] [--transport postgres|redis]

Starts a database, daphne and headless Chromium of its own; prints one JSON line for each figure:
`live.event_to_socket_ms_p50` (a client's socket), `live.event_to_pixels_ms_p50` (a field filled from the
event, first frame after the change) and `live.event_to_row_ms_p50` (a row that the server rendered anew).
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
BAR_MS = 200
PAUSE_SECONDS = 0.25
WARM_UP = 5

# Notes when each value was first on the screen: the frame after the one in which it entered the page.
OBSERVER = """() => {
  window.painted = {fields: {}, rows: {}};
  const watch = (selector, into) => new MutationObserver(() => {
    const text = document.querySelector(selector)?.textContent;
    if (text && !(text in into)) {
      into[text] = null;
      requestAnimationFrame(() => requestAnimationFrame(() => { into[text] = Date.now(); }));
    }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
  watch("#fields i", window.painted.fields);
  watch("#list a", window.painted.rows);
}"""


def worker(events: int) -> None:
    """The worker process: writes the row, then publishes; the event's `error` is the time of sending."""
    import django

    django.setup()
    from ziggie import live

    file = Path(os.environ["LIVE_SITE_STATE"])
    for number in range(events):
        sent = repr(time.time())
        write_state(file, {RUN: {"status": sent, "version": number}})
        live.publish("runs", "run.changed", version=number, data={"run_id": RUN, "status": "working", "error": sent})
        time.sleep(PAUSE_SECONDS)


def write_state(file: Path, rows: dict[str, Any]) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"rows": rows, "figures": "", "alone": RUN, "body": ""}))
    draft.rename(file)


@contextlib.contextmanager
def transport(name: str) -> Iterator[dict[str, str]]:
    if name == "postgres":
        yield {}
        return
    from tests.servers.redis_server import running_redis

    with running_redis() as url:
        yield {"REDIS_URL": url}


@contextlib.contextmanager
def installation(home: Path) -> Iterator[dict[str, str]]:
    """A database with one member of staff; the environment that leads to it and the cookie of a session."""
    from tests.ziggie.live_process import database_url
    from ziggie import embedded

    embedded.ensure_running(home, durable=False)
    try:
        url = database_url(embedded.connection_settings(home))
        yield {"DATABASE_URL": url, "ZIGGIE_HOME": str(home), "LIVE_SITE_STATE": str(home / "state.json")}
    finally:
        embedded.stop(home)


def log_in(environment: dict[str, str]) -> str:
    from tests.ziggie.live_process import Child

    code = """if True:
        import django; django.setup()
        from django.contrib.auth.models import User
        from django.test import Client
        client = Client()
        client.force_login(User.objects.create_user("bench", is_staff=True))
        print("session", client.cookies["sessionid"].value)
    """
    with Child("manage.py", "migrate", "-v0", "--skip-checks", environment=environment) as migrate:
        if migrate.process.wait(300):
            raise SystemExit("".join(migrate.output))
    with Child("-c", code, environment=environment) as child:
        return child.line(r"session (\w+)")[1]


async def read_socket(port: int, session: str, waits: list[float]) -> None:
    """Adds the milliseconds from publish to a client's socket, for each event, until it is cancelled."""
    import websockets

    async with websockets.connect(
        f"ws://127.0.0.1:{port}/ws/live/?topics=runs", additional_headers={"Cookie": f"sessionid={session}"}
    ) as socket:
        async for text in socket:
            frame = json.loads(text)
            if frame["type"] == "run.changed":
                waits.append((time.time() - float(frame["data"]["error"])) * 1000)


async def measure(environment: dict[str, str], port: int, session: str, events: int) -> dict[str, list[float]]:
    from playwright.async_api import async_playwright, expect

    from tests.ziggie.live_process import CHROMIUM, Child

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context()
        await context.add_cookies([{"name": "sessionid", "value": session, "domain": "127.0.0.1", "path": "/"}])
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("[data-live-connection]")).to_have_text("Live")
        await page.evaluate(OBSERVER)
        sockets: list[float] = []
        reading = asyncio.create_task(read_socket(port, session, sockets))
        await asyncio.sleep(1)
        with Child("-m", "bench.live_latency", "--worker", "--events", str(events), environment=environment) as child:
            if await asyncio.to_thread(child.process.wait, 120):
                raise SystemExit("".join(child.output))
        await asyncio.sleep(1)
        reading.cancel()
        painted = await page.evaluate("() => window.painted")
        await browser.close()
    pixels = {name: [at - float(sent) * 1000 for sent, at in times.items() if at] for name, times in painted.items()}
    return {"event_to_socket": sockets, "event_to_pixels": pixels["fields"], "event_to_row": pixels["rows"]}


def report(transport_name: str, measured: dict[str, list[float]]) -> None:
    for name, all_waits in measured.items():
        waits = sorted(all_waits[WARM_UP:])
        line = {
            "figure": f"live.{name}_ms_p50",
            "value": round(statistics.median(waits), 2),
            "bar": BAR_MS,
            "p95": round(waits[int(len(waits) * 0.95)], 2),
            "worst": round(waits[-1], 2),
            "events": len(waits),
            "transport": transport_name,
        }
        sys.stdout.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60)
    parser.add_argument("--transport", choices=["postgres", "redis"], default="postgres")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.events)
        return
    from tests.ziggie.live_process import web_server

    with tempfile.TemporaryDirectory() as folder, installation(Path(folder) / "home") as environment:
        session = log_in(environment)
        write_state(Path(environment["LIVE_SITE_STATE"]), {})
        with transport(options.transport) as extra:
            used = environment | extra
            with web_server(application="tests.ziggie.live_site:application", environment=used) as port:
                measured = asyncio.run(measure(used, port, session, options.events))
    report(options.transport, measured)


if __name__ == "__main__":
    main()
