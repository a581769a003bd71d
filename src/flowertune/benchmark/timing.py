"""How long pieces of work take, what they compute, and what the machine could do."""

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
from flowertune.models.kernels.linear import mkl_lacks_avx512, product
from flowertune.runtime.device import Compute

WARM_UP = 3  # calls that are not timed: memory is fetched, kernels are chosen and loaded
LEAST, MOST = 5, 50  # timed calls
ENOUGH_SECONDS = 10.0  # of timed calls, when there are the least

# Large enough for the highest rate (H100, bf16; two cores, fp32), small enough for a laptop.
MATRIX_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 2048}


@dataclass(frozen=True)
class Timing:
    """The seconds of each call, in order; `photos` go through one call (None: not counted)."""

    seconds: tuple[float, ...]
    photos: int | None

    @property
    def median(self) -> float:
        """Seconds of the call in the middle."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; photos a second are those of the median."""
        spread = {
            "calls": len(self.seconds),
            "seconds": {
                "median": self.median,
                "least": min(self.seconds),
                "most": max(self.seconds),
            },
        }
        if self.photos is None:
            return spread
        return {**spread, "photos": self.photos, "photos_per_second": self.photos / self.median}


def timed(action: Callable[[], object], device: torch.device, photos: int | None = None) -> Timing:
    """Calls `action` again and again: warm-up first, then until there are enough calls.

    The device's queue is empty at the beginning and at the end of each timed call.
    """
    return timed_in_turn([action], device, photos)[0]


def timed_in_turn(
    actions: Sequence[Callable[[], object]], device: torch.device, photos: int | None = None
) -> list[Timing]:
    """As `timed`, one call of each in turn: what else the machine does falls on all alike."""
    for action in [*actions] * WARM_UP:
        action()
    seconds: list[list[float]] = [[] for _ in actions]
    enough = ENOUGH_SECONDS * len(actions)
    while len(seconds[0]) < LEAST or (len(seconds[0]) < MOST and sum(map(sum, seconds)) < enough):
        for action, taken in zip(actions, seconds, strict=True):
            synchronize(device)
            began = time.perf_counter()
            action()
            synchronize(device)
            taken.append(time.perf_counter() - began)
    return [Timing(tuple(taken), photos) for taken in seconds]


def synchronize(device: torch.device) -> None:
    """Waits for all work that is queued on the device; on the CPU there is none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_to_line(command: Sequence[str], line: str, log: Path) -> float:
    """Seconds from the start of a process until it prints `line`; it is then waited for.

    `log` takes what it says on stderr. Raises TrainingError where the process ends without it.
    """
    with log.open("w", encoding="utf-8") as errors:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            met = any(printed.rstrip() == line for printed in process.stdout)
            seconds = time.perf_counter() - began
            process.stdout.read()
    if not met:
        said = log.read_text(encoding="utf-8").strip().splitlines() or ["nothing was said"]
        raise TrainingError(f"a process that was to take one step ended before it: {said[-1]}")
    return seconds


def count_operations(action: Callable[[], object]) -> int:
    """Floating-point operations of one call: of matrix products, convolutions and attention.

    A product of (m, k) and (k, n) is 2 m k n. What autograd functions of our own compute counts as
    it is computed, forward and backward; sums, norms and activations do not count.
    """
    # torch does not count an operation that it has for compiled code alone
    ours = {torch.ops.mkldnn._linear_pointwise: _of_product} if mkl_lacks_avx512() else None
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        action()
    operations: int = counter.get_total_flops()
    return operations


def _of_product(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Of x (..., K) and weight (N, K), by their shapes."""
    return 2 * math.prod(x) * weight[0]


def matrix_rate(compute: Compute) -> float:
    """Floating-point operations a second of a large product of square matrices, the best call's.

    Of the precision of `compute`, with the settings (TF32, threads) that the process has, by the
    library that the model's Linear layers use.
    """
    side = MATRIX_SIDE[compute.device.type]
    left, right = (
        torch.randn(side, side, device=compute.device, dtype=compute.dtype) for _ in range(2)
    )
    calls = timed(lambda: product(left, right), compute.device)
    return 2 * side**3 / min(calls.seconds)


def reset_peak_memory(device: torch.device) -> None:
    """What a GPU had allocated before does not count; the CPU's peak cannot be taken back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak: tensors on a CUDA device, elsewhere this process's resident memory.

    None on Windows, which does not tell Python.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
