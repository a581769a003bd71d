"""A GPU's step as one call of the host: its kernels are recorded once and replayed (CUDA graphs).

A small model leaves a large GPU waiting for the host, which launches some hundred kernels a step. A
recording is launched whole. It reads and writes the same memory each time, so what changes from
step to step has to be in tensors: the batch, the learning rates, the optimizer's count of steps.

https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from flowertune.errors import one_line
from flowertune.training.device import Compute

Scalars = dict[str, Tensor]  # by name, () each
Replay = Callable[[Callable[..., Scalars]], Callable[..., Scalars]]

WARM_UP = 2  # calls before the recording: kernels are loaded, gradients and workspaces are made
MOST_RECORDINGS = 4  # each keeps its activations' memory; rarer shapes run as they are


class Recorder(Protocol):
    """Records what a function asks of the device."""

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """What does the same again, in the same memory, and the tensor that it then fills.

        Raises RuntimeError where the function asks for something that cannot be recorded. Nothing
        of it has been done then, nor when it could.
        """


class CudaRecorder:
    """CUDA graphs in one pool of memory, as they run one after the other."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """As `Recorder` has it."""
        graph = torch.cuda.CUDAGraph()
        # the thread that reads photos ahead pins memory meanwhile, which "global" would forbid it
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            filled = function()
        return graph.replay, filled


def replay_for(choice: str, compute: Compute, say: Callable[[str], None]) -> Replay | None:
    """What makes a `Replayed` of a function under `trainer.compile`; None: they run as they are.

    `say` takes a line where that is not as it was asked for, then or when a step is recorded.
    """
    if choice == "never" or compute.device.type != "cuda":
        return None
    if compute.precision == "fp16":
        say("steps are not recorded: fp16's loss scaling decides after each whether it counts")
        return None
    return partial(Replayed, recorder=CudaRecorder(), say=say)


@dataclass(frozen=True)
class _Recording:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    names: tuple[str, ...]
    filled: Tensor  # (len(names),)

    def __call__(self, tensors: tuple[Tensor, ...]) -> Scalars:
        for mine, given in zip(self.inputs, tensors, strict=True):
            mine.copy_(given)
        self.replay()
        return dict(zip(self.names, self.filled.clone().unbind(), strict=True))


class Replayed:
    """`function(*tensors, **fixed) -> named scalars`, recorded for each shape of the tensors.

    The first calls with such shapes (and `fixed` values) run the function as it is, the next one
    records it, and that and all later ones replay. Where it cannot be recorded, it goes on as it
    is, and `say` is told why, once.
    """

    def __init__(
        self,
        function: Callable[..., Scalars],
        recorder: Recorder,
        say: Callable[[str], None],
    ) -> None:
        self.function = function
        self.recorder: Recorder | None = recorder
        self.say = say
        self.calls: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, *tensors: Tensor, **fixed: float) -> Scalars:
        """What the function gives for them; the tensors are the caller's again afterwards."""
        key = (tuple(tensor.shape for tensor in tensors), tuple(sorted(fixed.items())))
        calls = self.calls[key] = self.calls.get(key, 0) + 1
        recording = self.recordings.get(key)
        if recording is None and calls > WARM_UP and len(self.recordings) < MOST_RECORDINGS:
            recording = self._recorded(tensors, fixed)
            if recording is not None:
                self.recordings[key] = recording
        return self.function(*tensors, **fixed) if recording is None else recording(tensors)

    def _recorded(self, tensors: tuple[Tensor, ...], fixed: dict[str, float]) -> _Recording | None:
        if self.recorder is None:
            return None
        inputs = tuple(tensor.clone() for tensor in tensors)
        names: tuple[str, ...] = ()

        def run() -> Tensor:
            nonlocal names
            scalars = self.function(*inputs, **fixed)
            names = tuple(scalars)
            return torch.stack(list(scalars.values()))

        try:
            replay, filled = self.recorder.record(run)
        except RuntimeError as error:
            self.recorder = None
            self.say(f"steps are not recorded, and so a little slower: {one_line(error)}")
            return None
        return _Recording(inputs, replay, names, filled)
