import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from flowertune.data.device_pixels import DevicePixels
from flowertune.data.loader import TrainLoader
from flowertune.data.samplers import epoch_batches
from flowertune.data.transforms.augment import AugmentSettings
from flowertune.data.transforms.mixup import MixSettings

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
# the whole photo, not mirrored: what is left is MixUp alone
MIXUP_ALONE = AugmentSettings(
    size=(8, 8),
    interpolation="bilinear",
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    mixing=MixSettings("mixup", 1.0, last_epoch=9),
)
EVERYTHING = AugmentSettings(
    size=(8, 8),
    interpolation="bicubic",
    scale=(0.3, 1.0),
    ratio=(0.75, 1.33),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    mixing=MixSettings("mixup", 0.5, last_epoch=9),
)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)


def photos(pixels, recipe, seed=42, resident=True):
    return TrainLoader(
        pixels=DevicePixels(pixels, torch.device("cpu"), resident=resident),
        labels=LABELS,
        num_classes=3,
        sizes=None if recipe is None else torch.full((7, 2), 8),
        augmentation=recipe,
        mean=MEAN,
        std=STD,
        batches=partial(epoch_batches, 7, 3, seed),
        seed=seed,
    )


def load(source, indices, epoch, batch):
    """One batch, alone."""
    ((images, targets),) = source.load([(batch, indices)], epoch)
    return images, targets


def naively_normalized(pixels):
    return ((torch.from_numpy(pixels).double() / 255).permute(0, 2, 3, 1) - MEAN) / STD


def test_an_epoch_shows_every_photo_once_in_an_order_of_its_own(pixels):
    source = photos(pixels, None)
    epochs = [[batch.tolist() for batch in source.batches(epoch)] for epoch in (1, 2)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert epochs[0] != epochs[1]
    assert photos(pixels, EVERYTHING).batches(1)[0].tolist() == epochs[0][0]


def test_without_augmentation_the_images_are_the_stored_pixels_normalized(pixels):
    images, targets = load(photos(pixels, None), torch.tensor([4, 0]), epoch=1, batch=0)
    assert images.dtype == targets.dtype == torch.float32
    expected = naively_normalized(pixels[[4, 0]]).permute(0, 3, 1, 2)
    torch.testing.assert_close(images.double(), expected, atol=1e-5, rtol=0)
    assert targets.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_batch_depends_on_seed_epoch_and_batch_and_on_nothing_else(pixels):
    source = photos(pixels, EVERYTHING)
    wanted = [(epoch, batch) for epoch in (1, 2) for batch in range(3)]

    def made(source, epoch, batch):
        return load(source, source.batches(epoch)[batch], epoch, batch)

    forwards = {key: made(source, *key) for key in wanted}
    torch.manual_seed(7)
    again = photos(pixels, EVERYTHING)
    for key in reversed(wanted):
        torch.rand(3)
        images, targets = made(again, *key)
        assert torch.equal(images, forwards[key][0])
        assert torch.equal(targets, forwards[key][1])
    same = torch.tensor([0, 1, 2])
    first = load(source, same, 1, 0)[0]
    assert not torch.equal(load(source, same, 2, 0)[0], first)
    assert not torch.equal(load(source, same, 1, 1)[0], first)
    assert not torch.equal(load(photos(pixels, EVERYTHING, seed=43), same, 1, 0)[0], first)


def test_streamed_photos_are_the_resident_ones_bit_for_bit(pixels):
    resident, streamed = (photos(pixels, EVERYTHING, resident=r) for r in (True, False))
    batches = [list(enumerate(source.batches(2))) for source in (resident, streamed)]
    both = zip(resident.load(batches[0], 2), streamed.load(batches[1], 2), strict=True)
    for one, other in both:
        assert all(map(torch.equal, one, other))


def test_labels_are_mixed_as_the_images_are(pixels):
    source = photos(pixels, MIXUP_ALONE)
    indices = torch.tensor([0, 1, 2])  # of three classes, so that the targets tell the shares
    plain = naively_normalized(pixels[:3]).permute(0, 3, 1, 2)
    mixed = 0
    for batch in range(4):
        images, targets = load(source, indices, epoch=1, batch=batch)
        torch.testing.assert_close(targets.sum(1), torch.ones(3))
        expected = torch.einsum("bc,cdhw->bdhw", targets.double(), plain)
        torch.testing.assert_close(images.double(), expected, atol=1e-5, rtol=0)
        mixed += int((targets.max(1).values < 0.999).any())
    assert mixed


def test_cutmix_labels_say_how_much_of_each_photo_is_to_be_seen():
    solid = np.repeat(np.arange(7, dtype=np.uint8) * 30, 3 * 8 * 8).reshape(7, 3, 8, 8)
    source = photos(solid, replace(MIXUP_ALONE, mixing=MixSettings("cutmix", 1.0, last_epoch=1)))
    mixed = 0
    for batch in range(6):
        images, targets = load(source, torch.tensor([0, 1, 2]), epoch=1, batch=batch)
        shown = images[:, 0] * STD[0] + MEAN[0]  # each pixel's shade says whose it is
        share = torch.stack([(shown - n * 30 / 255).abs() < 1e-3 for n in range(3)], dim=1)
        torch.testing.assert_close(targets, share.float().mean((2, 3)))
        mixed += int((targets.max(1).values < 0.999).any())
    assert mixed


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_last_epochs_do_not_mix_and_the_others_stay_as_they_were(pixels, kind):
    always = photos(pixels, replace(EVERYTHING, mixing=MixSettings(kind, 1.0, last_epoch=4)))
    never = photos(pixels, replace(EVERYTHING, mixing=None))
    source = photos(pixels, replace(EVERYTHING, mixing=MixSettings(kind, 1.0, last_epoch=2)))
    mixed_epochs = set()
    for epoch, batch in itertools.product((1, 2, 3, 4), range(4)):
        images, targets = load(source, torch.tensor([3, 1, 2]), epoch, batch)
        expected = load(always if epoch <= 2 else never, torch.tensor([3, 1, 2]), epoch, batch)
        assert torch.equal(images, expected[0])
        assert torch.equal(targets, expected[1])
        if not torch.equal(targets, one_hot(LABELS[[3, 1, 2]], 3).float()):
            mixed_epochs.add(epoch)
    assert mixed_epochs == {1, 2}


def test_the_smaller_last_batch_is_augmented_as_any_other(pixels):
    source = photos(pixels, EVERYTHING)
    last = source.batches(1)[-1]
    images, targets = load(source, last, epoch=1, batch=2)
    assert images.shape == (1, 3, 8, 8)
    assert images.isfinite().all()
    assert targets.tolist() == [one_hot(LABELS[last], 3)[0].tolist()]
