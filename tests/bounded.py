"""How schemathesis is used here: the same few examples every time, and no clock."""

from hypothesis import HealthCheck, Phase, settings

BOUNDED = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
