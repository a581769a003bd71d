"""What the page says of a photo: its likeliest classes, where the model looked, what it is like."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flowertune.data.image import NotAPhoto
from flowertune.demo.neighbors import Neighbour, Neighbours
from flowertune.inference.logits import ranked
from flowertune.inference.predictor import NoPicture, Trained
from flowertune.models.attribution import patch_relevance, shows_relevance

TOP_K = 5
NEAREST = 5
TINY = 1e-12  # no difference between patches


@dataclass(frozen=True)
class Answer:
    """pixels (3, H, W) uint8: what the model was shown. classes, probabilities: likeliest first.

    relevance (rows, columns): how much each patch has to do with the first class's logit, from 0 to
    1 in each photo; None where the backbone's tower does not tell.
    """

    pixels: NDArray[np.uint8]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    relevance: NDArray[np.float32] | None
    nearest: tuple[Neighbour, ...]


def answer(model: Trained, neighbours: Neighbours, photo: Path) -> Answer | NoPicture:
    """All of it for one photo, whatever the file is."""
    try:
        pixels = model.pixels(photo)
    except NotAPhoto as reason:
        return NoPicture(photo, str(reason))
    outputs = model.outputs(pixels[None])
    top, probabilities = ranked(outputs.logits, TOP_K)
    return Answer(
        pixels=pixels,
        classes=tuple(model.class_names[place] for place in top[0].tolist()),
        probabilities=tuple(probabilities[0].tolist()),
        relevance=_relevance(model, pixels, int(top[0, 0])),
        nearest=tuple(neighbours.nearest(outputs.embedding[0], NEAREST)),
    )


def _relevance(model: Trained, pixels: NDArray[np.uint8], label: int) -> NDArray[np.float32] | None:
    classifier, device = model.classifier, model.compute.device
    if not shows_relevance(classifier.visual):
        return None
    classes = torch.tensor([label], device=device)
    (relevance,) = patch_relevance(classifier, model.images(pixels[None]), classes)
    relevance -= relevance.min()
    # where all are alike, none is shown: a head may look at nothing
    shares: NDArray[np.float32] = (relevance / relevance.max().clamp_min(TINY)).cpu().numpy()
    return shares
