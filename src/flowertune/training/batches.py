"""Load the batches of a training, grouped into steps."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowertune.data.loader import TrainLoader
from flowertune.seeding import derive_seed

# normalized images and targets, on the device
Batch = tuple[Float[Tensor, "_ 3 h w"], Float[Tensor, "_ c"]]
Numbered = tuple[int, Int64[Tensor, "_"]]  # number of a batch in its epoch, and image indices


def count_images(step: list[Numbered]) -> int:
    """Number of images in a step."""
    return sum(len(indices) for _, indices in step)


def load_steps(
    loader: TrainLoader, epoch: int, steps: Sequence[list[Numbered]]
) -> Generator[Iterator[Batch], None, None]:
    """Yield an iterator over the batches of each step.

    Loading a batch seeds the global random state that dropout uses, so run its forward pass before
    loading the next one. Close the generator if you do not exhaust it.
    """

    def load(step: list[Numbered]) -> Iterator[Batch]:
        for batch, _ in step:
            torch.manual_seed(derive_seed(loader.seed, "dropout", epoch, batch))
            yield next(stream)  # does not use the global random state

    with closing(loader.load(chain.from_iterable(steps), epoch)) as stream:
        yield from map(load, steps)
