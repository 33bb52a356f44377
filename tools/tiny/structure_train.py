"""Trains the audio tokenizer and detokenizer of covers on shards of latents.

python -m tools.tiny.structure_train FOLDER SHARDS VAE --seconds 90

A linear head says from the hints which notes sound and start in each frame. It is not part of the model, and nothing
else asks anything of the hints. FOLDER/structure.safetensors comes out, its hints of mean 0 and deviation 1.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .factory import ROLL
from .graphs import DEVICE, adamw, begin, captured, keep, log
from .runs import Clock, Rows, arguments, open_bank
from .structure import LATENT, NUMBERS, Structure

ROWS, FRAMES = 256, 100  # of a step
RATE, WARM_UP, FALL_FROM = 2e-3, 200, 0.3
STARTS = 4.0  # they are few, and lie between frames: with the weight of keys none is learnt


class Trainer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder, self.clock = args, Path(args.folder), Clock(args.seconds)
        self.structure, self.head = Structure(args.numbers).to(DEVICE), nn.Linear(LATENT, ROLL).to(DEVICE)
        for name, module in (("structure", self.structure), ("structure_head", self.head)):
            if (path := self.folder / f"{name}.safetensors").exists():
                module.load_state_dict({n: t.float() for n, t in load_file(path).items()})
                log.info("goes on from %s", path)
        self.bank, _ = open_bank(args)
        self.params = [*self.structure.parameters(), *self.head.parameters()]
        self.weights = torch.ones(ROLL, device=DEVICE)
        self.weights[ROLL - 8 :] = args.starts
        self.opt = adamw(self.params, 0.0, (0.9, 0.98), 0.01)
        self.meters, self.log = torch.zeros(2, device=DEVICE), Rows(self.folder / "structure_log.json")

    def heard(self, z: Tensor) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return self.head(self.structure(z)).float()

    def step(self) -> None:
        z, roll = self.bank.notes(self.args.rows, FRAMES)
        loss = F.binary_cross_entropy_with_logits(self.heard(z), roll, self.weights)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        self.meters.lerp_(torch.stack([loss.detach(), norm]), 0.01)

    def run(self) -> None:
        a, n, shown = self.args, 0, time.time()
        while self.bank.have < a.warm:
            self.bank.load(8)
            time.sleep(0.2)
        found = np.load(Path(a.shards) / "held.npz")
        self.held = torch.from_numpy(found["z"]).float().to(DEVICE)
        self.truth = torch.from_numpy(np.unpackbits(found["roll"], axis=-1, count=ROLL)).to(DEVICE) > 0
        step = captured(self.step)
        self.clock.train()
        while not self.clock.over():
            self.opt.param_groups[0]["lr"].fill_(self.clock.rate(n, RATE, WARM_UP, FALL_FROM))
            step()
            n += 1
            if n % 20 == 0 and DEVICE == "cuda":
                torch.cuda.synchronize()
            if time.time() - shown > a.every:
                self.bank.load(4)
                self.save(n)
                shown = time.time()
        self.save(n)

    @torch.no_grad()
    def figures(self) -> dict[str, list[float]]:
        """Precision and recall of sounding keys, and of notes' starts, in held-out pieces and their covers."""
        found, out = self.heard(self.held) > 0, {}
        for name, part in (("keys", slice(0, ROLL - 8)), ("starts", slice(ROLL - 8, ROLL))):
            f, t = found[..., part], self.truth[..., part]
            right = (f & t).sum()
            out[name] = [round((right / n.sum().clamp(min=1)).item(), 3) for n in (f, t)]
        return out

    def save(self, step: int) -> None:
        """Log a row of figures, and keep the pair with its hints scaled, and the head that goes with it."""
        loss, norm = (round(v, 4) for v in self.meters.tolist())
        row = {"s": round(self.clock.past()), "step": step, "rows": self.bank.have, "loss": loss, "norm": norm}
        self.log.add(row | self.figures())
        scaled = Structure(self.args.numbers).to(DEVICE)
        scaled.load_state_dict(self.structure.state_dict())
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
            hints = scaled(self.bank.notes(self.args.rows, FRAMES)[0]).float().flatten(0, 1)
        deviation = scaled.normalise(hints)
        mean = hints.mean(0)
        head = {"weight": self.head.weight * deviation, "bias": self.head.bias + self.head.weight @ mean}
        keep(self.folder / "structure.safetensors", dict(scaled.named_parameters()))
        keep(self.folder / "structure_head.safetensors", head)


def main() -> None:
    parser = arguments(__doc__, most=12_000, every=15, structure=False)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--numbers", type=int, default=NUMBERS, help="of a token")
    parser.add_argument("--starts", type=float, default=STARTS, help="weight of the notes' starts in the loss")
    args = parser.parse_args()
    begin(3)
    Path(args.folder).mkdir(parents=True, exist_ok=True)
    Trainer(args).run()


if __name__ == "__main__":
    main()
