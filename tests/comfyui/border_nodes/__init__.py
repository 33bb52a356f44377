"""Test-only nodes: seeded CONDITIONING and LATENT, a LATENT's exact tensor to disk, guidance written anew, a job that
needs all memory."""

import importlib
import os
import sys
import threading
import time
from types import SimpleNamespace

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import folder_paths
import torch
from safetensors.torch import save_file

SEED = ("INT", {"default": 0})


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class BorderConditioning:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        counts = {name: ("INT", {"default": 4}) for name in ("tokens", "lyrics", "codes")}
        return {"required": {"seed": SEED, **counts}}

    def make(self, seed, tokens, lyrics, codes):
        text, sung = (torch.randn(1, n, 1024, generator=seeded(seed + i)) for i, n in enumerate((tokens, lyrics)))
        rest = {"pooled_output": None, "conditioning_lyrics": sung}
        if codes:
            rest["audio_codes"] = [torch.randint(0, 64000, (codes,), generator=seeded(seed)).tolist()]
        return ([[text, rest]],)


class BorderLatent:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        frames = {"frames": ("INT", {"default": 32}), "batch": ("INT", {"default": 1})}
        kinds = {"empty": ("BOOLEAN", {"default": False}), "masked": ("BOOLEAN", {"default": False})}
        return {"required": {"seed": SEED, **frames, **kinds}}

    def make(self, seed, frames, batch, empty, masked):
        samples = torch.zeros(batch, 64, frames) if empty else torch.randn(batch, 64, frames, generator=seeded(seed))
        latent = {"samples": samples, "type": "audio"}
        if masked:
            latent["noise_mask"] = torch.rand(batch, 1, frames, generator=seeded(seed + 1))
        return (latent,)


class BorderSave:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "save", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "name": ("STRING", {"default": "latent"})}}

    def save(self, latent, name):
        path = os.path.join(folder_paths.get_output_directory(), name + ".safetensors")
        save_file({"samples": latent["samples"].contiguous()}, path)
        return {"ui": {"saved": [path]}}


class BorderGuided:
    """Euler steps on the model's own `apply_model`, condition by condition, with APG over time in float64."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "play", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        tensors = {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "latent": ("LATENT",)}
        numbers = {"seed": SEED, "steps": ("INT", {"default": 4}), "scale": ("FLOAT", {"default": 3.0})}
        return {"required": {"model": ("MODEL",), **tensors, **numbers}}

    def play(self, model, positive, negative, latent, seed, steps, scale):
        comfy.model_management.load_models_gpu([model])
        core, device = model.model, model.load_device
        noise = comfy.sample.prepare_noise(latent["samples"], seed).to(device)
        conds = [self.inputs(core, cond, noise, device) for cond in (positive, negative)]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps).double()
        x, average = noise.double(), torch.zeros_like(noise, dtype=torch.float64)
        for t, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
            seen, at = x.float(), torch.tensor([t], device=device)
            plus, minus = ((seen.double() - core.apply_model(seen, at, **c).double()) / t for c in conds)
            average = plus - minus - 0.75 * average
            norm = average.pow(2).sum(dim=2, keepdim=True).sqrt()
            update = torch.where(norm > 2.5, average * 2.5 / norm, average)
            update = update - plus * (update * plus).sum(2, keepdim=True) / (plus * plus).sum(2, keepdim=True)
            x = x + (after - t) * (plus + (scale - 1.0) * update)
        return ({"samples": x.float().cpu(), "type": "audio"},)

    def inputs(self, core, cond, noise, device):
        made = comfy.sampler_helpers.convert_cond(cond)
        made = comfy.samplers.encode_model_conds(core.extra_conds, made, noise, device, "positive")
        return {k: v.process_cond(batch_size=1, area=None).cond for k, v in made[0]["model_conds"].items()}


class BorderBuilds:
    """Stands in for the pack's building process, which most ComfyUIs lack the packages for."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "go", (), True
    jobs, real = [], {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"action": (["pretend", "report", "finish", "restore"],), "text": ("STRING", {})}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def go(self, action, text):
        root = next(name for name in sys.modules if name.endswith("ostinato") and "custom_nodes" in name)
        builds = importlib.import_module(f"{root}.engine_runtime.trt.build.queue")
        State = importlib.import_module(f"{root}.engine_runtime.trt.build.job").State
        if action == "pretend":
            self.real |= {"Job": builds.Job, "check": builds.preflight.check_packages}
            builds.Job, builds.preflight.check_packages = self, lambda names, flavor: None
        elif action == "restore":
            builds.Job, builds.preflight.check_packages = self.real["Job"], self.real["check"]
        else:
            job = self.jobs[-1]
            job.message, job.state = text, State.done if action == "finish" else State.building
            thread = threading.Thread(target=job.changed, args=(job,))  # as a build's own
            thread.start()
            thread.join()
        return ()

    def start(self, spec, folder, changed):
        State = sys.modules[type(spec).__module__.replace(".files.spec", ".build.job")].State
        job = SimpleNamespace(spec=spec, changed=changed, state=State.exporting, message="exporting", fraction=0.25)
        job.plan, job.error, job.over = folder / f"{spec.name}.plan", None, False
        job.cancel = lambda: setattr(job, "state", State.cancelled)
        self.jobs.append(job)
        return job


class BorderNeedsAll:
    """Has ComfyUI take every model away, as a large one does, and works on for some time, or until a file is there."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "work", (), True

    @classmethod
    def INPUT_TYPES(cls):
        numbers = {"seconds": ("FLOAT", {"default": 1.0}), "seed": SEED}
        return {"required": {**numbers, "until": ("STRING", {"default": ""})}}

    def work(self, seconds, seed, until):
        manager = comfy.model_management
        manager.free_memory(1e30, manager.get_torch_device())
        loaded = [type(one.model).__name__ for one in manager.current_loaded_models]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not os.path.isfile(until):
            manager.throw_exception_if_processing_interrupted()
            time.sleep(0.05)
        return {"ui": {"loaded": loaded}}


OURS = (BorderConditioning, BorderLatent, BorderSave, BorderGuided, BorderBuilds, BorderNeedsAll)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in OURS}
