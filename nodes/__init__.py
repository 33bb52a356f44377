"""The pack's nodes: a schema each and a few lines that call the runtime. They hold no state."""

from .automation import Automation
from .combine import Combine
from .comfy import ComfyExtension, io
from .curve_audio import CurveBeats, CurveEnvelope
from .curve_preview import CurvePreview
from .curves import CurveConstant, CurveLfo, CurveMath, CurvePoints, CurveRamp, CurveResample, CurveShift
from .encode_prompt import EncodePrompt
from .engine import Engine
from .guidance import Guide
from .knobs import Blend, ChannelGain, Dcw, TurnKnobs
from .load_model import LoadModel
from .save_take import SaveTake
from .shape import InitialNoise, KeepSource, PullTo
from .source_audio import SourceAudio
from .stream_conditioning import StreamConditioning
from .stream_decode import StreamDecode
from .stream_denoise import StreamDenoise
from .stream_model import StreamModel
from .stream_sampler import StreamSampler
from .stream_stats import StreamStats

NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    Engine,
    EncodePrompt,
    SourceAudio,
    Guide,
    StreamModel,
    StreamConditioning,
    StreamDenoise,
    StreamSampler,
    StreamDecode,
    StreamStats,
    Combine,
    TurnKnobs,
    Blend,
    ChannelGain,
    Dcw,
    PullTo,
    KeepSource,
    InitialNoise,
    CurveConstant,
    CurveRamp,
    CurveLfo,
    CurvePoints,
    CurveMath,
    CurveEnvelope,
    CurveBeats,
    CurveResample,
    CurveShift,
    CurvePreview,
    Automation,
    SaveTake,
]


class OstinatoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
