"""Pictures: python -m tools.tiny.sheets sheet OUT.png CLIP... | curves OUT.png LOG.json... | vae OUT.jpg VAE SOUNDFONT
| tones OUT.png VAE SOUNDFONT

A sheet has a spectrogram of each clip with the tempo, key and style that the detectors hear; a text file of the clip's
name, `CLIP.txt`, is its title. Curves are the figures of the trainings' logs over their time. `vae` shows the first
twelve held-out pieces beside what the VAE makes of them, `tones` their spectra over 10 s at 0.1 Hz, with the multiples
of 250 Hz that stand out. Needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from scipy.signal import stft

from .composer import NAMES
from .listen import Reference, hear

FIGURES = (
    "nats",
    "si_sdr",
    "mel_db",
    "held_out",
    "flow",
    "roll",
    "loss",
    "norm",
)  # that are drawn, the first three of a log


def sheet(out: Path, clips: list[Path]) -> None:
    reference = Reference.load()
    fig, axes = plt.subplots(len(clips), 1, figsize=(12, 2.3 * len(clips)), squeeze=False)
    for ax, path in zip(axes[:, 0], clips, strict=True):
        y, rate = soundfile.read(path, always_2d=True)
        heard = hear(y.T)
        root, minor = reference.key(heard)
        words = path.with_suffix(".txt")
        asked = words.read_text(encoding="utf-8").strip() if words.exists() else path.stem
        told = f"{heard.bpm:.0f} bpm, {NAMES[root]} {'minor' if minor else 'major'}, {reference.told(heard, 'style')}"
        spectrogram(ax, y.mean(1), rate)
        ax.set_title(f"{asked}   →   heard: {told}", fontsize=9)
    plt.tight_layout()
    plt.savefig(out, dpi=60)


def spectrogram(ax, y: np.ndarray, rate: int) -> None:
    f, t, z = stft(y, rate, nperseg=2048, noverlap=1536)
    db = 20 * np.log10(np.abs(z) + 1e-6)
    ax.pcolormesh(t, f[1:], db[1:], vmin=-100, vmax=-25, cmap="magma", shading="nearest", rasterized=True)
    ax.set_yscale("symlog", linthresh=800)
    ax.set_ylim(40, 20000)


def vae(out: Path, given: list[Path], pieces: int = 12, seconds: int = 6) -> None:
    import torch

    from .judge import held_out
    from .render import Renderer
    from .vae import load_vae

    coder, renderer = load_vae(str(given[0]), "cpu"), Renderer(str(given[1]))
    fig, axes = plt.subplots(pieces // 2, 4, figsize=(20, 1.9 * pieces // 2), squeeze=False)
    for n, p in enumerate(held_out(pieces)):
        y = renderer.render(p)[:, : seconds * 48_000]
        with torch.no_grad():
            z = coder.decode(coder.encode(torch.from_numpy(y)[None])[0])[0].numpy()
        for ax, clip, name in zip(axes[n // 2, n % 2 * 2 :], (y, z), (p.style, "decoded"), strict=False):
            spectrogram(ax, clip.mean(0), 48_000)
            ax.set_title(f"{name} {', '.join(p.instruments)}{' drums' * p.drums}" if clip is y else name, fontsize=8)
            ax.tick_params(labelsize=6)
    plt.tight_layout()
    plt.savefig(out, dpi=70, pil_kwargs={"quality": 72})


def tones(out: Path, given: list[Path], pieces: int = 12, stands_out: float = 20.0) -> None:
    import torch

    from .losses import LOCK
    from .shards import HELD_OUT
    from .vae import load_vae
    from .vae_train import rendered

    coder, truth = load_vae(str(given[0]), "cpu"), rendered(str(given[1]), HELD_OUT, pieces)
    window = np.hanning(truth.shape[-1])
    step = truth.shape[-1] // LOCK  # bins between the multiples
    fig, axes = plt.subplots(pieces // 2, 2, figsize=(16, 1.6 * pieces // 2), sharex=True, squeeze=False)
    for ax, x in zip(axes.flat, truth.split(1), strict=True):
        with torch.no_grad():
            y = coder.decode(coder.encode(x)[0])
        for clip, name in ((x, "rendered"), (y, "decoded")):
            spectrum = np.abs(np.fft.rfft(clip[0].mean(0).numpy() * window)) / window.sum() * 2
            db = 20 * np.log10(spectrum + 1e-9)
            at = np.arange(step, 49 * step, step)
            peaks = np.array([db[a - 2 : a + 3].max() for a in at])
            found = peaks - [np.median(db[a - 60 : a + 61]) for a in at] > stands_out
            loudest = f", loudest {peaks[found].max():.0f} dB" if found.any() else ""
            told = f"{name}: {found.sum()} multiples of 250 Hz stand out{loudest}"
            ax.plot(np.arange(len(db))[: 50 * step] / step / 4, db[: 50 * step], lw=0.3, label=told)
        ax.set_ylim(-120, -20)
        ax.legend(fontsize=6, loc="upper right")
        ax.tick_params(labelsize=6)
    plt.xlabel("kHz")
    plt.tight_layout()
    plt.savefig(out, dpi=60)


def curves(out: Path, logs: list[Path]) -> None:
    """One row of panels a log; of the held-out losses the mean is drawn."""
    rows = [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in logs]
    fig, axes = plt.subplots(len(rows), 3, figsize=(9, 2 * len(rows)), squeeze=False)
    for row, (name, log) in zip(axes, rows, strict=True):
        keys = [k for k in FIGURES if any(k in r for r in log)][:3]
        for ax in row[len(keys) :]:
            ax.axis("off")
        for ax, key in zip(row, keys, strict=False):
            points = [(r["s"], r[key][-2] if isinstance(r[key], list) else r[key]) for r in log if key in r]
            ax.plot(*zip(*points, strict=True), lw=1)
            ax.set_title(f"{name}: {key}", fontsize=8)
            ax.tick_params(labelsize=7)
            ax.set_xlabel("seconds", fontsize=7)
    plt.tight_layout()
    plt.savefig(out, dpi=80)


if __name__ == "__main__":
    {"sheet": sheet, "curves": curves, "vae": vae, "tones": tones}[sys.argv[1]](
        Path(sys.argv[2]), [Path(p) for p in sys.argv[3:]]
    )
