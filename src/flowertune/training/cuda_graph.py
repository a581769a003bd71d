"""Record a training step as a CUDA graph and replay it.

With a small model, a large GPU waits for the host, which launches hundreds of kernels per step. A
graph needs one launch. A replay uses the same memory each time, so everything that changes from
step to step must be a tensor: the batch, the learning rates, the optimizer's step count.

https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowertune.errors import first_line
from flowertune.runtime.device import Compute

Scalars = dict[str, Float[Tensor, ""]]  # by name

WARM_UP = 2  # calls before recording, which load kernels and allocate gradients
MAX_RECORDINGS = 5  # each one waits for the device; rarer shapes run unrecorded

# Record a function's device work without running it; return a function that replays it and the
# tensor that a replay fills. Raises RuntimeError if it cannot be recorded.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def record_cuda_graph(
    pool: Any, function: Callable[[], Tensor]
) -> tuple[Callable[[], None], Tensor]:
    """Record a graph in the memory `pool` of all graphs: copy its output before another runs."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # the thread that prefetches images pins memory meanwhile, which "global" would forbid
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = function()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # torch before 2.12 does not restore it
        raise
    return graph.replay, output


class CudaGraphStep:
    """Call functions from tensors to named scalars, with a recording for each set of shapes.

    The first calls with given shapes (and `fixed` values) run the function, the next one records
    it, and that one and all later ones replay it. If recording fails, functions run unrecorded and
    `say` gets the reason once.
    """

    def __init__(self, record: Record, say: Callable[[str], None]) -> None:
        self.record: Record | None = record
        self.say = say
        self.calls: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, Callable[..., Scalars]] = {}

    def __call__(
        self, function: Callable[..., Scalars], *tensors: Tensor, **fixed: float
    ) -> Scalars:
        """Call `function(*tensors, **fixed)`; the tensors may be modified afterwards."""
        shapes = tuple(tensor.shape for tensor in tensors)
        key = (function.__name__, shapes, tuple(sorted(fixed.items())))
        call = partial(function, **fixed)
        self.calls[key] += 1
        if key not in self.recordings and self.calls[key] > WARM_UP:
            self._record(key, call, tensors)
        return self.recordings.get(key, call)(*tensors)

    def _record(
        self, key: Hashable, call: Callable[..., Scalars], tensors: tuple[Tensor, ...]
    ) -> None:
        if self.record is None or len(self.recordings) == MAX_RECORDINGS:
            return
        inputs = [tensor.clone() for tensor in tensors]
        names: list[str] = []

        def run() -> Tensor:
            scalars = call(*inputs)
            names[:] = scalars
            return torch.stack(list(scalars.values()))

        def replay_with(*tensors: Tensor) -> Scalars:
            for buffer, tensor in zip(inputs, tensors, strict=True):
                buffer.copy_(tensor)
            replay()
            return dict(zip(names, output.clone().unbind(), strict=True))

        try:
            replay, output = self.record(run)
        except RuntimeError as error:
            self.record = None
            # ending the capture fails as well; the cause is the error before
            reason = first_line(error.__context__ or error)
            self.say(f"training without CUDA graphs, a little slower: {reason}")
        else:
            self.recordings[key] = replay_with


def build_graph_step(
    mode: str, compute: Compute, say: Callable[[str], None]
) -> CudaGraphStep | None:
    """Build the recorder of steps for `trainer.compile`; None to run steps unrecorded."""
    if mode == "never" or compute.device.type != "cuda":
        return None
    if compute.precision == "fp16":
        say("training without CUDA graphs: fp16's loss scaling may skip steps")
        return None
    pool = torch.cuda.graph_pool_handle()
    return CudaGraphStep(partial(record_cuda_graph, pool), say)
