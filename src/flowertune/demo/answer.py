"""Predict and explain an image: likeliest classes, patch relevance, nearest training images."""

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
EPSILON = 1e-12  # no difference between patches


class Neighbor(NamedTuple):
    """Training image and its cosine similarity to the query."""

    path: Path
    label: str
    similarity: float


@dataclass(frozen=True)
class Neighbors:
    """Training images with embeddings (N, E), float32 of unit length on the CPU.

    caption: how many of them there are, or why there are none, for a person to read.
    """

    caption: str
    paths: Sequence[Path] = ()
    labels: Sequence[str] = ()
    embeddings: Tensor | None = None

    def nearest(self, embedding: Tensor, k: int) -> list[Neighbor]:
        """Find the k nearest to an embedding (E,), nearest first; fewer if there are fewer."""
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
    """Embed at most `limit` of the run's training images, drawn by its seed.

    Read from where they lay for the training; nothing is written. Those that are gone or are other
    pictures now are left out, with a line for each.

    Raises UsageError where the run's photos.csv is missing or damaged.
    """
    if not limit:
        return Neighbors("No training photos were asked for")
    root = run_images.run_image_root(model.config.data)
    images = model.run.images["train"]
    if not root.is_dir():
        return Neighbors(f"The training photos are not in {printable(root)} any more")
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
            progress("reading training photos", n_done, len(chosen))
    if not readable:
        return Neighbors("None of the training photos can be read any more")
    total = "" if len(readable) == len(images) else f" of the {len(images):,}"
    return Neighbors(
        f"The nearest of {len(readable):,}{total} training photos, by the cosine of the embeddings",
        [root / image.path for image in readable],
        [image.label for image in readable],
        torch.cat(embeddings),
    )


@dataclass(frozen=True)
class Explanation:
    """Prediction of an image: pixels (3, H, W) uint8, and classes, likeliest first.

    relevance (rows, columns): how much each patch has to do with the first class's logit, from 0 to
    1 in each photo; None where the backbone's tower does not tell.
    """

    pixels: NDArray[np.uint8]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    relevance: NDArray[np.float32] | None
    nearest: Sequence[Neighbor]


def explain(model: Predictor, neighbors: Neighbors, path: Path) -> Explanation | UnreadableImage:
    """Predict and explain one image, whatever the file is."""
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
        # where all are alike, none is shown: a head may look at nothing
        relevance = (scores / scores.max().clamp_min(EPSILON)).cpu().numpy()
    return Explanation(
        pixels=pixels,
        classes=tuple(model.class_names[index] for index in top[0].tolist()),
        probabilities=tuple(probabilities[0].tolist()),
        relevance=relevance,
        nearest=neighbors.nearest(outputs.embedding[0], N_NEIGHBORS),
    )
