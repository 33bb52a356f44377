"""Trains the text encoder, the condition encoder and the DiT by flow matching on shards of latents.

python -m tools.tiny.dit_train FOLDER SHARDS VAE STRUCTURE TOKENIZER --seconds 900

Goes on from FOLDER/net.safetensors where that is there. A linear head on a middle layer also says which notes sound
and where in the beat and the bar a frame lies: with that help the layers listen to the prompt's tempo and key after a
minute. It is not part of the model.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import net
from .bank import Batch
from .factory import COVER, ROLL
from .graphs import DEVICE, adamw, begin, captured, keep, log
from .judge import Judge, asked_of, held_out
from .runs import Clock, Rows, arguments, judged, open_bank
from .shards import HELD_OUT

SHAPES = ((250, 256), (250, 256), (400, 160))  # frames and rows of the steps, in turn
RATE, WARM_UP, AVERAGE = 8e-4, 500, 0.9995
TAP, ROLL_WEIGHT, PHASE_WEIGHT = 3, 3.0, 0.3
DROP = 0.1  # of the prompts
T_MEAN, T_DEVIATION = 0.4, 1.1  # of the logit of t
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the held-out loss


class Trainer:
    """The networks, their averages and one captured step a shape."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder, self.clock = args, Path(args.folder), Clock(args.seconds)
        self.shapes = [tuple(int(n) for n in s.split("x")) for s in args.shapes] or list(SHAPES)
        tok = Tokenizer.from_file(args.tokenizer)
        self.parts = net.build(tok.get_vocab_size())
        net.number_tokens(self.parts, tok)
        self.parts, self.head = self.parts.to(DEVICE), nn.Linear(net.H, ROLL + 4).to(DEVICE)
        self._resume()
        self.bank, silence = open_bank(args)
        self.judge = Judge(self.folder, args.vae, tok, silence, asked_of(held_out(args.prompts)), self.shapes[0][0])
        self.named = dict(self.parts.named_parameters())
        self.params = [*self.parts.parameters(), *self.head.parameters()]
        self.opt = adamw(self.params, 0.0, (0.9, 0.95), 0.02)
        self.average = {n: p.detach().clone() for n, p in self.named.items()}
        self.share, self.meters = torch.zeros((), device=DEVICE), torch.zeros(4, device=DEVICE)
        self.log = Rows(self.folder / "dit_log.json")

    def _resume(self) -> None:
        if (path := self.folder / "net.safetensors").exists():
            self.parts.load_state_dict({n: t.float() for n, t in load_file(path).items() if n != "silence"})
            log.info("goes on from %s", path)
        if (path := self.folder / "head.safetensors").exists():
            self.head.load_state_dict({n: t.float() for n, t in load_file(path).items()})

    def flow(self, b: Batch, drop: Tensor, t: Tensor, noise: Tensor, tap: int = -1):
        keys, bias = net.condition(self.parts, b.ids, b.lengths, b.zeros, drop)
        x = t[:, None, None] * noise + (1 - t[:, None, None]) * b.x0
        return net.velocity(self.parts["transformer"], x, t, keys, bias, b.context, tap)

    def step(self, frames: int, rows: int) -> None:
        """One step on a batch; all of it can be captured."""
        b = self.bank.batch(rows, frames)
        t = torch.sigmoid(torch.randn(rows, device=DEVICE) * T_DEVIATION + T_MEAN)
        noise, drop = torch.randn_like(b.x0), torch.rand(rows, device=DEVICE) < DROP
        with torch.autocast(DEVICE, torch.bfloat16):
            v, middle = self.flow(b, drop, t, noise, TAP)
            heard = self.head(middle)
        heard = heard.float()
        roll = F.binary_cross_entropy_with_logits(heard[..., :ROLL], b.roll.float())
        phase = (heard[..., ROLL:] - b.phase).square().mean()
        flow = (v.float() - (noise - b.x0)).square().mean()
        (flow + ROLL_WEIGHT * roll + PHASE_WEIGHT * phase).backward()
        norm = nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.meters.lerp_(torch.stack([flow, roll, phase, norm]), 0.01)
            for name, average in self.average.items():
                average.addcmul_(self.named[name] - average, self.share)

    @contextmanager
    def averaged(self):
        """The averaged weights in place of the trained ones."""
        held = {n: p.detach().clone() for n, p in self.named.items()}
        self.parts.load_state_dict(self.average)
        try:
            yield self.parts
        finally:
            self.parts.load_state_dict(held)

    def prepare(self) -> None:
        """Compile and capture, at a rate of 0 since there may be no data yet; then wait for data."""
        if DEVICE == "cuda":
            net.compile_block()
        self.runs = {s: captured(lambda s=s: self.step(*s)) for s in dict.fromkeys(self.shapes)}
        log.info("captured at %.0f s", self.clock.past())
        held = Path(self.args.shards) / "held.npz"
        while not held.exists() or self.bank.have < self.args.warm:
            self.bank.load(8)
            time.sleep(0.2)
        for state in self.opt.state.values():  # forget the gradients of the empty bank
            for tensor in state.values():
                tensor.zero_()
        self.meters.zero_()
        self._hold(np.load(held))

    def _hold(self, found) -> None:
        """Two batches of held-out pieces: as text asks for them, and as covers of the same notes."""
        j = self.judge
        rows = [int(i) for i in np.argsort(found["seed"], kind="stable") if found["seed"][i] - HELD_OUT < len(j.asked)]
        z = torch.from_numpy(found["z"][:, : j.frames]).float().to(DEVICE)
        nothing, at = torch.zeros(0, device=DEVICE), torch.tensor(rows[::2], device=DEVICE)
        asked = torch.from_numpy(found["seed"][rows[::2]].astype(np.int64) - HELD_OUT).to(DEVICE)
        plain = j.plain.expand(len(at), -1, -1)
        self.held = Batch(z[at], j.ids[asked], j.lengths[asked], j.zeros[asked], plain, nothing, nothing)
        ids, lengths = (torch.from_numpy(found[name][:, COVER]).long().to(DEVICE) for name in ("ids", "lens"))
        hints = torch.cat([self.bank.hints(z[at]), torch.ones_like(z[at])], -1)
        other = at + 1  # the cover of each
        self.covers = Batch(z[other], ids[other], lengths[other], j.zeros[asked], hints, nothing, nothing)
        self.noise = torch.randn(self.held.x0.shape, generator=torch.Generator(DEVICE).manual_seed(9), device=DEVICE)

    @torch.no_grad()
    def held_out(self) -> dict[str, list[float]]:
        """Loss at each of `TIMES`, their mean, and the mean of the last two with no prompt; of text and of covers."""
        off, n, found = torch.zeros(len(self.held.x0), dtype=torch.bool, device=DEVICE), len(TIMES), {}
        with self.averaged(), torch.autocast(DEVICE, torch.bfloat16):
            for name, batch in (("held_out", self.held), ("held_out_covers", self.covers)):
                out = []
                for t, drop in [(t, off) for t in TIMES] + [(t, ~off) for t in TIMES[-2:]]:
                    v = self.flow(batch, drop, torch.full((len(off),), t, device=DEVICE), self.noise)
                    out.append((v.float() - (self.noise - batch.x0)).square().mean().item())
                found[name] = [round(v, 4) for v in (*out[:n], float(np.mean(out[:n])), float(np.mean(out[n:])))]
        return found

    def run(self) -> None:
        """Train until the time is over, then have the base judged."""
        a, n, seen = self.args, 0, 0
        shown = loaded = time.time()
        self.clock.train()
        while not self.clock.over():
            now = time.time()
            self.opt.param_groups[0]["lr"].fill_(self.clock.rate(n, a.rate, WARM_UP, a.fall_from))
            self.share.fill_(1 - min(AVERAGE, (1 + n) / (20 + n)))
            self.runs[self.shapes[n % len(self.shapes)]]()
            n += 1
            if n % 20 == 0 and DEVICE == "cuda":
                torch.cuda.synchronize()
            if n % 20 == 0 and now - loaded > 1:
                self.bank.load(2)
                loaded = now
            if now - shown > a.every or n == 5:
                self.save(n, (n - seen) / (now - shown))
                shown, seen = time.time(), n
        self.save(n, 0.0)
        with self.averaged() as parts:
            self.judge.judge_all("base", a.judge, parts)

    def save(self, step: int, speed: float) -> None:
        """Log a row of figures, and keep all that a later run goes on from."""
        flow, roll, phase, norm = (round(v, 4) for v in self.meters.tolist())
        if not math.isfinite(flow + norm):
            raise SystemExit(f"the loss is {flow} at step {step}: nothing is saved; go on from the last files")
        row = {"s": round(self.clock.past()), "step": step, "rows": self.bank.have, "flow": flow, "roll": roll}
        self.log.add(row | {"phase": phase, "norm": norm, "steps_s": round(speed, 1)} | self.held_out())
        keep(self.folder / "net.safetensors", self.average)
        keep(self.folder / "head.safetensors", dict(self.head.named_parameters()))


def main() -> None:
    parser = judged(arguments(__doc__, most=100_000, every=30), "30g3", "8g3")
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate")
    parser.add_argument("--fall-from", type=float, default=0.3, help="share of the run after which the rate falls to 0")
    parser.add_argument("--shapes", nargs="*", default=[], help="FRAMESxROWS of the steps, in turn")
    args = parser.parse_args()
    begin(1)
    Path(args.folder).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args)
    trainer.prepare()
    trainer.run()


if __name__ == "__main__":
    main()
