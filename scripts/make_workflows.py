"""Write the example workflows in the editor's JSON, from the graphs below and the nodes' own schemas.

    python scripts/make_workflows.py

A graph names its nodes in columns from left to right; every input is a widget value, or a link `("node", output)`.
"""

import json
import uuid
from pathlib import Path

from ostinato.cli import core_nodes
from ostinato.nodes import NODES
from ostinato.nodes import headless_io as io
from ostinato.nodes.headless_io import WidgetInput

FOLDER = Path(__file__).parent.parent / "example_workflows"

WIDTH, GAP, ROW, TITLE = 340, 60, 26, 50  # pixels
CLIP = "ostinato_source.flac"
CHECKPOINT = "ace_step_1.5_turbo_aio.safetensors"
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
SCHEMAS = [*(t.GET_SCHEMA() for t in (*NODES, *core_nodes.CORE_NODES)), *CORE]
TYPES = {schema.node_id: schema for schema in SCHEMAS}
END = [
    {
        "decode": ("OstinatoStreamDecode", {"model": ("model", 0), "latents": ("stream", 0)}),
        "stats": ("OstinatoStreamStats", {"stats": ("stream", 1)}),
    },
    {"save": ("SaveAudio", {"audio": ("decode", 0), "filename_prefix": "audio/ostinato"})},
]

NATIVE_END = [
    {
        "decode": ("VAEDecodeAudio", {"samples": ("stream", 0), "vae": ("load", 2)}),
        "stats": ("OstinatoStreamStats", {"stats": ("stream", 1)}),
    },
    {"save": ("SaveAudio", {"audio": ("decode", 0), "filename_prefix": "audio/ostinato"})},
]
LOAD = {"load": ("CheckpointLoaderSimple", {})}
NEEDS = f"Needs `{CHECKPOINT}` in ComfyUI's `models/checkpoints`."


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
        "## Timbre from one clip, structure from another\nComfyUI's reference node takes both from the same clip. "
        f"{NEEDS} Put two clips into its `input` folder.",
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
        "`tiny` is built in and sounds like noise. For music set **model** to an ACE-Step 1.5 turbo model in "
        "diffusers' format.",
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
        f"## Cover\nKeeps the structure of a clip and changes its sound. Put `{CLIP}` from this pack's "
        "`example_workflows` folder into ComfyUI's `input` folder, or choose a clip of your own.\n\n"
        "**denoise** below 1 also starts from the clip's sound.",
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
                        "tags": "dreamy synth pad, deep bass, slow techno",
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
                        "denoise": 0.8,
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
            {"model": ("OstinatoLoadModel", {"model": "tiny-base"}), "guide": ("OstinatoGuidance", {"scale": 7.0})},
            {
                "engine": ("OstinatoEngine", {"model": ("model", 0)}),
                "prompt": (
                    "OstinatoEncodePrompt",
                    {
                        "model": ("model", 0),
                        "tags": "bright pop song, female voice, piano, drums",
                        "lyrics": "[verse]\nAll night the light is on\n[chorus]\nLove is in the song",
                        "bpm": 120,
                        "key": "C major",
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


def height(schema) -> int:
    big = sum(3 * ROW for i in schema.inputs if getattr(i, "multiline", None))
    picture = 240 if schema.node_id in ("OstinatoStreamStats", "SaveAudio") else 0
    return TITLE + ROW * (len(schema.inputs) + len(schema.outputs) + 1) + big + picture


def widgets(schema, given: dict) -> list:
    """Widget values in the editor's order: required inputs first, and what each adds of its own."""
    values: list = []
    for item in sorted((i for i in schema.inputs if isinstance(i, WidgetInput)), key=lambda i: i.optional):
        value = given.get(item.id, item.default)
        values.append(None if isinstance(value, tuple) else value)
        if item.id == "seed" or getattr(item, "control_after_generate", None):
            values.append("fixed")
    if schema.node_id == "LoadAudio":
        values += [None, None]  # its player and its upload button
    return values


def workflow(name: str, note: str, columns: list) -> dict:
    ids, nodes, links = {}, [], []
    for x, column in enumerate(columns):
        y = 190
        for key, (kind, given) in column.items():
            schema, ids[key] = TYPES[kind], len(nodes) + 2
            size = [WIDTH, height(schema)]
            nodes.append(
                {
                    "id": ids[key],
                    "type": kind,
                    "pos": [40 + x * (WIDTH + GAP), y],
                    "size": size,
                    "flags": {},
                    "order": len(nodes),
                    "mode": 0,
                    "inputs": [
                        {"name": i.id, "type": i.get_io_type(), "link": None}
                        | ({"widget": {"name": i.id}} if isinstance(i, WidgetInput) else {})
                        for i in schema.inputs
                    ],
                    "outputs": [
                        {"name": o.display_name or o.get_io_type(), "type": o.get_io_type(), "links": []}
                        for o in schema.outputs
                    ],
                    "properties": {"Node name for S&R": kind},
                    "widgets_values": widgets(schema, given),
                }
            )
            y += size[1] + GAP
    by_id = {n["id"]: n for n in nodes}
    for key, (_, given) in (item for column in columns for item in column.items()):
        for slot, item in enumerate(by_id[ids[key]]["inputs"]):
            if isinstance(value := given.get(item["name"]), tuple):
                origin = by_id[ids[value[0]]]["outputs"][value[1]]
                item["link"] = len(links) + 1
                origin["links"].append(item["link"])
                links.append([item["link"], ids[value[0]], value[1], ids[key], slot, origin["type"]])
    text = {
        "id": 1,
        "type": "MarkdownNote",
        "pos": [40, -20],
        "size": [2 * WIDTH + GAP, 140],
        "flags": {},
        "order": len(nodes),
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [note],
    }
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ostinato/{name}")),
        "revision": 0,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(links),
        "nodes": [text, *nodes],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 0.7, "offset": [20, 80]}},
        "version": 0.4,
    }


if __name__ == "__main__":
    for name, (note, columns) in GRAPHS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(workflow(name, note, columns), indent=1) + "\n", "utf-8")
