"""Keep a step's freed memory in the process, and explain where there is none left."""

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
LARGEST_KEPT = (2**30, 2**25)  # bytes of one block; older glibc takes no more than the second
NEVER_TRIM = -1  # the largest number that it knows


def keep_freed() -> bool:
    """Let this process keep freed memory, as the next step takes as much; whether it can.

    Else glibc gives a step's activations back to the kernel and asks for them again in the next
    one, which clears each page: thousands of page faults a step on the CPU. It is glibc's alone.
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
    """Say that `device` has no memory left, and which settings of the command need less."""
    batch_size = f"lower trainer.batch_size={settings.batch_size}"
    eval_batch_size = f"trainer.eval_batch_size={settings.eval_batch_size}"
    residency = (
        "data.residency=stream keeps the photos out of a GPU's memory, and trainer.compile=never "
        "what its recorded steps hold"
    )
    advice = {
        "train": f"{batch_size} and raise trainer.accumulation={settings.accumulation} by the same "
        "factor, which with loss=ce gives the same steps; outside of training it is "
        f"trainer.eval_batch_size that counts; {residency}",
        "bench": f"{batch_size}, or {eval_batch_size}; {residency}",
        "evaluate": f"lower {eval_batch_size}, or take another trainer.device",
        "predict": "take another --device, or free some of it",
    }
    where = "" if device is None else f" on {device}"
    return f"out of memory{where}: {advice[command]}"


@contextmanager
def explain_oom(message: str) -> Iterator[None]:
    """Turn an out-of-memory error in the body into a FlowertuneError with `message`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FlowertuneError(message) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the machine, had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()  # MPS and the CPU's allocator raise a plain RuntimeError
    phrases = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)
