"""Exponential moving average of the trained weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Average of parameters over steps: averaged = d * averaged + (1 - d) * weights.

    d = min(decay, (1 + t) / (10 + t)) in update t (from 0), like TensorFlow's
    ExponentialMovingAverage, so that the initial weights are soon forgotten. Buffers are not
    averaged. Polyak & Juditsky 1992.
    """

    def __init__(self, weights: Iterable[nn.Parameter], decay: float) -> None:
        self.weights = list(weights)
        self.averaged = [weight.detach().clone() for weight in self.weights]
        self.decay = decay
        self.updates = 0

    def update(self) -> None:
        """Add the current weights to the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(self.averaged, self.weights, self.updates)
        self.updates += 1

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Use the averaged weights in the body, then restore the model's own bit for bit."""
        original = [weight.detach().clone() for weight in self.weights]
        self._set(self.averaged)
        try:
            yield
        finally:
            self._set(original)

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)
