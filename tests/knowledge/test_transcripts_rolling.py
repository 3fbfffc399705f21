"""Automatic captions scroll: their rows come twice or more in the file, and once in the transcript."""

import re
from pathlib import Path

import pytest

from knowledge.transcripts import Transcript, parse

CAPTIONS = Path(__file__).parent / "captions"
SPOKEN = [
    (0.16, "hello everyone and welcome back"),
    (2.44, "today we look at the sampler and I say"),
    (4.91, "no"),
    (6.21, "no"),
    (7.8, "never raise the CFG above eight"),
    (10.0, "[Music]"),
    (13.5, "because the colours burn & the lines"),
    (15.99, "get crunchy"),
]


def starts(transcript: Transcript) -> list[tuple[float, str]]:
    return [(segment.start_seconds, segment.text) for segment in transcript.segments]


def captions(*cues: tuple[float, float, str]) -> bytes:
    blocks = [f"00:00:{start:06.3f} --> 00:00:{end:06.3f}\n{text}\n" for start, end, text in cues]
    return ("WEBVTT\n\n" + "\n".join(blocks)).encode()


@pytest.mark.parametrize("name", ["auto.en.vtt", "auto.en.srt", "auto.en.json3", "auto.en.srv3"])
def test_automatic_captions_say_everything_once_in_each_of_youtubes_formats(name: str) -> None:
    assert starts(parse((CAPTIONS / name).read_bytes(), name=name)) == SPOKEN


@pytest.mark.parametrize("name", ["auto.en.vtt", "auto.en.srt"])
def test_automatic_captions_survive_editors_that_strip_trailing_spaces(name: str) -> None:
    data = re.sub(rb"[ \t]+\n", b"\n", (CAPTIONS / name).read_bytes())
    assert starts(parse(data, name=name)) == SPOKEN


def test_automatic_captions_without_the_cues_in_between_say_everything_once() -> None:
    text = (CAPTIONS / "auto.en.vtt").read_text()
    header, *blocks = text.split("\n\n")
    kept = "\n\n".join([header, *blocks[::2]])
    assert starts(parse(kept.encode(), name="talk.vtt")) == SPOKEN


def test_rows_that_a_tool_joined_into_one_line_come_once() -> None:
    data = captions((0, 2, "a b"), (2, 2.01, "a b"), (2.01, 4, "a b c d"), (4, 4.01, "c d"), (4.01, 6, "c d e"))
    assert starts(parse(data)) == [(0, "a b"), (2.01, "c d"), (4.01, "e")]


def test_three_row_roll_up_captions_come_once() -> None:
    rows = ["one", "two", "three", "four", "five"]
    cues = [(n, n + 1, "\n".join(rows[max(0, n - 2) : n + 1])) for n in range(5)]
    assert [text for _, text in starts(parse(captions(*cues)))] == rows


@pytest.mark.parametrize(
    "texts",
    [
        ["no", "no", "no"],
        ["we will rock you", "we will rock you", "sing it", "we will rock you", "we will rock you"],
        ["Are you sure?\nNo.", "No.\nI said no.", "What now?", "We wait.", "Fine.\nI agree."],
        ["la la la", "la la la la", "la la la"],
        ["one", "one two"],
    ],
)
def test_what_is_said_twice_stays_twice_in_ordinary_captions(texts: list[str]) -> None:
    cues = [(n * 2.0, n * 2.0 + 2.0, text) for n, text in enumerate(texts)]
    assert [text for _, text in starts(parse(captions(*cues)))] == [text.replace("\n", " ") for text in texts]


def test_a_sung_chorus_with_word_stamps_stays() -> None:
    line = "row <00:00:01.000>your <00:00:01.500>boat"
    data = captions((0, 2, line), (2, 4, line), (4, 6, "gently <00:00:05.000>down"))
    assert [text for _, text in starts(parse(data))] == ["row your boat", "row your boat", "gently down"]


def test_a_word_repeated_after_the_screen_was_empty_is_said_again() -> None:
    data = captions((0, 2, "stop"), (2, 2.01, "stop"), (2.01, 4, "stop\nwait"), (4, 4.01, "wait"), (9, 11, "wait"))
    assert starts(parse(data)) == [(0, "stop"), (2.01, "wait"), (9, "wait")]
