"""Audio files: what is in them is read, whatever their headers claim, and no more than is allowed."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.audio import read
from ostinato.engine_runtime.audio.encode import mix_down, prepare_audio
from ostinato.engine_runtime.audio.read import read_audio
from ostinato.engine_runtime.errors import AudioError

from ...audio_files import FILES, SECONDS, flac, mp3, pitch, tones, wav
from ...fuzz import budget
from ..refusal import check_sentence

EXACT = (
    *("s16.wav", "s24.wav", "s32.wav", "f32.wav", "f64.wav", "mono.wav", "96k.wav", "5.1.wav", "large.w64", "big.aiff"),
    *("apple.caf", "s16.flac", "mono.flac", "5.1.flac", "flac.ogg", "alac.m4a", "pack.wv", "video.mkv", "u8.wav"),
    *("zero-size.wav", "streamed.wav", "streamed.flac", "more.flac", "tail.w64", "latin-1.wav"),
)
TWICE = ("joined.mp3", "covers.mp3", "joined.ogg")
PARTS = ("cut.wav", "cut.mp3", "cut.mkv")
REFUSED = (
    *("cut.flac", "cut.ogg", "cut.m4a", "cut fragments.m4a"),
    *("two kinds.mp3", "no sound.mp4", "text.wav", "empty.wav"),
)
LOSSY = [name for name in FILES if name not in (*EXACT, *TWICE, *PARTS, *REFUSED)]
RATES = {"alaw": 8_000, "opus": 48_000, "mono.flac": 96_000, "mono": 22_050, "96k": 96_000, "5.1": 48_000}
RATES["webm"] = 48_000


def made(folder: Path, data: bytes, name: str) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def opened(folder: Path, name: str) -> tuple[torch.Tensor, int]:
    """Read one of `FILES`; its rate and channels must be those that were encoded."""
    samples, rate = read_audio(made(folder, FILES[name](), name))
    expected = next((RATES[key] for key in RATES if key in name), 44_100)
    wide = 6 if "5.1" in name else 1 if "mono" in name or "alaw" in name else 2
    assert rate == expected and len(samples) == wide and samples.dtype == torch.float32
    return samples, rate


def pitches(samples: torch.Tensor, rate: int) -> list[float]:
    window = torch.hann_window(samples.shape[1])
    spectrum = torch.fft.rfft(samples * window, n=rate).abs()
    return [float(channel.argmax()) for channel in spectrum]  # bins of 1 Hz


@pytest.mark.parametrize("name", EXACT)
def test_what_is_kept_whole_comes_back(tmp_path: Path, name: str) -> None:
    samples, rate = opened(tmp_path, name)
    given = tones(rate, len(samples))
    assert samples.shape == given.shape
    step = 2.0 ** (-7 if name in ("u8.wav", "pack.wv") else -15)  # the tones are rounded to it, in either direction
    assert np.abs(samples.numpy() - given).max() <= step


@pytest.mark.parametrize("name", LOSSY)
def test_each_channel_keeps_its_tone(tmp_path: Path, name: str) -> None:
    samples, rate = opened(tmp_path, name)
    assert samples.shape[1] / rate == pytest.approx(SECONDS, abs=0.05)
    heard = pitches(samples, rate)
    silent = (3,) if name.endswith(("m4a", "ac3")) else ()  # a subwoofer has no tone so high
    assert all(abs(found - pitch(c)) <= 3 for c, found in enumerate(heard) if c not in silent)


@pytest.mark.parametrize("name", TWICE)
def test_files_that_were_joined_are_read_to_the_end(tmp_path: Path, name: str) -> None:
    samples, rate = opened(tmp_path, name)
    assert samples.shape[1] / rate == pytest.approx(2 * SECONDS, abs=0.08)
    half = samples.shape[1] // 2
    for part in (samples[:, :half], samples[:, half:]):
        assert pitches(part, rate) == pytest.approx([pitch(0), pitch(1)], abs=3)


def test_the_tags_between_joined_files_may_be_large(tmp_path: Path) -> None:
    """A picture's bytes look like the beginning of sound here and there."""
    picture = np.random.default_rng(1).bytes(60_000)
    size = bytes(len(picture) >> 7 * place & 127 for place in (3, 2, 1, 0))
    bare = mp3(write_xing="0", id3v2_version="0")
    alone, _ = read_audio(made(tmp_path, bare + bare, "bare.mp3"))
    tagged, _ = read_audio(made(tmp_path, bare + b"ID3\4\0\0" + size + picture + bare, "tagged.mp3"))
    assert 0 <= alone.shape[1] - tagged.shape[1] <= 1152  # a frame that a false one reaches into
    assert torch.equal(tagged[:, :20_000], alone[:, :20_000])
    assert pitches(tagged[:, 28_000:44_000], 44_100) == pytest.approx([pitch(0), pitch(1)], abs=3)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_file_gives_that_part(tmp_path: Path, name: str) -> None:
    samples, rate = opened(tmp_path, name)
    assert 0.1 < samples.shape[1] / rate < 0.45
    assert pitches(samples, rate) == pytest.approx([pitch(0), pitch(1)], abs=5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sound_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError, match="cannot be read as audio|changes from .* on the way") as caught:
        read_audio(made(tmp_path, FILES[name](), name))
    check_sentence(caught.value)
    assert name in str(caught.value)


def test_more_samples_than_are_read(tmp_path: Path) -> None:
    path = made(tmp_path, flac(), "a.flac")
    total = round(2 * 44_100 * SECONDS)
    assert read_audio(path, total)[0].shape == (2, total // 2)
    with pytest.raises(AudioError, match=f"more than {total // 2 - 1} samples in each of its 2 channels") as caught:
        read_audio(path, total - 2)
    check_sentence(caught.value)


def test_what_is_over_the_limit_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FLAC of silence has a thousandth of its samples' bytes."""
    kept = []
    monkeypatch.setattr(read, "_values", lambda frame: kept.append(frame.samples))
    with pytest.raises(AudioError, match="more than 5000 samples"):
        read_audio(made(tmp_path, flac(), "a.flac"), 10_000)
    assert 0 < sum(kept) <= 5000


LISTS = {
    "list.wav": b"ffconcat version 1.0\nfile other.wav\n",
    "list.m3u8": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\nother.mp3\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_files_that_a_file_names_are_not_opened(
    tmp_path: Path, places, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made(tmp_path, wav(), "other.wav")
    made(tmp_path, mp3(), "other.mp3")
    path = made(tmp_path, LISTS[name], name)
    places(here=tmp_path)
    with av.open(name) as container:  # FFmpeg takes it for a list, and finds what is in it
        assert container.format.name in ("concat", "hls") and next(container.decode(audio=0)).samples
    with pytest.raises(AudioError, match="another kind"):
        read_audio(path)
    monkeypatch.setattr(read, "CONTAINERS", (*read.CONTAINERS, "concat", "hls"))
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read_audio(path)


def test_pictures_are_not_decoded(tmp_path: Path) -> None:
    path = made(tmp_path, FILES["video.mkv"](), "video.mkv")
    with path.open("rb") as file, av.open(file) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    with path.open("rb") as file, av.open(file, options=read._limits()) as container:
        assert container.streams.video[0].codec_context.pix_fmt is None


CHANGES = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 30), st.binary(max_size=8))


@budget(60)
@given(name=st.sampled_from(sorted(FILES)), changes=st.lists(CHANGES, min_size=1, max_size=8), head=st.booleans())
def test_a_damaged_file_gives_samples_or_one_sentence(tmp_path: Path, name: str, changes: list, head: bool) -> None:
    data = bytearray(FILES[name]())
    for place, dropped, put in changes:
        at = int(place * min(len(data), 400 if head else len(data)))
        data[at : at + dropped] = put
    try:
        samples, rate = read_audio(made(tmp_path, bytes(data), name))
    except AudioError as error:
        check_sentence(error)
    else:
        assert samples.dtype == torch.float32 and samples.ndim == 2 and 0 not in samples.shape and rate > 0


LAYOUTS = {5: "5.0", 6: "5.1", 8: "7.1"}


@pytest.mark.parametrize("channels", LAYOUTS)
def test_surround_sound_is_mixed_down_as_ffmpeg_does(channels: int) -> None:
    """To whole numbers, where FFmpeg scales so that nothing clips."""
    audio = torch.from_numpy(tones(48_000, channels))
    packed = np.ascontiguousarray(audio.numpy().T).reshape(1, -1)
    frame = AudioFrame.from_ndarray(packed, format="flt", layout=LAYOUTS[channels])
    frame.sample_rate = 48_000
    mixed = AudioResampler("s16p", "stereo", 48_000).resample(frame)
    expected = np.concatenate([part.to_ndarray() for part in mixed], axis=1) / 2.0**15
    assert mix_down(audio).numpy() == pytest.approx(expected, abs=2.0**-15)
    assert torch.equal(prepare_audio(audio, 48_000), mix_down(audio))
    assert torch.equal(prepare_audio(audio[None], 48_000), mix_down(audio))
    loudest = mix_down(torch.ones(channels, 1))
    assert loudest.flatten().tolist() == pytest.approx([1.0, 1.0])
