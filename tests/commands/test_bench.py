"""What is timed after what, and when a benchmark is none."""

import pytest
import torch

from flowertune import timing
from flowertune.commands import bench

CPU = torch.device("cpu")


@pytest.mark.parametrize("streamed", [True, False])
def test_the_step_without_data_gives_a_reading_thread_no_time_that_nobody_counts(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "LEAST", 2)
    monkeypatch.setattr(timing, "MOST", 2)
    calls: list[str] = []
    both = bench._steps_timed(
        lambda: calls.append("bare"), lambda: calls.append("data"), CPU, 8, streamed=streamed
    )
    each = timing.WARM_UP + 2
    assert calls == (["bare"] * each + ["data"] * each if streamed else ["bare", "data"] * each)
    assert [(len(one.seconds), one.photos) for one in both] == [(2, 8), (2, 8)]
