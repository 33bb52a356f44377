"""The `ostinato` command. Heavy modules are imported inside the commands, so that --help is quick."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine_runtime.errors import plain, printable
from .bench import app as bench
from .engines import build, doctor, inspect
from .plan import fits, plan
from .terminal import FAILED, Bar, check_folder, command_of, exit_codes

if TYPE_CHECKING:
    from .execute import Results
    from .graph import Catalogue, Graph


MOST_FAULTS = 10  # told of

app = typer.Typer(
    help="Play a music diffusion model live, from the command line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.callback()
def ostinato() -> None:
    """Play a music diffusion model live, from the command line."""


@app.command()
def run(
    workflow: Annotated[Path, typer.Argument(help="A workflow saved by ComfyUI, in the editor's or the API form.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NODE.INPUT=VALUE",
            help="Change an input; NODE is an id, a title or a type. knob.NAME=VALUE turns a hot knob.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where files are written.")] = Path("out"),
    input_folder: Annotated[Path | None, typer.Option("--input", help="Where to look for audio first.")] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, nothing else.")] = False,
) -> None:
    """Run a workflow without ComfyUI."""
    with exit_codes():
        # a library that prints must not corrupt the JSON
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            results = _run(workflow, settings or [], out, input_folder, device.value, show_bar=not as_json)
        typer.echo(_as_json(workflow, results) if as_json else _as_text(results))


@app.command()
def replay(
    take: Annotated[Path, typer.Argument(metavar="TAKE", help="A take that Save Take wrote.")],
    out: Annotated[Path, typer.Option(help="Where the audio is written.")] = Path("out"),
    model: Annotated[str | None, typer.Option(help="The model, where it is no longer where the take says.")] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs; auto is where the take ran.")] = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, nothing else.")] = False,
    lora: Annotated[
        list[Path] | None, typer.Option(help="An adapter that the take plays with; as often as there are.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replay on another engine too, where the music may differ.")] = False,
) -> None:
    """Make a take's music again; exits with 1 where a latent is not the take's, bit by bit."""
    from .replay import render_again

    with exit_codes():
        check_folder(out)
        with redirect_stdout(sys.stderr if as_json else sys.stdout), Bar(not as_json and sys.stderr.isatty()) as bar:
            bar.named(take.name)
            report = render_again(take, out, model, device.value, force, bar.progress, lora or ())
        typer.echo(json.dumps(report.as_json()) if as_json else report.as_text())
    if report.differing:
        raise typer.Exit(FAILED)


class Mode(StrEnum):
    loop = "loop"
    endless = "endless"


@app.command()
def live(
    workflow: Annotated[Path, typer.Argument(help="A workflow with a Live Session or a Stream Denoise node.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Change an input, as in run.")
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="loop goes round; endless goes on from what was heard. A Live Session has its own."),
    ] = None,
    node: Annotated[
        str | None, typer.Option(help="The node that plays; the first Live Session without it, else Stream Denoise.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where captures are written.")] = Path("out"),
    input_folder: Annotated[Path | None, typer.Option("--input", help="Where to look for audio first.")] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.auto,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page, on this machine only; 0 takes any.")] = 8189,
) -> None:
    """Play a workflow live, with a page of its knobs in the browser."""
    from ..nodes.shared import host
    from .core_nodes import Folders, next_file, output_folders, use_folders
    from .live import live_graph, play, share_of
    from .settings import apply_settings, split_knobs
    from .workflow import load_json, parse

    with exit_codes():
        types = all_types()
        data = load_json(workflow)
        graph = parse(data, types)
        knobs, others = split_knobs(settings or [])
        apply_settings(graph, types, others)
        check_folder(out)
        with use_folders(Folders(out, _inputs(input_folder, workflow))), Bar(sys.stderr.isatty()) as bar:
            given = host.Host(
                progress=bar.progress,
                device=device.value,
                next_file=next_file,
                output_folders=output_folders,
                knobs=knobs,
            )
            with host.use(given):
                share = share_of(data, graph, types)
                for lacking in share.missing:
                    typer.echo(f"Missing: {lacking['kind']} of {lacking['title']}: {lacking['reason']}", err=True)
                made = live_graph(graph, types, node, mode and mode.value, bar.named)
                bar.close()
                _tell_faults(graph)
                play(made, share, port, lambda address: typer.echo(f"Playing at {address} (Ctrl+C ends it)"))


@app.command()
def profile(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="What to load; tiny without it.")] = None,
    size: Annotated[str | None, typer.Option(help="2b, xl or tiny: random weights, in place of a model.")] = None,
    engine: Annotated[str, typer.Option(help="eager, compiled, fp8, int8, or a TensorRT engine.")] = "eager",
    depth: Annotated[int, typer.Option(help="Generations in flight.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 60.0,
    steps: Annotated[int, typer.Option(help="Of each.")] = 8,
    guidance: Annotated[str, typer.Option(help="off, or full: negative rows at every step (base models).")] = "off",
    tokens: Annotated[int, typer.Option(help="Of each condition.")] = 128,
    ticks: Annotated[int, typer.Option(help="Timed, once without and once with the profiler.")] = 10,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.auto,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    diff: Annotated[tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Compare two.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, nothing else.")] = False,
) -> None:
    """Show where a tick's time goes, layer by layer, or what changed between two such profiles."""
    from .profile import Difference, LayerProfile, Workload, compare, measure, origin_of

    found: Difference | LayerProfile
    with exit_codes():
        where: dict[str, Any] = {}
        if diff is not None:
            found = compare(*diff)
        else:
            where = origin_of(device.value, command_of(context, "profile"))
            workload = Workload(depth, seconds, steps, guidance, tokens)
            with redirect_stdout(sys.stderr if as_json else sys.stdout), Bar(sys.stderr.isatty()) as bar:
                bar.named("profile")
                found = measure(engine, (model, size), (device.value, precision), workload, ticks, bar.progress)
        typer.echo(json.dumps(where | found.as_json()) if as_json else found.text())


@app.command()
def nodes() -> None:
    """List the nodes a workflow may use."""
    with exit_codes():
        types = all_types()
        width = max(len(name) for name in types)
        for name, node_type in sorted(types.items()):
            line = " ".join(node_type.schema.description.split())
            typer.echo(f"{name:{width}}  {line or node_type.title}")


@app.command()
def knobs() -> None:
    """List what can be turned while music plays: default, range, what it does."""
    from ..engine_runtime.controls.knobs import KNOBS

    for knob in KNOBS.values():
        typer.echo(f"{knob.name:16} {knob.default_text:15} {knob.range_text:36} {knob.help}")


for command in (build, inspect, doctor, plan):
    app.command()(command)
bench.command()(fits)
app.add_typer(bench, name="bench")


def main() -> None:
    app()


def all_types() -> Catalogue:
    """Return the pack's node types and the core ones."""
    from ..nodes import NODES
    from .core_nodes import CORE_NODES
    from .graph import catalogue

    return catalogue(NODES, CORE_NODES)


def _run(path: Path, settings: list[str], out: Path, input_folder: Path | None, device: str, show_bar: bool) -> Results:
    from ..nodes.shared import host
    from .core_nodes import Folders, next_file, output_folders, use_folders
    from .execute import run_graph
    from .settings import apply_settings, split_knobs
    from .workflow import load_json, parse

    data = load_json(path)
    types = all_types()
    graph = parse(data, types)
    knobs, settings = split_knobs(settings)
    apply_settings(graph, types, settings)
    check_folder(out)
    with Bar(show_bar and sys.stderr.isatty()) as bar, use_folders(Folders(out, _inputs(input_folder, path))):
        with host.use(
            host.Host(
                progress=bar.progress, device=device, next_file=next_file, output_folders=output_folders, knobs=knobs
            )
        ):
            results = run_graph(graph, types, data if "nodes" in data else None, bar.start)
    _tell_faults(graph)
    return results


def _tell_faults(graph: Graph) -> None:
    """Tell of nodes that cannot be run and that no output needed."""
    for error in list(graph.faults.values())[:MOST_FAULTS]:
        typer.echo(f"Passed over: {error}", err=True)


def _inputs(first: Path | None, workflow: Path) -> tuple[Path, ...]:
    """List where to look for audio."""
    examples = Path(__file__).resolve().parent.parent / "example_workflows"
    return (*([first] if first else []), workflow.parent, Path("."), examples)


def _as_json(path: Path, results: Results) -> str:
    return json.dumps(
        {
            "workflow": str(path),
            "nodes": results.nodes,
            "finished": results.finished,
            "ticks": results.ticks,
            "ms_per_tick": results.ms_per_tick,
            "realtime": results.realtime,
            "files": results.files,
            "texts": results.texts,
        }
    )


def _as_text(results: Results) -> str:
    lines = []
    for title, text in results.texts.items():
        lines += [plain(title), *(f"  {printable(line)}" for line in text.splitlines())]
    if results.finished is not None:
        lines.append(
            f"{results.finished} latents finished in {results.ticks} ticks, {results.ms_per_tick:.1f} ms per tick, "
            f"{results.realtime:.2f} times real time"
        )
    lines += [f"wrote {printable(file)}" for file in results.files]
    return "\n".join(lines or [f"ran {results.nodes} nodes; nothing was written"])
