"""Augmentation: what is drawn, and what becomes of the pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import Compose, Normalize, RandomResizedCrop, ToTensor
from torchvision.transforms.v2 import functional as TF

from flowertune.data.transforms.augment import (
    AugmentParams,
    AugmentSettings,
    apply,
    draw_boxes,
    draw_params,
    jitter,
    normalize,
)
from flowertune.data.transforms.mixup import MixSettings

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
RECIPE = AugmentSettings(
    size=(16, 24),
    interpolation="bicubic",
    scale=(0.35, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    mixing=None,
)
SIZES = torch.tensor([[40, 40], [40, 64], [80, 40], [44, 40]] * 8, dtype=torch.int32)


def equal(one: AugmentParams, other: AugmentParams) -> bool:
    pairs = [(one.boxes, other.boxes), (one.flips, other.flips)]
    assert one.color is not None
    assert other.color is not None
    assert one.mixing is not None
    assert other.mixing is not None
    pairs += [(one.color, other.color), (one.mixing.permutation, other.mixing.permutation)]
    same = one.mixing.lam == other.mixing.lam
    return same and all(torch.equal(a, b) for a, b in pairs)


def test_draws_follow_from_seed_epoch_and_step_alone():
    recipe = replace(RECIPE, brightness=0.2, mixing=MixSettings("mixup", 0.2, last_epoch=9))
    torch.manual_seed(1)
    np.random.seed(1)
    first = draw_params(recipe, SIZES, seed=42, epoch=3, step=7)
    torch.manual_seed(2)
    np.random.seed(2)
    state = torch.get_rng_state()
    assert equal(first, draw_params(recipe, SIZES, seed=42, epoch=3, step=7))
    assert torch.equal(state, torch.get_rng_state())
    for other in [(43, 3, 7), (42, 4, 7), (42, 3, 8)]:
        drawn = draw_params(recipe, SIZES, *other)
        assert not torch.equal(first.boxes, drawn.boxes)
        assert not torch.equal(first.flips, drawn.flips)
        assert first.color is not None
        assert drawn.color is not None
        assert not torch.equal(first.color, drawn.color)
        assert first.mixing is not None
        assert drawn.mixing is not None
        assert not torch.equal(first.mixing.permutation, drawn.mixing.permutation)
        assert first.mixing.lam != drawn.mixing.lam


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_and_color_leave_crops_and_flips_as_they_were(kind):
    plain = draw_params(RECIPE, SIZES, 42, 1, 0)
    mixing = MixSettings(kind, 1.0, last_epoch=1)
    rich = draw_params(replace(RECIPE, contrast=0.4, mixing=mixing), SIZES, 42, 1, 0)
    assert (plain.color, plain.mixing) == (None, None)
    assert rich.mixing is not None
    assert torch.equal(plain.boxes, rich.boxes)
    assert torch.equal(plain.flips, rich.flips)


def test_a_crop_does_not_depend_on_the_other_photos_of_the_batch():
    others = SIZES.clone()
    others[1:] = torch.tensor([200, 31])
    assert torch.equal(
        draw_params(RECIPE, SIZES, 42, 0, 0).boxes[0],
        draw_params(RECIPE, others, 42, 0, 0).boxes[0],
    )


@pytest.mark.parametrize("size", [(256, 256), (256, 341), (256, 512), (384, 256)], ids=str)
@pytest.mark.parametrize("scale", [(0.35, 1.0), (0.08, 1.0)], ids=str)
def test_boxes_are_distributed_as_torchvision_draws_them(size, scale):
    """Area, ratio and place, also where many tries do not fit (a wide photo, a large share)."""
    count, ratio = 4000, (3 / 4, 4 / 3)
    boxes = draw_boxes(
        torch.tensor([size]).expand(count, 2), scale, ratio, torch.Generator().manual_seed(3)
    ).double()
    photo = torch.empty(3, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        reference = torch.tensor(
            [RandomResizedCrop.get_params(photo, list(scale), list(ratio)) for _ in range(count)]
        ).double()
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        assert ks_2samp(measure(boxes), measure(reference)).pvalue > 1e-3
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= size[0]).all()
    assert (boxes[:, 1] + boxes[:, 3] <= size[1]).all()


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 50), (50, 1)], ids=str)
def test_a_photo_that_no_box_fits_gives_its_center(size):
    """As torchvision: the largest box in the middle whose ratio is allowed."""
    scale, ratio = (0.9, 1.0), (3 / 4, 4 / 3)
    box = draw_boxes(torch.tensor([size]), scale, ratio, torch.Generator().manual_seed(0))[0]
    expected = RandomResizedCrop.get_params(torch.empty(3, *size), list(scale), list(ratio))
    assert tuple(box.tolist()) == expected


def test_flips_and_color_factors_come_as_asked_for():
    sizes = SIZES[:1].expand(4000, 2)
    recipe = replace(RECIPE, flip=0.3, brightness=0.4, saturation=2.0)
    drawn = draw_params(recipe, sizes, 42, 0, 0)
    assert drawn.flips.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert drawn.color is not None
    brightness, contrast, saturation = drawn.color.double().unbind(1)
    assert (contrast == 1).all()
    assert kstest(brightness, "uniform", args=(0.6, 0.8)).pvalue > 1e-3
    assert kstest(saturation, "uniform", args=(0.0, 3.0)).pvalue > 1e-3
    assert not draw_params(replace(RECIPE, flip=0.0), sizes, 42, 0, 0).flips.any()
    assert draw_params(replace(RECIPE, flip=1.0), sizes, 42, 0, 0).flips.all()


def test_jitter_equals_torchvision_with_each_images_own_factors():
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(12, 3, 9, 11, generator=generator)
    factors = torch.rand(12, 3, generator=generator) * 2.5
    factors[0] = 0
    factors[1] = 1
    before = images.clone()
    varied = jitter(images, factors)
    assert torch.equal(images, before)
    for image, factor, result in zip(images, factors.tolist(), varied, strict=True):
        expected = TF.adjust_brightness(image, factor[0])
        expected = TF.adjust_contrast(expected, factor[1])
        expected = TF.adjust_saturation(expected, factor[2])
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert torch.equal(varied[1], images[1])


def test_apply_is_crop_then_flip_then_color_then_normalize():
    recipe = replace(RECIPE, brightness=0.3, contrast=0.3, saturation=0.3)
    generator = torch.Generator().manual_seed(6)
    pixels = torch.randint(0, 256, (32, 3, 80, 64), dtype=torch.uint8, generator=generator)
    drawn = draw_params(recipe, SIZES, 42, 1, 2)
    images = apply(pixels, drawn, recipe, MEAN, STD)
    assert images.shape == (32, 3, 16, 24)
    assert torch.equal(images, apply(pixels, drawn, recipe, torch.tensor(MEAN), torch.tensor(STD)))
    assert drawn.color is not None
    for i, (top, left, height, width) in enumerate(drawn.boxes.tolist()):
        expected = TF.crop(pixels[i].float() / 255, top, left, height, width)
        expected = TF.resize(expected, [16, 24], TF.InterpolationMode.BICUBIC, antialias=True)
        expected = expected.clamp(0, 1)
        if drawn.flips[i]:
            expected = TF.horizontal_flip(expected)
        brightness, contrast, saturation = drawn.color[i].tolist()
        expected = TF.adjust_brightness(expected, brightness)
        expected = TF.adjust_saturation(TF.adjust_contrast(expected, contrast), saturation)
        expected = TF.normalize(expected, list(MEAN), list(STD))
        torch.testing.assert_close(images[i], expected, atol=5e-4, rtol=0)


def test_normalize_is_to_tensor_and_normalize_bit_for_bit():
    every_value = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    reference = Compose([ToTensor(), Normalize(MEAN, STD)])
    pixels = torch.from_numpy(every_value).permute(2, 0, 1)[None]
    before = pixels.clone()
    assert torch.equal(normalize(pixels, MEAN, STD)[0], reference(every_value))
    assert torch.equal(pixels, before)
