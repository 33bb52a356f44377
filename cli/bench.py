"""`ostinato bench`: measures how fast the stream is, compares two runs, and tests whether it lasts."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine_runtime.bench.case import AHEAD, SOAK_SECONDS, SOAK_TICKS, TICKS, WINDOW_SECONDS
from ..engine_runtime.files import write_whole
from ..engine_runtime.profile.layers import Workload
from .terminal import FAILED, Bar, command_of, exit_codes, listed, numbers, where

if TYPE_CHECKING:
    from ..engine_runtime.bench.run import Plan

app = typer.Typer(add_completion=False)

Engine = Annotated[
    str, typer.Option(help="eager, compiled, fp8, int8, or a TensorRT engine (name or file); or several.")
]
Model = Annotated[str | None, typer.Option(help="What to load; tiny without it.")]
Size = Annotated[str | None, typer.Option(help="2b, xl or tiny: random weights, in place of a model.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16; fp8 and int8 are engines.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, nothing else.")]


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    engine: Engine = "eager",
    model: Model = None,
    size: Size = None,
    depth: Annotated[str, typer.Option(help="Generations in flight; several with commas.")] = f"{Workload.depth}",
    steps: Annotated[int, typer.Option(help="Of each.")] = Workload.steps,
    seconds: Annotated[str, typer.Option(help="Length of each; several with commas.")] = f"{Workload.seconds:g}",
    tokens: Annotated[int, typer.Option(help="Of each condition.")] = Workload.tokens,
    cfg: Annotated[
        str, typer.Option(help="Guidance: off, full, initialize, self; several with commas.")
    ] = Workload.guidance,
    every: Annotated[int, typer.Option(help="Steps from one decoded negative to the next, with --cfg full.")] = 1,
    dcw: Annotated[bool, typer.Option("--dcw", help="With the wavelet correction.")] = False,
    controls: Annotated[bool, typer.Option("--controls", help="With every control of the stream on at once.")] = False,
    sessions: Annotated[int, typer.Option(help="That share the ring, each with --depth slots.")] = 1,
    ahead: Annotated[int, typer.Option(help="Ticks that the host may be ahead of the device.")] = AHEAD,
    ticks: Annotated[int, typer.Option(help="Timed in each of two rounds, rounded up to whole requests.")] = TICKS,
    reference: Annotated[
        str, typer.Option(help="eager, compile, eager-graph, compile-graph; or several: in turn with it, A B A B.")
    ] = "",
    device: Device = "auto",
    precision: Precision = "auto",
    plot: Annotated[Path | None, typer.Option(help="Write a PNG of the times over the floor.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Write the JSON here too, after each case: a long run may end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a stream in its steady state: the session, ring, tick and engine that play, with a full ring.

    Numbers with commas are measured in every combination. The floor is the sum of the decoder's matrix products alone.
    """
    if context.invoked_subcommand is not None:
        return
    with exit_codes():
        from ..engine_runtime.bench.case import grid
        from ..engine_runtime.bench.run import Plan

        rest = dict(steps=steps, tokens=tokens, every=every, dcw=dcw, controls=controls, sessions=sessions, ahead=ahead)
        lengths = numbers("seconds", seconds, float)
        cases = grid(numbers("depth", depth, int), lengths, listed(cfg), **rest)
        plan = Plan(listed(engine), cases, ticks, listed(reference), command_of(context, "bench"))
        found = _measured(plan, (model, size), (device, precision), as_json, keep)
        if plot is not None:
            _draw(found, plot)
        typer.echo(json.dumps(found) if as_json else _table(found))


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN.json", help="What `bench --json` wrote.")],
    plot: Annotated[Path | None, typer.Option(help="Write a PNG of the times over the floor.")] = None,
) -> None:
    """Show the table of a run that was kept."""
    with exit_codes():
        found = _load(run)
        if plot is not None:
            _draw(found, plot)
        typer.echo(_table(found))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="What `bench --json` wrote.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The same, of another revision.")],
    force: Annotated[bool, typer.Option(help="Also where they ran on different devices.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two runs case by case: B over A, with the spread of the rounds.

    Exits with 1 where a case is slower by more than 2 % and in every round of B than in every round of A, else with 0.
    """
    with exit_codes():
        from ..engine_runtime.bench import report

        pairs = report.compare(_load(before), _load(after), force)
        typer.echo(
            json.dumps([pair.as_json() for pair in pairs]) if as_json else "\n".join(pair.text() for pair in pairs)
        )
    if any(pair.verdict == "slower" for pair in pairs):
        raise typer.Exit(FAILED)


@app.command()
def vae(
    context: typer.Context,
    engine: Engine = "eager",
    model: Model = None,
    size: Size = None,
    window: Annotated[float, typer.Option(help="Seconds that are decoded at a time.")] = WINDOW_SECONDS,
    every: Annotated[float, typer.Option(help="Seconds from one window to the next; 0 is back to back.")] = 0.0,
    ticks: Annotated[int, typer.Option(help="Timed in each of two rounds, alone and beside.")] = TICKS,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Decode windows beside the stream, back to back or at a pace: their time, and by how much the ticks slow down."""
    with exit_codes():
        from ..engine_runtime.audio.live_vae import LiveVae
        from ..engine_runtime.bench.beside import beside
        from ..engine_runtime.bench.case import Case
        from ..engine_runtime.bench.subject import opened, source_for
        from ..engine_runtime.models.sized import sized_vae

        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            place, dtype = where("cuda", precision)
            with opened(engine, source_for((engine,), model, size, place, dtype)) as found:
                own = LiveVae(sized_vae(dtype, place))
                measured = beside(found, own, Case(), ticks, window, every, command_of(context, "bench", "vae"))
        typer.echo(json.dumps(measured) if as_json else _beside(measured))


def _beside(found: dict[str, Any]) -> str:
    tick, window = found["tick_ms"], found["window_ms"]
    return (
        f"{found['window']['seconds']:g} s take {window['alone']:.2f} ms to decode, {window['beside']:.2f} ms beside\n"
        f"a tick takes {tick['alone']:.2f} ms alone (mean), {tick['beside']:.2f} ms with "
        f"{found['windows_a_tick']:.2f} windows beside each: {found['slowdown']:+.1%}"
    )


@app.command()
def soak(
    context: typer.Context,
    engine: Engine = "eager",
    model: Model = None,
    size: Size = None,
    seconds: Annotated[float, typer.Option(help="Length of each generation.")] = SOAK_SECONDS,
    ticks: Annotated[int, typer.Option(help="In all.")] = SOAK_TICKS,
    seed: Annotated[int, typer.Option(help="Of what is played.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Play random requests under random knobs and depths; exits with 1 where memory grows or ticks slow down."""
    with exit_codes():
        from ..engine_runtime.bench.origin import origin
        from ..engine_runtime.bench.soak import soak as run
        from ..engine_runtime.bench.subject import opened, source_for

        with redirect_stdout(sys.stderr if as_json else sys.stdout), _bar() as bar:
            bar.named("soak")
            source = source_for((engine,), model, size, *where(device, precision))
            with opened(engine, source) as found:
                made_on = {**origin(found.device, command_of(context, "bench", "soak")), "size": source.name}
                report = run(found, ticks, seconds, seed, bar.progress)
        whole = {**made_on, **report.as_json()}
        typer.echo(json.dumps(whole) if as_json else report.text())
    if report.wrong:
        raise typer.Exit(FAILED)


@app.command()
def live(
    context: typer.Context,
    engine: Engine = "eager",
    model: Model = None,
    size: Size = None,
    seconds: Annotated[float, typer.Option(help="Length of the loop, or of a stretch.")] = 5.0,
    depth: Annotated[int, typer.Option(help="Generations in flight.")] = 1,
    steps: Annotated[int, typer.Option(help="Of each.")] = Workload.steps,
    mode: Annotated[str, typer.Option(help="loop or endless.")] = "loop",
    changes: Annotated[int, typer.Option(help="Of each kind: hot knob, slot, prompt.")] = 30,
    busy: Annotated[int, typer.Option(help="Processes that compute beside it.")] = 0,
    seed_step: Annotated[int, typer.Option(help="Added to the seed of each generation; 0 lets a loop rest.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Turn widgets of a live session: milliseconds from the message to the sound that has it, stage by stage."""
    with exit_codes():
        from ..engine_runtime.bench.live import Case, text
        from ..engine_runtime.bench.live import live as run
        from ..engine_runtime.bench.subject import opened, source_for

        case = Case(seconds, depth, steps, mode, changes, busy, seed_step)
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            source = source_for((engine,), model, size, *where(device, precision))
            with opened(engine, source) as found:
                measured = run(found, source.model(), case, command_of(context, "bench", "live"))
        typer.echo(json.dumps({"size": source.name, **measured}) if as_json else text(measured))


@app.command()
def busy(
    context: typer.Context,
    model: Model = None,
    seconds: Annotated[float, typer.Option(help="Length of each generation.")] = 10.0,
    depth: Annotated[int, typer.Option(help="Generations in flight.")] = Workload.depth,
    cfg: Annotated[str, typer.Option(help="Guidance, as in `bench`.")] = Workload.guidance,
    count: Annotated[int, typer.Option(help="Processes that compute beside it.")] = 2,
    ticks: Annotated[int, typer.Option(help="Timed in each of two rounds.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Time ticks and decodes on the CPU beside busy processes, by threads that compute alone and by a team."""
    with exit_codes():
        from ..engine_runtime.bench.busy import share, text
        from ..engine_runtime.bench.case import Case
        from ..engine_runtime.bench.subject import opened, source_for

        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            source = source_for(("eager",), model, None, *where("cpu", "float32"))
            with opened("eager", source) as found:
                case = Case(depth, seconds=seconds, cfg=cfg)
                measured = share(
                    found, source.model().pipe.vae, case, count, ticks, command_of(context, "bench", "busy")
                )
        typer.echo(json.dumps(measured) if as_json else text(measured))


def _measured(
    plan: Plan, weights: tuple[str | None, str | None], place: tuple[str, str], quiet: bool, keep: Path | None
) -> dict:
    from ..engine_runtime.bench.run import run
    from ..engine_runtime.bench.subject import source_for

    def tell(what: str) -> None:
        typer.echo(f"{what} ...", err=True)

    def kept(found: dict[str, Any]) -> None:
        if keep is not None:
            write_whole(keep, json.dumps(found).encode())

    with redirect_stdout(sys.stderr if quiet else sys.stdout):
        return run(plan, source_for(plan.engines, *weights, *where(*place)), tell, kept)


def _bar() -> Any:
    return Bar(sys.stderr.isatty())


def _load(path: Path) -> dict[str, Any]:
    from ..engine_runtime.bench.report import load

    return load(path)


def _table(found: dict[str, Any]) -> str:
    from ..engine_runtime.bench.report import table

    return table(found)


def _draw(found: dict[str, Any], path: Path) -> None:
    from ..engine_runtime.plots.bench import plot_floor

    made = io.BytesIO()
    plot_floor(found).save(made, "PNG")
    write_whole(path, made.getbuffer())
