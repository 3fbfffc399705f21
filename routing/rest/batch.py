"""REST of work that may wait: handed in, listed, answered now or taken back, and forgotten once it is read.

A key sees and changes its own; staff and keys with the scope "admin" see and change everybody's. Runs and videos that
wait are not among it: they are changed as what they are.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NoReturn, cast
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing import service
from routing.batches import requests
from routing.batches.requests import MAX_AT_ONCE, NewWork, Shown
from routing.configuration import snapshot
from routing.models import BatchItem
from routing.planning.pricing import microusd, usd
from routing.rest.hints import HintsInput
from routing.types import BudgetFit, ChatRequest, Message, Snapshot, Text, message
from ziggie import inputs
from ziggie.auth import caller_of
from ziggie.errors import InvalidInput, NotFound
from ziggie.inputs import StrictInput
from ziggie.pagination import PAGED, page_of

MAX_TEXT = 1_000_000
MAX_MESSAGES = 1_000
MAX_SCHEMA_DEPTH = 64
MAX_BUDGET_USD = 100_000_000


class MessageInput(StrictInput):
    role = serializers.ChoiceField(choices=("system", "user", "assistant"))
    content = serializers.CharField(max_length=MAX_TEXT, trim_whitespace=False)


class WorkInput(HintsInput):
    """One request, as a `prompt` or as `messages`."""

    prompt = serializers.CharField(required=False, max_length=MAX_TEXT, trim_whitespace=False)
    messages = serializers.ListField(
        child=MessageInput(), required=False, min_length=1, max_length=MAX_MESSAGES, help_text="The oldest first."
    )
    external_id = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        max_length=100,
        help_text="Yours: the same again is the same work.",
    )
    model = serializers.CharField(required=False, default="auto", max_length=100)
    max_output_tokens = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=10_000_000)
    temperature = serializers.FloatField(required=False, allow_null=True, min_value=0, max_value=2)
    json_schema = serializers.DictField(required=False, allow_null=True)
    creator = serializers.CharField(required=False, default="", allow_blank=True, max_length=100)
    budget_usd = serializers.DecimalField(
        max_digits=15,
        decimal_places=6,
        min_value=Decimal(0),
        max_value=Decimal(MAX_BUDGET_USD),
        required=False,
        allow_null=True,
        help_text="The most that all calls for it may cost together.",
    )
    budget_fit = serializers.ChoiceField(choices=("clamp", "refuse"), required=False, default="", allow_blank=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("prompt" in attrs) == ("messages" in attrs):
            raise serializers.ValidationError("should have either a prompt or messages")
        return attrs


class WorkShown(serializers.Serializer[Any]):
    """`answer` is there once it is done, until it is forgotten; lists leave it out."""

    id = serializers.UUIDField()
    external_id = serializers.CharField()
    state = serializers.ChoiceField(choices=BatchItem.STATES)
    by = serializers.ChoiceField(choices=("batch", "call"), allow_null=True)
    requested_by = serializers.CharField()
    budget_usd = serializers.CharField(allow_null=True)
    cost_usd = serializers.CharField()
    saved_usd = serializers.CharField()
    model = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # the wire name; Field.source is another thing
    call_id = serializers.UUIDField(allow_null=True)
    answer = serializers.CharField(required=False, allow_null=True)
    error = serializers.CharField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


def _as_json(shown: Shown, *, answer: bool = False) -> dict[str, Any]:
    row, call = shown.row, shown.call
    told = {
        "id": row.pk,
        "external_id": row.external_id,
        "state": row.state,
        "by": shown.by,
        "requested_by": row.requested_by,
        "budget_usd": None if row.limit_microusd is None else usd(row.limit_microusd),
        "cost_usd": usd(shown.cost_microusd),
        "saved_usd": usd(call.saved_microusd if call else 0),
        "model": call.model if call else "",
        "source": call.source if call else "",
        "call_id": call.pk if call else None,
        "error": row.error,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
    }
    return told | ({"answer": requests.answer_of(row)} if answer else {})


def _mine(request: Request) -> QuerySet[BatchItem]:
    caller = caller_of(request)
    rows = BatchItem.objects.filter(made_for="", given_up=False).defer("request", "sent")
    return rows if caller.is_staff or "admin" in caller.scopes else rows.filter(api_key_id=caller.key_id or "")


class Work(GenericAPIView[BatchItem]):
    """Requests that may wait, newest first; `?state=` and `?external_id=` filter."""

    queryset = BatchItem.objects.none()

    @extend_schema(
        operation_id="routing_batch_list",
        parameters=[
            OpenApiParameter("state", str, enum=BatchItem.STATES),
            OpenApiParameter("external_id", str),
            *PAGED,
        ],
        responses=page_of("Work", WorkShown(many=True)),
    )
    def get(self, request: Request) -> Response:
        found, state = _mine(request), request.query_params.get("state")
        if state and state not in BatchItem.STATES:
            raise InvalidInput(f"state: should be one of {', '.join(BatchItem.STATES)}")
        if state:
            found = found.filter(state=state)
        if request.query_params.get("external_id"):
            found = found.filter(external_id=request.query_params["external_id"])
        page = self.paginate_queryset(found) or []
        return self.get_paginated_response([_as_json(each) for each in requests.shown(page)])

    @extend_schema(
        request=PolymorphicProxySerializer(
            component_name="NewWork", serializers=[WorkInput, WorkInput(many=True)], resource_type_field_name=None
        ),
        responses={201: WorkShown, 200: WorkShown},
    )
    def post(self, request: Request) -> Response:
        """Hands in one request, or an array of up to 500: all of them, or with every mistake named none. 200 if each
        was handed in before, by its `external_id`."""
        many = isinstance(request.data, list)
        if many and not 0 < len(request.data) <= MAX_AT_ONCE:
            raise InvalidInput(f"the request should be one object or an array of 1 to {MAX_AT_ONCE} of them")
        entries = inputs.read(WorkInput(data=request.data, many=many))
        new = _work_of(entries if many else [entries], request, many=many)
        rows, made = requests.hand_in(new)
        told = [_as_json(each) for each in requests.shown(rows)]
        code = status.HTTP_201_CREATED if made else status.HTTP_200_OK
        return Response(told if many else told[0], status=code)


def _work_of(entries: Iterable[dict[str, Any]], request: Request, *, many: bool) -> list[NewWork]:
    """Raises InvalidInput with each mistake of meaning and its place."""
    caller, new, mistakes = caller_of(request), [], []
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        place, external_id = f"[{number}]." if many else "", entry["external_id"]
        mistakes += [(f"{place}{key}", problem) for key, problem in _problems(entry, caller.allowed_models, seen)]
        seen.add(external_id)
        budget = entry.get("budget_usd")
        terms = service.Terms(
            requested_by=request.user.get_username(),
            external_id=external_id,
            limit_microusd=None if budget is None else microusd(budget),
            allowed_models=caller.allowed_models,
        )
        new.append(NewWork(_request_of(entry, caller.key_id), terms))
    if mistakes:
        inputs.refuse(mistakes)
    return new


def _problems(entry: dict[str, Any], allowed: tuple[str, ...], seen: set[str]) -> list[tuple[str, str]]:
    found = []
    model, configuration = entry["model"], snapshot.current()
    if model not in ("", "auto"):
        if model not in configuration.models and model not in configuration.by_name:
            found.append(("model", f"there is none named {model!r}; see /api/routing/models, or leave it to the rules"))
        elif allowed and not any(slug in allowed for slug in _slugs_of(model, configuration)):
            found.append(("model", "this API key may not use that model"))
    if entry["external_id"] and entry["external_id"] in seen:
        found.append(("external_id", f"{entry['external_id']!r} is there twice"))
    if _depth(entry.get("json_schema"), MAX_SCHEMA_DEPTH):
        found.append(("json_schema", f"is nested more than {MAX_SCHEMA_DEPTH} levels deep"))
    return found


def _slugs_of(name: str, configuration: Snapshot) -> list[str]:
    """Of the models that a name means: one by its slug, else all with that wire name or alias."""
    return [name] if name in configuration.models else [model.slug for model in configuration.by_name[name]]


def _depth(value: Any, levels: int) -> bool:
    """Whether it is nested deeper than that."""
    layer = [value]
    for _ in range(levels):
        inner = [each for item in layer for each in (item.values() if isinstance(item, dict) else item or ())]
        layer = [each for each in inner if isinstance(each, dict | list)]
        if not layer:
            return False
    return True


def _request_of(entry: dict[str, Any], key_id: str | None) -> ChatRequest:
    said = entry.get("messages")
    messages = tuple(Message(m["role"], (Text(m["content"]),)) for m in said or ())
    return ChatRequest(
        messages=messages or (message("user", entry["prompt"]),),
        model=entry["model"] or "auto",
        hints=HintsInput.hints_of(entry),
        max_output_tokens=entry.get("max_output_tokens"),
        temperature=entry.get("temperature"),
        json_schema=entry.get("json_schema"),
        creator=entry["creator"],
        budget_fit=cast("BudgetFit", entry["budget_fit"]),
        api_key_id=key_id,
    )


class WorkDetail(APIView):
    @extend_schema(responses=WorkShown)
    def get(self, request: Request, pk: UUID) -> Response:
        """One request, with its answer once it is there."""
        return _one(request, pk)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Forgets one that is over, and its answer; the receipt stays. 409 if it is not over."""
        _existing(request, pk)
        requests.forget_work(pk)
        return Response(status=status.HTTP_204_NO_CONTENT)


class WorkCancel(APIView):
    @extend_schema(request=None, responses=WorkShown)
    def post(self, request: Request, pk: UUID) -> Response:
        """Takes one back that has no answer yet. If its batch is out and answers it all the same, that is paid. 409 if
        it is over."""
        _existing(request, pk)
        service.cancel_batch(pk)
        return _one(request, pk)


class WorkHurry(APIView):
    @extend_schema(request=None, responses={202: WorkShown})
    def post(self, request: Request, pk: UUID) -> Response:
        """Has one answered now, at the plain price; what its batch answers all the same is paid, too. 409 if it is
        over, or being answered."""
        _existing(request, pk)
        service.hurry_batch(pk)
        return _one(request, pk, code=status.HTTP_202_ACCEPTED)


def _one(request: Request, pk: UUID, *, code: int = status.HTTP_200_OK) -> Response:
    return Response(_as_json(requests.shown([_existing(request, pk)])[0], answer=True), status=code)


def _existing(request: Request, pk: UUID) -> BatchItem:
    row = _mine(request).filter(pk=pk).first()
    return row if row is not None else _no_such(pk)


def _no_such(pk: UUID) -> NoReturn:
    raise NotFound(f"there is no such work: {pk}")
