"""Envelopes: money held once, for many calls to draw from. Four functions beside the ledger's two.

Locks are taken in the ledger's order, with envelopes in their place: reservations by id, envelopes by id, rollups
by key, periods by budget and id. Money that a call draws is held already: it moves from the envelope's row to the
call's, and the period's counter stays as it is.
"""

import django.contrib.postgres.fields
import django.utils.timezone
from django.db import migrations, models
from django.db.models import F, Q

OPEN = """
-- Holds in each budget what is wanted there, or as much as its present period has room for. An envelope that is open
-- already is only given more time; one that was closed goes on with what is left of its limit.
CREATE FUNCTION ledger_open(
    envelope uuid, called text, api_key text, upper_limit bigint, budgets bigint[], wanted bigint[],
    expires_in_seconds float8, at timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_row routing_envelope;
    current routing_budgetperiod;
    amount bigint;
    until timestamptz := now() + make_interval(secs => expires_in_seconds);
BEGIN
    INSERT INTO routing_envelope (id, name, api_key_id, limit_microusd, left_microusd, period_ids, amounts_microusd,
                                  expires_at, closed_at, created_at)
    VALUES (envelope, called, api_key, upper_limit, upper_limit, '{}', '{}', until, now(), now())
    ON CONFLICT DO NOTHING;
    SELECT e.* INTO found_row FROM routing_envelope e WHERE e.id = envelope FOR UPDATE;
    IF found_row.closed_at IS NULL THEN
        UPDATE routing_envelope e SET expires_at = greatest(e.expires_at, until) WHERE e.id = envelope;
        RETURN;
    END IF;
    FOR current IN SELECT * FROM ledger_periods(budgets, at) LOOP
        amount := least(
            wanted[array_position(budgets, current.budget_id)],
            greatest(found_row.left_microusd, 0),
            CASE WHEN current.hard
                THEN greatest(current.limit_microusd - current.settled_microusd - current.held_microusd, 0) END
        );
        CONTINUE WHEN amount = 0;
        UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd + amount WHERE p.id = current.id;
        found_row.period_ids := found_row.period_ids || current.id;
        found_row.amounts_microusd := found_row.amounts_microusd || amount;
    END LOOP;
    UPDATE routing_envelope e SET closed_at = NULL, expires_at = until, period_ids = found_row.period_ids,
        amounts_microusd = found_row.amounts_microusd WHERE e.id = envelope;
END $$;
"""

DRAW = """
-- As ledger_reserve, for calls of envelopes. Each operation takes `taken` of its envelope's limit; what it is to hold
-- in a budget comes from what the envelope holds there, and where that is not enough, from the budget's own room.
-- Refused by budget 0: the envelope's limit has not so much left, or (nothing said of what is left) it is closed.
-- Refused by -1: the call has been answered and settled.
CREATE FUNCTION ledger_draw(operations json, budget_ids bigint[], at timestamptz)
RETURNS TABLE (id uuid, held_budgets bigint[], held_periods bigint[], refused_by bigint, left_microusd bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    operation record;
    envelope routing_envelope;
    budgets bigint[];
    periods bigint[];
    room bigint[];  -- null: a soft budget
    added bigint[];
    amounts bigint[];
    drawn bigint[];
    place integer;
    line integer;
    amount bigint;
BEGIN
    PERFORM e.id FROM routing_envelope e
    WHERE e.id IN (SELECT (o->>'envelope')::uuid FROM json_array_elements(operations) o) ORDER BY e.id FOR UPDATE;
    SELECT array_agg(p.budget_id), array_agg(p.id), array_agg(0::bigint),
           array_agg(CASE WHEN p.hard THEN p.limit_microusd - p.settled_microusd - p.held_microusd END)
    INTO budgets, periods, added, room FROM ledger_periods(budget_ids, at) p;
    FOR operation IN SELECT * FROM json_to_recordset(operations) AS o(
        id uuid, envelope uuid, taken bigint, budgets bigint[], amounts bigint[], expires_in_seconds float8, context jsonb
    ) LOOP
        id := operation.id; held_budgets := '{}'; held_periods := '{}'; amounts := '{}'; drawn := '{}';
        refused_by := NULL; left_microusd := NULL;
        IF EXISTS (SELECT FROM routing_reservation r WHERE r.id = operation.id) THEN
            PERFORM ledger_prolong(operation.id, operation.expires_in_seconds);
            SELECT coalesce(array_agg(p.budget_id), '{}'), coalesce(array_agg(p.id), '{}')
            INTO held_budgets, held_periods FROM routing_reservation r, routing_budgetperiod p
            WHERE r.id = operation.id AND p.id = ANY(r.period_ids);
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF EXISTS (SELECT FROM routing_routedcall r WHERE r.id = operation.id AND r.outcome = 'ok') THEN
            refused_by := -1;
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT e.* INTO envelope FROM routing_envelope e WHERE e.id = operation.envelope AND e.closed_at IS NULL;
        IF NOT FOUND OR envelope.left_microusd < operation.taken THEN
            refused_by := 0;
            left_microusd := CASE WHEN envelope.id IS NOT NULL THEN greatest(envelope.left_microusd, 0) END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        FOR i IN 1 .. coalesce(cardinality(operation.budgets), 0) LOOP
            place := array_position(budgets, operation.budgets[i]);
            CONTINUE WHEN place IS NULL;  -- the budget was deleted meanwhile
            SELECT held.place INTO line FROM unnest(envelope.period_ids) WITH ORDINALITY AS held(period, place)
            JOIN routing_budgetperiod p ON p.id = held.period WHERE p.budget_id = operation.budgets[i];
            amount := least(operation.amounts[i], coalesce(envelope.amounts_microusd[line], 0));
            IF amount < operation.amounts[i] AND envelope.period_ids[line] IS DISTINCT FROM periods[place] THEN
                amount := 0;  -- a new period has begun: one call holds in one period of a budget
            END IF;
            IF room[place] < operation.amounts[i] - amount THEN
                refused_by := operation.budgets[i];
                left_microusd := greatest(room[place], 0) + coalesce(envelope.amounts_microusd[line], 0);
                EXIT;
            END IF;
            held_budgets := held_budgets || budgets[place];
            held_periods := held_periods || CASE WHEN amount > 0 THEN envelope.period_ids[line] ELSE periods[place] END;
            amounts := amounts || operation.amounts[i];
            drawn := drawn || amount;
            IF amount > 0 THEN
                envelope.amounts_microusd[line] := envelope.amounts_microusd[line] - amount;
            END IF;
        END LOOP;
        IF refused_by IS NULL THEN
            UPDATE routing_envelope e SET left_microusd = e.left_microusd - operation.taken,
                amounts_microusd = envelope.amounts_microusd WHERE e.id = envelope.id;
            INSERT INTO routing_reservation (id, envelope_id, period_ids, amounts_microusd, drawn_microusd, taken_microusd,
                                             expires_at, context, created_at)
            VALUES (operation.id, envelope.id, held_periods, amounts, drawn, operation.taken,
                    now() + make_interval(secs => operation.expires_in_seconds), operation.context, now());
            FOR i IN 1 .. cardinality(amounts) LOOP
                place := array_position(budgets, held_budgets[i]);
                added[place] := added[place] + amounts[i] - drawn[i];
                room[place] := room[place] - amounts[i] + drawn[i];
            END LOOP;
        END IF;
        RETURN NEXT;
    END LOOP;
    UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd + d.amount
    FROM unnest(periods, added) AS d(id, amount) WHERE p.id = d.id AND d.amount > 0;
END $$;
"""

SETTLE = """
-- As ledger_settle, for calls of envelopes; `spent` stands beside `held`: what each call cost in all. What a call did
-- not spend goes back to its envelope while that is open, else to the budgets.
CREATE FUNCTION ledger_settle_drawn(
    held uuid[], spent bigint[], charges json, calls json, records json, at timestamptz
) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    gone routing_reservation[];
    one routing_reservation;
    ended uuid[];
BEGIN
    PERFORM r.id FROM routing_reservation r WHERE r.id = ANY(held) ORDER BY r.id FOR UPDATE;
    SELECT coalesce(array_agg(r), '{}') INTO gone FROM routing_reservation r WHERE r.id = ANY(held);
    PERFORM e.id FROM routing_envelope e
    WHERE e.id IN (SELECT envelope_id FROM unnest(gone)) ORDER BY e.id FOR UPDATE;
    ended := ARRAY(SELECT ledger_settle(held, '{}', charges, calls, records, at));
    FOREACH one IN ARRAY gone LOOP
        PERFORM ledger_refund(one, spent[array_position(held, one.id)], charges);
    END LOOP;
    RETURN QUERY SELECT unnest(ended);
END $$;

-- After a call's hold has ended: its envelope holds again what it drew and did not spend. What it spent beyond its own
-- hold comes from the rest of the envelope, as far as that goes. The rows are locked.
CREATE FUNCTION ledger_refund(gone routing_reservation, spent bigint, charges json) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    envelope routing_envelope;
    line integer;
    charge bigint;
    back bigint;
BEGIN
    UPDATE routing_envelope e SET left_microusd = e.left_microusd + gone.taken_microusd - spent
    WHERE e.id = gone.envelope_id RETURNING e.* INTO envelope;
    IF envelope.id IS NULL OR envelope.closed_at IS NOT NULL THEN
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(gone.period_ids) LOOP
        line := array_position(envelope.period_ids, gone.period_ids[i]);
        CONTINUE WHEN line IS NULL;
        SELECT coalesce(sum(c.amount), 0) INTO charge
        FROM json_to_recordset(charges) AS c(call uuid, period bigint, amount bigint)
        WHERE c.call = gone.id AND c.period = gone.period_ids[i];
        back := CASE WHEN charge <= gone.amounts_microusd[i] THEN greatest(gone.drawn_microusd[i] - charge, 0)
                     ELSE -least(charge - gone.amounts_microusd[i], envelope.amounts_microusd[line]) END;
        CONTINUE WHEN back = 0;
        envelope.amounts_microusd[line] := envelope.amounts_microusd[line] + back;
        UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd + back,
            overrun_microusd = CASE WHEN p.hard
                THEN greatest(0, p.settled_microusd + p.held_microusd + back - p.limit_microusd) ELSE 0 END
        WHERE p.id = gone.period_ids[i];
    END LOOP;
    UPDATE routing_envelope e SET amounts_microusd = envelope.amounts_microusd WHERE e.id = envelope.id;
END $$;
"""

CLOSE = """
-- Gives back what the envelopes hold; returns those that were open. Calls that drew from them keep their own holds.
CREATE FUNCTION ledger_close(envelopes uuid[]) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    closed uuid[];
    periods bigint[];
    amounts bigint[];
BEGIN
    WITH locked AS (
        SELECT e.id, e.period_ids, e.amounts_microusd FROM routing_envelope e
        WHERE e.id = ANY(envelopes) AND e.closed_at IS NULL ORDER BY e.id FOR UPDATE
    )
    SELECT array_agg(DISTINCT locked.id), array_agg(line.period), array_agg(line.amount) INTO closed, periods, amounts
    FROM locked LEFT JOIN LATERAL unnest(locked.period_ids, locked.amounts_microusd) AS line(period, amount) ON true;
    UPDATE routing_envelope e SET closed_at = now(), period_ids = '{}', amounts_microusd = '{}' WHERE e.id = ANY(closed);
    PERFORM p.id FROM routing_budgetperiod p WHERE p.id = ANY(periods) ORDER BY p.budget_id, p.id FOR UPDATE;
    UPDATE routing_budgetperiod p SET held_microusd = p.held_microusd - freed.amount,
        overrun_microusd = CASE WHEN p.hard
            THEN greatest(0, p.settled_microusd + p.held_microusd - freed.amount - p.limit_microusd) ELSE 0 END
    FROM (SELECT period, sum(amount)::bigint FROM unnest(periods, amounts) AS line(period, amount) GROUP BY 1)
        AS freed(period, amount) WHERE p.id = freed.period;
    RETURN QUERY SELECT unnest(closed);
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0009_statements")]
    operations = [
        migrations.CreateModel(
            name="Envelope",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=100)),
                ("api_key_id", models.CharField(blank=True, help_text="The key whose calls may draw from it.", max_length=64)),
                ("limit_microusd", models.BigIntegerField()),
                ("left_microusd", models.BigIntegerField(help_text="Of the limit, what calls neither hold nor have spent.")),
                ("period_ids", django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), default=list, size=None)),
                ("amounts_microusd", django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), default=list, size=None)),
                ("expires_at", models.DateTimeField()),
                ("closed_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "indexes": [
                    models.Index(condition=Q(closed_at=None), fields=["expires_at"], name="envelope_expiry"),
                    models.Index(fields=["closed_at"], name="envelope_closed"),
                ],
                "constraints": [
                    models.CheckConstraint(condition=Q(left_microusd__lte=F("limit_microusd")), name="envelope_within_limit"),
                    models.CheckConstraint(condition=Q(closed_at__isnull=True) | Q(amounts_microusd=[]), name="closed_envelope_holds_nothing"),
                ],
            },
        ),
        migrations.AddField(
            "Reservation",
            "taken_microusd",
            models.BigIntegerField(help_text="What the call takes of its envelope's limit.", null=True),
        ),
        migrations.AlterField(
            "Reservation",
            "drawn_microusd",
            django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), help_text="What of each amount the envelope held.", null=True, size=None),
        ),
        migrations.RunSQL(
            "ALTER TABLE routing_envelope ADD CONSTRAINT envelope_amounts_not_negative CHECK (0 <= ALL (amounts_microusd));",
            "ALTER TABLE routing_envelope DROP CONSTRAINT envelope_amounts_not_negative;",
        ),
        migrations.RunSQL(
            OPEN + DRAW + SETTLE + CLOSE,
            "DROP FUNCTION ledger_open, ledger_draw, ledger_settle_drawn, ledger_refund, ledger_close",
        ),
    ]
