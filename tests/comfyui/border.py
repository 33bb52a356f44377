"""Run by ComfyUI's Python: the border in one process with ComfyUI's real loader and memory manager.

    border.py COMFYUI CHECKPOINT     what the tests read, as JSON on the last line
    border.py COMFYUI peak WIDTH     peak memory of the border over bfloat16 weights; 2048 makes the 2B model

`ostinato` must be importable.
"""

import json
import sys
from pathlib import Path

ROOT, WHAT, *REST = sys.argv[1:]
sys.path.insert(0, ROOT)
sys.argv = ["main.py", "--cpu"]
# ComfyUI's own come after the path and the arguments, which they read
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as manager  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG, Noise_RandomNoise  # noqa: E402
from ostinato.engine_runtime.config import Sampling  # noqa: E402
from ostinato.engine_runtime.errors import MemoryShortage  # noqa: E402
from ostinato.engine_runtime.machine import resident  # noqa: E402
from ostinato.engine_runtime.models import comfy_queue  # noqa: E402
from ostinato.engine_runtime.models.comfy_condition import References, core_condition  # noqa: E402
from ostinato.engine_runtime.models.comfy_model import CoreEngine  # noqa: E402
from ostinato.engine_runtime.registry import registry  # noqa: E402
from ostinato.engine_runtime.takes.render import render, take_batch  # noqa: E402
from ostinato.nodes.shared import from_comfy, layout  # noqa: E402

CPU = torch.device("cpu")
DEEP = "diffusion_model.decoder.layers.0.mlp.up_proj.weight"


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditioning(**more):
    return [[random(1, 5, 1024), {"pooled_output": None, "conditioning_lyrics": random(1, 4, 1024, seed=2), **more}]]


def play(model, cond=None, engine=None):
    latent = {"samples": torch.zeros(1, 64, 20)}
    engine, sources = engine or from_comfy.engine_of(model), layout.from_latent(latent, "the source")
    condition = from_comfy.condition_of(engine, cond or conditioning(), None, None, sources)
    requests = take_batch(condition, Sampling(2), 1, 0, sources=sources)
    return render("border", engine, requests, 1)[0][0]


def with_lora(model, lora, strength):
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def said(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def refused_models(model):
    def changed(change):
        other = model.clone()
        change(other)
        return said(lambda: from_comfy.engine_of(other))

    foreign = torch.nn.Module()
    foreign.diffusion_model, foreign.device = torch.nn.Linear(2, 2), None
    stranger = comfy.model_patcher.ModelPatcher(foreign, CPU, CPU)
    kind, scaled = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, type("Sampling", (), {})()
    bend = comfy.patcher_extension.PatcherInjection(lambda m: None, lambda m: None)
    return {
        "the MODEL is a Module": said(lambda: from_comfy.engine_of(stranger)),
        "sampler_cfg_function": changed(lambda m: m.set_model_sampler_cfg_function(print)),
        "sampler_post_cfg_function": changed(lambda m: m.set_model_sampler_post_cfg_function(print)),
        "model_function_wrapper": changed(lambda m: m.set_model_unet_function_wrapper(print)),
        "patches": changed(lambda m: m.set_model_attn1_patch(print)),
        "patches_replace": changed(lambda m: m.set_model_attn1_replace(print, "input", 0)),
        "diffusion_model": changed(lambda m: m.add_wrapper(kind, print)),
        DEEP: changed(lambda m: m.add_weight_wrapper(DEEP, print)),
        "diffusion_model.decoder.norm_out": changed(
            lambda m: m.add_object_patch("diffusion_model.decoder.norm_out", torch.nn.Identity())
        ),
        "model_sampling": changed(lambda m: m.add_object_patch("model_sampling", scaled)),
        "manual_cast_dtype": changed(lambda m: m.set_model_compute_dtype(torch.bfloat16)),
        "injections": changed(lambda m: m.set_injections("bend", [bend])),
    }


def refused_conditionings(model):
    engine = from_comfy.engine_of(model)
    frames = [torch.zeros(20, 64)]

    def tried(cond):
        return said(lambda: from_comfy.condition_of(engine, cond, None, None, frames))

    text, rest = conditioning()[0]
    extra = {"area": (1, 1, 0, 0), "mask": torch.ones(1, 4, 4), "strength": 0.5, "hooks": [1], "control": object()}
    extra |= {"start_percent": 0.2, "end_percent": 0.9, "lyrics_strength": 0.5, "gligen": 1}
    return {
        **{f"carries {name}": tried(conditioning(**{name: value})) for name, value in extra.items()},
        "has 2 entries": tried(conditioning() * 2),
        "holds 2 of text": tried([[text.repeat(2, 1, 1), rest]]),
        "has no lyrics": tried([[text, {}]]),
        "has no text": tried([[None, rest]]),
        "[1, 5, 768] text": tried([[random(1, 5, 768), rest]]),
    }


def refused_samplers(model):
    falling = torch.tensor([1.0, 0.5, 0.0])

    def tried(sampler="euler", guider=None, sigmas=falling, options=None):
        if guider is None:
            guider = Guider_Basic(model)
            guider.set_conds(conditioning())
        made = comfy.samplers.ksampler(sampler, options or {})
        latent = {"samples": torch.zeros(1, 64, 20)}
        return said(lambda: from_comfy.sampler_requests(Noise_RandomNoise(1), guider, made, sigmas, latent))

    dual = Guider_DualCFG(model)
    dual.set_conds(conditioning(), conditioning(), conditioning())
    return {
        "the sampler is euler_ancestral": tried("euler_ancestral"),
        "the sampler is dpmpp_2m": tried("dpmpp_2m"),
        "euler with s_churn=1.0": tried(options={"s_churn": 1.0}),
        "the guider is a Guider_DualCFG": tried(guider=dual),
        "the sigmas are 1, 0.5, 0.2": tried(sigmas=torch.tensor([1.0, 0.5, 0.2])),
        "the sigmas are empty": tried(sigmas=torch.tensor([])),
    }


def strengths(model, lora):
    """One engine and one patcher whose patches change upstream: 0.7, 0.2, 0.7."""
    patcher = model.clone()
    engine, made = CoreEngine(patcher), []
    for strength in (0.7, 0.2, 0.7):
        other = with_lora(model, lora, strength)
        patcher.patches, patcher.patches_uuid = other.patches, other.patches_uuid
        made.append(play(patcher, engine=engine))
    return {"A is A": torch.equal(made[0], made[2]), "B differs": float((made[0] - made[1]).abs().max())}


def masks():
    """A mask of height 1 as Set Latent Noise Mask leaves it, and one that is an image."""
    samples, wide = torch.zeros(2, 64, 20), torch.linspace(0, 1, 20)
    made = layout.masks_of({"samples": samples, "noise_mask": wide.reshape(1, 1, 1, 20)})
    image = said(lambda: layout.masks_of({"samples": samples, "noise_mask": torch.ones(1, 1, 8, 20)}))
    return {"played": all(torch.equal(m, wide[:, None].expand(20, 64)) for m in made), "image": image}


def references(model):
    """Timbre, structure and repaint, against what the core prepares from its own reference node's CONDITIONING."""
    a, b, song, frames = random(20, 64, seed=5), random(20, 64, seed=6), random(20, 64, seed=7), 20

    def ours(**given):
        return core_condition(model, conditioning(), None, frames, References(**given))

    def cores(clip):
        return core_condition(model, conditioning(reference_audio_timbre_latents=[clip.T[None]]), None, frames)

    plain, split = ours(), ours(timbre=a, structure=b)
    window = ours(repaint=song, start=0.2, end=0.6).context
    inside = torch.zeros(frames, dtype=torch.bool)
    inside[5:15] = True
    return {
        "timbre": torch.equal(split.tokens, cores(a).tokens) and not torch.equal(split.tokens, plain.tokens),
        "structure": torch.equal(split.context, cores(b).context) and not torch.equal(split.context, plain.context),
        "mask": torch.equal(window[:, 64:], inside[:, None].float().expand(frames, 64)),
        "kept": torch.equal(window[~inside, :64], song[~inside]),
        "silent": torch.equal(window[inside, :64], plain.context[inside, :64]),
    }


def another_clone(model, lora):
    """An engine beside the queue, whose model a job has loaded with a LoRA's patches in between."""
    patched, sources = with_lora(model, lora, 0.7), layout.from_latent({"samples": torch.zeros(1, 64, 20)}, "a source")
    engine, made = CoreEngine(model), []
    condition = from_comfy.condition_of(engine, conditioning(), None, None, sources)
    for other in (None, patched, None):
        if other is not None:
            manager.load_models_gpu([other], force_full_load=True)
        made.append(render("border", engine, take_batch(condition, Sampling(2), 1, 0, sources=sources), 1)[0][0])
    return [torch.equal(made[0], one) for one in made]


def memory(model, lora):
    """Evicted by the manager itself, to which no memory seems to be free."""
    own, patched = play(model), with_lora(model, lora, 0.7)
    engine = CoreEngine(patched)
    first = play(patched, engine=engine)
    held = [name for name, p in engine.transformer.named_parameters() if not p.is_meta]
    real, manager.get_free_memory = manager.get_free_memory, lambda *a, **k: (0, 0) if k.get("torch_free_too") else 0
    try:
        manager.free_memory(1 << 40, CPU)
    finally:
        manager.get_free_memory = real
    evicted = not manager.current_loaded_models
    kept, load = [], manager.load_models_gpu
    manager.load_models_gpu = lambda *a, **k: kept.append(bool(registry.one(comfy_queue._Now).loads)) or load(*a, **k)
    try:
        again = play(patched, engine=engine)
        manager.unload_all_models()
        engine.ready()
    finally:
        manager.load_models_gpu = load
    owners = dict(patched.model.diffusion_model.decoder.named_parameters())
    theirs = {p.data_ptr() for p in owners.values()}
    shared = all(p.data_ptr() in theirs for p in engine.transformer.parameters())
    engine.rest()
    same = torch.equal(first, again) and torch.equal(own, play(model))
    return {"held at rest": held, "evicted": evicted, "same after eviction": same, "shared": shared, "kept": kept}


def refused_once(model):
    """What is left of an engine whose weights were refused, and whether it plays afterwards."""
    first, engine, load = play(model), CoreEngine(model), manager.load_models_gpu

    def refuse(*given, **more):
        raise MemoryShortage("ComfyUI's job has the memory", "the music needs some of it", "wait for its end")

    manager.unload_all_models()
    manager.load_models_gpu = refuse
    try:
        engine.ready()
    except MemoryShortage:
        players = engine._players
    finally:
        manager.load_models_gpu = load
    return {"players": players, "plays": torch.equal(first, play(model, engine=engine))}


def peak(width):
    """Growth of the resident peak by the border, over the weights of a model whose pages are all in use."""
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_heads": max(width // 128, 8)}
    if width < 2048:
        sizes["encoder_intermediate_size"] = 256
    config = comfy.supported_models.ACEStep15({"audio_model": "ace1.5", **sizes})
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, device=CPU)
    for p in model.parameters():
        p.data.zero_()
    patcher = comfy.model_patcher.ModelPatcher(model, CPU, CPU)
    weights = sum(p.nbytes for p in model.parameters())
    manager.load_models_gpu([patcher])
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident()
    CoreEngine(patcher).ready()
    return {"weights": weights, "before": before, "grown": resident(peak=True) - before}


def main():
    with torch.inference_mode():
        if WHAT == "peak":
            return peak(int(REST[0]))
        model = comfy.sd.load_diffusion_model(WHAT)
        lora = comfy.utils.load_torch_file(str(Path(WHAT).with_name("lora.safetensors")))
        refused = {**refused_models(model), **refused_conditionings(model), **refused_samplers(model)}
        refused["the noise mask has shape [1, 1, 8, 20]"] = masks()["image"]
        return {
            "refused": refused,
            "masks": masks()["played"],
            "strengths": strengths(model, lora),
            "another clone": another_clone(model, lora),
            "references": references(model),
            "memory": memory(model, lora),
            "refused once": refused_once(model),
        }


print(json.dumps(main()))  # noqa: T201
