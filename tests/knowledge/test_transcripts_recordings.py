"""Captions that real tools wrote, and broken ones that another project collected."""

from pathlib import Path

import pytest

from knowledge.transcripts import TranscriptError, parse

SAMPLE = Path(__file__).parents[2] / "knowledge" / "samples" / "talk.vtt"

# file: number of cues, end of the last one
COURSE = {
    "00_welcome-to-the-hugging-face-course.en": (103, 266.733),
    "00_welcome-to-the-hugging-face-course.fr": (39, 268.68),
    "00_welcome-to-the-hugging-face-course.zh-CN": (103, 266.733),
    "03_what-is-transfer-learning.fr": (44, 239.64),  # SBV under the name of SubRip
    "04_the-transformer-architecture.fr": (28, 164.08),
    "07_transformer-models-encoder-decoders.zh-CN": (142, 404.696),
}


def test_the_bundled_sample_is_a_talk_of_seven_minutes() -> None:
    transcript = parse(SAMPLE.read_bytes(), name=SAMPLE.name)
    assert 360 < transcript.duration_seconds < 600
    assert (transcript.format, transcript.language) == ("vtt", "en")
    for word in ("ComfyUI", "KSampler", "ControlNet", "LoRA", "CFG"):
        assert word in transcript.text


@pytest.mark.parametrize("name", COURSE)
def test_course_captions_have_the_right_cues_and_times(shared: Path, name: str) -> None:
    path = shared / "transcripts" / "hf-course" / f"{name}.srt"
    transcript = parse(path.read_bytes(), name=path.name)
    assert (len(transcript.segments), transcript.duration_seconds) == COURSE[name]


def test_every_course_caption_file_is_read_whole(shared: Path) -> None:
    paths = sorted((shared / "transcripts" / "hf-course").glob("*.srt"))
    assert len(paths) == 30
    for path in paths:
        cues = path.read_text(encoding="utf-8-sig").count(" --> ")
        transcript = parse(path.read_bytes(), name=path.name)
        assert len(transcript.segments) == (cues or 44), path.name
        assert all(s.end_seconds is not None and s.end_seconds > s.start_seconds for s in transcript.segments)


@pytest.mark.parametrize(("call", "cues"), [("acdc-2026-02-05_174", 348), ("acdc-2026-02-19_175", 139)])
@pytest.mark.parametrize("version", ["transcript", "transcript_corrected"])
def test_meeting_captions_are_read_whole(shared: Path, call: str, cues: int, version: str) -> None:
    path = shared / "transcripts" / "ethereum-calls" / call / f"{version}.vtt"
    assert len(parse(path.read_bytes(), name=path.name).segments) == cues


def test_a_meeting_chat_has_its_times(shared: Path) -> None:
    path = shared / "transcripts" / "ethereum-calls" / "acdc-2026-02-05_174" / "chat.txt"
    first = parse(path.read_bytes(), name=path.name).segments[0]
    assert (first.start_seconds, first.text) == (826.0, "Potuz: gm")


def test_a_recorded_youtube_answer_is_read(shared: Path) -> None:
    path = shared / "transcripts" / "player" / "transcript.xml"
    transcript = parse(path.read_bytes(), name=path.name)
    assert [(s.start_seconds, s.end_seconds, s.text) for s in transcript.segments] == [
        (0.0, 1.54, "Hey, this is just a test"),
        (1.54, 5.7, "this is not the original transcript"),
        (5.7, 8.939, "just something shorter, I made up for testing"),
    ]


@pytest.mark.parametrize("name", ["youtube_consent_page.html", "youtube_too_many_requests.html"])
def test_a_page_that_youtube_sends_instead_is_no_transcript(shared: Path, name: str) -> None:
    data = (shared / "transcripts" / "player" / name).read_bytes()
    with pytest.raises(TranscriptError, match=r"^talk.vtt, line 1: this is a web page"):
        parse(data, name="talk.vtt")


# What each file of webvtt-py's collection must give: a number of segments, or line and problem.
COLLECTION: dict[str, int | tuple[int, str]] = {
    "captions_with_bom.vtt": 4,
    "comments.vtt": 3,
    "cue_tags.vtt": 3,
    "empty.vtt": (1, "the file is empty"),
    "invalid.vtt": (1, "the header is missing"),
    "invalid_format.sbv": (1, "text without times"),
    "invalid_format1.srt": (1, "text without times"),
    "invalid_format2.srt": (1, "text without times"),
    "invalid_format3.srt": (1, "text without times"),
    "invalid_format4.srt": (1, "text directly above a cue's times"),
    "invalid_timeframe.sbv": (7, "text without times"),
    "invalid_timeframe.srt": 5,  # one time has a point for its comma
    "invalid_timeframe.vtt": (6, "cannot read the times"),
    "invalid_timeframe_in_cue_text.vtt": 3,  # the same times twice: the first cue of them is empty
    "metadata_headers.vtt": 2,
    "metadata_headers_multiline.vtt": 2,
    "missing_caption_text.sbv": (12, "before its start"),
    "missing_caption_text.srt": 4,
    "missing_caption_text.vtt": 4,
    "missing_timeframe.sbv": (4, "text without times"),
    "missing_timeframe.srt": (5, "text without times"),
    "missing_timeframe.vtt": (6, "text without times"),
    "no_captions.vtt": (1, "no cues"),
    "one_caption.srt": 1,
    "one_caption.vtt": 1,
    "sample.sbv": (14, "before its start"),
    "sample.srt": 5,
    "sample.vtt": 16,
    "styles.vtt": 1,
    "two_captions.sbv": 2,
    "using_identifiers.vtt": 6,
    "youtube_dl.vtt": 3,
}


def test_the_collection_of_broken_files_is_known(shared: Path) -> None:
    assert {path.name for path in (shared / "transcripts" / "malformed" / "webvtt-py").iterdir()} == set(COLLECTION)


@pytest.mark.parametrize("name", COLLECTION)
def test_each_file_of_the_collection_is_read_or_refused_as_it_should_be(shared: Path, name: str) -> None:
    data = (shared / "transcripts" / "malformed" / "webvtt-py" / name).read_bytes()
    match COLLECTION[name]:
        case int(count):
            assert len(parse(data, name=name).segments) == count
        case (line, problem):
            with pytest.raises(TranscriptError) as caught:
                parse(data, name=name)
            assert str(caught.value).startswith(f"{name}, line {line}: ")
            assert str(problem) in str(caught.value)


def test_older_scrolling_captions_say_everything_once(shared: Path) -> None:
    path = shared / "transcripts" / "malformed" / "webvtt-py" / "youtube_dl.vtt"
    segments = parse(path.read_bytes(), name=path.name).segments
    assert [s.text for s in segments] == ["yeah", "what", "this will happen is I'm telling"]
