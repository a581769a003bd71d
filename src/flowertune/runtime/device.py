"""Choose the device and the precision to compute with."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from flowertune.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Images worked on at once on a CPU: few, so that what comes between stays in cache, and in memory
# that is mapped already. No result depends on it.
GROUP_ON_CPU = 2


@dataclass(frozen=True)
class Compute:
    """A device and a precision that fit together; `threads` counts the CPU's, for the record."""

    device: torch.device
    precision: str
    threads: int

    def autocast(self) -> AbstractContextManager[None]:
        """Enable mixed precision for the forward pass; nothing at fp32."""
        if self.precision == "fp32":
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(self.device.type, dtype=self.dtype)
        return context

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products in the forward pass."""
        return _DTYPES[self.precision]

    @property
    def asynchronous(self) -> bool:
        """Whether the host only queues the device's work: to look at a result is to wait."""
        return self.device.type == "cuda"

    @property
    def device_name(self) -> str:
        """Name of the device in results."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type


def choose_compute(device: str, precision: str) -> Compute:
    """Resolve `auto`: cuda, then mps, then cpu; and bf16 on GPUs that compute with it, else fp32.

    Raises UsageError for a device that is not there, or a precision it does not have.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, present in available.items() if present)
    elif not available[device]:
        names = ", ".join(name for name, present in available.items() if present)
        raise UsageError(
            f"trainer.device={device}: torch finds no such device here; there is {names}"
        )
    has_bf16 = device == "cpu" or (device == "cuda" and torch.cuda.get_device_capability()[0] >= 8)
    if precision == "auto":
        precision = "bf16" if device == "cuda" and has_bf16 else "fp32"
    if precision == "bf16" and not has_bf16:
        raise UsageError(f"trainer.precision=bf16: not on this {device}; use fp16 or fp32")
    if precision == "fp16" and device != "cuda":
        raise UsageError(f"trainer.precision=fp16: needs cuda, not {device}; use fp32")
    return Compute(torch.device(device), precision, torch.get_num_threads())


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`, without waiting for the work that is queued there."""
    if device.type == "cuda":
        # Out of pinned memory the copy is queued behind the kernels, and the host need not wait.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
