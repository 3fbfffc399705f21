"""Usage records by month: each month is a table of its own, which is dropped whole once it is old enough.

A row that no month was made for goes to the table `routing_usagerecord_rest`: none is ever lost or refused, even if
no job ever runs.
"""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import migrations, models
import django.utils.timezone

MONTHS = """
-- Makes the table of the month that `day` is in, unless it is there; true if it made it. Rows of that month that the
-- rest took meanwhile move there, but not so many that calls would have to wait: then that month stays in the rest.
CREATE FUNCTION usage_make_month(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    most_moved constant integer := 50000;
    begins timestamptz := date_trunc('month', day::timestamp) AT TIME ZONE 'UTC';
    ends timestamptz := (date_trunc('month', day::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    month_table text := 'routing_usagerecord_' || to_char(day, 'YYYY_MM');
    waiting bigint;
BEGIN
    IF to_regclass(month_table) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE routing_usagerecord_rest IN ACCESS EXCLUSIVE MODE;
    SELECT count(*) INTO waiting FROM (SELECT FROM routing_usagerecord_rest
        WHERE created_at >= begins AND created_at < ends LIMIT most_moved + 1) AS rows_of_month;
    IF waiting > most_moved THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE routing_usagerecord INCLUDING ALL)', month_table);
    EXECUTE format('CREATE UNIQUE INDEX %I ON %I (call_id, attempt)', month_table || '_attempt', month_table);
    EXECUTE format('WITH moved AS (DELETE FROM routing_usagerecord_rest
        WHERE created_at >= %L AND created_at < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        begins, ends, month_table);
    EXECUTE format('ALTER TABLE routing_usagerecord ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        month_table, begins, ends);
    RETURN true;
END $$;
"""

PARTITIONED = """
ALTER TABLE routing_usagerecord RENAME TO routing_usagerecord_before;
ALTER TABLE routing_usagerecord_before
    DROP CONSTRAINT routing_usagerecord_pkey, DROP CONSTRAINT one_record_per_attempt;
DROP INDEX usagerecord_time;
CREATE TABLE routing_usagerecord (LIKE routing_usagerecord_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (created_at);
ALTER TABLE routing_usagerecord ADD PRIMARY KEY (id, created_at);
CREATE INDEX usagerecord_time ON routing_usagerecord USING brin (created_at);
CREATE TABLE routing_usagerecord_rest PARTITION OF routing_usagerecord DEFAULT;
CREATE UNIQUE INDEX routing_usagerecord_rest_attempt ON routing_usagerecord_rest (call_id, attempt);
SELECT usage_make_month(day::date) FROM (
    SELECT DISTINCT date_trunc('month', created_at, 'UTC') AT TIME ZONE 'UTC' FROM routing_usagerecord_before
    UNION SELECT generate_series(date_trunc('month', now(), 'UTC') AT TIME ZONE 'UTC',
                                 (now() AT TIME ZONE 'UTC') + interval '3 months', interval '1 month')
) AS months(day);
INSERT INTO routing_usagerecord SELECT * FROM routing_usagerecord_before;
DROP TABLE routing_usagerecord_before;
"""

WHOLE = """
ALTER TABLE routing_usagerecord RENAME TO routing_usagerecord_months;
CREATE TABLE routing_usagerecord (LIKE routing_usagerecord_months INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO routing_usagerecord SELECT * FROM routing_usagerecord_months;
DROP TABLE routing_usagerecord_months;
ALTER TABLE routing_usagerecord ADD PRIMARY KEY (id);
ALTER TABLE routing_usagerecord ADD CONSTRAINT one_record_per_attempt UNIQUE (call_id, attempt);
CREATE INDEX usagerecord_time ON routing_usagerecord USING brin (created_at);
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0006_evidence")]
    operations = [
        migrations.RunSQL(MONTHS, "DROP FUNCTION usage_make_month"),
        migrations.RunSQL(PARTITIONED, WHOLE),
        migrations.AddField(
            model_name="routingsettings",
            name="usage_months",
            field=models.PositiveSmallIntegerField(
                blank=True,
                default=24,
                help_text="Whole months of records and receipts that are kept beside the present one; empty keeps all.",
                null=True,
                validators=[MinValueValidator(1), MaxValueValidator(1200)],
            ),
        ),
        migrations.CreateModel(
            name="UsageMonth",
            fields=[
                ("month", models.DateField(help_text="Its first day, in UTC.", primary_key=True, serialize=False)),
                ("attempts", models.BigIntegerField(default=0)),
                ("succeeded", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("cost_microusd", models.BigIntegerField(default=0)),
                ("baseline_microusd", models.BigIntegerField(default=0)),
                ("energy_microusd", models.BigIntegerField(default=0)),
                ("saved_microusd", models.BigIntegerField(default=0)),
                ("receipts", models.BigIntegerField(default=0)),
                ("receipts_microusd", models.BigIntegerField(default=0)),
                ("dropped_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={"ordering": ("-month",)},
        ),
    ]
