"""The gateway's smaller endpoints: models and token counts."""

from routing.adapters.transport import codec_for
from routing.configuration import snapshot
from routing.gateway.access.keys import Key
from routing.gateway.access.limits import limits
from routing.gateway.chat import check_model
from routing.gateway.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect, route_headers
from routing.gateway.exchange.http import JSON_TYPE, Headers, Http
from routing.gateway.providers.upstream import fetch
from routing.gateway.wire import anthropic_answers, anthropic_wire, other_wire, responses_answers, responses_wire
from routing.gateway.wire.reading import parse
from routing.types import (
    ChatRequest,
    ModelSpec,
    ProviderError,
    Snapshot,
    Source,
    UnsupportedByProvider,
)
from routing.walk.collecting import prompt_tokens
from ziggie.errors import NotFound, UnknownModel
from ziggie.ids import uuid7

MODEL_PATH = "/v1/models/"
ANSWER_PATH = "/v1/responses/"
COUNT_SECONDS = 10.0
NEAREST_FIRST = {Source.LOCAL: 0, Source.CLOUD: 1, Source.OFFLINE: 2}


async def models(http: Http, key: Key) -> None:
    """The models that this key may ask for, in a shape that OpenAI's and Anthropic's clients both read."""
    configuration = await snapshot.acurrent()
    rows = [(model.slug, model.provider.slug) for model in configuration.models.values() if may_ask(model, key)]
    body = other_wire.encode_models([("auto", "ziggie"), *sorted(rows)])
    await http.respond(200, body, [JSON_TYPE, *_request_id(http)])


async def model(http: Http, key: Key) -> None:
    """One of them by its slug, which may hold slashes, or by its wire name."""
    configuration = await snapshot.acurrent()
    name = http.path.removeprefix(MODEL_PATH)
    rows = [(model.slug, model.provider.slug) for model in named(name, configuration) if may_ask(model, key)]
    if name == "auto":
        rows = [("auto", "ziggie")]
    if not rows:
        raise UnknownModel(f"there is no model named {name[:100]!r}")
    await http.respond(200, other_wire.encode_model(*rows[0]), [JSON_TYPE, *_request_id(http)])


def _request_id(http: Http) -> Headers:
    """These leave no receipt; the id is for the client's own log."""
    return (ANTHROPIC if http.speaks_anthropic else OPENAI).request_id(str(uuid7()))


def may_ask(model: ModelSpec, key: Key) -> bool:
    return model.enabled and model.provider.enabled and (not key.allowed_models or model.slug in key.allowed_models)


async def stored_answer(http: Http, key: Key) -> None:
    """Raises NotFound, whatever is to be done with the answer."""
    name = http.path.removeprefix(ANSWER_PATH).split("/")[0]
    raise NotFound(f"no answer {name[:100]!r} is stored: this gateway keeps none")


async def count_tokens(http: Http, key: Key) -> None:
    """Anthropic's count."""
    incoming = anthropic_wire.decode_messages(parse(await http.body()), http.hints, counting=True)
    tokens, headers = await _count(http, key, incoming.request, ANTHROPIC)
    await http.respond(200, anthropic_answers.encode_count(tokens), headers)


async def count_input_tokens(http: Http, key: Key) -> None:
    """OpenAI's, of what its responses API is asked."""
    body = parse(await http.body())
    asked = {**body, "model": "auto"} if body.get("model") is None else body
    incoming = responses_wire.decode_response(asked, http.hints)
    tokens, headers = await _count(http, key, incoming.request, RESPONSES)
    await http.respond(200, responses_answers.encode_count(tokens), headers)


async def _count(http: Http, key: Key, request: ChatRequest, dialect: Dialect) -> tuple[int, Headers]:
    """As the provider of the named model counts, where its API can; else an estimate."""
    await check_model(request.model, key)
    admission = await limits().admit(key)
    if admission.standing is not None:
        http.rates = dialect.rates(admission.standing)
    configuration = await snapshot.acurrent()
    found = named(request.model, configuration)
    if key.allowed_models:
        found = [model for model in found if model.slug in key.allowed_models]
    if not found and request.model != "auto":
        raise UnknownModel(f"there is no model named {request.model[:100]!r}")
    counted = await _counted(found[0], request) if found else None
    tokens = prompt_tokens(request) if counted is None else counted
    headers = [JSON_TYPE, *dialect.request_id(str(uuid7())), (b"x-ziggie-cache", b"off")]
    headers.append((b"x-ziggie-count", b"estimated" if counted is None else b"reported"))
    headers.append((b"x-ziggie-attempts", b"%d" % (counted is not None)))
    if found:
        provider = found[0].provider.slug
        headers += route_headers(found[0].slug, provider, str(found[0].source), "count_tokens")
    return tokens, headers


async def _counted(model: ModelSpec, request: ChatRequest) -> int | None:
    try:
        codec = codec_for(model.provider)
        sent = codec.encode_count(request, model)
        if sent is None or not model.provider.enabled:
            return None
        return codec.decode_count(await fetch(sent, idle_seconds=COUNT_SECONDS), sent)
    except (ProviderError, UnsupportedByProvider):
        return None


def named(name: str, configuration: Snapshot) -> list[ModelSpec]:
    """By slug or wire name, the one to ask first in front."""
    by_slug = configuration.models.get(name)
    found = [by_slug] if by_slug else configuration.by_name.get(name, ())
    return sorted(found, key=lambda model: (not model.enabled, NEAREST_FIRST[model.source], model.slug))
