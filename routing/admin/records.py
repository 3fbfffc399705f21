"""The admin's lists of what workers did: to be read, never edited."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from routing.configuration import rows
from routing.models import (
    BatchItem,
    Circuit,
    ProviderBatch,
    RoutedCall,
    ShadowComparison,
    Statement,
    UsageMonth,
    UsageRecord,
)


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ShadowComparison)
class ShadowComparisonAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "rule", "model", "shadow_model", "judge_model", "state", "winner", "problem")
    list_filter = ("state", "winner", "rule", "shadow_model")
    show_full_result_count = False
    exclude = ("bodies",)


@admin.register(ProviderBatch)
class ProviderBatchAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "provider", "remote_id", "state", "checked_at", "problem")
    list_filter = ("state", "provider")


@admin.register(BatchItem)
class BatchItemAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "state", "submissions", "plain", "finished_at", "error")
    list_filter = ("state",)
    search_fields = ("=id", "=call_id", "=run_id")
    show_full_result_count = False
    exclude = ("request", "sent")


@admin.register(Statement)
class StatementAdmin(ReadOnlyAdmin):
    """Loaded and compared at /usage/statements/; here a statement may be deleted."""

    list_display = ("loaded_at", "provider", "first_day", "last_day", "form", "file_name", "loaded_by")
    list_filter = ("provider", "form")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(ModelAdmin.has_delete_permission(self, request, obj))


@admin.register(UsageMonth)
class UsageMonthAdmin(ReadOnlyAdmin):
    list_display = ("month", "attempts", "receipts", "cost_microusd", "saved_microusd", "dropped_at")


@admin.register(Circuit)
class CircuitAdmin(ReadOnlyAdmin):
    list_display = ("provider", "model_slug", "state", "failures", "open_until", "reason", "changed_at")
    list_filter = ("state",)
    list_select_related = ("provider",)


@admin.register(RoutedCall)
class RoutedCallAdmin(ReadOnlyAdmin):
    """Receipts. Kept bodies are not shown here."""

    list_display = ("created_at", "rule", "model", "source", "outcome", "cost", "duration_ms", "task_kind")
    list_filter = ("source", "outcome", "cache")
    search_fields = ("=id", "=run_id")
    show_full_result_count = False
    exclude = ("bodies",)

    @admin.display(description="cost, $")
    def cost(self, call: RoutedCall) -> str:
        return f"{call.cost_microusd / rows.MICRO:.6f}"


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "model", "provider", "outcome", "input_tokens", "output_tokens", "cost", "saved")
    list_filter = ("source", "outcome")
    search_fields = ("=call_id", "=run_id")
    show_full_result_count = False

    @admin.display(description="cost, $")
    def cost(self, record: UsageRecord) -> str:
        return f"{record.cost_microusd / rows.MICRO:.6f}"

    @admin.display(description="saved, $")
    def saved(self, record: UsageRecord) -> str:
        return f"{record.saved_microusd / rows.MICRO:.6f}"
