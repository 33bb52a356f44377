"""A user's description of the music. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, check_range
from ..spec import ACE_STEP

ANY = "any"
TASKS = ("text2music", "cover", "repaint")


@dataclass(frozen=True)
class Prompt:
    """A user's description of the music.

    Attributes:
        tags: style, instruments, mood.
        lyrics: words with section marks such as [verse]; empty or [instrumental] for none.
        seconds: length; with a source, the source's length is used instead.
        bpm: beats per minute, 0 to leave it open.
        key: "C major"; `ANY` or empty leaves it open, as in the next two.
        time_signature: beats a bar, "4".
        language: of the lyrics, as a code ("en").
        task: text2music, cover (keep the source's structure) or repaint (keep the source outside a window).
        repaint_start, repaint_end: the window in seconds; an end of 0 is the source's end.
    """

    tags: str
    lyrics: str = ""
    seconds: float = 10.0
    bpm: int = 0
    key: str = ANY
    time_signature: str = ANY
    language: str = "en"
    task: str = "text2music"
    repaint_start: float = 0.0
    repaint_end: float = 0.0

    def said(self, name: str) -> str | None:
        """Return what is said of the key, time signature or language; None where it is left open."""
        value: str = getattr(self, name)
        return None if value in ("", ANY) else value

    def __post_init__(self) -> None:
        if not self.tags.strip():
            raise InputError("the prompt has no tags", "at least one word is needed", "say what the music is like")
        if self.task not in TASKS:
            raise InputError(f"the task is {self.task!r}", f"allowed are {', '.join(TASKS)}", "choose one of them")
        check_range("bpm", self.bpm, 0, 1000, "0 leaves the tempo open")
        most = ACE_STEP.max_seconds
        check_range("repaint start", self.repaint_start, 0.0, most, "it is in seconds from the source's start")
        check_range("repaint end", self.repaint_end, 0.0, most, "0 is the source's end")
        if self.repaint_end and self.repaint_start >= self.repaint_end:
            raise InputError(
                f"the repaint window runs from {self.repaint_start:g} to {self.repaint_end:g} s",
                "it must end after it starts",
                "swap or widen them",
            )
        ACE_STEP.frames_of(self.seconds)
