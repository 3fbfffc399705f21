"""How long 100,000 recorded calls take through a draft policy, and how much memory. Prints one JSON line."""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CALLS = 100_000
BAR_SECONDS = 60
MAX_MB = 300

# Four kinds of calls over a week: questions and L2 work answered locally, analyses on Sonnet, redone ones on Haiku.
RECEIPTS = """
INSERT INTO routing_routedcall (id, created_at, policy, policy_version, rule, pattern, features, candidates, request,
    attempts, outcome, error, model, provider, source, cache, reserved_microusd, cost_microusd, saved_microusd,
    duration_ms, task_kind, agent_level, creator, run_id, api_key_id)
SELECT gen_random_uuid(), now() - n * interval '6 seconds', 'default', 1, kind.rule, 'single', '{}',
    jsonb_build_array(jsonb_build_object('model', kind.first, 'state', 'chosen')),
    jsonb_build_object('model', 'auto', 'task_kind', kind.task_kind, 'agent_level', kind.level,
        'creator_tier', kind.tier,
        'complexity', (n %% 10) / 10.0, 'context_tokens', 1000 + n %% 9000, 'strategy', '', 'pattern', '',
        'needs', '[]'::jsonb, 'estimated', '[]'::jsonb, 'input_at_most', 4000 + n %% 36000,
        'input_likely', 1000 + n %% 9000, 'max_output_tokens', NULL, 'choices', 1, 'may_repair', kind.tier <> '',
        'sticky', md5(n::text), 'api_key_id', '', 'creator', '',
        'circumstances', jsonb_build_object('epoch', 1, 'local_queue', n %% 20,
            'budgets', (SELECT jsonb_object_agg(id, jsonb_build_array(limit_microusd - 1000 - n, limit_microusd))
                FROM routing_budget))),
    (SELECT jsonb_agg(jsonb_build_object('number', place, 'model', model, 'provider', '', 'source', '',
        'role', 'answer', 'outcome', CASE WHEN place < array_length(kind.tried, 1) THEN 'low_confidence' ELSE 'ok' END,
        'started_at', now(), 'seconds', 1.5, 'first_token_seconds', 0.2, 'error', '', 'status', NULL,
        'confidence', CASE WHEN place < array_length(kind.tried, 1) THEN 40 ELSE 90 END, 'cost_microusd', 0,
        'repair', false, 'usage', jsonb_build_object('input_tokens', 1000 + n %% 9000,
            'output_tokens', 200 + n %% 2000, 'cached_input_tokens', NULL, 'cache_write_tokens', NULL,
            'reasoning_tokens', NULL,
            'estimated', '[]'::jsonb))) FROM unnest(kind.tried) WITH ORDINALITY AS one(model, place)),
    'ok', '', kind.tried[array_length(kind.tried, 1)], '', '', 'off', 0, 0, 0, 1500,
    kind.task_kind, kind.level, '', '', ''
FROM generate_series(1, %s) AS n
JOIN (VALUES
    (0, 'system query', 'nl_query', '', '', 'llama3.2', ARRAY['llama3.2']),
    (1, 'L2 agents', '', 'L2', '', 'llama3.2', ARRAY['llama3.2']),
    (2, 'critical and high analysis', 'analysis', '', 'high', 'claude-sonnet-4-5', ARRAY['claude-sonnet-4-5']),
    (3, 'medium and low analysis', 'analysis', '', 'low', 'llama3.2', ARRAY['llama3.2', 'claude-haiku-4-5'])
) AS kind(number, rule, task_kind, level, tier, first, tried) ON kind.number = n %% 4
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as home:
        os.environ |= {"ZIGGIE_HOME": home, "DJANGO_SETTINGS_MODULE": "ziggie.settings", "ANTHROPIC_API_KEY": "bench"}
        os.environ.pop("DATABASE_URL", None)
        Path(home).chmod(0o755)  # as root the server runs as another account, which must get there
        from django import setup

        setup()
        from ziggie import embedded

        embedded.ensure_running(Path(home), durable=False)
        try:
            sys.stdout.write(json.dumps(_measure()) + "\n")
        finally:
            embedded.stop(Path(home))


def _measure() -> dict[str, object]:
    from django.core.management import call_command
    from django.db import connection

    from routing.configuration import policies
    from routing.configuration.seeding import seed
    from routing.evidence import replay
    from routing.models import RoutingPolicy

    call_command("migrate", verbosity=0)
    seed()
    draft = policies.duplicate(RoutingPolicy.objects.get(state="live"), by="bench")
    draft.rules.filter(name="system query").update(chain=["claude-haiku-4-5", "offline"])
    with connection.cursor() as cursor:
        cursor.execute(RECEIPTS, [CALLS])
        cursor.execute("ANALYZE routing_routedcall")
    before_mb = _peak_mb()
    started = time.perf_counter()
    report = replay.replay(replay.target_of(draft), days=8)
    seconds = time.perf_counter() - started
    connection.close()
    assert report["calls"] == CALLS, report["calls"]
    return {
        "figure": "replay.100k_seconds",
        "value": round(seconds, 1),
        "bar": BAR_SECONDS,
        "calls_a_second": round(CALLS / seconds),
        "moved": report["moved"],
        "peak_mb": round(_peak_mb()),
        "peak_mb_bar": MAX_MB,
        "grown_mb": round(_peak_mb() - before_mb, 1),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
