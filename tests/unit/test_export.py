"""Exported graphs against eager, their names, files and refusals; and that TensorRT-RTX builds them."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from ostinato.engine_runtime.engines.decoder import MaskedDecoder
from ostinato.engine_runtime.errors import EngineBuildError, InputError
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.trt.export import export, write
from ostinato.engine_runtime.trt.onnxcheck import Case, check_export, eager, open_session, random_inputs, run, upcast
from ostinato.engine_runtime.trt.record import ExportOptions, opset_for, recipe, weights_digest, weights_of

from ..exports import built_by_rtx, concatenated, other_sizes, shortened

NEEDED = ("onnx", "onnxscript", "onnxruntime")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install -e '.[rtx]'")

FP32 = ExportOptions("fp32")
# name -> kind and options. Together they hold every opset, precision and switch.
GRAPHS = {
    "turbo": ("decoder", FP32),
    "adapters": ("decoder", replace(FP32, opset=20, lora=True)),
    "low": ("decoder", ExportOptions(lora=True)),
    "other": ("decoder", ExportOptions(opset=20)),
    "voice": ("vae_decoder", FP32),
    "ear": ("vae_encoder", FP32),
}
DECODERS = [name for name, (kind, _) in GRAPHS.items() if kind == "decoder"]
# fp32 against fp32 differs by 5e-6 at most here, of values of some 5; a frequency or a scale rounded twice gives 3e-5.
CLOSE = 1.5e-5

Made = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="module")
def made(turbo: Model, base: Model, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`made(name)`: a graph of `GRAPHS`, exported once, and its model."""
    folder, known = tmp_path_factory.mktemp("graphs"), {}
    sources: dict[str, Callable[[], Any]] = {
        "turbo": lambda: shortened(turbo.pipe.transformer),
        "adapters": lambda: shortened(base.pipe.transformer),
        "low": lambda: shortened(turbo.pipe.transformer).bfloat16(),
        "other": lambda: other_sizes().bfloat16(),
        "voice": lambda: turbo.pipe.vae,
        "ear": lambda: turbo.pipe.vae,
    }

    def get(name: str) -> tuple[Path, Any]:
        if name not in known:
            kind, options = GRAPHS[name]
            model = sources[name]()
            known[name] = export(kind, model, folder, options, name), model
        return known[name]

    return get


@pytest.fixture(scope="module")
def ready(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, dict[str, Any], Any]]:
    """`ready(name)`: an onnxruntime session in float32, the export record, and the float32 model."""
    known: dict[str, tuple[Any, dict[str, Any], Any]] = {}

    def get(name: str) -> tuple[Any, dict[str, Any], Any]:
        if name not in known:
            path, model = made(name)
            record = read(path)
            if record["precision"] == "bf16":
                path = upcast(path, tmp_path_factory.mktemp("wide"))
                model = copy.deepcopy(model).float()
            known[name] = open_session(path), record, model
        return known[name]

    return get


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(f"{path.name}.json").read_text())


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


SIZES = [Case(1, 2), Case(1, 62, 7), Case(2, 16, 100, 3), Case(3, 200, 33), Case(8, 64, 5, 2)]


@pytest.mark.parametrize("case", SIZES, ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_graph_equals_eager_at_any_size(ready: Any, name: str, case: Case) -> None:
    session, record, model = ready(name)
    feeds = random_inputs(record["inputs"], case, seeded())
    feeds |= {name: tensor * 0.3 for name, tensor in feeds.items() if name.endswith("_b")}
    torch.testing.assert_close(run(session, feeds), eager("decoder", model, feeds), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("case", [Case(1, 1), Case(2, 7), Case(3, 12)], ids=str)
@pytest.mark.parametrize("name", ["voice", "ear"])
def test_a_vae_graph_equals_eager_at_any_size(ready: Any, name: str, case: Case) -> None:
    session, record, model = ready(name)
    feeds = random_inputs(record["inputs"], case, seeded())
    out = run(session, feeds)
    assert out.shape[2] == (case.frames * 1920 if name == "voice" else case.frames)
    torch.testing.assert_close(out, eager(record["kind"], model, feeds), atol=CLOSE, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 17, 63, 201])
def test_an_odd_length_is_padded_outside_and_sliced(ready: Any, frames: int) -> None:
    session, record, model = ready("turbo")
    feeds = random_inputs(record["inputs"], Case(2, frames + 1, 9), seeded())
    feeds["encoder_attention_mask"][:] = True
    for name in ("hidden_states", "context_latents"):
        feeds[name][:, frames:] = 0.0
    with torch.no_grad():
        expected = model(
            hidden_states=feeds["hidden_states"][:, :frames],
            timestep=feeds["timestep"],
            timestep_r=feeds["timestep"],
            encoder_hidden_states=feeds["encoder_hidden_states"],
            context_latents=feeds["context_latents"][:, :frames],
        ).sample
    torch.testing.assert_close(run(session, feeds)[:, :frames], expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", ["turbo", "other"])
def test_a_masked_row_equals_the_row_without_its_padding(ready: Any, name: str) -> None:
    session, record, _ = ready(name)
    feeds = random_inputs(record["inputs"], Case(3, 32, 40), seeded())
    lengths = [1, 13, 40]
    feeds["encoder_attention_mask"] = torch.arange(40) < torch.tensor(lengths)[:, None]
    feeds["encoder_hidden_states"][~feeds["encoder_attention_mask"]] = 1e3
    together = run(session, feeds)
    for row, length in enumerate(lengths):
        alone = {key: tensor[row : row + 1] for key, tensor in feeds.items()}
        for key in ("encoder_hidden_states", "encoder_attention_mask"):
            alone[key] = alone[key][:, :length]
        torch.testing.assert_close(together[row], run(session, alone)[0], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", ["low", "other"])
def test_bf16_rounds_as_eager_does(made: Made, name: str) -> None:
    """The file itself, by ONNX's reference evaluator. Measured against float32, as shares of eager's own distance:
    0.9 to 1.0 written out, 1.5 with the attention operator, whose softmax the evaluator takes in bf16."""
    import ml_dtypes
    from onnx.reference import ReferenceEvaluator

    path, model = made(name)
    feeds = random_inputs(read(path)["inputs"], Case(2, 62, 17), seeded())
    low = {key: v.bfloat16() if v.dtype == torch.float32 and key != "timestep" else v for key, v in feeds.items()}
    silent = {key: torch.zeros_like(v) if key.startswith("lora_") else v for key, v in low.items()}
    raw = {
        key: v.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if v.dtype == torch.bfloat16 else v.numpy()
        for key, v in silent.items()
    }
    out = torch.from_numpy(ReferenceEvaluator(str(path)).run(None, raw)[0].astype("float32"))
    inputs = {key: v for key, v in low.items() if not key.startswith("lora_")}
    truth = eager("decoder", copy.deepcopy(model).float(), {k: feeds[k] for k in inputs})
    with torch.no_grad():
        rounded = MaskedDecoder(model)(**inputs).float()
    own = (rounded - truth).norm()
    assert (out - truth).norm() < 2 * own
    assert (out - rounded).norm() < 2.5 * own < 0.05 * truth.norm()


@pytest.mark.parametrize("name", ["adapters", "low"])
@pytest.mark.parametrize("ranks", [(1,), (8,), (32,), (3, 8, 21)], ids=str)
def test_adapters_as_inputs_equal_merged_weights(ready: Any, name: str, ranks: tuple[int, ...]) -> None:
    session, record, model = ready(name)
    generator = seeded(len(ranks))
    adapters = []
    for i, rank in enumerate(ranks):
        feeds = random_inputs(record["inputs"], Case(2, 48, 12, rank), generator)
        adapters.append((0.3 - 0.1 * i, {key: v for key, v in feeds.items() if key.startswith("lora_")}))
    feeds |= concatenated(adapters)
    out, expected = run(session, feeds), eager("decoder", model, feeds)
    assert (out - expected).abs().max() <= 1e-5
    silent = {key: torch.zeros_like(v[:, :1]) if key.endswith("_a") else torch.zeros_like(v[..., :1])
              for key, v in feeds.items() if key.startswith("lora_")}  # fmt: skip
    plain = run(session, {**feeds, **silent})
    without = {key: v for key, v in feeds.items() if key not in silent}
    torch.testing.assert_close(plain, eager("decoder", model, without), atol=CLOSE, rtol=0)
    assert (out - plain).abs().max() > 0.1


@pytest.mark.parametrize("name", GRAPHS)
def test_every_weight_is_found_under_its_name(made: Made, name: str) -> None:
    """Also the norms, which are all equal: each stands in the graph by itself."""
    import onnx_ir as ir

    path, model = made(name)
    kind, record = GRAPHS[name][0], read(path)
    graph, weights = ir.load(path).graph, weights_of(kind, model)
    parts = [part for found in record["made"].values() for part in found]
    params = [entry["param"] for entry in record["names"].values()]
    assert len(params) == len(set(params))
    derived = {p for p in weights if p in parts or p.startswith(tuple(f"{part}." for part in parts))}
    assert derived.isdisjoint(params)
    assert derived | set(params) == weights.keys()
    for initializer, entry in record["names"].items():
        stored = torch.from_numpy(graph.initializers[initializer].const_value.numpy().astype("float32"))
        weight = weights[entry["param"]].detach().float()
        assert torch.equal(stored, weight.mT if entry["transposed"] else weight), initializer
        assert initializer == entry["param"] + (".T" if entry["transposed"] else "")
    assert set(record["made"]) <= set(graph.initializers)
    if kind == "decoder":
        assert all(entry["transposed"] for n, entry in record["names"].items() if ".to_" in n and "weight" in n)


@pytest.mark.parametrize("name", GRAPHS)
def test_sizes_stay_free_and_are_named(made: Made, name: str) -> None:
    import onnx

    path, model = made(name)
    kind, options = GRAPHS[name]
    record, graph = read(path), onnx.load(str(path)).graph
    for ports, values in ((record["inputs"], graph.input), (record["outputs"], graph.output)):
        assert [port["name"] for port in ports] == [value.name for value in values]
        for port, value in zip(ports, values, strict=True):
            dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            assert dims == port["dims"]
            assert dims[0] == "b" or port["name"].startswith("lora_")
    if kind == "decoder":
        assert record["inputs"][0]["dims"] == ["b", "2*t2", 64]
        assert record["inputs"][2]["dims"] == ["b", "l", model.condition_embedder.in_features]
        assert len(record["inputs"]) == (27 if options.lora else 5)
    operators = {node.op_type for node in graph.node}
    assert operators.isdisjoint({"Conv", "ConvTranspose"}) == (kind == "decoder")
    assert ("Attention" in operators) == (kind == "decoder" and options.opset == 23)
    text = path.read_bytes()
    assert not any(word in text for word in (b"site-packages", b".py", str(Path.home()).encode()))
    onnx.checker.check_model(str(path), full_check=True)


def test_weights_past_the_limit_lie_in_a_file_of_their_own(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    import onnx_ir as ir

    path, model = made("turbo")
    monkeypatch.setattr("ostinato.engine_runtime.trt.export.LARGEST", 1_000_000)
    again = write(ir.load(path), read(path), tmp_path, "turbo", False, lambda what, share: None)
    data = tmp_path / "turbo.onnx.data"
    assert again.stat().st_size < 500_000 < data.stat().st_size
    record = read(again)
    assert record["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert record["onnx_sha256"] == hashlib.sha256(again.read_bytes()).hexdigest()
    check_export(again, model, [Case(2, 30, 7)], CLOSE)
    monkeypatch.undo()
    write(ir.load(path), read(path), tmp_path, "turbo", False, lambda what, share: None)
    assert not data.exists() and read(again)["data_sha256"] is None


@pytest.mark.parametrize("when", ["writing", "hashing"])
def test_a_stop_leaves_the_older_files_alone(made: Made, tmp_path: Path, when: str) -> None:
    import onnx_ir as ir

    def stop(what: str, share: float) -> None:
        if what == when and share > 0.7:
            raise KeyboardInterrupt

    path, _ = made("turbo")
    write(ir.load(path), read(path), tmp_path, "one", True, lambda what, share: None)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(before) == ["one.onnx", "one.onnx.data", "one.onnx.json"]
    with pytest.raises(KeyboardInterrupt):
        write(ir.load(path), read(path), tmp_path, "one", True, stop)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_check_finds_other_weights(made: Made) -> None:
    path, model = made("low")
    assert max(check_export(path, model)) < 1e-4
    wrong = copy.deepcopy(model)
    wrong.layers[1].mlp.down_proj.weight[0] *= 2
    with pytest.raises(EngineBuildError, match="differs from eager"):
        check_export(path, wrong)


def test_the_digest_is_of_the_weights_and_nothing_else(made: Made) -> None:
    path, model = made("low")
    stored = read(path)["weights"]
    assert weights_digest("decoder", copy.deepcopy(model).float(), "bf16") == stored
    assert weights_digest("decoder", model, "fp32") != stored
    changed = copy.deepcopy(model)
    changed.norm_out.weight[3] += 0.5
    assert weights_digest("decoder", changed, "bf16") != stored
    assert read(made("voice")[0])["weights"] != read(made("ear")[0])["weights"]


def test_a_recipe_names_all_that_decides() -> None:
    variants = [recipe(kind, options) for kind, options in GRAPHS.values()]
    assert len(set(variants)) == len(GRAPHS)
    assert recipe("decoder", FP32) == recipe("decoder", replace(FP32, external=True))


def test_the_opset_follows_the_library() -> None:
    assert [opset_for("tensorrt", v) for v in ((10, 13), (10, 14, 9), (10, 15), (11, 0))] == [20, 20, 23, 23]
    assert opset_for("tensorrt_rtx", (1, 4)) == 23


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("decoder", ExportOptions("fp16"), "precision is 'fp16'"),
        ("decoder", ExportOptions("fp32", 21), "opset is 21"),
        ("encoder", FP32, "kind is 'encoder'"),
        ("vae_decoder", ExportOptions(), "vae_decoder is asked for in bf16"),
        ("vae_encoder", replace(FP32, lora=True), "with adapters"),
        ("vae_decoder", FP32, "of AutoencoderOobleck"),
        ("decoder", ExportOptions(), "float32 on cpu; for bf16"),
    ],
)
def test_what_does_not_fit_is_refused_first(tmp_path: Path, kind: str, options: ExportOptions, match: str) -> None:
    with pytest.raises(InputError, match=match):
        export(kind, other_sizes(), tmp_path / "new", options)
    assert not (tmp_path / "new").exists()


def test_a_model_of_another_patch_size_is_refused(tmp_path: Path) -> None:
    model = AceStepTransformer1DModel(64, 96, 1, 2, 2, 32, patch_size=4)
    with pytest.raises(EngineBuildError, match="patch size"):
        export("decoder", model, tmp_path, FP32)


def test_a_size_that_became_fixed_is_refused(made: Made) -> None:
    import onnx_ir as ir
    from ostinato.engine_runtime.trt.graph import DecoderGraph
    from ostinato.engine_runtime.trt.naming import tidy
    from ostinato.engine_runtime.trt.record import ports

    path, model = made("turbo")
    graph = ir.load(path)
    graph.graph.inputs[1].shape = ir.Shape([3])
    with pytest.raises(EngineBuildError, match=r"timestep was exported with dimensions \['3'\]"):
        tidy(graph, DecoderGraph(model), weights_of("decoder", model), *ports("decoder", model, FP32))


def test_a_weight_that_is_lost_is_named(made: Made) -> None:
    import onnx_ir as ir
    from ostinato.engine_runtime.trt.graph import DecoderGraph
    from ostinato.engine_runtime.trt.naming import tidy
    from ostinato.engine_runtime.trt.record import ports

    path, model = made("turbo")
    graph = ir.load(path)
    graph.graph.initializers["norm_out.weight"].name = "val_130"
    with pytest.raises(EngineBuildError, match="lacks 1 weights: norm_out.weight"):
        tidy(graph, DecoderGraph(model), weights_of("decoder", model), *ports("decoder", model, FP32))


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tensorrt_rtx", "polygraphy")),
    reason="tensorrt-rtx or polygraphy not installed: pip install -e '.[rtx]'",
)
def test_tensorrt_rtx_builds_every_graph(made: Made) -> None:
    """Dynamic shapes all, and fixed ones where the batch is; no GPU is asked for."""
    jobs = [(made(name)[0], name == "turbo") for name in GRAPHS]
    built = built_by_rtx(jobs)
    for path, _ in jobs:
        record, plan = read(path), built[path.name]
        assert plan["bytes"] > 100_000
        dtypes = {one["name"]: one["dtype"] for one in plan["io"]}
        assert dtypes == {port["name"]: port["dtype"] for port in record["inputs"] + record["outputs"]}
