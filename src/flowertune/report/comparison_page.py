"""Several runs beside each other, as a page: tables, what accuracy costs, the sweep's curve."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flowertune.compared import Estimate, Group, Row, differing
from flowertune.keys import shown
from flowertune.report import plots
from flowertune.report.comparison import (
    APART,
    lines,
    notes,
    pair_lines,
    pair_table,
    pairs_note,
    percent,
    split_table,
)
from flowertune.report.page import Section, bullets, document, figure, folded, paragraph, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SplitTable = Callable[[Group, str], tuple[list[str], list[list[str]]]]
_MARKERS = "osD^vPX*<>"


def page(
    title: str,
    groups: Sequence[Group],
    split_table: SplitTable = split_table,
    more_notes: Callable[[Group], list[str]] = lambda group: [],
    lead: Sequence[str] = (),
) -> str:
    """The whole page. `more_notes`: what else is to be said below a group's tables."""
    several = len(groups) > 1
    sections = []
    for number, group in enumerate(groups, start=1):
        sections += _sections(group, str(number) if several else "", split_table, more_notes)
    said = [*lead, *([f"{APART.capitalize()}."] if several else [])]
    return document(title, "".join(map(paragraph, said)), sections)


def _sections(
    group: Group, number: str, split_table: SplitTable, more_notes: Callable[[Group], list[str]]
) -> list[Section]:
    body = paragraph(group.protocol)
    for split in reversed(group.splits):
        header, rows = split_table(group, split)
        caption = f"{split}, {group.photos(split):,} photos; in per cent"
        body += table(header, rows, caption, range(2, len(header)))
    body += bullets([*notes(group), *more_notes(group)], "note")
    found = [("result", "Result", body)]
    if len(group.rows) > 1:
        found.append(("cost", "What accuracy costs", _cost(group)))
    swept = _swept(group)
    if swept is not None:
        found.append(("sweep", "Sweep", swept))
    if group.pairs:
        header, rows = pair_table(group.pairs)
        said = bullets(pair_lines(group))
        pairs = table(header, rows, "all pairs; differences in points", range(2, len(header)))
        body = said + paragraph(pairs_note(group), "note") + folded("All pairs", pairs)
        found.append(("pairs", "On the same photos", body))
    found.append(("runs", "Runs", _runs(group)))
    return [Section(f"{name}{number}", f"{title} {number}".strip(), b) for name, title, b in found]


def _cost(group: Group) -> str:
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


def _swept(group: Group) -> str | None:
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


def _runs(group: Group) -> str:
    """Every run, and the keys that are not the same in all of them."""
    header = ["run", "method", "seed", *(f"{split} top-1" for split in group.splits), "best epoch",
              "minutes", "device"]  # fmt: skip
    runs = [one for row in group.rows for one in row.runs]
    rows = [
        [
            one.results["run"], one.results["method"], str(one.results["seed"]),
            *(percent(one.results["splits"][split]["top1"]) for split in group.splits),
            str(one.results["best_epoch"] or ""), f"{one.results['seconds'] / 60:.1f}",
            one.results["device"],
        ]
        for one in runs
    ]  # fmt: skip
    body = table(header, rows, "every run; accuracies in per cent", range(2, len(header) - 1))
    keys = differing(runs)
    if keys:
        settings = [[key, *(shown(row.runs[0].values.get(key)) for row in group.rows)]
                    for key in keys]  # fmt: skip
        titles = ["key", *(row.label for row in group.rows)]
        body += folded("Settings that differ", table(titles, settings, "null: has no such key", ()))
    return body
