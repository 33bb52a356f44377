"""Renders and encodes pieces and their covers into shards of latents, for as long as a training takes them in.

python -m tools.tiny.shards VAE FOLDER SOUNDFONT TOKENIZER [--first SEED] [--most PIECES] [--procs N]

Rows 2 n and 2 n + 1 of a shard are a piece and its cover.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from .factory import Factory
from .graphs import DEVICE, begin, log
from .vae import Vae, load_vae

HELD_OUT, TESTS = 10**6, 64  # first seed that no training has, and how many are encoded for the held-out loss
SHARD, CHUNK = 128, 8  # pieces of a file, and of one pass of the encoder
FIELDS = ("ids", "lens", "beat", "metre", "roll", "seed")


@torch.no_grad()
def encoded(factory: Factory, vae: Vae, pieces: int) -> dict[str, np.ndarray]:
    """The next pieces, each with its cover: latents `z` `[2 n, 400, 64]` float16, and the other `FIELDS`."""
    audio, rest = [], []
    while len(audio) < pieces:
        if (p := factory.take()) is None:
            continue
        audio.append(torch.tensor(p.audio, device=DEVICE))
        roll = np.packbits(p.roll, axis=-1)
        rest += [(p.ids[n], p.lengths[n], p.beat, p.metre, roll[n], p.seed) for n in range(len(roll))]
        factory.release(p)
    with torch.autocast(DEVICE, torch.bfloat16):
        z = vae.encode(torch.cat(audio).float() / 32767)[0]
    fields = {name: np.stack([np.asarray(r[i]) for r in rest]) for i, name in enumerate(FIELDS)}
    return {"z": z.transpose(1, 2).half().cpu().numpy(), **fields}


def write(path: Path, parts: list[dict[str, np.ndarray]]) -> None:
    """One file of several passes, whole or not there."""
    beside = path.with_name("part.npz")
    np.savez(beside, **{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("vae", "folder", "soundfont", "tokenizer"):
        parser.add_argument(name)
    parser.add_argument("--first", type=int, default=20_000_000, help="seed of the first piece")
    parser.add_argument("--most", type=int, default=100_000, help="pieces to make")
    parser.add_argument("--procs", type=int, default=max(1, (os.cpu_count() or 2) - 8))
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--shard", type=int, default=SHARD)
    parser.add_argument("--tests", type=int, default=TESTS)
    args, start = parser.parse_args(), time.time()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    fonts = (args.soundfont, args.tokenizer)
    held = Factory(*fonts, HELD_OUT, min(6, args.procs), args.tests, args.tests, covers=True)
    train = Factory(*fonts, args.first, args.procs, 8 * args.procs, covers=True)
    begin(0)
    vae = load_vae(args.vae, DEVICE)
    write(folder / "held.npz", [encoded(held, vae, args.chunk) for _ in range(args.tests // args.chunk)])
    held.stop()
    for n in range(args.most // args.shard):
        write(folder / f"s{n:05d}.npz", [encoded(train, vae, args.chunk) for _ in range(args.shard // args.chunk)])
        if n % 16 == 0:
            log.info("%d pieces at %.0f s", (n + 1) * args.shard, time.time() - start)
    train.stop()


if __name__ == "__main__":
    main()
