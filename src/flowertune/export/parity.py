"""Whether an exported model does what the run's does: on the same photos, logit by logit."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.data.image import Preprocessing, UnreadableImageError
from flowertune.data.transforms.augment import normalize
from flowertune.errors import ExportError, UsageError
from flowertune.export.exportable import Exportable
from flowertune.inference import run_images
from flowertune.runs.directory import RunImage, damaged_message

PHOTOS = 200  # at most
DRAWN = 64
PATCHES = 8  # a side: a drawn picture is so many colors, blended
BATCH = 32
LARGEST = 1e-4  # difference of probabilities


@dataclass(frozen=True)
class Sample:
    """Normalised images (N, 3, H, W) float32, and what they are in words: "200 val photos"."""

    images: Tensor
    what: str


@dataclass(frozen=True)
class Parity:
    """The largest differences of logits and of probabilities on a sample; predictions are equal."""

    what: str
    logits: float
    probabilities: float

    def describe(self) -> str:
        """One line."""
        return (
            f"largest difference of logits {self.logits:.1e}, of probabilities "
            f"{self.probabilities:.1e}, predictions equal on {self.what}"
        )


def sample(model: Exportable) -> Sample:
    """Photos of the run, of val if it has some, as far as they are where they were and the same.

    Where none is, pictures that are drawn by seed.
    """
    split, pixels = _photos(model)
    what = f"{len(pixels)} {split} photos"
    if not pixels:
        pixels = _drawn(model.preprocessing)
        what = f"{DRAWN} drawn pictures, as the run's photos are not where they were"
    images = torch.from_numpy(np.stack(pixels))
    return Sample(normalize(images, model.preprocessing.mean, model.preprocessing.std), what)


def compare(model: Exportable, exported: Callable[[Tensor], Tensor], on: Sample) -> Parity:
    """The exported model beside the run's on the same images.

    One image alone, and then batches: a graph may have been made for one size of them.

    Raises:
        ExportError: their predictions differ, or their probabilities do by more than 1e-4.
    """
    batches = [on.images[:1], *on.images[1:].split(BATCH)]
    with torch.inference_mode():
        theirs = torch.cat([exported(batch) for batch in batches if len(batch)])
        ours = torch.cat([model.classifier(batch)[1] for batch in batches if len(batch)])
    logits = (ours - theirs).abs().max().item()
    probabilities = (F.softmax(ours, 1) - F.softmax(theirs, 1)).abs().max().item()
    different = int((ours.argmax(1) != theirs.argmax(1)).sum())
    if different or not probabilities <= LARGEST:  # "not" for what is no number
        raise ExportError(
            f"the exported model is not the run's: {different} predictions differ on {on.what} "
            f"(largest difference of logits {logits:.1e}, of probabilities {probabilities:.1e}); "
            "nothing was written"
        )
    return Parity(on.what, logits, probabilities)


def _photos(model: Exportable) -> tuple[str, list[NDArray[np.uint8]]]:
    """A split, and evaluation pixels (3, H, W) of photos from all over it."""
    rows: dict[str, list[RunImage]] = {}
    for photo in model.run.photos():
        rows.setdefault(photo.split, []).append(photo)
    if "train" not in rows:
        raise UsageError(damaged_message(model.run.path, "photos.csv"))
    split = next(name for name in ("val", "test", "train") if name in rows)
    of_split = rows[split]
    count = min(PHOTOS, len(of_split))
    chosen = [of_split[number * len(of_split) // count] for number in range(count)]
    root = run_images.image_root_of(model.config.data)
    with closing(run_images.read_unchanged(chosen, root, model.preprocessing)) as found:
        return split, [pixels for pixels in found if not isinstance(pixels, UnreadableImageError)]


def _drawn(preprocessing: Preprocessing) -> list[NDArray[np.uint8]]:
    """Pictures (3, H, W) of blended colors, the same ones each time."""
    generator = seeding.generator(0, "parity")
    colors = torch.rand(DRAWN, 3, PATCHES, PATCHES, generator=generator)
    blended = F.interpolate(colors, preprocessing.size, mode="bilinear") * 255
    return list(blended.byte().numpy())
