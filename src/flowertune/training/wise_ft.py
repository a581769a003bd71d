"""Interpolate between pretrained and trained weights (WiSE-FT), with the scale chosen on val."""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from flowertune.models.adapters.protocol import Adapter
from flowertune.models.classifier import Classifier

State = dict[str, Tensor]


def interpolate(
    adapter: Adapter, initial: Mapping[str, Tensor], trained: Mapping[str, Tensor], scale: float
) -> State:
    """Interpolate the adapter linearly from `initial` (scale 0) to `trained` (scale 1).

    The head, and tensors that the adapter does not scale, stay as trained.
    Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903.
    """

    def is_interpolated(name: str) -> bool:
        is_head = name.startswith("head.")
        return not is_head and adapter.is_scaled(name) and trained[name].is_floating_point()

    return {
        name: initial[name].lerp(tensor, scale) if is_interpolated(name) else tensor
        for name, tensor in trained.items()
    }


def choose_scale(
    classifier: Classifier,
    initial: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    scales: Sequence[float],
    score: Callable[[], float],
) -> tuple[float, State]:
    """Return the scale, of `scales` and 1, with the highest score on val, and its state.

    `score()` measures the classifier. Of equal scores, the scale nearest to 1 is chosen. The
    classifier is left with the state that was measured last.
    """
    best_scale, best_state, best_score = 1.0, dict(trained), -math.inf
    for scale in sorted({*scales, 1.0}, key=lambda scale: abs(scale - 1)):
        candidate = interpolate(classifier.adapter, initial, trained, scale)
        classifier.load_trainable_state(candidate)
        candidate_score = score()
        if candidate_score > best_score:
            best_scale, best_state, best_score = scale, candidate, candidate_score
    return best_scale, best_state
