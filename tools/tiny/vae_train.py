"""Trains the VAE on pieces as they are rendered.

python -m tools.tiny.vae_train FOLDER SOUNDFONT TOKENIZER --seconds 565          # encoder and decoder
python -m tools.tiny.vae_train FOLDER SOUNDFONT TOKENIZER --seconds 590 --decoder  # the decoder of that encoder

The waveform leads at first and the rate is nearly free, so that latents learn to carry pitch; the rate then falls to
`--nats` a frame. A linear head says from the latents which notes sound, which gives the DiT latents that it can read.
At `--freeze` of the time the encoder is frozen, its latents are scaled to mean 0 and deviation 1, and a discriminator
of spectra joins. Whoever trains a DiT uses that encoder: later runs train the decoder only. All schedules follow the
clock. FOLDER/vae.safetensors is the averaged model.
"""

from __future__ import annotations

import argparse
import json
import math
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .composer import compose
from .factory import FRAMES, ROLL, SAMPLES, SECONDS, Factory
from .graphs import DEVICE, adamw, begin, captured, keep, log
from .losses import FineLoss, MelLoss, ScaleD, figures, locked
from .shards import HELD_OUT
from .vae import LATENT, Vae

HOP = 1920  # samples of a frame
FREE, RATE_FROM, RATE_DONE = 400.0, 0.12, 0.5  # nats a frame at first; shares of the run between which they fall
BOTH = {"mel": 2.0, "high": 4.0, "wave": 150.0, "complex": 4.0, "tones": 0.0, "roll": 10.0}  # loss weights
DECODER = {"mel": 10.0, "high": 6.0, "wave": 60.0, "complex": 2.0, "adversarial": 0.3, "features": 2.0}
RATE_D, WINDOWS = 3e-4, (2048, 1024, 512)  # of the discriminators
WARM_UP, AVERAGE = 300, 0.999


class Pieces:
    """Rendered pieces on the device, taken in by a thread."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.factory = Factory(args.soundfont, args.tokenizer, 0, args.procs, 4 * args.procs)
        self.audio = torch.empty(args.most, 2, SAMPLES, dtype=torch.int16, device=DEVICE)
        self.rolls = torch.zeros(args.most, FRAMES, ROLL, dtype=torch.uint8, device=DEVICE)
        self.have, self.count, self.lock = 0, torch.zeros((), device=DEVICE), threading.Lock()
        self.rows, self.frames = args.rows, args.frames
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        stream = torch.cuda.Stream() if DEVICE == "cuda" else None
        while self.have < len(self.audio):
            if (p := self.factory.take()) is None:
                continue
            with self.lock, torch.cuda.stream(stream):
                self.audio[self.have].copy_(torch.from_numpy(p.audio[0]))
                self.rolls[self.have].copy_(torch.from_numpy(p.roll[0]))
                if stream is not None:
                    stream.synchronize()
            self.factory.release(p)
            self.have += 1
        self.factory.stop()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Audio `[rows, 2, samples]` of any level, and what sounds in it `[rows, frames, ROLL]`."""
        i = (torch.rand(self.rows, device=DEVICE) * self.count).long()
        at = (torch.rand(self.rows, 1, device=DEVICE) * (FRAMES - self.frames)).long()
        span, sides = torch.arange(self.frames * HOP, device=DEVICE), torch.arange(2, device=DEVICE)
        x = self.audio[i[:, None, None], sides[None, :, None], (at * HOP + span)[:, None]].float() / 32767
        x = x * torch.empty(self.rows, 1, 1, device=DEVICE).uniform_(0.6, 1.15)
        return x, self.rolls[i[:, None], at + torch.arange(self.frames, device=DEVICE)].float()


class Trainer:
    """Both phases: `step_both` trains all, `step_decoder` the decoder against discriminators."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder, self.start = args, Path(args.folder), time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pieces = Pieces(args)
        self.truth = rendered(args.soundfont, HELD_OUT, args.tests).to(DEVICE)
        self.vae, self.mel, self.fine = Vae().to(DEVICE), MelLoss().to(DEVICE), FineLoss().to(DEVICE)
        self.head = nn.Conv1d(LATENT, ROLL, 3, padding=1).to(DEVICE)
        self.judges = nn.ModuleList(ScaleD(n) for n in WINDOWS).to(DEVICE)
        self.frozen = args.decoder
        self._resume()
        self.live = self.vae.state_dict()
        self.average = {n: t.detach().clone() for n, t in self.live.items()}
        self.beta, self.nats, self.ramp = (torch.zeros((), device=DEVICE) for _ in range(3))
        self.beta.fill_(1e-4)
        self.meters: dict[str, Tensor] = {}
        self.rows: list[dict] = []
        self.both, self.decode = self._both, self.vae.decode
        if DEVICE == "cuda":  # a minute, for snakes that are one kernel
            self.both, self.decode = (torch.compile(f, dynamic=False) for f in (self.both, self.decode))

    def _resume(self) -> None:
        for name, module in (("vae", self.vae), ("roll_head", self.head), ("discriminators", self.judges)):
            if (path := self.folder / f"{name}.safetensors").exists():
                module.load_state_dict({n: t.float() for n, t in load_file(path).items()})
                log.info("goes on from %s", path)

    def _both(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, deviation = self.vae.encode(x)
        rate = 0.5 * (mean.square() + deviation.square() - 2 * deviation.log() - 1).sum(1).mean()
        z = mean + deviation * noise
        return self.vae.decode(z), rate, self.head(z)

    def noise(self) -> Tensor:
        return torch.randn(self.args.rows, LATENT, self.args.frames, device=DEVICE)

    def meter(self, **values: Tensor) -> None:
        for name, value in values.items():
            found = self.meters.setdefault(name, torch.zeros((), device=DEVICE))
            found.lerp_(value.detach().float(), 0.02)

    def spectra(self, y: Tensor, x: Tensor, weights: dict[str, float]) -> Tensor:
        """Losses of spectra and waveform; of left and right, or middle and side, by the toss of a coin for each row."""
        coin = torch.rand(len(x), 1, 1, device=DEVICE) < 0.5

        def sides(v: Tensor) -> Tensor:
            middle = torch.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]], 1) * 0.7
            return torch.where(coin, middle, v).flatten(0, 1)

        ys, xs = sides(y), sides(x)
        high, cplx = self.fine(ys, xs)
        found = {"mel": self.mel(ys, xs), "wave": (y - x).abs().mean(), "high": high, "complex": cplx}
        found["tones"] = locked(y, x).mean(0).abs().mean()  # they have one phase in all pieces
        self.meter(**found)
        return sum(weights[name] * loss for name, loss in found.items())

    def finish(self, loss: Tensor) -> None:
        loss.backward()
        self.meter(norm=nn.utils.clip_grad_norm_(self.params, 20.0), loss=loss)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        with torch.no_grad():
            names = list(self.average)
            torch._foreach_lerp_([self.average[n] for n in names], [self.live[n] for n in names], 1 - AVERAGE)

    def step_both(self) -> None:
        x, roll = self.pieces.batch()
        with torch.autocast(DEVICE, torch.bfloat16):
            y, rate, heard = self.both(x, self.noise())
        l_roll = F.binary_cross_entropy_with_logits(heard.float().transpose(1, 2), roll)
        self.nats.lerp_(rate.detach(), 0.1)
        self.meter(nats=rate, roll=l_roll)
        self.finish(self.spectra(y, x, BOTH) + BOTH["roll"] * l_roll + self.beta * rate)

    def step_decoder(self) -> None:
        x, _ = self.pieces.batch()
        with torch.autocast(DEVICE, torch.bfloat16):
            with torch.no_grad():
                mean, deviation = self.vae.encode(x)
                z = mean + deviation * self.noise()
            y = self.decode(z)
        adversarial, features = self.judged(x[..., : x.shape[-1] // 2], y[..., : y.shape[-1] // 2])
        extra = DECODER["adversarial"] * adversarial + DECODER["features"] * features
        self.finish(self.spectra(y, x, DECODER | {"tones": self.args.tones}) + self.ramp * extra)

    def judged(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train the discriminators by a step; what they say of y, and how far its features are from x's."""
        l_d = adversarial = features = torch.zeros((), device=DEVICE)
        for d in self.judges:
            with torch.no_grad():
                real_spectrum = d.spec(x)
            spectrum = d.spec(y)
            with torch.autocast(DEVICE, torch.bfloat16):
                real, fake = d(real_spectrum), d(spectrum.detach())
                l_d = l_d + F.relu(1 - real[-1].float()).mean() + F.relu(1 + fake[-1].float()).mean()
                d.requires_grad_(False)
                made = d(spectrum)
                d.requires_grad_(True)
            adversarial = adversarial - made[-1].float().mean() / len(self.judges)
            for m, r in zip(made[:-1], real[:-1], strict=True):
                r = r.detach().float()
                far = (m.float() - r).abs().mean() / r.abs().mean().clamp(min=1e-3)
                features = features + far / (len(made) - 1) / len(self.judges)
        self.meter(d=l_d, adversarial=adversarial, features=features)
        l_d.backward()
        nn.utils.clip_grad_norm_(self.judges.parameters(), 10.0)
        self.opt_d.step()
        self.opt_d.zero_grad(set_to_none=True)
        return adversarial, features

    def begin(self) -> None:
        """Optimizers and the captured step of the phase."""
        if self.frozen:
            self.vae.encoder.requires_grad_(False)
            self.params = list(self.vae.decoder.parameters())
            self.opt_d = adamw(list(self.judges.parameters()), RATE_D, (0.8, 0.99))
        else:
            self.params = [*self.vae.parameters(), *self.head.parameters()]
        self.opt = adamw(self.params, self.args.rate, (0.8, 0.99))
        self.step = captured(self.step_decoder if self.frozen else self.step_both, 4, self.pieces.lock)
        self.since = 0

    @torch.no_grad()
    def freeze(self) -> None:
        """Scale the averaged model's latents, and go on with its decoder."""
        self.vae.load_state_dict(self.average)
        with torch.autocast(DEVICE, torch.bfloat16):
            z = torch.cat([self.vae.encode(self.pieces.batch()[0])[0] for _ in range(24)])
        deviations = self.vae.normalise(z.transpose(0, 1).flatten(1))
        self.average = {n: t.detach().clone() for n, t in self.live.items()}
        self.frozen = True
        log.info("frozen; latent deviations were %.2f to %.2f", deviations.min(), deviations.max())

    def control(self, done: float) -> None:
        """Turn the rate's weight toward the target; stop where a loss is no number."""
        if not math.isfinite(self.meters["loss"].item()):
            raise SystemExit("the loss is no number: go on from the last files")
        if not self.frozen:
            share = min(1.0, max(0.0, (done - RATE_FROM) / (RATE_DONE - RATE_FROM)))
            target = FREE * (self.args.nats / FREE) ** share
            turn = 0.03 * max(-1, min(1, self.nats.item() / target - 1))
            self.beta.fill_(float(np.clip(self.beta.item() * math.exp(turn), 1e-6, 1.0)))

    def run(self) -> None:
        a, n, seen = self.args, 0, 0
        while self.pieces.have < a.warm:
            time.sleep(0.2)
        self.pieces.count.fill_(self.pieces.have)
        self.begin()
        self.save(0, 0.0)
        shown = time.time()
        while (done := (time.time() - self.start) / a.seconds) < 1:
            if not self.frozen and done >= a.freeze:
                self.freeze()
                self.begin()
            self.pieces.count.fill_(self.pieces.have)
            falling = 0.5 + 0.5 * math.cos(math.pi * done)
            least = 0.02 if self.frozen else 0.25
            self.opt.param_groups[0]["lr"].fill_(a.rate * min(1, (n + 1) / WARM_UP) * max(least, falling))
            self.ramp.fill_(min(1.0, self.since / 1500))
            self.step()
            n, self.since = n + 1, self.since + 1
            if n % 10 == 0:
                self.control(done)
            if time.time() - shown > a.every:
                self.save(n, (n - seen) / (time.time() - shown))
                shown, seen = time.time(), n
        self.save(n, 0.0)
        self.pieces.factory.stop()

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Judge held-out pieces through the averaged model."""
        held = {n: t.detach().clone() for n, t in self.live.items()}
        self.vae.load_state_dict(self.average)
        with torch.autocast(DEVICE, torch.bfloat16):
            y = torch.cat([self.vae.decode(self.vae.encode(x)[0]) for x in self.truth.split(4)])
        self.vae.load_state_dict(held)
        return figures(y, self.truth, self.mel)

    def save(self, step: int, speed: float) -> None:
        """Log a row of figures, and keep all that a later run goes on from."""
        row = {"s": round(time.time() - self.start), "step": step, "pieces": self.pieces.have, "frozen": self.frozen}
        row |= {name: round(v.item(), 4) for name, v in self.meters.items()} | self.figures()
        self.rows.append(row | {"steps_s": round(speed, 1)})
        log.info(json.dumps(self.rows[-1]))
        keep(self.folder / "vae.safetensors", self.average)
        keep(self.folder / "roll_head.safetensors", self.head.state_dict())
        keep(self.folder / "discriminators.safetensors", self.judges.state_dict())
        (self.folder / "vae_log.json").write_text(json.dumps(self.rows), encoding="utf-8")


def rendered(soundfont: str, first: int, pieces: int) -> Tensor:
    """Render 10.24 s of each piece from a seed on, `[pieces, 2, samples]`."""
    from .render import Renderer

    renderer = Renderer(soundfont)
    clips = [renderer.render(compose(first + i, SECONDS))[:, : 256 * HOP] for i in range(pieces)]
    return torch.from_numpy(np.stack(clips))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "soundfont", "tokenizer"):
        parser.add_argument(name)
    parser.add_argument("--seconds", type=float, required=True, help="of the whole run")
    parser.add_argument("--decoder", action="store_true", help="train the decoder of FOLDER's model only")
    parser.add_argument("--nats", type=float, default=160, help="rate a frame in the end")
    parser.add_argument("--freeze", type=float, default=0.78, help="share of the run after which the encoder is frozen")
    parser.add_argument("--rate", type=float, default=8e-4, help="learning rate; 4e-4 for the decoder alone")
    parser.add_argument("--tones", type=float, default=1000, help="weight of the decoder's own tones")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--frames", type=int, default=32, help="of a row, 25 a second")
    parser.add_argument("--most", type=int, default=7000, help="pieces kept on the device")
    parser.add_argument("--warm", type=int, default=600, help="pieces before the first step")
    parser.add_argument("--tests", type=int, default=24, help="held-out pieces")
    parser.add_argument("--procs", type=int, default=13)
    parser.add_argument("--every", type=float, default=30, help="seconds between checkpoints")
    args = parser.parse_args()
    begin(0)
    Trainer(args).run()


if __name__ == "__main__":
    main()
