"""95% intervals of accuracies in [0, 1]: over seeds, of paired models, against published ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev
from typing import Any

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Estimate:
    """Accuracy over seeds. `std` (n - 1 in the denominator) is None for a single seed.

    The interval is Student's t of the mean, clipped to [0, 1]: the spread over seeds alone, as all
    seeds share the images and so the sampling error. For a single seed it is Wilson's interval,
    which only top-1 has, else None.
    """

    mean: float
    std: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """Difference of two accuracies with its interval, which may exceed 1."""

    value: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether the interval contains 0: chance alone can explain the difference."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of two models on the same images; `difference`: second minus first.

    `only_first`, `only_second`: numbers of images that only this model classifies correctly.
    """

    only_first: int
    only_second: int
    difference: Difference
    p: float


def estimate(metrics: Sequence[Mapping[str, Any]], name: str) -> Estimate:
    """Estimate the metric `name`; `metrics` has one mapping per seed."""
    values = [each[name] for each in metrics]
    if len(values) > 1:
        center, half = mean(values), t_half_width(values)
        return Estimate(center, stdev(values), (max(center - half, 0.0), min(center + half, 1.0)))
    low_high = metrics[0].get(f"{name}_interval")
    return Estimate(values[0], None, low_high and tuple(low_high))


def t_half_width(values: Sequence[float]) -> float:
    """Half-width of Student's t interval of the mean of two or more runs (3 runs: t = 4.30)."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    t = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return t * stdev(values) / math.sqrt(len(values))


def difference_from_published(values: Sequence[float], n: int, published: float) -> Difference:
    """Mean accuracy of our runs minus the published accuracy of one run on n images.

    The squared half-width is the sum of two squares: the t interval of our mean (for a single run,
    its sampling error) and the sampling error of the published number. The spread of the published
    number over seeds is unknown and not included.
    """
    center = mean(values)
    our_half = t_half_width(values) if len(values) > 1 else sampling_error(center, n)
    half = math.hypot(our_half, sampling_error(published, n))
    return Difference(center - published, center - published - half, center - published + half)


def sampling_error(accuracy: float, n: int) -> float:
    """Half-width of the normal interval of an accuracy on n images."""
    return _Z * math.sqrt(accuracy * (1 - accuracy) / n)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compare which images two models classify correctly, given in the same order.

    The p value is exact and two-sided: under the null hypothesis, an image that only one model
    classifies correctly is equally likely to be either's (McNemar 1947,
    https://doi.org/10.1007/BF02295996). The interval of the difference is Bonett and Price's (2012,
    https://doi.org/10.3102/1076998611411915).
    """
    from scipy.special import bdtr

    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, discordant = len(first), only_first + only_second
    p1, p2 = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = _Z * math.sqrt((p1 + p2 - (p2 - p1) ** 2) / (n + 2))
    return PairedTest(
        only_first,
        only_second,
        Difference((only_second - only_first) / n, p2 - p1 - half, p2 - p1 + half),
        min(2 * float(bdtr(min(only_first, only_second), discordant, 0.5)), 1.0),
    )
