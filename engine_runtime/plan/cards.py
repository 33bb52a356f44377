"""The public figures of common cards, from NVIDIA's data sheets and architecture whitepapers. Torch-free."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from ..bench.case import GIB
from ..errors import InputError

Capability = tuple[int, int]
TURING, AMPERE, AMPERE_GEFORCE, ADA, HOPPER, BLACKWELL = (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)


@dataclass(frozen=True)
class Card:
    """A card, by its data sheet; rates are dense, without sparsity.

    Attributes:
        name: for people.
        capability: compute capability.
        memory: GiB, as on its label, or what PyTorch sees of one that is here.
        bandwidth: of its memory, GB/s; like the rates None for a card that is not in the table.
        fp32: TFLOPS outside of the tensor cores.
        half: TFLOPS of bf16 (fp16 on Turing, which has no bf16) with sums in fp32.
        fp8: TFLOPS with sums in fp32; None too where there is no fp8.
        int8: TOPS.
        device: how PyTorch calls it.
    """

    name: str
    capability: Capability
    memory: float
    bandwidth: float | None = None
    fp32: float | None = None
    half: float | None = None
    fp8: float | None = None
    int8: float | None = None
    device: str = ""

    @property
    def bytes(self) -> int:
        return round(self.memory * GIB)

    @property
    def bf16(self) -> bool:
        return self.capability >= AMPERE

    def rate(self, precision: str) -> float | None:
        """Return the rated operations a second of `fp32`, `bf16`, `fp16`, `fp8` or `int8`; None where it has none."""
        tera = {"fp32": self.fp32, "bf16": self.half if self.bf16 else None, "fp16": self.half}
        found = {**tera, "fp8": self.fp8, "int8": self.int8}[precision]
        return None if found is None else 1e12 * found

    def text(self) -> str:
        if self.half is None:
            return f"{self.name}: {self.memory:.1f} GB; its speed is not in the table"
        half = f"{self.half:g} TFLOPS in {'bf16' if self.bf16 else 'fp16'}"
        fp8 = f"{self.fp8:g} in fp8" if self.fp8 else "no fp8"
        return f"{self.name}: {self.memory:.3g} GB at {self.bandwidth:g} GB/s, {half}, {fp8}"


def _geforce(name: str, capability: Capability, memory: float, bandwidth: float, fp32: float) -> Card:
    """Make a GeForce from its fp32 rate.

    Its tensor cores do fp16 and fp8 with sums in fp32 at half the rate of the same chip's professional cards: 2 and 4
    times fp32 from Ampere on; Turing's fp32 units are half as many, hence 4 times. int8 is not halved.
    """
    half, int8 = (4.0, 16.0) if capability == TURING else (2.0, 8.0)
    fp8 = round(4.0 * fp32, 1) if capability >= ADA else None
    device = f"NVIDIA GeForce {re.sub(r' [0-9]+ GB$', '', name)}"
    return Card(name, capability, memory, bandwidth, fp32, round(half * fp32, 1), fp8, round(int8 * fp32, 1), device)


# GeForce: memory, bandwidth and fp32 rate of the reference boards, from the product pages and the whitepapers "NVIDIA
# Turing GPU Architecture", "NVIDIA Ampere GA102 GPU Architecture", "NVIDIA Ada GPU Architecture" and "NVIDIA RTX
# Blackwell GPU Architecture". The others: their data sheets ("NVIDIA T4", "A100", "A10", "L4", "L40S", "H100", "H200
# Tensor Core GPU"), halved where those count sparsity.
CARDS = (
    _geforce("RTX 2060", TURING, 6, 336, 6.5),
    _geforce("RTX 2070", TURING, 8, 448, 7.5),
    _geforce("RTX 2080", TURING, 8, 448, 10.1),
    _geforce("RTX 2080 Ti", TURING, 11, 616, 13.4),
    _geforce("RTX 3060", AMPERE_GEFORCE, 12, 360, 12.7),
    _geforce("RTX 3060 Ti", AMPERE_GEFORCE, 8, 448, 16.2),
    _geforce("RTX 3070", AMPERE_GEFORCE, 8, 448, 20.3),
    _geforce("RTX 3070 Ti", AMPERE_GEFORCE, 8, 608, 21.7),
    _geforce("RTX 3080", AMPERE_GEFORCE, 10, 760, 29.8),
    _geforce("RTX 3080 Ti", AMPERE_GEFORCE, 12, 912, 34.1),
    _geforce("RTX 3090", AMPERE_GEFORCE, 24, 936, 35.6),
    _geforce("RTX 3090 Ti", AMPERE_GEFORCE, 24, 1008, 40.0),
    _geforce("RTX 4060", ADA, 8, 272, 15.1),
    _geforce("RTX 4060 Ti 8 GB", ADA, 8, 288, 22.1),
    _geforce("RTX 4060 Ti 16 GB", ADA, 16, 288, 22.1),
    _geforce("RTX 4070", ADA, 12, 504, 29.1),
    _geforce("RTX 4070 SUPER", ADA, 12, 504, 35.5),
    _geforce("RTX 4070 Ti", ADA, 12, 504, 40.1),
    _geforce("RTX 4070 Ti SUPER", ADA, 16, 672, 44.1),
    _geforce("RTX 4080", ADA, 16, 717, 48.7),
    _geforce("RTX 4080 SUPER", ADA, 16, 736, 52.2),
    _geforce("RTX 4090", ADA, 24, 1008, 82.6),
    _geforce("RTX 5060", BLACKWELL, 8, 448, 19.2),
    _geforce("RTX 5060 Ti 8 GB", BLACKWELL, 8, 448, 23.7),
    _geforce("RTX 5060 Ti 16 GB", BLACKWELL, 16, 448, 23.7),
    _geforce("RTX 5070", BLACKWELL, 12, 672, 30.9),
    _geforce("RTX 5070 Ti", BLACKWELL, 16, 896, 43.9),
    _geforce("RTX 5080", BLACKWELL, 16, 960, 56.3),
    _geforce("RTX 5090", BLACKWELL, 32, 1792, 104.8),
    Card("T4", TURING, 16, 320, 8.1, 65, None, 130, "Tesla T4"),
    Card("A10", AMPERE_GEFORCE, 24, 600, 31.2, 125, None, 250, "NVIDIA A10"),
    Card("A100 40 GB", AMPERE, 40, 1555, 19.5, 312, None, 624, "NVIDIA A100-SXM4-40GB"),
    Card("A100 80 GB", AMPERE, 80, 2039, 19.5, 312, None, 624, "NVIDIA A100-SXM4-80GB"),
    Card("L4", ADA, 24, 300, 30.3, 121, 242, 242, "NVIDIA L4"),
    Card("L40S", ADA, 48, 864, 91.6, 362, 733, 733, "NVIDIA L40S"),
    Card("H100", HOPPER, 80, 3350, 67, 989, 1979, 1979, "NVIDIA H100 80GB HBM3"),
    Card("H100 PCIe", HOPPER, 80, 2000, 51, 756, 1513, 1513, "NVIDIA H100 PCIe"),
    Card("H200", HOPPER, 141, 4800, 67, 989, 1979, 1979, "NVIDIA H200"),
)


def find(name: str) -> Card:
    """Find a card by its name, with or without the maker's; case and spaces do not count.

    Raises:
        InputError: for another name, and for one that cards of several sizes have.
    """
    wanted = _plain(name)
    exact = [card for card in CARDS if wanted in (_plain(card.name), _plain(card.device))]
    sized = [card for card in CARDS if re.fullmatch(re.escape(wanted) + r"\d+gb", _plain(card.name))]
    if len(exact) == 1 or len(sized) == 1:
        return (exact if len(exact) == 1 else sized)[0]
    if sized:
        both = " and ".join(card.name for card in sized)
        raise InputError(f"the card is {name!r}", f"there are {both}", "name one of them")
    names = {_plain(card.name): card.name for card in CARDS}
    near = [names[one] for one in difflib.get_close_matches(wanted, names, 4, 0.5)]
    raise InputError(
        f"the card is {name!r}",
        f"the table has {', '.join(near or names.values())}",
        "name one of them, or leave --card out for the one that is here",
    )


def called(device: str, memory: int) -> Card | None:
    """Return the card that PyTorch calls so; of those of one name the one whose memory is nearest. None for others.

    Args:
        memory: bytes that PyTorch sees of it.
    """
    found = [card for card in CARDS if card.device == device]
    return min(found, key=lambda card: abs(card.bytes - memory), default=None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]|nvidia|geforce|tesla", "", name.lower())
