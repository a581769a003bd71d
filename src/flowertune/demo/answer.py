"""Predict and explain an image: top classes, patch relevance, nearest training images."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.data.image import UnreadableImageError
from flowertune.errors import printable
from flowertune.inference import run_images
from flowertune.inference.logits import top_classes
from flowertune.inference.predictor import BATCH_SIZE, Predictor, UnreadableImage
from flowertune.models.attribution import patch_attribution
from flowertune.models.vision_tower import pools_class_token

TOP_K = 5
N_NEIGHBORS = 5
EPSILON = 1e-12


class Neighbor(NamedTuple):
    """Training image and its cosine similarity to the query."""

    path: Path
    label: str
    similarity: float


@dataclass(frozen=True)
class Neighbors:
    """Training images with embeddings (N, E), float32, unit length, on the CPU.

    caption: text for the page, with the number of images or why there are none.
    """

    caption: str
    paths: Sequence[Path] = ()
    labels: Sequence[str] = ()
    embeddings: Tensor | None = None

    def nearest(self, embedding: Tensor, k: int) -> list[Neighbor]:
        """Find up to k nearest images of an embedding (E,), nearest first."""
        if self.embeddings is None:
            return []
        similarity = self.embeddings @ F.normalize(embedding.float(), dim=0)
        values, indices = similarity.topk(min(k, len(self.paths)))
        return [
            Neighbor(self.paths[index], self.labels[index], value)
            for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]


def load_neighbors(
    model: Predictor,
    limit: int,
    left_out: Callable[[str], None],
    progress: Callable[[str, int, int | None], None],
) -> Neighbors:
    """Embed at most `limit` of the run's training images, sampled with its seed.

    Missing or changed images are skipped and passed to `left_out`, one line each.

    Raises UsageError if the run's photos.csv is missing or damaged.
    """
    if not limit:
        return Neighbors("No training images (--photos 0)")
    root = run_images.run_image_root(model.config.data)
    images = model.run.images["train"]
    if not root.is_dir():
        return Neighbors(f"The training images are no longer in {printable(root)}")
    generator = seeding.generator(model.config.seed, "demo photos")
    order = torch.randperm(len(images), generator=generator)[:limit]
    chosen = [images[index] for index in order.sort().values.tolist()]
    readable, embeddings, n_done = [], [], 0
    with closing(run_images.read_unchanged(chosen, root, model.preprocessing)) as decoded:
        pairs = zip(chosen, decoded, strict=True)
        while batch := list(islice(pairs, BATCH_SIZE)):
            pixels = []
            for image, item in batch:
                if isinstance(item, UnreadableImageError):
                    left_out(f"{printable(image.path)}: {item}")
                else:
                    readable.append(image)
                    pixels.append(item)
            if pixels:
                embeddings.append(F.normalize(model.outputs(np.stack(pixels)).embedding, dim=1))
            n_done += len(batch)
            progress("reading training images", n_done, len(chosen))
    if not readable:
        return Neighbors("All training images are missing or changed")
    total = "" if len(readable) == len(images) else f" of the {len(images):,}"
    return Neighbors(
        f"Nearest of {len(readable):,}{total} training images, by cosine similarity of embeddings",
        [root / image.path for image in readable],
        [image.label for image in readable],
        torch.cat(embeddings),
    )


@dataclass(frozen=True)
class Explanation:
    """Prediction for an image: pixels (3, H, W) uint8, and classes, most likely first.

    relevance (rows, columns): how much each patch raises the logit of the first class, scaled to
    0 to 1; None if the backbone does not pool the class token.
    """

    pixels: NDArray[np.uint8]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    relevance: NDArray[np.float32] | None
    nearest: Sequence[Neighbor]


def explain(model: Predictor, neighbors: Neighbors, path: Path) -> Explanation | UnreadableImage:
    """Predict and explain one image file."""
    try:
        pixels = model.load_pixels(path)
    except UnreadableImageError as error:
        return UnreadableImage(path, str(error))
    outputs = model.outputs(pixels[None])
    top, probabilities = top_classes(outputs.logits, TOP_K)
    relevance = None
    if pools_class_token(model.classifier.visual):
        images = model.images(pixels[None])
        (scores,) = patch_attribution(model.classifier, images, top[:, 0].to(images.device))
        scores -= scores.min()
        # all zero if all patches are equal, as with a constant head
        relevance = (scores / scores.max().clamp_min(EPSILON)).cpu().numpy()
    return Explanation(
        pixels=pixels,
        classes=tuple(model.class_names[index] for index in top[0].tolist()),
        probabilities=tuple(probabilities[0].tolist()),
        relevance=relevance,
        nearest=neighbors.nearest(outputs.embedding[0], N_NEIGHBORS),
    )
