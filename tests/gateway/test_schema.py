"""The gateway against its own OpenAPI document: whatever a client sends, a running gateway with sound providers behind
it answers as described, in the words of the API that was called, and never with a 5xx."""

from typing import Any

import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from routing.gateway.wire.openapi import describe
from tests.bounded import BOUNDED
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import MODELS, set_reply
from tests.servers.script import Reply

MORE = settings(BOUNDED, max_examples=30)
# No schema says which provider can do what is asked, and what goes through to providers is theirs to refuse. That
# nobody is served without a key is tested with the keys.
LENIENT = [negative_data_rejection, positive_data_acceptance, ignored_auth, not_a_server_error]
ASKED = [*MODELS, "auto", "embedder", "local-embedder"]


def document() -> dict[str, Any]:
    """What the gateway adds to the document, with the models that there are: made-up names would all end at the same
    refusal."""
    keys = {name: {"type": "apiKey", "in": "header", "name": "x-api-key"} for name in ("bearerKey", "xApiKey")}
    head = {"openapi": "3.0.3", "info": {"title": "gateway", "version": "1"}, "components": {"securitySchemes": keys}}
    described = describe({**head, "paths": {}})
    for operations in described["paths"].values():
        for operation in operations.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                fields = media["schema"]["properties"]
                media["schema"] = {**media["schema"], "properties": {**fields, "model": {"enum": ASKED}}}
    return described


def did_not_fit(refused: dict[str, Any]) -> bool:
    """True of the one 5xx that there is to say of sound providers: what their models say is not in the asked form."""
    tried = refused["error"].get("details", [])
    return bool(tried) and all(attempt["outcome"] == "invalid" for attempt in tried)


def test_any_request_gets_an_answer_that_the_schema_describes(gateway: Gateway) -> None:
    set_reply(gateway, Reply("{}"))
    for found in schemathesis.openapi.from_dict(document()).get_all_operations():
        operation = found.ok()
        documented = {int(status) for status in operation.definition.raw["responses"] if status.isdigit()}
        statuses: set[int] = set()
        strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        if operation.body:
            strategy |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @MORE
        @given(strategy)
        def send(case: Any) -> None:
            answer = case.call(base_url=gateway.url, headers=gateway.headers)
            statuses.add(answer.status_code)  # noqa: B023  # called within this turn of the loop
            case.validate_response(answer, excluded_checks=LENIENT)
            assert answer.status_code < 500 or did_not_fit(answer.json()), answer.content

        try:
            send()
            assert statuses <= documented
            assert 200 in statuses or "{slug}" in operation.path
        except BaseException as error:
            error.add_note(f"{operation.label} {statuses}")
            raise
