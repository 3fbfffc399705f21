"""Addresses below /api/."""

from django.urls import path

from routing import api, api_batch, api_evidence, api_file, api_policies, usage_api

VERSION = "routing/policies/<slug:slug>/<int:version>"

urlpatterns = [
    path("budgets", api.Balances.as_view()),
    path("usage/records", usage_api.Records.as_view()),
    path("usage/records.csv", usage_api.RecordsCsv.as_view()),
    path("usage/summary", usage_api.Summary.as_view()),
    path("savings", usage_api.Savings.as_view()),
    path("routing/providers", api.Providers.as_view()),
    path("routing/providers/<slug:slug>", api.ProviderDetail.as_view()),
    path("routing/models", api.Models.as_view()),
    path("routing/models/<path:slug>", api.ModelDetail.as_view()),
    path("routing/budgets", api.Budgets.as_view()),
    path("routing/budgets/<slug:slug>", api.BudgetDetail.as_view()),
    path("routing/settings", api.Settings.as_view()),
    path("routing/policies", api_policies.Policies.as_view()),
    path(VERSION, api_policies.PolicyDetail.as_view()),
    path(f"{VERSION}/edits", api_policies.PolicyEdits.as_view()),
    path(f"{VERSION}/publish", api_policies.PublishPolicy.as_view()),
    path(f"{VERSION}/rollback", api_policies.RollBackPolicy.as_view()),
    path(f"{VERSION}/duplicate", api_policies.DuplicatePolicy.as_view()),
    path(f"{VERSION}/replay", api_evidence.ReplayPolicy.as_view()),
    path("routing/file", api_file.RoutingFile.as_view()),
    path("routing/import-cortex", api_file.CortexFile.as_view()),
    path("routing/shadow", api_evidence.Shadows.as_view()),
    path("routing/rules", api_policies.Rules.as_view()),
    path("routing/rules/<str:name>", api_policies.RuleDetail.as_view()),
    path("routing/batch", api_batch.Work.as_view()),
    path("routing/batch/<uuid:pk>", api_batch.WorkDetail.as_view()),
    path("routing/batch/<uuid:pk>/cancel", api_batch.WorkCancel.as_view()),
    path("routing/batch/<uuid:pk>/hurry", api_batch.WorkHurry.as_view()),
    path("routing/explain", api.Explain.as_view()),
]
