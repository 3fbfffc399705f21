"""An installation to route calls in: the seeded catalogue, with providers that are local servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from routing.configuration import snapshot
from routing.models import BudgetPeriod, Envelope, Provider, Reservation, RoutedCall, RoutingRule, UsageRecord
from tests.seeding import seed
from tests.servers import AnthropicServer, OllamaServer


@dataclass
class Installation:
    """`ollama` and `anthropic` are what the seeded rows of these names call."""

    ollama: OllamaServer
    anthropic: AnthropicServer

    def change_rule(self, name: str, **columns: Any) -> None:
        rule = RoutingRule.objects.get(policy__state="live", name=name)
        options = columns.pop("options", {})
        RoutingRule.objects.filter(pk=rule.pk).update(options=rule.options | options, **columns)
        snapshot.forget()

    def change_provider(self, slug: str, **columns: Any) -> None:
        Provider.objects.filter(slug=slug).update(**columns)
        snapshot.forget()

    def records(self) -> list[UsageRecord]:
        return list(UsageRecord.objects.order_by("call_id", "attempt"))

    def outcomes(self) -> list[tuple[str, str]]:
        return [(record.model, record.outcome) for record in self.records()]

    def assert_books_are_closed(self) -> None:
        """Nothing is held, and the records add up to the receipts and to the budget."""
        assert not Reservation.objects.exists()
        assert not Envelope.objects.filter(closed_at=None).exists()
        spent = sum(record.cost_microusd for record in self.records())
        assert spent == sum(call.cost_microusd for call in RoutedCall.objects.all())
        cloud = sum(record.cost_microusd for record in self.records() if record.source == "cloud")
        assert cloud == sum(period.settled_microusd for period in BudgetPeriod.objects.all())
        assert all(period.held_microusd == 0 for period in BudgetPeriod.objects.all())


@contextmanager
def installed() -> Iterator[Installation]:
    """The seeded installation, whose rules hurry nobody. Needs a database that real transactions reach
    (transactional_db)."""
    with OllamaServer() as ollama, AnthropicServer(api_key="test-key") as anthropic:
        seed()
        Provider.objects.filter(slug__in=("ollama", "ollama-cloud")).update(base_url=ollama.url)
        row = Provider.objects.get(slug="anthropic")
        row.base_url, row.api_key = anthropic.url, "test-key"
        row.save()
        rules = list(RoutingRule.objects.filter(policy__state="live"))
        for rule in rules:
            rule.options = {"first_token_seconds": 60} | rule.options
        RoutingRule.objects.bulk_update(rules, ["options"])
        snapshot.forget()
        yield Installation(ollama, anthropic)
    snapshot.forget()
