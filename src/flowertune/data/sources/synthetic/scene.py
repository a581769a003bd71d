"""Draw a plant: background, leaves, flowers, things in front of them, the camera."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowertune.data.sources.synthetic.flower import Colors, Floats, Pose, draw_flower, paint
from flowertune.data.sources.synthetic.species import Attributes, sample_attributes

DRAWING_VERSION = 1  # raise it whenever the same seed would give other pixels
SIZE = 64
_BACKGROUNDS = (
    ((0.16, 0.30, 0.12), (0.44, 0.58, 0.28)),  # meadow
    ((0.08, 0.16, 0.10), (0.24, 0.36, 0.20)),  # deep shade
    ((0.55, 0.68, 0.82), (0.80, 0.86, 0.88)),  # sky
    ((0.28, 0.20, 0.14), (0.52, 0.42, 0.30)),  # soil
    ((0.50, 0.52, 0.48), (0.74, 0.72, 0.66)),  # stone
    ((0.56, 0.58, 0.30), (0.78, 0.76, 0.50)),  # dry grass
)
PETAL_RGB = {
    "white": (0.95, 0.94, 0.92),
    "yellow": (0.97, 0.83, 0.18),
    "orange": (0.96, 0.55, 0.14),
    "red": (0.83, 0.14, 0.17),
    "pink": (0.95, 0.56, 0.70),
    "purple": (0.57, 0.29, 0.70),
    "blue": (0.30, 0.44, 0.87),
}
CENTER_RGB = {
    "yellow": (0.95, 0.78, 0.15),
    "brown": (0.42, 0.24, 0.10),
    "green": (0.50, 0.66, 0.24),
    "white": (0.95, 0.95, 0.90),
    "black": (0.12, 0.10, 0.12),
}
_LEAF = (0.24, 0.44, 0.17)
_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@dataclass(frozen=True)
class Conditions:
    """Photo conditions. Ranges are (least, most); light and colors are factors on [0, 1]."""

    size: float  # factor on the flowers' radius: how near the camera is
    spread: float  # how far a plant's colors are from the named ones
    strangers: float  # probability of another plant's flower at the edge
    hidden: float  # probability of a leaf in front
    brightness: tuple[float, float]
    cast: tuple[float, float, float]  # the light's color
    blur: tuple[int, int]  # index into the blurs; the upper one is excluded
    noise: tuple[float, float]  # standard deviation


# The downstream task: in the wild, towards the evening, in low warm light and with more in front.
# This gap is what is left to learn for adapters: without it the tiny CLIP's frozen features would
# be nearly as good as they can become.
EVENING = Conditions(
    size=1.0,
    spread=0.07,
    strangers=0.3,
    hidden=0.5,
    brightness=(0.35, 0.8),
    cast=(1.14, 0.92, 0.65),
    blur=(0, 12),
    noise=(0.005, 0.03),
)


def _smoothing(cells: int, sigma: float) -> Floats:
    """(SIZE, cells): each pixel row as a Gaussian mixture of `cells` rows, `sigma` rows wide."""
    position = (np.arange(SIZE) + 0.5) / SIZE * cells - 0.5
    weights = np.exp(-0.5 * ((position[:, None] - np.arange(cells)) / sigma) ** 2)
    rows: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return rows


_COARSE = _smoothing(6, 0.55)
_BLURS = [_smoothing(SIZE, sigma) for sigma in np.linspace(0.25, 1.5, 16)]


def draw_picture(
    attributes: Attributes, conditions: Conditions, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Draw a photo-like picture (64, 64, 3) uint8 of a plant with these attributes.

    All else comes from `rng`: pose, size, light, background, what hides the flower, blur and noise.
    """
    canvas = _background(rng)
    light = rng.uniform(0, 2 * math.pi)
    green = _vary_color(_LEAF, rng, 0.06)
    poses = _poses(attributes.growth, conditions.size, rng)
    _stems(canvas, attributes.growth, poses, green, rng)
    for _ in range(rng.integers(0, 4)):
        _leaf(canvas, rng.uniform(0, SIZE, 2), rng.uniform(8, 20), green, rng)
    if rng.random() < conditions.strangers:
        _stranger(canvas, light, rng)
    colors = _plant_colors(attributes, conditions.spread, rng)
    for pose in poses:
        draw_flower(canvas, attributes, colors, pose, light, rng)
    if rng.random() < conditions.hidden:
        # In front of the plant: a blade that starts outside and reaches into the picture.
        side = rng.uniform(0, 2 * math.pi)
        outside = 32 + 30 * np.array([math.cos(side), math.sin(side)])
        _leaf(canvas, outside, rng.uniform(14, 26), _vary_color(_LEAF, rng, 0.1), rng)
    return _camera(canvas, conditions, rng)


def _vary_color(rgb: tuple[float, float, float], rng: np.random.Generator, spread: float) -> Floats:
    """Draw the color (3, 1, 1) of one plant: a little off the named one, as no two are the same."""
    shift = rng.standard_normal(4, dtype=np.float32) * spread
    color: Floats = np.asarray(rgb, np.float32) * (1 + shift[3]) + shift[:3]
    return color.clip(0.02, 1.0)[:, None, None]


def _background(rng: np.random.Generator) -> Floats:
    dark, bright = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]
    mix = _COARSE @ rng.random((6, 6), dtype=np.float32) @ _COARSE.T
    mix += 0.25 * (rng.random() - 0.5) * (_ROWS / SIZE - 0.5)
    first, last = _vary_color(dark, rng, 0.05), _vary_color(bright, rng, 0.05)
    canvas: Floats = first + (1.6 * mix - 0.3).clip(0, 1) * (last - first)
    for _ in range(rng.integers(0, 4)):  # out-of-focus discs of light or of other flowers
        x, y = rng.uniform(0, SIZE, 2).tolist()
        radius = rng.uniform(3, 8)
        disc = np.clip((radius - np.hypot(_COLUMNS - x, _ROWS - y)) / 2.5 + 0.5, 0, 1)
        color = last
        if rng.random() >= 0.6:
            color = _vary_color(list(PETAL_RGB.values())[rng.integers(len(PETAL_RGB))], rng, 0.1)
        paint(canvas, color, disc * rng.uniform(0.2, 0.5))
    return canvas


def _plant_colors(attributes: Attributes, spread: float, rng: np.random.Generator) -> Colors:
    second = attributes.second_color or attributes.color
    return (
        _vary_color(PETAL_RGB[attributes.color], rng, spread),
        _vary_color(PETAL_RGB[second], rng, spread),
        _vary_color(CENTER_RGB[attributes.center_color], rng, spread),
    )


def _poses(growth: str, near: float, rng: np.random.Generator) -> list[Pose]:
    """Draw the poses of one plant's flowers, those behind first."""
    axis, turn = rng.uniform(0, 2 * math.pi, 2).tolist()
    tilt = rng.uniform(0.62, 1.0)
    x, y = rng.uniform(24.5, 38.5, 2).tolist()

    def pose(x: float, y: float, radius: float) -> Pose:
        own_turn = turn + rng.uniform(0, 2 * math.pi)
        own_tilt = min(tilt * rng.uniform(0.88, 1.12), 1.0)
        return Pose(x, y, radius, own_turn, own_tilt, axis + rng.uniform(-0.25, 0.25))

    if growth == "alone":
        return [pose(x, y, near * rng.uniform(14, 27))]
    if growth == "pair":
        radius, lean = near * rng.uniform(11, 17), rng.uniform(-0.6, 0.6)
        gap = radius * rng.uniform(0.8, 1.0)
        dx, dy = gap * math.cos(lean), gap * math.sin(lean)
        sizes = [radius * rng.uniform(0.8, 1.1) for _ in range(2)]
        return [pose(x - dx, y - dy, sizes[0]), pose(x + dx, y + dy, sizes[1])]
    if growth == "cluster":
        radius = near * rng.uniform(8, 12.5)
        start = rng.uniform(0, 2 * math.pi)
        count = int(rng.integers(4, 7))
        around = [start + 2 * math.pi * k / count + rng.normal(0, 0.15) for k in range(count)]
        out = radius * rng.uniform(1.1, 1.5)
        ring = [pose(x + out * math.cos(a), y + out * math.sin(a), radius) for a in around]
        return [*ring, pose(x, y, radius * 1.08)]
    count = int(rng.integers(5, 8))
    radius, lean = near * rng.uniform(6.5, 9.5), rng.uniform(-0.25, 0.25)
    poses = []
    for k in range(count):
        up = (k - (count - 1) / 2) / count
        swing = (-1) ** k * radius * 0.55
        size = radius * (1.15 - 0.5 * (up + 0.5))
        poses.append(pose(x + swing + 50 * lean * up, y - 56 * up, size))
    return poses


def _stems(
    canvas: Floats, growth: str, poses: list[Pose], green: Floats, rng: np.random.Generator
) -> None:
    """Draw thin lines from each flower down to the foot of the plant."""
    foot = 31.5 + rng.uniform(-10, 10)
    cover = np.zeros((SIZE, SIZE), np.float32)
    for pose in poses[:1] if growth == "spike" else poses:
        start = max(int(pose.y), 0)
        rows, columns = _ROWS[start:], _COLUMNS[start:]
        drop = ((rows - pose.y) / max(SIZE - pose.y, 8.0)).clip(0, 1)
        middle = pose.x + (foot - pose.x) * drop * np.sqrt(drop)
        np.maximum(cover[start:], (1.7 - np.abs(columns - middle)).clip(0, 1), out=cover[start:])
    if growth == "spike":
        low, high = poses[0], poses[-1]
        share = ((low.y - _ROWS) / (low.y - high.y)).clip(0, 1)
        stalk = (1.9 - np.abs(_COLUMNS - (low.x + (high.x - low.x) * share))).clip(0, 1)
        np.maximum(cover, stalk * ((low.y > _ROWS) & (high.y - 5 < _ROWS)), out=cover)
    paint(canvas, green * np.float32(0.85), cover)


def _leaf(
    canvas: Floats,
    position: npt.NDArray[np.float64],
    length: float,
    green: Floats,
    rng: np.random.Generator,
) -> None:
    """Draw a lens-shaped leaf with a bright vein, `length` pixels from its middle to its tip."""
    turn = rng.uniform(0, math.pi)
    cos, sin = math.cos(turn) / length, math.sin(turn) / length
    dx, dy = _COLUMNS - np.float32(position[0]), _ROWS - np.float32(position[1])
    along, side = cos * dx + sin * dy, cos * dy - sin * dx
    broad = rng.uniform(0.16, 0.34)
    distance = broad * (1 - along * along) - np.abs(side)
    cover = np.clip(distance * np.float32(length) + 0.5, 0, 1)
    shade = 0.85 + 0.25 * along + 0.8 * side + 0.35 * np.clip(1 - np.abs(side) * length, 0, 1)
    paint(canvas, shade * green, cover)


def _stranger(canvas: Floats, light: float, rng: np.random.Generator) -> None:
    """Draw another plant's flower, mostly outside the picture."""
    other = sample_attributes(rng, frozenset())
    side = rng.uniform(0, 2 * math.pi)
    radius = rng.uniform(8, 15)
    x, y = 31.5 + (34 + 0.4 * radius) * math.cos(side), 31.5 + (34 + 0.4 * radius) * math.sin(side)
    colors = _plant_colors(other, 0.055, rng)
    pose = Pose(x, y, radius, rng.uniform(0, 6), rng.uniform(0.6, 1), rng.uniform(0, 6))
    draw_flower(canvas, other, colors, pose, light, rng)


def _camera(
    canvas: Floats, conditions: Conditions, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Add uneven light, a tint, blur and noise, then convert to 8 bits."""
    direction = rng.uniform(0, 2 * math.pi)
    slope = rng.uniform(0, 0.35) / SIZE
    ramp = math.cos(direction) * (_COLUMNS - 32) + math.sin(direction) * (_ROWS - 32)
    tint = rng.uniform(*conditions.brightness) * (1 + rng.normal(0, 0.04, 3))
    tint = (tint * conditions.cast).astype(np.float32)
    lit = canvas * (1 + np.float32(slope) * ramp)
    lit *= tint[:, None, None]
    blur = _BLURS[rng.integers(*conditions.blur)]
    lit = (blur @ lit) @ blur.T
    noise = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32).transpose(2, 0, 1)
    lit += noise * np.float32(rng.uniform(*conditions.noise))
    return np.ascontiguousarray((lit.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
