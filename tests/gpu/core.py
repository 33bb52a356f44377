"""ComfyUI's MODEL and memory manager on a GPU: a script to run by hand, for no test machine has both.

    python tests/gpu/core.py COMFYUI

`ostinato` must be importable. Prints the largest difference from KSampler (euler, simple, 8 steps, float32), and the
megabytes on the device while the weights are in use, after ComfyUI asked for them, and whether the music is the same.
"""

import json
import runpy
import sys
import tempfile
from pathlib import Path

ROOT = sys.argv[1]
sys.path.insert(0, ROOT)
sys.argv = ["main.py"]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as manager  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from ostinato.engine_runtime.config import Sampling  # noqa: E402
from ostinato.engine_runtime.models.comfy_condition import core_condition  # noqa: E402
from ostinato.engine_runtime.models.comfy_model import CoreEngine  # noqa: E402
from ostinato.engine_runtime.models.conditioning import encode_prompt  # noqa: E402
from ostinato.engine_runtime.models.engines import eager_engine  # noqa: E402
from ostinato.engine_runtime.models.loading import load  # noqa: E402
from ostinato.engine_runtime.models.prompt import Prompt  # noqa: E402
from ostinato.engine_runtime.takes.render import render, take_batch  # noqa: E402
from ostinato.nodes.load_model import managed  # noqa: E402
from ostinato.nodes.shared.from_comfy import schedule_of  # noqa: E402

MAKER = runpy.run_path(str(Path(__file__).parents[1] / "comfyui" / "ace15.py"))
FRAMES, SEED = 50, 3


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


COND = [[random(1, 5, 1024), {"pooled_output": None, "conditioning_lyrics": random(1, 4, 1024, seed=2)}]]


def core(model, latent, denoise=1.0, mask=None):
    noise = comfy.sample.prepare_noise(latent, SEED)
    options = {"denoise": denoise, "noise_mask": mask, "seed": SEED, "disable_pbar": True}
    return comfy.sample.sample(model, noise, 8, 1.0, "euler", "simple", COND, COND, latent, **options).cpu()


def ours(model, latent, denoise=1.0, mask=None, engine=None):
    engine = engine or CoreEngine(model)
    sampling, source = Sampling(8, 3.0, denoise, SEED), latent[0].T.contiguous()
    masks = mask if mask is None else [comfy.utils.reshape_mask(mask, latent.shape).expand_as(latent)[0].T.contiguous()]
    condition = core_condition(engine.patcher, COND, None, FRAMES)
    requests = take_batch(
        condition, sampling, 1, 0, sources=[source], masks=masks, schedule=schedule_of(engine, sampling)
    )
    return render("gpu", engine, requests)[0][0].T[None].cpu()


def megabytes():
    return round(torch.cuda.memory_allocated() / 1e6, 1)


def memory(play):
    """Megabytes in use and after ComfyUI asked for them, and whether the music is the same when it comes back."""
    first, held = play(), megabytes()
    manager.free_memory(1 << 50, manager.get_torch_device())
    return {"held": held, "freed": megabytes(), "same": torch.equal(first, play()), "back": megabytes()}


def main():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    folder, device = Path(tempfile.mkdtemp()), manager.get_torch_device()
    checkpoint = MAKER["write_checkpoint"](folder / "ace.safetensors")
    lora = comfy.utils.load_torch_file(str(MAKER["write_lora"](folder / "lora.safetensors")))
    empty, source, mask = torch.zeros(1, 64, FRAMES), random(1, 64, FRAMES, seed=5), torch.linspace(0, 1, FRAMES)
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(str(checkpoint), model_options={"dtype": torch.float32})
        patched = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0)[0]
        cases = {
            "empty": (model, empty, {}),
            "denoise 0.5": (model, source, {"denoise": 0.5}),
            "mask": (model, empty, {"mask": mask[None, None]}),
            "LoRA 0.7": (patched, empty, {}),
        }
        errors = {k: float((core(m, x, **o) - ours(m, x, **o)).abs().max()) for k, (m, x, o) in cases.items()}
        engine = CoreEngine(patched)
        report = {"gpu": torch.cuda.get_device_name(), "max abs": errors}
        report["MODEL"] = memory(lambda: ours(patched, empty, engine=engine))
        manager.unload_all_models()
        tiny = managed(load("random", torch.device("cpu"), torch.float32), device)

        def play():
            requests = take_batch(encode_prompt(tiny, Prompt("piano", seconds=1)), Sampling(2), 2, 1)
            return torch.stack(render("random", eager_engine(tiny), requests)[0]).cpu()

        report["Load Model"] = memory(play)
    return report


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))  # noqa: T201
