"""The control nodes: every knob can be reached from the command line, and what it is set to is heard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from ostinato.cli import main, settings
from ostinato.cli.graph import is_widget, widget_default
from ostinato.engine_runtime.controls import curves
from ostinato.engine_runtime.controls.automation import AUTOMATABLE
from ostinato.engine_runtime.controls.knobs import KNOBS
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.stream.request import Condition, Part
from ostinato.nodes.combine import Combine
from ostinato.nodes.guidance import Guide
from ostinato.nodes.knobs import Blend, ChannelGain, Dcw, TurnKnobs
from ostinato.nodes.shape import InitialNoise, KeepSource
from ostinato.nodes.shared import control_values, host
from typer.testing import CliRunner

from ...helpers import drawn, made_up

TYPES = main.all_types()


def node(kind: str, **inputs: object) -> dict:
    """A node as the API form has it, with the widgets' defaults."""
    kind = kind if kind in TYPES else f"Ostinato{kind}"
    widgets = {i.id: widget_default(i) for i in TYPES[kind].schema.inputs if is_widget(i)}
    return {"class_type": kind, "inputs": widgets | inputs}


def graph(**more: object) -> dict:
    """Every control in one graph, at rest; `more` goes to Stream Denoise."""
    prompts = {"model": ["model", 0], "source": ["source", 0], "task": "cover"}
    given = ("engine", "condition", "source")
    wired = {name: [name, 0] for name in given} | {
        "guidance": ["guide", 0],
        "shape": ["noise", 0],
        "knobs": ["gain", 0],
    }
    wired |= {"count": 1, "depth": 1, "steps": 2}
    return {
        "model": node("LoadModel", model="random-base"),
        "engine": node("Engine", model=["model", 0]),
        "clip": node("LoadAudio", audio="clip.wav"),
        "source": node("SourceAudio", model=["model", 0], audio=["clip", 0]),
        "one": node("EncodePrompt", tags="piano", **prompts),
        "two": node("EncodePrompt", tags="loud drums", **prompts),
        "condition": node("CombineConditions", first=["one", 0], second=["two", 0]),
        "guide": node("Guidance", scale=3.0),
        "knobs": node("Knobs", target_strength=0.1),
        "gain": node("ChannelGain", knobs=["knobs", 0]),
        "target": node("Target", latent=["source", 0]),
        "mask": node("Mask", shape=["target", 0]),
        "noise": node("InitialNoise", shape=["mask", 0]),
        "stream": node("StreamDenoise", **wired | more),
        "decode": node("StreamDecode", model=["model", 0], latents=["stream", 0]),
        "save": node("SaveAudio", audio=["decode", 0]),
    }


@pytest.fixture(scope="module")
def sound(cache, tmp_path_factory):
    """The bytes of the file that a graph makes with some settings."""

    def make(nodes: dict, *settings: str) -> bytes:
        folder = tmp_path_factory.mktemp("controls")
        soundfile.write(folder / "clip.wav", 0.3 * drawn(5, 9600, 2).numpy(), 48_000)
        (folder / "graph.json").write_text(json.dumps(nodes), "utf-8")
        sets = [part for setting in settings for part in ("--set", setting)]
        result = CliRunner().invoke(
            main.app, ["run", str(folder / "graph.json"), "--out", str(folder), "--device", "cpu", "--json", *sets]
        )
        assert result.exit_code == 0, result.output
        return Path(json.loads(result.stdout)["files"][0]).read_bytes()

    return make


@pytest.fixture(scope="module")
def at_rest(sound):
    return sound(graph())


SET = {
    "velocity_scale": "knobs.velocity_scale=0.8",
    "ode_noise": "knobs.ode_noise=0.3",
    "target_strength": "knobs.target_strength=0.5",
    "channel_gain": "gain.gain=1.5",
    "guidance_scale": "guide.scale=6",
    "rescale": "guide.rescale=1",
    "momentum": "guide.momentum=0.5",
    "mode": "guide.mode=self",
    "solver": "stream.solver=sde",
    "mask": "mask.mask=0.5",
    "initial_noise": "noise.noise=0.5",
    "weight": "condition.second_weight=0",
    "span": "condition.second_start=0.5",
}


@pytest.mark.parametrize("setting", SET.values(), ids=SET)
def test_a_setting_is_heard(sound, at_rest, setting):
    assert sound(graph(), setting) != at_rest


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_can_be_set_from_the_command_line(name, monkeypatch):
    """Without a knob node in the graph."""
    value = {"dcw": "on", "dcw_mode": "pix", "dcw_wavelet": "db2", "velocity_scale": "0.8"}.get(name, "0.5")
    knobs, rest = settings.split_knobs([f"knob.{name}={value}", "3.seed=4"])
    assert rest == ["3.seed=4"]
    with host.use(host.Host(knobs=knobs)):
        made = getattr(control_values.sample_knobs({"velocity_scale": 0.7}, 5), name)
    if name == "channel_gain":
        assert made.eq(0.5).all()
    else:
        assert str(made) in (value, str(value == "on"))


def test_a_knob_on_the_command_line_is_heard(sound, at_rest):
    assert sound(graph(), "knob.velocity_scale=0.8") == sound(graph(), "knobs.velocity_scale=0.8") != at_rest
    for wrong, sentence in (
        ("knob.speed=1", "no knob"),
        ("knob.sde=7", "sde is 7"),
        ("knob.dcw=maybe", "true and false"),
    ):
        with pytest.raises(InputError, match=sentence):
            settings.split_knobs([wrong])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"knobs": ["strength", 0], "shape": ["alone", 0]}, "without a target"),
        ({"knobs": ["none", 0]}, "as far as target_strength says"),
        ({"condition": ["one", 0], "knobs": ["blend", 0]}, "blend needs conditions"),
        ({"guidance": None, "knobs": ["strength", 0], "tracks": ["track", 0]}, "guidance_scale needs guidance"),
    ],
)
def test_a_control_that_would_not_be_heard_is_refused(cache, tmp_path, changes, sentence):
    nodes = graph(**changes) | {
        "strength": node("Knobs", target_strength=0.3),
        "none": node("Knobs"),
        "alone": node("Mask"),
        "blend": node("Blend", knobs=["strength", 0]),
        "curve": node("CurveConstant", value=2.0),
        "track": node("Automation", knob="guidance_scale", curve=["curve", 0]),
    }
    inputs = nodes["stream"]["inputs"]
    nodes["stream"]["inputs"] = {name: value for name, value in inputs.items() if value is not None}
    soundfile.write(tmp_path / "clip.wav", 0.3 * drawn(5, 9600, 2).numpy(), 48_000)
    (tmp_path / "graph.json").write_text(json.dumps(nodes), "utf-8")
    result = CliRunner().invoke(
        main.app, ["run", str(tmp_path / "graph.json"), "--out", str(tmp_path), "--device", "cpu"]
    )
    assert result.exit_code == 2 and sentence in result.output


def test_at_rest_the_knob_nodes_change_nothing(sound, at_rest):
    assert sound(graph(knobs=["knobs", 0])) == at_rest


def test_blend_dcw_and_the_sde_knob(sound):
    """Knobs that have a node of their own, or act together with another."""
    nodes = graph(knobs=["dcw", 0], steps=3) | {  # the high band is pushed between the first step and the last
        "blend": node("Blend", knobs=["gain", 0]),
        "dcw": node("Dcw", knobs=["blend", 0]),
    }
    settings = ["dcw.dcw_mode=low", "dcw.dcw_low=0.2", "dcw.dcw_high=0.3", "dcw.dcw_wavelet=db2", "blend.blend=1"]
    sounds = [sound(nodes, *extra) for extra in ([], *([one] for one in settings))]
    nodes["stream"]["inputs"]["solver"] = "sde"
    sounds += [sound(nodes), sound(nodes, "knobs.sde=0.5")]
    assert len(set(sounds)) == len(sounds)


def test_every_knob_has_a_widget_or_a_track():
    widgets = {i.id for n in (TurnKnobs, Dcw, Blend, Guide) for i in n.define_schema().inputs}
    named = {"channel_gain": "gain", "guidance_scale": "scale", "dcw": "dcw_mode"}
    assert {named.get(name, name) for name in KNOBS} <= widgets | {"gain"}
    assert {name for name, knob in KNOBS.items() if not knob.options} < set(AUTOMATABLE)


def test_gains_of_channels_multiply():
    swell = curves.ramp(0.0, 1.0)
    knobs = ChannelGain.execute(2.0, 0, 9)[0]
    knobs = ChannelGain.execute(swell, 5, 63, knobs)[0]
    gain = control_values.sample_knobs(knobs, 5).channel_gain
    want = torch.ones(5, 64)
    want[:, :10] *= 2.0
    want[:, 5:] *= torch.linspace(0, 1, 5)[:, None]
    torch.testing.assert_close(gain, want)
    flat = control_values.sample_knobs(ChannelGain.execute(2.0, 0, 9)[0], 5).channel_gain
    assert flat.shape == (64,) and flat.sum() == 74
    with pytest.raises(InputError, match="behind the last"):
        ChannelGain.execute(1.0, 9, 3)


def test_combined_conditions_combine_again():
    a, b, c = (made_up(i, 6) for i in range(3))
    span = dict.fromkeys(("first_start", "second_start"), 0.0) | dict.fromkeys(("first_end", "second_end"), 1.0)
    pair = Combine.execute(a, b, first_weight=1.0, second_weight=0.5, **span)[0]
    three = Combine.execute(pair, c, first_weight=2.0, second_weight=curves.ramp(0.0, 1.0), **span)[0]
    assert [part.condition for part in three] == [a, b, c] and [part.weight for part in three[:2]] == [2.0, 1.0]
    assert isinstance(three[2].weight, torch.Tensor) and three[2].weight.shape == (6,)
    with pytest.raises(InputError, match="each of them has its own"):
        Combine.execute(pair, c, first_weight=1.0, second_weight=1.0, **span | {"first_end": 0.5})
    with pytest.raises(InputError, match="number of conditions is 5"):  # before each Combine doubles what it is given
        Combine.execute(pair, three, first_weight=1.0, second_weight=1.0, **span)


def test_shapes_chain():
    shape = InitialNoise.execute(0.5, KeepSource.execute(curves.ramp(0.0, 1.0), 1.0, 0.25)[0])[0]
    fields = control_values.sample_shape(shape, 5)
    assert fields["mask"].shape == (5, 64) and fields["mask_strength"] == (1.0, 0.25) and fields["initial_noise"] == 0.5
    assert fields["mask"][:, 7].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TurnKnobs.execute(velocity_scale=9.0), "velocity scale is 9"),
        (lambda: Blend.execute(7.0), "blend is 7"),
        (lambda: Dcw.execute(dcw_wavelet="db99"), "dcw wavelet is 'db99'"),
        (lambda: Guide.execute(scale=-1.0), "guidance scale is -1"),
        (lambda: control_values.sample_knobs({"sde": curves.fixed([0.0] * 4)}, 5), "4 frames"),
        (lambda: control_values.sample_knobs({"sde": curves.ramp(0.0, 2.0)}, 5), "sde is 2"),
    ],
)
def test_wrong_values_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_a_part_is_what_the_ring_plays():
    part = control_values.as_parts(Condition(drawn(0, 3, 64), drawn(1, 6, 128)), 0.5, 0.25, 1.0)
    assert isinstance(part[0], Part) and (part[0].weight, part[0].start, part[0].end) == (0.5, 0.25, 1.0)


def test_the_readme_lists_every_hot_knob_as_it_is():
    lines = (Path(__file__).parents[3] / "README.md").read_text("utf-8").splitlines()
    rows = [f"| `{k.name}` | {k.default_text} | {k.range_text} | {k.help} |" for k in KNOBS.values()]
    first = lines.index(rows[0])
    assert lines[first : first + len(rows)] == rows and not lines[first + len(rows)]
