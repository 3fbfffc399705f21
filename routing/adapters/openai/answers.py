"""Reading chat completions: choices, usage in all its dialects, and the stream of chunks."""

from typing import TYPE_CHECKING, Any

import orjson

from routing.adapters.answers.call_ids import CallIds, refuse_too_many
from routing.adapters.answers.call_pieces import CallPieces, google_signature, whole_arguments
from routing.adapters.answers.decoding import EventDecoder
from routing.adapters.answers.logprobs import mean, of_choice, refuse_silence, token_numbers
from routing.adapters.base import WireRequest
from routing.adapters.faults.error_bodies import holds_error
from routing.adapters.faults.errors import error_from_event, make_error
from routing.adapters.openai.endings import finish_of, is_silenced, refuse_given_up, stop_reason_of, stop_sequence_of
from routing.adapters.openai.plain_answers import plain_text
from routing.adapters.openai.signatures import may_come_late, routed_signatures
from routing.adapters.openai.usage import later, read_usage
from routing.adapters.reading.sse import SSESplitter
from routing.adapters.reading.wire import (
    Json,
    get_dict,
    get_dicts,
    get_str,
    get_text,
    json_text,
    load_piece,
    protocol_error,
)
from routing.types import (
    ChatResult,
    Delta,
    Part,
    ProviderError,
    Reasoning,
    StopReason,
    Text,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from routing.adapters.base import Codec

_THOUGHT, _THOUGHT_ENDS = "<thought>", "</thought>"

# --- a complete choice -----------------------------------------------------------------------------


def read_result(answer: Json, sent: WireRequest) -> ChatResult:
    """Raises ProviderError."""
    choices = get_dicts(answer, "choices")
    if not choices:
        if holds_error(answer):
            raise error_from_event(answer, sent)
        raise make_error("protocol", "the answer holds no choices", sent, usage=read_usage(answer, {}))
    usage = read_usage(answer, choices[0])
    parts, stop_reason, mean_logprob = read_choice(choices[0], sent, usage)
    logprobs = of_choice(choices[0]) if sent.logprobs else ()
    refuse_silence(sent, logprobs, has_text=any(isinstance(part, Text) for part in parts), usage=usage)
    return ChatResult(
        parts=parts,
        stop_reason=stop_reason,
        stop_sequence=stop_sequence_of(choices[0], sent),
        usage=usage or Usage(),
        model=get_str(answer, "model"),
        response_id=get_text(answer, "id"),
        mean_logprob=mean_logprob,
        logprobs=logprobs,
    )


def read_choice(
    choice: Json, sent: WireRequest, usage: Usage | None
) -> tuple[tuple[Part, ...], StopReason, float | None]:
    """(parts, stop reason, mean log probability) of one choice. `usage` is for an error that it may hold."""
    refuse_given_up(choice, sent, usage)
    message, finish = get_dict(choice, "message"), finish_of(choice)
    if not message and not isinstance(choice.get("text"), str) and not is_silenced(finish):
        raise make_error("protocol", "the choice holds no message", sent, usage=usage)
    text, reasoning = read_content(message or {"content": choice.get("text")})
    refusal = get_str(message, "refusal")
    calls = _calls(message, sent)
    if not (text or refusal or calls) and is_answer(reasoning, finish, sent):
        text, reasoning = reasoning.strip(), ""
    parts: list[Part] = []
    if reasoning:
        parts.append(Reasoning(reasoning))
    if text or refusal:
        parts.append(Text(text or refusal, refuses=not text))
    stop_reason = stop_reason_of(finish, has_calls=bool(calls), refused=bool(refusal))
    return (*parts, *calls), stop_reason, mean(token_numbers(choice))


def read_content(message: Json, *, begun: bool = False) -> tuple[str, str]:
    """(text, reasoning) of a message or a delta; content may be a text, a list of blocks, or JSON: what was
    asked for as an object, and words that look like JSON (Cloudflare). `begun`: the deltas before held thinking as
    content."""
    content = message.get("content")
    if "extra_content" in message and isinstance(content, str) and is_thought(message, begun=begun):
        thought, _, said = content.removeprefix(_THOUGHT).partition(_THOUGHT_ENDS)
        return said, thought
    reasoning = get_text(message, "reasoning_content") or _text_or_nothing(message.get("reasoning"))
    if content is None:
        return "", reasoning
    if isinstance(content, str):
        return content, reasoning
    if isinstance(content, dict | int | float):
        return json_text(content), reasoning
    text = ""
    for block in get_dicts(message, "content"):
        thinking = _thinking_of(block)
        reasoning += thinking or ""
        text += get_str(block, "text") if thinking is None else ""
    return text, reasoning


def _asks_for_json(sent: WireRequest) -> bool:
    asked = (sent.body or {}).get("response_format")
    return isinstance(asked, dict) and asked.get("type") in ("json_schema", "json_object")


def is_answer(reasoning: str, finish: str, sent: WireRequest) -> bool:
    """True for the JSON that was asked for, where the server takes all that the model wrote for thinking: LM Studio
    holds the thinking to the schema, too, and vLLM's parsers look for its end in vain."""
    if finish != "stop" or not reasoning or not _asks_for_json(sent):
        return False
    try:
        return isinstance(orjson.loads(reasoning), dict | list)
    except orjson.JSONDecodeError:
        return False


def _thinking_of(block: Json) -> str | None:
    """The thinking in a block of Mistral's ("thinking") or Databricks' ("reasoning"); None for another block."""
    key = {"thinking": "thinking", "reasoning": "summary"}.get(get_str(block, "type"))
    if key is None:
        return None
    told = block.get(key)
    blocks = get_dicts(block, key) if isinstance(told, list) else [{"text": told}]
    return "".join(get_str(item, "text") for item in blocks)


def is_thought(message: Json, *, begun: bool) -> bool:
    """True where Google's imitation of this API has thinking in the content: it says so, and puts it between tags, of
    which the last begins the text that follows. It says so, too, of texts that are none."""
    google = get_dict(message, "extra_content").get("google")
    flagged = isinstance(google, dict) and google.get("thought") is True
    return flagged and (begun or get_str(message, "content").startswith(_THOUGHT))


def _text_or_nothing(value: Any) -> str:
    return value if isinstance(value, str) else ""


def called(message: Json) -> list[Json]:
    """The calls in a message or delta, of which text-generation-inference streams one without a list around it."""
    calls = message.get("tool_calls")
    return [calls] if isinstance(calls, dict) else get_dicts(message, "tool_calls")


def _calls(message: Json, sent: WireRequest) -> list[Reasoning | ToolCall]:
    """The calls, each after what signs it."""
    calls: list[Reasoning | ToolCall] = []
    ids, signatures = CallIds(sent), routed_signatures(message)
    for number, call in enumerate(called(message)):
        refuse_too_many(number)
        function = get_dict(call, "function")
        name = get_str(function, "name")
        if not name:
            raise protocol_error("a tool call has no name")
        identity = get_text(call, "id")
        signature = google_signature(call) or signatures.get(identity) or ("" if number else signatures.get(""))
        if signature:
            calls.append(Reasoning("", signature))
        calls.append(ToolCall(identity or ids.of(number), name, whole_arguments(function)))
    legacy = get_dict(message, "function_call")
    if legacy and not calls:
        calls.append(ToolCall(ids.of(0), get_str(legacy, "name"), whole_arguments(legacy)))
    return calls


_SPEAKS = frozenset({"delta", "message", "text"})

# --- the stream ------------------------------------------------------------------------------------


def _failed(name: bytes, chunk: Json) -> Json | None:
    """What holds the error of a chunk that is one; None for a piece of an answer."""
    if name == b"error" or chunk.get("error") or chunk.get("object") == "error":
        return chunk
    if isinstance(groq := chunk.get("x_groq"), dict) and groq.get("error"):
        return groq
    return chunk if not chunk.get("choices") and "usage" not in chunk and holds_error(chunk) else None


class ChatDecoder(EventDecoder):
    """chat.completion.chunk events up to `[DONE]`, which some servers leave out."""

    def __init__(self, codec: "Codec", sent: WireRequest) -> None:
        super().__init__(codec, sent, SSESplitter())
        self._introduced = False
        self._latest: Json = {}  # the last chunk of the answer
        self._is_said = False  # that it is done
        self._speaks = False  # a piece of it has come
        self._stop_reason: StopReason | None = None
        self._refused = False
        self._calls = CallPieces(sent, signed_late=may_come_late(sent.body))
        self._usage_told: Usage | None = None
        self._logprobs: list[float] = []
        self._thinks_aloud = False  # its thinking comes as content
        self._thought: list[str] | None = [] if _asks_for_json(sent) else None  # until there is text
        self._looks_closely = self._has_to_look()

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        if data.startswith(b"[DONE]") or data.strip() == b"[DONE]":
            self._hear_end(out)
            return
        try:
            chunk = load_piece(data, "a chunk of the stream", self.halves)
        except ProviderError:
            if name != b"error":
                if not self._is_beside_it(data, out):
                    raise
                return
            chunk = {"error": data.decode("utf-8", "replace")}  # said in plain words
        if self._introduced and not self._looks_closely and (text := plain_text(chunk)):
            self._latest = chunk
            self._speaks = True
            out.append(Delta(text))
            return
        choice = next(iter(get_dicts(chunk, "choices")), {})
        self.usage = later(read_usage(chunk, choice), self.usage)
        failed = _failed(name, chunk)
        if failed is not None:
            raise error_from_event(failed, self.sent, usage=self.usage)
        if not self._introduced and (chunk.get("model") or _SPEAKS.intersection(choice) or choice.get("finish_reason")):
            self._introduced = True
            out.append(Delta(model=get_str(chunk, "model"), response_id=get_text(chunk, "id")))
        if choice:
            self._latest = chunk
            self._choice(choice, out)
        if self._stop_reason is not None and self.usage is not self._usage_told:
            self._usage_told = self.usage
            out.append(Delta(usage=self.usage))

    def _is_beside_it(self, data: bytes, out: list[Delta]) -> bool:
        """Whether what is no chunk harms nothing: it says nothing, or stands behind an answer that is whole."""
        if data.strip() == b"null":
            return True
        if self._stop_reason is None:
            return False
        self._end(out)
        return True

    def _hear_end(self, out: list[Delta]) -> None:
        """Where a reason is to come, only the body's end tells: llama-cpp-python says this of what it leaves, too."""
        self._is_said = True
        if self._stop_reason is not None or not self._left_open():
            self._end(out)

    def on_end(self, out: list[Delta]) -> None:
        if self._stop_reason is None and not self._is_said:
            raise self.cut()
        self._end(out)

    def _end(self, out: list[Delta]) -> None:
        if not self._introduced:
            raise protocol_error("the stream holds no answer")
        self._calls.end(out)
        self._stop("", out)
        if self.usage is not self._usage_told:
            out.append(Delta(usage=self.usage))
        self.done = True

    def _left_open(self) -> bool:
        """Its last chunk says that it has no reason to end yet, and no usage came, as from servers that give none."""
        choices = get_dicts(self._latest, "choices")[:1]
        return self.usage is None and any(not choice.get("finish_reason", "unsaid") for choice in choices)

    def _choice(self, choice: Json, out: list[Delta]) -> None:
        # Perplexity's chunks hold both: the piece, and as a message all that was written so far; MiniMax ends with
        # such a message alone. Where no piece came before, it is the answer.
        in_pieces = choice.get("delta") is not None
        delta = get_dict(choice, "delta" if self._speaks or in_pieces else "message")
        self._speaks = self._speaks or (in_pieces and any(delta[key] for key in delta if key != "role"))
        self._words(choice, delta, out)
        self._looks_closely = self._has_to_look()
        calls = called(delta)
        if "reasoning_details" in delta:
            self._calls.signatures |= routed_signatures(delta)
        if calls:
            self._calls.add_all(calls, out)
        if delta.get("function_call") and not calls:  # llama-cpp-python says the same call in both ways
            self._calls.add({"index": 0, "function": get_dict(delta, "function_call")}, out)
        finish = finish_of(choice)
        if finish or choice.get("error"):
            refuse_given_up(choice, self.sent, self.usage)
        if finish and finish != "null":  # as Alibaba's servers spell it
            self._stop(finish, out, stop_sequence_of(choice, self.sent))

    def _has_to_look(self) -> bool:
        """False where a chunk of plain text needs no more than to be handed on."""
        return self._thinks_aloud or self.sent.logprobs or self._thought is not None

    def _words(self, choice: Json, delta: Json, out: list[Delta]) -> None:
        text, reasoning = read_content(delta, begun=self._thinks_aloud)
        refusal = get_str(delta, "refusal")
        text = text or get_str(choice, "text")
        if self._thinks_aloud and text:
            text = text.removeprefix(_THOUGHT_ENDS)
        if "extra_content" in delta or text:
            self._thinks_aloud = bool(reasoning) and not text and is_thought(delta, begun=self._thinks_aloud)
        logprobs = self._read_logprobs(choice)
        if self._thought is not None:
            self._keep_thought(reasoning, has_text=bool(text or refusal))
        if text or reasoning or (logprobs and not refusal):
            out.append(Delta(text=text, reasoning=reasoning, logprobs=logprobs))
        if refusal:
            self._refused = True
            out.append(Delta(refusal, refuses=True, logprobs=() if text else logprobs))

    def _keep_thought(self, reasoning: str, *, has_text: bool) -> None:
        """What is thought before any text may turn out to be the answer."""
        if has_text:
            self._thought = None
        elif reasoning and self._thought is not None:
            self._thought.append(reasoning)

    def _read_logprobs(self, choice: Json) -> tuple[Json, ...]:
        """Those that the caller asked for."""
        if choice.get("logprobs"):
            self._logprobs += token_numbers(choice)
        return of_choice(choice) if self.sent.logprobs else ()

    def _stop(self, finish: str, out: list[Delta], stop_sequence: str = "") -> None:
        """Tells why the answer ended. Some say "stop" of every chunk (gcli2api): what comes behind it counts."""
        has_calls, before = bool(self._calls), self._stop_reason
        reason = stop_reason_of(finish, has_calls=has_calls, refused=self._refused)
        if before not in (None, "stop") or reason == before:
            return
        thought = "".join(self._thought or ())
        if before is None and not has_calls and is_answer(thought, finish, self.sent):
            out.append(Delta(thought.strip()))
        self._stop_reason = reason
        out.append(Delta(stop_reason=reason, stop_sequence=stop_sequence, mean_logprob=mean(self._logprobs)))
