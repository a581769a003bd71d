"""Memory: what the C library does with what a step frees, and what is said where none is left."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flowertune.errors import FlowertuneError

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = (2**30, 2**25)  # bytes of one block; older glibc takes no more than the second
NEVER_TRIM = -1  # the largest number that it knows


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
    kept = any(mallopt(M_MMAP_THRESHOLD, largest) for largest in LARGEST_KEPT)
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)) and kept


@contextmanager
def explain_oom(line: str) -> Iterator[None]:
    """While the body runs, `line` is what a person reads of memory that is lacking.

    Raises:
        FlowertuneError: that line.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FlowertuneError(line) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the machine, had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()  # MPS and the CPU's allocator raise a plain RuntimeError
    lacking = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    return isinstance(error, RuntimeError) and any(words in text for words in lacking)
