"""What a transcript is, and how much of one is accepted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ziggie.errors import InvalidInput

# Twelve hours (YouTube's longest video) of automatic captions with a stamp on every word are about 15 MB.
MAX_BYTES = 20 * 1024 * 1024
# Twelve hours with two cues a second; automatic captions, the densest there are, have one.
MAX_CUES = 100_000
# No video that anybody transcribes is longer: a time beyond it is a typing or unit error.
MAX_SECONDS = 48 * 3600
# A cue is five lines as a rule (number, times, two rows, an empty one); some files are double-spaced.
MAX_LINES = 20 * MAX_CUES
# All words of a ten-hour talk written without a line break.
MAX_LINE_CHARACTERS = 1_000_000
MAX_SPEAKER_CHARACTERS = 100


class TranscriptError(InvalidInput):
    """A file that is no usable transcript. The text names the file, the line, and what to do."""

    @classmethod
    def at(cls, name: str, line: int, problem: str) -> Self:
        return cls(f"{name}, line {line}: {problem}", details=[{"file": name, "line": line, "problem": problem}])


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of speech. `end_seconds` is None where the file does not say when it ends."""

    start_seconds: float
    end_seconds: float | None
    text: str
    speaker: str = ""

    @property
    def spoken(self) -> str:
        """The text with its speaker, if one is known."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything that was said, in order. `timed` is False for text without times: every
    `start_seconds` is then 0.0 and means nothing. `format` is what the file really was (an .srt file can
    hold sbv); `language` is a BCP 47 tag if the file names one."""

    segments: tuple[Segment, ...]
    format: str
    language: str = ""
    timed: bool = True

    @property
    def end_seconds(self) -> float:
        """Where in the video the words end (the last known end or start); 0.0 without times."""
        return max((s.start_seconds if s.end_seconds is None else s.end_seconds for s in self.segments), default=0.0)

    @property
    def duration_seconds(self) -> float:
        """How much of the video the transcript covers, from the video's beginning."""
        return self.end_seconds

    @property
    def text(self) -> str:
        """The words alone, one segment a line."""
        return "\n".join(segment.text for segment in self.segments)

    @property
    def characters(self) -> int:
        return len(self.text)

    def to_prompt(self) -> str:
        """One line a segment, "[h:mm:ss] text"; without the stamp if nobody knows the times."""
        return "\n".join(self.prompt_line(segment) for segment in self.segments)

    def prompt_line(self, segment: Segment) -> str:
        return f"[{clock(segment.start_seconds)}] {segment.spoken}" if self.timed else segment.spoken

    def to_json(self) -> dict[str, Any]:
        """What a JSON column stores; from_json() gives the same transcript back."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The transcript that to_json() wrote. InvalidInput for anything else."""
        try:
            return cls(
                segments=tuple(Segment(**segment) for segment in stored["segments"]),
                format=stored["format"],
                language=stored["language"],
                timed=stored["timed"],
            )
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"this is not a stored transcript: {error}") from error


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, rounded down, so that a link never starts after the words."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
