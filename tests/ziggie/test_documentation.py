"""What the docs name exists, and what users may set, run or call is in the docs."""

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands
from django.urls import Resolver404, resolve
from drf_spectacular.generators import SchemaGenerator

from ziggie.errors import no_such_endpoint

ROOT = settings.BASE_DIR
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
GUIDES = {name: text for name, text in TEXTS.items() if not name.startswith("docs/adr/")}
EVERYTHING = "\n".join(GUIDES.values())
ADDRESS = r"`(?:[A-Z]+ )?(/(?:api|usage|policies|runs|knowledge|admin)/[^`\s?]*)"
OUR_APPS = ("ziggie", "routing", "knowledge", "agents", "monitoring")
EXAMPLES = {"SLUG": "default", "ID": "01890a5d-ac96-774b-bcce-b302099a8057", "VERSION": "1", "NAME": "default"}


def anchors(text: str) -> set[str]:
    """Of the headings, as the pages of repositories make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file_and_heading_that_there_are(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        page: Path = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(page.read_text(encoding="utf-8")), f"{name} links to {target}"


def test_every_variable_of_the_environment_is_in_the_guides() -> None:
    source = (ROOT / "ziggie" / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    assert len(read) > 20
    assert {name for name in read if f"`{name}" not in EVERYTHING} == set()


def test_every_command_is_in_the_guides_and_every_command_there_exists() -> None:
    commands = get_commands()
    ours = {name for name, app in commands.items() if app in OUR_APPS}
    named = set(re.findall(r"manage\.py ([a-z_]+)", EVERYTHING))
    assert named <= set(commands)
    assert {name for name in ours if f"manage.py {name}" not in EVERYTHING} == set()


def test_every_address_in_the_guides_answers() -> None:
    named = set(re.findall(ADDRESS, EVERYTHING))
    assert len(named) > 10
    endpoints = SchemaGenerator().get_schema(public=True)["paths"]
    for address in named:
        if address.endswith("/") and any(path.startswith(address) for path in endpoints):
            continue  # all that stand below it
        example = re.sub(r"\b(SLUG|ID|VERSION|NAME)\b", lambda word: EXAMPLES[word[0]], address).split("[")[0]
        assert _answers(example) or _answers(f"{example.rstrip('/')}/"), address


def _answers(address: str) -> bool:
    try:
        return resolve(address).func is not no_such_endpoint
    except Resolver404:
        return False


def test_every_endpoint_of_the_gateway_is_in_its_guide() -> None:
    schema = SchemaGenerator().get_schema(public=True)
    paths = {path for path in schema["paths"] if path.startswith("/v1/")}
    guide = re.sub(r"SLUG", "{slug}", GUIDES["docs/gateway.md"])
    assert len(paths) > 4
    assert {path for path in paths if f"{path}`" not in guide} == set()


def test_every_room_of_routing_is_in_the_guide_to_the_code() -> None:
    rooms = {folder.parent.name for folder in (ROOT / "routing").glob("*/__init__.py")} - {"migrations"}
    guide = GUIDES["docs/architecture.md"]
    assert len(rooms) > 15
    assert {room for room in rooms if f"`{room}/`" not in guide} == set()
