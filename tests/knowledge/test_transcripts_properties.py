"""For any input: a transcript or one clear error; and what we write ourselves reads back the same."""

import json
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from knowledge.transcripts import FORMATS, MAX_SECONDS, Transcript, parse
from ziggie.errors import InvalidInput

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from(
    [
        "WEBVTT", "\n", "\n\n", "\r\n", " ", "1", "00:00:01.000 --> 00:00:02.000", "0:00:03,5 --> 0:00:02",
        "0:00:01.000,0:00:02.000", "-->", "NOTE", "STYLE", "<v Ann>", "</v>", "<00:00:01.000>", "<c>", "&amp;",
        "&#0;", "{\\an8}", "word", "大家好", "🎨", "[0:15]", "0:15 hi", "[", "]", "{", "}", '"events":', '"segs":',
        '"utf8":', '"a"', "null", '"text":', '"start":', "1e400", "-1", ",", "<?xml ?>", "<transcript>", "</text>",
        "<text start='1' dur='2'>", "</transcript>", "<p t='1'>", "\x00", "\x07", "\ufeff", "\u2028", "\x85",
    ]
)  # fmt: skip


def check_outcome(data: bytes, format: str | None) -> None:
    """Parses, and checks what every transcript and every refusal promises."""
    problem = ""
    try:
        transcript = parse(data, format=format, name="talk")
    except InvalidInput as error:
        problem = str(error)
    if problem:
        assert re.match(r"talk, line [1-9][0-9]*: \S", problem)
        assert "\n" not in problem
        return
    assert transcript.segments
    assert any(character.isalnum() for character in transcript.text)
    for segment in transcript.segments:
        assert segment.text == " ".join(segment.text.split()) != ""
        assert 0 <= segment.start_seconds <= MAX_SECONDS
        assert segment.end_seconds is None or segment.start_seconds <= segment.end_seconds <= MAX_SECONDS
    stored = json.loads(json.dumps(transcript.to_json()))
    stored["segments"] = tuple(stored["segments"])
    assert Transcript.from_json(stored) == transcript
    assert "\\u0000" not in json.dumps(transcript.to_json())


@SETTINGS
@given(data=st.binary(max_size=300), format=st.sampled_from([None, *FORMATS]))
@example(data=b"\xef\xbb\xbf\xef\xbb\xbfa", format=None)
@example(data=b"\xff\xfe\x00\xd8", format=None)
def test_any_bytes_give_a_transcript_or_a_clear_error(data: bytes, format: str | None) -> None:
    check_outcome(data, format)


@SETTINGS
@given(pieces=st.lists(PIECES, max_size=25), format=st.sampled_from([None, *FORMATS]))
def test_any_mixture_of_the_formats_gives_a_transcript_or_a_clear_error(pieces: list[str], format: str | None) -> None:
    check_outcome("".join(pieces).encode(), format)


@SETTINGS
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["events", "segs", "utf8", "tStartMs", "dDurationMs", "snippets", "text", "start", "end"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_gives_a_transcript_or_a_clear_error(document: object) -> None:
    check_outcome(json.dumps(document).encode(), "json")


WORDS = st.lists(st.from_regex(r"[a-zé大]{1,8}", fullmatch=True), min_size=1, max_size=6).map(" ".join)
CUES = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 9000), WORDS), min_size=1, max_size=12)


def timeline(cues: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """(start, end, text) in milliseconds, in order, no row twice in a row."""
    at, result = 0, []
    for number, (gap, length, text) in enumerate(cues):
        at += gap + 200  # a gap on the screen, so that nothing scrolls
        result.append((at, at + length, f"{text} n{number}"))
        at += length
    return result


def clock(milliseconds: int, point: str) -> str:
    hours, rest = divmod(milliseconds, 3_600_000)
    return f"{hours:02}:{rest // 60_000:02}:{rest // 1000 % 60:02}{point}{rest % 1000:03}"


def written(cues: list[tuple[int, int, str]], format: str) -> str:
    match format:
        case "vtt":
            return "WEBVTT\n\n" + "\n".join(f"{clock(a, '.')} --> {clock(b, '.')}\n{text}\n" for a, b, text in cues)
        case "srt":
            blocks = [f"{n}\n{clock(a, ',')} --> {clock(b, ',')}\n{t}\n" for n, (a, b, t) in enumerate(cues, 1)]
            return "\n".join(blocks)
        case "sbv":
            return "\n".join(f"{clock(a, '.')},{clock(b, '.')}\n{text}\n" for a, b, text in cues)
        case "json3":
            events = [{"tStartMs": a, "dDurationMs": b - a, "segs": [{"utf8": text}]} for a, b, text in cues]
            return json.dumps({"events": events})
        case "xml":
            rows = "".join(f'<text start="{a / 1000:.3f}" dur="{(b - a) / 1000:.3f}">{t}</text>' for a, b, t in cues)
            return f"<transcript>{rows}</transcript>"
    return json.dumps([{"text": t, "start": a / 1000, "duration": (b - a) / 1000} for a, b, t in cues])


@pytest.mark.parametrize("format", ["vtt", "srt", "sbv", "json3", "json", "xml"])
@settings(max_examples=40, deadline=None)
@given(cues=CUES)
def test_what_is_written_in_a_format_reads_back_the_same(format: str, cues: list[tuple[int, int, str]]) -> None:
    expected = timeline(cues)
    transcript = parse(written(expected, format).encode(), name=f"talk.{format}")
    read = [(round(s.start_seconds * 1000), round((s.end_seconds or 0) * 1000), s.text) for s in transcript.segments]
    assert read == expected
    assert transcript.format == format
