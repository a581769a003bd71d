"""The batched crop-and-resize against torchvision's and Pillow's, one photo at a time."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from flowertune.data.transforms import resize as resize_module
from flowertune.data.transforms.resize import resize_into

MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
PIL_MODES = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
CANVAS = (61, 97)


def resize(pixels, boxes, flips, size, interpolation):
    """All images at once, in a new tensor."""
    out = torch.empty(len(pixels), 3, *size)
    for _ in resize_into(out, pixels, boxes, flips, interpolation):
        pass
    return out


def random_boxes(count: int) -> Tensor:
    """Boxes of every size in the canvas, a single pixel and the whole among them."""
    generator = np.random.default_rng(0)
    boxes = [(0, 0, *CANVAS), (60, 96, 1, 1), (3, 5, 1, 80), (0, 90, 61, 2)]
    while len(boxes) < count:
        height = int(generator.integers(1, CANVAS[0] + 1))
        width = int(generator.integers(1, CANVAS[1] + 1))
        top = int(generator.integers(0, CANVAS[0] - height + 1))
        boxes.append((top, int(generator.integers(0, CANVAS[1] - width + 1)), height, width))
    return torch.tensor(boxes)


def random_pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, *CANVAS), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(24, 24), (20, 37), (96, 130)], ids=str)
def test_equals_torchvision_for_every_box(interpolation, size):
    """Shrinking and enlarging, each axis on its own, also within one batch; noise hides nothing."""
    boxes, count = random_boxes(40), 40
    pixels = random_pixels(count)
    flips = torch.arange(count) % 3 == 0
    images = resize(pixels, boxes, flips, size, interpolation)
    assert images.shape == (count, 3, *size)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = TF.resized_crop(
            pixels[i].float() / 255,
            top,
            left,
            height,
            width,
            list(size),
            MODES[interpolation],
            antialias=True,
        ).clamp(0, 1)
        if flips[i]:
            expected = TF.horizontal_flip(expected)
        torch.testing.assert_close(images[i], expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_pillow_within_a_gray_level(interpolation):
    """On smooth pictures: Pillow rounds, and clips, to whole gray levels between the two axes."""
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]]
    picture = np.stack([127 + 90 * np.sin(x / 5 + c) * np.cos(y / 6 - c) for c in range(3)], -1)
    picture = picture.round().astype(np.uint8)
    boxes = random_boxes(30)
    pixels = torch.from_numpy(picture).permute(2, 0, 1).expand(30, -1, -1, -1)
    flips = torch.zeros(30, dtype=torch.bool)
    images = resize(pixels, boxes, flips, (32, 40), interpolation)
    gray_levels = (images * 255).round().permute(0, 2, 3, 1).numpy()
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        crop = Image.fromarray(picture).crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((40, 32), PIL_MODES[interpolation]), dtype=np.float32)
        assert np.abs(gray_levels[i] - expected).max() <= 1


def test_nothing_outside_the_box_is_seen():
    pixels = torch.full((2, 3, 40, 60), 255, dtype=torch.uint8)
    pixels[:, :, 10:30, 20:50] = 51
    boxes = torch.tensor([[10, 20, 20, 30], [12, 25, 5, 7]])
    images = resize(pixels, boxes, torch.tensor([False, True]), (16, 16), "bicubic")
    torch.testing.assert_close(images, torch.full_like(images, 0.2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_photo_does_not_depend_on_its_batch(interpolation):
    """Bit for bit, on the CPU."""
    pixels, boxes = random_pixels(20), random_boxes(20)
    flips = torch.arange(20) % 2 == 0
    together = resize(pixels, boxes, flips, (24, 30), interpolation)
    for i in (0, 3, 11, 19):
        one = slice(i, i + 1)
        alone = resize(pixels[one], boxes[one], flips[one], (24, 30), interpolation)
        assert torch.equal(alone[0], together[i])


def test_photos_in_a_list_are_the_batch_bit_for_bit():
    pixels, boxes = random_pixels(7), random_boxes(7)
    flips = torch.arange(7) % 2 == 0
    together = resize(pixels, boxes, flips, (24, 30), "bicubic")
    assert torch.equal(resize(list(pixels), boxes, flips, (24, 30), "bicubic"), together)


def test_the_sum_without_embedding_bag_is_the_same():
    """What runs on a Mac's GPU, tried on the CPU."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(50, 7, generator=generator)
    index = torch.randint(50, (30, 5), generator=generator)
    weight = torch.rand(30, 5, generator=generator)
    expected = torch.einsum("nkl,nk->nl", rows[index], weight)
    torch.testing.assert_close(resize_module._sum_by_tap(rows, index, weight), expected)
