"""Choose the images of each batch of an epoch, from (seed, epoch) alone."""

import itertools
import math

import torch
from jaxtyping import Int64
from torch import Tensor

from flowertune import seeding


def pk_batches(
    labels: Int64[Tensor, "n"],
    classes_per_batch: int,
    samples_per_class: int,
    seed: int,
    epoch: int,
) -> list[Int64[Tensor, "_"]]:
    """Draw the batches of an epoch: image indices, P classes x K images, P * K at most.

    labels: on the CPU. Each class is shuffled and cut into groups of K, and what its last group
    lacks comes from its first. A class of fewer than K photos is one smaller group.

    The groups are dealt out evenly: P to a batch or, where they do not come out even, fewer. Two
    groups of one class are in one batch only where the class has more of them than there are
    batches; its last group is then left short, so that no batch ever holds a photo twice. The
    number of batches is the same for all epochs.
    """
    p, k = classes_per_batch, samples_per_class
    generator = seeding.generator(seed, "class batches", epoch)
    unique_labels, classes = labels.unique(return_inverse=True)
    rank = torch.randperm(len(unique_labels), generator=generator)[classes]
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[rank[shuffled].argsort(stable=True)]
    sizes = rank.bincount().tolist()
    num_batches = math.ceil(sum(math.ceil(n / k) for n in sizes) / p)

    batches: list[list[Tensor]] = [[] for _ in range(num_batches)]
    group_counts = torch.zeros(num_batches)
    for indices, n in zip(by_class.split(sizes), sizes, strict=True):
        if n > k and math.ceil(n / k) <= num_batches:
            indices = torch.cat([indices, indices[: -n % k]])
        # Each group to another of the emptiest batches, at random among equals: side by side, the
        # classes would meet the same few others all epoch, and hard negatives are among all.
        groups = indices.split(k)
        emptiest = (group_counts + torch.rand(num_batches, generator=generator)).argsort()
        for batch, group in zip(itertools.cycle(emptiest.tolist()), groups, strict=False):
            batches[batch].append(group)
            group_counts[batch] += 1
    return [torch.cat(batch) for batch in batches]


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Int64[Tensor, "_"]]:
    """Draw the batches of an epoch: image indices, every image once; the last may be smaller."""
    order = torch.randperm(count, generator=seeding.generator(seed, "order", epoch))
    return list(order.split(batch_size))
