"""Graphs of guidance, knobs, curves and automation."""

from .parts import CLIP, END, ENGINE, SOURCE, model, prompt, stream

GRAPHS = {
    "residual_guidance": (
        "## Guidance that costs almost nothing\n**mode** initialize decodes the negative once, at a generation's first "
        "step, and keeps it; self decodes none and plays on turbo models too. Here the scale falls over the music.",
        [
            {**model("tiny-base"), "fall": ("OstinatoCurveRamp", {"start": 9.0, "end": 3.0})},
            {
                **ENGINE,
                "prompt": prompt(),
                "guide": ("OstinatoGuidance", {"scale": ("fall", 0), "mode": "initialize", "rescale": 0.3}),
            },
            stream(guidance=("guide", 0), steps=20, seed=11),
            *END,
        ],
    ),
    "sde_keeps_the_source": (
        "## Fresh noise at every step\nThe sde solver renoises its prediction; where the knob **sde** falls to 0 it "
        "renoises the source instead, so the clip returns toward the end.",
        [
            {**model(clip=True), "ramp": ("OstinatoCurveRamp", {"start": 1.0, "end": 0.2})},
            {**ENGINE, **SOURCE, "knobs": ("OstinatoKnobs", {"sde": ("ramp", 0)})},
            {"prompt": prompt(source=("source", 0))},
            stream(source=("source", 0), knobs=("knobs", 0), solver="sde", denoise=0.8, count=2, depth=2, seed=5),
            *END,
        ],
    ),
    "prompt_crossfade": (
        "## From one prompt to another while it plays\nBoth prompts are encoded once. The automation moves the knob "
        "**blend** from the first, 0, to the second, 1, over the run, for all generations in flight.",
        [
            {**model(), "ramp": ("OstinatoCurveRamp", {})},
            {
                **ENGINE,
                "one": prompt(tags="warm ambient piano, soft pads, slow"),
                "two": prompt(tags="deep house, synth bass, organ, drums, groovy", bpm=124),
            },
            {
                "prompt": ("OstinatoCombineConditions", {"first": ("one", 0), "second": ("two", 0)}),
                "blend": ("OstinatoAutomation", {"knob": "blend", "curve": ("ramp", 0), "over": "run"}),
            },
            stream(tracks=("blend", 0), count=8, seed=21),
            *END,
        ],
    ),
    "mask_and_target": (
        "## Keep some frames, pull the others\nThe square curve keeps every other second of the clip (0) and makes the "
        "rest anew (1), less strictly toward the last step; a target pulls the late steps toward the clip.",
        [
            {**model(clip=True), "square": ("OstinatoCurveLfo", {"shape": "square", "rate": 0.5})},
            {
                **ENGINE,
                **SOURCE,
                "mask": ("OstinatoMask", {"mask": ("square", 0), "strength_last": 0.5}),
                "pull": ("OstinatoKnobs", {"target_strength": 0.3}),
            },
            {
                "prompt": prompt(source=("source", 0)),
                "target": ("OstinatoTarget", {"latent": ("source", 0), "start": 0.5, "shape": ("mask", 0)}),
                "preview": ("OstinatoCurvePreview", {"curve": ("square", 0), "audio": ("clip", 0)}),
            },
            stream(source=("source", 0), shape=("target", 0), knobs=("pull", 0), count=2, depth=2, seed=9),
            *END,
        ],
    ),
    "gain_and_dcw": (
        "## Colour\n**Channel Gain** turns some latent channels up in what the decoder sees; **DCW** corrects the "
        "bands of each step. At gain 1, and without DCW, both cost nothing.",
        [
            {**model(), "swell": ("OstinatoCurveLfo", {"rate": 0.25, "low": 0.8, "high": 1.4})},
            {**ENGINE, "prompt": prompt(), "gain": ("OstinatoChannelGain", {"gain": ("swell", 0), "last": 15})},
            {"dcw": ("OstinatoDcw", {"knobs": ("gain", 0)})},
            stream(knobs=("dcw", 0), seed=13),
            *END,
        ],
    ),
    "curves_from_a_clip": (
        "## Curves that listen\nThe loudness of the clip sets the pull of each step, pulses on its beats add noise. "
        "**Curve Preview** draws them over the waveform.",
        [
            {"clip": ("LoadAudio", {"audio": CLIP}), **model()},
            {
                "loud": ("OstinatoCurveEnvelope", {"audio": ("clip", 0), "low": 0.9, "high": 1.05}),
                "beats": ("OstinatoCurveBeats", {"audio": ("clip", 0), "bpm": 120.0, "low": 0.0, "high": 0.2}),
                **SOURCE,
            },
            {
                **ENGINE,
                "prompt": prompt(source=("source", 0)),
                "knobs": ("OstinatoKnobs", {"velocity_scale": ("loud", 0), "ode_noise": ("beats", 0)}),
                "show_loud": ("OstinatoCurvePreview", {"curve": ("loud", 0), "audio": ("clip", 0)}),
                "show_beats": ("OstinatoCurvePreview", {"curve": ("beats", 0), "audio": ("clip", 0)}),
            },
            stream(source=("source", 0), knobs=("knobs", 0), denoise=0.8, count=2, depth=2, seed=4),
            *END,
        ],
    ),
    "automation_and_take": (
        "## Turn knobs by themselves, and play it again\nOne automation sways the velocity, another takes the ring "
        "from 4 generations in flight to 8 in the middle of the run, and to 2. **Save Take** keeps it all: `ostinato "
        "replay` makes the same music from the file, bit by bit.",
        [
            {
                **model(),
                "sway": ("OstinatoCurveLfo", {"rate": 2.0, "unit": "cycles", "low": 0.9, "high": 1.1}),
                "steps": (
                    "OstinatoCurvePoints",
                    {
                        "points": {"points": [[0, 0.333], [0.5, 1], [1, 0]], "interpolation": "linear"},
                        "low": 2.0,
                        "high": 8.0,
                    },
                ),
            },
            {
                **ENGINE,
                "prompt": prompt(),
                "velocity": (
                    "OstinatoAutomation",
                    {"knob": "velocity_scale", "curve": ("sway", 0), "over": "run"},
                ),
            },
            {
                "depth": (
                    "OstinatoAutomation",
                    {"knob": "depth", "curve": ("steps", 0), "over": "run", "tracks": ("velocity", 0)},
                )
            },
            stream(tracks=("depth", 0), count=24, seed=31),
            [*END][0] | {"take": ("OstinatoSaveTake", {"take": ("stream", 2)})},
            END[1],
        ],
    ),
}
