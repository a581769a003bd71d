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
    """Draw an epoch's batches of image indices: P classes x K images, at most P * K.

    labels: on the CPU. Each class is shuffled and split into groups of K; its last group is filled
    up from its first. A class with fewer than K images is one smaller group.

    Groups are distributed evenly: P per batch or, if they do not divide evenly, fewer. Two groups
    of a class share a batch only if the class has more groups than there are batches; its last
    group is then not filled up, so no batch holds an image twice. All epochs have the same number
    of batches.
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
        # Each group goes to a different one of the emptiest batches, with random ties. In a fixed
        # order a class would meet the same few classes all epoch and miss many hard negatives.
        groups = indices.split(k)
        emptiest = (group_counts + torch.rand(num_batches, generator=generator)).argsort()
        for batch, group in zip(itertools.cycle(emptiest.tolist()), groups, strict=False):
            batches[batch].append(group)
            group_counts[batch] += 1
    return [torch.cat(batch) for batch in batches]


def balanced_batches(
    labels: Int64[Tensor, "n"], batch_size: int, seed: int, epoch: int
) -> list[Int64[Tensor, "_"]]:
    """Draw an epoch's batches of n image indices in all, as many of each class (up to one).

    labels: on the CPU. The images of a class are drawn without replacement until all have been
    drawn, then again, so a small class repeats images and a large one leaves some out. Classes are
    drawn in turn, so each batch has them evenly too.
    """
    generator = seeding.generator(seed, "balanced batches", epoch)
    shuffled = torch.randperm(len(labels), generator=generator)
    classes = [shuffled[labels[shuffled] == label] for label in labels.unique()]
    rounds = math.ceil(len(labels) / len(classes))
    drawn = torch.stack([
        torch.cat([members[torch.randperm(len(members), generator=generator)]
                   for _ in range(math.ceil(rounds / len(members)))])[:rounds]
        for members in classes
    ])  # fmt: skip
    order = torch.stack(
        [torch.randperm(len(classes), generator=generator) for _ in range(rounds)]
    )  # of the classes, in each round
    indices = drawn.T.gather(1, order).flatten()[: len(labels)]
    return list(indices.split(batch_size))


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Int64[Tensor, "_"]]:
    """Draw an epoch's batches of image indices: every image once; the last may be smaller."""
    order = torch.randperm(count, generator=seeding.generator(seed, "order", epoch))
    return list(order.split(batch_size))
