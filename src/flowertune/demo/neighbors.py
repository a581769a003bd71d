"""Find the training images nearest to an image by embedding."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.data.image import UnreadableImageError
from flowertune.errors import printable
from flowertune.inference import run_images
from flowertune.inference.predictor import BATCH_SIZE, Predictor


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

    paths: Sequence[Path]
    labels: Sequence[str]
    embeddings: Tensor
    caption: str

    def nearest(self, embedding: Tensor, k: int) -> list[Neighbor]:
        """Find the k nearest to an embedding (E,), nearest first; fewer if there are fewer."""
        if not self.paths:
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
        return _without_neighbors("No training photos were asked for")
    root = run_images.run_image_root(model.config.data)
    images = model.run.images["train"]
    order = torch.randperm(
        len(images), generator=seeding.generator(model.config.seed, "demo photos")
    )
    chosen = [images[index] for index in order[:limit].sort().values.tolist()]
    if not root.is_dir():
        return _without_neighbors(f"The training photos are not in {printable(root)} any more")
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
        return _without_neighbors("None of the training photos can be read any more")
    total = "" if len(readable) == len(images) else f" of the {len(images):,}"
    return Neighbors(
        tuple(root / image.path for image in readable),
        tuple(image.label for image in readable),
        torch.cat(embeddings),
        f"The nearest of {len(readable):,}{total} training photos, by the cosine of the embeddings",
    )


def _without_neighbors(caption: str) -> Neighbors:
    return Neighbors((), (), torch.zeros(0, 0), caption)
