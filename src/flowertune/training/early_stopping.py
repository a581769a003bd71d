"""Which epoch was best, and when there is no point in going on."""

from dataclasses import dataclass

from flowertune.metrics import SplitMetrics


@dataclass
class BestEpoch:
    """Follows one validation metric over the epochs.

    `monitor` is "top1", "mean_per_class" (higher is better) or "loss" (lower is better). A change
    below `min_delta` is no improvement; of equal epochs the earlier counts. After `patience`
    epochs without improvement `should_stop` is true; `patience` None never stops.
    """

    monitor: str
    patience: int | None
    min_delta: float
    epoch: int = 0
    value: float | None = None
    waited: int = 0

    def update(self, epoch: int, metrics: SplitMetrics) -> bool:
        """Takes in an epoch's metrics; true where it is the best so far."""
        value = float(getattr(metrics, self.monitor))
        score = -value if self.monitor == "loss" else value
        best = None if self.value is None else -self.value if self.monitor == "loss" else self.value
        if best is None or score > best + self.min_delta:
            self.epoch, self.value, self.waited = epoch, value, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience
