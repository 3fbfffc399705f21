"""REST of policies and rules: versions, drafts, publishing, and rules of the live policy by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import transaction
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing.configuration import policies, rows
from routing.configuration.reading import read
from routing.configuration.shape import PolicyEntry, RuleEntry
from routing.models import PolicyEdit, RoutingPolicy, RoutingRule
from routing.rest.entries import NAME, ByName, apply_data, body_of, changed, page_of_entries, shown
from ziggie import inputs
from ziggie.auth import caller_of
from ziggie.errors import InvalidInput, NotFound
from ziggie.inputs import StrictInput
from ziggie.pagination import PAGED, page_of

IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description="412 if it is not what was seen.")
RuleShown = shown(RuleEntry, policy=(str, ...), version=(int, ...), position=(int, ...))


class ByPosition(ByName):
    """In the order in which rules are tried."""

    ordering = "position"


class PolicySerializer(serializers.ModelSerializer[RoutingPolicy]):
    rules = serializers.SerializerMethodField()

    class Meta:
        model = RoutingPolicy
        fields: tuple[str, ...] = (
            *("id", "slug", "version", "state", "notes"),
            *("created_by", "created_at", "published_by", "published_at", "rules"),
        )

    def get_rules(self, policy: RoutingPolicy) -> list[dict[str, Any]]:
        return [rows.rule_plain(rule) for rule in policy.rules.all()]


class ExaminedSerializer(PolicySerializer):
    """With what publishing would be refused for, or warned of; and what stands for all of it, so that nothing else is
    published than what was seen."""

    problems = serializers.SerializerMethodField()
    fingerprint = serializers.SerializerMethodField()

    class Meta(PolicySerializer.Meta):
        fields = (*PolicySerializer.Meta.fields, "problems", "fingerprint")

    def get_fingerprint(self, policy: RoutingPolicy) -> str:
        return policies.fingerprint(policy)

    def get_problems(self, policy: RoutingPolicy) -> list[dict[str, Any]]:
        found = policies.problems_if_live(policies.entry_of(policy))
        return [{"place": p.place, "problem": p.message, "warning": p.warning} for p in found]


class Policies(GenericAPIView[RoutingPolicy]):
    """Every version of every policy, newest first. POST makes a draft."""

    staff_write = True
    serializer_class = PolicySerializer
    queryset = RoutingPolicy.objects.prefetch_related("rules")

    @extend_schema(
        operation_id="routing_policies_list",
        parameters=PAGED,
        responses=page_of("Policy", PolicySerializer(many=True)),
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(PolicySerializer(page, many=True).data)

    @extend_schema(request=PolicyEntry, responses={201: ExaminedSerializer})
    def post(self, request: Request) -> Response:
        draft = policies.create_draft(_policy_entry({**body_of(request), "live": False}), by=caller_of(request).name)
        return _examined(draft, status=status.HTTP_201_CREATED)


def _examined(policy: RoutingPolicy, **more: Any) -> Response:
    told = ExaminedSerializer(policy).data
    status_code = more.pop("status", status.HTTP_200_OK)
    return Response({**told, **more}, status=status_code, headers={"ETag": f'"{told["fingerprint"]}"'})


def _policy_entry(data: dict[str, Any]) -> PolicyEntry:
    """Raises InvalidInput for mistakes of shape. A draft may have mistakes of meaning."""
    document, problems = read({"policies": [data]})
    policies.refuse_errors(problems, f"{NAME} has mistakes; nothing was changed")
    assert document.policies
    return document.policies[0].entry


def policy_of(slug: str, version: int) -> RoutingPolicy:
    found = RoutingPolicy.objects.filter(slug=slug, version=version).first()
    if found is None:
        raise NotFound(f"there is no version {version} of the policy {slug!r}")
    return found


class PolicyDetail(APIView):
    """One version. PUT replaces a draft's rules."""

    staff_write = True

    @extend_schema(responses=ExaminedSerializer)
    def get(self, request: Request, slug: str, version: int) -> Response:
        policy = policy_of(slug, version)
        return _examined(policy, changes=policies.difference(policies.predecessor(policy), policy))

    @extend_schema(request=PolicyEntry, responses=ExaminedSerializer, parameters=[IF_MATCH])
    def put(self, request: Request, slug: str, version: int) -> Response:
        entry = _policy_entry({**body_of(request), "slug": slug, "live": False})
        policies.replace_draft(policy_of(slug, version), entry, by=caller_of(request).name, seen=_if_match(request))
        return _examined(policy_of(slug, version))


class EditSerializer(serializers.ModelSerializer[PolicyEdit]):
    class Meta:
        model = PolicyEdit
        fields = ("id", "edited_by", "edited_at", "changes")


class PolicyEdits(GenericAPIView[PolicyEdit]):
    """Who changed a version in place, when, and what: a draft's rules, and notes. The newest first."""

    serializer_class = EditSerializer
    queryset = PolicyEdit.objects.none()

    @extend_schema(
        operation_id="routing_policies_edits_list",
        parameters=PAGED,
        responses=page_of("PolicyEdit", EditSerializer(many=True)),
    )
    def get(self, request: Request, slug: str, version: int) -> Response:
        page = self.paginate_queryset(policy_of(slug, version).edits.all())
        return self.get_paginated_response(EditSerializer(page, many=True).data)


class SeenInput(StrictInput):
    fingerprint = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=64, help_text="Of the version as it was looked at."
    )


def _if_match(request: Request) -> str:
    """The fingerprint that the header If-Match holds; "" without one, or for any."""
    said = request.headers.get("If-Match", "").strip()
    return "" if said == "*" else said.removeprefix("W/").strip('"')


class PutLive(APIView):
    """POST …/publish or …/rollback. With the `fingerprint` of what was looked at, or its ETag in If-Match, nothing
    else goes live: 412."""

    staff_write = True
    work: Any = None

    @extend_schema(request=SeenInput, responses=ExaminedSerializer, parameters=[IF_MATCH])
    def post(self, request: Request, slug: str, version: int) -> Response:
        said = inputs.read(SeenInput(data=request.data or {}))["fingerprint"]
        header = _if_match(request)
        if said and header and said != header:
            raise InvalidInput("fingerprint: is not what If-Match says")
        return _examined(self.work(policy_of(slug, version), by=caller_of(request).name, seen=said or header))


class PublishPolicy(PutLive):
    work = staticmethod(policies.publish)


class RollBackPolicy(PutLive):
    work = staticmethod(policies.roll_back)


class DuplicatePolicy(APIView):
    staff_write = True

    @extend_schema(request=None, responses=ExaminedSerializer)
    def post(self, request: Request, slug: str, version: int) -> Response:
        """A draft with the same rules."""
        return _examined(policies.duplicate(policy_of(slug, version), by=caller_of(request).name))


class Rules(GenericAPIView[RoutingRule]):
    """The live policy's rules in their order, or those of `?policy=&version=`. POST adds one to the live policy,
    before the rule at `position` if that is given."""

    staff_write = True
    pagination_class = ByPosition

    def get_queryset(self) -> Any:
        slug, version = self.request.query_params.get("policy"), self.request.query_params.get("version")
        if not slug:
            return RoutingRule.objects.filter(policy__state="live")
        of_policy = RoutingPolicy.objects.filter(slug=slug)
        if version:
            if not version.isdecimal():
                raise InvalidInput("version should be a whole number")
            of_policy = of_policy.filter(version=min(int(version), 2**31 - 1))
        newest = of_policy.order_by("-version").first()
        if newest is None:
            raise NotFound(f"there is no such version of the policy {slug!r}")
        return newest.rules.all()

    @extend_schema(
        operation_id="routing_rules_list",
        parameters=[OpenApiParameter("policy", str), OpenApiParameter("version", int), *PAGED],
        responses=page_of_entries(RuleEntry),
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset().select_related("policy")) or []
        return self.get_paginated_response([_rule_shown(rule) for rule in page])

    @extend_schema(request=RuleEntry, responses={201: RuleShown})
    def post(self, request: Request) -> Response:
        rule = body_of(request)
        position = rule.pop("position", None)
        with _editing() as live:
            order = _rules_of(live)
            order.insert(len(order) if not isinstance(position, int) else max(position - 1, 0), rule)
            _put_live(live, order, request)
        return Response(_rule_named(str(rule["name"])), status=status.HTTP_201_CREATED)


class RuleDetail(APIView):
    """A rule of the live policy by its name. A change is a new version of the policy, in force at once."""

    staff_write = True

    @extend_schema(responses=RuleShown)
    def get(self, request: Request, name: str) -> Response:
        return Response(_rule_named(name))

    @extend_schema(request=changed(RuleEntry), responses=RuleShown)
    def patch(self, request: Request, name: str) -> Response:
        change = body_of(request)
        change.pop("position", None)
        with _editing() as live:
            _rule_named(name)
            order = [rule | change if rule["name"] == name else rule for rule in _rules_of(live)]
            _put_live(live, order, request)
        return Response(_rule_named(str(change.get("name", name))))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        with _editing() as live:
            _rule_named(name)
            _put_live(live, [rule for rule in _rules_of(live) if rule["name"] != name], request)
        return Response(status=status.HTTP_204_NO_CONTENT)


@contextmanager
def _editing() -> Iterator[RoutingPolicy]:
    """The live policy, for one edit after another: none is lost to another one that read the same rules."""
    with transaction.atomic():
        rows.lock_configuration()
        live = RoutingPolicy.objects.filter(state="live").first()
        if live is None:
            raise NotFound("no policy is live")
        yield live


def _rules_of(policy: RoutingPolicy) -> list[dict[str, Any]]:
    return [rows.rule_plain(rule) for rule in policy.rules.order_by("position")]


def _put_live(live: RoutingPolicy, rules: list[dict[str, Any]], request: Request) -> None:
    apply_data({"policies": [{"slug": live.slug, "live": True, "rules": rules}]}, request)


def _rule_named(name: str) -> dict[str, Any]:
    rule = RoutingRule.objects.filter(policy__state="live", name=name).select_related("policy").first()
    if rule is None:
        raise NotFound(f"the live policy has no rule {name!r}")
    return _rule_shown(rule)


def _rule_shown(rule: RoutingRule) -> dict[str, Any]:
    place = {"policy": rule.policy.slug, "version": rule.policy.version, "position": rule.position}
    return {**place, **rows.rule_plain(rule)}
