"""The pack's nodes: a schema each and a few lines that call the runtime. They hold no state."""

from .comfy import ComfyExtension, io
from .encode_prompt import EncodePrompt
from .engine import Engine
from .guidance import Guide
from .load_model import LoadModel
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
]


class OstinatoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
