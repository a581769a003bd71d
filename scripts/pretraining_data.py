"""What only the pretraining of the built-in CLIP draws: pictures by day, and captions of them."""

import multiprocessing
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowertune.data.sources.synthetic.scene import SIZE, Conditions, draw_picture
from flowertune.data.sources.synthetic.species import (
    HELD_OUT,
    PARTS,
    Attributes,
    sample_attributes,
    sentence,
)

# Pretraining: plants in a garden, by day.
GARDEN = Conditions(
    size=1.0,
    spread=0.055,
    strangers=0.25,
    hidden=0.45,
    brightness=(0.72, 1.18),
    cast=(1.0, 1.0, 1.0),
    blur=(0, 16),
    noise=(0.005, 0.045),
)


_OPENINGS = ("", "", "a photo of ", "a picture of ", "a close view of ", "in the garden: ")


@dataclass(frozen=True)
class Caption:
    """A sentence, and the names of the attributes that it states."""

    text: str
    stated: frozenset[str]


def caption(attributes: Attributes, rng: np.random.Generator) -> Caption:
    """Sample a caption for pretraining: one in three states all, the rest leave parts out."""
    parts = list(PARTS)
    if rng.random() > 1 / 3:
        parts = [part for part in parts if rng.random() < 0.7] or ["color"]
    opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))]
    text = opening + sentence(attributes, frozenset(parts))
    return Caption(text, frozenset(field for part in parts for field in PARTS[part]))


def draw_one(seed_and_number: tuple[int, int]) -> tuple[np.ndarray, Attributes]:
    """Picture `number` of the pool: its pixels and what it shows."""
    rng = np.random.default_rng(seed_and_number)
    attributes = sample_attributes(rng, HELD_OUT)
    return draw_picture(attributes, GARDEN, rng), attributes


def draw_pool(seed: int, count: int, processes: int) -> tuple[Tensor, list[Attributes]]:
    """(count, 3, SIZE, SIZE) uint8 pixels, and the attributes of each picture."""
    pixels = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    attributes = []
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the processes started here: one core each
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        numbers = ((seed, number) for number in range(count))
        for number, (picture, shown) in enumerate(pool.imap(draw_one, numbers, chunksize=250)):
            pixels[number] = torch.from_numpy(picture).permute(2, 0, 1)
            attributes.append(shown)
    return pixels, attributes
