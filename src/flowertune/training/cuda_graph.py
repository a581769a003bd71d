"""Run a GPU's step as one call of the host: record its kernels once, replay them (CUDA graphs).

A small model leaves a large GPU waiting for the host, which launches some hundred kernels a step. A
recording is launched whole. It reads and writes the same memory each time, so what changes from
step to step has to be in tensors: the batch, the learning rates, the optimizer's count of steps.

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

WARM_UP = 2  # calls before the recording: kernels are loaded, gradients are made
MAX_RECORDINGS = 5  # for each the device is waited for; rarer shapes run as they are

# Record the device work of a function without doing any of it -> what does it, in the same memory,
# and the tensor that it fills. Raises RuntimeError where it cannot be recorded.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def record_cuda_graph(
    pool: Any, function: Callable[[], Tensor]
) -> tuple[Callable[[], None], Tensor]:
    """Record a CUDA graph, as `Record` says.

    pool: of torch.cuda.graph_pool_handle(), memory of all graphs, as they run one after the other;
    the output of one has to be copied before another runs.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # the thread that reads images ahead pins memory meanwhile; "global" would forbid it
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = function()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # torch before 2.12 leaves its own in force
        raise
    return graph.replay, output


class CudaGraphStep:
    """Call functions of tensors that give named scalars, recorded for each shape of the tensors.

    The first calls of a function with such shapes (and `fixed` values) run it as it is, the next
    one records it, and that and all later ones replay. Where one cannot be recorded, all go on as
    they are, and `say` is told why, once.
    """

    def __init__(self, record: Record, say: Callable[[str], None]) -> None:
        self.record: Record | None = record
        self.say = say
        self.calls: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, Callable[..., Scalars]] = {}

    def __call__(
        self, function: Callable[..., Scalars], *tensors: Tensor, **fixed: float
    ) -> Scalars:
        """Call `function(*tensors, **fixed)`; the tensors may be changed afterwards."""
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
            # the end of the capture fails too, over what went wrong in it
            reason = first_line(error.__context__ or error)
            self.say(f"steps are not recorded, and so a little slower: {reason}")
        else:
            self.recordings[key] = replay_with


def build_graph_step(
    mode: str, compute: Compute, say: Callable[[str], None]
) -> CudaGraphStep | None:
    """Build the recorder of steps for `trainer.compile`; None: steps run as they are.

    `say` gets a line where `mode` cannot be followed, then or when a step is recorded.
    """
    if mode == "never" or compute.device.type != "cuda":
        return None
    if compute.precision == "fp16":
        say("steps are not recorded: fp16's loss scaling decides after each whether it counts")
        return None
    pool = torch.cuda.graph_pool_handle()
    return CudaGraphStep(partial(record_cuda_graph, pool), say)
