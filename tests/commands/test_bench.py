"""What is timed after what, and when a benchmark is none."""

from collections.abc import Callable

import pytest
import torch

from flowertune.benchmark import timing
from flowertune.benchmark.timing import Timing
from flowertune.commands import bench
from flowertune.config.schema import Config
from flowertune.errors import TrainingError
from flowertune.runtime.device import Compute

CPU = torch.device("cpu")


@pytest.mark.parametrize("streamed", [True, False])
def test_the_step_without_data_gives_a_reading_thread_no_time_that_nobody_counts(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "MIN_CALLS", 2)
    monkeypatch.setattr(timing, "MAX_CALLS", 2)
    calls: list[str] = []
    steps = [lambda: calls.append("bare"), lambda: calls.append("data")]
    both = bench._time_steps(steps, CPU, 8, streamed=streamed)
    each = timing.WARM_UP + 2
    assert calls == (["bare"] * each + ["data"] * each if streamed else ["bare", "data"] * each)
    assert [(len(one.seconds), one.images) for one in both] == [(2, 8), (2, 8)]


@pytest.mark.usefixtures("rehearsing")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_steps_that_are_not_finite_are_no_benchmark(
    asynchronous: bool,
    compose: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the host waits for each step, and where it only queues them, as a GPU's does."""
    monkeypatch.setattr(timing, "MIN_CALLS", 2)
    monkeypatch.setattr(timing, "MAX_CALLS", 2)
    monkeypatch.setattr(Compute, "asynchronous", asynchronous)
    monkeypatch.setattr(bench, "_time_start_up", lambda config: [Timing((1.0,), None)] * 2)
    config = compose(
        "experiment=quickstart", "backbone=tiny", "method=lora", "trainer.device=cpu",
        "trainer.batch_size=8", "data.train_per_class=1", "data.val_per_class=1",
        "data.test_per_class=1", "optimizer.lr=1e38", "optimizer.head_lr=1e38",
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"of the benchmark is not finite: try a lower"):
        bench.execute(config, as_json=True)
