"""Curves in ComfyUI: its curve widget means the same here, and its executor lets curves into number inputs."""

import importlib.util

import numpy as np
import pytest
from ostinato.engine_runtime.controls import points

from .client import PromptError


@pytest.fixture(scope="module")
def core(install):
    """ComfyUI's own curve module; it needs numpy only."""
    path = install.root / "comfy_api" / "latest" / "_input" / "curve_types.py"
    spec = importlib.util.spec_from_file_location("core_curves", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CurveInput


@pytest.mark.parametrize("interpolation", points.INTERPOLATIONS)
def test_points_equal_comfyuis_widget(core, interpolation):
    random = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 6, 12):
        for _ in range(40):
            table = np.round(random.random((count, 2)), 2)  # some share an x, some a y
            table[:, 1] = np.where(random.random(count) < 0.2, np.round(table[:, 1]), table[:, 1])
            raw = {"points": table.tolist(), "interpolation": interpolation}
            theirs = core.from_raw(raw).interp_array(np.linspace(0, 1, 301))
            np.testing.assert_allclose(points.through(raw["points"], interpolation).values(301), theirs, atol=1e-6)


LINE = {"points": [[0, 0], [1, 1]], "interpolation": "linear"}


def graph(**first):
    return {
        "1": {
            "class_type": "OstinatoCurvePoints",
            "inputs": {"points": LINE, "low": 0.0, "high": 1.0} | first,
        },
        "2": {
            "class_type": "OstinatoCurveMath",
            "inputs": {"a": ["1", 0], "b": 2.0, "operation": "add", "amount": 0.5},
        },
        "3": {"class_type": "OstinatoCurvePreview", "inputs": {"curve": ["2", 0], "seconds": 0.0}},
    }


def test_a_curve_plays_through_a_number_input(comfy):
    assert comfy.client.run(graph()).files("images")


def test_a_curve_from_comfyuis_own_node(comfy):
    linked = graph(points=["4", 0], low=3.0)
    linked["4"] = {"class_type": "CurveEditor", "inputs": {"curve": LINE}}
    assert comfy.client.run(linked).files("images")


def test_a_number_out_of_range_is_refused(comfy):
    wrong = graph()
    wrong["2"]["inputs"]["amount"] = 1.5
    with pytest.raises(PromptError, match="bigger than max"):
        comfy.client.run(wrong)
