"""Crop and resize a whole batch, each image with its own box, as PIL and torchvision do.

Resizing is separable: every output row is a weighted sum of a few input rows (its taps), then
every output column of a few columns. The taps of all photos are laid out as one long table of
(row, weight) pairs, so one call sums them all and no Python runs per photo. A dense weight matrix
per photo would multiply almost only zeros: about five times slower on a CPU.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from flowertune.runtime.device import GROUP_ON_CPU, send

Interpolation = Literal["bicubic", "bilinear"]

# As a list of images they need not be copied to lie together.
PixelBatch = UInt8[Tensor, "b 3 hc wc"] | list[UInt8[Tensor, "3 hc wc"]]

# How far the kernel reaches to each side, in pixels of the coarser of the two grids.
SUPPORT: dict[Interpolation, int] = {"bicubic": 2, "bilinear": 1}

# Photos worked on at once where it is no CPU: many, to fill the device, within about 0.3 GB of
# intermediates for 224 px from a canvas of 256 x 512. No result depends on it.
GROUP_ON_ACCELERATOR = 64


def resize_into(
    out: Float[Tensor, "b 3 h w"],
    pixels: PixelBatch,
    boxes: Int64[Tensor, "b 4"],
    flips: Bool[Tensor, "b"],
    interpolation: Interpolation,
) -> Iterator[slice]:
    """Crop each image to its own box, resize it into `out`, and mirror it where `flips` is true.

    out: contiguous; it gets values in [0, 1]. pixels: on the same device. boxes: top, left, height,
    width in pixels, on the CPU as `flips` are. Yields slices of finished images: what comes next is
    done soonest to the few images that are done, which on a CPU are in cache.

    Equal to torchvision's `resized_crop(..., antialias=True)` followed by a clamp: taps stop at
    the box, the kernel widens where the photo shrinks, bicubic has a = -0.5 as in PIL.
    """
    device, (height, width) = out.device, out.shape[2:]
    top, left, box_height, box_width = send(boxes, device).unbind(1)
    # The boxes are on the CPU: what bounds the shapes is read there, so the device never waits.
    rows, row_weights = _taps(top, box_height, int(boxes[:, 2].max()), height, interpolation)
    columns, column_weights = _taps(left, box_width, int(boxes[:, 3].max()), width, interpolation)
    mirrored = send(flips, device)[:, None, None]
    columns = torch.where(mirrored, columns.flip(1), columns)
    column_weights = torch.where(mirrored, column_weights.flip(1), column_weights) / 255

    group_size = GROUP_ON_CPU if device.type == "cpu" else GROUP_ON_ACCELERATOR
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    for first in range(0, len(out), group_size):
        group = slice(first, first + group_size)
        y_start, x_start = starts[group].amin(0).tolist()
        y_end, x_end = ends[group].amax(0).tolist()
        cropped = _crop_batch(pixels[group], slice(y_start, y_end), slice(x_start, x_end))
        resized_rows = _weighted_rows(cropped, rows[group] - y_start, row_weights[group])
        transposed = resized_rows.transpose(2, 3).contiguous()
        resized = _weighted_rows(transposed, columns[group] - x_start, column_weights[group])
        # Bicubic overshoots at edges; an image has no values outside [0, 1].
        torch.clamp(resized.transpose(2, 3), 0, 1, out=out[group])
        yield group


def _crop_batch(pixels: PixelBatch, rows: slice, columns: slice) -> Float[Tensor, "b 3 r l"]:
    if isinstance(pixels, Tensor):
        cropped = pixels[:, :, rows, columns]
    else:
        cropped = torch.stack([image[:, rows, columns] for image in pixels])
    return cropped.to(torch.float32, memory_format=torch.contiguous_format)


def _taps(
    start: Int64[Tensor, "b"],
    length: Int64[Tensor, "b"],
    longest: int,
    out: int,
    interpolation: Interpolation,
) -> tuple[Int64[Tensor, "b {out} k"], Float[Tensor, "b {out} k"]]:
    """Compute the inputs of each output along one axis, and their weights.

    start, length: the box along this axis; longest: the largest of `length`. Returns input indices
    and weights that sum to 1; taps outside the box have weight 0 and the index of its last pixel.

    Output i is centered on (i + 1/2) * length / out. Everything before the kernel is done in whole
    numbers (all lengths times 2 * out), so that every device finds the same taps and weights.
    Follows ImagingResample of Pillow, src/libImaging/Resample.c.
    """
    support = SUPPORT[interpolation]
    # An open interval of length 2 * support * coarser / out holds no more pixel centers than this.
    count = -(-2 * support * max(longest, out) // out)
    coarser = length.clamp(min=out)[:, None]
    center = (2 * torch.arange(out, device=start.device) + 1) * length[:, None]
    first = (center - 2 * support * coarser + out).div(2 * out, rounding_mode="floor").clamp(min=0)
    tap = first[..., None] + torch.arange(count, device=start.device)
    distance = ((2 * tap + 1) * out - center[..., None]).abs() / (2 * coarser[..., None])
    weight = _kernel(distance.float(), interpolation)
    weight = weight.masked_fill(tap >= length[:, None, None], 0)
    # Summed tap by tap: the order in which `sum` adds depends on the number of taps, and with it a
    # photo's last bit on the largest box beside it.
    weight = weight / reduce(torch.add, weight.unbind(-1))[..., None]
    return start[:, None, None] + torch.minimum(tap, length[:, None, None] - 1), weight


def _kernel(distance: Float[Tensor, "*b"], interpolation: Interpolation) -> Float[Tensor, "*b"]:
    """Evaluate the interpolation kernel at distances >= 0, in pixels of the coarser grid."""
    if interpolation == "bilinear":
        return (1 - distance).clamp(min=0)
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _weighted_rows(
    images: Float[Tensor, "b 3 r l"],
    index: Int64[Tensor, "b out k"],
    weight: Float[Tensor, "b out k"],
) -> Float[Tensor, "b 3 out l"]:
    """Compute every output row as a weighted sum of input rows; the images are contiguous."""
    batch, channels, rows, length = images.shape
    out, count = index.shape[1:]
    plane = torch.arange(batch * channels, device=images.device).view(batch, channels, 1, 1)
    flat_index = (plane * rows + index[:, None]).view(-1, count)
    flat_weight = weight[:, None].expand(-1, channels, -1, -1).reshape(-1, count)
    flat_rows = images.view(-1, length)
    # embedding_bag has no MPS kernel in the older releases of torch that are supported.
    if images.device.type == "mps":
        resized = _sum_by_tap(flat_rows, flat_index, flat_weight)
    else:
        resized = F.embedding_bag(flat_index, flat_rows, mode="sum", per_sample_weights=flat_weight)
    return resized.view(batch, channels, out, length)


def _sum_by_tap(
    rows: Float[Tensor, "r l"], index: Int64[Tensor, "n k"], weight: Float[Tensor, "n k"]
) -> Float[Tensor, "n l"]:
    total = torch.zeros(len(index), rows.shape[1], device=rows.device)
    for tap in range(index.shape[1]):
        total.addcmul_(rows[index[:, tap]], weight[:, tap, None])
    return total
