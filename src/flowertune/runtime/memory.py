"""Keep freed memory in the process, and explain out-of-memory errors."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from flowertune.config.trainer import TrainerConfig
from flowertune.errors import FlowertuneError

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = (2**30, 2**25)  # bytes per block; older glibc accepts only the second
NEVER_TRIM = -1  # the largest unsigned value


def keep_freed() -> bool:
    """Make this process keep freed memory for the next step; returns whether that is possible.

    By default glibc returns a step's activations to the kernel and requests them again in the next
    step, with each page cleared: thousands of page faults per step on the CPU. glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    accepted = any(mallopt(M_MMAP_THRESHOLD, largest) for largest in LARGEST_KEPT)
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)) and accepted


def oom_message(
    command: Literal["train", "bench", "evaluate", "predict"],
    settings: TrainerConfig,
    device: str | None = None,
) -> str:
    """Say that `device` is out of memory and which settings of the command need less."""
    batch_size = f"lower trainer.batch_size={settings.batch_size}"
    eval_batch_size = f"trainer.eval_batch_size={settings.eval_batch_size}"
    residency = (
        "data.residency=stream keeps the images out of GPU memory, and trainer.compile=never "
        "needs no memory for recorded steps"
    )
    advice = {
        "train": f"{batch_size} and raise trainer.accumulation={settings.accumulation} by the same "
        "factor, which with loss=ce gives the same steps; outside of training, lower "
        f"trainer.eval_batch_size; {residency}",
        "bench": f"{batch_size}, or {eval_batch_size}; {residency}",
        "evaluate": f"lower {eval_batch_size}, or choose another trainer.device",
        "predict": "choose another --device, or free some memory",
    }
    where = "" if device is None else f" on {device}"
    return f"out of memory{where}: {advice[command]}"


@contextmanager
def explain_oom(message: str) -> Iterator[None]:
    """Turn an out-of-memory error within the context into a FlowertuneError with `message`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FlowertuneError(message) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()  # MPS and the CPU allocator raise a plain RuntimeError
    phrases = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)
