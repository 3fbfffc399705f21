"""The gateway's embeddings: held, asked and settled like a chat, by the one model that was asked for."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from routing.adapters.asking.vectors import requests_for, texts_at_once
from routing.adapters.sending.delivery import Delivery, watched
from routing.adapters.transport import codec_for
from routing.calls import HOLD_SECONDS, LONGEST_CALL_SECONDS
from routing.configuration import snapshot
from routing.gateway.access.keys import Key
from routing.gateway.access.limits import Admission, limits
from routing.gateway.chat import beside, check_model, envelope_of
from routing.gateway.dialects import OPENAI
from routing.gateway.exchange.http import JSON_TYPE, ClientGone, Http, header_text
from routing.gateway.other import NEAREST_FIRST, may_ask, named
from routing.gateway.providers.upstream import fetch
from routing.gateway.wire import other_wire, token_inputs
from routing.gateway.wire.reading import MOST_EMBED_VALUES, hints, parse
from routing.money import ledger
from routing.money.ledger_rows import CallRow, UsageRow
from routing.planning import pricing
from routing.planning.budgets import budgets_in_scope
from routing.planning.demand import Demand, measure
from routing.types import (
    EMBEDS,
    ENVELOPE,
    REFUSALS,
    ChatRequest,
    Embeddings,
    ModelSpec,
    ProviderError,
    Snapshot,
    UnsupportedByProvider,
    Usage,
    message,
)
from routing.walk.attempts import HTTP_OK, UNSENT
from routing.walk.outcomes import outcome_of, was_at_work
from routing.walk.reaching import Requests
from routing.world import health, worlds
from ziggie.errors import AllProvidersFailed, DeadlineExceeded, NoRoute, RoutingError, UnknownModel, Unsupported
from ziggie.ids import uuid7
from ziggie.values import replace

EMBEDDINGS = "embeddings"
MAX_ATTEMPTS = 3
ROWS_AT_ONCE = 100  # written before others are served


async def embeddings(http: Http, key: Key) -> None:
    """Vectors by the model asked for; `auto` takes the nearest one. Money is held as for a chat."""
    asked = other_wire.decode_embeddings(parse(await http.body(), most_values=MOST_EMBED_VALUES))
    await check_model(asked.model, key)
    admission = await limits().admit(key, sum(map(token_inputs.size, asked.inputs)))
    if admission.standing is not None:
        http.rates = OPENAI.rates(admission.standing)
    http.watch()
    try:
        call, answer, model = await _embedded(asked, http.hints, key, admission)
    except asyncio.CancelledError:
        if not http.gone:
            raise
        http.let_task_go_on()
        raise ClientGone from None
    finally:
        http.stop_watching()
        limits().correct(key, admission)
    body = await _encoded(answer, model.slug, as_base64=asked.as_base64)
    headers = [
        *OPENAI.request_id(str(call.id)),
        (b"x-ziggie-model", header_text(model.slug)),
        (b"x-ziggie-provider", header_text(model.provider.slug)),
        (b"x-ziggie-source", header_text(str(model.source))),
        (b"x-ziggie-rule", b"embeddings"),
        (b"x-ziggie-attempts", b"%d" % len(call.records)),
        (b"x-ziggie-cache", b"off"),
        (b"x-ziggie-cost-usd", pricing.usd(sum(record.cost_microusd for record in call.records)).encode()),
    ]
    await http.respond(200, body, [JSON_TYPE, *headers])


async def _encoded(answer: Embeddings, model: str, *, as_base64: bool) -> bytes:
    """The body, written so that others are served meanwhile: it may have millions of numbers."""
    rows = []
    for start in range(0, len(answer.vectors), ROWS_AT_ONCE):
        rows.append(other_wire.encode_vectors(answer.vectors[start : start + ROWS_AT_ONCE], start, as_base64=as_base64))
        await asyncio.sleep(0)
    return other_wire.encode_embeddings(rows, answer.usage, model)


async def _embedded(
    asked: other_wire.EmbeddingsAsked, headers: Mapping[str, str], key: Key, admission: Admission
) -> tuple["_Embedding", Embeddings, ModelSpec]:
    said, paying = hints({}, headers)
    if "run_id" in paying:
        paying["envelope_id"] = await envelope_of(paying["run_id"], key)
    configuration = await snapshot.acurrent()
    models = _embedders(asked.model, configuration, key)
    texts = () if all(map(token_inputs.takes_tokens, models)) else await token_inputs.as_texts(asked.inputs)
    said_texts = tuple(message("user", text) for text in texts or asked.inputs if isinstance(text, str))
    request = ChatRequest(said_texts, model=asked.model, hints=said, api_key_id=key.id, **paying)
    call = _Embedding(request, asked, texts, configuration, models)
    try:
        answer, model = await call.run()
    except RoutingError as error:
        error.told = call.told()
        raise
    finally:
        beside(call.settle())
        admission.used = sum(record.input_tokens or 0 for record in call.records)
    return call, answer, model


def _embedders(name: str, configuration: Snapshot, key: Key) -> list[ModelSpec]:
    """Raises UnknownModel, Unsupported for a model that makes no embeddings, NoRoute where none can serve."""
    if name == "auto":
        asked: Iterable[ModelSpec] = configuration.models.values()
    else:
        asked = named(name, configuration)
        if not asked:
            raise UnknownModel(f"there is no model named {name[:100]!r}")
    able = [model for model in asked if EMBEDS & model.capabilities]
    if not able and name != "auto":
        raise Unsupported("that model makes no embeddings")
    ready = [
        model for model in able if may_ask(model, key) and (model.provider.api_key or not model.provider.needs_api_key)
    ]
    if not ready:
        raise NoRoute("no model that makes embeddings can serve now")
    ready.sort(key=lambda model: (NEAREST_FIRST[model.source], model.slug))
    return ready[:1] if name == "auto" else ready[:MAX_ATTEMPTS]  # vectors of different models do not mix


class _Embedding:
    """One embedding call between its hold and its settlement. `texts` are for models that do not take tokens."""

    def __init__(
        self,
        request: ChatRequest,
        asked: other_wire.EmbeddingsAsked,
        texts: tuple[str, ...],
        configuration: Snapshot,
        models: list[ModelSpec],
    ) -> None:
        self.id = uuid7()
        self.records: list[UsageRow] = []
        self._request, self._asked, self._configuration, self._models = request, asked, configuration, models
        self._texts = texts
        measured = measure(request)
        counted = sum(len(item) for item in asked.inputs if not isinstance(item, str))
        self._demand: Demand = replace(
            measured,
            input_at_most=max(measured.input_at_most, counted),
            task_kind=measured.task_kind or EMBEDDINGS,  # by which budgets and records know them
        )
        self._hold: ledger.Hold | None = None
        self._day = Requests(1)  # of the provider's that is asked
        self._charges: dict[int, int] = {}
        self._started = time.monotonic()
        self._error = ""
        self._outcome = AllProvidersFailed.code
        self._own_budget = () if request.envelope_id is None else (ENVELOPE,)

    async def run(self) -> tuple[Embeddings, ModelSpec]:
        """Raises BudgetExceeded, Unsupported, AllProvidersFailed, DeadlineExceeded."""
        try:
            async with asyncio.timeout(LONGEST_CALL_SECONDS):
                return await self._run()
        except TimeoutError:
            self._outcome = DeadlineExceeded.code
            late = f"the texts were not embedded within {LONGEST_CALL_SECONDS:g} s"
            raise self._failed(DeadlineExceeded, late) from None
        except asyncio.CancelledError:
            self._outcome = "cancelled"
            raise

    def told(self) -> dict[str, str]:
        """What a caller hears of a call without an answer."""
        first = self._models[0]
        model, provider, source = first.slug, first.provider.slug, str(first.source)
        if self.records:
            model, provider, source = self.records[-1].model, self.records[-1].provider, self.records[-1].source
        told = {"model": model, "provider": provider, "source": source, "rule": EMBEDDINGS}
        cost = pricing.usd(sum(record.cost_microusd for record in self.records))
        return told | {"attempts": str(len(self.records)), "cache": "off", "cost-usd": cost}

    async def _run(self) -> tuple[Embeddings, ModelSpec]:
        amounts = self._worst_case()
        self._hold = await ledger.reserve(
            self.id,
            amounts,
            self._configuration,
            expires_in_seconds=HOLD_SECONDS,
            context={**self._first_asked(), **self._labels()},
            envelope_id=self._request.envelope_id if any(amounts.values()) else None,
            is_new=True,
        )
        failures: list[dict[str, str]] = []
        kind: type[RoutingError] = Unsupported
        was_asked, wait = False, None
        for model in self._models:
            length = self._asked.dimensions or model.dimensions
            self._day = Requests(requests_for(len(self._asked.inputs), codec_for(model.provider).embed_batch, length))
            try:
                async with await self._slot(model):
                    return await self._ask(model), model
            except (ProviderError, UnsupportedByProvider) as error:
                self._error = str(error)
                refused = isinstance(error, UnsupportedByProvider) or error.kind in REFUSALS
                kind = kind if refused else AllProvidersFailed
                if isinstance(error, ProviderError) and error.kind == "busy":
                    wait = error.retry_after_seconds
                else:
                    was_asked = True
                failures.append({"model": model.slug, "outcome": "error", "error": str(error)})
            finally:
                self._day.end()
        text = f"no model gave embeddings ({self._error})"
        if not was_asked:
            raise self._failed(NoRoute, text, failures, retry_after=wait)
        raise self._failed(kind, text, failures)

    def _failed(
        self,
        kind: type[RoutingError],
        text: str,
        details: Sequence[dict[str, str]] = (),
        *,
        retry_after: float | None = None,
    ) -> RoutingError:
        failed = kind(text, details=list(details))
        failed.retry_after_seconds = retry_after
        failed.call_id = str(self.id)
        return failed

    def _first_asked(self) -> dict[str, Any]:
        """What the sweep knows of the attempt that was under way when this process died."""
        model = self._models[0]
        return {
            "role": "embedding",
            "model": model.slug,
            "provider": model.provider.slug,
            "source": str(model.source),
            "price_id": model.price.id if model.price else None,
        }

    def _labels(self) -> dict[str, Any]:
        request = self._request
        return {
            "rule": EMBEDDINGS,
            "task_kind": self._demand.task_kind,
            "api_key_id": request.api_key_id or "",
            "run_id": request.run_id or "",
            "creator": request.creator,
            "agent_level": request.hints.agent_level,
        }

    def _worst_case(self) -> dict[int, int]:
        amounts: dict[int, int] = {}
        for model in self._models:
            budgets = budgets_in_scope(self._configuration, model, self._demand)
            if model.price is None:
                if self._own_budget or any(budget.hard for budget in budgets):
                    raise NoRoute(f"{model.slug} has no price, and a hard budget watches it")
                continue
            cost = pricing.worst_case_microusd(model.price, input_tokens=self._demand.input_at_most, output_tokens=0)
            for budget_id in (*(budget.id for budget in budgets), *self._own_budget):
                amounts[budget_id] = amounts.get(budget_id, 0) + cost
        return amounts

    async def _slot(self, model: ModelSpec) -> AbstractAsyncContextManager[None]:
        """To be held while the model is asked. Raises ProviderError("busy") for one that may not be asked now."""
        circuits, provider = (await worlds.recent(self._configuration)).open_circuits, model.provider
        why = circuits.get((provider.slug, "")) or circuits.get((provider.slug, model.slug))
        if why is not None:
            raise ProviderError("busy", f"{model.slug} is not called for now: {why}", retryable=False)
        is_held_back = health.is_held_back(provider, model)
        return health.slot(provider, model, requests=self._day) if is_held_back else nullcontext()

    async def _ask(self, model: ModelSpec) -> Embeddings:
        started_at, started = datetime.now(UTC), time.monotonic()
        outcome, error = "cancelled", ""
        status: int | None = None
        read: list[Usage] = []
        sent = Delivery()
        try:
            answer = await self._vectors(model, read, sent)
            outcome, status = "ok", HTTP_OK
            await health.record_success(model.provider, model)
            return answer
        except ProviderError as failure:
            outcome, error, status = outcome_of(failure), str(failure), failure.status
            await health.record_failure(model.provider, model, failure)
            raise
        except UnsupportedByProvider as failure:
            outcome, error = "error", str(failure)
            raise
        except asyncio.CancelledError:
            error = "" if read else UNSENT
            raise
        finally:
            record = self._record(
                model, read, outcome, error, seconds=time.monotonic() - started, at_work=sent.has_begun
            )
            self.records.append(replace(record, created_at=started_at, status=status))

    def _record(
        self, model: ModelSpec, read: list[Usage], outcome: str, error: str, *, seconds: float, at_work: bool
    ) -> UsageRow:
        """One attempt, and its charge. Without local models it would have cost the same: it saves nothing.
        `at_work`: something had begun to go out to the provider."""
        usage, cost = _together(read), pricing.cost_of_all_microusd(read, model.price)
        budgets = budgets_in_scope(self._configuration, model, self._demand)
        for budget_id in (*(budget.id for budget in budgets), *self._own_budget):
            self._charges[budget_id] = self._charges.get(budget_id, 0) + cost
        price_per_kwh = self._configuration.settings.electricity_usd_per_kwh
        watt_hours, electricity = pricing.energy(seconds if at_work else 0.0, model.provider.power_watts, price_per_kwh)
        return UsageRow(
            attempt=len(self.records) + 1,
            model=model.slug,
            provider=model.provider.slug,
            source=str(model.source),
            outcome=outcome,
            role="embedding",
            error=error,
            input_tokens=usage.input_tokens,
            output_tokens=0 if outcome == "ok" else None,
            estimated=sorted(usage.estimated),
            price_id=model.price.id if model.price else None,
            cost_microusd=cost,
            baseline_microusd=cost,
            energy_microusd=electricity,
            saved_microusd=pricing.saved_microusd(baseline=cost, paid=cost, electricity=electricity),
            energy_wh=watt_hours,
            duration_ms=round(seconds * 1000),
        )

    async def _vectors(self, model: ModelSpec, read: list[Usage], sent_any: Delivery) -> Embeddings:
        """In as many requests as the provider needs for so many texts; what each has read is paid, whatever befalls
        a later one, and the one that the provider is at work on when the call ends, too."""
        codec, wanted = codec_for(model.provider), self._asked.dimensions
        texts = self._asked.inputs if token_inputs.takes_tokens(model) else self._texts
        vectors: list[tuple[float, ...]] = []
        start = 0
        while start < len(texts):
            length = len(vectors[0]) if vectors else wanted or model.dimensions
            batch = texts[start : start + texts_at_once(codec.embed_batch, length)]
            start += len(batch)
            sent = codec.encode_embed(batch, model, purpose="document", dimensions=wanted)
            read.append(Usage(sum(map(token_inputs.size, batch)), estimated=frozenset({"input_tokens"})))
            self._day.left -= bool(vectors and self._day.left)  # the first was counted with its slot
            delivery = watched()
            try:
                answer = codec.decode_embed(await fetch(sent, idle_seconds=model.provider.timeout_seconds), sent)
            except BaseException as failure:  # also of a client that has left: what was never sent was never read
                refused = isinstance(failure, ProviderError) and not was_at_work(failure)
                if refused or not delivery.has_begun:
                    read.pop()
                raise
            finally:
                sent_any.has_begun |= delivery.has_begun
            if answer.usage.input_tokens is not None:
                read[-1] = answer.usage
            if wanted and any(len(vector) != wanted for vector in answer.vectors):
                raise UnsupportedByProvider(f"dimensions: {model.slug} makes vectors of its own length")
            vectors += answer.vectors
        return Embeddings(tuple(vectors), _together(read), answer.model)

    async def settle(self) -> None:
        if self._hold is None:
            return
        served = next((record for record in self.records if record.outcome == "ok"), None)
        call = CallRow(
            id=self.id,
            pattern="single",
            outcome="ok" if served else self._outcome,
            error="" if served else self._error,
            model=served.model if served else "",
            provider=served.provider if served else "",
            source=served.source if served else "",
            reserved_microusd=max(self._hold.amounts.values(), default=0),
            cost_microusd=sum(record.cost_microusd for record in self.records),
            saved_microusd=sum(record.saved_microusd for record in self.records),
            duration_ms=round((time.monotonic() - self._started) * 1000),
            **self._labels(),
        )
        await ledger.settle(self._hold, call=call, records=self.records, charges=self._charges)


def _together(read: Sequence[Usage]) -> Usage:
    """What several requests have read; nothing is known where none was answered."""
    if not read:
        return Usage()
    estimated = frozenset[str]().union(*(usage.estimated for usage in read))
    return Usage(sum(usage.input_tokens or 0 for usage in read), estimated=estimated)
