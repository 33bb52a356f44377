"""Makes the tokenizer: python -m tools.tiny.tokenizer OUT.json

Byte-level BPE over the composer's wordings, in lower case. Every tempo from 40 to 240 and every key is one token, and
enharmonic names of keys are one: tempo and key reach the model whole.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from .composer import NAMES, compose
from .styles import INSTRUMENTS, STYLES
from .words import END, caption, prompt_text

TEMPOS = range(40, 241)
_SAME = {"db": "c#", "d#": "eb", "gb": "f#", "g#": "ab", "a#": "bb"}
_WORDS = 768  # tokens beside tempos and keys


def corpus(pieces: int = 3000) -> Iterator[str]:
    """Prompts of pieces that no training has, and every word the composer knows, however rare."""
    r = random.Random(0)
    for seed in range(2_000_000, 2_000_000 + pieces):
        yield prompt_text(caption(compose(seed, 4.0), r), r.randint(5, 240)).lower()
    for _ in range(60):
        for _, words in INSTRUMENTS.values():
            yield " " + ", ".join(words)
        for style in STYLES.values():
            yield " " + ", ".join([*style.words, *style.moods]).lower()


def make() -> Tokenizer:
    """Train the tokenizer; the same every time."""
    tok = Tokenizer(models.BPE())
    same = [normalizers.Replace(Regex(rf"\b{a} (?=minor|major)"), f"{b} ") for a, b in _SAME.items()]
    tok.normalizer = normalizers.Sequence([normalizers.Lowercase(), *same])
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tok.train_from_iterator(corpus(), trainer)
    keys = [f"{name.lower()} {mode}" for name in NAMES for mode in ("minor", "major")]
    tok.add_tokens([AddedToken(text, normalized=True) for text in [*(f" {b}" for b in TEMPOS), *keys]])
    return tok


if __name__ == "__main__":
    make().save(sys.argv[1])
