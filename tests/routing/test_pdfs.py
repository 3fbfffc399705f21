"""How long a PDF is taken to be, and what its worst case is for each model."""

import json
import time
import zlib
from typing import Any

import pytest

from routing.adapters.transport import codec_for
from routing.planning.demand import measure
from routing.planning.pdfs import MOST_PAGES, PAGE_TOKENS_LIKELY, pages_likely, tokens_at_most
from routing.planning.pricing import worst_case_microusd
from routing.planning.rules import plan
from routing.records import kept_requests
from routing.types import ChatRequest, Cited, Hints, Message, Pdf, PriceTier, Text, UnsupportedByProvider
from routing.walk.collecting import prompt_tokens
from routing.walk.comparing import as_text
from tests.gateway.pdf_files import encoded, pdf
from tests.routing.specs import (
    ANTHROPIC,
    BUILT_IN,
    HEALTHY,
    MOONSHOT,
    SONNET,
    SONNET_PRICE,
    budget,
    model,
    price,
    rule,
    snapshot,
)
from ziggie.values import replace

READS = frozenset({"chat", "json", "tools", "pdf"})
READER = replace(SONNET, capabilities=READS)


def asked(*documents: Pdf, **fields: Any) -> ChatRequest:
    return ChatRequest((Message("user", (Text("what?"), *documents)),), **fields)


def hidden(size: int) -> bytes:
    """A document of which nothing can be seen."""
    return b"%PDF-1.7\n" + b"x" * size


@pytest.mark.parametrize(
    ("document", "pages"),
    [
        (pdf(pages=1), 1),
        (pdf(pages=31), 31),
        (pdf(pages=12).replace(b"/Type /Page ", b"/Type/Page"), 12),
        (pdf(pages=12, packed=True), 1),  # where nobody looks: by its size
        (pdf(pages=2) + b"/ObjStm" + b"x" * 210_000, 5),
        (hidden(210_000), 5),
        (hidden(9_000_000), 20),
        (pdf(pages=3).replace(b"<</Type /Catalog", b"<</Linearized 1 /N 40 /Type /Catalog"), 40),
        (b"%PDF-1.5\n1 0 obj <</Linearized 1 /L 5000 /N 12 /T 4000>> endobj" + b"x" * 90_000, 12),
        (b"%PDF-1.5\n1 0 obj <</N 12>> endobj", 1),
        (b"%PDF-1.5 /Linearized /N 0", 1),
        (b"%PDF-1.5 /Linearized /N 99999", MOST_PAGES),
        (b"%PDF-" + b"/Type/Page" * 1_000_000, MOST_PAGES),
        (b"%PDF-", 1),
    ],
)
def test_pages_are_counted_where_they_can_be_seen_and_guessed_where_not(document: bytes, pages: int) -> None:
    assert pages_likely(document) == pages


PACKED = b"/Type /ObjStm stream\n" + zlib.compress(b"/Type /Page" * 1_000_000)
ODD = (
    *(b"/Type/Page", b"/Type/Pages", b"/Type ", b"/Type" + b" " * 8, b"/Type /Pag", b"/Linearized /N ", b"<<" * 9),
    *(b"/Type/ObjStm", b"stream\n"),
)


@pytest.mark.parametrize("filling", [*ODD, PACKED])
def test_no_file_takes_long_to_look_through(filling: bytes) -> None:
    document = b"%PDF-" + filling * (15_000_000 // len(filling))
    began = time.process_time()
    assert pages_likely(document) <= MOST_PAGES
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("gpt-4o-mini", 34),
        ("openai/gpt-4o-mini-2024-07-18", 34),
        ("gpt-4.1-nano", 2.5),
        ("gpt-5-nano-2025-08-07", 2.5),
        ("gpt-5.4-mini", 1.75),
        ("o4-mini", 1.75),
        ("gpt-4o", 1),
        ("gpt-5.2", 1),
        ("claude-haiku-4-5", 1),
        ("gemini-2.5-pro", 1),
    ],
)
def test_a_prompt_may_be_billed_at_more_tokens_than_fit_into_the_context(name: str, times: float) -> None:
    assert tokens_at_most(model("m", MOONSHOT, name=name, context_window=100_000)) == int(100_000 * times)


@pytest.mark.parametrize("name", ["documents", "prod-mini", "gpt", "our-reader-4", "gpt-41mini"])
def test_a_name_that_does_not_say_which_model_it_is_may_be_the_dearest(name: str) -> None:
    assert tokens_at_most(model("m", MOONSHOT, name=name, context_window=100_000)) == 3_400_000
    elsewhere = replace(MOONSHOT, kind="anthropic")
    assert tokens_at_most(model("m", elsewhere, name=name, context_window=100_000)) == 100_000


@pytest.mark.parametrize(("factor", "tokens"), [(34, 3_400_000), (2.5, 250_000), (1.75, 175_000), (1, 100_000)])
def test_staff_say_so_where_a_name_does_not(factor: float, tokens: int) -> None:
    azure = replace(MOONSHOT, options={"pdf_token_factor": factor})
    for name in ("documents", "gpt-4o-mini", "gpt-4o"):
        assert tokens_at_most(model("small", azure, name=name, context_window=100_000)) == tokens


@pytest.mark.parametrize("odd", ["34", "2.5", True, 0, 0.5, -2, 1_001, float("nan"), float("inf"), None, [34]])
def test_what_is_no_such_factor_is_not_taken_for_one(odd: object) -> None:
    azure = replace(MOONSHOT, options={"pdf_token_factor": odd})
    assert tokens_at_most(model("m", azure, name="documents", context_window=100_000)) == 3_400_000


def test_the_worst_case_is_a_full_context_in_every_call_that_may_be_made() -> None:
    request = asked(Pdf(data="x", pages=2), max_output_tokens=1_000, json_object=True)
    (candidate,) = plan(request, snapshot(rule(chain=(READER.slug,)), models=(READER,)), HEALTHY).candidates
    first = worst_case_microusd(SONNET_PRICE, input_tokens=200_000, output_tokens=1_000)
    assert candidate.worst_case_microusd >= 2 * first  # the repair reads the document again


def test_a_tier_for_long_prompts_is_held_where_a_document_may_reach_it() -> None:
    tiered = replace(SONNET_PRICE, tiers=(PriceTier(150_000, price("6", "22.50")),))
    dear = replace(READER, price=tiered)
    chosen = snapshot(rule(chain=(dear.slug,)), models=(dear,))
    request = asked(Pdf(data="x", pages=2), max_output_tokens=1_000)
    (candidate,) = plan(request, chosen, HEALTHY).candidates
    assert candidate.worst_case_microusd == 200_000 * 6 + 22_500


def test_long_texts_beside_a_document_are_held_by_their_bytes() -> None:
    request = ChatRequest((Message("user", (Text("x" * 300_000), Pdf(data="x", pages=2))),))
    demand = measure(request)
    assert demand.most_input(READER) == demand.input_at_most > 300_000


def test_a_document_is_as_long_as_its_pages_for_rules_and_contexts() -> None:
    demand = measure(asked(Pdf(data="x", pages=80), Pdf(url="https://x.test/a.pdf", title="t" * 400)))
    assert demand.needs == {"pdf"}
    assert 90 * PAGE_TOKENS_LIKELY <= demand.context_tokens <= 90 * PAGE_TOKENS_LIKELY + 110
    assert demand.input_likely >= 90 * PAGE_TOKENS_LIKELY
    assert demand.complexity == 0.6  # longer than 10,000 characters


def test_a_caller_who_states_the_capability_is_held_like_one_with_a_document() -> None:
    demand = measure(ChatRequest((Message("user", (Text("x"),)),), hints=Hints(capabilities=frozenset({"pdf"}))))
    assert demand.most_input(READER) == 200_000


def test_a_document_is_kept_and_read_again_as_it_was() -> None:
    block = {"type": "document", "source": {"type": "text", "data": "Green."}}
    for part, text in (
        (Pdf("QUJD", title="a.pdf", context="c", pages=3, tool_call_id="t", cache_mark=True), "(a PDF document)"),
        (Cited({"type": "document"}, "a.pdf", 3), "(a PDF document)"),
        (Cited(block, "Green.", cache_mark=True), "Green."),
        (Text("Green.", citations=({"type": "char_location", "document_index": 0},)), "Green."),
    ):
        request = ChatRequest((Message("user", (Text("what?"), part)),))
        assert kept_requests.from_json(json.loads(json.dumps(kept_requests.to_json(request)))) == request
        assert text in as_text(request)


def test_citations_that_go_back_are_held_by_their_bytes() -> None:
    quotes = Text("Green.", citations=({"cited_text": "x" * 10_000},))
    plain, quoting = (measure(ChatRequest((Message("assistant", (part,)),))) for part in (Text("Green."), quotes))
    assert quoting.input_at_most >= plain.input_at_most + 10_000


def test_what_is_to_be_cited_is_measured_like_what_it_is() -> None:
    text, document = Cited({}, "Green." * 100), Cited({}, "a.pdf", 0)
    measured = measure(ChatRequest((Message("user", (text,)),)))
    assert measured.needs == {"citations"}
    assert (measured.context_tokens, measured.most_input(READER)) == (150, 200_000)
    measured = measure(ChatRequest((Message("user", (document,)),)))
    assert measured.needs == {"citations", "pdf"}
    assert measured.context_tokens >= 10 * PAGE_TOKENS_LIKELY
    assert prompt_tokens(ChatRequest((Message("user", (document,)),))) >= 10 * PAGE_TOKENS_LIKELY


DOCUMENTS = [Pdf(data=encoded(pdf())), Cited({"type": "document"}, "Green.")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=["PDF", "cited"])
@pytest.mark.parametrize("kind", ["ollama", "cohere", "offline"])
@pytest.mark.parametrize("role", ["user", "tool", "system", "assistant"])
def test_no_api_drops_a_document_in_silence(kind: str, role: Any, document: Any) -> None:
    provider = replace(ANTHROPIC, kind=kind) if kind != "offline" else BUILT_IN
    request = ChatRequest((Message("user", (Text("x"),)), Message(role, (Text("y"), document))))
    if kind == "offline":
        from routing.offline.model import answer

        with pytest.raises(UnsupportedByProvider, match="PDF"):
            answer(request)
        return
    with pytest.raises(UnsupportedByProvider, match=r"PDF|document"):
        codec_for(provider).encode_chat(request, model("m", provider), max_output_tokens=9, stream=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=["PDF", "cited"])
@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("role", ["system", "assistant"])
def test_nor_where_it_stands_in_no_users_turn(kind: str, role: Any, document: Any) -> None:
    provider = replace(ANTHROPIC, kind=kind)
    request = ChatRequest((Message(role, (Text("y"), document)), Message("user", (Text("x"),))))
    with pytest.raises(UnsupportedByProvider):
        codec_for(provider).encode_chat(request, model("m", provider), max_output_tokens=9, stream=False)


def test_money_that_is_short_leaves_the_document_to_the_next_model() -> None:
    cheap = model("cheap", MOONSHOT, price("0.10", "0.40"), name="gpt-4o", capabilities=READS, context_window=128_000)
    cheap = replace(cheap, provider=replace(MOONSHOT, switch=""))
    chosen = snapshot(rule(chain=(READER.slug, "cheap")), models=(READER, cheap), budgets=(budget(100_000),))
    decided = plan(asked(Pdf(data="x", pages=1), max_output_tokens=100), chosen, HEALTHY)
    assert [candidate.model.slug for candidate in decided.candidates] == ["cheap"]
    assert [row.kind for row in decided.dropped] == ["budget"]
