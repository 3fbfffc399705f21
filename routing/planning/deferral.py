"""PURE: tools whose definitions a model is told once it has found them (Anthropic's `defer_loading`).

Claude's API is told of all tools, and which ones wait: so its cache keeps what it has read when one more is found. The
others are told of those that have been found by now, as of any tool.
"""

from collections import Counter

from routing.types import ChatRequest, Tool, ToolCall, ToolResult
from ziggie.values import replace


def is_any_deferred(tools: tuple[Tool, ...]) -> bool:
    return any(tool.deferred for tool in tools)


def times_found(request: ChatRequest) -> Counter[str]:
    """How often each tool was found, called or asked for: as often its definition may be a part of the prompt."""
    names: Counter[str] = Counter([request.tool_choice])
    for turn in request.messages:
        for part in turn.parts:
            if isinstance(part, ToolResult):
                names.update(part.references)
            elif isinstance(part, ToolCall):
                names[part.name] = max(names[part.name], 1)
    return names


def with_found_tools(request: ChatRequest) -> ChatRequest:
    """The request for an API to which every tool that it hears of is there at once."""
    if not is_any_deferred(request.tools):
        return request
    found = times_found(request)
    told = [tool for tool in request.tools if not tool.deferred or tool.name in found]
    return replace(request, tools=tuple([replace(tool, deferred=False) for tool in told]))


def said_by(result: ToolResult) -> str:
    """A tool's answer for an API that has no word for tools that were found."""
    if not result.references:
        return result.content
    found = f"Tools that can be called now: {', '.join(result.references)}"
    return f"{result.content}\n{found}" if result.content else found
