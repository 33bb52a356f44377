"""ComfyUI's own MODEL, CONDITIONING and LATENT: the ring's latent against the core samplers', in one prompt each."""

import uuid

import pytest
import torch
from safetensors.torch import load_file, save_file

from .client import PromptError

FRAMES, STEPS, SEED = 32, 4, 3


@pytest.fixture
def graph(models):
    """Nodes by id, to be added to; `model`, `plus` and `minus` are there."""
    return {
        "model": node("UNETLoader", unet_name=models[0], weight_dtype="default"),
        "plus": node("BorderConditioning", seed=1, tokens=5, lyrics=4, codes=0),
        "minus": node("BorderConditioning", seed=2, tokens=7, lyrics=3, codes=0),
    }


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def latent(**given):
    return node("BorderLatent", **{"seed": 5, "frames": FRAMES, "batch": 1, "empty": False, "masked": False, **given})


def ksampler(model=("model", 0), latent=("latent", 0), **given):
    inputs = {"seed": SEED, "steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    conds = {"positive": ["plus", 0], "negative": ["minus", 0]}
    return node("KSampler", model=list(model), latent_image=list(latent), **{**conds, **inputs, **given})


def denoise(model=("model", 0), source=("latent", 0), **given):
    inputs = {"count": 1, "depth": 2, "steps": STEPS, "shift": 3.0, "denoise": 1.0, "seed": SEED, "seed_step": 1}
    parts = {"engine": list(model), "condition": ["plus", 0], "source": list(source)}
    return node("OstinatoStreamDenoise", **{**parts, **inputs, **given})


def custom(kind, latent_name, **given):
    parts = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0], "sigmas": ["sigmas", 0]}
    return node(kind, **parts, latent_image=[latent_name, 0], **given)


def play(comfy, graph, *names):
    """Run the graph and give the latents of the nodes named."""
    run = uuid.uuid4().hex
    for name in names:
        graph[f"save {name}"] = node("BorderSave", latent=[name, 0], name=f"{run}_{name}")
    comfy.client.run(graph)
    saved = [comfy.output_dir / f"{run}_{name}.safetensors" for name in names]
    latents = [load_file(path)["samples"] for path in saved]
    for path in saved:
        path.unlink()
    return latents


def assert_equal(theirs, ours, bound=1e-4):
    assert theirs.shape == ours.shape and theirs.std() > 0.1
    assert float((theirs - ours).abs().max()) <= bound


CASES = {
    "empty": ({"empty": True}, {}),
    "odd length": ({"empty": True, "frames": 33}, {}),
    "source, denoise 0.5": ({}, {"denoise": 0.5, "steps": 8}),
    "steps that do not divide the table": ({}, {"denoise": 0.7, "steps": 3}),
    "soft mask": ({"masked": True}, {}),
    "soft mask, denoise 0.5": ({"masked": True}, {"denoise": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_stream_denoise_equals_ksampler(comfy, graph, case):
    source, options = CASES[case]
    graph |= {"latent": latent(**source), "theirs": ksampler(**options), "ours": denoise(**options)}
    assert_equal(*play(comfy, graph, "theirs", "ours"))


def test_audio_codes_reference_and_null(comfy, graph):
    """The model's own preparation of a condition, whatever it was made of."""
    graph |= {"latent": latent(empty=True), "clip": latent(seed=8, frames=20)}
    graph["codes"] = node("BorderConditioning", seed=4, tokens=5, lyrics=4, codes=7)
    graph["reference"] = node("ReferenceTimbreAudio", conditioning=["plus", 0], latent=["clip", 0])
    graph["zero"] = node("ConditioningZeroOut", conditioning=["plus", 0])
    kinds = ("codes", "reference", "zero")
    for kind in kinds:
        graph[f"theirs {kind}"] = ksampler(positive=[kind, 0])
        graph[f"ours {kind}"] = denoise(condition=[kind, 0])
    latents = play(comfy, graph, *(f"{who} {kind}" for kind in kinds for who in ("theirs", "ours")))
    for theirs, ours in zip(latents[::2], latents[1::2], strict=True):
        assert_equal(theirs, ours)
    assert float((latents[0] - latents[2]).abs().max()) > 0.1


def test_batch_equals_ksampler_on_each(comfy, graph):
    """The core gives the first of a batch the timbre tokens of all, and the others zeros, so it is asked one by one."""
    graph |= {"latent": latent(batch=2), "ours": denoise(denoise=0.6, count=2)}
    for i in range(2):
        graph[f"cut {i}"] = node("LatentFromBatch", samples=["latent", 0], batch_index=i, length=1)
        graph[f"theirs {i}"] = ksampler(latent=(f"cut {i}", 0), denoise=0.6)
        graph[f"ours {i}"] = denoise(source=(f"cut {i}", 0), denoise=0.6)
    *theirs, first, second, ours = play(comfy, graph, "theirs 0", "theirs 1", "ours 0", "ours 1", "ours")
    assert_equal(torch.cat(theirs), ours)
    assert_equal(torch.cat(theirs), torch.cat([first, second]))


def with_lora(graph, models, name, strength):
    lora = {"lora_name": models[1], "strength_model": strength}
    graph[name] = node("LoraLoaderModelOnly", model=["model", 0], **lora)


def test_lora_equals_ksampler(comfy, graph, models):
    with_lora(graph, models, "lora", 0.7)
    graph |= {"latent": latent(empty=True), "theirs": ksampler(model=("lora", 0)), "ours": denoise(model=("lora", 0))}
    graph["plain"] = denoise()
    theirs, ours, plain = play(comfy, graph, "theirs", "ours", "plain")
    assert_equal(theirs, ours)
    assert float((ours - plain).abs().max()) > 0.1


def test_an_adapter_beside_the_weights_equals_one_in_them(comfy, graph, models):
    """Of those layers that an engine has a place for."""
    folder, places = comfy.server.base / "models" / "loras", (".self_attn.", ".cross_attn.", ".mlp.")
    tensors = load_file(folder / models[1])
    own = {n: t for n, t in tensors.items() if n.startswith("diffusion_model.decoder.") and any(p in n for p in places)}
    save_file(own, folder / "layers.safetensors")
    with_lora(graph, (models[0], "layers.safetensors"), "lora", 0.7)
    graph["adapter"] = node("OstinatoLora", adapter="layers.safetensors", strength=0.7)
    graph |= {"latent": latent(empty=True), "theirs": denoise(model=("lora", 0)), "plain": denoise()}
    graph["ours"] = denoise(adapters=["adapter", 0])
    theirs, ours, plain = play(comfy, graph, "theirs", "ours", "plain")
    assert_equal(theirs, ours)
    assert float((ours - plain).abs().max()) > 0.1


def test_lora_back_and_forth_is_bit_equal(comfy, graph, models):
    """Each strength through a node of its own prompt, so that nothing comes from ComfyUI's cache."""
    graph["latent"] = latent(empty=True)
    made = []
    for strength in (0.7, 0.2, 0.7):
        with_lora(graph, models, "lora", strength)
        graph["engine"] = node("OstinatoStreamModel", model=["lora", 0], max_rows=4)
        graph["ours"] = denoise(model=("engine", 0))
        made += play(comfy, graph, "ours")
    first, other, again = made
    assert torch.equal(first, again)
    assert float((first - other).abs().max()) > 1e-3


def test_guidance_equals_an_independent_loop(comfy, graph):
    numbers = {"seed": SEED, "steps": STEPS, "scale": 3.0}
    conds = {"positive": ["plus", 0], "negative": ["minus", 0]}
    graph |= {"latent": latent(empty=True), "guidance": guidance_node(comfy, 3.0)}
    graph["theirs"] = node("BorderGuided", model=["model", 0], latent=["latent", 0], **conds, **numbers)
    graph["ours"] = denoise(guidance=["guidance", 0], negative=["minus", 0])
    graph["plain"] = denoise()
    theirs, ours, plain = play(comfy, graph, "theirs", "ours", "plain")
    assert_equal(theirs, ours)
    assert float((ours - plain).abs().max()) > 0.1


def guidance_node(comfy, scale):
    """Our Guidance node at its defaults but for the scale."""
    required = comfy.client.object_info()["OstinatoGuidance"]["input"]["required"]
    return node("OstinatoGuidance", **{k: v[1]["default"] for k, v in required.items()} | {"scale": scale})


def sampling(graph, cfg, sampler="euler"):
    graph["noise"] = node("RandomNoise", noise_seed=SEED)
    conds = {"positive": ["plus", 0], "negative": ["minus", 0]}
    graph["guider"] = node("CFGGuider", model=["model", 0], cfg=cfg, **conds)
    graph["sampler"] = node("KSamplerSelect", sampler_name=sampler)
    graph["sigmas"] = node("BasicScheduler", model=["model", 0], scheduler="beta", steps=STEPS, denoise=0.6)
    graph["latent"] = latent(masked=True)
    graph["theirs"] = custom("SamplerCustomAdvanced", "latent")
    graph["ours"] = custom("OstinatoStreamSampler", "latent", depth=2)


def test_stream_sampler_equals_sampler_custom_advanced(comfy, graph):
    sampling(graph, 1.0)
    assert_equal(*play(comfy, graph, "theirs", "ours"))


def test_another_sampler_is_refused(comfy, graph, errors_expected):
    sampling(graph, 1.0, "dpmpp_2m")
    del graph["theirs"]
    with pytest.raises(PromptError, match="the sampler is dpmpp_2m; the ring steps with plain euler") as refused:
        play(comfy, graph, "ours")
    assert refused.value.node_id == "ours"


def test_same_latent_after_free(comfy, graph):
    graph |= {"latent": latent(), "ours": denoise()}
    (first,) = play(comfy, graph, "ours")
    comfy.client.free()
    for _ in range(5):  # ComfyUI frees when its worker comes round again: a prompt that is there by then goes first
        (second,) = play(comfy, graph, "ours")
        if comfy.log().count("Requested to load ACEStep15") >= 2:
            break
    assert torch.equal(first, second)
    assert comfy.log().count("Requested to load ACEStep15") >= 2
