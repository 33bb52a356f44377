"""Judges clips against what was asked for, by detectors and by what rendered pieces sound like to them.

`Reference` is learnt once from rendered pieces and kept as JSON; judging needs NumPy and SciPy only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import stft

from . import detect

CLIP = 10 * detect.RATE
ASKED = ("bpm", "root", "minor", "metre", "style", "drums", "only")
TOLD = ("style", "drums", "only")  # what classifiers tell
HOME = Path(__file__).with_name("reference.json")


@dataclass(frozen=True)
class Heard:
    """The detectors' findings on a clip."""

    bpm: float
    chromagram: NDArray
    features: NDArray
    flatness: float
    regularity: float
    silence: float
    rms: float

    @property
    def chroma(self) -> NDArray:
        """The share of each pitch class, `[12]`."""
        found = self.chromagram.sum(1)
        return found / (found.sum() + 1e-12)


def hear(y: detect.Audio) -> Heard:
    """Listen to the first ten seconds."""
    y = np.asarray(y[:, :CLIP], np.float64)
    return Heard(
        detect.tempo(y),
        detect.chromagram(y),
        features(y),
        detect.flatness(y),
        detect.regularity(y),
        detect.silence(y),
        float(np.sqrt((y**2).mean())),
    )


def features(y: detect.Audio) -> NDArray:
    """Level, movement, attacks, quiet and width of 24 bands, `[120]`: what tells styles and instruments apart."""
    f, _, mid = stft(y.mean(0), detect.RATE, nperseg=2048, noverlap=1024, padded=False)
    _, _, side = stft(y[0] - y[1], detect.RATE, nperseg=2048, noverlap=1024, padded=False)
    edges, out = np.geomspace(40, 18000, 25), []
    for a, b in zip(edges, edges[1:], strict=False):
        rows = (f >= a) & (f < max(b, a + 24))
        level = 10 * np.log10(1e-9 + (np.abs(mid[rows]) ** 2).mean(0))
        width = 10 * np.log10(1e-9 + (np.abs(side[rows]) ** 2).mean())
        rise = np.maximum(np.diff(level), 0).mean()
        out += [level.mean(), level.std(), rise, np.percentile(level, 10), width]
    return np.array(out)


class Reference:
    """Key profiles and linear classifiers of style, drums and "only what", learnt from rendered pieces."""

    def __init__(self, values: dict) -> None:
        self.values = values
        self.major, self.minor = np.array(values["major"]), np.array(values["minor"])

    @classmethod
    def load(cls, path: Path = HOME) -> Reference:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def learn(cls, heard: Sequence[Heard], asked: Sequence[dict]) -> Reference:
        """Learn from pieces and what is true of them; needs scikit-learn."""
        from sklearn.linear_model import LogisticRegression

        def profile(minor: bool) -> list[float]:
            turned = [np.roll(h.chroma, -a["root"]) for h, a in zip(heard, asked, strict=True) if a["minor"] == minor]
            return np.mean(turned, 0).tolist()

        x = np.stack([h.features for h in heard])
        mean, deviation = x.mean(0), x.std(0)
        values = {
            "major": profile(False),
            "minor": profile(True),
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
        }
        for name in TOLD:
            fit = LogisticRegression(C=0.05, max_iter=400).fit((x - mean) / deviation, [a[name] for a in asked])
            classes = [c.item() if hasattr(c, "item") else c for c in fit.classes_]
            values[name] = {"classes": classes, "weights": fit.coef_.tolist(), "bias": fit.intercept_.tolist()}
        return cls(values)

    def save(self, path: Path = HOME) -> None:
        path.write_text(json.dumps(self.values), encoding="utf-8")

    def told(self, heard: Heard, name: str) -> object:
        """The most likely style, whether there are drums, or the only part that plays ("" for all)."""
        v = self.values
        x = (heard.features - np.array(v["mean"])) / np.array(v["deviation"])
        scores = np.array(v[name]["weights"]) @ x + np.array(v[name]["bias"])
        classes = v[name]["classes"]
        return classes[int(scores[0] > 0)] if len(classes) == 2 else classes[int(scores.argmax())]

    def key(self, heard: Heard) -> tuple[int, bool]:
        return detect.key(heard.chroma, self.major, self.minor)


def report(heard: Sequence[Heard], asked: Sequence[dict], reference: Reference) -> dict[str, float | None]:
    """Shares of clips that do what was asked, and what they are like."""
    pairs = list(zip(heard, asked, strict=True))
    keys = [detect.key_ok(reference.key(h), a["root"], a["minor"]) for h, a in pairs]
    right = {
        name: [reference.told(h, name) == a[name] for h, a in pairs if name != "only" or a["only"]] for name in TOLD
    }
    return {
        "clips": len(pairs),
        "tempo": _share(detect.tempo_ok(h.bpm, a["bpm"], a["metre"]) for h, a in pairs),
        "tempo_with_drums": _share(detect.tempo_ok(h.bpm, a["bpm"], a["metre"]) for h, a in pairs if a["drums"]),
        "key": _share(k == "exact" for k in keys),
        "key_or_relative": _share(k in ("exact", "relative") for k in keys),
        **{name: _share(found) for name, found in right.items()},
        "flatness_median": round(float(np.median([h.flatness for h in heard])), 5),
        "flatness_highest": round(max(h.flatness for h in heard), 5),
        "regularity_lowest": round(min(h.regularity for h in heard), 3),
        "silence": round(float(np.mean([h.silence for h in heard])), 4),
        "rms": round(float(np.mean([h.rms for h in heard])), 4),
    }


def inside(heard: Sequence[Heard], rendered: Sequence[Heard]) -> float | None:
    """The share of clips whose flatness, regularity and silence lie within the range of the rendered pieces."""
    most = max(h.flatness for h in rendered)
    least = min(h.regularity for h in rendered)
    quiet = max(h.silence for h in rendered)
    return _share(h.flatness <= most and h.regularity >= least and h.silence <= quiet for h in heard)


def _share(found: Iterable[bool]) -> float | None:
    found = list(found)
    return round(sum(found) / len(found), 4) if found else None
