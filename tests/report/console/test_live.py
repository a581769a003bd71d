"""Live view of a training in a terminal."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flowertune.report.console.live import BLOCKS, TrainingView, curve

TERMS = {"step": 1, "epoch": 1, "split": "train", "lr": 1e-3, "loss": 0.25, "triplet": 0.125}


def view(width: int, lines: Sequence[Mapping[str, Any]] = (), encoding: str = "utf-8") -> list[str]:
    """Lines shown in epoch 3 of 12, after two epochs and one step."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    shown = TrainingView(12, 3, lines)
    if not lines:
        shown.epoch(1.0, {"top1": 0.25})
        shown.epoch(0.5, {"top1": 0.75})
    shown.step(3, 1, TERMS)
    Console(file=out, width=width, height=20, color_system=None).print(shown)
    out.flush()
    return out.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


def test_the_view_has_terms_rates_the_best_top1_and_curves() -> None:
    head, *rest = view(80)
    assert head.startswith("epoch 3/12 ")
    assert head.rstrip().endswith("step 7/36  -:--:-- left")
    assert rest == [
        "loss 0.2500  triplet 0.1250  lr 1.0e-03",
        "val top-1 75.00%, best 75.00% in epoch 2",
        "train loss  █▁  1.0000 to 0.5000",
        "val top-1   ▁█  25.00% to 75.00%",
    ]
    assert view(80, encoding="ascii")[-1] == "val top-1   _@  25.00% to 75.00%"


def test_a_resumed_training_is_shown_from_its_first_epoch() -> None:
    lines = [
        {"epoch": epoch, "split": split, "loss": loss, "top1": top1}
        for epoch, loss, top1 in ((1, 1.5, 0.5), (2, 0.75, 0.25))
        for split in ("train", "val")
    ]
    assert view(80, lines)[-3:] == [
        "val top-1 25.00%, best 50.00% in epoch 1",
        "train loss  █▁  1.5000 to 0.7500",
        "val top-1   █▁  50.00% to 25.00%",
    ]


@pytest.mark.parametrize("width", [1, 10, 24, 40, 60, 200])
def test_the_view_fits_any_width(width: int) -> None:
    drawn = view(width)
    assert 3 <= len(drawn) <= 7
    assert all(len(line) <= width for line in drawn)
    assert width < 60 or drawn[0].rstrip().endswith(" left")


def test_the_time_left_covers_all_epochs_at_the_pace_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("flowertune.report.console.live.time.monotonic", lambda: now)
    shown, out = TrainingView(10, 100, []), io.StringIO()
    shown.step(4, 50, None)  # it resumed here
    now += 20
    shown.step(4, 60, None)
    now += 5  # the time left also decreases during a long step
    Console(file=out, width=80).print(shown)
    assert "step 360/1,000  0:21:15 left" in out.getvalue()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 70))
def test_a_curve_fits_its_width_and_follows_its_values(values: list[float], width: int) -> None:
    drawn = curve(values, width)
    assert len(drawn) == min(width, len(values))
    if len(values) <= width:
        heights = [BLOCKS.index(each) for each in drawn]
        for (low, at), (high, above) in pairwise(sorted(zip(values, heights, strict=True))):
            assert at <= above or low == high


def test_any_number_of_terms_and_rates_fits_80_columns() -> None:
    shown, out = TrainingView(12, 3, []), io.StringIO()
    terms = {f"term_{at}": 1.0 for at in range(9)}
    shown.step(1, 1, {**terms, "lr": 1e-3, "head_lr": 5e-3})
    Console(file=out, width=80).print(shown)
    parts = [f"term {at} 1.0000" for at in range(9)] + ["lr 1.0e-03", "head lr 5.0e-03"]
    assert all(part in out.getvalue() for part in parts)
