"""Configuration of the knowledge base: creators and their tiers."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from knowledge.models import Creator, Video


class TierForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A line of the list: its tier is changed there, and has a name for those who do not see the column's head."""

    class Meta:
        model = Creator
        fields = ("tier",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tier"].widget.attrs["aria-label"] = f"Tier of {self.instance.name}"


@admin.register(Creator)
class CreatorAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("name", "slug", "tier", "scan_every_days")
    list_filter = ("tier",)
    list_editable = ("tier",)
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, form=TierForm, **kwargs)


@admin.register(Video)
class VideoAdmin(ModelAdmin):  # type: ignore[misc]
    """Staff may correct what a video is called; its state belongs to the workers."""

    list_display = ("title", "creator", "state", "priority", "created_at")
    list_filter = ("state", "priority", "creator")
    list_select_related = ("creator",)
    search_fields = ("title", "external_id")
    fields = ("creator", "title", "external_id", "url", "priority", "language", "state", "error")
    readonly_fields = ("state", "error")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
