"""What budgets have in their present period. Reads only: the ledger alone moves money."""

from typing import Any

from django.db import connection

from routing.planning.pricing import usd

# The period's boundaries are worked out as the ledger does when the first call opens it.
NOW = """
SELECT b.slug, b.period, coalesce(p.starts_at, calendar.begins), CASE WHEN p.id IS NULL THEN calendar.ends
       ELSE p.ends_at END, b.limit_microusd, coalesce(p.settled_microusd, 0), coalesce(p.held_microusd, 0), b.hard
FROM routing_budget b
CROSS JOIN (SELECT coalesce((SELECT time_zone FROM routing_routingsettings WHERE id = 1), 'UTC') AS zone) place
CROSS JOIN LATERAL ledger_calendar(nullif(b.period, 'total'), now(), zone) calendar
LEFT JOIN LATERAL (
    SELECT * FROM routing_budgetperiod
    WHERE budget_id = b.id AND period = b.period AND starts_at <= now() AND (ends_at IS NULL OR ends_at > now())
    ORDER BY starts_at DESC LIMIT 1
) p ON true
WHERE b.enabled ORDER BY b.slug
"""


def balances() -> list[dict[str, Any]]:
    """Every enabled budget, by slug. Money as decimal strings of dollars, times as datetimes or None."""
    with connection.cursor() as cursor:
        cursor.execute(NOW)
        return [_balance(row) for row in cursor.fetchall()]


def _balance(row: tuple[Any, ...]) -> dict[str, Any]:
    slug, period, starts_at, ends_at, limit, settled, held, hard = row
    return {
        "slug": slug,
        "period": period,
        "period_start": starts_at,
        "period_end": ends_at,
        "limit_usd": usd(limit),
        "settled_usd": usd(settled),
        "held_usd": usd(held),
        "left_usd": usd(max(limit - settled - held, 0)),
        "hard": hard,
    }
