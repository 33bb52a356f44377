"""Take the tones of its own out of a decoder, without training.

python -m tools.tiny.even VAE SOUNDFONT OUT --weight 0.1

A transposed convolution of stride s has s sets of taps, one for each place in its step. Where their sums differ, slow
movement of its input comes out as a tone at a multiple of the input's rate: 250 Hz and up, in phase with the frames
(Odena et al., "Deconvolution and Checkerboard Artifacts", 2016; Pons et al., arXiv 2010.14356, for audio).

With M the second moments `[C, C]` of an input's means over a third of a second, C those of the input itself, and D the
difference of the sums from their mean over the places, `R = (M + weight C)^-1 M D` minimises the tones of D - R plus
`weight` times what R changes in the output. R is taken off the taps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .graphs import DEVICE, begin, keep, log
from .losses import MelLoss, figures
from .shards import HELD_OUT
from .vae import Conv, Vae, load_vae
from .vae_train import rendered

SLOW = 1 / 3  # seconds over which a tone keeps its loudness
FIRST = 5000  # the seed of the first piece whose inputs are measured


@torch.no_grad()
def even(vae: Vae, latents: Tensor, weight: float) -> None:
    """Even the taps of each upsampling after the first, from the slowest on; latents are `[pieces, 64, T]`."""
    for block in vae.decoder.block[1:]:
        conv, w = block.conv_t1, block.conv_t1.weight.double()
        slow, fast = moments(vae, conv, latents)
        sums = w.unflatten(-1, (-1, conv.s)).sum(-2)  # [C, out, s]
        uneven = (sums - sums.mean(-1, keepdim=True)).flatten(1)
        change = torch.linalg.solve(slow + weight * fast, slow @ uneven).view_as(sums)
        copies = w.shape[-1] // conv.s
        w -= (change / copies).repeat(1, 1, copies)
        conv.set_weight(w)


def moments(vae: Vae, conv: Conv, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments `[C, C]` of the means over `SLOW` of the convolution's input, and of the input."""
    found: list[Tensor] = []

    def watch(module: Conv, given: tuple[Tensor]) -> None:
        x = given[0].squeeze(2)
        n = round(x.shape[-1] * 25 * SLOW / latents.shape[-1])
        means = x[..., : x.shape[-1] // n * n].unflatten(-1, (-1, n)).mean(-1)
        found.append(torch.stack([_moment(means), _moment(x)]))

    handle = conv.register_forward_pre_hook(watch)
    for z in latents.split(1):
        vae.decode(z)
    handle.remove()
    slow, fast = torch.stack(found).mean(0)
    return slow, fast


def _moment(x: Tensor) -> Tensor:
    x = x.transpose(0, 1).flatten(1).double()
    return x @ x.T / x.shape[1]


@torch.no_grad()
def judged(vae: Vae, truth: Tensor, mel: MelLoss) -> dict[str, float]:
    return figures(torch.cat([vae.decode(vae.encode(x)[0]) for x in truth.split(1)]), truth, mel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vae", "soundfont", "out"):
        parser.add_argument(name)
    parser.add_argument("--weight", type=float, nargs="+", default=[0.1], help="of the change; %% in OUT stands for it")
    parser.add_argument("--pieces", type=int, default=48)
    args = parser.parse_args()
    begin(0)
    mel, truth = MelLoss().to(DEVICE), rendered(args.soundfont, HELD_OUT, 24).to(DEVICE)
    pieces = rendered(args.soundfont, FIRST, args.pieces).to(DEVICE)
    vae = load_vae(args.vae, DEVICE)
    with torch.no_grad():
        latents = torch.cat([vae.encode(x)[0] for x in pieces.split(1)])
    log.info("as given %s", judged(vae, truth, mel))
    for weight in args.weight:
        vae = load_vae(args.vae, DEVICE)
        even(vae, latents, weight)
        log.info("%g %s", weight, judged(vae, truth, mel))
        keep(Path(args.out.replace("%", f"{weight:g}")), vae.state_dict())


if __name__ == "__main__":
    main()
