"""How the C library keeps memory: pictures are large and short-lived, which its defaults are slow at."""

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 64 << 20  # bytes of freed memory that a process keeps
LARGE = 32 << 20  # bytes from which on an allocation is one of its own; the most that glibc takes


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what a picture leaves for the next one, instead of taking it anew from the system page by page.

    A quarter of the time of converting photos (benchmarks/prep.py). Does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, KEPT)
