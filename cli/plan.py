"""`ostinato plan`: what a card plays and about how fast; `ostinato bench fits`: whether it does, with memory capped."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from ..engine_runtime.bench.case import OUTSIDE, WINDOW_SECONDS
from ..engine_runtime.profile.layers import Workload
from .terminal import FAILED, command_of, exit_codes, listed, numbers, where

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout, nothing else.")]


def fits(
    context: typer.Context,
    gigabytes: Annotated[float, typer.Option(help="Of the card, as its label says.")] = 8.0,
    engine: Annotated[str, typer.Option(help="eager, compiled, fp8 or int8.")] = "compiled",
    size: Annotated[str, typer.Option(help="2b, xl or tiny: random weights.")] = "2b",
    depth: Annotated[int, typer.Option(help="Generations in flight.")] = Workload.depth,
    steps: Annotated[int, typer.Option(help="Of each.")] = Workload.steps,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = Workload.seconds,
    longer: Annotated[float, typer.Option(help="Seconds tried then, at the largest depth that fits.")] = 240.0,
    cfg: Annotated[str, typer.Option(help="Guidance, as in `bench`.")] = Workload.guidance,
    window: Annotated[float, typer.Option(help="Seconds that are decoded at a time.")] = WINDOW_SECONDS,
    outside: Annotated[float, typer.Option(help="Gigabytes of them for the driver and CUDA's graphs.")] = OUTSIDE,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Load, encode a prompt, play and decode with PyTorch's memory capped; exits with 1 where it does not fit.

    Decoder, text encoder, condition encoder and VAE stay on the device together, in their released sizes.
    """
    with exit_codes():
        from ..engine_runtime.bench.case import Case
        from ..engine_runtime.bench.fits import Asked, text
        from ..engine_runtime.bench.fits import fits as run

        asked = Asked(gigabytes, Case(depth, steps, seconds, cfg=cfg), longer, window, outside)
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            measured = run(size, engine, *where(device, precision), asked, command_of(context, "bench", "fits"))
        typer.echo(json.dumps(measured) if as_json else text(measured))
    if measured["fits"] is False:
        raise typer.Exit(FAILED)


def plan(
    card: Annotated[
        str | None, typer.Option(help="A card by its name, RTX 4070; the one that is here without it.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of the weights: 2b or xl.")] = "2b",
    depth: Annotated[int, typer.Option(help="Generations in flight.")] = Workload.depth,
    seconds: Annotated[str, typer.Option(help="Length of each; several with commas.")] = "60,240",
    cfg: Annotated[str, typer.Option(help="Guidance, as in `bench`; several with commas.")] = "off,full",
    cards: Annotated[bool, typer.Option("--cards", help="Every card in the table, with the engine to take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a card plays: for each engine what fits in its memory, and about how fast.

    Figures are marked `measured`, on that very card, or `estimate`. No model and no card is needed.
    """
    with exit_codes():
        from ..engine_runtime.plan import cards as known
        from ..engine_runtime.plan import plan as planned

        if cards:
            rows = planned.overview()
            typer.echo(json.dumps(rows) if as_json else "\n".join(planned.columns(rows)))
            return
        found = known.find(card) if card else planned.here()
        made = planned.plan(found, size, depth, numbers("seconds", seconds, float), listed(cfg))
        typer.echo(json.dumps(made.as_json()) if as_json else made.text())
