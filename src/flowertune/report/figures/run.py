"""Plot the predictions of a run: confusion, accuracies, calibration, embeddings."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from flowertune.metrics import CALIBRATION_BINS, wilson_interval
from flowertune.report.figures import style
from flowertune.report.figures.style import Figure
from flowertune.runs.finished import Prediction, ReportData

MATRIX_CLASSES = 110  # at most, so that names do not overlap: those with most confusions
BAR_CLASSES = 60  # at most: those with the lowest accuracy
_CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))


def confused_pairs(predictions: Sequence[Prediction]) -> list[tuple[str, str, int]]:
    """Count confusions as (label, predicted, images), most frequent first."""
    counts = Counter((p.label, p.predicted) for p in predictions if not p.is_correct)
    return [(*pair, count) for pair, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]


def confusion(predictions: Sequence[Prediction]) -> Figure:
    """Plot the confusion matrix, each row normalized by its class size."""
    confused = confused_pairs(predictions)
    classes = sorted({p.label for p in predictions} | {p.predicted for p in predictions})
    caption = (
        "Rows: class. Columns: predicted class. Correct predictions are on the diagonal; the "
        "stronger the color of a square, the larger its share of the row's images."
    )
    if len(classes) > MATRIX_CLASSES:
        involved: Counter[str] = Counter()
        for label, predicted, n in confused:
            involved.update({label: n, predicted: n})
        classes = sorted(name for name, _ in involved.most_common(MATRIX_CLASSES))
        caption += f" Only the {MATRIX_CLASSES} classes with most confusions are shown."
    index = {name: number for number, name in enumerate(classes)}
    sizes = Counter(p.label for p in predictions)
    counts = Counter((p.label, p.predicted) for p in predictions)
    side = max(7.0, 2.2 + 0.16 * len(classes))
    figure, (axes,) = style.new_figure(side, side)
    for is_correct, color in ((True, style.SERIES[0]), (False, style.SERIES[1])):
        shares = {
            (index[predicted], index[label]): n / sizes[label]
            for (label, predicted), n in counts.items()
            if (label == predicted) is is_correct and label in index and predicted in index
        }
        squares = [[(x + dx, y + dy) for dx, dy in _CORNERS] for x, y in shares]
        colors = [to_rgba(color, 0.2 + 0.8 * share) for share in shares.values()]
        axes.add_collection(PolyCollection(squares, facecolors=colors))
    with style.settings():
        size = 9 if len(classes) <= 30 else 7
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=size)
        axes.set_yticks(range(len(classes)), classes, fontsize=size)
    axes.grid(color=style.INK, linewidth=0.4, alpha=0.25)  # lines lead from a square to its names
    axes.set_axisbelow(True)
    ends = (-0.5, len(classes) - 0.5)
    axes.set(xlim=ends, ylim=ends[::-1], aspect="equal", xlabel="predicted as", ylabel="class")
    worst = "; ".join(f"{label} predicted as {other} ({n})" for label, other, n in confused[:5])
    text = f"Matrix of {len(classes)} classes. Most frequent confusions: {worst or 'none'}."
    return Figure("confusion", figure, caption, text)


def class_accuracies(predictions: Sequence[Prediction]) -> list[tuple[str, int, int]]:
    """Count predictions as (class, correct, images), lowest accuracy first."""
    sizes = Counter(p.label for p in predictions)
    n_correct = Counter(p.label for p in predictions if p.is_correct)
    counts = [(name, n_correct[name], size) for name, size in sizes.items()]
    return sorted(counts, key=lambda row: (row[1] / row[2], row[0]))


def per_class(accuracies: Sequence[tuple[str, int, int]]) -> Figure:
    """Plot the accuracy per class with its interval."""
    shown = accuracies[:BAR_CLASSES]
    figure, (axes,) = style.new_figure(7, 1 + 0.19 * len(shown))
    values = np.array([100 * n_correct / n for _, n_correct, n in shown])
    ends = 100 * np.array([wilson_interval(n_correct, n) for _, n_correct, n in shown])
    axes.barh(
        range(len(shown)), values, color=style.SERIES[0], alpha=0.75, height=0.7,
        xerr=[np.maximum(values - ends[:, 0], 0), np.maximum(ends[:, 1] - values, 0)],
        error_kw={"ecolor": style.INK, "elinewidth": 0.8},
    )  # fmt: skip
    with style.settings():
        axes.set_yticks(range(len(shown)), [name for name, _, _ in shown], fontsize=8)
    axes.set(xlim=(0, 100), ylim=(len(shown) - 0.4, -0.6), xlabel="accuracy, %")
    caption = "Accuracy per class, lowest first. Error bars: 95% intervals."
    if len(shown) < len(accuracies):
        caption += f" Only the lowest {len(shown)} of {len(accuracies)} are shown."
    alternative = ", ".join(f"{name} {100 * right / n:.0f}" for name, right, n in shown)
    return Figure("per_class", figure, caption, f"Accuracy in %, lowest first: {alternative}.")


def calibration(predictions: Sequence[Prediction]) -> Figure:
    """Plot accuracy against confidence, and the number of images per bin."""
    confidence = np.array([p.probability for p in predictions])
    correct = np.array([p.is_correct for p in predictions])
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    width = 90 / CALIBRATION_BINS
    figure, (shares, counts) = style.new_figure(7, 5.5, nrows=2, sharex=True, height_ratios=(3, 1))
    shares.plot([0, 100], [0, 100], color=style.INK, linewidth=0.8, linestyle="--")
    bands = []
    for number, n in zip(*np.unique(bins, return_counts=True), strict=True):
        right, sure = (100 * values[bins == number].mean() for values in (correct, confidence))
        center = 100 * (number + 0.5) / CALIBRATION_BINS
        shares.bar(center, right, width=width, color=style.SERIES[0], alpha=0.75)
        shares.plot([sure], [right], marker="o", markersize=4, color=style.SERIES[1], clip_on=False)
        counts.bar(center, n, width=width, color=style.SERIES[2], alpha=0.75)
        bands.append(f"confidence {sure:.0f}, accuracy {right:.0f}, {n} images")
    shares.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
    counts.set(xlim=(0, 100), ylabel="images", xlabel="confidence, %")
    caption = (
        "Bars: accuracy of the images in each confidence bin. Dots: the bin's mean confidence. On "
        "the dashed line accuracy equals confidence; below it the model is overconfident."
    )
    return Figure("calibration", figure, caption, f"In %: {'; '.join(bands)}.")


def embedding_map(embeddings: ReportData, predictions: Sequence[Prediction]) -> Figure:
    """Plot the first two principal components of the embeddings before and after training."""
    labels = np.array([predictions[row].label for row in embeddings.rows])
    classes = _choose_classes(labels.tolist(), predictions)
    phases = {"before training": embeddings.before, "after training": embeddings.after}
    panels = {title: points for title, points in phases.items() if points is not None}
    figure, all_axes = style.new_figure(7, 4.6 if len(panels) > 1 else 6, ncols=len(panels))
    for axes, (title, points) in zip(all_axes, panels.items(), strict=True):
        projected, share = _principal_components(points)
        x, y = projected[~np.isin(labels, classes)].T
        axes.scatter(x, y, s=9, color=style.INK, alpha=0.25, linewidths=0)
        for name, color, marker in zip(classes, style.SERIES, style.MARKERS, strict=False):
            x, y = projected[labels == name].T
            axes.scatter(x, y, s=24, color=color, marker=marker, linewidths=0, label=name)
        if len(panels) > 1:
            axes.set_title(title, fontsize=11, color=style.INK)
        axes.set(xticks=[], yticks=[], xlabel=f"{100 * share:.0f}% of the variance")
    with style.settings():
        figure.legend(
            *all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
            fontsize=9, labelcolor=style.INK, frameon=False,
        )  # fmt: skip
    caption = f"Embeddings of {len(labels):,} images on their first two principal components."
    if len(set(labels.tolist())) > len(classes):
        caption += " Colored: the classes confused most."
    alternative = f"Map of {len(labels):,} images; colored classes: {', '.join(classes)}."
    return Figure("embeddings", figure, caption, alternative)


def _choose_classes(labels: Sequence[str], predictions: Sequence[Prediction]) -> list[str]:
    """Choose a class per color: first the most confused, then the most frequent."""
    names = [name for label, other, _ in confused_pairs(predictions) for name in (label, other)]
    names += [name for name, _ in Counter(labels).most_common()]
    return [name for name in dict.fromkeys(names) if name in set(labels)][: len(style.SERIES)]


def _principal_components(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Project on the first two principal components: (M, 2), and their share of variance."""
    centered = points - points.mean(0)
    # of the (E, E) scatter matrix: takes a hundredth of the time of an SVD of the points
    variances, directions = np.linalg.eigh(centered.T @ centered)
    total = float(variances.sum())
    return centered @ directions[:, :-3:-1], float(variances[-2:].sum()) / total if total else 1.0
