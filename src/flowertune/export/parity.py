"""Check that an exported model gives the run's logits on the same images."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.data.image import Preprocessing, UnreadableImageError
from flowertune.data.transforms.augment import normalize
from flowertune.errors import ExportError
from flowertune.inference import run_images
from flowertune.inference.predictor import Predictor
from flowertune.metrics import EVALUATED_SPLITS

MAX_IMAGES = 200
N_SYNTHETIC = 64
PATCHES = 8  # a side: a drawn picture is so many colors, blended
BATCH_SIZE = 32
MAX_DIFFERENCE = 1e-4  # difference of probabilities


class Sample(NamedTuple):
    """Normalized images (N, 3, H, W) float32 with a description: "200 val photos"."""

    images: Tensor
    description: str


@dataclass(frozen=True)
class Parity:
    """Largest differences of logits and probabilities on a sample with equal predictions."""

    sample: str
    logits: float
    probabilities: float

    def describe(self) -> str:
        """Describe the result on one line."""
        return (
            f"largest difference of logits {self.logits:.1e}, of probabilities "
            f"{self.probabilities:.1e}, predictions equal on {self.sample}"
        )


def draw_sample(model: Predictor) -> Sample:
    """Sample unchanged images of the run, from val if possible; if there are none, drawn ones."""
    split, pixels = _run_pixels(model)
    description = f"{len(pixels)} {split} photos"
    if not pixels:
        pixels = _draw_pictures(model.preprocessing)
        description = f"{N_SYNTHETIC} drawn pictures, as the run's photos are not where they were"
    images = torch.from_numpy(np.stack(pixels))
    return Sample(normalize(images, model.preprocessing.mean, model.preprocessing.std), description)


def compare(model: Predictor, exported: Callable[[Tensor], Tensor], sample: Sample) -> Parity:
    """Compare the exported model with the run's on the same images.

    One image alone, and then batches: a graph may have been made for one size of them.

    Raises:
        ExportError: their predictions differ, or their probabilities do by more than 1e-4.
    """
    batches = [sample.images[:1], *sample.images[1:].split(BATCH_SIZE)]
    with torch.inference_mode():
        exported_logits = torch.cat([exported(batch) for batch in batches if len(batch)])
        run_logits = torch.cat([model.classifier(batch)[1] for batch in batches if len(batch)])
    logits = (run_logits - exported_logits).abs().max().item()
    probabilities = (F.softmax(run_logits, 1) - F.softmax(exported_logits, 1)).abs().max().item()
    n_different = int((run_logits.argmax(1) != exported_logits.argmax(1)).sum())
    if n_different or not probabilities <= MAX_DIFFERENCE:  # "not" for what is no number
        raise ExportError(
            f"the exported model is not the run's: {n_different} predictions differ on "
            f"{sample.description} (largest difference of logits {logits:.1e}, of probabilities "
            f"{probabilities:.1e}); nothing was written"
        )
    return Parity(sample.description, logits, probabilities)


def _run_pixels(model: Predictor) -> tuple[str, list[NDArray[np.uint8]]]:
    """Choose a split and read pixels (3, H, W) of images spread over it."""
    split = next(name for name in (*EVALUATED_SPLITS, "train") if name in model.run.images)
    images = model.run.images[split]
    n = min(MAX_IMAGES, len(images))
    chosen = [images[index * len(images) // n] for index in range(n)]
    root = run_images.run_image_root(model.config.data)
    with closing(run_images.read_unchanged(chosen, root, model.preprocessing)) as decoded:
        return split, [pixels for pixels in decoded if not isinstance(pixels, UnreadableImageError)]


def _draw_pictures(preprocessing: Preprocessing) -> list[NDArray[np.uint8]]:
    """Draw pictures (3, H, W) of blended colors, the same ones each time."""
    generator = seeding.generator(0, "parity")
    colors = torch.rand(N_SYNTHETIC, 3, PATCHES, PATCHES, generator=generator)
    blended = F.interpolate(colors, preprocessing.size, mode="bilinear") * 255
    return list(blended.byte().numpy())
