"""Distils the guided base onto 8 steps, as an adapter of its transformer.

python -m tools.tiny.distil FOLDER SHARDS VAE STRUCTURE TOKENIZER --seconds 270

FOLDER has the base's net.safetensors; FOLDER/turbo.safetensors comes out. Half of a batch lies on the student's own
paths: those rows move one step of the grid with every step of the training, and begin anew from noise at the grid's
end. The other half is noised data. The target is where the guided base goes from there in a few smaller steps.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import net
from .bank import Batch
from .graphs import DEVICE, adamw, begin, captured, keep, log
from .judge import SHIFT, Judge, asked_of, held_out
from .runs import Clock, Rows, arguments, judged, open_bank

STEPS, FRAMES, RANK = 8, 250, 16
RATE, WARM_UP, AVERAGE, FALL_FROM = 1.5e-3, 200, 0.998, 0.4
COMPILED = 99  # a tap beyond the layers: the compiled layer, and no state


class Adapter(nn.Module):
    """Factors `a [rank, in]` and `b [out, rank]` of the layers' matrices; their small tensors are kept whole."""

    def __init__(self, dit: nn.Module, rank: int) -> None:
        super().__init__()
        self.base = {n: p.detach() for n, p in dit.named_parameters()}
        self.a, self.b, self.whole = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, p in self.base.items():
            key = name.replace(".", "/")  # a ParameterDict takes no dots
            if not name.startswith("layers."):
                continue
            if p.dim() == 2:
                self.a[key] = nn.Parameter(torch.randn(rank, p.shape[1], device=p.device) / p.shape[1] ** 0.5)
                self.b[key] = nn.Parameter(torch.zeros(p.shape[0], rank, device=p.device))
            else:
                self.whole[key] = nn.Parameter(p.clone())

    def weights(self) -> dict[str, Tensor]:
        """The transformer's tensors with the adapter merged."""
        out = dict(self.base)
        for key, a in self.a.items():
            name = key.replace("/", ".")
            out[name] = self.base[name] + self.b[key] @ a
        return out | {key.replace("/", "."): v for key, v in self.whole.items()}

    def load(self, stored: dict[str, Tensor]) -> None:
        """Take over what a file has."""
        with torch.no_grad():
            for name, p in self.stored().items():
                p.copy_(stored[name])

    def stored(self) -> dict[str, Tensor]:
        """As the file has it: NAME.a, NAME.b, and whole tensors by their names."""
        kinds = ((self.a, ".a"), (self.b, ".b"), (self.whole, ""))
        return {key.replace("/", ".") + end: v for some, end in kinds for key, v in some.items()}


class Distiller:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder, self.clock = args, Path(args.folder), Clock(args.seconds)
        self.rows_, self.half, frames = args.rows, args.rows // 2, args.frames
        self.tok = Tokenizer.from_file(args.tokenizer)
        self.parts = net.build(self.tok.get_vocab_size()).to(DEVICE).requires_grad_(False)
        base = load_file(self.folder / "net.safetensors")
        self.parts.load_state_dict({n: t.float() for n, t in base.items() if n != "silence"})
        self.adapter = Adapter(self.parts["transformer"], RANK)
        self._resume()
        self.bank, silence = open_bank(args)
        self.judge = Judge(self.folder, args.vae, self.tok, silence, asked_of(held_out(args.prompts)), frames)
        self.params = list(self.adapter.parameters())
        self.opt = adamw(self.params, 0.0, (0.9, 0.95))
        self.average = [p.detach().clone() for p in self.params]
        self.share, self.meters = torch.zeros((), device=DEVICE), torch.zeros(2 + STEPS, device=DEVICE)
        self.grid = net.schedule(STEPS, SHIFT, DEVICE)
        while self.bank.have < args.warm:
            self.bank.load(256)
            time.sleep(0.2)
        self.own, self.frames = self.bank.batch(self.half, frames), frames
        self.x, self.k = torch.randn_like(self.own.x0), torch.arange(self.half, device=DEVICE) % STEPS
        self.log = Rows(self.folder / "distil_log.json")

    def _resume(self) -> None:
        if (path := self.folder / "turbo.safetensors").exists():
            self.adapter.load(load_file(path))
            log.info("goes on from %s", path)

    def _where(self) -> tuple[Tensor, Tensor, Batch]:
        """Points of paths `[rows, frames, 64]`, their place in the grid `[rows]`, and their prompts."""
        new, data = self.bank.batch(self.half, self.frames), self.bank.batch(self.rows_ - self.half, self.frames)
        fresh = self.k == 0
        self.x.copy_(torch.where(fresh[:, None, None], torch.randn_like(self.x), self.x))
        for f in fields(Batch):
            old, other = getattr(self.own, f.name), getattr(new, f.name)
            old.copy_(torch.where(fresh.view(-1, *[1] * (old.dim() - 1)), other, old))
        k = torch.cat([self.k, (torch.rand(self.rows_ - self.half, device=DEVICE) * STEPS).long()])
        t = self.grid[k][self.half :, None, None]
        x = torch.cat([self.x, t * torch.randn_like(data.x0) + (1 - t) * data.x0])
        both = (torch.cat([getattr(self.own, f.name), getattr(data, f.name)]) for f in fields(Batch))
        return x, k, Batch(*both)

    def _guided(self, x: Tensor, a: Tensor, b: Tensor, batch: Batch, keys: Tensor, bias: Tensor) -> Tensor:
        """The mean velocity of the guided base from a to b."""
        yes, dit = torch.ones(len(x), dtype=torch.bool, device=DEVICE), self.parts["transformer"]
        null, null_bias = net.condition(self.parts, batch.ids, batch.lengths, batch.zeros, yes)
        y, sub = x, self.args.sub
        for j in range(sub):
            t = a + (b - a) * j / sub
            c = net.velocity(dit, y, t, keys, bias, batch.context, COMPILED).float()
            u = net.velocity(dit, y, t, null, null_bias, batch.context, COMPILED).float()
            y = y + ((b - a) / sub)[:, None, None] * (u + self.args.guide * (c - u))
        return (y - x) / (b - a)[:, None, None]

    def step(self) -> None:
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
            x, k, batch = self._where()
            a, b = self.grid[k], self.grid[k + 1]
            no = torch.zeros(len(x), dtype=torch.bool, device=DEVICE)
            keys, bias = net.condition(self.parts, batch.ids, batch.lengths, batch.zeros, no)
            target = self._guided(x, a, b, batch, keys, bias)
        with torch.autocast(DEVICE, torch.bfloat16):
            dit, weights = self.parts["transformer"], self.adapter.weights()
            v = net.velocity(dit, x, a, keys, bias, batch.context, COMPILED, weights).float()
        loss = F.huber_loss(v, target, reduction="none").mean((1, 2))
        loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        with torch.no_grad():
            for p, average in zip(self.params, self.average, strict=True):
                average.addcmul_(p - average, self.share)
            self.x.add_((b - a)[: self.half, None, None] * v.detach()[: self.half])
            self.k.add_(1).remainder_(STEPS)
            each = [(loss.detach() * (k == i)).sum() / (k == i).sum().clamp(min=1) for i in range(STEPS)]
            self.meters.lerp_(torch.stack([loss.detach().mean(), norm, *each]), 0.02)

    def run(self) -> None:
        """Train until the time is over, then have the student judged at 8 and 4 steps."""
        if DEVICE == "cuda":
            net.compile_block()
        step = captured(self.step)
        log.info("captured at %.0f s", self.clock.past())
        self.meters.zero_()
        a, n, shown = self.args, 0, time.time()
        self.clock.train()
        while not self.clock.over():
            self.opt.param_groups[0]["lr"].fill_(self.clock.rate(n, RATE, WARM_UP, FALL_FROM))
            self.share.fill_(1 - min(AVERAGE, (1 + n) / (20 + n)))
            step()
            n += 1
            if n % 20 == 0 and DEVICE == "cuda":
                torch.cuda.synchronize()
            if time.time() - shown > a.every:
                self.bank.load(4)
                self.save(n)
                shown = time.time()
        self.save(n)
        self.judge.judge_all("turbo", a.judge, self.student())

    def student(self) -> nn.ModuleDict:
        """Networks with the averaged adapter merged."""
        parts = net.build(self.tok.get_vocab_size()).to(DEVICE)
        parts.load_state_dict(self.parts.state_dict())
        trained = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            for p, average in zip(self.params, self.average, strict=True):
                p.copy_(average)
            parts["transformer"].load_state_dict(self.adapter.weights())
            for p, own in zip(self.params, trained, strict=True):
                p.copy_(own)
        return parts

    def save(self, step: int) -> None:
        """Log a row of figures, and keep the averaged adapter."""
        loss, norm, *each = (round(v, 4) for v in self.meters.tolist())
        row = {"s": round(self.clock.past()), "step": step, "loss": loss, "norm": norm, "by_grid_step": each}
        self.log.add(row)
        names = {id(p): name for name, p in self.adapter.stored().items()}
        pairs = zip(self.params, self.average, strict=True)
        keep(self.folder / "turbo.safetensors", {names[id(p)]: average for p, average in pairs})


def main() -> None:
    parser = judged(arguments(__doc__, most=40_000, every=20), "8g1", "4g1")
    parser.add_argument("--guide", type=float, default=3.0, help="guidance of the base that is distilled in")
    parser.add_argument("--sub", type=int, default=3, help="steps of the base for one of the student")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--frames", type=int, default=FRAMES)
    args = parser.parse_args()
    begin(2)
    Distiller(args).run()


if __name__ == "__main__":
    main()
