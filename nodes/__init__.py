"""The pack's nodes: each is a schema and a few lines that call the runtime. They hold no state."""

from ..engine_runtime.device.undisturbed import Neighbours
from ..engine_runtime.models.comfy_queue import kept_waiting
from ..engine_runtime.registry import registry
from .automation import Automation
from .build_engine import BuildEngine
from .combine import Combine
from .curve_audio import CurveBeats, CurveEnvelope
from .curve_preview import CurvePreview
from .curves import CurveConstant, CurveLfo, CurveMath, CurvePoints, CurveRamp, CurveResample, CurveShift
from .encode_prompt import EncodePrompt
from .engine import Engine
from .guidance import Guide
from .knobs import Blend, ChannelGain, Dcw, TurnKnobs
from .layer_profile import LayerProfiler
from .live_capture import LiveCapture
from .live_session import LiveSession
from .load_engine import LoadEngine
from .load_model import LoadModel
from .load_vae_engine import LoadVaeEngine
from .lora import Lora
from .refit_lora import RefitLora
from .save_take import SaveTake
from .shape import InitialNoise, KeepSource, PullTo
from .shared import folders, live_queue
from .shared.border import bordered
from .shared.comfy import HEADLESS, ComfyExtension, io
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
    BuildEngine,
    LoadEngine,
    LoadVaeEngine,
    EncodePrompt,
    SourceAudio,
    Guide,
    StreamModel,
    StreamConditioning,
    StreamDenoise,
    LiveSession,
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
    Lora,
    RefitLora,
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
    LiveCapture,
    LayerProfiler,
]


class OstinatoExtension(ComfyExtension):
    async def on_load(self) -> None:
        if not HEADLESS:
            folders.register()
            folders.put_example_clip()
            live_queue.register()
            registry.one(Neighbours).still = kept_waiting

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES if HEADLESS else [bordered(node) for node in NODES]
