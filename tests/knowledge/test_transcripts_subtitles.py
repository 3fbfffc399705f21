"""WebVTT, SubRip and SBV: what a well-made file means, however its tool writes it."""

import pytest

from knowledge.transcripts import Segment, Transcript, parse


def said(transcript: Transcript) -> list[tuple[float, float | None, str]]:
    return [(s.start_seconds, s.end_seconds, s.text) for s in transcript.segments]


def vtt(text: str) -> Transcript:
    return parse(text.encode(), name="talk.vtt")


def srt(text: str) -> Transcript:
    return parse(text.encode(), name="talk.srt")


TWO = [(1.0, 2.5, "one"), (3.0, 4.0, "two")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_line_end_and_byte_order_mark_reads_the_same(end: str, mark: str) -> None:
    text = f"{mark}WEBVTT\n\n00:01.000 --> 00:02.500\none\n\n00:03.000 --> 00:04.000\ntwo\n".replace("\n", end)
    assert said(vtt(text)) == TWO


def test_a_webvtt_file_keeps_only_what_is_said() -> None:
    transcript = vtt(
        "WEBVTT - a title\nKind: captions\nLanguage: pt-BR\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n\n"
        "NOTE\nover two\nlines\n\nSTYLE\n::cue { color: red }\n\nREGION\nid:fred width:40%\n\nNOTE one line\n\n"
        "intro\n00:00:01.000 --> 00:00:02.500 align:start position:0% line:84%\none\n\n"
        "NOTE between\n\n42\n01:00:03.000\t-->\t01:00:04.000\ntwo\n"
    )
    assert said(transcript) == [(1.0, 2.5, "one"), (3603.0, 3604.0, "two")]
    assert (transcript.format, transcript.language, transcript.timed) == ("vtt", "pt-BR", True)


def test_cues_may_follow_the_header_and_each_other_without_an_empty_line() -> None:
    assert said(vtt("WEBVTT\n00:01.000 --> 00:02.500\none\n00:03.000 --> 00:04.000\ntwo")) == TWO
    assert said(srt("1\n00:00:01,000 --> 00:00:02,500\none\n2\n00:00:03,000 --> 00:00:04,000\ntwo")) == TWO


def test_a_number_that_is_said_stays_where_cues_have_no_numbers() -> None:
    text = "00:00:01,000 --> 00:00:02,500\nhow many?\n42\n00:00:03,000 --> 00:00:04,000\ntwo\n"
    assert [s.text for s in srt(text).segments] == ["how many? 42", "two"]


def test_a_cue_may_say_just_a_number() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,500\n2024\n\n2\n00:00:03,000 --> 00:00:04,000\n7\n"
    assert [s.text for s in srt(text).segments] == ["2024", "7"]


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("plain", "plain"),
        ("<b>bold</b> <i.loud>it</i> <c.colorE5E5E5>c</c> <u>u</u>", "bold it c u"),
        ("When <00:01.500>the <00:00:02.000>moon", "When the moon"),
        ("<ruby>漢<rt>kan</rt></ruby> <lang en>hi</lang>", "漢kan hi"),
        ("a &amp; b &lt;div&gt; &#39;c&#39;&nbsp;&lrm;d", "a & b <div> 'c' \u200ed"),
        ("two\nrows", "two rows"),
        ("one<br>two<BR />three", "one two three"),
        ("A --> B in prose", "A --> B in prose"),
        ("  spaced \t out  ", "spaced out"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
    ],
)
def test_webvtt_markup_becomes_words(markup: str, words: str) -> None:
    text = f"WEBVTT\n\n00:00.000 --> 00:01.000\nfirst\n{markup}\n"
    assert [s.text for s in vtt(text).segments] == [f"first {words}"]


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("<i>soft</i> <font color='#fff'>x</font> {\\an8}top {b}y{/b}", "soft x top y"),
        ("if 3 < 5 and 7 > 2", "if 3 < 5 and 7 > 2"),
        ("write a <div> here", "write a <div> here"),
        ("set {cfg} to 7", "set {cfg} to 7"),
    ],
)
def test_subrip_loses_its_formatting_and_keeps_other_brackets(markup: str, words: str) -> None:
    assert [s.text for s in srt(f"1\n00:00:00,000 --> 00:00:01,000\n{markup}\n").segments] == [words]


def test_voices_become_speakers() -> None:
    transcript = vtt(
        "WEBVTT\n\n00:01.000 --> 00:02.000\n<v.first.loud Mary Ann>Hello &amp; welcome\n\n"
        "00:02.000 --> 00:04.000\n<v Bob>Hi</v> (laughs)\n<v Mary Ann>Start\n\n00:05.000 --> 00:06.000\n<v>who?\n"
    )
    assert transcript.segments == (
        Segment(1.0, 2.0, "Hello & welcome", "Mary Ann"),
        Segment(2.0, 4.0, "Hi", "Bob"),
        Segment(2.0, 4.0, "(laughs)"),
        Segment(2.0, 4.0, "Start", "Mary Ann"),
        Segment(5.0, 6.0, "who?"),
    )
    assert transcript.to_prompt().splitlines()[:2] == [
        "[0:00:01] Mary Ann: Hello & welcome",
        "[0:00:02] Bob: Hi",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,000 --> 00:00:02,500\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n",
        "00:00:01.000 --> 00:00:02.500\none\n\n00:00:03.000 --> 00:00:04.000\ntwo",
        "7\n0:00:01,0 --> 0:00:02,5\none\n\n3\n0:00:03 --> 0:00:04\ntwo\n",
        "\n\n1\n00:01,000 --> 00:02,500 X1:40 X2:600 Y1:20 Y2:50\none\n\n\n\n2\n00:03,000 --> 00:04,000\ntwo\n\n\n",
        "1\n00:00:01,000 --> 00:00:02,500\none\n   \n2\n00:00:03,000 --> 00:00:04,000\ntwo\n",
        "1\n00:00:01,000 --> 00:00:02,500\n\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n",
        "WEBVTT\n\n00:01.000 --> 00:02.500\none\n\n00:03.000 --> 00:04.000\ntwo\n",
        "0:00:01.000,0:00:02.500\none\n\n0:00:03.000,0:00:04.000\ntwo\n",
    ],
    ids=["usual", "no numbers", "odd numbers and short times", "coordinates", "padded", "late text", "vtt", "sbv"],
)
def test_subrip_is_read_as_its_tools_write_it(text: str) -> None:
    assert said(srt(text)) == TWO


def test_a_cue_without_text_or_duration_among_good_ones_is_passed_over_or_kept() -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\n\n00:02.000 --> 00:02.000\nflash\n\n00:03.000 --> 00:04.000\ntwo\n"
    assert said(vtt(text)) == [(2.0, 2.0, "flash"), (3.0, 4.0, "two")]


def test_slightly_overlapping_speakers_are_in_order() -> None:
    text = "WEBVTT\n\n00:01.200 --> 00:05.000\none\n\n00:01.000 --> 00:03.000\ntwo\n"
    assert [s.start_seconds for s in vtt(text).segments] == [1.2, 1.0]


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("talk.VTT", None, "vtt"),
        ("talk", None, "vtt"),
        ("talk.en.txt", None, "vtt"),
        ("talk.srt", None, "vtt"),
        ("talk.txt", "vtt", "vtt"),
    ],
)
def test_the_format_comes_from_caller_then_name_then_content(name: str, format: str | None, expected: str) -> None:
    data = b"WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n"
    assert parse(data, name=name, format=format).format == expected


def test_subrip_is_recognised_without_a_name() -> None:
    assert parse(b"1\n00:00:01,000 --> 00:00:02,000\nhi\n").format == "srt"


def test_a_transcript_comes_back_from_storage_as_it_was() -> None:
    transcript = vtt(
        "WEBVTT\nLanguage: en\n\n00:01.000 --> 00:02.500\n<v Ann>one\n\n01:02:03.000 --> 01:02:04.000\ntwo\n"
    )
    assert Transcript.from_json(transcript.to_json()) == transcript
    assert transcript.duration_seconds == transcript.end_seconds == 3724.0
    assert transcript.text == "one\ntwo"
    assert transcript.characters == 7
    assert transcript.to_prompt() == "[0:00:01] Ann: one\n[1:02:03] two"
