"""Draw one flower with NumPy alone onto a float32 canvas (3, H, W) of values in [0, 1].

Every edge comes from a distance in pixels, so that it is anti-aliased without supersampling. The
petals are one petal folded around the center (the angle modulo a sector), which makes the cost of
twelve petals that of one. Colors are the first axis: NumPy is several times slower at a last axis
of three.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from flowertune.data.sources.synthetic.species import Attributes

Floats = npt.NDArray[np.float32]
Colors = tuple[Floats, Floats, Floats]  # (3, 1, 1) of petals, of their pattern and of the center

_STEPS = 256  # resolution of a petal's outline along its length
_REACH = 1.25  # the outline tables end this far out, in petal lengths


@dataclass(frozen=True)
class Pose:
    """Position and direction of a flower: pixels and radians.

    `tilt` squeezes it across the direction `axis`; 1 is seen from straight in front.
    """

    x: float
    y: float
    radius: float
    turn: float
    tilt: float
    axis: float


def _half_width(shape: str, along: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half the width of a petal, relative to its widest, at each distance from the center."""
    inside = np.clip(along, 0.0, 1.0)
    if shape == "oval":
        width = 0.72 * np.sqrt(4 * inside * (1 - inside))
    elif shape == "pointed":
        rise = np.sin(np.minimum(inside / 0.42, 1) * math.pi / 2)
        width = 0.78 * rise * (1 - (np.maximum(inside - 0.42, 0) / 0.58) ** 1.25)
    elif shape == "narrow":
        tip = np.sqrt(np.clip(1 - (np.maximum(inside - 0.82, 0) / 0.18) ** 2, 0, 1))
        width = 0.5 * np.minimum(0.45 + inside, 1) * tip
    else:  # round, notched and frilled are blunt; they differ at the tip
        widest = 0.68 if shape == "notched" else 0.6
        tip = np.clip(1 - (np.maximum(inside - widest, 0) / (1 - widest)) ** 2, 0, 1)
        width = np.sin(np.minimum(inside / widest, 1) * math.pi / 2) ** 0.8 * np.sqrt(tip)
    # Beyond the tip the "width" falls below zero, so that distances go on growing.
    return np.where(along > 1, 1 - along, width)


@cache
def _outline(shape: str, petals: int) -> tuple[Floats, Floats]:
    """Tables of half the width, and of what turns a sideways gap into a distance (1 / slope)."""
    along = np.linspace(0.0, _REACH, _STEPS)
    widest = min(0.5, 0.66 * math.tan(math.pi / petals))
    width = widest * _half_width(shape, along)
    slope = np.gradient(width, along)
    # The slope at the very tip is infinite for blunt petals; beyond 6 the edge is sharp anyway.
    gentle = np.clip(slope, -6, 6)
    return width.astype(np.float32), (1 / np.sqrt(1 + gentle**2)).astype(np.float32)


def paint(area: Floats, rgb: Floats, cover: Floats) -> None:
    """Cover `area` (3, h, w) in place with a color, as far as `cover` (h, w) says."""
    difference = rgb - area
    difference *= cover
    area += difference


def draw_flower(
    canvas: Floats,
    attributes: Attributes,
    colors: Colors,
    pose: Pose,
    light: float,
    rng: np.random.Generator,
) -> None:
    """Paint one flower over `canvas` in place; the light comes from the direction `light`."""
    height, width = canvas.shape[1:]
    reach = pose.radius * 1.2 + 1
    left, right = max(int(pose.x - reach), 0), min(int(pose.x + reach) + 2, width)
    top, bottom = max(int(pose.y - reach), 0), min(int(pose.y + reach) + 2, height)
    area = canvas[:, top:bottom, left:right]
    dx = (np.arange(left, right, dtype=np.float32) - np.float32(pose.x)) / np.float32(pose.radius)
    dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(pose.y)) / np.float32(pose.radius)
    dy = dy[:, None]
    cos, sin = math.cos(pose.axis), math.sin(pose.axis)
    u = cos * dx + sin * dy
    v = (cos * dy - sin * dx) * np.float32(1 / pose.tilt)
    radius = np.sqrt(u * u + v * v)
    angle = np.arctan2(v, u) + np.float32(pose.turn + 2 * math.pi)

    # A soft shadow on what lies behind lifts the flower off the background.
    area *= 1 - 0.3 * (1.6 - 1.3 * radius).clip(0, 1)
    pixel = np.float32(pose.radius * (0.5 + 0.5 * pose.tilt))
    petals = _petals(attributes, colors, radius, angle, pixel, light, rng)
    for rgb, cover in (petals, *_center(attributes, colors, u, v, radius, angle, pixel)):
        paint(area, rgb, cover)


def _petals(
    attributes: Attributes,
    colors: Colors,
    radius: Floats,
    angle: Floats,
    pixel: np.float32,
    light: float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Color (3, h, w) and coverage (h, w) of all petals."""
    count = attributes.petals
    sector = np.float32(2 * math.pi / count)
    turns = angle / sector
    whole = turns.astype(np.int32)
    which = whole % count
    spread = np.float32(0.05)
    length, turn, bright = rng.standard_normal((3, count), dtype=np.float32).clip(-2, 2) * spread
    fold = (turns - whole - np.float32(0.5)) * sector + (turn * sector).take(which)
    reach = radius * (1 + length).take(which)
    if attributes.shape == "frilled":
        reach = reach * (1 + 0.09 * np.sin(fold * np.float32(7 * count / 2)))
    along = reach * np.cos(fold)
    side = np.abs(reach * np.sin(fold))
    widths, slopes = _outline(attributes.shape, count)
    index = (along * np.float32((_STEPS - 1) / _REACH)).astype(np.int32).clip(0, _STEPS - 1)
    half = widths.take(index)
    distance = (half - side) * slopes.take(index)
    if attributes.shape == "notched":
        distance = np.minimum(distance, 0.8 * (side - 0.62 * (along - 0.72)))
    cover = np.clip(distance * pixel + 0.5, 0, 1)

    across = np.minimum(side / np.maximum(half, 0.02), 1)
    shade = (0.78 + 0.25 * along - 0.2 * across * across) * (1 + bright).take(which)
    shade += 0.1 * np.cos(angle - np.float32(light + attributes.petals))
    rgb = shade * colors[0]
    if attributes.pattern != "plain":
        mask = _pattern(attributes.pattern, along, side, across, distance, pixel)
        paint(rgb, shade * colors[1], mask)
    return rgb, cover


def _pattern(
    pattern: str, along: Floats, side: Floats, across: Floats, distance: Floats, pixel: np.float32
) -> Floats:
    """Share of the second color (h, w)."""
    mask: Floats
    if pattern == "rimmed":
        mask = (0.085 - distance) * pixel + 0.5
    elif pattern == "throat":
        mask = (0.44 - along) * pixel * 0.6 + 0.5
    elif pattern == "striped":
        waves = np.cos(across * np.float32(2.2 * math.pi))
        mask = (2.2 * waves - 0.2) * (along < 0.88)
    else:
        rows = np.cos(along * np.float32(2 * math.pi * 4.2))
        columns = np.cos(side * np.float32(2 * math.pi * 4))
        mask = (3.5 * (rows * columns) - 0.8) * (along < 0.9)
    return mask.clip(0, 1)


def _center(
    attributes: Attributes,
    colors: Colors,
    u: Floats,
    v: Floats,
    radius: Floats,
    angle: Floats,
    pixel: np.float32,
) -> list[tuple[Floats, Floats]]:
    """Layers of color and coverage, lowest first."""
    size = 0.3 if attributes.center_size == "large" else 0.18
    color = colors[2]
    if attributes.center == "disc":
        dome = 1.1 - 0.45 * (radius / size) ** 2 - 0.6 * (u + v)
        dome += 0.12 * np.sin(u * np.float32(42)) * np.sin(v * np.float32(42))
        cover = np.clip((size - radius) * pixel + 0.5, 0, 1)
        return [(np.clip(dome, 0.3, 1.3) * color, cover)]
    if attributes.center == "ring":
        cover = np.clip((0.06 - np.abs(radius - size)) * pixel + 0.5, 0, 1)
        hollow = np.clip((size - radius) * pixel + 0.5, 0, 1) * 0.55
        return [(np.float32(0.35) * colors[0], hollow), (color, cover)]
    anthers = 7
    sector = 2 * math.pi / anthers
    fold = (angle / np.float32(sector)) % 1 * np.float32(sector) - np.float32(sector / 2)
    along, side = radius * np.cos(fold), np.abs(radius * np.sin(fold))
    out = size * 1.25
    threads = np.clip((0.02 - side) * pixel + 0.5, 0, 1) * (along < out)
    tips = np.clip((0.075 - np.hypot(along - out, side)) * pixel + 0.5, 0, 1)
    return [(np.float32(0.6) * color + np.float32(0.3), threads * 0.7), (color, tips)]
