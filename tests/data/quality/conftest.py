"""Images with the properties of photos that matter for duplicate detection."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 160, 120


def _photo(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    total = np.zeros((HEIGHT, WIDTH, 3))
    for side in (2, 4, 8, 16, 32):
        cells = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(cells).resize((WIDTH, HEIGHT))) / 5
    return Image.fromarray(total.astype(np.uint8))


@pytest.fixture(scope="session")
def photo() -> Callable[[int], Image.Image]:
    """`photo(seed)`: 160 x 120, with colors and edges at every scale, different for each seed."""
    return _photo
