"""The figures of one run. Each is a name for its files, a drawing, a caption, and words instead."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowertune.report import plots
from flowertune.report.run_files import Embeddings, Prediction, ReportedRun
from flowertune.statistics_of_runs import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MATRIX_CLASSES = 110  # with more, those that are confused most: names must stay apart
BAR_CLASSES = 60  # with more, the lowest
DRAWN_STEPS = 800  # points of a line; of more steps, means
BINS = 15  # as metrics.py has them
_NOT_LOSS_TERMS = ("step", "epoch", "split", "lr", "head_lr", "loss", "gradient_norm")
_MARKERS = "osD^vP"


@dataclass(frozen=True)
class Drawing:
    name: str
    figure: "Figure"
    caption: str
    alternative: str


def curves(run: ReportedRun) -> list[Drawing]:
    """Loss, accuracy on val, each term of the loss, learning rates; empty without epochs."""
    if not run.steps:
        return []
    last_step = {line["epoch"]: line["step"] for line in run.steps}
    per_epoch = last_step[min(last_step)]
    epochs = np.array([line["step"] for line in run.steps]) / per_epoch
    found = [_loss(run, epochs)]
    if run.validations:
        found.append(_accuracy(run))
    terms = [name for name in run.steps[0] if name not in _NOT_LOSS_TERMS]
    if terms:
        found.append(_terms(run, epochs, [*terms, "gradient_norm"]))
    found.append(_rates(run, epochs))
    return found


def _loss(run: ReportedRun, epochs: NDArray[Any]) -> Drawing:
    figure = plots.new_figure(7, 3.4)
    (axes,) = figure.axes
    values = np.array([line["loss"] for line in run.steps])
    axes.plot(*_thinned(epochs, values), color=plots.SERIES[0], linewidth=0.7, alpha=0.45)
    of_epoch: dict[int, list[float]] = {}
    for line in run.steps:
        of_epoch.setdefault(line["epoch"], []).append(line["loss"])
    means = {epoch: float(np.mean(losses)) for epoch, losses in of_epoch.items()}
    axes.plot(
        list(means), list(means.values()), color=plots.SERIES[0], marker="o", markersize=4,
        label="train, mean of the epoch",
    )  # fmt: skip
    said = f"Train loss from {_first_last(list(means.values()))}"
    if run.validations:
        val = [line["loss"] for line in run.validations]
        axes.plot(
            [line["epoch"] for line in run.validations], val, color=plots.SERIES[1], marker="s",
            markersize=4, linestyle="--", label="val",
        )  # fmt: skip
        said += f", val loss from {_first_last(val)}"
    _mark_best(axes, run)
    _over_epochs(axes, "loss")
    caption = (
        "Loss. The thin line is each step's. Train photos are augmented, and mixed where the "
        "method mixes; val photos are not."
    )
    return Drawing("loss", figure, caption, f"{said}, over {len(means)} epochs.")


def _accuracy(run: ReportedRun) -> Drawing:
    figure = plots.new_figure(7, 3)
    (axes,) = figure.axes
    epochs = [line["epoch"] for line in run.validations]
    for number, (key, label) in enumerate((("top1", "top-1"), ("mean_per_class", "mean per class"),
                                           ("top5", "top-5"))):  # fmt: skip
        axes.plot(
            epochs, [100 * line[key] for line in run.validations], label=label, markersize=4,
            color=plots.SERIES[number], marker=_MARKERS[number], linestyle=("-", "--", ":")[number],
        )  # fmt: skip
    _mark_best(axes, run)
    _over_epochs(axes, "accuracy on val, %")
    top1 = [100 * line["top1"] for line in run.validations]
    said = f"Top-1 on val from {_first_last(top1)} per cent, at most {max(top1):.2f}."
    return Drawing("accuracy", figure, "Accuracy on val after each epoch.", said)


def _terms(run: ReportedRun, epochs: NDArray[Any], names: Sequence[str]) -> Drawing:
    figure = plots.new_figures(7, 1.7 * len(names), rows=len(names))
    said = []
    for number, (axes, name) in enumerate(zip(figure.axes, names, strict=True)):
        values = np.array([line[name] for line in run.steps])
        axes.plot(
            *_thinned(epochs, values), color=plots.SERIES[number % len(plots.SERIES)], linewidth=1
        )
        title = name.replace("_", " ")
        axes.set_ylabel(title)
        said.append(f"{title} from {_first_last(values)}")
    plots.whole_numbers(figure.axes[-1])
    figure.axes[-1].set_xlabel("epoch")
    caption = "What the loss is made of, step by step, and the length of its gradient."
    return Drawing("loss_terms", figure, caption, "; ".join(said) + ".")


def _rates(run: ReportedRun, epochs: NDArray[Any]) -> Drawing:
    figure = plots.new_figure(7, 2.6)
    (axes,) = figure.axes
    trained, said = "backbone" if run.results["model"] == "full" else "adapter", []
    for number, (key, label) in enumerate((("lr", trained), ("head_lr", "head"))):
        values = np.array([line[key] for line in run.steps])
        axes.plot(
            *_thinned(epochs, values), color=plots.SERIES[number], linestyle=("-", "--")[number],
            label=label,
        )  # fmt: skip
        said.append(f"{label}: at most {values.max():.2g}, at the end {values[-1]:.2g}")
    _over_epochs(axes, "learning rate")
    return Drawing("learning_rate", figure, "Learning rates.", "; ".join(said) + ".")


def confused_pairs(predictions: Sequence[Prediction]) -> list[tuple[str, str, int]]:
    """(what it is, what it was taken for, photos), the most photos first."""
    counts = Counter((each.label, each.answer) for each in predictions if not each.is_hit)
    return [(*pair, count) for pair, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]


def confusion(predictions: Sequence[Prediction]) -> Drawing:
    """A square a pair of classes; more ink, a larger share of the class's photos."""
    classes = sorted({each.label for each in predictions} | {each.answer for each in predictions})
    caption = "Rows: what a photo is. Columns: what it was taken for."
    if len(classes) > MATRIX_CLASSES:
        involved: Counter[str] = Counter()
        for label, answer, count in confused_pairs(predictions):
            involved.update({label: count, answer: count})
        most = {name for name, _ in involved.most_common(MATRIX_CLASSES)}
        classes = [name for name in classes if name in most]
        caption += f" Of all classes the {MATRIX_CLASSES} that are confused most."
    place = {name: number for number, name in enumerate(classes)}
    photos = Counter(each.label for each in predictions)
    pairs = Counter((each.label, each.answer) for each in predictions)
    side = max(7.0, 2.2 + 0.16 * len(classes))
    figure = plots.new_figure(side, side)
    (axes,) = figure.axes
    squares: dict[bool, list[tuple[int, int, float]]] = {True: [], False: []}
    for (label, answer), count in pairs.items():
        if label in place and answer in place:
            squares[label == answer].append((place[answer], place[label], count / photos[label]))
    for is_hit, series in ((True, 0), (False, 1)):
        plots.squares(axes, squares[is_hit], plots.SERIES[series])
    with plots.settings():
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    worst = "; ".join(f"{label} for {answer}: {n}" for label, answer, n in
                      confused_pairs(predictions)[:5])  # fmt: skip
    said = f"Confusion matrix of {len(classes)} classes. Taken most often: {worst or 'none'}."
    return Drawing("confusion", figure, caption, said)


def class_accuracies(predictions: Sequence[Prediction]) -> list[tuple[str, int, int]]:
    """(class, hits, photos), the lowest accuracy first."""
    photos = Counter(each.label for each in predictions)
    hits = Counter(each.label for each in predictions if each.is_hit)
    found = [(name, hits[name], count) for name, count in photos.items()]
    return sorted(found, key=lambda each: (each[1] / each[2], each[0]))


def per_class(accuracies: Sequence[tuple[str, int, int]]) -> Drawing:
    """A bar a class, with the interval of its few photos."""
    drawn = accuracies[:BAR_CLASSES]
    figure = plots.new_figure(7, 1 + 0.19 * len(drawn))
    (axes,) = figure.axes
    values = np.array([100 * hits / photos for _, hits, photos in drawn])
    ends = 100 * np.array([wilson_interval(hits, photos) for _, hits, photos in drawn])
    axes.barh(
        range(len(drawn)), values, color=plots.SERIES[0], alpha=0.75, height=0.7,
        xerr=[np.maximum(values - ends[:, 0], 0), np.maximum(ends[:, 1] - values, 0)],
        error_kw={"ecolor": plots.INK, "elinewidth": 0.8},
    )  # fmt: skip
    with plots.settings():
        axes.set_yticks(range(len(drawn)), [name for name, _, _ in drawn], fontsize=8)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, %")
    caption = "Accuracy per class, the lowest first; the lines are 95 % intervals."
    if len(drawn) < len(accuracies):
        caption += f" The lowest {len(drawn)} of {len(accuracies)}."
    said = ", ".join(
        f"{name} {value:.0f}" for (name, _, _), value in zip(drawn, values, strict=True)
    )
    return Drawing("per_class", figure, caption, f"In per cent, the lowest first: {said}.")


def calibration(predictions: Sequence[Prediction]) -> Drawing:
    """How often a model is right, against how sure it is; and how many photos each bar holds."""
    sureness = np.array([each.probability for each in predictions])
    hits = np.array([each.is_hit for each in predictions])
    bins = np.clip(np.ceil(sureness * BINS).astype(int) - 1, 0, BINS - 1)
    figure = plots.new_figures(7, 5.5, rows=2, ratios=(3, 1))
    shares, counts = figure.axes
    shares.plot([0, 100], [0, 100], color=plots.INK, linewidth=0.8, linestyle="--")
    said = []
    for number in sorted(set(bins.tolist())):
        inside = bins == number
        right, sure = 100 * hits[inside].mean(), 100 * sureness[inside].mean()
        centre = 100 * (number + 0.5) / BINS
        shares.bar(centre, right, width=90 / BINS, color=plots.SERIES[0], alpha=0.75)
        shares.plot([sure], [right], marker="o", markersize=4, color=plots.SERIES[1], clip_on=False)
        counts.bar(centre, int(inside.sum()), width=90 / BINS, color=plots.SERIES[2], alpha=0.75)
        said.append(f"{sure:.0f} sure, {right:.0f} right, {int(inside.sum())} photos")
    for axes in (shares, counts):
        axes.set_xlim(0, 100)
    shares.set_ylabel("right, %")
    shares.set_ylim(0, 100)
    counts.set_ylabel("photos")
    counts.set_xlabel("how sure the model is, %")
    caption = (
        "Bars: the share that is right of the photos in each band of sureness. On the dashed line "
        "a model is as often right as it says; below it, it is too sure. Dots: the band's mean."
    )
    return Drawing("calibration", figure, caption, f"In per cent: {'; '.join(said)}.")


def embedding_map(embeddings: Embeddings, predictions: Sequence[Prediction]) -> Drawing:
    """The photos on their embeddings' two principal components, before and after."""
    labels = [predictions[row].label for row in embeddings.rows.tolist()]
    shown = _told_apart(labels, predictions)
    panels = [("after training", embeddings.after)]
    if embeddings.before is not None:
        panels.insert(0, ("before training", embeddings.before))
    figure = plots.new_figures(4.2 * len(panels), 4.6, columns=len(panels))
    for axes, (title, points) in zip(figure.axes, panels, strict=True):
        places, share = _principal(points)
        named = np.array([shown.index(label) if label in shown else -1 for label in labels])
        others = places[named < 0]
        axes.scatter(others[:, 0], others[:, 1], s=9, color=plots.INK, alpha=0.25, linewidths=0)
        for number, name in enumerate(shown):
            x, y = places[named == number].T
            colour, marker = plots.SERIES[number], _MARKERS[number]
            axes.scatter(x, y, s=24, color=colour, marker=marker, linewidths=0, label=name)
        if len(panels) > 1:
            axes.set_title(title, fontsize=10, color=plots.INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{100 * share:.0f} % of the variance", fontsize=8)
    with plots.settings():
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
            fontsize=8, labelcolor=plots.INK, frameon=False,
        )  # fmt: skip
    caption = f"{len(labels):,} photos on the two principal components of their embeddings."
    if len(set(labels)) > len(shown):
        caption += " In colour the classes of the pairs that are confused most."
    said = f"A map of {len(labels):,} photos; in colour: {', '.join(shown)}."
    return Drawing("embeddings", figure, caption, said)


def _told_apart(labels: Sequence[str], predictions: Sequence[Prediction]) -> list[str]:
    """As many classes as there are colours: those most confused, then those with most photos."""
    wanted = [name for label, answer, _ in confused_pairs(predictions) for name in (label, answer)]
    wanted += [name for name, _ in Counter(labels).most_common()]
    return [name for name in dict.fromkeys(wanted) if name in set(labels)][: len(plots.SERIES)]


def _principal(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """(M, 2) on the two directions of most variance, and the share of it that they hold."""
    centred = points - points.mean(0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(points), 2), np.float32)
    places[:, : len(lengths[:2])] = left[:, :2] * lengths[:2]
    total = float((lengths**2).sum())
    return places, float((lengths[:2] ** 2).sum()) / total if total else 1.0


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Neighbouring points as their mean, so that not too many are left."""
    size = math.ceil(len(x) / DRAWN_STEPS)
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _mark_best(axes: "Axes", run: ReportedRun) -> None:
    best = run.results["best_epoch"]
    if best is not None:
        axes.axvline(best, color=plots.INK, linewidth=0.8, linestyle=":", label="kept")


def _over_epochs(axes: "Axes", title: str) -> None:
    plots.whole_numbers(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(title)
    axes.legend(labelcolor=plots.INK, frameon=False, fontsize=9)


def _first_last(values: Sequence[float] | NDArray[Any]) -> str:
    return f"{values[0]:.4g} to {values[-1]:.4g}"
