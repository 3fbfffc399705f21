"""A long transcript in parts that fit, with nothing lost."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledge.chunking import MIN_TOKENS, split
from knowledge.transcripts import Segment, Transcript, parse
from routing.planning.tokens import estimate_tokens
from ziggie.errors import InvalidInput

SAMPLE = Path(__file__).parents[2] / "knowledge" / "samples" / "talk.vtt"


@pytest.fixture
def talk() -> Transcript:
    return parse(SAMPLE.read_bytes(), name=SAMPLE.name)


def of(*texts: str, timed: bool = True, speaker: str = "") -> Transcript:
    segments = tuple(Segment(5.0 * n if timed else 0.0, 5.0 * n + 5, text, speaker) for n, text in enumerate(texts))
    return Transcript(segments, "vtt", "en", timed)


def sizes(parts: list[Transcript]) -> list[int]:
    return [estimate_tokens(part.to_prompt()) for part in parts]


def words(transcript: Transcript) -> str:
    return "".join(transcript.text.split())


def test_what_fits_stays_whole(talk: Transcript) -> None:
    assert split(talk, max_tokens=100_000) == [talk]


@pytest.mark.parametrize("max_tokens", [64, 100, 500, 1500])
def test_parts_fit_and_hold_every_segment_in_order(talk: Transcript, max_tokens: int) -> None:
    parts = split(talk, max_tokens=max_tokens, overlap_seconds=0)
    assert max(sizes(parts)) <= max_tokens
    assert [segment for part in parts for segment in part.segments] == list(talk.segments)
    assert {(part.format, part.language, part.timed) for part in parts} == {("vtt", "en", True)}


def test_parts_are_well_filled(talk: Transcript) -> None:
    parts = split(talk, max_tokens=500, overlap_seconds=0)
    assert min(sizes(parts)[:-1]) > 400


def test_a_part_begins_with_the_seconds_before_it(talk: Transcript) -> None:
    parts = split(talk, max_tokens=500, overlap_seconds=15)
    assert len(parts) > 3
    for before, after in pairwise(parts):
        again = [segment for segment in after.segments if segment in before.segments]
        fresh = after.segments[len(again)]
        assert again
        assert before.segments[-len(again) :] == tuple(again)
        assert all(segment.start_seconds >= fresh.start_seconds - 15 for segment in again)
    assert max(sizes(parts)) <= 500


def test_the_overlap_never_eats_a_part() -> None:
    transcript = of(*(f"segment number {n} " + "word " * 30 for n in range(40)))
    parts = split(transcript, max_tokens=200, overlap_seconds=10_000)
    assert len(parts) < 40
    assert {segment for part in parts for segment in part.segments} == set(transcript.segments)


def test_text_without_times_has_no_overlap_and_no_stamps() -> None:
    transcript = of(*(f"line {n} with some words in it" for n in range(60)), timed=False)
    parts = split(transcript, max_tokens=100)
    assert [segment for part in parts for segment in part.segments] == list(transcript.segments)
    assert "[" not in parts[0].to_prompt()


def test_a_segment_too_long_alone_is_cut_after_sentences() -> None:
    text = " ".join(f"This is sentence {n} of version 3.5 of the talk." for n in range(40))
    parts = split(of("before", text, "after", speaker="Ann"), max_tokens=120, overlap_seconds=0)
    pieces = [segment for part in parts for segment in part.segments][1:-1]
    assert " ".join(piece.text for piece in pieces) == text
    assert all(piece.text.endswith("talk.") for piece in pieces)
    assert {(piece.start_seconds, piece.speaker) for piece in pieces} == {(5.0, "Ann")}
    assert max(sizes(parts)) <= 120


@pytest.mark.parametrize(
    "text", ["word " * 3000, "x" * 20_000, "字" * 5000, "今天我们讲工作流。" * 600, "🎨" * 999, "." * 9999]
)
def test_a_segment_without_sentences_is_cut_in_words_or_characters(text: str) -> None:
    transcript = of(text.strip())
    parts = split(transcript, max_tokens=MIN_TOKENS)
    assert "".join(words(part) for part in parts) == words(transcript)
    assert max(sizes(parts)) <= MIN_TOKENS


def test_chinese_is_cut_after_its_own_full_stop() -> None:
    parts = split(of("今天我们讲工作流。" * 100), max_tokens=80)
    assert all(segment.text.endswith("。") for part in parts for segment in part.segments)


def test_a_bound_that_holds_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="allow at least 64"):
        split(of("hi"), max_tokens=63)
    with pytest.raises(InvalidInput, match="leaves no room"):
        split(of("字" * 100, speaker="字" * 100), max_tokens=64)


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(
        st.text(st.sampled_from("ab .!?。字é🎨1<\u200d"), min_size=1, max_size=400).filter(str.strip),
        min_size=1,
        max_size=20,
    ),
    max_tokens=st.integers(MIN_TOKENS, 400),
    overlap_seconds=st.floats(0, 100),
    timed=st.booleans(),
)
def test_any_split_fits_and_loses_nothing(
    texts: list[str], max_tokens: int, overlap_seconds: float, timed: bool
) -> None:
    transcript = of(*texts, timed=timed)
    assert max(sizes(split(transcript, max_tokens=max_tokens, overlap_seconds=overlap_seconds))) <= max_tokens
    parts = split(transcript, max_tokens=max_tokens, overlap_seconds=0)
    assert max(sizes(parts)) <= max_tokens
    assert "".join(words(part) for part in parts) == words(transcript)
