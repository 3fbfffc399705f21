"""API keys in the admin: a key is shown once, when it is made or renewed."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from ziggie.auth import ADMIN_PERMISSIONS
from ziggie.forms import CarefulForm
from ziggie.models import SCOPES, USUAL_GRACE, ApiKey, default_scopes, rotate

WHO_MAY = (
    "that takes the permissions to change all that such a key changes (providers, models, prices, rules, budgets)."
)


class ApiKeyForm(CarefulForm):
    may_give_admin = False  # whether who fills it in may do himself what the scope lets a key do
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES],
        initial=default_scopes,
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
    )

    class Meta:
        model = ApiKey
        fields = (
            *("name", "scopes", "allowed_models", "requests_per_minute", "tokens_per_minute"),
            "max_streams",
            *("enabled", "expires_at"),
        )
        help_texts = {"expires_at": "Date and time in UTC."}

    def clean_scopes(self) -> list[str]:
        scopes: list[str] = self.cleaned_data["scopes"]
        before = self.instance.scopes if self.instance.pk else ()
        if "admin" in scopes and "admin" not in before and not self.may_give_admin:
            raise ValidationError(f"Your account cannot give the scope admin: {WHO_MAY}")
        return scopes


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc]
    form = ApiKeyForm
    list_display: tuple[str, ...] = ("name", "prefix", "scopes", "enabled", "expires_at", "last_used_at")
    list_filter = ("enabled",)
    search_fields = ("name", "prefix")
    readonly_fields = ("prefix", "former", "created_at", "last_used_at")
    actions = ("rotate", "renew")

    def get_form(self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (form,), {"may_give_admin": request.user.has_perms(ADMIN_PERMISSIONS)})

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        raw_key = None if change else obj.new_secret()
        super().save_model(request, obj, form, change)
        if raw_key:
            self._show(request, obj, raw_key)

    @admin.display(description="Earlier secrets that still work")
    def former(self, key: ApiKey) -> str:
        working = key.former_secrets.filter(valid_until__gt=timezone.now())
        return "; ".join(map(str, working)) or "none"

    @admin.action(description="Give a new secret (the old one works for another day)", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._rotate(request, queryset, USUAL_GRACE)

    @admin.action(description="Give a new secret (the old one stops working)", permissions=["change"])
    def renew(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._rotate(request, queryset, timedelta())

    def _rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey], grace: timedelta) -> None:
        for key in queryset:
            if "admin" in key.scopes and not request.user.has_perms(ADMIN_PERMISSIONS):
                messages.error(request, f"{key.name}: your account cannot see a secret of the scope admin: {WHO_MAY}")
                continue
            try:
                raw_key = rotate(key, grace=grace)
            except ValidationError as error:
                messages.error(request, f"{key.name}: {'; '.join(error.messages)}")
            else:
                self._show(request, key, raw_key)

    def _show(self, request: HttpRequest, key: ApiKey, raw_key: str) -> None:
        text = "The key of {}, shown this once: <code>{}</code>"
        messages.warning(request, format_html(text, key.name, raw_key))
