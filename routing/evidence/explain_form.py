"""The form that asks which model would serve a request."""

from django import forms

from routing.evidence import explaining
from routing.models import AGENT_LEVELS, CREATOR_TIERS, PATTERNS, STRATEGIES
from routing.types import ChatRequest, Hints

MAX_CAPABILITIES = 50


def _choice(names: tuple[str, ...], label: str) -> forms.ChoiceField:
    return forms.ChoiceField(choices=[("", "not stated"), *((n, n) for n in names)], required=False, label=label)


class ExplainForm(forms.Form):
    """What is left empty is estimated, as it would be for a call."""

    task_kind = forms.CharField(max_length=60, required=False, label="Task kind")
    agent_level = _choice(AGENT_LEVELS, "Agent level")
    creator_tier = _choice(CREATOR_TIERS, "Creator tier")
    complexity = forms.FloatField(min_value=0, max_value=1, required=False, label="Complexity (0-1)")
    context_tokens = forms.IntegerField(min_value=0, max_value=2**31 - 1, required=False, label="Tokens")
    capabilities = forms.CharField(max_length=1000, required=False, label="Capabilities, by commas")
    strategy = _choice(STRATEGIES, "Strategy")
    pattern = _choice(PATTERNS, "Pattern")
    model = forms.CharField(max_length=100, required=False, label="Model (empty: by the rules)")
    prompt = forms.CharField(
        max_length=2_000,
        required=False,
        strip=False,
        label="Prompt to estimate from (optional)",
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def clean_capabilities(self) -> frozenset[str]:
        names = frozenset(name.strip() for name in self.cleaned_data["capabilities"].split(",")) - {""}
        if len(names) > MAX_CAPABILITIES:
            raise forms.ValidationError(f"At most {MAX_CAPABILITIES}.")
        return names

    def request(self) -> ChatRequest:
        """The request that a valid form describes."""
        given = dict(self.cleaned_data)
        model, prompt = given.pop("model") or "auto", given.pop("prompt") or "?"
        return explaining.request_of(Hints(**given), model=model, prompt=prompt)
