"""Configuration of agents."""

from django.contrib import admin
from unfold.admin import ModelAdmin

from agents.models import Agent


@admin.register(Agent)
class AgentAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("name", "slug", "level", "enabled")
    list_filter = ("level", "enabled")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
