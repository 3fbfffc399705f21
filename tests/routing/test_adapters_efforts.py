"""`default`: an effort that is left to the model, in the word of one house."""

from tests.routing.adapters_support import ask, model, provider
from tests.routing.test_adapters_requests import encode


def test_the_models_own_effort_is_said_to_groq_alone_which_has_a_word_for_it() -> None:
    asked = ask(reasoning_effort="default")
    assert "reasoning_effort" not in encode(model("openai", "gpt-5-mini"), asked)
    groq = provider("openai", "https://api.groq.com/openai/v1")
    assert encode(model(groq, "qwen/qwen3-32b"), asked)["reasoning_effort"] == "default"


def test_an_effort_that_is_left_to_the_model_takes_no_thinking_away() -> None:
    asked = ask(reasoning_effort="default", extra={"thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert encode(model("openai", "gpt-5-mini"), asked)["reasoning_effort"] == "low"
    assert encode(model("ollama", "qwen3:8b"), asked)["think"] is True
