"""Opens a deserialised plan: the settings of its context, and the comparison with its sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import EngineError
from ..files.sidecar import Sidecar
from ..library.flavor import Flavor, to_torch
from ..library.messages import Errors, checked

if TYPE_CHECKING:
    import tensorrt as trt


def make_context(
    engine: trt.ICudaEngine, flavor: Flavor, errors: Errors, graphs: bool, caches: list[Any]
) -> trt.IExecutionContext | None:
    """Make an execution context whose workspace is allocated once, for the largest profile."""
    module = flavor.module
    config: trt.IRuntimeConfig = checked("create_runtime_config", engine.create_runtime_config(), errors)
    config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.STATIC)
    _tune(config, flavor, errors, graphs, caches)
    context: trt.IExecutionContext | None = engine.create_execution_context(config)
    if context is not None:
        context.nvtx_verbosity = module.ProfilingVerbosity.NONE  # detailed ranges cost time at every execute
    return context


def _tune(config: Any, flavor: Flavor, errors: Errors, graphs: bool, caches: list[Any]) -> None:
    """Set the options that only TensorRT-RTX has.

    Kernels are compiled when a shape first occurs, not replaced while it plays. They are cached for the life of the
    process only: a stored cache would be one more piece of native code to trust.
    """
    module = flavor.module
    if flavor.own_graphs:
        off, on = module.CudaGraphStrategy.DISABLED, module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.cuda_graph_strategy = on if graphs else off
    if flavor.specialization:
        eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
    if flavor.runtime_cache:
        if not caches:
            caches.append(checked("create_runtime_cache", config.create_runtime_cache(), errors))
        checked("set_runtime_cache", config.set_runtime_cache(caches[0]), errors)


def check_io(engine: trt.ICudaEngine, sidecar: Sidecar) -> None:
    """Raise `EngineError` where the opened engine differs from its sidecar: I/O, dtypes, memory locations, profiles."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    said = {one["name"]: (one["mode"], one["dtype"]) for one in sidecar.io}
    found = {
        name: (
            engine.get_tensor_mode(name).name.lower(),
            str(to_torch(engine.get_tensor_dtype(name))).removeprefix("torch."),
        )
        for name in names
    }
    if found != said:
        odd = sorted(name for name in found.keys() | said.keys() if found.get(name) != said.get(name))
        raise _other(f"its tensors {', '.join(odd)} are not the sidecar's", sidecar)
    if host := [name for name in names if engine.get_tensor_location(name).name != "DEVICE"]:
        raise _other(f"{', '.join(host)} must lie in the host's memory", sidecar)
    if engine.num_optimization_profiles != len(sidecar.profiles):
        raise _other(f"it has {engine.num_optimization_profiles} profiles", sidecar)
    for i, profile in enumerate(sidecar.profiles):
        for name, shapes in profile.shapes(sidecar.export["inputs"]).items():
            have = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, i))
            if have != shapes:
                raise _other(f"profile {i} takes {name} as {have}, not {shapes}", sidecar)


def _other(what: str, sidecar: Sidecar) -> EngineError:
    return EngineError(
        f"the opened engine {sidecar.spec.name} is not what its sidecar says: {what}",
        "both must come from one build",
        f"run {sidecar.command()}",
    )
