"""Track the best epoch, and stop when validation no longer improves."""

from dataclasses import dataclass
from typing import Any

from flowertune.metrics import SplitMetrics

STATE = ("epoch", "value", "waited", "best", "milestone")


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
    best: float | None = None  # the score of `epoch`
    milestone: float | None = None  # the score of the last improvement that counted

    def update(self, epoch: int, metrics: SplitMetrics) -> bool:
        """Record an epoch's metrics; true where it is the best so far."""
        score = self.score(metrics)
        if self.milestone is None or score > self.milestone + self.min_delta:
            self.milestone, self.waited = score, 0
        else:
            self.waited += 1
        is_best = self.best is None or score > self.best
        if is_best:
            self.epoch, self.best = epoch, score
            self.value = float(getattr(metrics, self.monitor))
        return is_best

    def score(self, metrics: SplitMetrics) -> float:
        """Return the monitored metric, the higher the better."""
        value = float(getattr(metrics, self.monitor))
        return -value if self.monitor == "loss" else value

    def state(self) -> dict[str, Any]:
        """Return what changes from epoch to epoch, in JSON's values."""
        return {name: getattr(self, name) for name in STATE}

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience
