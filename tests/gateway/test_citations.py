"""Documents that are to be cited go to Claude as they are, and its citations come back; nobody else is asked."""

import base64
from typing import Any

import anthropic
import pytest

from routing.models import LanguageModel, Price, RoutingRule
from tests.gateway.conftest import Gateway
from tests.gateway.test_bodies import store, stored
from tests.gateway.test_clients import MODELS, anthropic_client, servers, set_reply
from tests.gateway.test_matrix import provider_calls, refused
from tests.gateway.test_pdf_money import WINDOW, limit
from tests.gateway.test_pdfs import DATA, by_address, gateway_forgets
from tests.gateway.test_pdfs import block as pdf_block
from tests.servers.script import Reply

CITED: Any = {"citations": {"enabled": True}}
PLAIN: Any = {"type": "text", "media_type": "text/plain", "data": "The sky is green. Grass is blue."}
TEXT: Any = {"type": "document", "source": PLAIN, "title": "On skies", "context": "A dream.", **CITED}
CHUNKS: Any = {
    "type": "document",
    "source": {"type": "content", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
    **CITED,
}
FOUND: Any = {
    "type": "search_result",
    "source": "https://sky.test",
    "title": "Skies",
    "content": [{"type": "text", "text": "The sky is green."}],
    **CITED,
}
DOCUMENTS = {
    "a text": TEXT,
    "blocks": CHUNKS,
    "a search result": FOUND,
    "a PDF": {**pdf_block(), "title": "skies.pdf", **CITED},
    "a PDF elsewhere": {**by_address(), **CITED},
}

BY_CHARACTER = {
    "type": "char_location",
    "cited_text": "The sky is green.",
    "document_index": 0,
    "document_title": "On skies",
    "start_char_index": 0,
    "end_char_index": 17,
    "file_id": None,
}
BY_PAGE = {
    "type": "page_location",
    "cited_text": "Grass is blue.",
    "document_index": 1,
    "document_title": None,
    "start_page_number": 1,
    "end_page_number": 2,
    "file_id": None,
}
ANSWER = (
    ("It is said that ", ()),
    ("the sky is green", (BY_CHARACTER,)),
    (" and grass ", ()),
    ("blue", (BY_PAGE, BY_CHARACTER)),
    ("!", ()),
)


@pytest.fixture(autouse=True)
def claude_cites(gateway: Gateway) -> None:
    LanguageModel.objects.filter(slug="claude").update(capabilities=["chat", "json", "tools", "pdf", "citations"])
    gateway_forgets()
    set_reply(gateway, Reply(cited=ANSWER, input_tokens=90, output_tokens=20))


def turn(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": "Which colour?"}]}]


def ask(gateway: Gateway, *blocks: Any, stream: bool = False, **fields: Any) -> anthropic.types.Message:
    asked: Any = {"model": "claude", "max_tokens": 60, "messages": turn(*blocks), **fields}
    messages = anthropic_client(gateway).messages
    if not stream:
        return messages.create(**asked)
    with messages.stream(**asked) as events:
        return events.get_final_message()


def told(message: anthropic.types.Message) -> list[tuple[str, list[Any]]]:
    said = []
    for block in message.content:
        assert block.type == "text"
        said.append((block.text, [citation.to_dict() for citation in block.citations or ()]))
    return said


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_claude_gets_the_document_as_it_is_and_its_citations_come_back(gateway: Gateway, document: Any) -> None:
    for stream in (False, True):
        answer = ask(gateway, document, stream=stream)
        assert gateway.anthropic.calls[-1].json["messages"][0]["content"][0] == document
        assert told(answer) == [(text, list(citations)) for text, citations in ANSWER]
        assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 20)


def test_a_stream_tells_each_citation_as_it_comes(gateway: Gateway) -> None:
    with anthropic_client(gateway).messages.stream(model="claude", max_tokens=9, messages=turn(TEXT)) as events:
        kinds = [event.type for event in events]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(ANSWER)
    assert kinds.count("citation") == 3


def test_a_tools_documents_are_cited_too_and_the_answer_goes_back(gateway: Gateway) -> None:
    called = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    content = [{"type": "text", "text": "Found:"}, FOUND, TEXT]
    turns: Any = [
        *turn(),
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": content}]},
    ]
    answer = ask(gateway, messages=turns)
    sent = gateway.anthropic.calls[-1].json["messages"]
    assert sent[2]["content"] == [{"type": "tool_result", "tool_use_id": "t", "content": content}]
    history = [block.to_dict() for block in answer.content]
    ask(gateway, messages=[*turns, {"role": "assistant", "content": history}, {"role": "user", "content": "And?"}])
    assert gateway.anthropic.calls[-1].json["messages"][3]["content"] == [
        {"type": "text", "text": text, **({"citations": list(citations)} if citations else {})}
        for text, citations in ANSWER
    ]


def test_marks_of_what_to_cache_stay_and_what_says_nothing_goes(gateway: Gateway) -> None:
    Price.objects.filter(model__slug="claude").update(cache_write_usd_per_mtok="3.75")
    mark: Any = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    chunks = {**CHUNKS, "source": {"type": "content", "content": [{**CHUNKS["source"]["content"][0], **mark}]}}
    source = {**PLAIN, "media_type": None, "charset": None}
    ask(gateway, {**TEXT, **mark, "source": source, "metadata": {}, "title": None}, chunks)
    kept = {"cache_control": {"type": "ephemeral"}}
    first, second = gateway.anthropic.calls[-1].json["messages"][0]["content"][:2]
    assert first == {**{name: said for name, said in TEXT.items() if name != "title"}, **kept}
    assert second == {**CHUNKS, "source": {"type": "content", "content": [CHUNKS["source"]["content"][0]]}, **kept}


@pytest.mark.parametrize("model", [model for model in MODELS if model != "claude"])
def test_nobody_else_is_asked(gateway: Gateway, model: str) -> None:
    for document in (TEXT, FOUND, DOCUMENTS["a PDF"]):
        refused(gateway, "anthropic", model, messages=turn(document))
    # nor where somebody wrote into its row that it can
    LanguageModel.objects.filter(slug=model).update(capabilities=["chat", "pdf", "citations"])
    limit(10_000_000)
    for document in (TEXT, FOUND, DOCUMENTS["a PDF"]):
        refused(gateway, "anthropic", model, messages=turn(document))


def test_auto_finds_who_cites_and_answers_alone(gateway: Gateway) -> None:
    RoutingRule.objects.update(chain=["llama", "gpt", "claude"], pattern="critique", roles={"rounds": 1})
    gateway_forgets()
    assert told(ask(gateway, TEXT, model="auto"))
    assert len(gateway.anthropic.calls) == 1
    assert provider_calls(gateway) == 1
    (receipt,) = gateway.settled(1)
    assert (receipt.model, receipt.pattern) == ("claude", "single")


def test_a_full_context_is_held_for_what_claude_makes_of_them(gateway: Gateway) -> None:
    limit(WINDOW * 3 + 60 * 15)
    ask(gateway, TEXT)
    (receipt,) = gateway.settled(1)
    assert receipt.reserved_microusd == WINDOW * 3 + 60 * 15


def test_kept_answers_keep_their_citations_and_kept_questions_no_pdf(gateway: Gateway) -> None:
    limit(10_000_000)
    store(gateway)
    RoutingRule.objects.update(options={"store_bodies": True, "cache_ttl_seconds": 600}, chain=["claude"])
    gateway_forgets()
    asked: Any = {"model": "auto", "extra_body": {"temperature": 0}}
    document = {**pdf_block(), "context": "Of ada@example.com", **CITED}
    first = ask(gateway, document, **asked)
    gateway.settled(1)
    for stream in (False, True):
        assert told(ask(gateway, document, stream=stream, **asked)) == told(first)
    assert len(gateway.anthropic.calls) == 1
    body = stored()[0]
    assert body.request["messages"][0]["parts"][0] == {"kind": "cited", "text": "Of [mail address]"}
    assert DATA[8:60] not in str(body.request)
    assert body.answer["parts"][1]["citations"] == [BY_CHARACTER]


WISHES: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "of no shape": ([{**TEXT, "citations": [1]}], {}, r"content\[0\]\.citations: must be an object"),
    "of more": ([{**TEXT, "citations": {"enabled": True, "style": "x"}}], {}, r"content\[0\]\.citations\.style"),
    "of a word": ([{**TEXT, "citations": {"enabled": "yes"}}], {}, r"citations\.enabled: must be true or false"),
    "of some": ([TEXT, {**TEXT, "citations": None}], {}, "citations enabled on all document blocks, or on none"),
    "of some results": ([FOUND, {**FOUND, "citations": {"enabled": False}}], {}, "on all search_result blocks"),
    "and a schema": (
        [TEXT],
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        r"output_config\.format and citations do not go together",
    ),
    "and several models": (
        [TEXT], {"extra_headers": {"x-ziggie-pattern": "debate"}}, "citations and the pattern 'debate' do not go",
    ),
    "of no PDF": (
        [{**pdf_block(base64.b64encode(b"x").decode()), **CITED}], {}, r"source\.data: must be a PDF",
    ),
    "of what is no text": ([{**TEXT, "source": {**PLAIN, "data": 5}}], {}, r"source\.data: must be a string"),
    "of something odd": ([{**TEXT, "colour": "x"}], {}, r"content\[0\]\.colour"),
}  # fmt: skip


def test_wishes_that_cannot_be_met_are_refused(gateway: Gateway) -> None:
    for blocks, fields, words in WISHES.values():
        with pytest.raises(anthropic.BadRequestError, match=words):
            ask(gateway, *blocks, **fields)
    assert provider_calls(gateway) == 0


def test_search_results_may_be_cited_beside_documents_that_are_not(gateway: Gateway) -> None:
    ask(gateway, FOUND, {**TEXT, "citations": None})
    first, second, _ = gateway.anthropic.calls[-1].json["messages"][0]["content"]
    assert first == FOUND
    assert second["type"] == "text"


def test_an_answer_without_citations_is_as_it_always_was(gateway: Gateway) -> None:
    set_reply(gateway, Reply("Green."))
    for stream in (False, True):
        answer = ask(gateway, TEXT, stream=stream)
        assert told(answer) == [("Green.", [])]
    assert all(not server.calls for server in servers(gateway) if server is not gateway.anthropic)
