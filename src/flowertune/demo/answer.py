"""Predict and explain an image: likeliest classes, patch relevance, nearest neighbors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flowertune.data.image import UnreadableImageError
from flowertune.demo.neighbors import Neighbor, Neighbors
from flowertune.inference.logits import top_classes
from flowertune.inference.predictor import Predictor, UnreadableImage
from flowertune.models.attribution import patch_attribution
from flowertune.models.vision_tower import pools_class_token

TOP_K = 5
N_NEIGHBORS = 5
EPSILON = 1e-12  # no difference between patches


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
    nearest: tuple[Neighbor, ...]


def explain(model: Predictor, neighbors: Neighbors, path: Path) -> Explanation | UnreadableImage:
    """Predict and explain one image, whatever the file is."""
    try:
        pixels = model.load_pixels(path)
    except UnreadableImageError as error:
        return UnreadableImage(path, str(error))
    outputs = model.outputs(pixels[None])
    top, probabilities = top_classes(outputs.logits, TOP_K)
    return Explanation(
        pixels=pixels,
        classes=tuple(model.class_names[index] for index in top[0].tolist()),
        probabilities=tuple(probabilities[0].tolist()),
        relevance=_relevance(model, pixels, int(top[0, 0])),
        nearest=tuple(neighbors.nearest(outputs.embedding[0], N_NEIGHBORS)),
    )


def _relevance(
    model: Predictor, pixels: NDArray[np.uint8], label: int
) -> NDArray[np.float32] | None:
    classifier, device = model.classifier, model.compute.device
    if not pools_class_token(classifier.visual):
        return None
    classes = torch.tensor([label], device=device)
    (relevance,) = patch_attribution(classifier, model.images(pixels[None]), classes)
    relevance -= relevance.min()
    # where all are alike, none is shown: a head may look at nothing
    shares: NDArray[np.float32] = (relevance / relevance.max().clamp_min(EPSILON)).cpu().numpy()
    return shares
