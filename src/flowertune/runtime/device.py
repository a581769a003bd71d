"""Choose the device and the precision."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from flowertune.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Images processed at once on a CPU: few, so that intermediate results stay in cache and in memory
# that is already mapped. No result depends on it.
GROUP_ON_CPU = 2


@dataclass(frozen=True)
class Compute:
    """A device, a precision that it supports, and the number of CPU threads, for the record."""

    device: torch.device
    precision: str
    threads: int

    def autocast(self) -> AbstractContextManager[None]:
        """Enable mixed precision for the forward pass unless the precision is fp32."""
        if self.precision == "fp32":
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(self.device.type, dtype=self.dtype)
        return context

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of matrix products in the forward pass."""
        return _DTYPES[self.precision]

    @property
    def asynchronous(self) -> bool:
        """Whether the host only queues the device's work, so that reading a result waits for it."""
        return self.device.type == "cuda"

    @property
    def device_name(self) -> str:
        """Name of the device in results."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type


def choose_compute(device: str, precision: str) -> Compute:
    """Resolve `auto`: cuda, mps or cpu, in this order; bf16 on GPUs that support it, else fp32.

    Raises UsageError if the device is missing or does not support the precision.
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
        raise UsageError(f"device {device}: not available to PyTorch; available: {names}")
    has_bf16 = device == "cpu" or (device == "cuda" and torch.cuda.get_device_capability()[0] >= 8)
    if precision == "auto":
        precision = "bf16" if device == "cuda" and has_bf16 else "fp32"
    if precision == "bf16" and not has_bf16:
        raise UsageError(f"precision bf16: not supported by this {device} device; use fp16 or fp32")
    if precision == "fp16" and device != "cuda":
        raise UsageError(f"precision fp16: requires cuda (device: {device}); use fp32")
    return Compute(torch.device(device), precision, torch.get_num_threads())


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device` without waiting for the work queued there."""
    if device.type == "cuda":
        # From pinned memory the copy is queued behind the kernels, and the host does not wait.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
