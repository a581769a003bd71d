"""Several runs beside each other, drawn: what accuracy costs, and what a sweep found."""

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


def cost(group: Comparison) -> list[Captioned]:
    """Accuracy against trained parameters, and against minutes."""
    split = group.reported_split
    said = [
        f"{row.label} {percent(row.estimate(split, 'top1').mean)} with "
        f"{row.trainable_parameters:,} parameters in {row.minutes:.1f} minutes"
        for row in group.rows
    ]
    words = f"{split}: {'; '.join([*said, *_parted(group).beyond])}"
    by_parameters = _scatter(group, "trained parameters", lambda row: row.trainable_parameters)
    by_minutes = _scatter(group, "minutes of training", lambda row: row.minutes)
    caption = (
        f"Top-1 on {split} against {{}}, equal ones side by side; the bars are 95 % intervals, the "
        "lines baselines."
    )
    return [
        (by_parameters, caption.format("trained parameters"), words),
        (by_minutes, caption.format("minutes of training and validation"), words),
    ]


class _Parted(NamedTuple):
    """What an axis of accuracies covers, and in words what lies `beyond` it, and `below` it or not.

    That is zero-shot alone, where it would leave the others less than half of the axis.
    """

    covered: list[Line]
    beyond: list[str]
    below: bool


def _parted(group: Comparison) -> _Parted:
    split, found = group.reported_split, lines(group)
    others = [
        end
        for line in found
        if line.model != "zeroshot"
        for end in _interval(line.estimates[split, "top1"])
    ]
    low, high = min(others, default=0.0), max(others, default=1.0)
    span = high - low
    covered, beyond, below = [], [], True
    for line in found:
        top1 = line.estimates[split, "top1"].mean
        if line.model != "zeroshot" or low - span <= top1 <= high + span:
            covered.append(line)
        else:
            below = top1 < low
            side = "below" if below else "above"
            beyond.append(f"{line.label} {percent(top1)} lies {side} this axis")
    return _Parted(covered, beyond, below)


def _scatter(group: Comparison, title: str, place: Callable[[Setting], float]) -> str:
    drawn = style.new_figure(7, 4.2)
    (axes,) = drawn.axes
    split, level = group.reported_split, 0
    covered, beyond, below = _parted(group)
    numbers = {row.label: number for number, row in enumerate(group.rows)}
    rows = [line.row for line in covered if line.row is not None]
    places = {row.label: place(row) for row in rows if place(row) > 0}
    if places:
        style.logarithmic(axes)
        axes.set_xlim(*_ends(places))
    for line in covered:
        estimate = line.estimates[split, "top1"]
        if line.row is not None and line.row.label in places:
            label = line.row.label
            _point(axes, _beside(places, label), estimate, numbers[label], label)
            continue
        # a baseline, or no place on a logarithmic axis
        axes.axhline(
            100 * estimate.mean, label=line.label, linestyle=("--", ":")[level % 2],
            color=style.INK, linewidth=1,
        )  # fmt: skip
        level += 1
    axes.legend(
        loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, labelcolor=style.INK, frameon=False
    )
    if beyond:
        axes.margins(y=0.15)  # room for the words
        axes.annotate(
            "\n".join(beyond), (1, 0 if below else 1), xycoords="axes fraction",
            xytext=(0, 3 if below else -3), textcoords="offset points",
            ha="right", va="bottom" if below else "top", fontsize=8, color=style.INK,
        )  # fmt: skip
    axes.set_xlabel(title)
    axes.set_ylabel(f"top-1 on {split}, %")
    return style.themed_svg(drawn)


def _point(axes: "Axes", x: float, estimate: Estimate, number: int, label: str) -> None:
    low, high = _interval(estimate)
    spread = [[100 * (estimate.mean - low)], [100 * (high - estimate.mean)]]
    axes.errorbar(
        [x], [100 * estimate.mean], yerr=spread, label=label, capsize=3,
        color=style.SERIES[number % len(style.SERIES)], marker=_MARKERS[number % len(_MARKERS)],
    )  # fmt: skip


def _span(places: dict[str, float]) -> float:
    """How many times the least is the most; of one place alone an axis has ten times."""
    span = max(places.values()) / min(places.values())
    return span if span > 1 else 10.0


def _ends(places: dict[str, float]) -> tuple[float, float]:
    """Of a logarithmic axis on which these are."""
    middle = math.sqrt(min(places.values()) * max(places.values()))
    return middle / _span(places) ** 0.56, middle * _span(places) ** 0.56


def _beside(places: dict[str, float], label: str) -> float:
    """A place on that axis: those of the same number stand beside each other, bar by bar."""
    same = [other for other, place in places.items() if place == places[label]]
    step = same.index(label) - (len(same) - 1) / 2
    return float(places[label] * _span(places) ** (0.015 * step))


def _interval(estimate: Estimate) -> tuple[float, float]:
    """Of an estimate that has none: the value itself."""
    return estimate.interval or (estimate.mean, estimate.mean)


def swept(group: Comparison) -> Captioned | None:
    """Of numbers: one key that was swept is a curve, two are a map; else there is neither."""
    keys = group.keys[1:]
    methods = {row.method for row in group.rows}
    places = [[_number(row.stats.values[key]) for key in keys] for row in group.rows]
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


def _curve(group: Comparison, key: str, places: Sequence[float]) -> Captioned:
    drawn = style.new_figure(7, 4)
    (axes,) = drawn.axes
    ordered = sorted(zip(places, group.rows, strict=True), key=lambda pair: pair[0])
    for number, split in enumerate(group.splits):
        estimates = [row.estimate(split, "top1") for _, row in ordered]
        intervals = list(map(_interval, estimates))
        pairs = list(zip(estimates, intervals, strict=True))
        axes.errorbar(
            [place for place, _ in ordered], [100 * each.mean for each in estimates],
            yerr=[[100 * (each.mean - low) for each, (low, _) in pairs],
                  [100 * (high - each.mean) for each, (_, high) in pairs]],
            label=split, capsize=3, color=style.SERIES[number], marker=_MARKERS[number],
        )  # fmt: skip
    if min(places) > 0 and max(places) > 10 * min(places):
        style.logarithmic(axes)
    axes.set_xlabel(key)
    axes.set_ylabel("top-1, %")
    axes.legend(labelcolor=style.INK, frameon=False)
    said = "; ".join(
        f"{row.label}: " + ", ".join(
            f"{split} {percent(row.estimate(split, 'top1').mean)}" for split in group.splits
        )
        for _, row in ordered
    )  # fmt: skip
    return style.themed_svg(drawn), f"Top-1 against {key}; the bars are 95 % intervals.", said


def _map(
    group: Comparison, keys: Sequence[str], places: Sequence[tuple[float, float]]
) -> Captioned:
    split = group.splits[0]
    down, across = (sorted({place[axis] for place in places}) for axis in (0, 1))
    top1 = {
        place: 100 * row.estimate(split, "top1").mean
        for place, row in zip(places, group.rows, strict=True)
    }
    drawn = style.new_figure(7, 1.5 + 0.6 * len(down))
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
    return style.themed_svg(drawn), f"Mean top-1 on {split} for each pair of values.", said
