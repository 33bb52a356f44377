"""Everything that is not ComfyUI, in folders that import only those below them; pyproject.toml has their order.

bench, plots, profile      measuring, and pictures
trt                        engines of TensorRT and TensorRT-RTX
takes, audio               rendering, recording and replaying; latents to audio and back
lora, models               adapters; weights, prompts and conditions
stream                     generations in flight: request, ring, tick, stage, session
engines, numerics          decoders behind one contract; the formulas
config, controls, device   defaults; knobs and curves; CUDA
files, machine, errors, constants
"""
