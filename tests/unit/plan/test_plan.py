"""What a card plays: figures agree with those that were measured, and what nobody measured is called an estimate."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderOobleck
from ostinato.cli.main import app
from ostinato.engine_runtime.audio.decode import margin_frames
from ostinato.engine_runtime.bench import kept
from ostinato.engine_runtime.bench.case import GIB, Case
from ostinato.engine_runtime.constants import KINDS
from ostinato.engine_runtime.device.capture import UNCAPTURED
from ostinato.engine_runtime.engines.compiled import needs
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.models.sized import VAE
from ostinato.engine_runtime.plan import plan as plan_module
from ostinato.engine_runtime.plan import speed as speed_module
from ostinato.engine_runtime.plan.cards import CARDS, TURING, called, find
from ostinato.engine_runtime.plan.memory import MARGIN, NARROW, SPREAD, Sizes, needed, played, released, room
from ostinato.engine_runtime.plan.plan import NEEDS, engine_line, here, overview, plan
from ostinato.engine_runtime.plan.speed import ESTIMATE, MEASURED, floor_ms, overhead, speed
from ostinato.nodes.engine import Engine
from typer.testing import CliRunner

RESULTS = [pytest.param(*one, id=f"{one[0]} {i}") for i, one in enumerate(speed_module._results())]
PARTS = {"text encoder": 1.19e9, "condition encoder": 1.22e9, "VAE": 0.34e9}  # bytes in bf16
UNDER, OVER, OVER_NARROW = 0.01, 0.06, 0.27  # of memory
OFF = 0.15  # of time


# --- against what was measured ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, device, one", RESULTS)
def test_memory_is_what_was_measured_and_rather_more(name, device, one):
    """A sum below the truth would promise what does not fit."""
    told = played(released(one["size"]), one["engine"], "bf16", speed_module._case(one))
    over = OVER_NARROW if one["engine"] in NARROW else OVER
    assert one["peak_bytes"] * (1 - UNDER) <= told <= one["peak_bytes"] * (1 + over)


@pytest.mark.parametrize("name, device, one", RESULTS)
def test_an_estimate_is_near_what_was_measured(name, device, one, monkeypatch):
    monkeypatch.setattr(speed_module, "measured", lambda *_: {})
    (card,) = (card for card in CARDS if card.device == device)
    case, size = speed_module._case(one), one["size"]
    found = speed(card, size, released(size).config, one["engine"], "bf16", case)
    assert found.source == ESTIMATE and found.ms == pytest.approx(one["tick_ms"]["median"], rel=OFF)


def test_every_size_and_kind_of_the_kept_runs_is_compared():
    assert len(RESULTS) > 60 and {device for _, device, _ in speed_module._results()} <= {c.device for c in CARDS}


def test_all_parts_together_are_what_was_measured():
    """Those of `ostinato bench fits`: the most of tensors in any part of what was asked for."""
    kinds = (kept.read(path) for path in sorted(kept.RESULTS.glob("*/*.json")))
    for found in (one for one in kinds if one.get("fits")):
        case = Case(**found["case"])
        told = sum(needed(released(found["size"]), found["engine"], "bf16", case).values())
        name = f", depth {case.depth}, {case.seconds:g} s"
        most = max(part["peak_bytes"] for part in found["parts"] if part["name"].endswith(name))
        assert most * (1 - UNDER) <= told <= most * (1 + OVER_NARROW), found["command"]


def test_measured_is_said_of_that_very_card_only():
    case, config = Case(), released("2b").config
    found = speed(find("H100"), "2b", config, "compiled", "bf16", case)
    assert found.source == MEASURED and 15 < found.low <= found.ms <= found.high < 17
    assert {"h100-80gb/targets", "h100-80gb/modes"} <= set(found.runs) and not any("h200" in run for run in found.runs)
    for card, kind, other in ((find("H100 PCIe"), "compiled", case), (find("H100"), "compiled", Case(tokens=64))):
        assert speed(card, "2b", config, kind, "bf16", other).source == ESTIMATE
    assert speed(find("H100"), "2b", config, "compiled", "fp16", case).source == ESTIMATE, "it was measured in bf16"
    assert speed(find("T4"), "2b", config, "eager", "fp32", case) is None, "float32 was timed nowhere"
    assert speed(find("RTX 3090"), "2b", config, "fp8", "bf16", case) is None, "it has no fp8"


def test_a_kind_without_runs_has_no_figures(monkeypatch):
    monkeypatch.setattr(speed_module, "_results", lambda: ())
    overhead.cache_clear()
    try:
        assert speed(find("RTX 4070"), "2b", released("2b").config, "compiled", "bf16", Case()) is None
    finally:
        overhead.cache_clear()


def test_the_floor_is_the_slower_of_products_and_bytes():
    """Twice the rows take twice as long; of a few rows the weights are read."""
    card, config = find("RTX 4090"), released("2b").config

    def floor(depth, seconds, kind="compiled"):
        return floor_ms(card, config, kind, "bf16", Case(depth=depth, seconds=seconds))

    assert floor(8, 60.0) == pytest.approx(2 * floor(4, 60.0), rel=0.02)
    assert floor(4, 60.0) == pytest.approx(8.9e12 / 165.2e12 * 1e3, rel=0.01), "8.9 TFLOP at the rated speed"
    assert floor(1, 1.0) == pytest.approx(2.9e9 / 1008e9 * 1e3, rel=0.1), "2.9 GB of weights"
    assert floor(4, 60.0, "fp8") == pytest.approx(floor(4, 60.0) / 2, rel=0.06)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_every_part_is_counted():
    sizes, case = released("2b"), Case()
    parts = needed(sizes, "fp8", "bf16", case)
    assert {name: parts[name] for name in PARTS} == pytest.approx(PARTS, rel=0.01)
    assert parts["decoder"] == 2 * sizes.decoder == 3_150_917_760
    assert parts["8-bit copy"] == sizes.products == 24 * (4 + 2 + 2 + 2 + 12 + 6) * 1024 * 2048
    assert "8-bit copy" not in needed(sizes, "compiled", "bf16", case)
    assert needed(sizes, "eager", "fp32", case)["text encoder"] == 2 * parts["text encoder"]
    assert needed(sizes, "eager", "fp16", case)["VAE"] == 2 * parts["VAE"], "it is float32 unless all is bfloat16"
    guided = needed(sizes, "fp8", "bf16", Case(cfg="full"))
    assert guided["ring"] > 1.5 * parts["ring"] and guided | {"ring": 0} == parts | {"ring": 0}


def test_the_margins_are_those_of_the_vae():
    with torch.device("meta"):
        vae = AutoencoderOobleck(**VAE)
    assert margin_frames(SimpleNamespace(upsampling_ratios=vae.config.downsampling_ratios[::-1])) == MARGIN


def test_a_loaded_models_parts_are_counted(turbo):
    sizes = Sizes.of(turbo)
    assert sizes.decoder == sum(p.numel() for p in turbo.pipe.transformer.parameters())
    assert 0 < sizes.vae_decoder < sizes.vae and sizes.text and sizes.conditions


def test_eight_gigabytes_are_enough_for_2b():
    for card in (card for card in CARDS if card.memory == 8 and card.bf16):
        (compiled,) = (one for one in plan(card, "2b").choices if one.kind == "compiled")
        assert all(fit.largest >= 4 for fit in compiled.fits if fit.case.seconds == 60), card.name
        assert compiled.fits[0].bytes <= room(card.bytes) < card.bytes


# --- cards -----------------------------------------------------------------------------------------------------------


def test_a_card_is_found_by_any_of_its_names():
    for name in ("RTX 4070", "rtx4070", "NVIDIA GeForce RTX 4070", "geforce rtx-4070"):
        assert find(name).name == "RTX 4070"
    assert find("Tesla T4").name == "T4" and find("nvidia h100 80gb hbm3").name == "H100"
    with pytest.raises(InputError, match="there are RTX 4060 Ti 8 GB and RTX 4060 Ti 16 GB"):
        find("RTX 4060 Ti")
    with pytest.raises(InputError, match="the table has RTX 4070"):
        find("RTX 4075")


def test_the_card_that_is_here_is_known_by_name_and_memory(cuda):
    two = "NVIDIA GeForce RTX 4060 Ti"
    assert called(two, 8 * GIB).memory == 8 and called(two, round(15.6 * GIB)).memory == 16
    assert called("NVIDIA GeForce RTX 4090 Laptop GPU", 16 * GIB) is None, "another chip under the same number"
    seen = SimpleNamespace(name="NVIDIA RTX 6000", major=8, minor=9, total_memory=48 * GIB)
    cuda(get_device_properties=lambda device: seen)
    made = plan(here(torch.device("cuda", 0)), "2b")
    assert made.card.capability == (8, 9) and made.card.memory == 48 and made.best is None
    assert [one.fits[0].largest for one in made.choices if one.kind in ("compiled", "fp8")] == [8, 8]
    assert "its speed is not in the table" in made.text() and "nothing tells how fast it is" in made.advice()


def test_figures_of_the_table_keep_the_makers_ratios():
    """On GeForce fp16 and fp8 with sums in fp32 run at half the rate, of which a data sheet shows the other figure."""
    named = {card.name: card for card in CARDS}
    assert len(named) == len(CARDS) == len({(card.device, card.memory) for card in CARDS})
    assert (named["RTX 4090"].half, named["RTX 4090"].fp8) == (165.2, 330.4)
    assert (named["RTX 3090"].half, named["RTX 3090"].fp8) == (71.2, None)
    assert (named["RTX 2080 Ti"].half, named["RTX 2080 Ti"].int8) == (53.6, 214.4)
    assert all(card.fp8 is None or card.capability >= NEEDS["fp8"] for card in CARDS)


def test_kinds_and_their_needs_are_those_of_the_engines():
    assert set(KINDS) <= set(NEEDS) and set(KINDS) <= set(SPREAD)
    assert {kind: NEEDS[kind] for kind in needs.LEAST} == needs.LEAST


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_plan_says_what_plays_and_what_does_not():
    made = plan(find("RTX 3060"), "2b")
    fp8 = next(one for one in made.choices if one.kind == "fp8")
    assert fp8.why == "does not play on compute capability 8.6, it needs 8.9" and fp8.fits == ()
    assert made.best.kind == "compiled" and made.advice().startswith("Take compiled bf16: depth 4 of 60 s takes ")
    assert "estimate" in made.text() and "measured" not in made.text().split("\n\n")[1]


def test_a_card_without_bf16_is_told_what_plays_there():
    card = find("RTX 2080 Ti")
    made = plan(card, "2b")
    eager = [(one.precision, one.fits[0].largest) for one in made.choices if one.kind == "eager"]
    assert card.capability == TURING and eager == [("fp32", 0), ("fp16", 8)]
    assert "precision auto is float32 here, float16 is to be chosen" in made.text()
    assert "fits up to depth" in made.text() and "none" in made.text()


def test_what_does_not_fit_is_told():
    made = plan(find("RTX 4060"), "xl")
    assert made.best is None and made.advice() == "Size xl does not fit on RTX 4060."
    assert all(fit.largest == 0 and fit.speed is None for one in made.choices for fit in one.fits)
    assert plan(find("RTX 4090"), "xl").best.kind == "fp8"
    smaller = plan(find("RTX 4080"), "xl").best.fits[0]
    assert smaller.case.depth == smaller.largest < 4, "its figures are of what fits"


def test_the_fastest_that_fits_is_taken():
    """fp8 is faster, and its copy of the weights does not fit beside the rest in 8 GB."""
    assert plan(find("RTX 4060 Ti 8 GB"), "2b").best.kind == "compiled"
    assert plan(find("RTX 4060 Ti 16 GB"), "2b").best.kind == "fp8"
    rows = {row[0]: row for row in overview()}
    assert len(rows) == len(CARDS) + 1 and rows["RTX 2060"][2] == "none" and rows["H100"][2] == "fp8"
    assert re.fullmatch(r"\d+ \*", rows["RTX 3060"][4]) and "*" not in rows["H100"][4]


def test_the_command_says_it_as_text_and_as_json():
    def said(*words):
        return CliRunner().invoke(app, ["plan", *words])

    done = said("--card", "RTX 3090", "--size", "xl", "--seconds", "30", "--cfg", "off", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["card"]["name"], found["best"]) == (0, "RTX 3090", "compiled")
    assert [one["kind"] for one in found["engines"]] == [*KINDS, "TensorRT"]
    assert found["engines"][1]["fits"][0]["speed"]["source"] == ESTIMATE
    assert "Take fp8" in said("--card", "RTX 4090").stdout
    assert said("--cards").stdout.count("\n") == len(CARDS) + 1
    assert said("--card", "Voodoo 2").exit_code == said("--card", "L4", "--size", "3b").exit_code == 2


def test_without_a_card_one_has_to_be_named(cuda):
    cuda(is_available=lambda: False)
    with pytest.raises(InputError, match="give --card"):
        here()


def test_the_engine_node_shows_it_on_a_gpu_only(turbo, monkeypatch):
    def text(device):
        monkeypatch.setattr("ostinato.engine_runtime.models.engines.torch_engine", lambda *_: stand_in(device))
        return Engine.execute(turbo, "eager", 4).result[1]

    def stand_in(device):
        return SimpleNamespace(device=torch.device(device), dtype=torch.bfloat16, summary=lambda: "an engine")

    monkeypatch.setattr(plan_module, "here", lambda device: find("RTX 4070"))
    monkeypatch.setattr(plan_module, "capturable", lambda: captured)
    captured = True
    assert text("cpu") == "an engine"
    assert text("cuda").startswith("an engine\nOn RTX 4070 (12 GB): depth 4 of 60 s takes about ")
    assert UNCAPTURED not in text("cuda")
    captured = False
    assert text("cuda").endswith(f"\n{UNCAPTURED}") and text("cpu") == "an engine"


def test_the_line_of_a_real_size():
    line = engine_line(find("H100"), released("2b"), "compiled", "bf16")
    assert re.search(r"takes about 1\d(\.\d)? ms \(measured\) a tick and 6\.\d GB, text encoder and VAE included", line)
    assert line.endswith("depths that fit: 8 of 60 s, 8 of 240 s")
    small = engine_line(find("RTX 2060"), released("xl"), "eager", "fp32")
    assert re.search(r"On RTX 2060 \(6 GB\): 2\d\.\d GB are needed for depth 1 of 60 s", small)
