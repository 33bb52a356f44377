"""The model libraries without their own bars and warnings, and without the network."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub.constants
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers, transformers and warnings for a while; what they would only warn about is checked instead."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level, bars in before:
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def reason(error: BaseException) -> str:
    """Return the first sentence of a library's error, for use inside a message."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"[.!?;](?:\s|$)", text, maxsplit=1)[0][:300]


_lock = threading.Lock()
_inside = 0
_before = False


@contextmanager
def offline() -> Iterator[None]:
    """Let huggingface_hub refuse every request for a while, whoever makes it.

    Its switch is read from the environment once, and asked before each request; transformers and diffusers go through
    it. It is the process's, so several may be inside at once, and the last one out puts it back.
    """
    global _inside, _before
    constants = huggingface_hub.constants
    with _lock:
        if not _inside:
            _before = constants.HF_HUB_OFFLINE
        _inside, constants.HF_HUB_OFFLINE = _inside + 1, True
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                constants.HF_HUB_OFFLINE = _before
