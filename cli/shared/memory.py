"""The C library's allocator, set for programs that free and fetch large arrays all the time."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

__all__ = ["keep_freed_memory"]

# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, up to 2 GiB, where the platform can be told; return whether it was.

    By default glibc gives each large array back to the system when it is freed, and fetches its pages again for the
    next one: nearly half of the time of a convolutional network on a CPU, whose activations are such arrays.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))
    return False
