"""The facts and files that a checkpoint's own file lacks and the user gives. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass

KINDS = ("turbo", "base", "sft")


@dataclass(frozen=True)
class Given:
    """The kind of a checkpoint and the files of its parts; None for what its name, metadata and folder tell.

    Attributes:
        kind: one of `KINDS`.
        vae, text_encoder: paths of safetensors files.
    """

    kind: str | None = None
    vae: str | None = None
    text_encoder: str | None = None

    def named(self) -> dict[str, str]:
        """Return what is given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NOTHING = Given()
