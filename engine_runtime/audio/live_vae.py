"""The VAE's decoder for live play: beside the tick, on its own stream, one graph launch a window.

B clips, T latent frames of C channels, S = hop T samples in A channels; activations are `[B, C, 1, L]` with the
channels last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..device.capture import Capture
from ..device.workers import is_large, workers
from ..models.weight_norm import folded
from ..stream.sessions import runtime
from .decode import hop_of
from .snake import Bend, snake

if TYPE_CHECKING:
    from diffusers import AutoencoderOobleck

SHAPES = 8  # whose buffers are kept; the one that was not used for longest goes first
LONGEST = 256  # frames of what is replayed: a graph keeps its intermediate tensors, 3 MB a frame in bfloat16
_settings = threading.Lock()  # cuDNN's are of the process


class LiveVae:
    """`AutoencoderOobleck.decoder` with its weight norms folded in; `audio.decode.decode` takes it in place of the
    model.

    On a GPU a repeated shape is replayed as a CUDA graph, on a stream of lower priority than the ticks'. The first
    decode of a shape holds the ticks up while kernels are tried: decode zeros of that shape before playing. The weights
    are a copy, 170 MB in bfloat16 for ACE-Step 1.5; `rest` gives it up until the next `ready` or decode.

    Args:
        vae: the source of the weights; its device and dtype are used.
        source_ready: brings that to its device.
    """

    def __init__(self, vae: AutoencoderOobleck, source_ready: Callable[[], None] = lambda: None) -> None:
        self._source, self._source_ready = vae, source_ready
        source_ready()
        self.config, self.device, self.dtype = vae.config, vae.device, vae.dtype
        self.upsampling_ratios = vae.upsampling_ratios
        self._wide = is_large(vae.decoder)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._capture = Capture(self.device, most=SHAPES)
        self._buffers: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()  # one window at a time: the next overwrites the buffers
        self._made_layers: _Layers | None = self._read()

    def ready(self) -> None:
        """Make the copy of the weights again, where it was given up."""
        if self._made_layers is None:
            self._source_ready()
            self._made_layers = self._read()

    def rest(self) -> None:
        """Give up the copy of the weights, the buffers and the graphs. Call it while no decode runs."""
        self._made_layers = None
        self._capture = Capture(self.device, most=SHAPES)
        self._buffers.clear()

    def _read(self) -> _Layers:
        with torch.inference_mode(False), torch.no_grad():
            layers = _Layers(self._source)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # which makes the weights
        return layers

    @property
    def _layers(self) -> _Layers:
        self.ready()
        assert self._made_layers is not None
        return self._made_layers

    def decoder(self, latents: Tensor) -> Tensor:
        """Decode latents `[B, C, T]` to audio `[B, A, S]` in the weights' dtype, ordered on the caller's current
        stream.
        """
        if self._stream is None:
            with torch.no_grad():
                return workers().run(lambda: self._layers(latents), self._wide)
        # buffers that are written again must be no inference tensors
        with self._lock, torch.inference_mode(False), torch.no_grad():
            shape, caller = tuple(latents.shape), torch.cuda.current_stream(self.device)
            self._stream.wait_stream(caller)
            latents.record_stream(self._stream)
            with torch.cuda.stream(self._stream):
                done = self._layers(latents) if shape[2] > LONGEST else self._replayed(latents)
            caller.wait_stream(self._stream)
            done.record_stream(caller)
            return done

    def _replayed(self, latents: Tensor) -> Tensor:
        """Decode by replay; the first decode of a shape tries kernels and captures.

        cuDNN tries its kernels then: those it guesses were 16 times slower. It remembers the choice by thread, so the
        capture runs in the same one. Trying waits for the device, so the lane's lock keeps ticks from being captured
        meanwhile. It is held for every decode that may be captured; where none is, for the first alone.
        """
        shape = tuple(latents.shape)
        new = shape not in self._buffers
        given, audio = self._made(shape)
        given.copy_(latents)
        key = shape, given, audio
        alone = new or (self._capture.on and not self._capture.replays(key))
        with runtime().lane(self.device).lock if alone else nullcontext():
            for _ in range(1 + new):
                self._capture.run(key, lambda: audio.copy_(self._tuned(given)))
        return audio.clone()

    def _tuned(self, latents: Tensor) -> Tensor:
        settings = torch.backends.cudnn
        with _settings:
            before, settings.benchmark = settings.benchmark, True
            try:
                return self._layers(latents)
            finally:
                settings.benchmark = before

    def _made(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the buffers of this shape, for latents and audio."""
        if shape in self._buffers:
            self._buffers[shape] = self._buffers.pop(shape)
        else:
            sizes = shape, (shape[0], self.config.audio_channels, shape[2] * hop_of(self))
            given, audio = (torch.zeros(size, dtype=self.dtype, device=self.device) for size in sizes)
            self._buffers[shape] = given, audio
            if len(self._buffers) > SHAPES:
                del self._buffers[next(iter(self._buffers))]
        return self._buffers[shape]


class _Layers:
    """The decoder's layers as plain tensors, and its forward pass."""

    def __init__(self, vae: AutoencoderOobleck) -> None:
        decoder = vae.decoder
        self.first, self.last = _Conv(decoder.conv1), _Conv(decoder.conv2)
        bends = [*(block.snake1 for block in decoder.block), decoder.snake1]
        self.start, *after = (_bend(layer) for layer in bends)
        self.blocks = []
        for block, end in zip(decoder.block, after, strict=True):
            units = [block.res_unit1, block.res_unit2, block.res_unit3]
            follow = [*(_bend(unit.snake1) for unit in units[1:]), end]
            made = [
                (
                    _Conv(unit.conv1),
                    _bend(unit.snake2),
                    folded(unit.conv2)[:, :, 0].T.contiguous(),
                    unit.conv2.bias,
                    then,
                )
                for unit, then in zip(units, follow, strict=True)
            ]
            self.blocks.append((_Conv(block.conv_t1), _bend(units[0].snake1), made))

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode `[B, C, T]` to `[B, A, S]`. Each convolution's bias is added by the snake that follows it."""
        x = self.first(latents[:, :, None].contiguous(memory_format=torch.channels_last))
        _, bent = snake(x, self.first.bias, self.start)
        for up, bend, units in self.blocks:
            x, bent = snake(up(bent), up.bias, bend)
            for conv, inner, weight, bias, then in units:
                _, between = snake(conv(bent), conv.bias, inner)
                # a convolution over one sample is a product
                product = (_rows(between) @ weight).view(x.shape[0], 1, -1, weight.shape[1]).permute(0, 3, 1, 2)
                x, bent = snake(x, bias, then, product)
        return self.last(bent)[:, :, 0]


class _Conv:
    """A convolution over time, plain or transposed, run as one over an image of height 1 with the channels last.

    A call leaves the bias out; `bias` is zeros where the layer has none.
    """

    def __init__(self, layer: nn.Conv1d | nn.ConvTranspose1d) -> None:
        self.weight = folded(layer)[:, :, None].contiguous(memory_format=torch.channels_last)
        self.bias = self.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        self.stride, self.padding = layer.stride[0], int(layer.padding[0])
        self.dilation, self.up = layer.dilation[0], isinstance(layer, nn.ConvTranspose1d)

    def __call__(self, x: Tensor) -> Tensor:
        if self.up:
            return F.conv_transpose2d(x, self.weight, None, (1, self.stride), (0, self.padding))
        return F.conv2d(x, self.weight, None, (1, 1), (0, self.padding), (1, self.dilation))


def _rows(x: Tensor) -> Tensor:
    """View `[B, C, 1, L]`, channels last, as the matrix `[B L, C]`."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _bend(layer: nn.Module) -> Bend:
    """Read a snake layer's frequency and reciprocal width, in float32."""
    alpha, beta = (layer.get_parameter(name).detach().float().flatten() for name in ("alpha", "beta"))
    if layer.logscale:
        alpha, beta = alpha.exp(), beta.exp()
    return Bend(alpha.contiguous(), (beta + 1e-9).reciprocal().contiguous())
