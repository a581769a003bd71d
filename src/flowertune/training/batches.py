"""Group a training's batches into steps."""

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

    def load(step: list[Numbered]) -> Iterator[Batch]:
        for batch, _ in step:
            torch.manual_seed(derive_seed(loader.seed, "dropout", epoch, batch))
            yield next(stream)  # which draws nothing from that state

    with closing(loader.load(chain.from_iterable(steps), epoch)) as stream:
        yield from map(load, steps)
