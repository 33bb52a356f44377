"""The graphs of the example workflows: nodes in columns from left to right; an input is a widget's value, or a link
`("node", output)`.
"""

from . import engines, first, more, native
from .native import CORE, MODELS
from .parts import CLIP

__all__ = ["CLIP", "CORE", "GRAPHS", "MODELS", "ORDER", "SAME_TAKE"]

ORDER = (  # by what to try first
    *("live", "text_to_music", "cover", "prompt_crossfade", "curves_from_a_clip", "mask_and_target"),
    *("automation_and_take", "gain_and_dcw", "sde_keeps_the_source", "base_with_guidance", "residual_guidance"),
    *("native_drop_in", "native_cover", "native_repaint", "build_engine", "load_engine", "layer_profile"),
)
SAME_TAKE = ("live", "build_engine", "load_engine", "layer_profile")  # what is compared plays the same seed again
GRAPHS = first.GRAPHS | native.GRAPHS | more.GRAPHS | engines.GRAPHS
