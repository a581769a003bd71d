"""Run a GPU's step as one call of the host: record its kernels once, replay them (CUDA graphs).

A small model leaves a large GPU waiting for the host, which launches some hundred kernels a step. A
recording is launched whole. It reads and writes the same memory each time, so what changes from
step to step has to be in tensors: the batch, the learning rates, the optimizer's count of steps.

https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from flowertune.errors import first_line
from flowertune.runtime.device import Compute

Scalars = dict[str, Float[Tensor, ""]]  # by name

WARM_UP = 2  # calls before the recording: kernels are loaded, gradients are made
MAX_RECORDINGS = 5  # for each the device is waited for; rarer shapes run as they are


@runtime_checkable
class Recorder(Protocol):
    """Record the device work of a function."""

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return a function that does the same again, in the same memory, and the tensor it fills.

        Raises RuntimeError where the function asks for something that cannot be recorded. Nothing
        of it has been done then, nor when it could.
        """


class CudaRecorder:
    """Record CUDA graphs in one pool of memory, as they run one after the other.

    The output of one has to be copied before another runs.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See `Recorder.record`."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # the thread that reads images ahead pins memory meanwhile; "global" would forbid it
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                output = function()
        except RuntimeError:
            torch.cuda.set_stream(stream)  # torch before 2.12 leaves its own in force
            raise
        return graph.replay, output


@dataclass(frozen=True)
class _RecordedGraph:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    names: tuple[str, ...]
    output: Float[Tensor, "n"]  # by the names

    def __call__(self, tensors: tuple[Tensor, ...]) -> Scalars:
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self.replay()
        return dict(zip(self.names, self.output.clone().unbind(), strict=True))


class CudaGraphStep:
    """Call functions of tensors that give named scalars, recorded for each shape of the tensors.

    The first calls of a function with such shapes (and `fixed` values) run it as it is, the next
    one records it, and that and all later ones replay. Where one cannot be recorded, all go on as
    they are, and `say` is told why, once.
    """

    def __init__(self, recorder: Recorder, say: Callable[[str], None]) -> None:
        self.recorder: Recorder | None = recorder
        self.say = say
        self.calls: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, _RecordedGraph] = {}

    def __call__(
        self, function: Callable[..., Scalars], *tensors: Tensor, **fixed: float
    ) -> Scalars:
        """Call `function(*tensors, **fixed)`; the tensors may be changed afterwards."""
        shapes = tuple(tensor.shape for tensor in tensors)
        key = (function.__name__, shapes, tuple(sorted(fixed.items())))
        calls = self.calls[key] = self.calls.get(key, 0) + 1
        if key not in self.recordings and calls > WARM_UP:
            self._record(key, function, tensors, fixed)
        if key in self.recordings:
            return self.recordings[key](tensors)
        return function(*tensors, **fixed)

    def _record(
        self,
        key: Hashable,
        function: Callable[..., Scalars],
        tensors: tuple[Tensor, ...],
        fixed: dict[str, float],
    ) -> None:
        if self.recorder is None or len(self.recordings) == MAX_RECORDINGS:
            return
        inputs = tuple(tensor.clone() for tensor in tensors)
        names: tuple[str, ...] = ()

        def run() -> Tensor:
            nonlocal names
            scalars = function(*inputs, **fixed)
            names = tuple(scalars)
            return torch.stack(list(scalars.values()))

        try:
            replay, output = self.recorder.record(run)
        except RuntimeError as error:
            self.recorder = None
            # the end of the capture fails too, over what went wrong in it
            reason = first_line(error.__context__ or error)
            self.say(f"steps are not recorded, and so a little slower: {reason}")
        else:
            self.recordings[key] = _RecordedGraph(inputs, replay, names, output)


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
    return CudaGraphStep(CudaRecorder(), say)
