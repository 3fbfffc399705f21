"""Pages of routing: /policies/, /usage/ with its receipts, /providers/."""

from django.urls import path, re_path

from routing.views import calls, evidence, files, policies, providers, usage

VERSION = "policies/<slug:slug>/<int:version>/"

urlpatterns = [
    path("policies/", policies.policy_list, name="policies"),
    path("policies/explain/", evidence.explain_page, name="explain"),
    path("policies/rollouts/", evidence.rollout_page, name="rollouts"),
    path("policies/waiting/", evidence.batch_page, name="batches"),
    path("policies/waiting/<uuid:pk>/hurry/", evidence.batch_hurry, name="batch-hurry"),
    path("policies/waiting/<uuid:pk>/cancel/", evidence.batch_cancel, name="batch-cancel"),
    path("policies/file/", files.file_page, name="routing-file"),
    re_path(r"^policies/file/routing\.(?P<file_format>yaml|json)$", files.file_export, name="routing-export"),
    path("policies/file/check/", files.file_check_page, name="routing-check"),
    path("policies/file/apply/", files.file_apply, name="routing-apply"),
    path("policies/import/", files.import_page, name="routing-import"),
    path(VERSION, policies.policy_page, name="policy"),
    path(f"{VERSION}publish/", policies.policy_publish, name="policy-publish"),
    path(f"{VERSION}duplicate/", policies.policy_duplicate, name="policy-duplicate"),
    path("usage/", usage.usage_page, name="usage"),
    path("usage/figures/", usage.usage_figures, name="usage-figures"),
    path("usage/groups.csv", usage.usage_csv, name="usage-csv"),
    path("usage/calls/", calls.call_list, name="usage-calls"),
    path("usage/calls/rows/", calls.call_rows, name="usage-call-rows"),
    path("usage/calls/<uuid:pk>/", calls.call_page, name="usage-call"),
    path("usage/prices/", usage.prices, name="usage-prices"),
    path("usage/statements/", usage.statement_list, name="statements"),
    path("usage/statements/<uuid:pk>/", usage.statement_page, name="statement"),
    path("providers/", providers.provider_list, name="providers"),
    path("providers/rows/", providers.provider_rows, name="provider-rows"),
    path("providers/<slug:slug>/test/", providers.provider_test, name="provider-test"),
]
