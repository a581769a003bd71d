"""Several runs beside each other, drawn: what accuracy costs, and what a sweep found."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flowertune.compared import Estimate, Group, Row
from flowertune.report import plots
from flowertune.report.comparison import lines, percent
from flowertune.report.page import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*<>"


def cost(group: Group) -> str:
    """Accuracy against trained parameters, and against minutes."""
    split = group.judged_on
    said = "; ".join(
        f"{row.label} {percent(row.estimate(split, 'top1').mean)} with "
        f"{row.trainable_parameters:,} parameters in {row.minutes:.1f} minutes"
        for row in group.rows
    )
    by_parameters = _scatter(group, "trained parameters", lambda row: row.trainable_parameters)
    by_minutes = _scatter(group, "minutes of training", lambda row: row.minutes)
    caption = f"Top-1 on {split} against {{}}; the bars are 95 % intervals, the lines baselines."
    return figure(by_parameters, caption.format("trained parameters"), f"{split}: {said}") + figure(
        by_minutes, caption.format("minutes of training and validation"), f"{split}: {said}"
    )


def _scatter(group: Group, title: str, place: Callable[[Row], float]) -> str:
    drawn = plots.new_figure(7, 4.2)
    (axes,) = drawn.axes
    split, level = group.judged_on, 0
    for line in lines(group):
        estimate = line.estimates[split, "top1"]
        if line.row is None or place(line.row) <= 0:  # no place on a logarithmic axis
            style = ("--", ":")[level % 2]
            axes.axhline(100 * estimate.mean, linestyle=style, color=plots.INK, linewidth=1)
            axes.annotate(
                line.label, (1, 100 * estimate.mean), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=8, color=plots.INK,
            )  # fmt: skip
            level += 1
    rows = [row for row in group.rows if place(row) > 0]
    for number, row in enumerate(rows):
        _point(axes, place(row), row.estimate(split, "top1"), number, row.label)
    if rows:
        plots.logarithmic(axes)
        axes.legend(
            loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, labelcolor=plots.INK, frameon=False
        )
    axes.set_xlabel(title)
    axes.set_ylabel(f"top-1 on {split}, %")
    return plots.themed_svg(drawn)


def _point(axes: "Axes", x: float, estimate: Estimate, number: int, label: str) -> None:
    low, high = estimate.interval or (estimate.mean, estimate.mean)
    spread = [[100 * (estimate.mean - low)], [100 * (high - estimate.mean)]]
    axes.errorbar(
        [x], [100 * estimate.mean], yerr=spread, label=label, capsize=3,
        color=plots.SERIES[number % len(plots.SERIES)], marker=_MARKERS[number % len(_MARKERS)],
    )  # fmt: skip


def swept(group: Group) -> str | None:
    """Of numbers: one key that was swept is a curve, two are a map; else there is neither."""
    keys = group.keys[1:]
    methods = {row.method for row in group.rows}
    places = [[_number(row.setting.values[key]) for key in keys] for row in group.rows]
    if len(methods) > 1 or any(None in place for place in places):
        return None
    if len(keys) == 1:
        return _curve(group, keys[0], [place[0] or 0.0 for place in places])
    if len(keys) == 2:
        return _map(group, keys, [(place[0] or 0.0, place[1] or 0.0) for place in places])
    return None


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _curve(group: Group, key: str, places: Sequence[float]) -> str:
    drawn = plots.new_figure(7, 4)
    (axes,) = drawn.axes
    ordered = sorted(zip(places, group.rows, strict=True), key=lambda pair: pair[0])
    for number, split in enumerate(group.splits):
        estimates = [row.estimate(split, "top1") for _, row in ordered]
        intervals = [each.interval or (each.mean, each.mean) for each in estimates]
        pairs = list(zip(estimates, intervals, strict=True))
        axes.errorbar(
            [place for place, _ in ordered], [100 * each.mean for each in estimates],
            yerr=[[100 * (each.mean - low) for each, (low, _) in pairs],
                  [100 * (high - each.mean) for each, (_, high) in pairs]],
            label=split, capsize=3, color=plots.SERIES[number], marker=_MARKERS[number],
        )  # fmt: skip
    if min(places) > 0 and max(places) > 10 * min(places):
        plots.logarithmic(axes)
    axes.set_xlabel(key)
    axes.set_ylabel("top-1, %")
    axes.legend(labelcolor=plots.INK, frameon=False)
    said = "; ".join(
        f"{row.label}: " + ", ".join(
            f"{split} {percent(row.estimate(split, 'top1').mean)}" for split in group.splits
        )
        for _, row in ordered
    )  # fmt: skip
    return figure(
        plots.themed_svg(drawn), f"Top-1 against {key}; the bars are 95 % intervals.", said
    )


def _map(group: Group, keys: Sequence[str], places: Sequence[tuple[float, float]]) -> str:
    split = group.splits[0]
    down, across = (sorted({place[axis] for place in places}) for axis in (0, 1))
    top1 = {
        place: 100 * row.estimate(split, "top1").mean
        for place, row in zip(places, group.rows, strict=True)
    }
    drawn = plots.new_figure(7, 1.5 + 0.6 * len(down))
    (axes,) = drawn.axes
    values = [[top1.get((y, x), math.nan) for x in across] for y in down]
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(across)), [f"{x:g}" for x in across])
    axes.set_yticks(range(len(down)), [f"{y:g}" for y in down])
    middle = (min(top1.values()) + max(top1.values())) / 2
    for (y, x), value in top1.items():
        axes.text(
            across.index(x), down.index(y), f"{value:.2f}", ha="center", va="center",
            color="#ffffff" if value < middle else "#101010",
        )  # fmt: skip
    axes.set_ylabel(keys[0])
    axes.set_xlabel(keys[1])
    drawn.colorbar(image, label=f"top-1 on {split}, %")
    said = "; ".join(
        f"{row.label}: {percent(row.estimate(split, 'top1').mean)}" for row in group.rows
    )
    return figure(plots.themed_svg(drawn), f"Mean top-1 on {split} for each pair of values.", said)
