"""Graphs of music from a prompt, and from a clip."""

from .native import CHECKPOINT
from .parts import CLIP, END

GRAPHS = {
    "text_to_music": (
        "## Text to music\nA ring of 4 generations, advanced together by one decoder pass a tick.\n\n"
        "`tiny` is built in and plays jazz, rock, lofi, house, chiptune, funk, ambient and classical on fifteen "
        f"instruments. For more set **model** to `{CHECKPOINT}`. ACE-Step plans its songs with a language model, which "
        "does not run here: connect its plan of audio codes to **codes** of Encode Prompt.",
        [
            {"model": ("OstinatoLoadModel", {"model": "tiny"})},
            {
                "engine": ("OstinatoEngine", {"model": ("model", 0)}),
                "prompt": ("OstinatoEncodePrompt", {"model": ("model", 0), "bpm": 90, "key": "A minor"}),
            },
            {
                "stream": (
                    "OstinatoStreamDenoise",
                    {"engine": ("engine", 0), "condition": ("prompt", 0), "seed": 7, "depth": 4, "count": 4},
                )
            },
            *END,
        ],
    ),
    "cover": (
        "## Cover\nStarts from a clip's sound and plays it in another style; choose one of your own.\n\n"
        "The **task** cover keeps chords and beat; a model needs an audio tokenizer for it, which `tiny` has. "
        "**denoise** says how far the sound goes away from the clip; at 1 only the structure stays.",
        [
            {"model": ("OstinatoLoadModel", {"model": "tiny"}), "clip": ("LoadAudio", {"audio": CLIP})},
            {
                "engine": ("OstinatoEngine", {"model": ("model", 0)}),
                "source": ("OstinatoSourceAudio", {"model": ("model", 0), "audio": ("clip", 0)}),
            },
            {
                "prompt": (
                    "OstinatoEncodePrompt",
                    {
                        "model": ("model", 0),
                        "source": ("source", 0),
                        "tags": "8-bit chiptune, square lead, synth bass",
                        "task": "cover",
                    },
                )
            },
            {
                "stream": (
                    "OstinatoStreamDenoise",
                    {
                        "engine": ("engine", 0),
                        "condition": ("prompt", 0),
                        "source": ("source", 0),
                        "count": 2,
                        "depth": 2,
                        "denoise": 0.7,
                        "seed": 3,
                    },
                )
            },
            *END,
        ],
    ),
    "base_with_guidance": (
        "## Base model with guidance\nBase and SFT models need guidance and more steps (about 50 for music). "
        "Every slot then has a positive and a negative row; **Engine** shows the largest depth that runs in one pass.",
        [
            {"model": ("OstinatoLoadModel", {"model": "tiny-base"}), "guide": ("OstinatoGuidance", {"scale": 3.0})},
            {
                "engine": ("OstinatoEngine", {"model": ("model", 0)}),
                "prompt": (
                    "OstinatoEncodePrompt",
                    {
                        "model": ("model", 0),
                        "tags": "funk, electric piano, bass guitar, saxophone, drums, groovy",
                        "bpm": 108,
                        "key": "D minor",
                        "time_signature": "4",
                    },
                ),
            },
            {
                "stream": (
                    "OstinatoStreamDenoise",
                    {
                        "engine": ("engine", 0),
                        "condition": ("prompt", 0),
                        "guidance": ("guide", 0),
                        "count": 4,
                        "depth": 4,
                        "steps": 20,
                        "seed": 11,
                    },
                )
            },
            *END,
        ],
    ),
}
