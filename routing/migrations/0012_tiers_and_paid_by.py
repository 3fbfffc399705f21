from django.db import migrations, models

# Two parts of a receipt, or two receipts: the same budgets, their amounts added.
PAID = """
CREATE FUNCTION ledger_paid(one jsonb, other jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(key, amount), '{}') FROM (
        SELECT key, sum(value::bigint) AS amount FROM (
            SELECT * FROM jsonb_each_text(one) UNION ALL SELECT * FROM jsonb_each_text(other)
        ) AS part GROUP BY key
    ) AS paid
$$;
CREATE AGGREGATE ledger_paid_in_all(jsonb) (SFUNC = ledger_paid, STYPE = jsonb, INITCOND = '{}');
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0011_reviews_and_findings")]
    operations = [
        migrations.AddField(
            "Price",
            "input_tiers",
            models.JSONField(blank=True, default=list, help_text="What requests pay whose input is longer: see docs/routing.md."),
        ),
        migrations.AddField(
            "RoutedCall",
            "paid_by",
            models.JSONField(default=dict, help_text="What each budget paid: its id -> micro-dollars."),
        ),
        migrations.AddField(
            "UsageMonth",
            "paid_by",
            models.JSONField(default=dict, help_text="What each budget paid, by the receipts that were dropped."),
        ),
        migrations.RunSQL(PAID, "DROP AGGREGATE ledger_paid_in_all(jsonb); DROP FUNCTION ledger_paid"),
    ]
