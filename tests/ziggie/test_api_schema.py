"""The REST API against its own OpenAPI document: whatever a client sends, answers are as described and never a 500."""

import re
from typing import Any

import pytest
import schemathesis
from django.core.wsgi import get_wsgi_application
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from hypothesis import given
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from agents.seeding import seed as seed_agents
from knowledge.seeding import seed as seed_knowledge
from routing.configuration.seeding import seed as seed_routing
from routing.gateway.app import ENDPOINTS
from routing.gateway.other import MODEL_PATH
from tests.bounded import BOUNDED
from ziggie.models import SCOPES, create_api_key


@pytest.fixture
def key(transactional_db: None) -> str:
    """A key for everything, beside the rows that an installation begins with."""
    for seed in (seed_routing, seed_knowledge, seed_agents):
        seed()
    return create_api_key("schema", scopes=list(SCOPES))[1]


# A number where a text is meant is taken for its digits, and a caller may send what no schema can know to be wrong.
# Beside our good key a made-up one changes nothing; that nobody is served without one is tested below.
LENIENT = [negative_data_rejection, positive_data_acceptance, ignored_auth]

schema = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))
schema.app = get_wsgi_application()
# Bodies that hold rules are more than schemathesis can make up; the reader of rules has properties of its own.
quick = schema.exclude(
    path_regex=r"^/api/routing/(rules(/\{name\})?|policies(/\{slug\}/\{version\})?)$", method=["POST", "PUT", "PATCH"]
)
quick = quick.exclude(path_regex="^/v1/")  # which another application answers: tests/gateway/test_schema.py


def test_any_request_gets_an_answer_that_the_schema_describes(key: str) -> None:
    for found in quick.get_all_operations():
        operation = found.ok()

        @BOUNDED
        @given(operation.as_strategy())
        def send(case: Any) -> None:
            case.call_and_validate(headers={"authorization": f"Bearer {key}"}, excluded_checks=LENIENT)

        try:
            send()
        except BaseException as error:
            error.add_note(operation.label)
            raise


OPERATIONS = [
    (verb.upper(), path)
    for path, operations in schema.raw_schema["paths"].items()
    for verb in operations
    if path.startswith("/api/")
]


@pytest.mark.parametrize(("verb", "path"), OPERATIONS, ids=" ".join)
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "zg_unknown"}], ids=["no key", "unknown key"])
def test_nobody_is_served_without_a_key(
    db: None, client: Client, verb: str, path: str, headers: dict[str, str]
) -> None:
    address = re.sub(
        r"{(\w+)}", lambda m: {"id": "00000000-0000-7000-8000-000000000000", "version": "1"}.get(m[1], "x"), path
    )
    answer = client.generic(verb, address, b"{}", content_type="application/json", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"]


def test_the_schema_says_how_a_caller_proves_who_it_is(key: str, client: Client) -> None:
    described = client.get("/api/schema/?format=json", headers={"x-api-key": key}).json()
    assert {"bearerKey", "xApiKey"} <= set(described["components"]["securitySchemes"])
    assert all("default" in op["responses"] for path in described["paths"].values() for op in path.values())


def test_every_list_in_pages_says_how_its_next_page_is_asked_for(key: str, client: Client) -> None:
    described = {
        path: operations["get"] for path, operations in schema.raw_schema["paths"].items() if "get" in operations
    }
    paged = set()
    for path in (path for path in described if path.startswith("/api/") and "{" not in path):
        answer = client.get(path, headers={"x-api-key": key})
        told = answer.json() if answer["content-type"].startswith("application/json") else None
        if isinstance(told, dict) and "next" in told:
            paged.add(path)
            assert {each["name"] for each in described[path]["parameters"]} >= {"cursor", "page_size"}, path
    assert paged >= {"/api/usage/records", "/api/routing/batch", "/api/routing/models", "/api/agents/runs"}


def test_a_text_of_another_type_is_refused_and_named(key: str, client: Client) -> None:
    for wrong in (None, 7, ["x"], [None], {"a": 1}):
        entry = {"slug": "m", "provider": "ollama", "name": wrong, "context_window": 4096}
        headers = {"authorization": f"Bearer {key}"}
        answer = client.post("/api/routing/models", entry, content_type="application/json", headers=headers)
        assert answer.status_code == 400
        assert "name" in answer.json()["error"]["details"][0]["place"]


def test_half_a_character_is_refused_wherever_it_stands(key: str, client: Client) -> None:
    headers = {"authorization": f"Bearer {key}"}
    for body in (r'{"\udcff": 1}', r'{"task_kind": "a\ud800"}', r'{"capabilities": ["\ud800\ud800"]}'):
        answer = client.post("/api/routing/explain", body, content_type="application/json", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "parse_error")
        assert "is half of a character" in answer.json()["error"]["message"]
    whole = r'{"task_kind": "\ud83d\ude00"}'
    answer = client.post("/api/routing/explain", whole, content_type="application/json", headers=headers)
    assert answer.status_code == 200


def test_an_address_that_is_none_is_refused_in_json(client: Client) -> None:
    for answer in (client.get("/api/nothing"), client.post("/api/agents/runs/not-an-id/cancel")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_gateways_endpoints_are_described_and_no_others() -> None:
    described = {path: set(operations) for path, operations in schema.raw_schema["paths"].items() if "/v1/" in path}
    served = {path: {verb.lower()} for path, (verb, _) in ENDPOINTS.items()}
    assert described == served | {MODEL_PATH + "{slug}": {"get"}}
