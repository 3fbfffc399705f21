"""Plain text, with the stamps that people copy along with it, or without any."""

import pytest

from knowledge.transcripts import Segment, TranscriptError, parse


def read(text: str) -> tuple[Segment, ...]:
    return parse(text.encode(), name="talk.txt").segments


def test_text_without_stamps_has_no_times() -> None:
    transcript = parse(b"First we load the model.\n\nThen we sample.\n", name="talk.txt")
    assert [s.text for s in transcript.segments] == ["First we load the model.", "Then we sample."]
    assert {(s.start_seconds, s.end_seconds) for s in transcript.segments} == {(0.0, None)}
    assert (transcript.timed, transcript.duration_seconds) == (False, 0.0)
    assert transcript.to_prompt() == "First we load the model.\nThen we sample."


@pytest.mark.parametrize(
    "text",
    [
        "0:15 load it\n1:02:03 sample it\n",
        "[00:15] load it\n[01:02:03] sample it\n",
        "(0:15) load it\n(1:02:03) sample it\n",
        "0:15\nload it\n1:02:03\nsample it\n",
        "0:15\n15 seconds\nload it\n1:02:03\n1 hour, 2 minutes, 3 seconds\nsample it\n",
        "00:00:15\tload it\n01:02:03\tsample it\n",
        "[00:15.250]load it\n[1:02:03.99]sample it\n",
        "00:15 - load it\n01:02:03 – sample it\n",
        "0:15\n\nload\nit\n\n\n1:02:03\n\nsample it",
    ],
)
def test_stamps_are_read_as_people_copy_them(text: str) -> None:
    assert read(text) == (Segment(15.0, None, "load it"), Segment(3723.0, None, "sample it"))


def test_words_before_the_first_stamp_are_kept() -> None:
    assert read("Transcript\n0:05 hi\n0:09 there\n")[0] == Segment(0.0, None, "Transcript")


def test_a_length_that_is_said_is_no_label() -> None:
    assert read("0:05\n7 seconds\n0:09\nlater\n")[0].text == "7 seconds"


@pytest.mark.parametrize(
    "text",
    [
        "We met at the office.\n10:30 was the time.\nThen we left.\nAll was fine.\n",
        "The ratio is easy\n16:9 is wide\n4:3 is not\n",
        "Deploy at\n12:75 sharp\n9:99 is no time\n",
    ],
)
def test_prose_with_times_of_day_stays_without_times(text: str) -> None:
    transcript = parse(text.encode(), name="talk.txt")
    assert not transcript.timed
    assert transcript.text == text.strip()


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("0:10 a\n0:20 b\n\n0:05 c\n", 4, "sort the cues"),
        ("0:10 a\n49:00:00 b\n", 2, "48 hours"),
        ("?!\n…\n", 1, "no cue holds any words"),
        ("0:10\n0:20\n", 1, "no cue holds any words"),
    ],
)
def test_faulty_plain_text_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(TranscriptError, match=f"^talk.txt, line {line}: .*{problem}"):
        read(text)


def test_other_formats_in_a_text_file_are_recognised() -> None:
    assert parse(b"1\n00:00:01,000 --> 00:00:02,000\nhi\n", name="talk.txt").format == "srt"
    assert parse(b"[Music]\nhello", name="talk").text == "[Music]\nhello"
