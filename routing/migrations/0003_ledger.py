"""The ledger's two statements, as functions, so that a whole batch of calls is admitted or settled in one trip.

Locks are always taken in this order: reservations by id, rollups by key, periods by budget and id.
"""

from django.db import migrations

CALENDAR = """
-- The day, week or month that a moment is in, on the calendar of a place. Both ends are found by the clock on the wall
-- there: where midnight is left out, the day begins when the clock has jumped; where midnight comes twice, with the
-- first of them. It always begins at or before the moment, and ends after it.
CREATE FUNCTION ledger_calendar(kind text, moment timestamptz, zone text, OUT begins timestamptz, OUT ends timestamptz)
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    first timestamp := date_trunc(kind, moment AT TIME ZONE zone);
    next timestamp := first + ('1 ' || kind)::interval;
BEGIN
    begins := least(ledger_first_time(first, zone), moment);
    ends := ledger_first_time(next, zone);
    IF ends <= moment THEN  -- the clock was put back from the next day into this one
        ends := greatest(next AT TIME ZONE zone, moment + interval '1 second');
    END IF;
END $$;

-- When a clock first shows this. PostgreSQL takes the second time where clocks show it twice.
CREATE FUNCTION ledger_first_time(shown timestamp, zone text) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    last timestamptz := shown AT TIME ZONE zone;
    day_before timestamptz := last - interval '1 day';
    ahead interval := (day_before AT TIME ZONE zone) - (day_before AT TIME ZONE 'UTC');
    first timestamptz := (shown - ahead) AT TIME ZONE 'UTC';
BEGIN
    RETURN CASE WHEN first < last AND first AT TIME ZONE zone = shown THEN first ELSE last END;
END $$;
"""

PERIODS = """
-- The current period of each budget, locked in order of budget id, true to the budget's present limit.
CREATE FUNCTION ledger_periods(budget_ids bigint[], at timestamptz)
RETURNS SETOF routing_budgetperiod LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    zone text := coalesce((SELECT time_zone FROM routing_routingsettings WHERE id = 1), 'UTC');
    budget record;
    current routing_budgetperiod;
    moment timestamptz;
    later timestamptz;
BEGIN
    FOR budget IN SELECT b.id, b.period, b.limit_microusd, b.hard FROM routing_budget b
                  WHERE b.id = ANY(budget_ids) ORDER BY b.id LOOP
        moment := at;
        LOOP
            SELECT p.* INTO current FROM routing_budgetperiod p
            WHERE p.budget_id = budget.id AND p.starts_at <= moment AND (p.ends_at IS NULL OR p.ends_at > moment)
            ORDER BY p.starts_at DESC LIMIT 1 FOR UPDATE;
            IF NOT FOUND THEN
                PERFORM ledger_open_period(budget.id, budget.period, budget.limit_microusd, budget.hard, zone, moment);
            ELSIF current.period <> budget.period AND current.starts_at < moment THEN
                -- Whoever came later and had the lock first has begun the new kind of period: this call belongs there.
                SELECT min(p.starts_at) INTO later FROM routing_budgetperiod p
                WHERE p.budget_id = budget.id AND p.starts_at > moment;
                IF later IS NULL THEN
                    UPDATE routing_budgetperiod p SET ends_at = moment WHERE p.id = current.id;
                ELSE
                    moment := later;
                END IF;
            ELSE
                EXIT;
            END IF;
        END LOOP;
        IF current.limit_microusd <> budget.limit_microusd OR current.hard <> budget.hard THEN
            UPDATE routing_budgetperiod p
            SET limit_microusd = budget.limit_microusd, hard = budget.hard,
                overrun_microusd = CASE WHEN budget.hard
                    THEN greatest(0, p.settled_microusd + p.held_microusd - budget.limit_microusd) ELSE 0 END
            WHERE p.id = current.id RETURNING p.* INTO current;
        END IF;
        RETURN NEXT current;
    END LOOP;
END $$;

-- A period from its boundary on the staff's calendar, or from the end of the one before it if that is later. Where
-- the time zone has changed so that most of this day, week or month has been counted in the one before, that one goes
-- on to its end: nobody gets a second budget for the same month by moving the staff.
CREATE FUNCTION ledger_open_period(
    budget bigint, kind text, limit_microusd bigint, hard boolean, zone text, at timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    begins timestamptz := '1970-01-01 00:00+00';
    ends timestamptz;
BEGIN
    IF kind <> 'total' THEN
        SELECT calendar.begins, calendar.ends INTO begins, ends FROM ledger_calendar(kind, at, zone) calendar;
        UPDATE routing_budgetperiod p SET ends_at = ends WHERE p.period = kind AND p.id = (
            SELECT last.id FROM routing_budgetperiod last WHERE last.budget_id = budget AND last.ends_at <= at
            ORDER BY last.ends_at DESC LIMIT 1
        ) AND p.ends_at - greatest(p.starts_at, begins) > (ends - begins) / 2;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    SELECT greatest(begins, max(p.ends_at)) INTO begins
    FROM routing_budgetperiod p WHERE p.budget_id = budget AND p.ends_at <= at;
    INSERT INTO routing_budgetperiod (budget_id, period, starts_at, ends_at, limit_microusd, hard,
                                      settled_microusd, held_microusd, overrun_microusd)
    VALUES (budget, kind, begins, ends, limit_microusd, hard, 0, 0, 0)
    ON CONFLICT DO NOTHING;
END $$;
"""

RESERVE = """
-- A hold that a call sent again finds may be another process's now, and lives as long as a new one. One that somebody
-- has locked is being settled just now: to wait for it would be against the order of locks.
CREATE FUNCTION ledger_prolong(call uuid, seconds float8) RETURNS void LANGUAGE sql AS $$
    UPDATE routing_reservation r SET expires_at = greatest(r.expires_at, now() + make_interval(secs => seconds))
    WHERE r.id = (SELECT held.id FROM routing_reservation held WHERE held.id = call FOR UPDATE SKIP LOCKED)
$$;

-- Admits each operation whose amounts all fit, in the order given. A row for each: the budgets it holds money of
-- and the periods it holds it in; or the budget that refused it, with what is left there.
-- An id that holds already is answered with what it holds, so that a repeated request does no harm.
CREATE FUNCTION ledger_reserve(operations json, budget_ids bigint[], at timestamptz)
RETURNS TABLE (id uuid, held_budgets bigint[], held_periods bigint[], refused_by bigint, left_microusd bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    operation record;
    budgets bigint[];
    periods bigint[];
    room bigint[];  -- null: a soft budget
    added bigint[];
    amounts bigint[];
    budgets_held_before bigint[];
    periods_held_before bigint[];
    place integer;
BEGIN
    SELECT array_agg(p.budget_id), array_agg(p.id), array_agg(0::bigint),
           array_agg(CASE WHEN p.hard THEN p.limit_microusd - p.settled_microusd - p.held_microusd END)
    INTO budgets, periods, added, room FROM ledger_periods(budget_ids, at) p;
    FOR operation IN SELECT * FROM json_to_recordset(operations) AS o(
        id uuid, budgets bigint[], amounts bigint[], expires_in_seconds float8, context jsonb
    ) LOOP
        id := operation.id; held_budgets := '{}'; held_periods := '{}'; amounts := '{}';
        refused_by := NULL; left_microusd := NULL;
        FOR i IN 1 .. coalesce(cardinality(operation.budgets), 0) LOOP
            place := array_position(budgets, operation.budgets[i]);
            CONTINUE WHEN place IS NULL;  -- the budget was deleted meanwhile
            IF room[place] < operation.amounts[i] THEN
                refused_by := operation.budgets[i];
                left_microusd := greatest(room[place], 0);
                EXIT;
            END IF;
            held_budgets := held_budgets || budgets[place];
            held_periods := held_periods || periods[place];
            amounts := amounts || operation.amounts[i];
        END LOOP;
        IF refused_by IS NULL THEN
            INSERT INTO routing_reservation (id, period_ids, amounts_microusd, expires_at, context, created_at)
            VALUES (operation.id, held_periods, amounts,
                    now() + make_interval(secs => operation.expires_in_seconds), operation.context, now())
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                FOR i IN 1 .. cardinality(amounts) LOOP
                    place := array_position(periods, held_periods[i]);
                    added[place] := added[place] + amounts[i];
                    room[place] := room[place] - amounts[i];
                END LOOP;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        SELECT array_agg(p.budget_id), array_agg(p.id) INTO budgets_held_before, periods_held_before
        FROM routing_reservation r, routing_budgetperiod p
        WHERE r.id = operation.id AND p.id = ANY(r.period_ids) HAVING count(*) > 0;
        IF FOUND THEN
            refused_by := NULL; held_budgets := budgets_held_before; held_periods := periods_held_before;
            PERFORM ledger_prolong(operation.id, operation.expires_in_seconds);
        END IF;
        RETURN NEXT;
    END LOOP;
    UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd + d.amount
    FROM unnest(periods, added) AS d(id, amount) WHERE p.id = d.id AND d.amount > 0;
END $$;
"""

SETTLE = """
-- Element i counts what was in bucket i: see UsageRollup.latency.
CREATE FUNCTION ledger_latency(durations_ms integer[]) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    counts bigint[] := array_fill(0::bigint, ARRAY[88]);
    duration integer;
    bucket integer;
BEGIN
    FOREACH duration IN ARRAY durations_ms LOOP
        CONTINUE WHEN duration IS NULL;
        bucket := least(88, 1 + floor(4 * ln(greatest(duration, 1)::float8) / ln(2::float8))::integer);
        counts[bucket] := counts[bucket] + 1;
    END LOOP;
    RETURN counts;
END $$;

CREATE FUNCTION ledger_added(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY place)
    FROM unnest(one, other) WITH ORDINALITY AS pair(a, b, place)
$$;

-- Where the rollup begins that a moment is in: with an hour of UTC, or with a quarter of one where the staff's days
-- do not begin with an hour.
CREATE FUNCTION ledger_rollup_start(moment timestamptz, zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT date_bin(
        CASE WHEN date_part('minute', moment AT TIME ZONE zone) = date_part('minute', moment AT TIME ZONE 'UTC')
             THEN interval '1 hour' ELSE interval '15 minutes' END, moment, 'epoch')
$$;

-- Ends holds and writes receipts. `held` are calls whose reservation must still be there, `free` calls that held
-- nothing, whose receipt must not be there unless it tells of an earlier failure. A held call without a receipt among `calls` is released.
-- A charge goes to `period`, or where that is null to the current period of `budget`.
-- Returns the ids that ended here; the others had ended before, and nothing is written for them.
CREATE FUNCTION ledger_settle(held uuid[], free uuid[], charges json, calls json, records json, at timestamptz)
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
            candidates = excluded.candidates, request = excluded.request, attempts = r.attempts || excluded.attempts,
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

class Migration(migrations.Migration):
    dependencies = [("routing", "0002_config_epoch")]
    operations = [
        migrations.RunSQL(
            CALENDAR + PERIODS + RESERVE + SETTLE,
            "DROP FUNCTION ledger_settle, ledger_rollup_start, ledger_added, ledger_latency, ledger_reserve, ledger_prolong, ledger_open_period, ledger_periods, ledger_calendar, ledger_first_time",
        )
    ]
