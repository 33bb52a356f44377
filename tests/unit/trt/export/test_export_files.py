"""Exported files: names, sizes, records, failures; and that TensorRT-RTX builds every graph."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from ostinato.engine_runtime.errors import EngineBuildError, InputError
from ostinato.engine_runtime.trt.export.export import export, write
from ostinato.engine_runtime.trt.export.record import ExportOptions, opset_for, recipe, weights_digest, weights_of

from ....exports import DECODERS, FP32, GRAPHS, WHOLE, Graphs, builds, built_by_rtx, needs_exporter, other_sizes, read
from ....onnx_check import Case, check_export

pytestmark = [needs_exporter, pytest.mark.builds]


# From the last graph to the first: `test_export.py`, which another process may run, begins with the first, and where
# both want the same graph at once, one waits for the other's export.
@pytest.mark.parametrize("name", list(reversed(GRAPHS)))
def test_every_weight_is_found_under_its_name(graphs: Graphs, name: str) -> None:
    """Also the norms, which are all equal: each stands in the graph by itself."""
    import onnx_ir as ir

    path, model = graphs(name)
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
def test_sizes_stay_free_and_are_named(graphs: Graphs, name: str) -> None:
    import onnx

    path, model = graphs(name)
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
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    import onnx_ir as ir

    path, model = graphs("turbo")
    monkeypatch.setattr("ostinato.engine_runtime.trt.export.export.LARGEST", 1_000_000)
    again = write(ir.load(path), read(path), tmp_path, "turbo", False, lambda what, share: None)
    data = tmp_path / "turbo.onnx.data"
    assert again.stat().st_size < 500_000 < data.stat().st_size
    record = read(again)
    assert record["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert record["onnx_sha256"] == hashlib.sha256(again.read_bytes()).hexdigest()
    check_export(again, model, [Case(2, 30, 7)])
    monkeypatch.undo()
    write(ir.load(path), read(path), tmp_path, "turbo", False, lambda what, share: None)
    assert not data.exists() and read(again)["data_sha256"] is None


@pytest.mark.parametrize("when", ["writing", "hashing"])
def test_a_stop_leaves_the_older_files_alone(graphs: Graphs, tmp_path: Path, when: str) -> None:
    import onnx_ir as ir

    def stop(what: str, share: float) -> None:
        if what == when and share > 0.7:
            raise KeyboardInterrupt

    path, _ = graphs("turbo")
    write(ir.load(path), read(path), tmp_path, "one", True, lambda what, share: None)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(before) == ["one.onnx", "one.onnx.data", "one.onnx.json"]
    with pytest.raises(KeyboardInterrupt):
        write(ir.load(path), read(path), tmp_path, "one", True, stop)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_disk_that_fails_midway_leaves_no_record_of_other_files(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx_ir as ir

    path, _ = graphs("turbo")
    write(ir.load(path), read(path), tmp_path, "one", True, lambda what, share: None)
    move = os.replace

    def fails_later(source: Any, target: Any) -> None:
        if Path(target) == tmp_path / "one.onnx":
            raise OSError(28, "No space left on device")
        move(source, target)

    model = ir.load(path)
    monkeypatch.setattr(os, "replace", fails_later)
    with pytest.raises(OSError, match="No space"):
        write(model, read(path), tmp_path, "one", True, lambda what, share: None)
    assert not (tmp_path / "one.onnx.json").exists()
    assert not [file for file in tmp_path.iterdir() if file.is_dir()]


def test_an_exporter_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise ValueError("Constraints violated (t2)!\nmore")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(EngineBuildError, match=r"failed with ValueError: Constraints violated \(t2\)!;"):
        export("decoder", other_sizes(), tmp_path, FP32)
    assert not list(tmp_path.iterdir())


def test_the_digest_is_of_the_weights_and_nothing_else(graphs: Graphs) -> None:
    path, model = graphs("low")
    stored = read(path)["weights"]
    assert weights_digest("decoder", copy.deepcopy(model).float(), "bf16") == stored
    assert weights_digest("decoder", model, "fp32") != stored
    changed = copy.deepcopy(model)
    changed.norm_out.weight[3] += 0.5
    assert weights_digest("decoder", changed, "bf16") != stored
    assert read(graphs("voice")[0])["weights"] != read(graphs("ear")[0])["weights"]


def test_a_recipe_names_all_that_decides() -> None:
    variants = [recipe(kind, options) for kind, options in GRAPHS.values()]
    assert len(set(variants)) == len(set(GRAPHS.values()))
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


def test_a_size_that_became_fixed_is_refused(graphs: Graphs) -> None:
    import onnx_ir as ir
    from ostinato.engine_runtime.trt.export.decoder import DecoderGraph
    from ostinato.engine_runtime.trt.export.naming import tidy
    from ostinato.engine_runtime.trt.export.record import ports

    path, model = graphs("turbo")
    graph = ir.load(path)
    graph.graph.inputs[1].shape = ir.Shape([3])
    with pytest.raises(EngineBuildError, match=r"timestep was exported with dimensions \['3'\]"):
        tidy(graph, DecoderGraph(model), weights_of("decoder", model), *ports("decoder", model, FP32))


def test_a_weight_that_is_lost_is_named(graphs: Graphs) -> None:
    import onnx_ir as ir
    from ostinato.engine_runtime.trt.export.decoder import DecoderGraph
    from ostinato.engine_runtime.trt.export.naming import tidy
    from ostinato.engine_runtime.trt.export.record import ports

    path, model = graphs("turbo")
    graph = ir.load(path)
    graph.graph.initializers["norm_out.weight"].name = "val_130"
    with pytest.raises(EngineBuildError, match="lacks 1 weights: norm_out.weight"):
        tidy(graph, DecoderGraph(model), weights_of("decoder", model), *ports("decoder", model, FP32))


@builds
def test_tensorrt_rtx_builds_every_graph(graphs: Graphs) -> None:
    """Each with dynamic shapes, and the decoders with fixed ones too; no GPU is asked for.

    With turbo in bf16, which `test_trt_build` builds, that is every decoder of a preset, precision and kind of shapes.
    """
    jobs = [(graphs(name)[0], fixed) for name in GRAPHS for fixed in (False, True) if not fixed or name in DECODERS]
    for (path, _), plan in zip(jobs, built_by_rtx(jobs), strict=True):
        record = read(path)
        assert plan["bytes"] > 100_000
        dtypes = {one["name"]: one["dtype"] for one in plan["io"]}
        assert dtypes == {port["name"]: port["dtype"] for port in record["inputs"] + record["outputs"]}
        apart = record["kind"] == "decoder" and record["precision"] == "fp32"
        assert plan["flags"]["decomposable_attention"] == apart and plan["flags"]["tf32"] is False
    for name in WHOLE:
        path, model = graphs(name)
        places = (entry["param"].split(".") for entry in read(path)["names"].values())
        assert len({place[1] for place in places if place[0] == "layers"}) == model.config.num_hidden_layers == 3
