"""The machine: the CUDA that its driver runs, free memory, and this process's."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path


def driver_cuda() -> tuple[int, int] | None:
    """Return the newest CUDA (major, minor) that the installed NVIDIA driver runs; None where no driver answers."""
    version = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if library.cuInit(0) == 0 and library.cuDriverGetVersion(ctypes.byref(version)) == 0:
            return version.value // 1000, version.value % 1000 // 10
    return None


def free_memory() -> int | None:
    """Return the bytes that can be had without swapping, within the container's limit; None where the system does not
    tell.
    """
    with contextlib.suppress(ImportError, OSError):
        import psutil

        free = int(psutil.virtual_memory().available)
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            stat = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text("ascii").splitlines())
            free = min(free, limit - used + int(stat.get("inactive_file", 0)))
        return max(free, 0)
    return None


def resident(peak: bool = False) -> int | None:
    """Return the bytes of this process that are in memory, or with `peak` the most that were; None on systems without
    /proc.
    """
    field = "VmHWM:" if peak else "VmRSS:"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10
    return None
