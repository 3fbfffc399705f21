"""The admin: where staff retune routing. A change is checked as a whole and in force within two seconds."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action

from routing.admin import records  # noqa: F401 - the records register themselves
from routing.admin.file import FileActions
from routing.admin.forms import (
    BudgetForm,
    LanguageModelForm,
    PolicyForm,
    ProviderForm,
    RuleForm,
    RuleOrderForm,
    RuleOrderFormSet,
    SettingsForm,
)
from routing.admin.prices import PriceInline
from routing.configuration import policies, rows
from routing.configuration.shape import PolicyEntry
from routing.evidence import replay
from routing.models import (
    BatchItem,
    Budget,
    BudgetPeriod,
    LanguageModel,
    Provider,
    RoutingPolicy,
    RoutingRule,
    RoutingSettings,
)
from routing.money.balances import balances
from routing.world.probing import probe
from ziggie.errors import ZiggieError

REPLAYED_CALLS = 2_000  # on a page: about a second
EDITS_SHOWN = 20
BUDGET_SCOPE = ("locations", "providers", "models", "api_keys", "task_kinds", "agent_levels", "creators")


class ConfigurationAdmin(ModelAdmin):  # type: ignore[misc]
    """What was unwise but allowed is said after saving."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        for warning in getattr(form, "warnings", ()):
            messages.warning(request, f"{warning.place}: {warning.message}")

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Rows that the configuration speaks of are not deleted."""
        deleted, counts, permissions, protected = super().get_deleted_objects(objs, request)
        return deleted, counts, permissions, protected + [reason for obj in objs for reason in self.why_kept(obj)]

    def why_kept(self, obj: Any) -> list[str]:
        return []


def _told(request: HttpRequest, work: Callable[[], Any], done: str) -> None:
    """Runs an action and says how it ended."""
    try:
        work()
    except ZiggieError as error:
        lines = [error.message, *(f"{d.get('place', '')}: {d.get('problem', '')}" for d in error.details)]
        messages.error(request, format_html_join("\n", "{}<br>", ((line,) for line in lines)))
    else:
        messages.success(request, done)


# --- providers, models, settings, budgets --------------------------------------------------------


@admin.register(Provider)
class ProviderAdmin(ConfigurationAdmin):
    form = ProviderForm
    list_display = ("slug", "kind", "location", "base_url", "enabled", "has_key", "max_requests_per_day")
    list_filter = ("location", "kind", "enabled")
    search_fields = ("slug", "base_url")
    actions = ("test_providers",)

    def get_readonly_fields(self, request: HttpRequest, obj: Provider | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    @admin.display(boolean=True, description="key stored")
    def has_key(self, provider: Provider) -> bool:
        return bool(provider.api_key)

    @admin.action(description="Test whether the provider answers", permissions=["change"])
    def test_providers(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        for provider in queryset[:10]:
            level, text = probe(provider.slug)
            messages.add_message(request, level, f"{provider.slug}: {text}")


@admin.register(LanguageModel)
class LanguageModelAdmin(ConfigurationAdmin):
    form = LanguageModelForm
    inlines = (PriceInline,)
    list_display = ("slug", "provider", "name", "context_window", "price", "enabled")
    list_filter = ("provider", "enabled")
    list_select_related = ("provider",)
    search_fields = ("slug", "name", "aliases")
    actions_list = ("compare_prices",)

    @action(description="Compare prices with the list")  # type: ignore[untyped-decorator]
    def compare_prices(self, request: HttpRequest) -> HttpResponse:
        return redirect("usage-prices")

    def get_readonly_fields(self, request: HttpRequest, obj: LanguageModel | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[LanguageModel]:
        self.prices = rows.prices_in_force()
        return super().get_queryset(request)  # type: ignore[no-any-return]

    @admin.display(description="$ per 1M in / out")
    def price(self, model: LanguageModel) -> str:
        price = self.prices.get(model.pk)
        return f"{rows.money(price.input_usd_per_mtok)} / {rows.money(price.output_usd_per_mtok)}" if price else "none"

    def why_kept(self, obj: LanguageModel) -> list[str]:
        out = BatchItem.objects.filter(state="sent", sent__model=obj.slug).count()
        return rows.mentions_of(obj.slug) + ([f"a batch is out that asks {obj.slug} {out} times"] if out else [])


@admin.register(RoutingSettings)
class SettingsAdmin(ConfigurationAdmin):
    form = SettingsForm
    list_display = ("strategy", "baseline_model", "electricity_usd_per_kwh", "kimi_enabled", "time_zone")
    list_display_links = ("strategy",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return not RoutingSettings.objects.exists()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Budget)
class BudgetAdmin(ConfigurationAdmin):
    form = BudgetForm
    list_display = ("slug", "period", "limit", "settled", "held", "left", "hard", "on_exhausted", "enabled")
    list_filter = ("period", "hard", "enabled")
    fieldsets = (
        (
            None,
            {"fields": ("slug", "period", "limit_usd", "hard", "on_exhausted", "alert_at_percent", "enabled", "seen")},
        ),
        ("What it counts", {"fields": BUDGET_SCOPE}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Budget | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        self.balances = {balance["slug"]: balance for balance in balances()}
        return super().get_queryset(request)  # type: ignore[no-any-return]

    @admin.display(description="limit, $")
    def limit(self, budget: Budget) -> str:
        return rows.budget_plain(budget)["limit_usd"]  # type: ignore[no-any-return]

    @admin.display(description="settled, $")
    def settled(self, budget: Budget) -> str | None:
        return self._now(budget, "settled_usd")

    @admin.display(description="held, $")
    def held(self, budget: Budget) -> str | None:
        return self._now(budget, "held_usd")

    @admin.display(description="left, $")
    def left(self, budget: Budget) -> str | None:
        return self._now(budget, "left_usd")

    def _now(self, budget: Budget, what: str) -> str | None:
        """Of the present period; nothing of a budget that is off."""
        balance = self.balances.get(budget.slug)
        return balance[what] if balance else None

    def why_kept(self, obj: Budget) -> list[str]:
        counted = BudgetPeriod.objects.filter(budget=obj).exists()
        return [f"{obj.slug} has counted money already; disable it instead"] if counted else []


# --- policies and rules ----------------------------------------------------------------------------


class RuleInline(TabularInline):  # type: ignore[misc]
    model = RoutingRule
    form = RuleOrderForm
    formset = RuleOrderFormSet
    extra = 0
    ordering = ("position",)
    fields = ("position", "rule", "pattern", "models", "seen")
    readonly_fields = ("rule", "pattern", "models")

    def get_fields(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> tuple[str, ...]:
        page = self.admin_site.get_model_admin(RoutingPolicy)
        may = self.has_change_permission(request, obj) and page.has_change_permission(request, obj)
        return self.fields if may else self.fields[:-1]  # what is only shown would show a cell for "seen"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display
    def rule(self, rule: RoutingRule) -> str:
        return format_html(
            '<a class="font-medium underline" href="{}">{}</a>',
            reverse("admin:routing_routingrule_change", args=[rule.pk]),
            rule.name,
        )

    @admin.display(description="chain")
    def models(self, rule: RoutingRule) -> str:
        return ", ".join(rule.chain)


def _look(policy: RoutingPolicy) -> HttpResponse:
    """The page that shows what would change, and puts exactly that live."""
    return redirect("policy-publish", policy.slug, policy.version)


@admin.register(RoutingPolicy)
class PolicyAdmin(FileActions, ModelAdmin):  # type: ignore[misc]
    form = PolicyForm
    inlines = (RuleInline,)
    list_display = ("slug", "version", "state", "created_by", "published_by", "published_at")
    list_filter = ("state", "slug")
    fields = (
        *("slug", "version", "state", "notes"),
        *("created_by", "created_at", "published_by", "published_at", "changes", "edited", "replayed"),
        "seen",
    )
    actions = ("look", "duplicate")
    actions_submit_line = ("save_and_look",)

    def get_readonly_fields(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> tuple[str, ...]:
        editable = ("notes", "seen") if obj else ("slug", "notes", "seen")
        return tuple(name for name in self.fields if name not in editable)

    def has_change_permission(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> bool:
        return bool(super().has_change_permission(request, obj) and (obj is None or obj.state != "retired"))

    def has_delete_permission(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> bool:
        """Receipts name the versions that were live."""
        return bool(super().has_delete_permission(request, obj) and (obj is None or obj.state == "draft"))

    def get_actions(self, request: HttpRequest) -> Any:
        offered = super().get_actions(request)
        offered.pop("delete_selected", None)  # it would not look at the state of each
        return offered

    @admin.display(description="changes to the version before")
    def changes(self, policy: RoutingPolicy) -> str:
        diff = policies.difference(policies.predecessor(policy), policy) if policy.pk else ""
        return format_html('<pre class="overflow-x-auto text-xs">{}</pre>', diff or "none")

    @admin.display(description="edits of this version")
    def edited(self, policy: RoutingPolicy) -> str:
        lines = ((edit.edited_by, f"{edit.edited_at:%Y-%m-%d %H:%M} UTC") for edit in policy.edits.all()[:EDITS_SHOWN])
        return format_html_join("", "<p>{} at {}</p>", lines) if policy.pk else "-"

    @admin.display(description="recent traffic through this draft")
    def replayed(self, policy: RoutingPolicy) -> str:
        """Only for drafts: what is live shows on the dashboard."""
        if policy.state != "draft" or not policy.pk:
            return "-"
        try:
            report = replay.replay(replay.target_of(policy), max_calls=REPLAYED_CALLS)
        except ZiggieError as error:
            return error.message
        page = reverse("policy-publish", args=[policy.slug, policy.version])
        return format_html(
            '<pre class="text-xs">{}</pre><a class="underline" href="{}">All of it, and the button that publishes</a>',
            replay.as_text(report),
            page,
        )

    def save_model(self, request: HttpRequest, obj: RoutingPolicy, form: Any, change: bool) -> None:
        if change:
            rows.lock_configuration()
            form.before = policies.entry_of(RoutingPolicy.objects.get(pk=obj.pk))
            RoutingPolicy.objects.filter(pk=obj.pk).update(notes=obj.notes)
            return
        entry = PolicyEntry(slug=obj.slug, notes=obj.notes)
        obj.pk = policies.create_draft(entry, by=request.user.get_username()).pk
        obj.refresh_from_db()

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        if formset.has_changed():
            policies.begin_edit(formset.instance, by=request.user.get_username())
        super().save_formset(request, form, formset, change)
        policies.put_in_order(formset.instance)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if change:
            policies.keep_edit(form.instance, form.before, by=request.user.get_username())

    def response_change(self, request: HttpRequest, obj: RoutingPolicy) -> HttpResponse:
        if f"{self.opts.app_label}_{self.opts.model_name}_save_and_look" in request.POST:
            return _look(obj)
        return super().response_change(request, obj)  # type: ignore[no-any-return]

    @action(description="Save, then look and publish")  # type: ignore[untyped-decorator]
    def save_and_look(self, request: HttpRequest, obj: RoutingPolicy) -> None:
        """A button; response_change() sees that it was pressed, once the rules are written too."""

    @admin.action(description="Look at this version, to publish it or roll back to it", permissions=["change"])
    def look(self, request: HttpRequest, queryset: QuerySet[RoutingPolicy]) -> HttpResponse | None:
        policy = self._one(request, queryset)
        return None if policy is None else _look(policy)

    @admin.action(description="Duplicate as a draft", permissions=["add"])
    def duplicate(self, request: HttpRequest, queryset: QuerySet[RoutingPolicy]) -> None:
        policy, by = self._one(request, queryset), request.user.get_username()
        if policy is not None:
            done = f"There is a draft with the rules of {policy.slug} version {policy.version}."
            _told(request, lambda: policies.duplicate(policy, by=by), done)

    def _one(self, request: HttpRequest, queryset: QuerySet[RoutingPolicy]) -> RoutingPolicy | None:
        if queryset.count() != 1:
            messages.error(request, "Choose one version.")
            return None
        return queryset.get()


@admin.register(RoutingRule)
class RuleAdmin(ConfigurationAdmin):
    """One rule with all it may say. An edit of the live policy is a new version of it, in force at once."""

    form = RuleForm
    list_display = ("name", "position", "policy", "pattern", "models")
    list_filter = ("policy__state", "policy__slug", "pattern")
    list_select_related = ("policy",)
    search_fields = ("name", "chain")
    ordering = ("policy__state", "policy", "position")
    fieldsets = (
        (None, {"fields": ("policy", "position", "name", "seen")}),
        ("Takes requests", {"fields": rows.WHEN_COLUMNS}),
        ("Served by", {"fields": ("chain", "pattern")}),
        (
            "Further models",
            {"fields": ("verifier", "draft", "refiner", "members", "synthesiser", "vote", "rounds")},
        ),
        (
            "Options",
            {
                "fields": (
                    *("min_confidence", "first_token_seconds", "max_attempts", "local_tries"),
                    *("cache_ttl_seconds", "cache_any_temperature", "rollout_percent"),
                    *("shadow_model", "shadow_percent", "shadow_judge", "batch", "batch_window", "store_bodies"),
                )
            },
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: RoutingRule | None = None) -> tuple[str, ...]:
        return ("policy",) if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: RoutingRule | None = None) -> bool:
        return bool(super().has_change_permission(request, obj) and (obj is None or obj.policy.state != "retired"))

    def has_delete_permission(self, request: HttpRequest, obj: RoutingRule | None = None) -> bool:
        """Rules are taken away on their policy's page, where the rest of it is checked."""
        return False

    def save_model(self, request: HttpRequest, obj: RoutingRule, form: Any, change: bool) -> None:
        by = request.user.get_username()
        with policies.kept_edit(obj.policy, by=by):
            policies.begin_edit(obj.policy, by=by)
            super().save_model(request, obj, form, change)
            policies.put_in_order(obj.policy, moved=obj, came_from=form.came_from if change else None)

    @admin.display(description="chain")
    def models(self, rule: RoutingRule) -> str:
        return ", ".join(rule.chain)
