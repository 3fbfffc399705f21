"""Requests and tokens a minute, counted for all processes in one statement a batch."""

from django.db import migrations, models

TAKE = """
-- For each key (in order of id, so that no two batches wait for each other): puts back what an earlier grant left
-- unused, corrects tokens, and grants up to `asked` requests within `most` of the last `window_seconds`. Where
-- fewer than `most_tokens` are used, what is granted holds `hold` tokens; where they are all used, nothing is.
-- A correction upwards counts now; one downwards where the hold was counted (`tokens_at`), if that is still seen.
-- `used` and `tokens_used` are the window's sums after that, `oldest` is the second of its first request.
CREATE FUNCTION rate_take(operations json, window_seconds integer)
RETURNS TABLE (place integer, granted integer, used bigint, tokens_used bigint, oldest bigint, at bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    operation record;
    counted bigint;
BEGIN
    FOR operation IN SELECT * FROM json_to_recordset(operations) AS o(
        place integer, key uuid, asked integer, most integer, hold bigint, most_tokens bigint,
        tokens bigint, tokens_at bigint, unused integer, unused_at bigint
    ) ORDER BY o.key, o.place LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended('rate:' || operation.key, 0));
        at := floor(extract(epoch FROM clock_timestamp()));
        place := operation.place;
        DELETE FROM routing_ratebucket b WHERE b.api_key_id = operation.key AND b.second <= at - window_seconds;
        IF operation.unused > 0 THEN
            UPDATE routing_ratebucket b SET requests = greatest(b.requests - operation.unused, 0)
            WHERE b.api_key_id = operation.key AND b.second = operation.unused_at;
        END IF;
        IF operation.tokens < 0 THEN
            UPDATE routing_ratebucket b SET tokens = greatest(b.tokens + operation.tokens, 0)
            WHERE b.api_key_id = operation.key AND b.second = operation.tokens_at;
        END IF;
        SELECT coalesce(sum(b.requests), 0), coalesce(sum(b.tokens), 0),
               min(b.second) FILTER (WHERE b.requests > 0 OR b.tokens > 0)
        INTO used, tokens_used, oldest FROM routing_ratebucket b WHERE b.api_key_id = operation.key;
        granted := operation.asked;
        IF operation.most IS NOT NULL THEN
            granted := greatest(least(operation.asked, operation.most - used), 0);
        END IF;
        IF operation.most_tokens IS NOT NULL AND tokens_used >= operation.most_tokens THEN
            granted := 0;
        END IF;
        counted := greatest(operation.tokens, 0) + CASE WHEN granted > 0 THEN operation.hold ELSE 0 END;
        IF granted > 0 OR counted > 0 THEN
            INSERT INTO routing_ratebucket AS b (api_key_id, second, requests, tokens)
            VALUES (operation.key, at, granted, counted)
            ON CONFLICT (api_key_id, second)
            DO UPDATE SET requests = b.requests + excluded.requests, tokens = b.tokens + excluded.tokens;
        END IF;
        used := used + granted;
        tokens_used := tokens_used + counted;
        RETURN NEXT;
    END LOOP;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0003_ledger")]
    operations = [
        migrations.CreateModel(
            name="RateBucket",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("api_key_id", models.UUIDField()),
                ("second", models.BigIntegerField(help_text="Unix time")),
                ("requests", models.IntegerField(default=0)),
                ("tokens", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=["api_key_id", "second"], name="bucket_of_second")],
            },
        ),
        migrations.RunSQL(TAKE, "DROP FUNCTION rate_take"),
    ]
