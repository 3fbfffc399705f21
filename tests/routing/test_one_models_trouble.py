"""What a provider says of one of its models alone keeps nobody from the others."""

import json
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_event, error_from_response
from routing.types import ModelSpec
from routing.world import health
from tests.routing.test_health import clean_loop, llama, open_circuits

__all__ = ["clean_loop", "llama"]
pytestmark = pytest.mark.django_db(transaction=True)
SENT = WireRequest("POST", "http://127.0.0.1:9/v1/chat/completions")
FREE = "GenerateRequestsPerDayPerProject{}-FreeTier"


def googles(quota: str) -> Any:
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}]
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota", "details": details}}


TOLD: dict[str, tuple[int, Any, bool]] = {
    "terms of a model": (
        400,
        {"error": {"message": "The model `m` requires terms acceptance.", "code": "model_terms_required"}},
        True,
    ),
    "the same without its code": (400, {"error": {"message": "The model `m` requires terms acceptance."}}, True),
    "a limit of a model": (
        429,
        {
            "error": {
                "code": "SetLimitExceeded",
                "message": "Your account [2] has reached the set inference limit for the [m] model",
            }
        },
        True,
    ),
    "a model's free calls": (429, googles(FREE.format("PerModel")), True),
    "a project's free calls": (429, googles(FREE.format("")), False),
    "no money": (402, {"error": {"message": "Insufficient balance"}}, False),
    "a key that may not use a model": (403, {"message": "You don't have access to the model with that ID."}, True),
    "a minute's limit, and where to pay for more": (
        429,
        {
            "error": {
                "message": "Rate limit reached. Try again in 20s. Need more? https://console.groq.com/settings/billing"
            }
        },
        True,
    ),
    "a wrong key": (401, {"error": {"message": "Incorrect API key provided"}}, False),
}


@pytest.mark.parametrize(("status", "body", "alone"), TOLD.values(), ids=TOLD)
async def test_what_concerns_one_model_leaves_the_others_open(
    llama: ModelSpec, status: int, body: Any, alone: bool
) -> None:
    error = error_from_response(WireResponse(status, {}, json.dumps(body).encode()), SENT)
    await health.record_failure(llama.provider, llama, error)
    assert list(await open_circuits()) == [("ollama", llama.slug if alone else "")]


async def test_what_ollamas_cloud_refuses_leaves_the_servers_own_models_open(llama: ModelSpec) -> None:
    sent = WireRequest("POST", "http://127.0.0.1:11434/api/chat", body={"model": "gpt-oss:120b-cloud"})
    said = WireResponse(401, {}, b'{"error": "unauthorized", "signin_url": "https://ollama.com/connect"}')
    await health.record_failure(llama.provider, llama, CODECS["ollama"]().decode_error(said, sent))
    assert list(await open_circuits()) == [("ollama", llama.slug)]


def test_a_quota_of_one_model_is_known_in_a_stream_too() -> None:
    assert error_from_event(googles(FREE.format("PerModel")), SENT).one_model
    assert not error_from_event({"error": {"code": "insufficient_quota", "message": "no"}}, SENT).one_model
