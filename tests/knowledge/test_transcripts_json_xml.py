"""JSON and XML captions: YouTube's own, youtube-transcript-api's, and plain lists."""

import json
from typing import Any

import pytest

from knowledge.transcripts import Segment, TranscriptError, parse

ONE = (Segment(0.0, 1.54, "Hey there"), Segment(1.54, 5.7, "this is it"))
ITEMS = [
    {"text": "Hey there", "start": 0.0, "duration": 1.54},
    {"text": "this is\nit", "start": 1.54, "duration": 4.16},
]


def read(document: Any, name: str = "talk.json") -> tuple[Segment, ...]:
    return parse(json.dumps(document).encode(), name=name).segments


@pytest.mark.parametrize(
    "document",
    [
        ITEMS,
        {"snippets": ITEMS},
        {"video_id": "x", "language": "English", "language_code": "en", "is_generated": False, "snippets": ITEMS},
        {"segments": [{"text": i["text"], "start": i["start"], "end": i["start"] + i["duration"]} for i in ITEMS]},
        [{"text": i["text"], "start": str(i["start"]), "dur": str(i["duration"])} for i in ITEMS],
        {"events": [{"dDurationMs": 1540, "segs": [{"utf8": "Hey"}, {"utf8": " there"}]},
                    {"tStartMs": 1540, "dDurationMs": 4160, "segs": [{"utf8": "this is\nit"}]}]},
    ],
    ids=["list", "snippets", "fetched transcript", "start and end", "numbers as strings", "json3"],
)  # fmt: skip
def test_every_known_shape_reads_the_same(document: Any) -> None:
    assert read(document) == ONE
    assert read(document, "no ending") == ONE


def test_language_and_speaker_are_kept_and_empty_items_are_not() -> None:
    items = [
        {"text": " ", "start": 0, "duration": 1},
        {"text": "Servus", "start": 1, "speaker": "Ann", "duration": None},
    ]
    document = {"language_code": "de-AT", "snippets": items}
    transcript = parse(json.dumps(document).encode(), format="json")
    assert transcript.segments == (Segment(1.0, None, "Servus", "Ann"),)
    assert (transcript.language, transcript.format) == ("de-AT", "json")


def test_json3_skips_windows_and_line_ends_and_keeps_what_is_appended() -> None:
    events = [
        {"tStartMs": 0, "dDurationMs": 99000, "id": 1, "wpWinPosId": 1},
        {"tStartMs": 120, "dDurationMs": 2500, "segs": [{"utf8": "Hello "}, {"utf8": "world", "tOffsetMs": 300}]},
        {"tStartMs": 2600, "dDurationMs": 10, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 2610, "aAppend": 1, "segs": [{"utf8": "a < b &amp; c"}, {}]},
    ]
    transcript = parse(json.dumps({"wireMagic": "pb3", "events": events}).encode(), name="talk.en.json3")
    assert transcript.segments == (Segment(0.12, 2.62, "Hello world"), Segment(2.61, None, "a < b &amp; c"))
    assert transcript.format == "json3"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[\n {"text": "a",\n  "start": }\n]', 3, "column 12: invalid JSON"),
        ("[1, 2", 1, "column 6: invalid JSON"),
        ('[\n {"text": "a", "start": NaN}]', 2, "invalid JSON"),
        ('[{"text": "a", "start": 1e999}]', 1, "invalid JSON"),
        ("[" * 100_000, 1, "invalid JSON"),
        ('{"a":' * 100_000, 1, "invalid JSON"),
        ('[{"text": "\\ud800", "start": 1}]', 1, "invalid JSON"),
        ("3", 1, "a list is expected here, not a number"),
        ('{\n"title": "x"}', 1, "no transcript in this JSON object"),
        ('{\n"events": {"a": 1}}', 2, "events: a list is expected here, not an object"),
        ('{"events": []}', 1, "no cues"),
        ('{"events": [\n{"segs": [{"utf8": "a"}]},\n{"segs": "x"}]}', 3, "events[1].segs: a list"),
        ('{"events": [\n{"segs": [{"utf8": "a"},\n\n{"utf8": 7}]}]}', 4, "events[0].segs[1].utf8: "),
        ('{"events": [{"tStartMs": -5, "segs": [{"utf8": "a"}]}]}', 1, "events[0].tStartMs: a time of zero or more"),
        ('[\n{"text": "a", "start": 1},\n"b"]', 3, "[1]: an object is expected here, not a text"),
        ('[\n{"text": "a"}]', 2, '[0]: "start" is missing'),
        ('[\n{"start": 1}]', 2, '[0]: "text" must be a text, not nothing'),
        ('[{"text": "a", "start": true}]', 1, "[0].start: a time of zero or more is expected here, not True"),
        ('[{"text": "a", "start": "soon"}]', 1, "[0].start: a time"),
        ('[{"text": "a", "start": null}]', 1, "[0].start: a start in seconds is expected"),
        ('[{"text": "a", "start": 5, "end": 4}]', 1, "[0]: the cue ends at 4.000 s, before its start at 5.000 s"),
        ('{"snippets": [\n{"text": "a", "start": 9},\n{"text": "b", "start": 3}]}', 3, "snippets[1]: the cue starts"),
        ('[{"text": "a", "start": 172801}]', 1, "[0]: a time of 172,801 s, the limit is 48 hours"),
        ('[\n{"text": "a", "start": 1, "duration": 0}]', 2, "[0]: every cue ends at the second it starts"),
        ('[{"text": "♪", "start": 1, "duration": 1}]', 1, "[0]: no cue holds any words"),
    ],
)  # fmt: skip
def test_a_faulty_json_transcript_is_refused_with_line_and_path(text: str, line: int, problem: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(text.encode(), name="talk.json")
    assert str(caught.value).startswith(f"talk.json, line {line}: ")
    assert problem in str(caught.value)


SRV1 = """<?xml version="1.0" encoding="utf-8" ?>
<transcript>
<text start="0" dur="1.54">Hey &amp;#39;there&amp;#39;</text>
<text start="1.54">&lt;i&gt;this&lt;/i&gt; &amp;amp; that</text>
</transcript>"""


@pytest.mark.parametrize("name", ["talk.xml", "talk.srv1", "talk.srt", "talk.txt", "talk"])
def test_youtubes_xml_is_recognised_under_any_name(name: str) -> None:
    transcript = parse(SRV1.encode(), name=name)
    assert transcript.segments == (Segment(0.0, 1.54, "Hey 'there'"), Segment(1.54, None, "this & that"))
    assert transcript.format == "xml"


def test_srv2_counts_milliseconds() -> None:
    text = (
        '<timedtext lang="fr"><text t="500" d="1500">un</text><text t="2000" d="10">deux<br/>trois</text></timedtext>'
    )
    transcript = parse(text.encode(), format="xml")
    assert transcript.segments == (Segment(0.5, 2.0, "un"), Segment(2.0, 2.01, "deux trois"))
    assert transcript.language == "fr"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("<transcript>\n<text start='0'>a</txt></transcript>", 2, "invalid XML (mismatched tag)"),
        ("<transcript>\n<text dur='1'>a</text></transcript>", 2, "<text> has no start time"),
        ("<transcript>\n\n<text start='-1'>a</text></transcript>", 3, 'cannot read the time start="-1"'),
        ("<transcript><text start='nan'>a</text></transcript>", 1, 'start="nan"'),
        ("<transcript></transcript>", 1, "no cues"),
        ("<timedtext format='3'><body><p t='0' d='5'> </p></body></timedtext>", 1, "no cues"),
        ("<?xml version='1.0'?>\n<tt><body/></tt>", 2, "XML of <tt> is no transcript"),
        ('<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><transcript/>', 2, "document"),
        ('<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd"><transcript/>', 1, "document type"),
        ("<transcript><text start='3'>a</text>\n<text start='1'>b</text></transcript>", 2, "sort the cues"),
    ],
)  # fmt: skip
def test_a_faulty_xml_transcript_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse(text.encode(), name="talk.xml")
    assert str(caught.value).startswith(f"talk.xml, line {line}: ")
    assert problem in str(caught.value)
