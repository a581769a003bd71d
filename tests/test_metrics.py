"""What is measured, against loops that anybody can check."""

import json
import math
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from scipy.stats import binomtest

from flowertune.metrics import measure, wilson_interval


def naive(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | list[float | None]]:
    """The same numbers from Python floats, one photo at a time."""
    classes = logits.shape[1]
    hits = [0] * classes
    photos = [0] * classes
    top5 = 0
    loss = 0.0
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        largest = max(row)
        weights = [math.exp(value - largest) for value in row]
        probabilities = [weight / sum(weights) for weight in weights]
        loss -= math.log(probabilities[label])
        order = sorted(range(classes), key=lambda c: -row[c])
        photos[label] += 1
        hits[label] += order[0] == label
        top5 += label in order[:5]
        confidence = probabilities[order[0]]
        bins[min(14, int(confidence * 15))].append((confidence, order[0] == label))
    n = len(labels)
    per_class = [h / p if p else None for h, p in zip(hits, photos, strict=True)]
    present = [value for value in per_class if value is not None]
    gaps = (abs(sum(c for c, _ in b) - sum(hit for _, hit in b)) for b in bins)
    return {
        "n": n,
        "loss": loss / n,
        "top1": sum(hits) / n,
        "top5": top5 / n,
        "mean_per_class": sum(present) / len(present),
        "per_class": per_class,
        "ece": sum(gaps) / n,
    }


def example(n: int, classes: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (n,), generator=draws)
    logits = torch.randn(n, classes, generator=draws)
    logits[torch.arange(n), labels] += 1
    return scale * logits, labels


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (4, 3.0), (7, 2.0), (30, 20.0)])
def test_equals_the_naive_loop(classes: int, scale: float) -> None:
    logits, labels = example(200, classes, scale)
    measured = asdict(measure(logits, labels))
    expected = naive(logits, labels)
    measured.pop("top1_interval")
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_a_class_without_photos_does_not_lower_the_mean_though_it_was_predicted() -> None:
    logits = torch.eye(3)[[0, 0, 1, 2]] * 5
    labels = torch.tensor([0, 0, 1, 1])  # no photo of class 2, one prediction of it
    metrics = measure(logits, labels)
    assert metrics.per_class == [1.0, 0.5, None]
    assert metrics.mean_per_class == 0.75
    assert metrics.top1 == 0.75


def test_logits_between_0_and_1_are_still_logits() -> None:
    logits, labels = example(60, 6, 1.0)
    squeezed = (logits - logits.min()) / (logits.max() - logits.min())
    assert measure(squeezed, labels).ece == pytest.approx(naive(squeezed, labels)["ece"], abs=1e-6)


def test_certainty_falls_into_the_last_of_15_bins() -> None:
    # 0.97 right and 1.0 wrong share the bin above 14/15: the gap is |1.97 - 1| / 2, not more.
    logits = torch.tensor([[math.log(0.97 / 0.03), 0.0], [200.0, 0.0]])
    labels = torch.tensor([0, 1])
    assert measure(logits, labels).ece == pytest.approx(0.97 / 2, abs=1e-6)


def test_top5_of_fewer_classes_counts_all_of_them() -> None:
    logits, labels = example(20, 3, 1.0)
    assert measure(logits, labels).top5 == 1.0


def test_half_precision_logits_that_carry_a_gradient_are_measured() -> None:
    logits, labels = example(40, 6, 2.0)
    rounded = logits.bfloat16()
    metrics = measure(rounded.clone().requires_grad_(), labels)
    assert metrics == measure(rounded.float(), labels)


# the largest size that the process has had, before and after; in KiB (macOS: bytes)
MANY_CLASSES = """
import resource, torch
from flowertune.metrics import measure
def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.use_deterministic_algorithms(True)
labels = torch.arange(2000) % 1081
measure(torch.eye(7)[[0]], labels[:1])
before = largest()
measure(torch.eye(1081)[labels], labels)
print(largest() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux's KiB")
def test_the_memory_of_many_classes_is_that_of_their_logits() -> None:
    # A count over photos x classes^2 took 18 GB of 1,081 classes' 8,000 photos.
    command = [sys.executable, "-c", MANY_CLASSES]
    grown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    logits = 2000 * 1081 * 4 / 1024
    assert int(grown) < 8 * logits


def test_the_dictionary_is_plain_json() -> None:
    logits = torch.eye(3)[[0, 1]]
    metrics = asdict(measure(logits, torch.tensor([0, 1])))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["per_class"] == [1.0, 1.0, None]


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 340), (340, 340), (315, 340), (3, 7), (5720, 6149)]
)
def test_wilson_interval_equals_scipy(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(hits, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= hits / n <= high <= 1


def test_the_interval_is_that_of_top1() -> None:
    logits, labels = example(50, 4, 1.0)
    metrics = measure(logits, labels)
    assert metrics.top1_interval == list(wilson_interval(round(metrics.top1 * 50), 50))
