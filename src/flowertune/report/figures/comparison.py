"""Plot a comparison of runs: accuracy against cost, and the curve or map of a sweep."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flowertune.analysis.compare import Comparison
from flowertune.analysis.results_table import Row
from flowertune.analysis.settings import Setting
from flowertune.analysis.statistics import Estimate
from flowertune.report.figures import style
from flowertune.report.figures.style import Figure
from flowertune.report.results_table import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

_MARKERS = "osD^vPX*<>"


def cost_figures(group: Comparison) -> list[Figure]:
    """Plot accuracy against trained parameters and against minutes."""
    split = group.reported_split
    settings = [
        f"{setting.label} {percent(setting.estimate(split, 'top1').mean)} with "
        f"{setting.trainable_parameters:,} parameters in {setting.minutes:.1f} minutes"
        for setting in group.settings
    ]
    content = _axis_content(group)
    alternative = f"{split}: {'; '.join([*settings, *content.outside])}"
    costs: list[tuple[str, str, Callable[[Setting], float]]] = [
        ("trained parameters", "trained parameters", lambda each: each.trainable_parameters),
        ("minutes of training", "minutes of training and validation", lambda each: each.minutes),
    ]
    return [
        Figure(
            title.replace(" ", "_"),
            _scatter(group, content, title, cost),
            f"Top-1 on {split} against {name}, equal ones side by side; the bars are 95 % "
            "intervals, the lines baselines.",
            alternative,
        )
        for title, name, cost in costs
    ]


class _AxisContent(NamedTuple):
    """Rows within an axis of accuracies, texts on those `outside`, and on which side they are.

    That is zero-shot alone, where it would leave the others less than half of the axis.
    """

    rows: list[Row]
    outside: list[str]
    is_below: bool


def _axis_content(group: Comparison) -> _AxisContent:
    rows = group.rows(group.reported_split)
    ends = [
        end for row in rows if row.model != "zeroshot" for end in _interval(row.estimate("top1"))
    ]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    span = high - low
    inside, outside, is_below = [], [], True
    for row in rows:
        top1 = row.estimate("top1").mean
        if row.model != "zeroshot" or low - span <= top1 <= high + span:
            inside.append(row)
        else:
            is_below = top1 < low
            side = "below" if is_below else "above"
            outside.append(f"{row.name} {percent(top1)} lies {side} this axis")
    return _AxisContent(inside, outside, is_below)


def _scatter(
    group: Comparison, content: _AxisContent, title: str, cost: Callable[[Setting], float]
) -> "MatplotlibFigure":
    figure, axes = style.new_figure(7, 4.2)
    settings = [row.setting for row in content.rows if row.setting is not None]
    positions = {each.label: cost(each) for each in settings if cost(each) > 0}
    if positions:
        style.logarithmic(axes)
        axes.set_xlim(*_axis_limits(positions))
    numbers = {setting.label: number for number, setting in enumerate(group.settings)}
    n_baselines = 0
    for row in content.rows:
        top1 = row.estimate("top1")
        if row.setting is not None and row.name in positions:
            _error_bars(
                axes, [_spread_ties(positions, row.name)], [top1], numbers[row.name], row.name
            )
            continue
        # a baseline, or no place on a logarithmic axis
        axes.axhline(
            100 * top1.mean, label=row.name, linestyle=("--", ":")[n_baselines % 2],
            color=style.INK, linewidth=1,
        )  # fmt: skip
        n_baselines += 1
    style.add_legend(axes, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    if content.outside:
        is_below = content.is_below
        axes.margins(y=0.15)  # room for the words
        axes.annotate(
            "\n".join(content.outside), (1, 0 if is_below else 1), xycoords="axes fraction",
            xytext=(0, 3 if is_below else -3), textcoords="offset points",
            ha="right", va="bottom" if is_below else "top", fontsize=8, color=style.INK,
        )  # fmt: skip
    axes.set(xlabel=title, ylabel=f"top-1 on {group.reported_split}, %")
    return figure


def _error_bars(
    axes: "Axes", x: Sequence[float], estimates: Sequence[Estimate], number: int, label: str
) -> None:
    """Plot estimates with their intervals, in the style of a number."""
    below = [100 * (each.mean - _interval(each)[0]) for each in estimates]
    above = [100 * (_interval(each)[1] - each.mean) for each in estimates]
    axes.errorbar(
        x, [100 * each.mean for each in estimates], yerr=[below, above], label=label, capsize=3,
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


def sweep_figure(group: Comparison) -> Figure | None:
    """Plot a sweep of one numeric key as a curve, of two as a map; None otherwise."""
    keys = group.keys[1:]
    positions = [[_number(setting.values[key]) for key in keys] for setting in group.settings]
    if len({setting.method for setting in group.settings}) > 1 or any(None in p for p in positions):
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


def _curve(group: Comparison, key: str, positions: Sequence[float]) -> Figure:
    figure, axes = style.new_figure(7, 4)
    pairs = sorted(zip(positions, group.settings, strict=True), key=lambda pair: pair[0])
    for number, split in enumerate(group.splits):
        estimates = [setting.estimate(split, "top1") for _, setting in pairs]
        _error_bars(axes, sorted(positions), estimates, number, split)
    if min(positions) > 0 and max(positions) > 10 * min(positions):
        style.logarithmic(axes)
    axes.set(xlabel=key, ylabel="top-1, %")
    style.add_legend(axes)
    text = "; ".join(
        f"{setting.label}: " + ", ".join(f"{s} {_top1(setting, s)}" for s in group.splits)
        for _, setting in pairs
    )
    return Figure("sweep", figure, f"Top-1 against {key}; the bars are 95 % intervals.", text)


def _map(
    group: Comparison, keys: Sequence[str], positions: Sequence[tuple[float, float]]
) -> Figure:
    split = group.splits[0]
    y_values, x_values = (sorted({position[axis] for position in positions}) for axis in (0, 1))
    top1 = {
        position: 100 * setting.estimate(split, "top1").mean
        for position, setting in zip(positions, group.settings, strict=True)
    }
    figure, axes = style.new_figure(7, 1.5 + 0.6 * len(y_values))
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
    axes.set(ylabel=keys[0], xlabel=keys[1])
    figure.colorbar(image, label=f"top-1 on {split}, %")
    text = "; ".join(f"{setting.label}: {_top1(setting, split)}" for setting in group.settings)
    return Figure("sweep", figure, f"Mean top-1 on {split} for each pair of values.", text)


def _top1(setting: Setting, split: str) -> str:
    return percent(setting.estimate(split, "top1").mean)
