"""Plot a comparison of runs: accuracy against cost, and the curve or map of a sweep."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flowertune.analysis.compare import Comparison, Estimate, Setting
from flowertune.report.comparison import Line, lines, percent
from flowertune.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*<>"

Captioned = tuple[str, str, str]  # an SVG for a page, its caption, and what it shows in words


def cost_figures(group: Comparison) -> list[Captioned]:
    """Plot accuracy against trained parameters and against minutes."""
    split = group.reported_split
    settings = [
        f"{row.label} {percent(row.estimate(split, 'top1').mean)} with "
        f"{row.trainable_parameters:,} parameters in {row.minutes:.1f} minutes"
        for row in group.rows
    ]
    alternative = f"{split}: {'; '.join([*settings, *_axis_content(group).outside])}"
    by_parameters = _scatter(group, "trained parameters", lambda row: row.trainable_parameters)
    by_minutes = _scatter(group, "minutes of training", lambda row: row.minutes)
    caption = (
        f"Top-1 on {split} against {{}}, equal ones side by side; the bars are 95 % intervals, the "
        "lines baselines."
    )
    return [
        (by_parameters, caption.format("trained parameters"), alternative),
        (by_minutes, caption.format("minutes of training and validation"), alternative),
    ]


class _AxisContent(NamedTuple):
    """Lines within an axis of accuracies, texts on those `outside`, and on which side they are.

    That is zero-shot alone, where it would leave the others less than half of the axis.
    """

    lines: list[Line]
    outside: list[str]
    is_below: bool


def _axis_content(group: Comparison) -> _AxisContent:
    split, all_lines = group.reported_split, lines(group)
    ends = [
        end
        for line in all_lines
        if line.model != "zeroshot"
        for end in _interval(line.estimates[split, "top1"])
    ]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    span = high - low
    inside, outside, is_below = [], [], True
    for line in all_lines:
        top1 = line.estimates[split, "top1"].mean
        if line.model != "zeroshot" or low - span <= top1 <= high + span:
            inside.append(line)
        else:
            is_below = top1 < low
            side = "below" if is_below else "above"
            outside.append(f"{line.label} {percent(top1)} lies {side} this axis")
    return _AxisContent(inside, outside, is_below)


def _scatter(group: Comparison, title: str, position: Callable[[Setting], float]) -> str:
    figure = style.new_figure(7, 4.2)
    (axes,) = figure.axes
    split, n_baselines = group.reported_split, 0
    inside, outside, is_below = _axis_content(group)
    numbers = {row.label: number for number, row in enumerate(group.rows)}
    rows = [line.row for line in inside if line.row is not None]
    positions = {row.label: position(row) for row in rows if position(row) > 0}
    if positions:
        style.logarithmic(axes)
        axes.set_xlim(*_axis_limits(positions))
    for line in inside:
        estimate = line.estimates[split, "top1"]
        if line.row is not None and line.row.label in positions:
            label = line.row.label
            _point(axes, _spread_ties(positions, label), estimate, numbers[label], label)
            continue
        # a baseline, or no place on a logarithmic axis
        axes.axhline(
            100 * estimate.mean, label=line.label, linestyle=("--", ":")[n_baselines % 2],
            color=style.INK, linewidth=1,
        )  # fmt: skip
        n_baselines += 1
    axes.legend(
        loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, labelcolor=style.INK, frameon=False
    )
    if outside:
        axes.margins(y=0.15)  # room for the words
        axes.annotate(
            "\n".join(outside), (1, 0 if is_below else 1), xycoords="axes fraction",
            xytext=(0, 3 if is_below else -3), textcoords="offset points",
            ha="right", va="bottom" if is_below else "top", fontsize=8, color=style.INK,
        )  # fmt: skip
    axes.set_xlabel(title)
    axes.set_ylabel(f"top-1 on {split}, %")
    return style.themed_svg(figure)


def _point(axes: "Axes", x: float, estimate: Estimate, number: int, label: str) -> None:
    low, high = _interval(estimate)
    spread = [[100 * (estimate.mean - low)], [100 * (high - estimate.mean)]]
    axes.errorbar(
        [x], [100 * estimate.mean], yerr=spread, label=label, capsize=3,
        color=style.SERIES[number % len(style.SERIES)], marker=_MARKERS[number % len(_MARKERS)],
    )  # fmt: skip


def _span(positions: dict[str, float]) -> float:
    """Ratio of the largest to the smallest position; ten if they are equal."""
    span = max(positions.values()) / min(positions.values())
    return span if span > 1 else 10.0


def _axis_limits(positions: dict[str, float]) -> tuple[float, float]:
    """Limits of a logarithmic axis that contains all positions."""
    center = math.sqrt(min(positions.values()) * max(positions.values()))
    return center / _span(positions) ** 0.56, center * _span(positions) ** 0.56


def _spread_ties(positions: dict[str, float], label: str) -> float:
    """Shift equal positions apart so that their error bars do not overlap."""
    ties = [name for name, position in positions.items() if position == positions[label]]
    step = ties.index(label) - (len(ties) - 1) / 2
    return float(positions[label] * _span(positions) ** (0.015 * step))


def _interval(estimate: Estimate) -> tuple[float, float]:
    """Interval of an estimate, or its value twice if it has none."""
    return estimate.interval or (estimate.mean, estimate.mean)


def sweep_figure(group: Comparison) -> Captioned | None:
    """Plot a sweep of one numeric key as a curve, of two as a map; None otherwise."""
    keys = group.keys[1:]
    methods = {row.method for row in group.rows}
    positions = [[_number(row.stats.values[key]) for key in keys] for row in group.rows]
    if len(methods) > 1 or any(None in p for p in positions):
        return None
    if len(keys) == 1:
        return _curve(group, keys[0], [p[0] or 0.0 for p in positions])
    if len(keys) == 2:
        return _map(group, keys, [(p[0] or 0.0, p[1] or 0.0) for p in positions])
    return None


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _curve(group: Comparison, key: str, positions: Sequence[float]) -> Captioned:
    figure = style.new_figure(7, 4)
    (axes,) = figure.axes
    ordered = sorted(zip(positions, group.rows, strict=True), key=lambda pair: pair[0])
    for number, split in enumerate(group.splits):
        estimates = [row.estimate(split, "top1") for _, row in ordered]
        intervals = list(map(_interval, estimates))
        pairs = list(zip(estimates, intervals, strict=True))
        axes.errorbar(
            [position for position, _ in ordered], [100 * estimate.mean for estimate in estimates],
            yerr=[[100 * (estimate.mean - low) for estimate, (low, _) in pairs],
                  [100 * (high - estimate.mean) for estimate, (_, high) in pairs]],
            label=split, capsize=3, color=style.SERIES[number], marker=_MARKERS[number],
        )  # fmt: skip
    if min(positions) > 0 and max(positions) > 10 * min(positions):
        style.logarithmic(axes)
    axes.set_xlabel(key)
    axes.set_ylabel("top-1, %")
    axes.legend(labelcolor=style.INK, frameon=False)
    text = "; ".join(
        f"{row.label}: " + ", ".join(
            f"{split} {percent(row.estimate(split, 'top1').mean)}" for split in group.splits
        )
        for _, row in ordered
    )  # fmt: skip
    return style.themed_svg(figure), f"Top-1 against {key}; the bars are 95 % intervals.", text


def _map(
    group: Comparison, keys: Sequence[str], positions: Sequence[tuple[float, float]]
) -> Captioned:
    split = group.splits[0]
    y_values, x_values = (sorted({position[axis] for position in positions}) for axis in (0, 1))
    top1 = {
        position: 100 * row.estimate(split, "top1").mean
        for position, row in zip(positions, group.rows, strict=True)
    }
    figure = style.new_figure(7, 1.5 + 0.6 * len(y_values))
    (axes,) = figure.axes
    values = [[top1.get((y, x), math.nan) for x in x_values] for y in y_values]
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(x_values)), [f"{x:g}" for x in x_values])
    axes.set_yticks(range(len(y_values)), [f"{y:g}" for y in y_values])
    middle = (min(top1.values()) + max(top1.values())) / 2
    for (y, x), value in top1.items():
        axes.text(
            x_values.index(x), y_values.index(y), f"{value:.2f}", ha="center", va="center",
            color="#ffffff" if value < middle else "#101010",
        )  # fmt: skip
    axes.set_ylabel(keys[0])
    axes.set_xlabel(keys[1])
    figure.colorbar(image, label=f"top-1 on {split}, %")
    text = "; ".join(
        f"{row.label}: {percent(row.estimate(split, 'top1').mean)}" for row in group.rows
    )
    return style.themed_svg(figure), f"Mean top-1 on {split} for each pair of values.", text
