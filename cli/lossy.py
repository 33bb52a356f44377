"""Encodes MP3 and Opus, by FFmpeg as ComfyUI does."""

from __future__ import annotations

from io import BytesIO
from typing import cast

import av
import torch

from ..engine_runtime.errors import AudioError

CHANNELS = 2
CODECS = {"mp3": "libmp3lame", "opus": "libopus"}
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
BEST = "V0"  # of MP3: the highest variable bit rate


def encode(samples: torch.Tensor, rate: int, kind: str, quality: str) -> BytesIO:
    """Encode float32 samples `[C, S]`, of which there are one or two channels.

    Args:
        rate: in Hz; for Opus the next one that it has is taken.
        kind: "mp3" or "opus".
        quality: `BEST`, or thousands of bits a second, such as "128k".

    Raises:
        AudioError: for a rate that MP3 does not have, and for what else the encoder refuses.
    """
    if kind == "mp3" and rate not in MP3_RATES:
        allowed = ", ".join(map(str, MP3_RATES))
        raise AudioError(f"the audio to save has {rate} samples a second", f"an MP3 file has {allowed}", "save FLAC")
    made = BytesIO()
    layout = "mono" if len(samples) == 1 else "stereo"
    taken = next((one for one in OPUS_RATES if one >= rate), OPUS_RATES[-1]) if kind == "opus" else rate
    try:
        with av.open(made, "w", format=kind) as container:
            stream = cast(av.AudioStream, container.add_stream(CODECS[kind], rate=taken, layout=layout))
            if quality == BEST:
                stream.codec_context.qscale = True  # FFmpeg's -q:a 0
            else:
                stream.bit_rate = int(quality.removesuffix("k")) * 1000
            frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).numpy(), format="flt", layout=layout)
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:  # such as 320k of one channel, of which Opus has at most 256k
        given = (
            f"the audio to save, {layout} of {rate} samples a second, cannot be {kind} of quality {quality} ({error})"
        )
        raise AudioError(given, "allowed are fewer bits a second", "choose another quality, or save FLAC") from None
    return made
