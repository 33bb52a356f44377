"""Words that a user would type to ask for a piece, and the prompt that the pipeline makes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .composer import Piece
from .styles import INSTRUMENTS, STYLES

TASKS = {  # as diffusers' ACE-Step pipeline words them
    "text2music": "Fill the audio semantic mask based on the given conditions:",
    "repaint": "Repaint the mask area based on the given conditions:",
    "cover": "Generate audio semantic tokens based on the given conditions:",
}
END = "<|endoftext|>"


@dataclass(frozen=True)
class Wording:
    """Tags as typed, and the fields of the prompt: None or "" where left open."""

    tags: str
    bpm: int | None
    key: str
    metre: str


def prompt_text(said: Wording, seconds: int, task: str = "text2music") -> str:
    """The prompt as `AceStepPipeline._format_prompt` writes it."""
    fields = (
        f"- bpm: {said.bpm or 'N/A'}\n- timesignature: {said.metre or 'N/A'}\n"
        f"- keyscale: {said.key or 'N/A'}\n- duration: {seconds} seconds\n"
    )
    return f"# Instruction\n{TASKS[task]}\n\n# Caption\n{said.tags}\n\n# Metas\n{fields}{END}\n"


def pace(bpm: int) -> list[str]:
    """Words for a tempo."""
    if bpm < 84:
        return ["slow"]
    if bpm < 112:
        return ["mid-tempo", "medium tempo", "moderate"]
    return ["fast", "upbeat"] if bpm < 140 else ["fast", "very fast"]


def players(p: Piece, r: random.Random) -> list[str]:
    """List who plays, in any order, at times not all of them."""
    out = [r.choice(INSTRUMENTS[n][1]) for n in dict.fromkeys(p.instruments)]
    if p.drums:
        out.append(r.choice(["drums", "drums", "drums", "beat"]))
    r.shuffle(out)
    if r.random() < 0.4:
        out = out[: r.choice([1, 2, 3])]
    if not p.only:
        return out
    word = p.only if p.only == "drums" else r.choice([p.only, *out])
    return [r.choice([f"{word} only", f"only {word}", f"solo {word}"])]


def phrase(words: list[str], names: list[str], r: random.Random) -> str:
    """ "fast dark house with piano, bass and drums"."""
    text = " ".join(words)
    if names:
        text += r.choice([" with ", ", ", " on "]) + ", ".join(names[:-1])
    if len(names) > 1:
        text += r.choice([" and ", ", "])
    return text + (names[-1] if names else "")


def caption(p: Piece, r: random.Random) -> Wording:
    """Word a piece, differently every time."""
    style = STYLES[p.style]
    name, names = r.choice(style.words), players(p, r)
    mood = r.sample(style.moods, r.choice([0, 1, 1, 2]))
    speed = [r.choice(pace(p.bpm))] if r.random() < 0.5 else []
    tempo = r.choice([f"{p.bpm} bpm", f"{p.bpm} bpm", f"{p.bpm}bpm", f"{p.bpm} BPM"])
    tempo_told, key_told = r.random() < 0.45, r.random() < 0.4
    three = p.metre == 3 and r.random() < 0.5
    if r.random() < 0.5:
        text, rest = phrase([*speed, *mood[:1], name], names, r), mood[1:]
    else:
        text, rest = name, [*speed, *mood, *names]
        r.shuffle(rest)
        if r.random() < 0.3 and rest:
            text, rest = rest[0], [name, *rest[1:]]
    if three:
        rest.append(r.choice(["3/4", "waltz time"]))
    if not p.drums and not p.only and r.random() < 0.4:
        rest.append("no drums")
    if tempo_told:
        rest.append(tempo)
    if key_told:
        rest.append(r.choice([p.key, p.key, f"in {p.key}"]))
    text = ", ".join([text, *rest])
    if r.random() < 0.3:
        text = text.lower() if r.random() < 0.7 else text.capitalize()
    fields = r.random() < 0.6
    return Wording(
        text,
        p.bpm if fields and r.random() < 0.85 else None,
        p.key if fields and r.random() < 0.85 else "",
        str(p.metre) if fields and r.random() < 0.7 else "",
    )
