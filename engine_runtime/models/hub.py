"""Finds a model on the Hugging Face hub, or in its local cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from tqdm import tqdm

from ..errors import ModelError
from .folder import INDEX
from .original import DIFFUSERS, original
from .quiet import offline, reason

Progress = Callable[[int, int], None]  # bytes done, bytes in all
_FETCHED = ["*.json", "*.safetensors", "*.txt"]  # of a hub repository; code and pickles stay there
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None


def snapshot(repo: str, download: bool, progress: Progress | None = None, hub: Any = huggingface_hub) -> Path:
    """Return the local snapshot of a hub repository, downloaded only where `download` allows it.

    Args:
        progress: told the bytes of a download.
        hub: has `file_exists` and `snapshot_download`.

    Raises:
        ModelError: where it is not there, not to be had, or not in diffusers' format.
    """

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if progress is not None and self.unit == "B" and self.total:
                progress(int(self.n), int(self.total))
            return shown

    try:
        with nullcontext() if download else offline():
            if download and not hub.file_exists(repo, INDEX):
                raise original(repo)
            return Path(
                hub.snapshot_download(
                    repo,
                    local_files_only=not download,
                    tqdm_class=Bar if download else None,
                    allow_patterns=_FETCHED if download else None,
                )
            )
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"the model {repo} was not found: there is no such folder or file, nor is it in the local hub cache",
            "nothing is downloaded unless you allow it" if not download else "the hub could not be reached",
            f"switch download on, or run: hf download {repo}",
        ) from error
    except ModelError:
        raise
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {repo}, or none that is open to you",
            "the id must name a public ACE-Step 1.5 repository in diffusers' format",
            f"check the id, or use {DIFFUSERS}",
        ) from error
    except Exception as error:  # the hub's own errors have many roots: gated, missing, no network
        raise ModelError(
            f"fetching {repo} failed with: {reason(error)}",
            "the id must name a public ACE-Step 1.5 repository in diffusers' format",
            "check the id and the network",
        ) from error
