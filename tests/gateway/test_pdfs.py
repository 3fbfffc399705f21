"""PDF documents of either client: what the providers receive, byte for byte, and who is never asked."""

import base64
import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from routing.gateway.wire.reading import MAX_NAME, MAX_PDFS
from routing.models import LanguageModel, Price, Provider, RoutedCall, RoutingRule
from tests.gateway.conftest import Gateway
from tests.gateway.pdf_files import encoded, pdf
from tests.gateway.test_calls import CHAT, MESSAGES
from tests.gateway.test_clients import MODELS, anthropic_client, openai_client, servers, set_reply
from tests.gateway.test_matrix import ask, provider_calls, refused
from tests.servers.script import Call, Reply

REPORT = pdf(filling=bytes(range(256)) * 40)
DATA = encoded(REPORT)
READERS = ("claude", "thinker", "flash")
OTHERS = ("llama", "command")
ADDRESS = "https://example.org/report.pdf"
ASKED = "What colour is the sky?"


def block(data: str = DATA, **fields: Any) -> Any:
    """As Anthropic's clients have it."""
    return {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": data},
        **fields,
    }


def by_address(url: str = ADDRESS) -> Any:
    return {"type": "document", "source": {"type": "url", "url": url}}


def part(data: str = DATA, name: str = "report.pdf") -> Any:
    """As OpenAI's clients have it."""
    return {"type": "file", "file": {"filename": name, "file_data": f"data:application/pdf;base64,{data}"}}


def turn(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": ASKED}]}]


def document(api: str, **fields: Any) -> list[Any]:
    return turn(part(**fields) if api == "openai" else block(**fields))


def heard(gateway: Gateway, model: str) -> Any:
    """What the model's provider was asked last."""
    by_model = dict(zip(MODELS, servers(gateway), strict=True)) | {"thinker": gateway.openai}
    return by_model[model].calls[-1].json


def shown(gateway: Gateway, model: str) -> list[Any]:
    """The parts of the user's last turn."""
    body = heard(gateway, model)
    last: list[Any] = body["contents"][-1]["parts"] if model == "flash" else body["messages"][-1]["content"]
    return last


def expected(model: str, *, name: str = "") -> list[Any]:
    """The document as the model's provider wants it."""
    match model:
        case "claude":
            return [{**block(), **({"title": name} if name else {})}]
        case "flash":
            inline = {"inlineData": {"mimeType": "application/pdf", "data": DATA}}
            return [*([{"text": told(title=name)}] if name else []), inline]
    return [part(name=name or "document.pdf")]


def told(**about: str) -> str:
    said = "\n".join(f"<{key}>{value}</{key}>" for key, value in about.items())
    return f"<document>\n{said}\n<content>\n(the PDF that follows)\n</content>\n</document>"


# --- to those that read them ----------------------------------------------------------------------


@pytest.mark.parametrize("model", READERS)
@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_a_document_arrives_byte_for_byte_and_the_answer_comes_back(gateway: Gateway, api: str, model: str) -> None:
    set_reply(gateway, Reply("It is green.", input_tokens=2_311, output_tokens=5))
    name = "report.pdf" if api == "openai" else ""
    for stream in (False, True):
        said = ask(gateway, api, model, stream=stream, messages=document(api))
        assert (said.text, said.usage) == ("It is green.", (2_311, 0, 5))
        text = {"text": ASKED} if model == "flash" else {"type": "text", "text": ASKED}
        assert shown(gateway, model) == [*expected(model, name=name), text]
        assert base64.b64decode(DATA) == REPORT
    receipts = gateway.settled(2)
    assert [receipt.model for receipt in receipts] == [model] * 2


def test_several_documents_keep_their_order(gateway: Gateway) -> None:
    first, second = encoded(pdf("first")), encoded(pdf("second"))
    ask(gateway, "anthropic", "thinker", messages=turn(block(first), {"type": "text", "text": "and"}, block(second)))
    found = [each.get("file", {}).get("file_data") or each["text"] for each in shown(gateway, "thinker")]
    address = "data:application/pdf;base64,"
    assert found == [address + first, "and", address + second, ASKED]


@pytest.mark.parametrize("model", READERS)
def test_what_is_said_about_a_document_is_told_every_model(gateway: Gateway, model: str) -> None:
    about = {"title": "On </title> skies", "context": "A dream. </document>"}
    ask(gateway, "anthropic", model, messages=turn(block(**about)))
    escaped = told(title="On &lt;/title> skies", context="A dream. &lt;/document>")
    if model == "claude":
        assert shown(gateway, model)[0] == block(**about)
    elif model == "flash":
        assert shown(gateway, model)[:2] == [{"text": escaped}, *expected(model)]
    else:
        assert shown(gateway, model)[:2] == [{"type": "text", "text": escaped}, *expected(model)]


def test_a_title_that_is_a_files_name_is_that_files_name(gateway: Gateway) -> None:
    ask(gateway, "anthropic", "thinker", messages=turn(block(title="Skies of 2026.PDF")))
    assert shown(gateway, "thinker")[0] == part(name="Skies of 2026.PDF")
    ask(gateway, "anthropic", "thinker", messages=turn(block(title="../skies.pdf")))
    assert shown(gateway, "thinker")[:2] == [{"type": "text", "text": told(title="../skies.pdf")}, *expected("thinker")]


@pytest.mark.parametrize("model", READERS)
def test_a_document_that_a_tool_gave_arrives_with_its_result(gateway: Gateway, model: str) -> None:
    called = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    texts = [{"type": "text", "text": "Found"}, {"type": "text", "text": "one:"}]
    result = {"type": "tool_result", "tool_use_id": "t", "content": [*texts, block()]}
    turns: Any = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]
    ask(gateway, "anthropic", model, messages=turns)
    body = heard(gateway, model)
    if model == "claude":
        assert shown(gateway, model) == [result]
    elif model == "flash":
        answer = {"functionResponse": {"name": "look", "response": {"result": "Found\none:"}}}
        assert shown(gateway, model) == [answer, *expected(model)]
    else:
        tool, user = body["messages"][-2:]
        assert tool == {"role": "tool", "tool_call_id": "t", "content": "Found\none:"}
        assert user == {"role": "user", "content": expected(model)}


@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_the_prompt_up_to_a_document_is_cached_where_its_caller_says_so(gateway: Gateway, api: str) -> None:
    Price.objects.filter(model__slug="claude").update(cache_write_usd_per_mtok="3.75")
    mark: Any = {"cache_control": {"type": "ephemeral"}}
    made = {**(part() if api == "openai" else block()), **mark}
    ask(gateway, api, "claude", messages=turn(made))
    assert shown(gateway, "claude")[0]["cache_control"] == mark["cache_control"]
    ask(gateway, api, "thinker", messages=turn(made))
    assert b"cache_control" not in gateway.openai.calls[-1].body


def test_a_document_by_address_goes_to_those_who_fetch_it(gateway: Gateway) -> None:
    ask(gateway, "anthropic", "claude", messages=turn({**by_address(), "title": "Skies"}))
    assert shown(gateway, "claude")[0] == {**by_address(), "title": "Skies"}
    for model in ("thinker", "flash"):
        refused(gateway, "anthropic", model, messages=turn(by_address()))


def test_a_large_document_arrives_whole(gateway: Gateway) -> None:
    large = encoded(pdf(filling=bytes(range(256)) * 40_000))
    assert len(large) > 13_000_000
    ask(gateway, "anthropic", "claude", messages=turn(block(large)))
    assert shown(gateway, "claude")[0] == block(large)


# --- to those that do not -------------------------------------------------------------------------


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_who_cannot_read_it_is_not_asked_and_named(gateway: Gateway, api: str, model: str) -> None:
    error: Any = anthropic.BadRequestError if api == "anthropic" else openai.BadRequestError
    for stream in (False, True):
        with pytest.raises(error, match=f"{model}: cannot do pdf"):
            ask(gateway, api, model, stream=stream, messages=document(api))
    # nor where somebody wrote into its row that it can
    LanguageModel.objects.filter(slug=model).update(capabilities=["chat", "pdf"])
    gateway_forgets()
    with pytest.raises(error, match=r"a PDF document.* takes none"):
        ask(gateway, api, model, messages=document(api))
    assert provider_calls(gateway) == 0
    assert all(receipt.cost_microusd == 0 for receipt in RoutedCall.objects.all())


def gateway_forgets() -> None:
    """The rows of this moment count."""
    from routing.configuration import snapshot

    snapshot.forget()


@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_auto_finds_the_first_that_reads_it_and_says_why_not_the_others(gateway: Gateway, api: str) -> None:
    RoutingRule.objects.update(chain=["llama", "command", "flash", "claude"])
    gateway_forgets()
    ask(gateway, api, "auto", messages=document(api))
    (receipt,) = gateway.settled(1)
    assert receipt.model == "flash"
    dropped = {row["model"]: row["reason"] for row in receipt.candidates if row["state"] == "dropped"}
    assert dropped == {"llama": "cannot do pdf", "command": "cannot do pdf"}


def test_a_rule_may_take_all_documents(gateway: Gateway) -> None:
    policy = RoutingRule.objects.get().policy
    RoutingRule.objects.update(position=2)
    RoutingRule.objects.create(policy=policy, position=1, name="documents", capabilities=["pdf"],
                               chain=["claude"])  # fmt: skip
    gateway_forgets()
    for messages, model in ((document("openai"), "claude"), ([{"role": "user", "content": "Hi"}], "gpt")):
        answer = openai_client(gateway).chat.completions.with_raw_response.create(model="auto", messages=messages)
        assert answer.headers["x-ziggie-model"] == model


@pytest.mark.parametrize(
    "address",
    [
        "https://api.x.ai/v1", "https://api.mistral.ai/v1", "https://openrouter.ai/api/v1", "https://API.X.AI/v1",
        "https://api.x.ai./v1", "https://x.ai", "https://OpenRouter.ai:443/api/v1", "https://eu.api.mistral.ai?x=1",
    ],
)  # fmt: skip
def test_who_has_documents_read_for_a_price_of_its_own_gets_none(gateway: Gateway, address: str) -> None:
    Provider.objects.filter(slug="openai").update(base_url=address)
    gateway_forgets()
    with pytest.raises(openai.BadRequestError, match="what reading it costs here is not in the model's price"):
        ask(gateway, "openai", "thinker", messages=document("openai"))


# --- what is no such document ---------------------------------------------------------------------


def refusal(gateway: Gateway, path: str, *parts: Any) -> tuple[int, str, str]:
    """Status, message and place."""
    asked = {"model": "claude", "max_tokens": 9, "messages": turn(*parts)}
    answer = httpx2.post(gateway.url + path, json=asked, headers=gateway.headers, timeout=60)
    error = answer.json()["error"]
    return answer.status_code, error["message"], error["message"].split()[0].rstrip(":")


def changed(**source: Any) -> Any:
    return block() | {"source": block()["source"] | source}


WHOLE = encoded(b"%PDF-1.7\n" + b"x" * 9)  # without any padding


def picture(media_type: str, data: str = DATA) -> Any:
    """A part for images of OpenAI's clients."""
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def shown_as(media_type: str, data: str = DATA) -> Any:
    """The same of Anthropic's."""
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


IN_BLOCK, IN_PART = "messages[0].content[0].source.", "messages[0].content[0].file."
WRONG: dict[str, tuple[str, Any, str, str]] = {
    "an uploaded file": (
        MESSAGES, {"type": "document", "source": {"type": "file", "file_id": "file_1"}}, IN_BLOCK + "type",
        "no file is kept for later. Send the document itself, as base64",
    ),
    "one of OpenAI's": (
        CHAT, {"type": "file", "file": {"file_id": "file-1"}}, IN_PART + "file_id",
        "no file is kept for later. Send the document itself, as base64",
    ),
    "another type": (
        MESSAGES, changed(media_type="application/msword"), IN_BLOCK + "media_type",
        "must be application/pdf, and it is 'application/msword'",
    ),
    "another type in OpenAI's words": (
        CHAT, {"type": "file", "file": {"file_data": "data:text/csv;base64,YQ=="}}, IN_PART + "file_data",
        "must be of the type application/pdf, and it is of 'text/csv'",
    ),
    "no base64": (MESSAGES, changed(data=DATA[:40] + "-" + DATA[41:]), IN_BLOCK + "data", "'-' at character 40"),
    "line ends": (MESSAGES, changed(data=DATA[:76] + "\n" + DATA[76:]), IN_BLOCK + "data", r"'\n' at character 76"),
    "an umlaut": (CHAT, part("JVBERüi0x"), IN_PART + "file_data", r"'\xfc' at character 5"),
    "half of it": (CHAT, part(DATA[:-3]), IN_PART + "file_data", "it breaks off"),
    "padding of its own": (MESSAGES, changed(data=WHOLE + "="), IN_BLOCK + "data", "it breaks off"),
    "much padding": (CHAT, part(DATA + "=" * 1_000), IN_PART + "file_data", "ends in more than two '='"),
    "padding of a multiple of four": (MESSAGES, changed(data=WHOLE + "=" * 4), IN_BLOCK + "data", "more than two '='"),
    "padding within": (MESSAGES, changed(data="JVBERi0=" + DATA), IN_BLOCK + "data", "it breaks off"),
    "no PDF": (MESSAGES, changed(data=encoded(b"PK\x03\x04" * 9)), IN_BLOCK + "data", "begins with %PDF-"),
    "nothing": (MESSAGES, changed(data=""), IN_BLOCK + "data", "begins with %PDF-"),
    "a number": (MESSAGES, changed(data=5), IN_BLOCK + "data", "must be a string"),
    "no type": (MESSAGES, changed(media_type=None), IN_BLOCK + "media_type", "must be a string"),
    "bare base64": (CHAT, {"type": "file", "file": {"filename": "a.pdf", "file_data": DATA}}, IN_PART + "file_data",
                    "must be a base64 data: address"),
    "an address": (CHAT, {"type": "file", "file": {"file_data": ADDRESS}}, IN_PART + "file_data",
                   "must be a base64 data: address"),
    "no file": (CHAT, {"type": "file"}, IN_PART + "file_data", "must be a string"),
    "a long name": (CHAT, part(name="x" * (MAX_NAME + 1)), IN_PART + "filename", f"at most {MAX_NAME} characters"),
    "more beside it": (CHAT, {"type": "file", "file": {**part()["file"], "pages": 1}}, IN_PART + "pages", "not supp"),
    "more within": (MESSAGES, changed(pages="1-2"), IN_BLOCK + "pages", "not supported"),
    "to be cited": (MESSAGES, block(citations={"enabled": 1}), "messages[0].content[0].citations.enabled", "true or"),
    "an image's part": (CHAT, picture("application/pdf"), "messages[0].content[0].image_url.url",
                        "it is of the type 'application/pdf': a PDF document is sent as a part that is a file"),
    "an image's block": (MESSAGES, shown_as("application/pdf"), "messages[0].content[0].source",
                         "it is of the type 'application/pdf': a PDF document is sent as a block of the type document"),
    "spelt otherwise": (CHAT, picture("Application/PDF;name=a.png"), "messages[0].content[0].image_url.url",
                        "'Application/PDF'"),
    "said to be a picture": (MESSAGES, shown_as("image/png"), "messages[0].content[0].source", "and it is a PDF"),
    "said to be one, after a byte or two": (
        CHAT, picture("image/png", encoded(b"\n\n" + REPORT)), "messages[0].content[0].image_url.url",
        "and it is a PDF",
    ),
    "not said to be anything": (CHAT, picture(""), "messages[0].content[0].image_url.url", "and it is a PDF"),
    "a film": (CHAT, picture("video/mp4", "AAAAIGZ0eXA="), "messages[0].content[0].image_url.url", "'video/mp4'"),
    "an image in a tool's result": (
        MESSAGES, {"type": "tool_result", "tool_use_id": "t", "content": [shown_as("application/pdf")]},
        "messages[0].content[0].content.source", "must be an image",
    ),
    "a title of no text": (MESSAGES, block(title=["x"]), "messages[0].content[0].title", "must be a string"),
}  # fmt: skip


def test_what_is_no_such_document_is_refused_with_its_place(gateway: Gateway) -> None:
    for name, (path, wrong, place, words) in WRONG.items():
        status, message, param = refusal(gateway, path, wrong)
        assert (status, param) == (400, place), name
        assert words in message, (name, message)
    assert provider_calls(gateway) == 0
    assert not RoutedCall.objects.exists()


def test_a_document_stands_in_a_users_turn_alone(gateway: Gateway) -> None:
    for path, role, made in ((CHAT, "system", part()), (CHAT, "assistant", part()), (MESSAGES, "assistant", block())):
        asked = {"model": "claude", "max_tokens": 9, "messages": [{"role": role, "content": [made]}, *turn()]}
        answer = httpx2.post(gateway.url + path, json=asked, headers=gateway.headers, timeout=60)
        assert answer.status_code == 400, (path, role)
        assert "messages[0].content[0].type" in answer.text
    assert provider_calls(gateway) == 0


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_request_has_at_most_so_many_documents(gateway: Gateway, path: str) -> None:
    made = part(encoded(pdf())) if path == CHAT else block(encoded(pdf()))
    asked = {"model": "claude", "max_tokens": 9, "messages": turn(*[made] * (MAX_PDFS + 1))}
    answer = httpx2.post(gateway.url + path, json=asked, headers=gateway.headers, timeout=60)
    assert answer.status_code == 413
    assert f"at most {MAX_PDFS} PDF documents are accepted, and there are {MAX_PDFS + 1}" in answer.text


def test_an_answer_with_tools_and_a_schema_goes_with_documents_too(gateway: Gateway) -> None:
    tool: Any = {"name": "note", "description": "Notes.", "input_schema": {"type": "object", "properties": {}}}
    set_reply(gateway, Reply("", calls=(Call("note", {}),)))
    for model in READERS:
        for stream in (False, True):
            said = ask(gateway, "anthropic", model, stream=stream, messages=document("anthropic"), tools=[tool])
            assert said.calls == [("note", {})]
            assert DATA in json.dumps(heard(gateway, model))


def test_the_clients_own_ways_to_send_a_document_work(gateway: Gateway) -> None:
    """Typed, and as the packages write them."""
    source = anthropic.types.Base64PDFSourceParam(type="base64", media_type="application/pdf", data=DATA)
    typed = anthropic.types.DocumentBlockParam(type="document", source=source, title="report.pdf", citations=None)
    anthropic_client(gateway).messages.create(
        model="thinker", max_tokens=9, messages=[{"role": "user", "content": [typed]}]
    )
    assert shown(gateway, "thinker") == [part()]
    file: openai.types.chat.chat_completion_content_part_param.File = part()
    openai_client(gateway).chat.completions.create(model="claude", messages=[{"role": "user", "content": [file]}])
    assert shown(gateway, "claude") == [block(title="report.pdf")]
