"""Learns what the detectors compare clips with: python -m tools.tiny.reference SOUNDFONT

Rendered pieces that no training has and nothing is judged by, half of them with one part only, go into
`reference.json`; what is learnt is then tried on others. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

from .composer import Piece, compose
from .graphs import begin, log
from .listen import Heard, Reference, hear, report
from .render import rendered, start

FIRST = 3_000_000  # seed of the first piece
ALONE = 0.5  # of the pieces have one part


def heard(p: Piece) -> Heard:
    """Render a piece and listen."""
    return hear(rendered(p))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("soundfont")
    parser.add_argument("--pieces", type=int, default=1600)
    parser.add_argument("--tests", type=int, default=400)
    parser.add_argument("--procs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    pieces = [compose(FIRST + n, alone=ALONE) for n in range(args.pieces + args.tests)]
    with ProcessPoolExecutor(args.procs, initializer=start, initargs=(args.soundfont,)) as pool:
        found = list(pool.map(heard, pieces, chunksize=8))
    asked, n = [asdict(p) for p in pieces], args.pieces
    reference = Reference.learn(found[:n], asked[:n])
    reference.save()
    log.info("%s", report(found[n:], asked[n:], reference))
    wrong = Counter((a["only"], reference.told(h, "only")) for h, a in zip(found[n:], asked[n:], strict=True))
    log.info("only, and what is told: %s", dict(wrong))


if __name__ == "__main__":
    begin(0)
    main()
