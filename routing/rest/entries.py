"""REST of routing. Bodies are entries of the routing file, checked and written by the same code.

Keys with the scope "coordinator" read; staff and keys with the scope "admin" write.
"""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_view, inline_serializer
from pydantic import BaseModel, create_model
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing.configuration import rows
from routing.configuration.reading import read
from routing.configuration.routing_file import apply_document
from routing.configuration.shape import (
    BudgetEntry,
    Entry,
    ModelEntry,
    ProviderEntry,
    SettingsEntry,
)
from routing.evidence import explaining
from routing.models import Budget, LanguageModel, Provider
from routing.money.balances import balances
from routing.rest.hints import HintsInput
from ziggie import inputs
from ziggie.auth import caller_of
from ziggie.errors import Conflict, InvalidInput, NotFound
from ziggie.pagination import PAGED, Cursor, page_of

NAME = "the request"


def apply_data(data: dict[str, Any], request: Request) -> list[str]:
    """Loads a part of a routing file that came as a request. Raises InvalidInput with every mistake."""
    document, problems = read(data)
    return apply_document(document, by=caller_of(request).name, name=NAME, problems=problems).warnings


def body_of(request: Request) -> dict[str, Any]:
    """Raises InvalidInput if the body is no JSON object."""
    if not isinstance(request.data, dict):
        raise InvalidInput("the body should be a JSON object")
    return dict(request.data)


class ByName(Cursor):
    """By slug, A to Z."""

    ordering = "slug"
    page_size = 100


class Rows(GenericAPIView[Any]):
    """One section of the routing file: its rows, and a new one."""

    staff_write = True
    pagination_class = ByName
    section = ""
    kind: Any = None

    def get_queryset(self) -> Any:
        return self.kind.objects.all()

    def get(self, request: Request) -> Response:
        page: list[Any] = self.paginate_queryset(self.get_queryset()) or []
        wanted = {row.slug for row in page}
        entries = {entry["slug"]: entry for entry in rows.section_plain(self.section) if entry["slug"] in wanted}
        return self.get_paginated_response([entries[row.slug] for row in page])

    def post(self, request: Request) -> Response:
        entry = body_of(request)
        slug = entry.get("slug")
        if isinstance(slug, str) and self.kind.objects.filter(slug=slug).exists():
            raise Conflict(f"there is {slug!r} already; change it with PATCH")
        warnings = apply_data({self.section: [entry]}, request)
        return Response({**_one(self.section, str(slug)), "warnings": warnings}, status=status.HTTP_201_CREATED)


class Row(APIView):
    """One row. PATCH changes the keys that it names."""

    staff_write = True
    section = ""

    def get(self, request: Request, slug: str) -> Response:
        return Response(_one(self.section, slug))

    def patch(self, request: Request, slug: str) -> Response:
        change = body_of(request)
        if change.setdefault("slug", slug) != slug:
            raise InvalidInput("a slug is never changed: rules and records speak of it")
        warnings = apply_data({self.section: [self._with_required(_one(self.section, slug), change)]}, request)
        return Response({**_one(self.section, slug), "warnings": warnings})

    def _with_required(self, before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
        required = {"slug", "kind", "location", "provider", "name", "context_window", "limit_usd"}
        return {key: before[key] for key in required & before.keys()} | change


def _one(section: str, slug: str) -> dict[str, Any]:
    """Raises NotFound."""
    found: dict[str, Any] | None = next((entry for entry in rows.section_plain(section) if entry["slug"] == slug), None)
    if found is None:
        raise NotFound(f"there is no {section.removesuffix('s')} {slug!r}")
    return found


def shown(entry: type[Entry], **fields: Any) -> type[BaseModel]:
    """An entry as it is answered, for the OpenAPI schema: with `fields` beside its own, and what was warned of."""
    return create_model(f"{entry.__name__}Shown", __base__=entry, warnings=(list[str], []), **fields)


def changed(entry: type[Entry]) -> type[BaseModel]:
    """Any part of an entry, for the OpenAPI schema. It is a class of its own, because the generator marks for good
    what it has seen in a PATCH."""
    parts: dict[str, Any] = {name: (part.annotation, None) for name, part in entry.model_fields.items()}
    return create_model(entry.__name__, __base__=entry, **parts)


def page_of_entries(entry: type[Entry]) -> Any:
    """They are described by their own schema."""
    plain = serializers.ListField(child=serializers.DictField(), help_text=entry.__name__)
    return page_of(entry.__name__.removesuffix("Entry"), plain)


def listed(section: str, entry: type[Entry], answer: type[BaseModel]) -> Any:
    """What Rows take and answer, for the OpenAPI schema."""
    return extend_schema_view(
        get=extend_schema(operation_id=f"routing_{section}_list", parameters=PAGED, responses=page_of_entries(entry)),
        post=extend_schema(request=entry, responses={201: answer}),
    )


def detailed(entry: type[Entry], answer: type[BaseModel]) -> Any:
    """What a Row takes and answers, for the OpenAPI schema."""
    return extend_schema_view(
        get=extend_schema(responses=answer), patch=extend_schema(request=changed(entry), responses=answer)
    )


ProviderShown, ModelShown = shown(ProviderEntry), shown(ModelEntry)
BudgetShown, SettingsShown = shown(BudgetEntry), shown(SettingsEntry)


@listed("providers", ProviderEntry, ProviderShown)
class Providers(Rows):
    section, kind = "providers", Provider
    staff_permissions = ("routing.add_provider",)


@detailed(ProviderEntry, ProviderShown)
class ProviderDetail(Row):
    section = "providers"
    staff_permissions = ("routing.change_provider",)


@listed("models", ModelEntry, ModelShown)
class Models(Rows):
    section, kind = "models", LanguageModel
    staff_permissions = ("routing.add_languagemodel", "routing.add_price")


@detailed(ModelEntry, ModelShown)
class ModelDetail(Row):
    section = "models"
    staff_permissions = ("routing.change_languagemodel", "routing.add_price")


@listed("budgets", BudgetEntry, BudgetShown)
class Budgets(Rows):
    section, kind = "budgets", Budget
    staff_permissions = ("routing.add_budget",)


@detailed(BudgetEntry, BudgetShown)
class BudgetDetail(Row):
    section = "budgets"
    staff_permissions = ("routing.change_budget",)


class Settings(APIView):
    staff_write = True
    staff_permissions = ("routing.change_routingsettings",)

    @extend_schema(responses=SettingsShown)
    def get(self, request: Request) -> Response:
        return Response(rows.section_plain("settings"))

    @extend_schema(request=changed(SettingsEntry), responses=SettingsShown)
    def patch(self, request: Request) -> Response:
        warnings = apply_data({"settings": body_of(request)}, request)
        return Response({**rows.section_plain("settings"), "warnings": warnings})


class BalanceSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    period = serializers.ChoiceField(choices=Budget.PERIODS)
    period_start = serializers.DateTimeField(allow_null=True)
    period_end = serializers.DateTimeField(allow_null=True)
    limit_usd = serializers.CharField()
    settled_usd = serializers.CharField()
    held_usd = serializers.CharField()
    left_usd = serializers.CharField()
    hard = serializers.BooleanField()


class Balances(APIView):
    """What every budget has left in its present period."""

    @extend_schema(responses=BalanceSerializer(many=True))
    def get(self, request: Request) -> Response:
        return Response(BalanceSerializer(balances(), many=True).data)


# --- which model would serve -------------------------------------------------------------------------


class ExplainInput(HintsInput):
    model = serializers.CharField(required=False, default="auto", max_length=100)
    prompt = serializers.CharField(required=False, default="?", max_length=1_000_000)


class Explain(APIView):
    """Which model would serve such a request now, and why not the others. Calls nobody."""

    @extend_schema(
        request=ExplainInput,
        responses=inline_serializer(
            "Explained",
            {
                "policy": serializers.CharField(),
                "version": serializers.IntegerField(),
                "rule": serializers.CharField(allow_null=True),
                "pattern": serializers.CharField(allow_null=True),
                "chosen": serializers.CharField(allow_null=True),
                "candidates": serializers.ListField(child=serializers.DictField()),
                "features": serializers.DictField(),
            },
        ),
    )
    def post(self, request: Request) -> Response:
        said = inputs.read(ExplainInput(data=request.data))
        hints = HintsInput.hints_of(said)
        return Response(explaining.explain(explaining.request_of(hints, model=said["model"], prompt=said["prompt"])))
