"""The graphs of the example workflows: nodes in columns from left to right; an input is a widget's value, or a link
`("node", output)`.
"""

from ostinato.nodes.shared import headless_io as io

CLIP = "ostinato_source.flac"
CHECKPOINT = "ace_step_1.5_turbo_aio.safetensors"
MODELS = {  # where the editor fetches what a node names
    "CheckpointLoaderSimple": {
        "name": CHECKPOINT,
        "url": f"https://huggingface.co/Comfy-Org/ace_step_1.5_ComfyUI_files/resolve/main/checkpoints/{CHECKPOINT}",
        "directory": "checkpoints",
    }
}
ORDER = (  # by what to try first
    *("live", "text_to_music", "cover", "prompt_crossfade", "curves_from_a_clip", "mask_and_target"),
    *("automation_and_take", "gain_and_dcw", "sde_keeps_the_source", "base_with_guidance", "residual_guidance"),
    *("native_drop_in", "native_cover", "native_repaint", "build_engine", "load_engine", "layer_profile"),
)
SAME_TAKE = ("live", "build_engine", "load_engine", "layer_profile")  # what is compared plays the same seed again
TAGS = "warm ambient piano, soft pads, slow"


def core(node_id: str, inputs: list, outputs: list) -> io.Schema:
    """A core node, as far as a workflow's JSON needs to know it."""
    return io.Schema(node_id=node_id, inputs=inputs, outputs=[kind.Output(display_name=name) for kind, name in outputs])


# ComfyUI 0.20.1's own nodes that the native workflows use: sockets and widgets in its order.
CORE = [
    core(
        "CheckpointLoaderSimple",
        [io.Combo.Input("ckpt_name", options=[CHECKPOINT], default=CHECKPOINT)],
        [(io.Model, "MODEL"), (io.Clip, "CLIP"), (io.Vae, "VAE")],
    ),
    core(
        "TextEncodeAceStepAudio1.5",
        [
            io.Clip.Input("clip"),
            io.String.Input("tags", default=TAGS, multiline=True),
            io.String.Input("lyrics", default="[instrumental]", multiline=True),
            io.Int.Input("seed", default=0),
            io.Int.Input("bpm", default=90),
            io.Float.Input("duration", default=30.0),
            io.Combo.Input("timesignature", options=["4"], default="4"),
            io.Combo.Input("language", options=["en"], default="en"),
            io.Combo.Input("keyscale", options=["A minor"], default="A minor"),
            io.Boolean.Input("generate_audio_codes", default=True),
            io.Float.Input("cfg_scale", default=2.0),
            io.Float.Input("temperature", default=0.85),
            io.Float.Input("top_p", default=0.9),
            io.Int.Input("top_k", default=0),
            io.Float.Input("min_p", default=0.0),
        ],
        [(io.Conditioning, "CONDITIONING")],
    ),
    core(
        "EmptyAceStep1.5LatentAudio",
        [io.Float.Input("seconds", default=30.0), io.Int.Input("batch_size", default=1)],
        [(io.Latent, "LATENT")],
    ),
    core("VAEEncodeAudio", [io.Audio.Input("audio"), io.Vae.Input("vae")], [(io.Latent, "LATENT")]),
    core("VAEDecodeAudio", [io.Latent.Input("samples"), io.Vae.Input("vae")], [(io.Audio, "AUDIO")]),
]
END = [
    {
        "decode": ("OstinatoStreamDecode", {"model": ("model", 0), "latents": ("stream", 0)}),
        "save": ("SaveAudio", {"audio": ("decode", 0), "filename_prefix": "audio/ostinato"}),
    },
    {"stats": ("OstinatoStreamStats", {"stats": ("stream", 1)})},
]

NATIVE_END = [
    {
        "decode": ("VAEDecodeAudio", {"samples": ("stream", 0), "vae": ("load", 2)}),
        "save": ("SaveAudio", {"audio": ("decode", 0), "filename_prefix": "audio/ostinato"}),
    },
    {"stats": ("OstinatoStreamStats", {"stats": ("stream", 1)})},
]
LOAD = {"load": ("CheckpointLoaderSimple", {})}
NEEDS = f"Needs `{CHECKPOINT}`, which the editor offers to fetch (10 GB)."


def clip(name: str, column: int) -> dict:
    """A clip and its latent."""
    if column == 0:
        return {name: ("LoadAudio", {"audio": CLIP})}
    return {f"{name}_latent": ("VAEEncodeAudio", {"audio": (name, 0), "vae": ("load", 2)})}


def text(**given: object) -> dict:
    return {"text": ("TextEncodeAceStepAudio1.5", {"clip": ("load", 1), **given})}


GRAPHS = {
    "native_drop_in": (
        "## ComfyUI's own model, text and latent\nStream Denoise stands where KSampler was; everything else is "
        f"ComfyUI's. {NEEDS}",
        [
            LOAD,
            {**text(), "empty": ("EmptyAceStep1.5LatentAudio", {})},
            {
                "stream": (
                    "OstinatoStreamDenoise",
                    {
                        "engine": ("load", 0),
                        "condition": ("text", 0),
                        "source": ("empty", 0),
                        "count": 4,
                        "seed": 7,
                    },
                )
            },
            *NATIVE_END,
        ],
    ),
    "native_cover": (
        "## Timbre from one clip, structure from another\nComfyUI's reference node takes both from the same clip; "
        f"choose two. {NEEDS}",
        [
            {**LOAD, **clip("timbre", 0), **clip("structure", 0)},
            {**text(duration=5.0, generate_audio_codes=False), **clip("timbre", 1), **clip("structure", 1)},
            {
                "engine": ("OstinatoStreamModel", {"model": ("load", 0)}),
                "condition": (
                    "OstinatoStreamConditioning",
                    {
                        "model": ("load", 0),
                        "positive": ("text", 0),
                        "latent": ("structure_latent", 0),
                        "timbre": ("timbre_latent", 0),
                        "structure": ("structure_latent", 0),
                    },
                ),
            },
            {
                "stream": (
                    "OstinatoStreamDenoise",
                    {"engine": ("engine", 0), "condition": ("condition", 0), "count": 2, "depth": 2, "seed": 3},
                )
            },
            *NATIVE_END,
        ],
    ),
    "native_repaint": (
        "## Repaint a window of a clip\nThe window from 1 to 3 s is made anew, the rest is kept: the chunk mask that "
        f"ComfyUI's model fixes to ones is set here. {NEEDS}",
        [
            {**LOAD, **clip("song", 0)},
            {**text(duration=5.0, generate_audio_codes=False), **clip("song", 1)},
            {
                "engine": ("OstinatoStreamModel", {"model": ("load", 0)}),
                "condition": (
                    "OstinatoStreamConditioning",
                    {
                        "model": ("load", 0),
                        "positive": ("text", 0),
                        "latent": ("song_latent", 0),
                        "repaint": ("song_latent", 0),
                        "repaint_start": 1.0,
                        "repaint_end": 3.0,
                    },
                ),
            },
            {
                "stream": (
                    "OstinatoStreamDenoise",
                    {"engine": ("engine", 0), "condition": ("condition", 0), "count": 2, "depth": 2, "seed": 5},
                )
            },
            *NATIVE_END,
        ],
    ),
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


def prompt(**given: object) -> tuple:
    return ("OstinatoEncodePrompt", {"model": ("model", 0), **given})


def stream(**given: object) -> dict:
    return {
        "stream": (
            "OstinatoStreamDenoise",
            {"engine": ("engine", 0), "condition": ("prompt", 0), "count": 4, "depth": 4, **given},
        )
    }


def model(name: str = "tiny", clip: bool = False) -> dict:
    return {
        "model": ("OstinatoLoadModel", {"model": name}),
        **({"clip": ("LoadAudio", {"audio": CLIP})} if clip else {}),
    }


ENGINE = {"engine": ("OstinatoEngine", {"model": ("model", 0)})}
SOURCE = {"source": ("OstinatoSourceAudio", {"model": ("model", 0), "audio": ("clip", 0)})}
BUILT = "tiny"  # name of the engine that one workflow builds and another loads

GRAPHS |= {
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

GRAPHS |= {
    "build_engine": (
        "## Build a TensorRT engine while the music plays\n**Build Engine** starts the build and returns: the first "
        "run plays on PyTorch, and once the text under the node says that the engine is built, the next plays on it. "
        "What is missing for it, such as a package, is said there too. **action** cancel ends a build.",
        [
            model(),
            {
                "engine": (
                    "OstinatoBuildEngine",
                    {"model": ("model", 0), "name": BUILT, "batch": "1:4:8", "seconds": "2:10:20"},
                ),
                "prompt": prompt(),
            },
            stream(seed=17),
            *END,
        ],
    ),
    "load_engine": (
        f"## Play on an engine that was built before\n**Load Engine** looks for `{BUILT}`, which the workflow "
        "*build_engine* builds, and says of every engine whether it is ready, and why not. Where it cannot play, the "
        "engine that is connected as fallback does.",
        [
            model(),
            {"torch": ENGINE["engine"], "prompt": prompt()},
            {
                "engine": (
                    "OstinatoLoadEngine",
                    {"engine": BUILT, "model": ("model", 0), "fallback": ("torch", 0)},
                )
            },
            stream(seed=17),
            *END,
        ],
    ),
    "layer_profile": (
        "## Where a tick's time goes\nThe first **Layer Profile** times the layers at depth 4, the second at depth 8 "
        "and says what changed. `ostinato profile` does the same on the command line.",
        [
            model(),
            {**ENGINE, "prompt": prompt()},
            {
                **stream(seed=19),
                "four": ("OstinatoLayerProfile", {"engine": ("engine", 0), "seconds": 10.0, "ticks": 5}),
            },
            {
                **END[0],
                "eight": (
                    "OstinatoLayerProfile",
                    {"engine": ("engine", 0), "depth": 8, "seconds": 10.0, "ticks": 5, "before": ("four", 2)},
                ),
            },
            END[1],
        ],
    ),
    "live": (
        "## Play the graph\nPress **Play** in *Live Session*: the graph runs once, then it plays on beside the queue. "
        "Move any widget, type another prompt or draw the curve while it plays; the line under a node says when it "
        "was heard.",
        [
            {
                **model(),
                "curve": (
                    "OstinatoCurvePoints",
                    {
                        "points": {"points": [[0, 1], [0.6, 1], [0.8, 0.5], [1, 1]], "interpolation": "linear"},
                        "low": 0.8,
                        "high": 1.0,
                    },
                ),
            },
            {
                **ENGINE,
                "prompt": (
                    "OstinatoEncodePrompt",
                    {"model": ("model", 0), "tags": "funk, drums, bass, electric piano", "seconds": 10.0, "bpm": 96},
                ),
            },
            {"knobs": ("OstinatoKnobs", {"velocity_scale": ("curve", 0)})},
            {
                "live": (
                    "OstinatoLiveSession",
                    {
                        "engine": ("engine", 0),
                        "condition": ("prompt", 0),
                        "model": ("model", 0),
                        "knobs": ("knobs", 0),
                        "depth": 2,
                        "seed": 7,
                    },
                )
            },
        ],
    ),
}
