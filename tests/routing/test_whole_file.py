"""The routing file through each of its doors: the command, REST and the admin."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from routing.configuration import routing_file, snapshot
from routing.configuration.text import MAX_BYTES
from routing.models import RoutingPolicy
from tests.routing.test_routing_file import HOSTILE
from tests.seeding import seed
from ziggie.errors import ZiggieError
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db
LOAD = "/admin/routing/routingpolicy/load-file/"
TEN_MISTAKES = """
providers:
  - {slug: ollama, kind: olama, location: local}
  - {slug: far, kind: openai, location: cloud, base_url: "ftp://x", timeout_seconds: 0}
models:
  - {slug: llama3.2, provider: nobody, name: llama3.2, context_window: 12}
  - {slug: cheap, provider: ollama, name: cheap, context_window: 8192,
     input_usd_per_mtok: "-1", output_usd_per_mtok: .nan}
policies:
  - slug: default
    live: true
    rules:
      - {name: all, chain: [llama3.2, gpt-9], options: {max_attempts: 0}, wen: {}}
settings: {strategy: cheapest}
"""
PLACES = (
    "3:26 providers[0].kind",
    "4:58 providers[1].base_url",
    "4:86 providers[1].timeout_seconds",
    "6:32 models[0].provider",
    "6:72 models[0].context_window",
    "8:26 models[1].input_usd_per_mtok",
    "8:53 models[1].output_usd_per_mtok",
    "13:39 policies[0].rules[0].chain[1]",
    "13:71 policies[0].rules[0].options.max_attempts",
    "13:80 policies[0].rules[0].wen",
    "14:22 settings.strategy",
)


@pytest.fixture
def staff(db: None) -> Iterator[Client]:
    seed()
    get_user_model().objects.create_superuser("boss", password="x")
    client = Client()
    client.login(username="boss", password="x")
    yield client
    snapshot.forget()


def by_command(raw: bytes, staff: Client, folder: Path) -> str:
    file = folder / "routing.yaml"
    file.write_bytes(raw)
    try:
        call_command("routing", "apply", str(file))
    except (ZiggieError, CommandError) as error:
        details = getattr(error, "details", [])
        return "\n".join([str(error), *(f"{detail['place']} {detail['problem']}" for detail in details)])
    return ""


def by_rest(raw: bytes, staff: Client, folder: Path) -> str:
    answer = staff.put("/api/routing/file", raw, content_type="application/yaml")
    if answer.status_code == 200:
        return ""
    assert answer.status_code in (400, 413), answer.content
    error = answer.json()["error"]
    return "\n".join([error["message"], *(f"{d['place']} {d['problem']}" for d in error.get("details") or ())])


def by_upload(raw: bytes, staff: Client, folder: Path) -> str:
    file = SimpleUploadedFile("routing.yaml", raw or b" ")
    answer = staff.post(LOAD, {"file": file, "kind": "routing"})
    if answer.status_code == 302:
        return ""
    assert answer.status_code in (400, 413), answer.content
    refused = answer.context["refused"]
    shown = answer.content.decode()
    assert all(str(detail["place"]) in shown for detail in refused.details[:5])
    return "\n".join([refused.message, *(f"{d['place']} {d['problem']}" for d in refused.details)])


DOORS = [by_command, by_rest, by_upload]
Door = Callable[[bytes, Client, Path], str]


@pytest.mark.parametrize("door", DOORS)
def test_what_was_exported_is_loaded_and_changes_nothing(staff: Client, tmp_path: Path, door: Door) -> None:
    before = routing_file.export()
    versions = RoutingPolicy.objects.count()
    for raw in (before, routing_file.export("json"), before.replace("\n", "\r\n"), "\ufeff" + before):
        assert door(raw.encode(), staff, tmp_path) == ""
        assert routing_file.export() == before
    assert RoutingPolicy.objects.count() == versions


@pytest.mark.parametrize("door", DOORS)
def test_each_of_many_mistakes_is_told_with_its_place(staff: Client, tmp_path: Path, door: Door) -> None:
    before = routing_file.export()
    told = door(TEN_MISTAKES.encode(), staff, tmp_path)
    assert "11 mistakes; nothing was changed" in told
    for place in PLACES:
        assert place in told, told
    assert routing_file.export() == before


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("text", ["a bomb of aliases", "a tag", "too many rules", "not a number", "binary", "nothing"])
def test_hostile_files_are_refused_at_every_door(staff: Client, tmp_path: Path, door: Door, text: str) -> None:
    before = routing_file.export()
    assert door(HOSTILE[text].encode(), staff, tmp_path)
    assert routing_file.export() == before


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("raw", [b"a" * (MAX_BYTES + 1), b"settings: {}\n\xff\xfe", b"\x80\x81\x82" * 1000])
def test_what_is_too_large_or_no_text_is_refused_at_every_door(
    staff: Client, tmp_path: Path, door: Door, raw: bytes
) -> None:
    assert "larger than 2 MB" in (told := door(raw, staff, tmp_path)) or "is not UTF-8" in told


def test_a_file_is_taken_out_by_staff_and_by_keys(staff: Client) -> None:
    for answer in (staff.get("/admin/routing/routingpolicy/export-file/"), staff.get("/api/routing/file")):
        assert answer.status_code == 200
        assert answer.content.decode() == routing_file.export()
    as_json = staff.get("/api/routing/file?as=json")
    assert as_json["content-type"].startswith("application/json")
    assert json.loads(as_json.content) == yaml.safe_load(routing_file.export())
    assert staff.get("/api/routing/file?as=xml").status_code == 400


def test_only_staff_and_admin_keys_load_files(staff: Client) -> None:
    body = routing_file.export()
    for scopes, status in ((["gateway"], 403), (["coordinator"], 403), (["admin"], 200)):
        _, key = create_api_key("-".join(scopes), scopes=scopes)
        headers = {"Authorization": f"Bearer {key}"}
        put = Client().put("/api/routing/file", body, content_type="text/plain", headers=headers)
        assert put.status_code == status
    assert Client().put("/api/routing/file", body, content_type="text/plain").status_code == 401
    assert Client().get(LOAD).status_code == 302


def test_older_rules_become_a_draft_over_rest_and_in_the_admin(staff: Client) -> None:
    older = {"routing_rules": [{"condition": "long_context", "primary": "llama3.2"}]}
    raw = json.dumps(older).encode()
    answer = staff.post("/api/routing/import-cortex?slug=older", raw, content_type="application/json")
    assert answer.status_code == 201, answer.content
    assert (answer.json()["policy"], bool(answer.json()["mapped"])) == ("older", True)
    upload = staff.post(LOAD, {"file": SimpleUploadedFile("r.json", raw), "kind": "cortex"}, follow=True)
    assert b"There is a draft cortex version 1." in upload.content
    assert set(RoutingPolicy.objects.filter(state="draft").values_list("slug", flat=True)) == {"older", "cortex"}
    for bad in (b"[]", b"{}", b"nonsense"):
        assert staff.post("/api/routing/import-cortex", bad, content_type="application/json").status_code == 400
    assert staff.post("/api/routing/import-cortex?slug=a/b", raw, content_type="application/json").status_code == 400


def test_the_upload_page_asks_for_a_file(staff: Client) -> None:
    page = staff.get(LOAD)
    assert page.status_code == 200
    assert 'type="file"' in page.content.decode()
    assert staff.post(LOAD, {"kind": "routing"}).status_code == 200


# --- how much of the machine a hostile file may take -----------------------------------------------

READ = """
import os, resource, sys
import django
django.setup()
from routing.configuration.reading import read
from routing.configuration.text import decode, parse
from ziggie.errors import ZiggieError
def most_memory():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def measure(path):
    open("/proc/self/clear_refs", "w").write("5")  # forgets the most that there was
    memory = most_memory()
    before = resource.getrusage(resource.RUSAGE_SELF)
    problems = []
    try:
        parsed = parse(decode(open(path, "rb").read(2 * 1024 * 1024 + 1), "file"))
        problems = parsed.problems or read(parsed.data)[1]
    except ZiggieError as error:
        problems = [error]
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(len(problems), seconds, most_memory() - memory, flush=True)
for path in sys.stdin:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            print("failed", flush=True)
    else:
        measure(path.strip())
        os._exit(0)
"""
RULES = "".join(f"  - {{slug: p{i}, rules: [{'{name: x},' * 1000}]}}\n" for i in range(100))
LARGE = {
    **{name: HOSTILE[name].encode() for name in ("deep lists", "deep mappings", "deep blocks", "a million values")},
    **{name: HOSTILE[name].encode() for name in ("a million values in JSON", "many bad entries", "a huge number")},
    "billion laughs": (
        "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i},*a{i},*a{i}]\n" for i in range(60))
    ).encode(),
    "a hundred thousand rules": f"policies:\n{RULES}".encode(),
    "fifty megabytes": b"x: y\n" * 10_000_000,
    "noise": bytes(range(256)) * 8000,
    "one long line": b"'" + b"a" * 2_000_000,
}


@pytest.fixture(scope="module")
def forking() -> Iterator["subprocess.Popen[str]"]:
    """Reads each file whose path it is told in a process of its own, in which all is loaded already."""
    with subprocess.Popen(
        [sys.executable, "-c", READ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=settings.BASE_DIR,
        env={"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "", "ZIGGIE_HOME": str(settings.ZIGGIE_HOME)},
    ) as process:
        yield process


@pytest.mark.parametrize("name", LARGE)
def test_a_hostile_file_takes_a_second_and_little_memory_in_a_process_of_its_own(
    name: str, forking: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert forking.stdin is not None
    assert forking.stdout is not None
    file = tmp_path / "file"
    file.write_bytes(LARGE[name])
    print(file, file=forking.stdin, flush=True)
    problems, seconds, kilobytes = map(float, forking.stdout.readline().split())
    print(f"\n{name}: {seconds:.2f} s, {kilobytes / 1024:.0f} MB")
    assert problems >= 1
    assert seconds < 10  # of the processor; a second on a machine of its own
    assert kilobytes < 150_000
