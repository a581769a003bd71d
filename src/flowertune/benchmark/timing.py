"""Time pieces of work, count their operations, and measure the machine's rate."""

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

WARM_UP = 3  # calls that are not timed: memory is fetched, kernels are chosen and loaded
MIN_CALLS, MAX_CALLS = 5, 50  # timed calls
MIN_SECONDS = 10.0  # of timed calls, when there are the least

# Large enough for the highest rate (H100, bf16; two cores, fp32), small enough for a laptop.
MATRIX_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 2048}


@dataclass(frozen=True)
class Timing:
    """The seconds of each call, in order; `images` go through one call (None: not counted)."""

    seconds: tuple[float, ...]
    images: int | None

    @property
    def median(self) -> float:
        """Seconds of the median call."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, ready for JSON; photos a second are those of the median."""
        spread = {"median": self.median, "least": min(self.seconds), "most": max(self.seconds)}
        summary = {"calls": len(self.seconds), "seconds": spread}
        if self.images is None:
            return summary
        return {**summary, "photos": self.images, "photos_per_second": self.images / self.median}


def timeit(
    actions: Sequence[Callable[[], object]], device: torch.device, images: int | None = None
) -> list[Timing]:
    """Time calls of each action in turn, so that other load on the machine falls on all alike.

    Warm-up comes first, then calls until there are enough of them. The device's queue is empty at
    the beginning and at the end of each timed call.
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
    """Wait for all work that is queued on the device; on the CPU there is none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_to_line(command: Sequence[str], line: str, log: Path) -> float:
    """Measure seconds from the start of a process until it prints `line`; then wait for its end.

    `log` gets its stderr. Raises TrainingError where the process ends without it.
    """
    with log.open("w", encoding="utf-8") as errors:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            is_printed = any(output.rstrip() == line for output in process.stdout)
            seconds = time.perf_counter() - start
            process.stdout.read()
    if not is_printed:
        lines = log.read_text(encoding="utf-8").strip().splitlines() or ["nothing was said"]
        raise TrainingError(f"a process that was to take one step ended before it: {lines[-1]}")
    return seconds


def count_operations(action: Callable[[], object]) -> int:
    """Count the floating-point operations of a call: matrix products, convolutions, attention.

    A product of (m, k) and (k, n) is 2 m k n. What autograd functions of our own compute counts as
    it is computed, forward and backward; sums, norms and activations do not count.
    """
    # torch does not count an operation that it has for compiled code alone
    custom = {torch.ops.mkldnn._linear_pointwise: _product_flops} if mkl_lacks_avx512() else None
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        action()
    operations: int = counter.get_total_flops()
    return operations


def _product_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of x (..., K) and weight (N, K), by their shapes."""
    return 2 * math.prod(x) * weight[0]


def matrix_rate(compute: Compute) -> float:
    """Floating-point operations a second of a large product of square matrices, in the best call.

    Of the precision of `compute`, with the settings (TF32, threads) that the process has, by the
    library that the model's Linear layers use.
    """
    side = MATRIX_SIDE[compute.device.type]
    left, right = (
        torch.randn(side, side, device=compute.device, dtype=compute.dtype) for _ in range(2)
    )
    (product,) = timeit([lambda: linear_forward(left, right)], compute.device)
    return 2 * side**3 / min(product.seconds)


def peak_memory(device: torch.device) -> dict[str, Any] | None:
    """Measure the peak memory in bytes, of a GPU's tensors or of this process from its start.

    None on Windows, which does not tell Python.
    """
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "of tensors on the GPU"}
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_bytes = peak if sys.platform == "darwin" else 1024 * peak
    return {"bytes": n_bytes, "of": "resident, the whole process"}
