"""Results of tools for APIs that know no ids: each finds its call by name and place."""

from typing import Any

from routing.adapters.gemini.codec import GeminiCodec
from routing.adapters.ollama.codec import OllamaCodec
from routing.types import (
    ChatRequest,
    Image,
    Message,
    Part,
    ProviderSpec,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    message,
)
from tests.routing.specs import LLAMA, model

GOOGLE = ProviderSpec(5, "google", "gemini", Source.CLOUD, "https://generativelanguage.googleapis.com", api_key="k")
TOOLS = (Tool("weather", "", {}), Tool("clock", "", {}))
ASKED = message("user", "?")
TWO = Message("assistant", (ToolCall("a", "weather", '{"at":"Oslo"}'), ToolCall("b", "weather", '{"at":"Rome"}')))
PIXEL = Image("image/png", "iVBORw0KGgo=", tool_call_id="b")
AGAIN = (
    ASKED,
    Message("assistant", (ToolCall("call_0", "weather", "{}"),)),
    Message("tool", (ToolResult("call_0", "sun"),)),
    Message("assistant", (ToolCall("call_0", "clock", "{}"),)),
    Message("tool", (ToolResult("call_0", "noon"),)),
)


def contents(*turns: Message) -> list[dict[str, Any]]:
    request = ChatRequest(turns, tools=TOOLS)
    sent = GeminiCodec().encode_chat(request, model("gemini-2.5-pro", GOOGLE), max_output_tokens=9, stream=False)
    return (sent.body or {})["contents"]


def answers(parts: list[dict[str, Any]]) -> list[str]:
    return [
        part["functionResponse"]["response"]["result"] if "functionResponse" in part else "".join(part)
        for part in parts
    ]


def test_gemini_is_told_results_in_the_order_of_their_calls() -> None:
    apart = contents(
        ASKED, TWO, Message("tool", (ToolResult("b", "rain"),)), Message("tool", (ToolResult("a", "sun"),))
    )
    assert answers(apart[-1]["parts"]) == ["sun", "rain"]
    together = contents(
        ASKED, TWO, Message("user", (ToolResult("b", "rain"), PIXEL, ToolResult("a", "sun"), Text("!")))
    )
    assert answers(together[-1]["parts"]) == ["sun", "rain", "inlineData", "text"]


def test_marks_of_pictures_count_in_the_order_in_which_they_are_shown() -> None:
    def given(call: str, data: str, mark: str) -> tuple[Part, ...]:
        result = ToolResult(call, f"{mark}\nis {call}'s", rows=(None, f"is {call}'s"))
        return result, Image("image/png", data, tool_call_id=call)

    turn = Message("user", (*given("b", "iVBORw0KGgo=", "[image 1]"), *given("a", "iVBORw0KGgp=", "[image 2]")))
    assert answers(contents(ASKED, TWO, turn)[-1]["parts"]) == [
        "[image 1]\nis a's",
        "inlineData",
        "[image 2]\nis b's",
        "inlineData",
    ]


def test_results_that_fit_no_order_stay_where_they_are() -> None:
    twice = contents(ASKED, TWO, Message("tool", (ToolResult("b", "1"), ToolResult("b", "2"), ToolResult("a", "3"))))
    assert answers(twice[-1]["parts"]) == ["1", "2", "3"]


def test_a_result_bears_the_name_of_the_call_before_it_where_ids_are_used_again() -> None:
    parts = [turn["parts"][0] for turn in contents(*AGAIN)]
    assert [part["functionResponse"]["name"] for part in parts if "functionResponse" in part] == ["weather", "clock"]
    sent = OllamaCodec().encode_chat(ChatRequest(AGAIN, tools=TOOLS), LLAMA, max_output_tokens=9, stream=False)
    turns = (sent.body or {})["messages"]
    assert [turn["tool_name"] for turn in turns if turn["role"] == "tool"] == ["weather", "clock"]
