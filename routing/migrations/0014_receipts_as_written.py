"""Receipts keep what is only ever read whole as it was written, and a batch of admissions that all fit is one statement.

To turn a receipt's decision and attempts into jsonb was a third of what the database did for a call.
"""

from django.db import migrations

import ziggie.fields

RESERVE = """
-- Admits each operation whose amounts all fit, in the order given; they are `calls` in number. `wanted` is what all of
-- them want of each budget, beside `budget_ids`, which are in order. A row for each: the budgets it holds money of and
-- the periods it holds it in; or the budget that refused it, with what is left there. Where all of them fit and none
-- is known, which is the usual case, one row for all.
-- An id that holds already is answered with what it holds, so that a repeated request does no harm.
-- Not for savepoints: see xmin.
CREATE FUNCTION ledger_reserve(
    operations json, calls integer, budget_ids bigint[], wanted bigint[], at timestamptz)
RETURNS TABLE (held_budgets bigint[], held_periods bigint[], refused_by bigint, left_microusd bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    charged bigint[];
    periods bigint[] := '{}';
    room bigint[];  -- null: a soft budget
    added bigint[];
    counted bigint[] := '{}';
    found_period bigint;
    fits boolean := true;
    admitted integer := 0;
BEGIN
    -- As it mostly is: each budget's period is there, true to its budget, and has room for all. One after the other, in
    -- order of budget id, which is the order of locks.
    FOR i IN 1 .. coalesce(cardinality(budget_ids), 0) LOOP
        FOR found_period IN
            UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd + wanted[i]
            FROM routing_budget b
            WHERE b.id = budget_ids[i] AND p.budget_id = budget_ids[i]
              AND p.starts_at <= at AND (p.ends_at IS NULL OR p.ends_at > at)
              AND p.period = b.period AND p.limit_microusd = b.limit_microusd AND p.hard = b.hard
              AND (NOT p.hard OR p.limit_microusd - p.settled_microusd - p.held_microusd >= wanted[i])
            RETURNING p.id
        LOOP
            periods := periods || found_period;
            counted := counted || wanted[i];
        END LOOP;
        fits := cardinality(periods) = i;  -- neither none nor two of this budget
        EXIT WHEN NOT fits;
    END LOOP;
    IF fits THEN
        INSERT INTO routing_reservation (id, period_ids, amounts_microusd, expires_at, context, created_at)
        SELECT o.id, CASE WHEN o.budgets = budget_ids THEN periods ELSE ARRAY(
                   SELECT periods[array_position(budget_ids, budget)]
                   FROM unnest(o.budgets) WITH ORDINALITY AS one(budget, place) ORDER BY place) END,
               o.amounts, now() + make_interval(secs => o.expires_in_seconds), o.context, now()
        FROM json_to_recordset(operations) AS o(
            id uuid, budgets bigint[], amounts bigint[], expires_in_seconds float8, context json)
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS admitted = ROW_COUNT;
    END IF;
    IF admitted = calls THEN
        held_budgets := budget_ids; held_periods := periods;
        RETURN NEXT;
        RETURN;
    END IF;
    -- Something is in the way: what was counted is taken back, and each is looked at.
    FOR i IN 1 .. cardinality(periods) LOOP
        UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd - counted[i] WHERE p.id = periods[i];
    END LOOP;
    SELECT array_agg(p.budget_id), array_agg(p.id),
           array_agg(CASE WHEN p.hard THEN p.limit_microusd - p.settled_microusd - p.held_microusd END)
    INTO charged, periods, room FROM ledger_periods(budget_ids, at) p;
    added := array_fill(0::bigint, ARRAY[coalesce(cardinality(periods), 0)]);
    IF admitted > 0 THEN  -- the others hold already: what these hold is counted, and each is answered
        SELECT array_agg(coalesce(line.amount, 0) ORDER BY one.place) INTO added
        FROM unnest(periods) WITH ORDINALITY AS one(id, place) LEFT JOIN (
            SELECT line.period, sum(line.amount)::bigint AS amount
            FROM routing_reservation r, unnest(r.period_ids, r.amounts_microusd) AS line(period, amount)
            WHERE r.id IN (SELECT o.id FROM json_to_recordset(operations) AS o(id uuid))
              AND r.xmin = pg_current_xact_id()::xid GROUP BY line.period
        ) AS line ON line.period = one.id;
    END IF;
    RETURN QUERY SELECT * FROM ledger_reserve_each(operations, charged, periods, room, added);
END $$;

-- The same, one after the other. `added` is what is held already of what was free (`room`), and not yet counted.
CREATE FUNCTION ledger_reserve_each(
    operations json, charged bigint[], periods bigint[], room bigint[], added bigint[])
RETURNS TABLE (held_budgets bigint[], held_periods bigint[], refused_by bigint, left_microusd bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    operation record;
    amounts bigint[];
    place integer;
    outcome text;
BEGIN
    FOR operation IN SELECT * FROM json_to_recordset(operations) AS o(
        id uuid, budgets bigint[], amounts bigint[], expires_in_seconds float8, context json
    ) LOOP
        held_budgets := '{}'; held_periods := '{}'; amounts := '{}';
        refused_by := NULL; left_microusd := NULL;
        FOR i IN 1 .. coalesce(cardinality(operation.budgets), 0) LOOP
            place := array_position(charged, operation.budgets[i]);
            CONTINUE WHEN place IS NULL;  -- the budget was deleted meanwhile
            IF room[place] - added[place] < operation.amounts[i] THEN
                refused_by := operation.budgets[i];
                left_microusd := greatest(room[place] - added[place], 0);
                EXIT;
            END IF;
            held_budgets := held_budgets || charged[place];
            held_periods := held_periods || periods[place];
            amounts := amounts || operation.amounts[i];
        END LOOP;
        outcome := CASE WHEN refused_by IS NULL
            THEN ledger_hold(operation.id, held_periods, amounts, operation.expires_in_seconds, operation.context) END;
        IF outcome = 'held' THEN
            FOR i IN 1 .. cardinality(amounts) LOOP
                place := array_position(periods, held_periods[i]);
                added[place] := added[place] + amounts[i];
            END LOOP;
        ELSE
            SELECT coalesce(array_agg(p.budget_id), '{}'), coalesce(array_agg(p.id), '{}'),
                   CASE WHEN count(*) = 0 THEN refused_by END
            INTO held_budgets, held_periods, refused_by
            FROM routing_reservation r, routing_budgetperiod p
            WHERE r.id = operation.id AND p.id = ANY(r.period_ids);
            IF refused_by IS NULL THEN
                PERFORM ledger_prolong(operation.id, operation.expires_in_seconds);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
    FOR i IN 1 .. coalesce(cardinality(periods), 0) LOOP
        IF added[i] > 0 THEN
            UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd + added[i] WHERE p.id = periods[i];
        END IF;
    END LOOP;
END $$;

-- Makes a call's hold: 'held', or 'known' if it has one that counts. One whose budgets have all been deleted counts
-- nothing any more, and holds what is wanted now.
CREATE FUNCTION ledger_hold(call uuid, wanted_periods bigint[], wanted_amounts bigint[], seconds float8, told json)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := now() + make_interval(secs => seconds);
BEGIN
    FOR i IN 1 .. 3 LOOP
        INSERT INTO routing_reservation (id, period_ids, amounts_microusd, expires_at, context, created_at)
        VALUES (call, wanted_periods, wanted_amounts, until, told, now()) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN 'held';
        END IF;
        PERFORM r.id FROM routing_reservation r WHERE r.id = call AND (
            r.envelope_id IS NOT NULL OR cardinality(r.period_ids) = 0
            OR EXISTS (SELECT FROM routing_budgetperiod p WHERE p.id = ANY(r.period_ids)));
        IF FOUND THEN
            RETURN 'known';
        END IF;
        UPDATE routing_reservation r SET period_ids = wanted_periods, amounts_microusd = wanted_amounts,
            expires_at = until, context = told WHERE r.id = call;
        IF FOUND THEN
            RETURN 'held';
        END IF;  -- else somebody has just settled it: the call may hold again
    END LOOP;
    RAISE serialization_failure USING MESSAGE = 'the hold of this call comes and goes';
END $$;
"""

SETTLE = """
-- Ends holds and writes receipts. `held` are calls whose reservation must still be there, `free` calls that held
-- nothing, whose receipt must not be there unless it tells of an earlier failure. A held call without a receipt among `calls` is released.
-- A charge goes to `period`, or where that is null to the current period of `budget`.
-- Returns the ids that ended here; the others had ended before, and nothing is written for them.
CREATE OR REPLACE FUNCTION ledger_settle(held uuid[], free uuid[], charges json, calls json, records json, at timestamptz)
RETURNS SETOF uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ended uuid[];
    line_periods bigint[];
    line_amounts bigint[];
    unheld bigint[];
    periods bigint[];
    freed bigint[];
    charged bigint[];
    written uuid[];
    again uuid[];
    zone text := coalesce((SELECT time_zone FROM routing_routingsettings WHERE id = 1), 'UTC');
BEGIN
    -- Every look by id compares with one array: joins and ORs tempt the planner to read whole tables, dead rows included.
    PERFORM r.id FROM routing_reservation r WHERE r.id = ANY(held) ORDER BY r.id FOR UPDATE;
    WITH gone AS (
        DELETE FROM routing_reservation r WHERE r.id = ANY(held) RETURNING r.id, r.period_ids, r.amounts_microusd
    )
    SELECT coalesce(array_agg(DISTINCT gone.id), '{}'), array_agg(line.period), array_agg(line.amount)
    INTO ended, line_periods, line_amounts
    FROM gone LEFT JOIN LATERAL unnest(gone.period_ids, gone.amounts_microusd) AS line(period, amount) ON true;

    -- A call sent again after a failure keeps its id: its receipt is continued, its attempts counted on.
    SELECT array_agg(r.id) INTO again FROM routing_routedcall r WHERE r.id = ANY(ended || free);
    IF again IS NOT NULL THEN
        SELECT json_agg(jsonb_set(one.record, '{attempt}', to_jsonb((one.record->>'attempt')::integer + coalesce((
            SELECT max(u.attempt) FROM routing_usagerecord u WHERE u.call_id = (one.record->>'call_id')::uuid), 0))))
        INTO records FROM json_array_elements(records) element, LATERAL (SELECT element::jsonb AS record) one;
    END IF;
    WITH receipt AS (
        INSERT INTO routing_routedcall AS r
        SELECT c.* FROM json_populate_recordset(NULL::routing_routedcall, calls) c
        WHERE c.id = ANY(ended) OR c.id = ANY(free)
        ON CONFLICT (id) DO UPDATE SET
            created_at = excluded.created_at, policy = excluded.policy, policy_version = excluded.policy_version,
            rule = excluded.rule, pattern = excluded.pattern, features = excluded.features,
            candidates = excluded.candidates, request = excluded.request,
            attempts = (r.attempts::jsonb || excluded.attempts::jsonb)::json,
            outcome = excluded.outcome, error = excluded.error, model = excluded.model, provider = excluded.provider,
            source = excluded.source, cache = excluded.cache, reserved_microusd = excluded.reserved_microusd,
            cost_microusd = r.cost_microusd + excluded.cost_microusd,
            saved_microusd = r.saved_microusd + excluded.saved_microusd, duration_ms = excluded.duration_ms,
            bodies = excluded.bodies, findings = excluded.findings, paid_by = ledger_paid(r.paid_by, excluded.paid_by)
        WHERE r.id = ANY(ended) OR (r.outcome <> 'ok' AND r.created_at < excluded.created_at)
        RETURNING r.*
    ), record AS (
        INSERT INTO routing_usagerecord SELECT u.* FROM json_populate_recordset(NULL::routing_usagerecord, records) u
        WHERE u.call_id IN (SELECT id FROM receipt) RETURNING *
    ), fact AS (
        SELECT created_at, model, provider, source, rule, task_kind, agent_level, creator, api_key_id,
               (id <> ALL(coalesce(again, '{}')))::integer AS calls, (outcome = 'ok')::integer AS answered, 0 AS attempts, 0 AS succeeded,
               0 AS input_tokens, 0 AS output_tokens, 0 AS cached_input_tokens, 0 AS cost, 0 AS baseline,
               0 AS energy, 0 AS saved, 0 AS energy_wh, NULL::integer AS duration_ms
        FROM receipt
        UNION ALL
        SELECT created_at, model, provider, source, rule, task_kind, agent_level, creator, api_key_id,
               0, 0, 1, (outcome = 'ok')::integer,
               coalesce(input_tokens, 0), coalesce(output_tokens, 0), coalesce(cached_input_tokens, 0),
               cost_microusd, baseline_microusd, energy_microusd, saved_microusd, energy_wh, duration_ms
        FROM record
    ), rollup AS (
        INSERT INTO routing_usagerollup AS r (
            hour, model, provider, source, rule, task_kind, agent_level, creator, api_key_id,
            calls, answered, attempts, succeeded, input_tokens, output_tokens, cached_input_tokens,
            cost_microusd, baseline_microusd, energy_microusd, saved_microusd, energy_wh, duration_ms, latency)
        SELECT ledger_rollup_start(created_at, zone), model, provider, source, rule, task_kind, agent_level, creator,
            api_key_id, sum(calls), sum(answered), sum(attempts), sum(succeeded), sum(input_tokens),
            sum(output_tokens), sum(cached_input_tokens), sum(cost), sum(baseline), sum(energy), sum(saved),
            sum(energy_wh), coalesce(sum(duration_ms), 0), ledger_latency(array_agg(duration_ms))
        FROM fact GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ON CONFLICT (hour, model, provider, source, rule, task_kind, agent_level, creator, api_key_id)
        DO UPDATE SET calls = r.calls + excluded.calls, answered = r.answered + excluded.answered,
            attempts = r.attempts + excluded.attempts, succeeded = r.succeeded + excluded.succeeded,
            input_tokens = r.input_tokens + excluded.input_tokens,
            output_tokens = r.output_tokens + excluded.output_tokens,
            cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
            cost_microusd = r.cost_microusd + excluded.cost_microusd,
            baseline_microusd = r.baseline_microusd + excluded.baseline_microusd,
            energy_microusd = r.energy_microusd + excluded.energy_microusd,
            saved_microusd = r.saved_microusd + excluded.saved_microusd,
            energy_wh = r.energy_wh + excluded.energy_wh,
            duration_ms = r.duration_ms + excluded.duration_ms,
            latency = ledger_added(r.latency, excluded.latency)
    )
    SELECT coalesce(array_agg(id), '{}') INTO written FROM receipt;
    ended := ended || ARRAY(SELECT w FROM unnest(written) w WHERE w = ANY(free));

    SELECT array_agg(DISTINCT c.budget) INTO unheld
    FROM json_to_recordset(charges) AS c(call uuid, budget bigint, period bigint)
    WHERE c.period IS NULL AND c.call = ANY(ended);
    SELECT array_agg(period), array_agg(freed), array_agg(charged) INTO periods, freed, charged FROM (
        SELECT period, sum(freed)::bigint AS freed, sum(charged)::bigint AS charged FROM (
            SELECT line.period, line.amount AS freed, 0 AS charged
            FROM unnest(line_periods, line_amounts) AS line(period, amount)
            UNION ALL
            SELECT coalesce(c.period, p.id), 0, c.amount
            FROM json_to_recordset(charges) AS c(call uuid, budget bigint, period bigint, amount bigint)
            LEFT JOIN ledger_periods(unheld, at) p ON c.period IS NULL AND p.budget_id = c.budget
            WHERE c.call = ANY(ended)
        ) AS change GROUP BY period
    ) AS change;
    PERFORM p.id FROM routing_budgetperiod p WHERE p.id = ANY(periods) ORDER BY p.budget_id, p.id FOR UPDATE;
    UPDATE routing_budgetperiod p
    SET held_microusd = p.held_microusd - change.freed,
        settled_microusd = p.settled_microusd + change.charged,
        overrun_microusd = CASE WHEN p.hard THEN greatest(0, p.settled_microusd + change.charged
            + p.held_microusd - change.freed - p.limit_microusd) ELSE 0 END
    FROM unnest(periods, freed, charged) AS change(period, freed, charged) WHERE p.id = change.period;
    RETURN QUERY SELECT unnest(ended);
END $$;
"""


# One statement rewrites the table once.
JSON = """
ALTER TABLE routing_routedcall
    ALTER features TYPE json, ALTER candidates TYPE json, ALTER request TYPE json, ALTER attempts TYPE json;
ALTER TABLE routing_reservation ALTER context TYPE json;
"""
JSONB = """
ALTER TABLE routing_routedcall
    ALTER features TYPE jsonb USING features::jsonb, ALTER candidates TYPE jsonb USING candidates::jsonb,
    ALTER request TYPE jsonb USING request::jsonb, ALTER attempts TYPE jsonb USING attempts::jsonb;
ALTER TABLE routing_reservation ALTER context TYPE jsonb USING context::jsonb;
"""
ALL = "(json, integer, bigint[], bigint[], timestamptz)"
EACH = "(json, bigint[], bigint[], bigint[], bigint[])"
HOLD = "(uuid, bigint[], bigint[], float8, json)"


def _as_written(model: str, name: str, **options: object) -> migrations.AlterField:
    return migrations.AlterField(model, name, ziggie.fields.WrittenJSONField(**options))


class Migration(migrations.Migration):
    dependencies = [("routing", "0013_waiting_work_and_edits")]
    operations = [
        migrations.RunSQL(
            JSON,
            JSONB,
            state_operations=[
                _as_written("RoutedCall", "features"),
                _as_written("RoutedCall", "candidates"),
                _as_written(
                    "RoutedCall",
                    "request",
                    default=dict,
                    help_text="What the decision needs to be made again; no texts.",
                ),
                _as_written("RoutedCall", "attempts", default=list),
                _as_written("Reservation", "context", default=dict),
            ],
        ),
        # The ledger_reserve of migration 0003 stays beside it: processes that were started before go on with it.
        migrations.RunSQL(
            RESERVE,
            f"DROP FUNCTION ledger_reserve{ALL}, ledger_reserve_each{EACH}, ledger_hold{HOLD}",
        ),
        migrations.RunSQL(SETTLE, migrations.RunSQL.noop),  # it serves both kinds of columns
    ]
