"""P x K batches, on classes of every size."""

import math
from collections import Counter

import pytest
import torch

from flowertune.data.samplers import balanced_batches, pk_batches

SIZES = {
    "even": [8] * 6,
    "not divisible": [10] * 17,
    "unequal": [3, 40, 7, 12, 25, 5, 4, 9],
    "one giant": [500, 2, 6, 4],
    "two classes": [9, 21],
    "small": [1, 2, 1, 3, 2, 1, 1],
    "one photo": [1, 8, 8, 8],
    "one class": [11],
}


def labels_of(sizes, gap=1):
    """Shuffled labels; with a gap, some classes have no image."""
    labels = torch.cat([torch.full((size,), gap * c) for c, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]


def listed(batches):
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize(("p", "k"), [(2, 4), (3, 2), (8, 4), (6, 5)])
@pytest.mark.parametrize("gap", [1, 3])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_photo_is_visited_and_every_batch_is_made_of_groups_of_k(sizes, gap, p, k):
    labels = labels_of(sizes, gap)
    groups = {gap * c: math.ceil(size / k) for c, size in enumerate(sizes)}
    for epoch in (1, 2, 3):
        batches = listed(pk_batches(labels, p, k, seed=42, epoch=epoch))
        assert len(batches) == math.ceil(sum(groups.values()) / p)

        visits = Counter(photo for batch in batches for photo in batch)
        for c, size in enumerate(sizes):
            members = (labels == gap * c).nonzero().flatten().tolist()
            twice = -size % k if k < size and groups[gap * c] <= len(batches) else 0
            expected = [1] * (size - twice) + [2] * twice
            assert sorted(visits[photo] for photo in members) == expected

        held = []  # groups in each batch
        for batch in batches:
            counts = Counter(labels[batch].tolist())
            in_batch = {c: math.ceil(count / k) for c, count in counts.items()}
            held.append(sum(in_batch.values()))
            for c, count in in_batch.items():
                assert count <= math.ceil(groups[c] / len(batches))
                if k <= sizes[c // gap] and groups[c] <= len(batches):
                    assert counts[c] == k
            assert len(set(batch)) == len(batch)
        assert max(held) <= p
        assert max(held) - min(held) <= 1


def test_where_it_comes_out_even_every_batch_has_p_classes_with_k_photos():
    labels = labels_of([8] * 6)
    for batch in pk_batches(labels, 3, 4, seed=1, epoch=1):
        assert list(Counter(labels[batch].tolist()).values()) == [4, 4, 4]


def test_an_epoch_is_a_function_of_seed_and_epoch():
    labels = labels_of([10, 7, 4, 9])
    first = listed(pk_batches(labels, 2, 4, seed=42, epoch=1))
    torch.manual_seed(1)
    assert listed(pk_batches(labels, 2, 4, seed=42, epoch=1)) == first
    assert listed(pk_batches(labels, 2, 4, seed=42, epoch=2)) != first
    assert listed(pk_batches(labels, 2, 4, seed=43, epoch=1)) != first


def test_over_the_epochs_photos_and_classes_meet_evenly():
    """Extra visits, neighbors in group and batch, and the position in an epoch are random."""
    labels = torch.arange(6).repeat_interleave(5)  # 6 classes of 5 photos, 3 more visits in each
    extra, beside, in_batch, first = Counter(), Counter(), Counter(), Counter()
    epochs = 1000
    for epoch in range(epochs):
        batches = listed(pk_batches(labels, 3, 4, seed=42, epoch=epoch))
        extra.update(photo for batch in batches for photo in batch)
        for batch in batches:
            classes = sorted(set(labels[batch].tolist()))
            in_batch.update((a, b) for a in classes for b in classes if a < b)
            zeroth = [photo for photo in batch if photo < 5]
            beside.update((a, b) for a in zeroth for b in zeroth if a < b)
        first.update(labels[batches[0]].unique().tolist())
    for counts, kinds in ((extra, 30), (beside, 10), (in_batch, 15), (first, 6)):
        assert len(counts) == kinds
        mean = sum(counts.values()) / kinds
        assert all(0.8 * mean < count < 1.2 * mean for count in counts.values())


def test_the_groups_of_a_class_lie_scattered_over_the_epoch():
    labels = torch.arange(12).repeat_interleave(8)
    apart = []
    for epoch in range(50):
        batches = [labels[batch] for batch in pk_batches(labels, 2, 4, seed=42, epoch=epoch)]
        for c in range(12):
            first, second = (place for place, batch in enumerate(batches) if c in batch)
            apart.append(second - first)
    assert sum(apart) / len(apart) == pytest.approx(13 / 3, abs=0.4)  # of two random places of 12


def test_a_class_meets_most_others_within_an_epoch():
    labels = torch.arange(17).repeat_interleave(40)
    met = set()
    for batch in pk_batches(labels, 4, 4, 42, 1):
        present = labels[batch].unique().tolist()
        met |= {(one, other) for one in present for other in present if one < other}
    assert len(met) > 0.7 * (17 * 16 / 2)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_balanced_batches_draw_classes_evenly(sizes):
    labels = labels_of(sizes)
    for epoch in (1, 2):
        batches = listed(balanced_batches(labels, 8, seed=42, epoch=epoch))
        assert [len(batch) for batch in batches] == [
            len(part) for part in torch.arange(len(labels)).split(8)
        ]
        drawn = Counter(label for batch in batches for label in labels[batch].tolist())
        assert max(drawn.values()) - min(drawn.values()) <= 1
        images = Counter(index for batch in batches for index in batch)
        for label in drawn:  # without replacement until all have been drawn
            counts = [images[index] for index in (labels == label).nonzero().flatten().tolist()]
            assert max(counts) - min(counts) <= 1
        for batch in batches[:-1]:  # within a batch too, as a naive round robin does it
            inside = Counter(labels[batch].tolist())
            assert max(inside.values()) <= math.ceil(8 / len(sizes)) + 1


def test_balanced_batches_depend_on_seed_and_epoch_alone():
    labels = labels_of([5, 40, 9])
    first = listed(balanced_batches(labels, 8, seed=1, epoch=1))
    torch.manual_seed(99)
    assert listed(balanced_batches(labels, 8, seed=1, epoch=1)) == first
    assert listed(balanced_batches(labels, 8, seed=1, epoch=2)) != first
    assert listed(balanced_batches(labels, 8, seed=2, epoch=1)) != first
