"""MixUp and CutMix against a loop and torchvision, and what is drawn against what it claims."""

import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import one_hot
from torchvision.transforms.v2 import CutMix

from flowertune.data.transforms.mixup import (
    MixParams,
    MixSettings,
    cut_box,
    draw_center,
    draw_lam,
    draw_params,
    mix_images,
    share_outside,
)

PARTNER = torch.tensor([3, 1, 0, 6, 5, 4, 2])
TARGETS = one_hot(torch.tensor([0, 1, 2, 3, 3, 1, 0]), 4).float()


@pytest.fixture
def images():
    return torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_mixup_equals_a_naive_loop(images):
    before = images.clone(), TARGETS.clone()
    mixed, mixed_targets = mix_images(images, TARGETS, MixParams(PARTNER, 0.3, None))
    for i in range(7):
        j = int(PARTNER[i])
        torch.testing.assert_close(mixed[i], 0.3 * images[i] + 0.7 * images[j])
        torch.testing.assert_close(mixed_targets[i], 0.3 * TARGETS[i] + 0.7 * TARGETS[j])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(7))
    assert torch.equal(images, before[0])
    assert torch.equal(TARGETS, before[1])


@pytest.mark.parametrize("box", [(1, 2, 3, 5), (0, 0, 4, 5), (2, 1, 2, 1), (3, 0, 4, 5)], ids=str)
def test_cutmix_equals_a_naive_loop_with_labels_by_counted_pixels(images, box):
    before = images.clone(), TARGETS.clone()
    top, left, bottom, right = box
    expected, own = images.clone(), 0
    for y in range(4):
        for x in range(5):
            inside = top <= y < bottom and left <= x < right
            own += not inside
            for i in range(7):
                if inside:
                    expected[i, :, y, x] = images[int(PARTNER[i]), :, y, x]
    drawn = MixParams(PARTNER, share_outside(box, (4, 5)), torch.tensor(box))
    mixed, mixed_targets = mix_images(images, TARGETS, drawn)
    assert torch.equal(mixed, expected)
    for i in range(7):
        share = own / 20 * TARGETS[i] + (1 - own / 20) * TARGETS[int(PARTNER[i])]
        torch.testing.assert_close(mixed_targets[i], share)
    assert torch.equal(images, before[0])
    assert torch.equal(TARGETS, before[1])


@pytest.mark.parametrize("size", [(32, 32), (33, 20)], ids=str)
def test_cutmix_equals_torchvision_for_the_same_draws(size):
    """Box, clipping at the edge, label share and pasting; its partner is the batch shifted."""
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3])
    reference = CutMix(alpha=1.0, num_classes=4)
    clipped = 0
    for seed in range(40):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected, expected_targets = reference(images, labels)
            torch.manual_seed(seed)
            lam = float(reference._dist.sample(()))
            column, row = (int(torch.randint(n, (1,))) for n in (size[1], size[0]))
        box = cut_box(lam, (row, column), size)
        clipped += share_outside(box, size) > lam + 0.1
        drawn = MixParams(torch.arange(4).roll(1), share_outside(box, size), torch.tensor(box))
        mixed, targets = mix_images(images, one_hot(labels, 4).float(), drawn)
        assert torch.equal(mixed, expected)
        torch.testing.assert_close(targets, expected_targets)
    assert clipped


@pytest.mark.parametrize("box", [None, torch.tensor([0, 0, 2, 2])], ids=["mixup", "cutmix"])
def test_a_batch_of_one_is_left_as_it_is(box):
    images, targets = torch.randn(1, 3, 4, 4), one_hot(torch.tensor([2]), 3).float()
    mixed, mixed_targets = mix_images(images, targets, MixParams(torch.tensor([0]), 0.37, box))
    assert torch.equal(mixed, images)
    assert torch.equal(mixed_targets, targets)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_partners_are_a_random_permutation(kind):
    """Every place is equally likely: neither the batch reversed nor shifted."""
    mixing = MixSettings(kind, 1.0, last_epoch=9)
    drawn = [draw_params(mixing, 8, (4, 5), 42, 0, step) for step in range(4000)]
    partners = torch.stack([params.permutation for params in drawn])
    assert (partners.sort(1).values == torch.arange(8)).all()
    frequency = torch.stack([(partners == place).float().mean(0) for place in range(8)])
    assert (frequency - 1 / 8).abs().max() < 0.025


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_the_coefficient_follows_its_beta_distribution(kind, alpha):
    drawn = [draw_lam(kind, alpha, 42, 0, step) for step in range(2000)]
    assert kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_a_tiny_alpha_gives_a_coefficient():
    drawn = [draw_lam("mixup", 1e-6, 42, 0, step) for step in range(200)]
    assert all(0 <= value <= 1 for value in drawn)
    assert 50 < sum(drawn) < 150


def test_every_pixel_is_as_likely_to_be_the_boxs_center():
    rows, columns = zip(*(draw_center((5, 8), 42, 0, step) for step in range(4000)), strict=True)
    for drawn, count in ((rows, 5), (columns, 8)):
        frequency = torch.bincount(torch.tensor(drawn)) / 4000
        assert len(frequency) == count
        assert (frequency - 1 / count).abs().max() < 0.025


def test_what_cutmix_draws_fits_together_and_hangs_on_seed_epoch_and_step_alone():
    mixing = MixSettings("cutmix", 1.0, last_epoch=9)
    coefficients = []
    for step in range(200):
        drawn = draw_params(mixing, 6, (12, 20), 42, 1, step)
        again = draw_params(mixing, 6, (12, 20), 42, 1, step)
        assert torch.equal(drawn.permutation, again.permutation)
        assert torch.equal(drawn.box, again.box)
        top, left, bottom, right = drawn.box.tolist()
        assert 0 <= top <= bottom <= 12
        assert 0 <= left <= right <= 20
        # what the label keeps is what the photo keeps, also where the edge cut the box
        assert drawn.lam == again.lam
        assert drawn.lam == pytest.approx(1 - (bottom - top) * (right - left) / 240)
        coefficients.append(drawn.lam)
    for other in [(43, 1, 0), (42, 2, 0), (42, 1, 1)]:
        assert draw_params(mixing, 6, (12, 20), *other).lam != coefficients[0]
