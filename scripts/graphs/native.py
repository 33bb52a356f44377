"""Graphs around ComfyUI's own model, text and latents."""

from ostinato.nodes.shared import headless_io as io

from .parts import CLIP

CHECKPOINT = "ace_step_1.5_turbo_aio.safetensors"
MODELS = {  # where the editor fetches what a node names
    "CheckpointLoaderSimple": {
        "name": CHECKPOINT,
        "url": f"https://huggingface.co/Comfy-Org/ace_step_1.5_ComfyUI_files/resolve/main/checkpoints/{CHECKPOINT}",
        "directory": "checkpoints",
    }
}
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
}
