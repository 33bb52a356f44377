"""`ostinato build`, `inspect` and `doctor`: TensorRT engines from the command line."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine_runtime.errors import LONGEST, InputError, plain
from .terminal import FAILED, INTERRUPTED, exit_codes

if TYPE_CHECKING:
    from ..engine_runtime.trt.build.job import Job
    from ..engine_runtime.trt.files.spec import BuildSpec
    from ..engine_runtime.trt.health.state import Health


class What(StrEnum):
    decoder = "decoder"
    vae_decoder = "vae-decoder"
    vae_encoder = "vae-encoder"


class FlavorName(StrEnum):
    rtx = "rtx"
    tensorrt = "tensorrt"


class Precision(StrEnum):
    bf16 = "bf16"
    fp32 = "fp32"


class Size(StrEnum):
    two_b = "2b"


Engines = Annotated[
    Path | None, typer.Option(help="The engines folder; else OSTINATO_ENGINES, else one of the user's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, nothing else.")]


def build(
    model: Annotated[str | None, typer.Option(help="A preset, a folder, a checkpoint, or a hub id.")] = None,
    model_kind: Annotated[
        str | None, typer.Option(help="turbo, base or sft, where the checkpoint does not say.")
    ] = None,
    model_vae: Annotated[Path | None, typer.Option(help="The VAE's file, of a checkpoint that has none.")] = None,
    model_text_encoder: Annotated[Path | None, typer.Option(help="The text encoder's file, likewise.")] = None,
    size: Annotated[Size | None, typer.Option(help="Random weights of that size instead, to measure with.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="A graph that --keep-onnx left, instead of a model.")] = None,
    what: Annotated[What, typer.Option(help="The part of the model.")] = What.decoder,
    flavor: Annotated[FlavorName, typer.Option(help="rtx is TensorRT-RTX, whose builder needs no GPU.")] = (
        FlavorName.rtx
    ),
    precision: Annotated[Precision | None, typer.Option(help="bf16 for a decoder, fp32 for a VAE, unless given.")] = (
        None
    ),
    batch: Annotated[str | None, typer.Option(metavar="MIN:OPT:MAX", help="Rows. (default 1:4:16)")] = None,
    seconds: Annotated[str | None, typer.Option(metavar="MIN:OPT:MAX", help="Of music. (default 2:10:60)")] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="Of a condition. (default 16:128:512)")
    ] = None,
    lora: Annotated[bool, typer.Option(help="With inputs for low-rank adapters.")] = False,
    rank: Annotated[str | None, typer.Option(metavar="MIN:OPT:MAX", help="Of adapters. (default 1:8:128)")] = None,
    refittable: Annotated[bool, typer.Option(help="Weights can be exchanged; rtx needs a GPU for it.")] = False,
    tf32: Annotated[bool, typer.Option(help="Round fp32 products to TF32.")] = False,
    engines: Engines = None,
    name: Annotated[str | None, typer.Option(help="Of the engine; else made from the rest.")] = None,
    keep_onnx: Annotated[bool, typer.Option(help="Leave the exported graph beside the engine.")] = False,
    wait: Annotated[bool, typer.Option(help="For another build that runs in the folder.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build a TensorRT engine in a child process; Ctrl-C cancels. A number in place of MIN:OPT:MAX is a fixed size.

    Several profiles are written with commas: --batch 1:1:4,4:8:16.
    """
    with exit_codes():
        from ..engine_runtime.models.given import Given
        from ..engine_runtime.trt.files.spec import make_spec

        vae, encoder = (str(path.absolute()) if path else None for path in (model_vae, model_text_encoder))
        source = {"model": model, "size": size and size.value, "onnx": str(onnx.absolute()) if onnx else None}
        if not any(source.values()):
            raise InputError("no model is given", "a build needs weights", "give --model, or --size 2b to measure")
        texts = {"batch": batch, "seconds": seconds, "tokens": tokens, "rank": rank}
        switches = {
            "lora": lora,
            "refittable": refittable,
            "tf32": tf32,
            "keep_onnx": keep_onnx,
            "given": Given(model_kind, vae, encoder),
        }
        kind, chosen = what.value.replace("-", "_"), precision and precision.value
        spec = make_spec(flavor.value, kind, source, texts, name, chosen, **switches)
        job = _follow(spec, engines, wait, show=not as_json)
        if job is None:
            typer.echo("ostinato: cancelled; nothing was left behind", err=True)
            raise typer.Exit(INTERRUPTED)
        plan = job.result()
        if job.unverified:
            typer.echo(f"ostinato: {plan.name} is unverified: {job.unverified}", err=True)
        typer.echo(json.dumps(_built(plan)) if as_json else _built_text(plan))


def _follow(spec: BuildSpec, engines: Path | None, wait: bool, show: bool) -> Job | None:
    """Show a build's progress until it ends; returns None where Ctrl-C cancelled it."""
    from tqdm import tqdm

    from ..engine_runtime.trt.build.job import Job, State

    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=100, disable=not (show and sys.stderr.isatty()), file=sys.stderr, bar_format=layout) as bar:

        def changed(job: Job) -> None:
            bar.set_description_str(job.message[:60], refresh=False)
            bar.update(100 * job.fraction - bar.n)

        with _ctrl_c() as pressed:
            job = Job.start(spec, engines, wait=wait, changed=changed)
            while not job.over and not pressed.is_set():
                job.wait(0.2)
        if pressed.is_set() and job.cancel() is not State.done:
            return None
    return job


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets. An exception could be raised in a destructor and be lost."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _built(plan: Path) -> dict[str, Any]:
    from ..engine_runtime.trt.files.sidecar import read_sidecar

    sidecar = read_sidecar(plan)
    return {
        "plan": str(plan),
        "sha256": sidecar.plan_sha256,
        "bytes": sidecar.plan_bytes,
        "seconds": sidecar.seconds,
        "stages": sidecar.stages,
        "peak_bytes": sidecar.peak_bytes,
        "random_weights": sidecar.random_weights,
    }


def _built_text(plan: Path) -> str:
    from ..engine_runtime.trt.library.preflight import size

    made = _built(plan)
    peak = f", at most {size(made['peak_bytes'])} of memory" if made["peak_bytes"] else ""
    noise = "\nits weights are random: it is there to measure with, and plays noise" if made["random_weights"] else ""
    stages = ", ".join(f"{name} {seconds:g} s" for name, seconds in made["stages"].items() if seconds)
    return f"wrote {plan}: {size(made['bytes'])} in {made['seconds']:g} s ({stages}){peak}{noise}"


def inspect(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="A .plan file, or the name of one in the folder.")],
    engines: Engines = None,
    as_json: AsJson = False,
) -> None:
    """Read an engine whole, show what it is and whether it can play here; exits with 1 where it cannot."""
    with exit_codes():
        from ..engine_runtime.trt.health.state import READY, expects, health

        plan = _plan_of(engine, engines)
        state = health(plan, expects(), whole=True)
        typer.echo(json.dumps(_state_json(state)) if as_json else _state_text(state))
    if state.state != READY:
        raise typer.Exit(FAILED)


def _plan_of(engine: Path, engines: Path | None) -> Path:
    from ..engine_runtime.trt.files.folder import engines_home

    if engine.suffix == ".plan" or engine.exists():
        return engine.absolute()
    return (engines or engines_home()).absolute() / f"{engine}.plan"


def _state_json(state: Health) -> dict[str, Any]:
    return {
        "plan": str(state.plan),
        "state": state.state,
        "reason": state.reason,
        "why": str(state.error) if state.error else "",
        "verified": state.verified,
        "identity": state.sidecar.identity() if state.sidecar else "",
        "sidecar": state.sidecar.as_json() if state.sidecar else None,
    }


def _state_text(state: Health) -> str:
    from ..engine_runtime.trt.library.preflight import size

    lines = [state.text()]
    sidecar = state.sidecar
    if sidecar is None:
        return lines[0]
    record, spec = sidecar.export, sidecar.spec
    target = ", ".join(f"{name} {value}" for name, value in sidecar.target.items())
    rows = {
        "made of": f"{record['kind']} of {spec.model or spec.onnx or f'random weights, {spec.size}'}",
        "precision": f"{record['precision']}, TF32 {'on' if sidecar.flags.get('tf32') else 'off'}",
        "library": f"{sidecar.flavor} {sidecar.library}",
        "target": target,
        "built": f"{sidecar.built} in {sidecar.seconds:g} s",
        "memory": size(sidecar.peak_bytes) + " at most, to build" if sidecar.peak_bytes else "unknown",
        "file": f"{size(sidecar.plan_bytes)}, sha256 {sidecar.plan_sha256}",
        "to accept": sidecar.identity(),
        "weights": record["weights"],
        "recipe": record["recipe"],
        "adapters": "as inputs" if spec.lora else "none",
        "refittable": "yes" if sidecar.refittable else "no",
    }
    rows |= {f"profile {i}": str(profile) for i, profile in enumerate(sidecar.profiles)}
    lines += [f"  {name:11}{plain(value)}" for name, value in rows.items()]
    lines += [f"  {line}" for line in _proof_lines(sidecar.proof)] if state.error is None else []
    lines.append(f"  {'again':11}{plain(sidecar.command(state.plan), 4 * LONGEST)}")
    return "\n".join(lines)


def _proof_lines(proof: dict[str, Any] | None) -> list[str]:
    from ..engine_runtime.engines.prove import Proof

    checked = Proof.of(proof)
    if checked is None:
        return [f"{'check':11}not passed on any GPU yet; run ostinato doctor --engine FILE where it plays"]
    return [f"{'check':11}{checked.summary()}", *(f"{'':11}{corner}" for corner in checked.corners)]


def doctor(
    engine: Annotated[Path | None, typer.Option(help="Look at this one, whole, and on a GPU check it.")] = None,
    accept: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Trust the --engine, built elsewhere, by what inspect told its maker."),
    ] = None,
    engines: Engines = None,
    check: Annotated[bool, typer.Option(help="Whether to run the check where there is a GPU.")] = True,
    model: Annotated[
        str | None, typer.Option(help="Check the --engine against it; else against what it was built from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with engines here, and how to mend it; exits with 1 where something is wrong.

    All engines are judged by their sidecars and sizes, and the one of --engine by its bytes.
    """
    with exit_codes():
        from ..engine_runtime.trt.files.folder import engines_home
        from ..engine_runtime.trt.files.plan import accept as trust_by_hash
        from ..engine_runtime.trt.health.doctor import PROBLEM, examine_all

        plan = _plan_of(engine, engines) if engine is not None else None
        if plan is None and not (accept is None and model is None):
            raise InputError("no engine is named", "--accept and --model are for one", "give --engine FILE")
        if plan is not None and accept is not None:
            trust_by_hash(plan, accept)
        found = examine_all((engines or engines_home()).absolute(), only=plan, model=model)
        wrong = any(one.level == PROBLEM for one in found)
        if plan is not None and check and not wrong:
            _check(plan, model, as_json)
        rows = [{"level": one.level, "what": one.what, "remedy": one.remedy} for one in found]
        typer.echo(json.dumps({"findings": rows}) if as_json else "\n".join(one.text() for one in found))
    if wrong:
        raise typer.Exit(FAILED)


def _check(plan: Path, model: str | None, quiet: bool) -> None:
    """Check one engine on the GPU, if there is one."""
    import torch

    if not torch.cuda.is_available():
        return
    from ..engine_runtime.models.loading import load
    from ..engine_runtime.trt.export.record import PRECISIONS
    from ..engine_runtime.trt.files.sidecar import read_sidecar
    from ..engine_runtime.trt.health.state import check_here

    def tell(text: str) -> None:
        if not quiet:
            typer.echo(f"{text} ...", err=True)

    given = None
    if model is not None:
        tell(f"loading {model}")
        given = load(model, torch.device("cpu"), PRECISIONS[read_sidecar(plan).spec.precision])
    sidecar = check_here(plan, tell=tell, model=given)
    for line in [] if quiet else _proof_lines(sidecar.proof):
        typer.echo(line)
