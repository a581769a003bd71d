"""Plot the metrics of a training over its steps and epochs."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flowertune.report.figures import style
from flowertune.report.figures.style import Figure
from flowertune.runs.directory import Metrics
from flowertune.runs.finished import FinishedRun

MAX_POINTS = 800  # points per line; more steps are averaged
_NOT_LOSS_TERMS = ("step", "epoch", "split", "lr", "head_lr", "loss", "gradient_norm")
_LOOKS: list[dict[str, Any]] = [  # styles of the lines of a figure, in order
    {"color": color, "marker": marker, "markersize": 4, "linestyle": line}
    for color, marker, line in zip(style.SERIES, "osD", ("-", "--", ":"), strict=False)
]


def curves(run: FinishedRun) -> list[Figure]:
    """Plot loss, accuracy on val, loss terms and learning rates; empty without epochs."""
    if not run.steps:
        return []
    last_steps = {line["epoch"]: line["step"] for line in run.steps}
    epochs = _values(run.steps, "step") / last_steps[min(last_steps)]
    terms = [name for name in run.steps[0] if name not in _NOT_LOSS_TERMS]
    figures = [_loss(run, epochs, has_terms=bool(terms))]
    if run.validations:
        figures.append(_accuracy(run))
    if terms:
        figures.append(_terms(run, epochs, [*terms, "gradient_norm"]))
    return [*figures, _rates(run, epochs)]


def _loss(run: FinishedRun, epochs: NDArray[Any], has_terms: bool) -> Figure:
    figure, (axes,) = style.new_figure(7, 3.4)
    values = _values(run.steps, "loss")
    axes.plot(*_downsample(epochs, values), color=style.SERIES[0], linewidth=0.7, alpha=0.45)
    of_step = _values(run.steps, "epoch")
    trained = np.unique(of_step)
    means = [values[of_step == epoch].mean() for epoch in trained]
    axes.plot(trained, means, label="train (epoch mean)", **_LOOKS[0])
    alternative = f"Train loss from {_first_last(means)}"
    if run.validations:
        epoch, val = (_values(run.validations, name) for name in ("epoch", "loss"))
        axes.plot(epoch, val, label="val", **_LOOKS[1])
        alternative += f", val loss from {_first_last(val)}"
    _over_epochs(axes, "loss", run.results["best_epoch"])
    caption = (
        "Loss per epoch; the thin line shows every step. Training images are augmented, and mixed "
        "if the method does so; val images are not."
    )
    if has_terms:
        caption += " The train loss is the sum of the terms below; the val loss is cross-entropy."
    return Figure("loss", figure, caption, f"{alternative}, over {len(means)} epochs.")


def _accuracy(run: FinishedRun) -> Figure:
    figure, (axes,) = style.new_figure(7, 3)
    epochs = _values(run.validations, "epoch")
    titles = {"top1": "top-1", "mean_per_class": "mean per class", "top5": "top-5"}
    for (metric, title), look in zip(titles.items(), _LOOKS, strict=False):
        axes.plot(epochs, 100 * _values(run.validations, metric), label=title, **look)
    _over_epochs(axes, "accuracy on val, %", run.results["best_epoch"])
    top1 = 100 * _values(run.validations, "top1")
    alternative = f"Top-1 on val from {_first_last(top1)}%, best {max(top1):.2f}%."
    return Figure("accuracy", figure, "Accuracy on val after each epoch.", alternative)


def _terms(run: FinishedRun, epochs: NDArray[Any], names: Sequence[str]) -> Figure:
    figure, all_axes = style.new_figure(7, 1.7 * len(names), nrows=len(names), sharex=True)
    ranges = []
    for axes, name, color in zip(all_axes, names, cycle(style.SERIES), strict=False):
        values, title = _values(run.steps, name), name.replace("_", " ")
        axes.plot(*_downsample(epochs, values), color=color, linewidth=1)
        axes.set_ylabel(title)
        ranges.append(f"{title} from {_first_last(values)}")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    all_axes[-1].set_xlabel("epoch")
    caption = "Loss terms and gradient norm, per step."
    return Figure("loss_terms", figure, caption, "; ".join(ranges) + ".")


def _rates(run: FinishedRun, epochs: NDArray[Any]) -> Figure:
    figure, (axes,) = style.new_figure(7, 2.6)
    name, ranges = "backbone" if run.results["model"] == "full" else "adapter", []
    for (key, label), look in zip({"lr": name, "head_lr": "head"}.items(), _LOOKS, strict=False):
        values = _values(run.steps, key)
        axes.plot(*_downsample(epochs, values), label=label, **{**look, "marker": None})
        ranges.append(f"{label}: at most {values.max():.2g}, finally {values[-1]:.2g}")
    _over_epochs(axes, "learning rate")
    return Figure("learning_rate", figure, "Learning rates, per step.", "; ".join(ranges) + ".")


def _values(lines: Sequence[Metrics], name: str) -> NDArray[Any]:
    return np.array([line[name] for line in lines])


def _downsample(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Average neighboring points so that at most MAX_POINTS remain."""
    size = math.ceil(len(x) / MAX_POINTS)
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _over_epochs(axes: Axes, title: str, best: int | None = None) -> None:
    if best is not None:
        axes.axvline(best, color=style.INK, linewidth=0.8, linestyle=":", label="best epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=title)
    style.add_legend(axes, fontsize=9)


def _first_last(values: Sequence[float] | NDArray[Any]) -> str:
    return f"{values[0]:.4g} to {values[-1]:.4g}"
