"""Rules that serve a part of their traffic, and second models that are compared beside them. Read-only."""

from typing import Any

from routing.configuration import snapshot
from routing.evidence import shadow


def overview() -> dict[str, Any]:
    """The live policy's rules that are rolled out or shadowed, each with its comparisons; then those of the past."""
    policy = snapshot.current().policy
    comparisons = shadow.summary()
    rules = []
    for rule in policy.rules:
        options = rule.options
        own = [c for c in comparisons if (c["policy"], c["rule"]) == (policy.slug, rule.name)]
        if options.rollout_percent < 100 or options.shadow_model or own:
            rules.append({"name": rule.name, "chain": rule.chain, "options": options, "comparisons": own})
    live = {(policy.slug, rule.name) for rule in policy.rules}
    past = [c for c in comparisons if (c["policy"], c["rule"]) not in live]
    return {"policy": policy, "rules": rules, "past": past}
