"""What is taken out of texts before they are stored, what is left in, and what bounds the looking."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import redaction
from routing.redaction import PatternError, Redactor, TooLong, compiled

SECRETS = [
    "sk-ant-api03-AbCdEf0123456789",
    "sk-proj-AbCdEf0123456789_-xyz",
    "zg_AbCdEf0123456789AbCdEf",
    "ghp_abcdefghijklmnop1234",
    "github_pat_11ABCDEFG0123456789",
    "glpat-abcDEF123456_",
    "xoxb-123456789012-abcdef",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "hf_abcdefghijklmnop",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE1",
    "dGhpcyBpcy9h+c2VjcmV0IGtleSBvZiBvdXJzMTIz4A==",
    "ada@example.co.uk",
    "søren.o'neil+tag@bücher.example",
    "4111 1111 1111 1111",
    "5500-0000-0000-0004",
    "378282246310005",
    "+49 30 901820-12",
    "+14155550123",
    "(030) 901820",
    "555-867-5309",
    "0171/1234567",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nthe rest was cut",
]
NAMED = [
    ("password: hunter2!", "hunter2!"),
    ("PASSWORD=hunter2!", "hunter2!"),
    ('{"api_key": "plainvalue"}', "plainvalue"),
    ('{\\"token\\": \\"plainvalue\\"}', "plainvalue"),
    ("DB_PASSWORD='plainvalue'", "plainvalue"),
    ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
    ("curl -H 'Authorization: Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
    ("postgres://ada:pa55w0rd@db/ziggie", "pa55w0rd"),
    ("secret => plainvalue", "plainvalue"),
    ("clientSecret=plainvalue", "plainvalue"),
    ("dbPassword: plainvalue", "plainvalue"),
    ('{"password": "correct horse battery staple", "city": "Oslo"}', "correct horse battery staple"),
    ('{"accessToken":"a\\"b"}', 'a\\"b'),
    ("{'password': 'correct horse', 'city': 'Oslo'}", "correct horse"),
    ('{\\"password\\": \\"correct horse\\", \\"city\\": \\"Oslo\\"}', "correct horse"),
    ('{"password": "cut in mid-', "cut in mid-"),
]
HARMLESS = [
    '{"max_tokens": 4096, "maxTokens": 4096, "properties": {"password": {"type": "string"}}}',
    "The meeting is on 2026-11-21 05:26:33, in room 12.",
    "tokens: 12345, max_tokens=4096, prompt_tokens: 10",
    "019aa7a2-7c3f-7abc-8def-0123456789ab",
    "The secret of success is hard work, and the key to it is sleep.",
    "Invoice 2024-001-0001 over 12,500.00 USD",
    "1234567890123456",  # no card: its digits do not add up
    "0000 0000 0000 0000",
    "3.14159265358979",
    "/usr/local/lib/python3.11/site-packages/django/contrib/postgres",
    "knowledge/migrations/0003_something_with_a_long_name_in_it.py",
    "steps=20, cfg=7, seed 8675309",
    "a@b",
    "@property def f(self) -> None: pass",
]


def redacted(value: Any, **options: Any) -> Any:
    return Redactor(**{"characters": 10_000, **options}).of(value)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_taken_out_wherever_it_stands(secret: str) -> None:
    for text in (secret, f"My secret: {secret}", f"before {secret} after", f'"{secret}",'):
        found = Redactor(10_000)
        assert secret not in found.of(text)
        assert found.found >= 1


@pytest.mark.parametrize(("text", "secret"), NAMED)
def test_what_is_called_a_secret_is_taken_out(text: str, secret: str) -> None:
    assert secret not in redacted(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_values_are_taken_out_by_their_names_and_found_in_names() -> None:
    body = {"password": "x", "arguments": {"api-key": ["v"], "max_tokens": 5}, "ada@example.com": [True, None, 1.5]}
    assert redacted(body) == {
        "password": "[secret]",
        "arguments": {"api-key": ["[secret]"], "max_tokens": 5},
        "[mail address]": [True, None, 1.5],
    }


def test_known_keys_and_the_staffs_patterns_are_taken_out() -> None:
    text = "case ACME-1234 of own-key"
    assert redacted(text, patterns=["ACME-\\d+"], secrets=frozenset({"own-key"})) == "case [redacted] of [key]"


def test_letters_that_json_writes_as_numbers_are_read() -> None:
    called = json.dumps({"who": "Jürgen", "said": 'a "b" \\u00fc'})
    assert "\\u00fcrgen" in called
    found = Redactor(10_000, patterns=["Jürgen"])
    assert json.loads(found.of(called)) == {"who": "[redacted]", "said": 'a "b" \\u00fc'}
    assert redacted("M\\u00fcller") == "M\\u00fcller"  # no JSON
    found = Redactor(20, patterns=["Jürgen"])
    assert "J" not in found.of(json.dumps(["0123456789 Jürgen and others"]))
    assert found.cut


def test_a_number_with_a_secrets_name_is_taken_out() -> None:
    assert redacted({"pin_token": 123456, "size": 5}) == {"pin_token": "[secret]", "size": 5}


def test_a_pattern_with_groups_takes_out_all_that_it_finds() -> None:
    assert redacted("ACME-1234", patterns=["(ACME)-(\\d+)"]) == "[redacted]"


def test_a_secret_at_the_cut_is_not_let_through_in_part() -> None:
    for length in range(1, 40):
        found = Redactor(length)
        assert "sk-a" not in found.of("0123456789 sk-ant-api03-AbCdEf0123456789")
        assert found.cut


def test_a_body_is_cut_over_all_its_texts() -> None:
    found = Redactor(100)
    kept = found.of([{"text": "a" * 60}, {"text": "b" * 60}, {"text": "c" * 60}])
    assert found.cut
    assert len(str(kept)) < 200
    assert "c" not in str(kept)


@pytest.mark.parametrize("pattern", ["(", "a*", "(?=x)", "\\1", "x" * 301, "", "(a{1000}){1000}", "\ud800"])
def test_an_expression_that_cannot_be_used_is_refused_with_the_reason(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"should|is no|would"):
        compiled(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){20}"])
def test_an_expression_that_is_slow_elsewhere_takes_its_time_in_proportion(pattern: str) -> None:
    began = time.process_time()
    redacted("a" * 50_000 + "!", characters=60_000, patterns=[pattern])
    assert time.process_time() - began < 20


def test_too_many_finds_take_out_the_rest() -> None:
    text = redacted("x" * 5_000 + " end", patterns=["x"])
    assert text.count("[redacted]") == redaction.MAX_MATCHES
    assert text.endswith("[the rest is not kept]")


def test_what_takes_too_long_is_not_let_through() -> None:
    found = Redactor(10_000, patterns=["x"])
    found._until = 0.0
    with pytest.raises(TooLong):
        found.of("x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(JSON, st.integers(0, 50))
def test_anything_that_json_can_hold_is_looked_through(body: Any, room: int) -> None:
    Redactor(room, patterns=("[a-z]+",)).of(body)


@given(st.text(), st.sampled_from(SECRETS), st.text())
def test_no_text_around_it_hides_a_key(before: str, secret: str, after: str) -> None:
    """Letters and digits that touch it make it another word; anything else does not."""
    assert secret not in redacted(f"{before}\n{secret}\n{after}")
