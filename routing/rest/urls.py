"""Addresses below /api/."""

from django.urls import path

from routing.rest import batch, entries, evidence, file, policies, usage

VERSION = "routing/policies/<slug:slug>/<int:version>"

urlpatterns = [
    path("budgets", entries.Balances.as_view()),
    path("usage/records", usage.Records.as_view()),
    path("usage/records.csv", usage.RecordsCsv.as_view()),
    path("usage/summary", usage.Summary.as_view()),
    path("savings", usage.Savings.as_view()),
    path("routing/providers", entries.Providers.as_view()),
    path("routing/providers/<slug:slug>", entries.ProviderDetail.as_view()),
    path("routing/models", entries.Models.as_view()),
    path("routing/models/<path:slug>", entries.ModelDetail.as_view()),
    path("routing/budgets", entries.Budgets.as_view()),
    path("routing/budgets/<slug:slug>", entries.BudgetDetail.as_view()),
    path("routing/settings", entries.Settings.as_view()),
    path("routing/policies", policies.Policies.as_view()),
    path(VERSION, policies.PolicyDetail.as_view()),
    path(f"{VERSION}/edits", policies.PolicyEdits.as_view()),
    path(f"{VERSION}/publish", policies.PublishPolicy.as_view()),
    path(f"{VERSION}/rollback", policies.RollBackPolicy.as_view()),
    path(f"{VERSION}/duplicate", policies.DuplicatePolicy.as_view()),
    path(f"{VERSION}/replay", evidence.ReplayPolicy.as_view()),
    path("routing/file", file.RoutingFile.as_view()),
    path("routing/import-cortex", file.CortexFile.as_view()),
    path("routing/shadow", evidence.Shadows.as_view()),
    path("routing/rules", policies.Rules.as_view()),
    path("routing/rules/<str:name>", policies.RuleDetail.as_view()),
    path("routing/batch", batch.Work.as_view()),
    path("routing/batch/<uuid:pk>", batch.WorkDetail.as_view()),
    path("routing/batch/<uuid:pk>/cancel", batch.WorkCancel.as_view()),
    path("routing/batch/<uuid:pk>/hurry", batch.WorkHurry.as_view()),
    path("routing/explain", entries.Explain.as_view()),
]
