"""Group a training's batches into steps."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowertune.data.loader import TrainLoader
from flowertune.seeding import derive_seed

# normalized images and targets, on the device
Batch = tuple[Float[Tensor, "_ 3 h w"], Float[Tensor, "_ c"]]
Numbered = tuple[int, Int64[Tensor, "_"]]  # number of a batch in its epoch, and image indices


def step_indices(loader: TrainLoader, epoch: int, accumulation: int) -> list[list[Numbered]]:
    """List the steps of an epoch by their batches.

    The last step of an epoch may have fewer batches than `accumulation`.
    """
    numbered = list(enumerate(loader.batches(epoch)))
    return [numbered[i : i + accumulation] for i in range(0, len(numbered), accumulation)]


def count_images(step: list[Numbered]) -> int:
    """Count the images of a step."""
    return sum(len(indices) for _, indices in step)


def load_steps(
    loader: TrainLoader, epoch: int, steps: Sequence[list[Numbered]]
) -> Generator[Iterator[Batch], None, None]:
    """Yield the batches of each of these steps of an epoch.

    A batch is loaded when it is asked for, and sets the global random state that dropout draws
    from: run its forward pass before asking for the next. Close the generator if you do not read
    it to its end.
    """
    with closing(_load(loader, list(chain.from_iterable(steps)), epoch)) as stream:
        for step in steps:
            yield islice(stream, len(step))


def _load(
    loader: TrainLoader, numbered: list[Numbered], epoch: int
) -> Generator[Batch, None, None]:
    with closing(loader.load(numbered, epoch)) as stream:
        for batch, _ in numbered:
            torch.manual_seed(derive_seed(loader.seed, "dropout", epoch, batch))
            yield next(stream)  # which draws nothing from that state
