"""Compute the metrics of a split."""

import math
from collections.abc import Container
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EVALUATED_SPLITS = ("val", "test")  # in the order shown
CALIBRATION_BINS = 15
_Z = NormalDist().inv_cdf(0.975)  # of 95% intervals


def reported_split(splits: Container[str]) -> str:
    """Split on which a run is reported and compared: test, or val if there is no test."""
    return "test" if "test" in splits else "val"


@dataclass(frozen=True)
class SplitMetrics:
    """Metrics of one split, as plain JSON values. Accuracies and `ece` are fractions in [0, 1].

    `loss` is the mean cross-entropy in nats. `mean_per_class` averages over the classes that have
    images here; `per_class` is None for the others. `top1_interval` is the 95% Wilson interval of
    `top1`: the sampling error of n images, without the spread over seeds.
    """

    n: int
    loss: float
    top1: float
    top1_interval: list[float]
    top5: float
    mean_per_class: float
    per_class: list[float | None]
    ece: float


def measure(logits: "Tensor", labels: "Tensor") -> SplitMetrics:
    """Compute all metrics from logits (N, C) and integer labels (N,), N at least 1.

    Computed on the CPU in float32, so equal logits give equal metrics on every device. `top5` is 1
    with five or fewer classes. `ece` is the expected calibration error in 15 bins of equal width
    (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """
    import torch  # takes seconds; tables of finished runs do not need it

    # takes a third of a second, which would delay the first training step
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = logits.detach().float().cpu(), labels.cpu().long()
    n, n_classes = logits.shape
    # Counted here: torchmetrics' macro accuracy scores a class 0 that was predicted but has no
    # image, its float32 fractions are too coarse for an exact interval, and its counts take
    # N x C^2 numbers if only deterministic algorithms are allowed.
    correct = logits.argmax(dim=1) == labels
    class_correct = torch.bincount(labels[correct], minlength=n_classes).tolist()
    class_sizes = torch.bincount(labels, minlength=n_classes).tolist()
    per_class = [
        n_correct / size if size else None
        for n_correct, size in zip(class_correct, class_sizes, strict=True)
    ]
    n_correct = sum(class_correct)
    n_top5 = (logits.topk(min(5, n_classes), dim=1).indices == labels[:, None]).any(1).sum().item()
    # torchmetrics treats logits within [0, 1] as probabilities, so pass probabilities; and it puts
    # a confidence of exactly 1 into a sixteenth bin, so stay below 1.
    probabilities = logits.softmax(1).clamp(max=1 - torch.finfo(torch.float32).eps)
    return SplitMetrics(
        n=n,
        loss=torch.nn.functional.cross_entropy(logits, labels).item(),
        top1=n_correct / n,
        top1_interval=list(wilson_interval(n_correct, n)),
        top5=n_top5 / n,
        mean_per_class=fmean(accuracy for accuracy in per_class if accuracy is not None),
        per_class=per_class,
        ece=multiclass_calibration_error(
            probabilities, labels, n_classes, n_bins=CALIBRATION_BINS, norm="l1"
        ).item(),
    )


def wilson_interval(n_correct: int, n: int) -> tuple[float, float]:
    """95% Wilson score interval of a proportion: `n_correct` out of `n` (n at least 1).

    E. B. Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    proportion = n_correct / n
    center = (proportion + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(proportion * (1 - proportion) / n + _Z**2 / (4 * n**2))
    # exactly 0 or 1 if no, or every, prediction is correct, despite rounding
    low = 0.0 if n_correct == 0 else center - half
    high = 1.0 if n_correct == n else center + half
    return low, high
