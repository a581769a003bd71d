"""Track the best epoch, and stop when validation no longer improves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowertune.metrics import SplitMetrics


@dataclass
class EarlyStopping:
    """Follow one validation metric over the epochs.

    `monitor` is "top1", "mean_per_class" (higher is better) or "loss" (lower is better). The best
    epoch is the best, whatever `min_delta`; of equal ones the earlier. After `patience` epochs
    without an improvement of more than `min_delta` over the last such one `should_stop` is true;
    `patience` None never stops.
    """

    monitor: str
    patience: int | None
    min_delta: float
    epoch: int = 0
    value: float | None = None
    waited: int = 0
    _best: float = -math.inf
    _milestone: float = -math.inf  # the score of the last improvement that counted

    def update(self, epoch: int, metrics: SplitMetrics) -> bool:
        """Record an epoch's metrics; true where it is the best so far."""
        score = self.score(metrics)
        if score > self._milestone + self.min_delta:
            self._milestone, self.waited = score, 0
        else:
            self.waited += 1
        is_best = score > self._best
        if is_best:
            self.epoch, self._best = epoch, score
            self.value = float(getattr(metrics, self.monitor))
        return is_best

    def score(self, metrics: SplitMetrics) -> float:
        """Return the monitored metric, the higher the better."""
        value = float(getattr(metrics, self.monitor))
        return -value if self.monitor == "loss" else value

    def state(self) -> dict[str, Any]:
        """Return the state, in JSON's values."""
        best, milestone = (
            score if math.isfinite(score) else None for score in (self._best, self._milestone)
        )
        return {
            "epoch": self.epoch,
            "value": self.value,
            "waited": self.waited,
            "best": best,
            "milestone": milestone,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state`."""
        self.epoch, self.value, self.waited = (state[key] for key in ("epoch", "value", "waited"))
        self._best, self._milestone = (
            -math.inf if state[key] is None else state[key] for key in ("best", "milestone")
        )

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience
