"""Texts lose what would open or end what only the gateway does, however they are made."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.adapters.asking.marks import without_marks

END = re.compile(r"<(?=\s*/\s*(?:content|document)\b)", re.IGNORECASE)
TAG = re.compile(r"<(?=\s?/?\s?system-role-message)", re.IGNORECASE)
PIECES = [
    "<",
    "</",
    "< ",
    "/",
    " ",
    "\n",
    "\u00a0",
    "<<<<",
    "content",
    "CONTENT",
    "Document",
    "documents",
    "_",
    "é",
    "İ",
]
PIECES += [
    "🙂",
    "system-role-message",
    "<SYSTEM-ROLE-message>",
    "<p>5</p>",
    "</content>",
    "</\tdocument>",
    "a longer text ",
]
ORDINARY = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@given(ORDINARY, st.sampled_from([0, 5_000]))
def test_an_ordinary_text_loses_what_it_always_lost(text: str, dense: int) -> None:
    text = "<p>" * dense + text  # so many that not each is looked at
    assert without_marks(text, END, ("content", "document"), "&lt;") == END.sub("&lt;", text)
    assert without_marks(text, TAG, ("system-role-message",), "(") == TAG.sub("(", text)


def test_a_feed_of_many_entries_loses_the_ends_alone() -> None:
    entry = "<entry><title>A title of some length</title><content>" + "Some words. " * 20 + "</content></entry>\n"
    told = without_marks(entry * 2_000, END, ("content", "document"), "&lt;")
    assert told == END.sub("&lt;", entry * 2_000)


@pytest.mark.parametrize("text", ["</content", "< / CONTENT>", "</Document><<<<"])
def test_a_text_made_of_ends_has_none_left(text: str) -> None:
    told = without_marks(text * 100_000, END, ("content", "document"), "&lt;")
    assert len(told) == 100_000 * len(text)
    assert "<" not in told


@pytest.mark.parametrize(
    "line",
    [
        '<div class="content"><p>Hello there</p><a href="/x">More</a></div>\n',
        'a = document.getElementById("a"); for (i = 0; i<n; i++) if (i<3) a.innerHTML = "<b>hi</b>";\n',
        '<entry><title>Item</title><link href="http://a/1"/><content>Words about a thing here</content></entry>\n',
    ],
    ids=["a page", "a script", "a feed"],
)
def test_pages_scripts_and_feeds_keep_their_tags(line: str) -> None:
    for lines in (20, 200, 5_000):
        told = without_marks(line * lines, END, ("content", "document"), "&lt;")
        assert told == END.sub("&lt;", line * lines)
