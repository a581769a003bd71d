"""The training photos that a photo is most like, as the model sees them."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowertune import seeding
from flowertune.data.image import UnreadableImageError
from flowertune.errors import printable
from flowertune.inference import run_images
from flowertune.inference.predictor import BATCH_SIZE, Predictor


@dataclass(frozen=True)
class Neighbor:
    """A training photo and the cosine of its embedding with that of the photo asked about."""

    path: Path
    label: str
    similarity: float


@dataclass(frozen=True)
class Neighbors:
    """Training photos with their embeddings (N, E), float32 of length 1 on the CPU.

    said: how many of them there are, or why there are none, for a person to read.
    """

    paths: Sequence[Path]
    labels: Sequence[str]
    embeddings: Tensor
    said: str

    def nearest(self, embedding: Tensor, k: int) -> list[Neighbor]:
        """The k most like an embedding (E,), the likest first; all, where there are fewer."""
        if not self.paths:
            return []
        similarity = self.embeddings @ F.normalize(embedding.float(), dim=0)
        values, places = similarity.topk(min(k, len(self.paths)))
        return [
            Neighbor(self.paths[place], self.labels[place], value)
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]


def load_neighbors(
    model: Predictor,
    most: int,
    left_out: Callable[[str], None],
    progress: Callable[[str, int, int | None], None],
) -> Neighbors:
    """At most so many of the run's training photos, drawn by its seed, embedded.

    Read from where they lay for the training; nothing is written. Those that are gone or are other
    pictures now are left out, with a line for each.

    Raises UsageError where the run's photos.csv is missing or damaged.
    """
    if not most:
        return _none("No training photos were asked for")
    root = run_images.image_root_of(model.config.data)
    photos = [photo for photo in model.run.photos() if photo.split == "train"]
    order = torch.randperm(
        len(photos), generator=seeding.generator(model.config.seed, "demo photos")
    )
    chosen = [photos[place] for place in order[:most].sort().values.tolist()]
    if not root.is_dir():
        return _none(f"The training photos are not in {printable(root)} any more")
    kept, embeddings, done = [], [], 0
    with closing(run_images.read_unchanged(chosen, root, model.preprocessing)) as found:
        while batch := list(islice(found, BATCH_SIZE)):
            pixels = []
            for photo, each in zip(chosen[done : done + len(batch)], batch, strict=True):
                if isinstance(each, UnreadableImageError):
                    left_out(f"{printable(photo.path)}: {each}")
                else:
                    kept.append(photo)
                    pixels.append(each)
            if pixels:
                embeddings.append(F.normalize(model.outputs(np.stack(pixels)).embedding, dim=1))
            done += len(batch)
            progress("reading training photos", done, len(chosen))
    if not kept:
        return _none("None of the training photos can be read any more")
    some = "" if len(kept) == len(photos) else f" of the {len(photos):,}"
    return Neighbors(
        tuple(root / photo.path for photo in kept),
        tuple(photo.label for photo in kept),
        torch.cat(embeddings),
        f"The nearest of {len(kept):,}{some} training photos, by the cosine of the embeddings",
    )


def _none(said: str) -> Neighbors:
    return Neighbors((), (), torch.zeros(0, 0), said)
