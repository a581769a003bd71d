"""Plot a comparison of runs: accuracy against size and time, curve or map of a sweep."""

import math
from collections.abc import Callable, Sequence
from itertools import chain, cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from flowertune.analysis.compare import Comparison
from flowertune.analysis.results_table import Row
from flowertune.analysis.settings import Setting
from flowertune.analysis.statistics import Estimate
from flowertune.report.figures import style
from flowertune.report.figures.style import Figure
from flowertune.report.results_table import percent


def cost_figures(group: Comparison) -> list[Figure]:
    """Plot accuracy against trainable parameters and against minutes."""
    split = group.reported_split
    outside = _outside(group.rows(split))
    rows = [row for row in group.rows(split) if row not in outside]
    is_below = bool(outside) and outside[-1].estimate("top1").mean < rows[0].estimate("top1").mean
    notes = [
        f"{row.name} {percent(row.estimate('top1').mean)} is "
        f"{'below' if is_below else 'above'} this axis"
        for row in outside
    ]
    settings = [
        f"{setting.label} {_top1(setting, split)} with {setting.trainable_parameters:,} "
        f"trainable parameters in {setting.minutes:.1f} minutes"
        for setting in group.settings
    ]
    costs: list[tuple[str, str, Callable[[Setting], float]]] = [
        ("trainable parameters", "trainable parameters", lambda each: each.trainable_parameters),
        ("minutes of training", "minutes of training and validation", lambda each: each.minutes),
    ]
    figures = []
    for title, name, cost in costs:
        figure = _scatter(group, rows, cost)
        axes = figure.axes[0]
        axes.set(xlabel=title, ylabel=f"top-1 on {split}, %")
        if notes:
            axes.margins(y=0.15)  # room for the notes
            axes.annotate(
                "\n".join(notes), (1, 0 if is_below else 1), xycoords="axes fraction",
                xytext=(0, 3 if is_below else -3), textcoords="offset points",
                ha="right", va="bottom" if is_below else "top", fontsize=8, color=style.INK,
            )  # fmt: skip
        caption = (
            f"Top-1 on {split} against {name}; equal values are drawn side by side. Error bars: "
            "95% intervals. Horizontal lines: baselines."
        )
        alternative = f"{split}: {'; '.join([*settings, *notes])}"
        figures.append(Figure(title.replace(" ", "_"), figure, caption, alternative))
    return figures


def _outside(rows: Sequence[Row]) -> list[Row]:
    """Zero-shot rows that would leave the others less than half of the accuracy axis."""
    others = [row.estimate("top1") for row in rows if row.model != "zeroshot"]
    ends = list(chain.from_iterable(map(_interval, others)))
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    least, most = low - (high - low), high + (high - low)
    zeroshot = [row for row in rows if row.model == "zeroshot"]
    return [row for row in zeroshot if not least <= row.estimate("top1").mean <= most]


def _scatter(
    group: Comparison, rows: Sequence[Row], cost: Callable[[Setting], float]
) -> MatplotlibFigure:
    figure, (axes,) = style.new_figure(7, 4.2)
    costs = {row.name: cost(row.setting) for row in rows if row.setting is not None}
    positions = {name: position for name, position in costs.items() if position > 0}
    if positions:
        low, high = min(positions.values()), max(positions.values())
        center, span = math.sqrt(low * high), high / low if high > low else 10.0
        _make_logarithmic(axes)
        axes.set_xlim(center / span**0.56, center * span**0.56)
    numbers = {setting.label: number for number, setting in enumerate(group.settings)}
    line_styles = cycle(("--", ":"))
    for row in rows:
        top1 = row.estimate("top1")
        if row.name in positions:
            ties = [name for name in positions if positions[name] == positions[row.name]]
            step = ties.index(row.name) - (len(ties) - 1) / 2  # error bars must not overlap
            x = positions[row.name] * span ** (0.015 * step)
            _error_bars(axes, [x], [top1], numbers[row.name], row.name)
        else:  # a baseline, or a cost of 0 on a logarithmic axis
            axes.axhline(
                100 * top1.mean, label=row.name, linestyle=next(line_styles), color=style.INK,
                linewidth=1,
            )  # fmt: skip
    style.add_legend(axes, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def _error_bars(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], number: int, label: str
) -> None:
    below = [100 * (each.mean - _interval(each)[0]) for each in estimates]
    above = [100 * (_interval(each)[1] - each.mean) for each in estimates]
    axes.errorbar(
        x, [100 * each.mean for each in estimates], yerr=[below, above], label=label, capsize=3,
        color=style.SERIES[number % len(style.SERIES)],
        marker=style.MARKERS[number % len(style.MARKERS)],
    )  # fmt: skip


def _make_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, position: f"{x:,.9g}"))  # plain numbers


def _interval(estimate: Estimate) -> tuple[float, float]:
    return estimate.interval or (estimate.mean, estimate.mean)


def sweep_figure(group: Comparison) -> Figure | None:
    """Plot a sweep of one numeric key as a curve, of two as a heat map; None otherwise."""
    keys = group.keys[1:]
    if len(keys) not in (1, 2) or len({setting.method for setting in group.settings}) > 1:
        return None
    try:
        positions = [[float(setting.values[key]) for key in keys] for setting in group.settings]
    except ValueError:
        return None
    if not all(map(math.isfinite, chain.from_iterable(positions))):
        return None
    return (_curve if len(keys) == 1 else _map)(group, positions)


def _curve(group: Comparison, positions: Sequence[Sequence[float]]) -> Figure:
    figure, (axes,) = style.new_figure(7, 4)
    key = group.keys[1]
    pairs = sorted(zip(positions, group.settings, strict=True), key=lambda pair: pair[0][0])
    values = [value for (value,), _ in pairs]
    for number, split in enumerate(group.splits):
        estimates = [setting.estimate(split, "top1") for _, setting in pairs]
        _error_bars(axes, values, estimates, number, split)
    if values[0] > 0 and values[-1] > 10 * values[0]:
        _make_logarithmic(axes)
    axes.set(xlabel=key, ylabel="top-1, %")
    style.add_legend(axes)
    text = "; ".join(
        f"{setting.label}: " + ", ".join(f"{s} {_top1(setting, s)}" for s in group.splits)
        for _, setting in pairs
    )
    return Figure("sweep", figure, f"Top-1 against {key}. Error bars: 95% intervals.", text)


@style.settings()
def _map(group: Comparison, positions: Sequence[Sequence[float]]) -> Figure:
    split = group.splits[0]
    y_values, x_values = (sorted(set(values)) for values in zip(*positions, strict=True))
    top1 = {
        (y, x): 100 * setting.estimate(split, "top1").mean
        for (y, x), setting in zip(positions, group.settings, strict=True)
    }
    figure, (axes,) = style.new_figure(7, 1.5 + 0.6 * len(y_values))
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
    axes.set(ylabel=group.keys[1], xlabel=group.keys[2])
    figure.colorbar(image, label=f"top-1 on {split}, %")
    text = "; ".join(f"{setting.label}: {_top1(setting, split)}" for setting in group.settings)
    return Figure("sweep", figure, f"Mean top-1 on {split} for each pair of values.", text)


def _top1(setting: Setting, split: str) -> str:
    return percent(setting.estimate(split, "top1").mean)
