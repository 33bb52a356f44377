"""Files of sound of every common kind, made by FFmpeg's encoders: a tone of its own in each channel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.stream import Disposition
from av.video.frame import VideoFrame

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
SECONDS = 0.5


def pitch(channel: int) -> float:
    return 300.0 + 250.0 * channel


def tones(rate: int, channels: int) -> np.ndarray:
    """`[channels, samples]` float32, amplitude 0.25; channel c is a sine of `pitch(c)` Hz."""
    time = np.arange(round(rate * SECONDS)) / rate
    return np.stack([0.25 * np.sin(2 * np.pi * pitch(c) * time) for c in range(channels)]).astype(np.float32)


def encode(
    format: str, codec: str, rate: int = 44_100, channels: int = 2, picture: str = "", title: str = "", **options: str
) -> bytes:
    """Return a file with tones.

    Args:
        picture: "cover" for one in the file's tags, "video" for a second of moving ones before the sound, or none.
    """
    made, packets = BytesIO(), []
    with av.open(made, "w", format=format, options=options) as container:
        if title:
            container.metadata["title"] = title
        if picture:
            shown = container.add_stream("mpeg4" if picture == "video" else "mjpeg", rate=25)
            shown.width, shown.height, shown.pix_fmt = 64, 64, "yuv420p" if picture == "video" else "yuvj420p"
            if picture == "cover":
                shown.disposition = Disposition.attached_pic
            for _ in range(25 if picture == "video" else 1):
                packets += shown.encode(VideoFrame(64, 64, shown.pix_fmt))
            packets += shown.encode()
        stream = container.add_stream(codec, rate=rate, layout=LAYOUTS[channels])
        context = stream.codec_context
        context.options = {"strict": "experimental"}  # FFmpeg's own Vorbis
        context.bit_rate = 192_000
        context.open()
        frame = AudioFrame.from_ndarray(tones(rate, channels), format="fltp", layout=LAYOUTS[channels])
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = AudioResampler(context.format, LAYOUTS[channels], rate, context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            packets += stream.encode(part)
        for packet in [*packets, *stream.encode()]:
            container.mux(packet)
    return made.getvalue()


def written(format: str, rate: int, channels: int) -> bytes:
    """Return a file with tones that libsndfile wrote."""
    made = BytesIO()
    soundfile.write(made, tones(rate, channels).T, rate, format=format)
    return made.getvalue()


def sized(data: bytes, size: int) -> bytes:
    """Let the header of a WAV claim another size of its samples."""
    at = data.index(b"data") + 4
    return data[:4] + struct.pack("<I", size) + data[8:at] + struct.pack("<I", size) + data[at + 4 :]


def titled(data: bytes, title: bytes) -> bytes:
    """Give a WAV a title of these bytes, in whatever code."""
    name = title + b"\0" * (2 - len(title) % 2)
    listed = b"INFOINAM" + struct.pack("<I", len(name)) + name
    return data + b"LIST" + struct.pack("<I", len(listed)) + listed


def flac_claiming(data: bytes, total: int) -> bytes:
    """Let the header of a FLAC claim another number of samples; 0 is unknown, as a stream is written."""
    at = 4 + 4 + 10  # behind the marker, the block's header, and the sizes of blocks and frames
    (packed,) = struct.unpack_from(">Q", data, at)
    return data[:at] + struct.pack(">Q", packed >> 36 << 36 | total) + data[at + 8 :]


def cut(data: bytes, share: float = 0.6) -> bytes:
    return data[: int(len(data) * share)]


wav = partial(encode, "wav", "pcm_s16le")
flac = partial(encode, "flac", "flac")
mp3 = partial(encode, "mp3", "libmp3lame")
vorbis = partial(encode, "ogg", "vorbis")
opus = partial(encode, "ogg", "libopus", 48_000)
m4a = partial(encode, "ipod", "aac")

# name with its ending: what makes the file. All hold `SECONDS` of tones unless the name says otherwise.
FILES: dict[str, Callable[[], bytes]] = {
    "u8.wav": partial(encode, "wav", "pcm_u8"),
    "s16.wav": wav,
    "s24.wav": partial(encode, "wav", "pcm_s24le"),
    "s32.wav": partial(encode, "wav", "pcm_s32le"),
    "f32.wav": partial(encode, "wav", "pcm_f32le"),
    "f64.wav": partial(encode, "wav", "pcm_f64le"),
    "alaw.wav": partial(encode, "wav", "pcm_alaw", 8_000, 1),
    "mono.wav": partial(wav, 22_050, 1),
    "96k.wav": partial(wav, 96_000),
    "5.1.wav": partial(wav, 48_000, 6),
    "large.w64": partial(encode, "w64", "pcm_s16le"),
    "big.aiff": partial(encode, "aiff", "pcm_s16be"),
    "apple.caf": partial(encode, "caf", "pcm_s16le"),
    "s16.flac": flac,
    "mono.flac": partial(flac, 96_000, 1),
    "5.1.flac": partial(flac, 48_000, 6),
    "stereo.mp3": mp3,
    "mono.mp3": partial(mp3, 22_050, 1),
    "cover.mp3": partial(mp3, picture="cover", title="a"),
    "vorbis.ogg": vorbis,
    "mono.ogg": lambda: written("OGG", 22_050, 1),
    "flac.ogg": partial(encode, "ogg", "flac"),
    "stereo.opus": opus,
    "mono.opus": partial(opus, 1),
    "aac.m4a": m4a,
    "alac.m4a": partial(encode, "ipod", "alac"),
    "5.1.m4a": partial(m4a, 48_000, 6),
    "fragments.m4a": partial(m4a, movflags="frag_keyframe+empty_moov"),
    "stream.aac": partial(encode, "adts", "aac"),
    "5.1.ac3": partial(encode, "ac3", "ac3", 48_000, 6),
    "pack.wv": partial(encode, "wv", "wavpack"),
    "windows.wma": partial(encode, "asf", "wmav2"),
    "video.mp4": partial(encode, "mp4", "aac", picture="video"),
    "video.mkv": partial(encode, "matroska", "flac", picture="video"),
    "sound.webm": partial(encode, "webm", "libopus", 48_000),
    "joined.mp3": lambda: mp3() + mp3(),
    "joined.ogg": lambda: vorbis(serial_offset="1") + vorbis(serial_offset="2"),
    "zero-size.wav": lambda: sized(wav(), 0),
    "streamed.wav": lambda: sized(wav(), 0xFFFF_FFFF),
    "cut.wav": lambda: cut(wav()),
    "cut.flac": lambda: cut(flac()),
    "cut.mp3": lambda: cut(mp3()),
    "cut.ogg": lambda: cut(vorbis()),
    "cut.m4a": lambda: cut(m4a()),
    "streamed.flac": lambda: flac_claiming(flac(), 0),
    "more.flac": lambda: flac_claiming(flac(), (1 << 36) - 1),
    "cut.mkv": lambda: cut(encode("matroska", "flac")),
    "cut fragments.m4a": lambda: cut(m4a(movflags="frag_every_frame+empty_moov")),
    "covers.mp3": lambda: mp3(picture="cover") + mp3(picture="cover", title="b") + b"TAG" + b"x" * 125,
    "tail.w64": lambda: encode("w64", "pcm_s16le") + b"?" * 16 + struct.pack("<q", 1 << 62),  # no such part
    "latin-1.wav": lambda: titled(wav(), "Übung".encode("latin-1")),
    "two kinds.mp3": lambda: mp3() + mp3(22_050, 1),
    "no sound.mp4": lambda: silent_video(),
    "text.wav": lambda: b"no sound",
    "empty.wav": lambda: b"",
}


def silent_video() -> bytes:
    made = BytesIO()
    with av.open(made, "w", format="mp4") as container:
        shown = container.add_stream("mpeg4", rate=25)
        shown.width, shown.height, shown.pix_fmt = 64, 64, "yuv420p"
        for packet in [*shown.encode(VideoFrame(64, 64, "yuv420p")), *shown.encode()]:
            container.mux(packet)
    return made.getvalue()


def write_all(folder: Path) -> list[Path]:
    """Write `FILES` into a folder."""
    paths = []
    for name, make in FILES.items():
        paths.append(folder / name)
        paths[-1].write_bytes(make())
    return paths
