"""ComfyUI's own nodes that its ACE-Step 1.5 templates use, as far as a workflow's JSON needs to know them: sockets and
widgets in the order of version 0.20.1.
"""

from __future__ import annotations

from ostinato.nodes.shared.comfy import io


def core(node_id: str, inputs: list[io.Input], outputs: list[type]) -> type[io.ComfyNode]:
    def define_schema(cls: type) -> io.Schema:
        return io.Schema(node_id=node_id, inputs=inputs, outputs=[kind.Output() for kind in outputs])

    return type(node_id, (io.ComfyNode,), {"define_schema": classmethod(define_schema)})


def choice(name: str, *options: str, optional: bool = False) -> io.Input:
    return io.Combo.Input(name, options=list(options) or ["one"], optional=optional)


def number(name: str, default: float = 0.0) -> io.Input:
    return io.Float.Input(name, default=default)


def seed() -> io.Input:
    return io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True)


SAMPLER = [
    *[io.Model.Input("model"), seed(), io.Int.Input("steps", default=20), number("cfg", 8.0)],
    *[choice("sampler_name"), choice("scheduler"), io.Conditioning.Input("positive")],
    *[io.Conditioning.Input("negative"), io.Latent.Input("latent_image"), number("denoise", 1.0)],
]
TEXT = [
    *[io.Clip.Input("clip"), io.String.Input("tags", multiline=True), io.String.Input("lyrics", multiline=True)],
    *[seed(), io.Int.Input("bpm", default=120), number("duration", 120.0), choice("timesignature", "4")],
    *[choice("language", "en"), choice("keyscale"), io.Boolean.Input("generate_audio_codes", default=True)],
    *[number("cfg_scale", 2.0), number("temperature", 0.85), number("top_p", 0.9)],
    *[io.Int.Input("top_k", default=0), number("min_p")],
]
CORE = [
    core("CheckpointLoaderSimple", [choice("ckpt_name")], [io.Model, io.Clip, io.Vae]),
    core("UNETLoader", [choice("unet_name"), choice("weight_dtype", "default")], [io.Model]),
    core("VAELoader", [choice("vae_name")], [io.Vae]),
    core(
        "DualCLIPLoader",
        [choice("clip_name1"), choice("clip_name2"), choice("type", "ace"), choice("device", "default", optional=True)],
        [io.Clip],
    ),
    core("ModelSamplingAuraFlow", [io.Model.Input("model"), number("shift", 1.73)], [io.Model]),
    core("TextEncodeAceStepAudio1.5", TEXT, [io.Conditioning]),
    core("ConditioningZeroOut", [io.Conditioning.Input("conditioning")], [io.Conditioning]),
    core("EmptyAceStep1.5LatentAudio", [number("seconds", 120.0), io.Int.Input("batch_size", default=1)], [io.Latent]),
    core("KSampler", SAMPLER, [io.Latent]),
    core("VAEEncodeAudio", [io.Audio.Input("audio"), io.Vae.Input("vae")], [io.Latent]),
    core("VAEDecodeAudio", [io.Latent.Input("samples"), io.Vae.Input("vae")], [io.Audio]),
]
