"""Measure time, floating-point operations, memory and the machine's peak rate."""

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from flowertune.errors import TrainingError
from flowertune.models.kernels.linear import linear_forward, mkl_lacks_avx512
from flowertune.runtime.device import Compute

WARM_UP = 3  # untimed calls, which allocate memory and load kernels
MIN_CALLS, MAX_CALLS = 5, 50  # timed calls
MIN_SECONDS = 10.0  # minimum total of timed calls, unless there are MAX_CALLS

# Large enough for the highest rate (H100, bf16; two cores, fp32), small enough for a laptop.
MATRIX_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 2048}


@dataclass(frozen=True)
class Timing:
    """Seconds of each call, and images per call (None if not applicable)."""

    seconds: tuple[float, ...]
    images: int | None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; images/s are at the median."""
        spread = {"median": self.median, "least": min(self.seconds), "most": max(self.seconds)}
        summary = {"calls": len(self.seconds), "seconds": spread}
        if self.images is None:
            return summary
        return {**summary, "photos": self.images, "photos_per_second": self.images / self.median}


def timeit(
    actions: Sequence[Callable[[], object]], device: torch.device, images: int | None = None
) -> list[Timing]:
    """Time the actions in turn, so that other load on the machine affects all of them.

    Each timed call starts and ends with an empty device queue.
    """
    for action in [*actions] * WARM_UP:
        action()
    times: list[list[float]] = [[] for _ in actions]
    budget = MIN_SECONDS * len(actions)
    while (n := len(times[0])) < MIN_CALLS or (n < MAX_CALLS and sum(map(sum, times)) < budget):
        for action, durations in zip(actions, times, strict=True):
            synchronize(device)
            start = time.perf_counter()
            action()
            synchronize(device)
            durations.append(time.perf_counter() - start)
    return [Timing(tuple(durations), images) for durations in times]


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_to_line(command: Sequence[str], line: str, log: Path) -> float:
    """Run a process, with stderr to `log`, and return the seconds until it prints `line`."""
    with log.open("w", encoding="utf-8") as errors:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            is_printed = any(output.rstrip() == line for output in process.stdout)
            seconds = time.perf_counter() - start
            process.stdout.read()
    if not is_printed:
        lines = log.read_text(encoding="utf-8").strip().splitlines() or ["no message"]
        raise TrainingError(f"the timed process ended before its first step: {lines[-1]}")
    return seconds


def count_operations(action: Callable[[], object]) -> int:
    """Count floating-point operations of matrix products, convolutions and attention in a call.

    A product of (m, k) and (k, n) is 2 m k n. Custom autograd functions count by the operations
    that they run, forward and backward. Sums, norms and activations do not count.
    """
    # torch's counter does not know this operation, which torch itself uses in compiled code only
    custom = {torch.ops.mkldnn._linear_pointwise: _product_flops} if mkl_lacks_avx512() else None
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        action()
    operations: int = counter.get_total_flops()
    return operations


def _product_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of x (..., K) times weight (N, K), from their shapes."""
    return 2 * math.prod(x) * weight[0]


def matrix_rate(compute: Compute) -> float:
    """Floating-point operations per second of a large matrix product, best call.

    It uses the settings (precision, TF32, threads) and kernels of the model's Linear layers.
    """
    side = MATRIX_SIDE[compute.device.type]
    left, right = (
        torch.randn(side, side, device=compute.device, dtype=compute.dtype) for _ in range(2)
    )
    (product,) = timeit([lambda: linear_forward(left, right)], compute.device)
    return 2 * side**3 / min(product.seconds)


def peak_memory(device: torch.device) -> dict[str, Any] | None:
    """Peak memory of tensors on the GPU, or of this process since its start; None on Windows."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "tensors on the GPU"}
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_bytes = peak if sys.platform == "darwin" else 1024 * peak
    return {"bytes": n_bytes, "of": "resident memory of the process"}
