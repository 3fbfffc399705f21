"""Forms of the admin. They refuse whatever the routing file would refuse, with the same words."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import BaseInlineFormSet
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminPasswordWidget,
)

from routing.admin.fields import LinesField, NamesField, count, number, one_of_many, switch, text
from routing.configuration import policies, rows
from routing.configuration.reading import read
from routing.configuration.routing_file import problems_with
from routing.configuration.shape import (
    LOCAL_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    OptionsEntry,
    Path,
    PolicyEntry,
    Problem,
    RolesEntry,
    RuleEntry,
    ScopeEntry,
    SettingsEntry,
)
from routing.configuration.validation import errors
from routing.models import (
    AGENT_LEVELS,
    CREATOR_TIERS,
    STRATEGIES,
    Budget,
    LanguageModel,
    Provider,
    RoutingPolicy,
    RoutingRule,
    RoutingSettings,
)
from ziggie.forms import CarefulForm

PLACED_ELSEWHERE = "{place}: {message}"


class ConfigurationForm(CarefulForm):
    """A row that is checked as an entry of the routing file, together with everything else in force.

    The admin's transaction holds the configuration's lock from the check to the write.
    """

    section = ""
    warnings: tuple[Problem, ...] = ()

    def entry(self, cleaned: dict[str, Any]) -> Any:
        """The row as the routing file would hold it."""
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        rows.lock_configuration()
        cleaned = super().clean()
        if self.errors:
            return cleaned
        entry = self.entry(cleaned)
        problems = problems_with({self.section: entry if self.section == "settings" else [entry]})
        for problem in errors(problems):
            self.add_error(*self.told(problem))
        self.warnings = tuple(problem for problem in problems if problem.warning and problem.path[0] == self.section)
        return cleaned

    def told(self, problem: Problem) -> tuple[str | None, str]:
        """The field that a problem belongs to, if it is here, and what is said of it."""
        for step in problem.path[1:] if problem.path[:1] == (self.section,) else ():
            if step in self.fields:
                return str(step), problem.message
        return None, PLACED_ELSEWHERE.format(place=problem.place, message=problem.message)


class ProviderForm(ConfigurationForm):
    section = "providers"
    base_url = text(label="Base URL", max_length=300)
    new_api_key = forms.CharField(
        label="API key",
        required=False,
        widget=UnfoldAdminPasswordWidget(render_value=False),
        max_length=500,
        help_text="Kept encrypted and never shown. Empty keeps what is stored.",
    )
    forget_api_key = switch(label="Forget the stored API key")

    class Meta:
        model = Provider
        fields = ("slug", *rows.PROVIDER_COLUMNS)
        help_texts = {
            "timeout_seconds": "How long it may be silent, and a call wait for its turn. A whole answer that is not "
            "streamed is silent until it is complete: a model on a slow machine of your own may need 600 or more. "
            f"Empty: {LOCAL_TIMEOUT_SECONDS} for a local one, {TIMEOUT_SECONDS} for others."
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if timeout := self.fields.get("timeout_seconds"):
            timeout.required = False
            if not self.instance.pk:
                self.initial["timeout_seconds"] = None  # where it is, which decides, is still to be said

    def _get_validation_exclusions(self) -> set[str]:
        """The address is checked with the entry: Django's validator knows no hosts like http://ollama:11434."""
        return {*super()._get_validation_exclusions(), "base_url"}  # type: ignore[misc]  # not in the stubs

    def clean_timeout_seconds(self) -> int:
        stated: int | None = self.cleaned_data["timeout_seconds"]
        default = LOCAL_TIMEOUT_SECONDS if self.cleaned_data.get("location") == "local" else TIMEOUT_SECONDS
        return default if stated is None else stated

    def entry(self, cleaned: dict[str, Any]) -> Any:
        values = {name: cleaned[name] for name in rows.PROVIDER_COLUMNS if name in cleaned}
        values["api_key_env"] = cleaned["api_key_env"] or None
        return values | {"slug": cleaned.get("slug") or self.instance.slug, "options": cleaned["options"] or {}}

    def save(self, commit: bool = True) -> Any:
        self.instance.api_key_env = self.cleaned_data["api_key_env"] or None
        self.instance.options = self.cleaned_data["options"] or {}
        if self.cleaned_data["forget_api_key"]:
            self.instance.api_key = ""
        if self.cleaned_data["new_api_key"]:
            self.instance.api_key = self.cleaned_data["new_api_key"].strip()
        return super().save(commit)


class LanguageModelForm(ConfigurationForm):
    section = "models"
    aliases = NamesField(help_text="Other names that clients may use, separated by commas.")
    capabilities = NamesField(help_text="chat, json, tools, vision, pdf, citations, embedding, and what rules ask for.")

    class Meta:
        model = LanguageModel
        fields = ("slug", "provider", *rows.MODEL_COLUMNS)

    def entry(self, cleaned: dict[str, Any]) -> Any:
        values = {name: cleaned[name] for name in rows.MODEL_COLUMNS}
        slug = cleaned.get("slug") or self.instance.slug
        return values | {"slug": slug, "provider": cleaned["provider"].slug}


SCOPE_CHOICES = {"locations": Provider.LOCATIONS, "agent_levels": AGENT_LEVELS}
SCOPE_HELP = {
    "providers": "Slugs; nothing anywhere in the scope counts every call.",
    "models": "Slugs.",
    "api_keys": "Names.",
    "task_kinds": "analysis, agent, nl_query, chat, …",
    "creators": "Slugs.",
}


class BudgetForm(ConfigurationForm):
    section = "budgets"
    limit_usd = forms.DecimalField(
        label="Limit in US dollars",
        max_digits=16,
        decimal_places=6,
        min_value=Decimal(0),
        widget=UnfoldAdminDecimalFieldWidget(),
    )
    alert_at_percent = NamesField(help_text="50, 80, 100")
    locations = one_of_many(SCOPE_CHOICES["locations"])
    providers = NamesField(help_text=SCOPE_HELP["providers"])
    models = NamesField(help_text=SCOPE_HELP["models"])
    api_keys = NamesField(label="API keys", help_text=SCOPE_HELP["api_keys"])
    task_kinds = NamesField(help_text=SCOPE_HELP["task_kinds"])
    agent_levels = one_of_many(SCOPE_CHOICES["agent_levels"])
    creators = NamesField(help_text=SCOPE_HELP["creators"])

    class Meta:
        model = Budget
        fields = ("slug", *rows.BUDGET_COLUMNS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            plain = rows.budget_plain(self.instance)
            self.initial = {**self.initial, "limit_usd": Decimal(plain["limit_usd"]), **plain["scope"]}

    def clean_alert_at_percent(self) -> list[int]:
        names = self.cleaned_data["alert_at_percent"]
        if not all(name.isdecimal() for name in names):
            raise ValidationError("should be whole numbers, separated by commas")
        return [int(name) for name in names]

    def entry(self, cleaned: dict[str, Any]) -> Any:
        values = {name: cleaned[name] for name in rows.BUDGET_COLUMNS}
        scope = {name: cleaned[name] for name in ScopeEntry.model_fields if cleaned[name]}
        slug = cleaned.get("slug") or self.instance.slug
        return values | {"slug": slug, "limit_usd": cleaned["limit_usd"], "scope": scope}

    def save(self, commit: bool = True) -> Any:
        cleaned = self.cleaned_data
        scope = {name: cleaned[name] for name in ScopeEntry.model_fields if cleaned[name]}
        self.instance.scope = rows.scope_row(scope)
        self.instance.limit_microusd = int(cleaned["limit_usd"] * rows.MICRO)
        return super().save(commit)


class SettingsForm(ConfigurationForm):
    section = "settings"
    baseline_model = text(max_length=100, help_text="Savings are counted against this model.")
    redact_patterns = LinesField(
        help_text="One RE2 expression a line: what they find is taken out of stored bodies, beside what always is."
    )

    class Meta:
        model = RoutingSettings
        fields = tuple(SettingsEntry.model_fields)

    def entry(self, cleaned: dict[str, Any]) -> Any:
        return {name: cleaned[name] for name in SettingsEntry.model_fields}

    def save(self, commit: bool = True) -> Any:
        self.instance.pk = rows.SETTINGS_ID
        return super().save(commit)


# --- rules ---------------------------------------------------------------------------------------


class RuleForm(CarefulForm):
    """One rule, checked together with the others of its policy."""

    task_kinds = NamesField(help_text="analysis, agent, nl_query, chat, …; empty takes all.")
    agent_levels = one_of_many(AGENT_LEVELS)
    creator_tiers = one_of_many(CREATOR_TIERS)
    capabilities = NamesField(help_text="One of them among the request's is enough.")
    strategies = one_of_many(STRATEGIES)
    chain = NamesField(help_text="Model slugs, the first choice first, separated by commas.")
    verifier = text(help_text="verify: the model that reviews the answer.")
    draft = text(help_text="cascade: the fast model.")
    refiner = text(help_text="cascade: the model that refines an unsure draft.")
    members = NamesField(help_text="ensemble, debate: the models that answer.")
    synthesiser = text(help_text="ensemble, debate: the model that makes one answer of them.")
    vote = switch(help_text="ensemble, debate: the members vote instead.")
    rounds = count(help_text="debate, critique: at most 5.")
    min_confidence = number(help_text="0-100: a local answer below it is redone in the cloud.")
    first_token_seconds = number(help_text="Longer than this, and the next model is asked. Empty waits.")
    max_attempts = count()
    local_tries = count(help_text="How often a failing local model is tried.")
    cache_ttl_seconds = count(help_text="Empty: no cache.")
    cache_any_temperature = switch()
    rollout_percent = count(help_text="The share of the matching requests that this rule takes.")
    shadow_model = text(help_text="Gets a copy of some requests; its answers reach nobody.")
    shadow_percent = count()
    shadow_judge = text(help_text="Compares both answers blind; the baseline model if empty.")
    batch = switch(help_text="Work that is sent as a batch waits for the window.")
    batch_window = text(help_text="As 23:00-06:00, in the staff's time zone; empty is any time.")
    store_bodies = switch(help_text="Keep requests and answers, redacted, for some days.")

    warnings: tuple[Problem, ...] = ()

    class Meta:
        model = RoutingRule
        fields = ("policy", "position", "name", *rows.WHEN_COLUMNS, "pattern", "chain")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        roles, options = self.instance.roles, self.instance.options
        self.came_from = self.instance.position
        defaults = {name: field.default for name, field in OptionsEntry.model_fields.items()}
        self.initial = {**defaults, **roles, **options, **self.initial}
        if "policy" in self.fields:
            self.fields["policy"].queryset = RoutingPolicy.objects.exclude(state="retired")  # type: ignore[attr-defined]

    def validate_constraints(self) -> None:
        """Names and places are checked with the whole policy; places are given anew after it is written."""

    def clean(self) -> dict[str, Any]:
        rows.lock_configuration()
        cleaned = super().clean()
        if self.errors:
            return cleaned
        policy = cleaned.get("policy") or self.instance.policy
        if policy.state == "retired":
            raise ValidationError("A retired version is never changed; duplicate it as a draft.")
        document, problems = read({"policies": [{"slug": policy.slug, "rules": [self._plain(cleaned)]}]})
        assert document.policies
        self.rule = document.policies[0].entry.rules[0]
        if not problems:
            entry, place = self._policy_with(self.rule, policy, cleaned["position"])
            problems = new_problems(policy, entry)
            # In a draft other rules may still be wrong.
            if policy.state == "draft":
                problems = [problem for problem in problems if problem.path[:2] == ("rules", place)]
        for problem in errors(problems):
            self.add_error(*self._told(problem.path, problem))
        self.warnings = tuple(problem for problem in problems if problem.warning)
        return cleaned

    def _plain(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        when: dict[str, Any] = {name: cleaned[name] for name in rows.WHEN_LISTS}
        for name in (*rows.WHEN_RANGES, "local_queue"):
            sides = {side: cleaned.get(f"{name}_{side}") for side in ("above", "at_most")}
            when[name] = {side: value for side, value in sides.items() if value is not None}
        stated = {name: cleaned[name] for name in RolesEntry.model_fields}
        roles = {name: value for name, value in stated.items() if value not in (None, "", [], False)}
        options = {name: cleaned[name] for name in OptionsEntry.model_fields}
        numbers = {name: float(value) for name, value in options.items() if isinstance(value, Decimal)}
        for name in ("shadow_model", "shadow_judge", "cache_ttl_seconds"):
            options[name] = None if options[name] == "" else options[name]
        for name in ("max_attempts", "local_tries", "rollout_percent", "shadow_percent"):
            if options[name] is None:  # emptied: as if it had never been stated
                del options[name]
        rule = {name: cleaned[name] for name in ("name", "pattern", "chain")}
        return rule | {"when": when, "roles": roles, "options": options | numbers}

    def _policy_with(self, rule: RuleEntry, policy: RoutingPolicy, position: int) -> tuple[PolicyEntry, int]:
        """The policy as it would be, and the index of the rule in it."""
        others = list(policy.rules.order_by("position").exclude(pk=self.instance.pk))
        entry = policies.entry_of(policy)
        kept = {known.name: known for known in entry.rules}
        moved_down = self.instance.pk is not None and self.came_from < position
        before = [r for r in others if r.position < position or (moved_down and r.position == position)]
        after = others[len(before) :]
        order = [kept[r.name] for r in before] + [rule] + [kept[r.name] for r in after]
        return entry.model_copy(update={"rules": order}), len(before)

    def _told(self, path: Path, problem: Problem) -> tuple[str | None, str]:
        steps = [str(step) for step in path]
        for name in ("_".join(steps[-2:]), *reversed(steps)):
            if name in self.fields:
                return name, problem.message
            if f"{name}_above" in self.fields:
                return f"{name}_above", problem.message
        return None, PLACED_ELSEWHERE.format(place=problem.place, message=problem.message)

    def save(self, commit: bool = True) -> Any:
        self.instance.roles = rows.plain(self.rule.roles)
        self.instance.options = rows.plain(self.rule.options)
        return super().save(commit)


class RuleOrderFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """The rules of a policy in their order. Here they are only moved and taken away."""

    def validate_unique(self) -> None:
        """Places may be swapped; whether one is used twice is looked at in clean()."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors) or not self.has_changed():
            return
        kept = [form for form in self.forms if form.instance.pk and not form.cleaned_data.get("DELETE")]
        places = [form.cleaned_data["position"] for form in kept]
        if len(set(places)) < len(places):
            raise ValidationError("Two rules have the same position.")
        rows.lock_configuration()
        entry = policies.entry_of(self.instance)
        known = {rule.name: rule for rule in entry.rules}
        order = [known[f.instance.name] for f in sorted(kept, key=lambda f: int(f.cleaned_data["position"]))]
        problems = new_problems(self.instance, entry.model_copy(update={"rules": order}))
        if self.instance.state == "live" and (found := errors(problems)):
            raise ValidationError([PLACED_ELSEWHERE.format(place=p.place, message=p.message) for p in found])


class RuleOrderForm(CarefulForm):
    compared = ("position",)

    class Meta:
        model = RoutingRule
        fields = ("position",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["position"].widget.attrs["aria-label"] = f"Position of {self.instance.name}"

    def validate_constraints(self) -> None:
        """See RuleOrderFormSet."""


class PolicyForm(CarefulForm):
    compared = ("notes",)


def new_problems(policy: RoutingPolicy, entry: PolicyEntry) -> list[Problem]:
    """What these rules would bring that the policy's present rules do not have."""
    known = {problem.message for problem in policies.problems_if_live(policies.entry_of(policy))}
    return [problem for problem in policies.problems_if_live(entry) if problem.message not in known]
