"""Configuration of the knowledge base: creators and their tiers."""

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from knowledge.models import Creator, Video


@admin.register(Creator)
class CreatorAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("name", "slug", "tier", "scan_every_days")
    list_filter = ("tier",)
    list_editable = ("tier",)
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}


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
