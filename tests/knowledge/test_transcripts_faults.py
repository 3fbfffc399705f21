"""A file that is no transcript gives one error that names file, line and what to do."""

import time
from collections.abc import Callable

import pytest

from knowledge.transcripts import MAX_BYTES, MAX_CUES, Transcript, TranscriptError, parse
from ziggie.errors import InvalidInput, TooLarge, error_body

CUE = "00:00:01.000 --> 00:00:02.000"


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"),
    [
        ("talk.vtt", "", 1, "the file is empty"),
        ("talk.vtt", " \n\t\r\n", 1, "the file is empty"),
        ("talk.vtt", "\ufeff", 1, "the file is empty"),
        ("talk.vtt", "WEBVTT", 1, "no cues"),
        ("talk.vtt", "WEBVTT\n\nNOTE nothing\n", 1, "no cues"),
        ("talk.vtt", f"{CUE}\nhi\n", 1, "the header is missing"),
        ("talk.vtt", f"\n\n1\n{CUE}\nhi\n", 3, "the header is missing"),
        ("talk.vtt", "WEBVTTX\n\n", 1, "the header is missing"),
        ("talk.vtt", "lorem ipsum", 1, "the header is missing"),
        ("talk.srt", "lorem ipsum", 1, "text without times"),
        ("talk.sbv", "lorem ipsum", 1, "text without times"),
        ("talk.srt", "1\n", 1, "text without times"),
        ("talk.vtt", f"WEBVTT\n\n{CUE}\nhi\n\nlost words\n", 6, "text without times"),
        ("talk.srt", f"1\n{CUE}\nhi\n\n2\nlost words\n", 5, "text without times"),
        ("talk.srt", f"1\n{CUE}\nhi\n\nlost words\n{CUE}\nthere\n", 5, "text directly above"),
        ("talk.vtt", "WEBVTT\n\n00:00:01.000 --> 00:00:0x.000\nhi\n", 3, "cannot read the times"),
        ("talk.vtt", "WEBVTT\n\nid\n00:00:01.000 --> soon\nhi\n", 4, "cannot read the times"),
        ("talk.vtt", "WEBVTT\n\n00:61:00.000 --> 00:62:00.000\nhi\n", 3, "cannot read the times"),
        ("talk.srt", f"1\n{CUE}\nhi\n-00:00:03,000 --> 00:00:04,000\nthere\n", 4, "cannot read the times"),
        ("talk.srt", "1\n-00:00:03,000 --> 00:00:04,000\nthere\n", 2, "cannot read the times"),
        ("talk.vtt", "WEBVTT\n\n00:00:05.000 --> 00:00:04.000\nhi\n", 3, "before its start"),
        ("talk.vtt", "WEBVTT\n\n00:00:01.000 --> 00:00:01.000\nhi\n", 3, "every cue ends at the second it starts"),
        (
            "talk.srt",
            "1\n00:00:00,000 --> 00:00:00,000\na\n\n2\n00:00:00,000 --> 00:00:00,000\nb\n",
            2,
            "every cue ends",
        ),
        ("talk.vtt", f"WEBVTT\n\n00:05.000 --> 00:06.000\na\n\n{CUE}\nb\n", 6, "sort the cues"),
        ("talk.vtt", "WEBVTT\n\n49:00:00.000 --> 49:00:01.000\nhi\n", 3, "the limit is 48 hours"),
        ("talk.vtt", f"WEBVTT\n\n{CUE}\n\n{CUE}\n<i></i>\n", 3, "no cue holds any words"),
        ("talk.vtt", f"WEBVTT\n\n{CUE}\n♪♪\n", 3, "no cue holds any words"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_faulty_file_is_refused_with_its_line(name: str, text: str, line: int, problem: str, end: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(text.replace("\n", end).encode(), name=name)
    assert str(caught.value).startswith(f"{name}, line {line}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_carries_file_and_line_for_programs() -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(b"WEBVTT", name="talk.vtt")
    body = error_body(caught.value)["error"]
    assert (body["code"], caught.value.http_status, caught.value.exit_code) == ("invalid_input", 400, 2)
    assert (body["details"][0]["file"], body["details"][0]["line"]) == ("talk.vtt", 1)


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TranscriptError, match=r'^talk, line 1: unknown transcript format "docx": use one of vtt, srt,'):
        parse(b"hi", format="docx", name="talk")


def test_a_hostile_name_cannot_forge_lines_of_an_error() -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(b"", name="a\nERROR everything is lost\x1b[31m" + "x" * 1000 + ".vtt")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("stored", [{}, {"segments": [{"x": 1}], "format": "vtt", "language": "", "timed": True}])
def test_what_is_no_stored_transcript_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="not a stored transcript"):
        Transcript.from_json(stored)


# --- size --------------------------------------------------------------------------------------


def test_fifty_megabytes_are_refused_before_anything_is_read() -> None:
    data = b"\xff" * (50 * 1024 * 1024)
    started = time.thread_time()
    with pytest.raises(TooLarge, match=r"^talk.vtt, line 1: the file is 50.0 MB, the limit for a transcript is 20 MB"):
        parse(data, name="talk.vtt")
    assert time.thread_time() - started < 10


def test_too_many_cues_are_refused() -> None:
    cue = "00:00:01.000 --> 00:00:02.000\nhi\n\n"
    with pytest.raises(TooLarge, match=f"^talk.vtt, line {3 * MAX_CUES + 3}: more than 100,000 cues"):
        parse(("WEBVTT\n\n" + cue * (MAX_CUES + 1)).encode(), name="talk.vtt")
    with pytest.raises(TooLarge, match="more than 100,000 cues"):
        parse(b"[" + b"1," * MAX_CUES + b"1]", name="talk.json")


def test_a_line_of_ten_megabytes_is_refused_with_its_number() -> None:
    with pytest.raises(TooLarge, match=r"^talk.txt, line 2: one line of 10,000,000 characters, the limit is 1,000,000"):
        parse(b"hi\n" + b"a" * 10_000_000, name="talk.txt")


def lines_of(piece: str) -> Callable[[], bytes]:
    return (piece * (900_000 // len(piece)) + "\n").encode


VTT_HEAD = b"WEBVTT\n\n00:01.000 --> 00:02.000\n"
SRT_HEAD = b"1\n00:00:01,000 --> 00:00:02,000\n"


@pytest.mark.parametrize(
    ("name", "head", "filling"),
    [
        ("a.vtt", VTT_HEAD, lines_of("<")),
        ("a.vtt", VTT_HEAD, lines_of("<v ")),
        ("a.vtt", VTT_HEAD, lambda: b"<v" + b" " * 900_000 + b"\n"),
        ("a.vtt", VTT_HEAD, lines_of("<00:00")),
        ("a.vtt", VTT_HEAD, lines_of("--> ")),
        ("a.vtt", VTT_HEAD, lines_of("&#9")),
        ("a.vtt", VTT_HEAD, lines_of("no ")),
        ("a.srt", SRT_HEAD, lines_of("{\\")),
        ("a.srt", SRT_HEAD, lines_of("1")),
        ("a.srt", SRT_HEAD, lines_of(" ")),
        ("a.srt", b"", lambda: b"\n1\n"),
        ("a.txt", b"", lines_of("1:")),
        ("a.txt", b"", lines_of("[")),
        ("a.txt", b"x", lambda: b"\n"),
        ("a.txt", b"", lambda: "é".encode("latin-1") * 900_000 + b"\n"),
        ("a.json", b"", lambda: b"["),
        ("a.json", b"", lambda: b"[],"),
        ("a.json", b'[{"a":"', lines_of("\\\\")),
        ("a.xml", b"<transcript>", lambda: b"<a>"),
        ("a.xml", b"<transcript ", lambda: b"".join(b'a%d="1" ' % n for n in range(400_000))),
        ("a.xml", b"<transcript><text start='0'>", lines_of("&lt;")),
    ],
)
def test_five_hostile_megabytes_are_done_in_linear_time(name: str, head: bytes, filling: Callable[[], bytes]) -> None:
    """Quadratic work on these would take many minutes, so the bound is far from what a slow machine needs."""
    piece = filling()
    data = head + piece * ((MAX_BYTES // 4 - len(head)) // len(piece))
    started = time.thread_time()
    problem = ""
    try:
        parse(data, name=name)
    except InvalidInput as error:
        problem = str(error)
    assert time.thread_time() - started < 20
    assert not problem or problem.startswith(f"{name}, line ")
