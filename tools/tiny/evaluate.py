"""Judges trained weights at full size: python -m tools.tiny.evaluate FOLDER VAE STRUCTURE SOUNDFONT TOKENIZER

FOLDER has net.safetensors and turbo.safetensors; FOLDER/figures.json comes out, written anew after every set of clips:

- held-out prompts through turbo and base, beside the rendered pieces, and those through the VAE;
- prompts for drums, bass or chords alone, as many of each;
- covers: a piece's hints and a prompt for the instruments of its cover.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import net
from .composer import ONLY, Piece, compose
from .covers import cover
from .detect import chords_alike
from .distil import RANK, Adapter
from .graphs import DEVICE, begin, log
from .judge import Judge, asked_of, held_out
from .listen import Heard, Reference, hear, inside, report
from .render import rendered, start
from .shards import HELD_OUT
from .structure import load_structure
from .vae import load_vae, silence_of

WAYS = ("turbo8g1", "turbo4g1", "base30g1", "base30g3", "base30g5", "base8g3")
FRAMES, HOP = 250, 1920  # of a clip; samples of a frame
PARTS = HELD_OUT + 500_000  # where the search for pieces of one part begins


def clip_of(p: Piece) -> np.ndarray:
    """Ten seconds of a piece, float32 `[2, samples]`."""
    return rendered(p)[:, : FRAMES * HOP]


def parts_of(folder: Path, words: int) -> dict[str, nn.ModuleDict]:
    """The networks of base and turbo."""
    base = {n: t.float() for n, t in load_file(folder / "net.safetensors").items() if n != "silence"}
    out = {}
    for name in ("base", "turbo"):
        parts = out[name] = net.build(words).to(DEVICE).requires_grad_(False)
        parts.load_state_dict(base)
    adapter, dit = Adapter(out["turbo"]["transformer"], RANK), out["turbo"]["transformer"]
    adapter.load(load_file(folder / "turbo.safetensors"))
    dit.load_state_dict({n: t.detach().clone() for n, t in adapter.weights().items()})
    return out


def alone(each: int) -> list[Piece]:
    """The same number of pieces of drums, of bass and of chords alone."""
    found: dict[str, list[Piece]] = {only: [] for only in ONLY if only}
    seed = PARTS
    while any(len(pieces) < each for pieces in found.values()):
        p = compose(seed, alone=0.5)
        if p.only and len(found[p.only]) < each:
            found[p.only].append(p)
        seed += 1
    return [p for pieces in found.values() for p in pieces]


class Evaluation:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder, self.figures = args, Path(args.folder), dict[str, list[dict]]()
        self.pool = ProcessPoolExecutor(args.procs, initializer=start, initargs=(args.soundfont,))
        list(self.pool.map(abs, range(args.procs)))  # the processes start before CUDA does
        self.reference, self.tok = Reference.load(), Tokenizer.from_file(args.tokenizer)
        self.vae, self.silence = load_vae(args.vae, DEVICE), silence_of(load_vae(args.vae, DEVICE), DEVICE)
        self.parts = parts_of(self.folder, self.tok.get_vocab_size())

    def judge(self, asked: list[dict], task: str = "text2music") -> Judge:
        j = Judge(self.folder, self.args.vae, self.tok, self.silence, asked, FRAMES, task)
        j.pool = self.pool
        return j

    def tell(self, part: str, row: dict) -> None:
        log.info("%s %s", part, json.dumps(row))
        self.figures.setdefault(part, []).append(row)
        (self.folder / self.args.figures).write_text(json.dumps(self.figures, indent=1), encoding="utf-8")

    @torch.no_grad()
    def encoded(self, clips: Sequence[np.ndarray]) -> Tensor:
        """Latents `[n, frames, 64]`."""
        with torch.autocast(DEVICE, torch.bfloat16):
            parts = torch.from_numpy(np.stack(clips)).split(8)
            return torch.cat([self.vae.encode(x.to(DEVICE))[0] for x in parts]).transpose(1, 2)

    def prompts(self) -> None:
        """Held-out prompts; the share of clips within the range of the rendered pieces comes with them."""
        pieces = held_out(self.args.prompts)
        j, clips = self.judge(asked_of(pieces)), list(self.pool.map(clip_of, pieces))
        truth = list(self.pool.map(hear, clips))
        self.tell("prompts", {"name": "rendered"} | report(truth, j.asked, self.reference))
        again = j.listen(self.encoded(clips))
        self.tell("prompts", {"name": "through the VAE"} | report(again, j.asked, self.reference))
        for way in self.args.ways:
            found = j.listen(self.sampled(j, way))
            row = {"name": way} | report(found, j.asked, self.reference)
            self.tell("prompts", row | {"inside": inside(found, truth)})

    def sampled(self, j: Judge, way: str, context: Tensor | None = None) -> Tensor:
        steps, guide = way.removeprefix("turbo").removeprefix("base").split("g")
        kind = "turbo" if way.startswith("turbo") else "base"
        return j.sample(self.parts[kind], int(steps), float(guide), context)

    def only(self) -> None:
        """Count which part alone is heard, of each that was asked for."""
        pieces = alone(self.args.alone)
        j, clips = self.judge(asked_of(pieces)), list(self.pool.map(clip_of, pieces))
        sets = {"rendered": list(self.pool.map(hear, clips)), "through the VAE": j.listen(self.encoded(clips))}
        for way in (*sets, *self.args.ways):
            found = sets[way] if way in sets else j.listen(self.sampled(j, way))
            told = [(a["only"], str(self.reference.told(h, "only"))) for h, a in zip(found, j.asked, strict=True)]
            pairs = Counter(f"{a} as {b or 'all'}" for a, b in told)
            self.tell("alone", {"name": way, "clips": len(told), "right": share([a == b for a, b in told])} | pairs)

    def covers(self) -> None:
        """Covers of held-out pieces, and the same prompts without the piece."""
        pieces = [p for p in held_out(self.args.covers * 2) if p.only != "drums"][: self.args.covers]
        others = [cover(p) for p in pieces]
        asked = asked_of(others)
        clips = [list(self.pool.map(clip_of, some)) for some in (pieces, others)]
        before, same = (list(self.pool.map(hear, some)) for some in clips)
        z, structure = self.encoded(clips[0]), load_structure(self.args.structure, DEVICE)
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
            context = torch.cat([structure(z).float(), torch.ones_like(z)], -1)
        self.tell("covers", {"name": "rendered"} | alike(self.reference, before, same, same, asked))
        self.tell("covers", {"name": "the piece itself"} | alike(self.reference, before, same, before, asked))
        for way in self.args.ways:
            for task, given in (("cover", context), ("text2music", None)):
                j = self.judge(asked, task)
                found = j.listen(self.sampled(j, way, given))
                self.tell("covers", {"name": way, "task": task} | alike(self.reference, before, same, found, asked))


def alike(reference: Reference, before: list[Heard], same: list[Heard], found: list[Heard], asked: list[dict]) -> dict:
    """Measure how far clips have the chords of the pieces `before`, and the sound of their rendered covers `same`."""
    chords = [chords_alike(a.chromagram, b.chromagram) for a, b in zip(before, found, strict=True)]
    others = [chords_alike(a.chromagram, b.chromagram) for a, b in zip(before, found[1:] + found[:1], strict=True)]
    told, deviation = report(found, asked, reference), np.array(reference.values["deviation"])

    def far(a: Heard, b: Heard) -> float:
        return float(np.linalg.norm((a.features - b.features) / deviation))

    sound = [far(b, f) > far(s, f) for b, s, f in zip(before, same, found, strict=True)]
    return {
        "chords": round(float(np.mean(chords)), 3),
        "chords_lowest_tenth": round(float(np.quantile(chords, 0.1)), 3),
        "chords_of_other_pieces": round(float(np.mean(others)), 3),
        "sounds_like_the_rendered_cover": share(sound),
        **{name: told[name] for name in ("clips", "tempo", "key", "style", "drums", "flatness_median")},
    }


def share(found: Sequence[bool]) -> float:
    return round(sum(found) / len(found), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "vae", "structure", "soundfont", "tokenizer"):
        parser.add_argument(name)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--alone", type=int, default=20, help="prompts for each part alone")
    parser.add_argument("--covers", type=int, default=60)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help="turbo or base, STEPSgGUIDANCE")
    parser.add_argument("--procs", type=int, default=os.cpu_count())
    parser.add_argument("--figures", default="figures.json", help="name of what comes out")
    args = parser.parse_args()
    begin(4)
    evaluation = Evaluation(args)
    evaluation.prompts()
    evaluation.only()
    evaluation.covers()


if __name__ == "__main__":
    main()
