"""What the C library does with memory that a training step frees."""

import ctypes
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**30  # bytes of one block
NEVER_TRIM = 2**31 - 1


def keep_freed() -> bool:
    """Lets this process keep what it frees, as the next step takes as much; whether it can.

    Else glibc gives a step's activations back to the kernel and asks for them again in the next
    one, which clears each page: thousands of page faults a step on the CPU. It is glibc's alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
