"""Intervals and tests, compared with SciPy, exhaustive counts and values computed by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from flowertune.analysis.statistics import (
    difference_from_published,
    estimate,
    mcnemar,
    t_half_width,
)


def hits(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], ...]:
    """Correct predictions of two models, with these numbers of images of each kind."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    counts = (both, only_first, only_second, neither)
    pairs = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def test_three_seeds_have_the_t_interval_of_two_degrees_of_freedom() -> None:
    # by hand: std 0.01, t = 4.3027
    assert t_half_width([0.90, 0.91, 0.92]) == pytest.approx(4.3027 * 0.01 / math.sqrt(3), 1e-4)


@pytest.mark.parametrize("runs", [2, 3, 5, 20])
def test_the_interval_over_seeds_equals_scipys(runs: int) -> None:
    values = np.random.default_rng(runs).normal(0.8, 0.01, runs)
    expected = stats.t.interval(0.95, runs - 1, values.mean(), stats.sem(values))
    over_seeds = estimate([{"top1": value} for value in values.tolist()], "top1")
    assert over_seeds.interval == pytest.approx(expected)


def test_an_interval_of_accuracies_is_clipped_at_one() -> None:
    interval = estimate([{"top1": value} for value in (0.98, 0.99, 1.0)], "top1").interval
    assert interval is not None
    assert interval[1] == 1.0
    assert interval[0] == pytest.approx(0.99 - 4.3027 * 0.01 / math.sqrt(3), abs=1e-6)


def test_a_difference_includes_the_sampling_error_of_the_published_number() -> None:
    # by hand: half-widths of 0.712 points for 91.09% of 6,149 images, 2.484 for three seeds
    found = difference_from_published([0.90, 0.91, 0.92], 6149, 0.9109)
    assert found.value == pytest.approx(-0.0009)
    assert found.high - found.value == pytest.approx(math.hypot(0.00712, 0.02484), rel=1e-3)
    assert found.includes_zero
    # equal seeds: only the sampling error of the published number is left
    agreeing = difference_from_published([0.92, 0.92, 0.92], 6149, 0.9109)
    assert agreeing.high - agreeing.low == pytest.approx(2 * 0.00712, rel=1e-3)
    assert not agreeing.includes_zero
    # a single run: its sampling error
    single = difference_from_published([0.92], 6149, 0.9109)
    assert single.high - single.value == pytest.approx(math.hypot(0.00712, 0.00678), rel=1e-3)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 8), (8, 1), (5, 5), (3, 7)])
def test_mcnemars_p_equals_a_count_of_all_outcomes(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    as_uneven = sum(
        abs(2 * sum(coins) - n) >= abs(only_first - only_second)
        for coins in product((0, 1), repeat=n)
    )
    found = mcnemar(*hits(40, only_first, only_second, 7))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p == pytest.approx(as_uneven / 2**n)


def test_mcnemars_p_of_many_images_equals_scipys() -> None:
    found = mcnemar(*hits(5400, 210, 260, 279))
    assert found.p == pytest.approx(stats.binomtest(210, 470).pvalue)
    assert found.difference.value == pytest.approx(50 / 6149)


def test_the_interval_of_a_paired_difference_equals_bonett_and_prices() -> None:
    # by hand, n = 100: shares 4/102 and 12/102, z = 1.96
    found = mcnemar(*hits(80, 3, 11, 6)).difference
    assert found.value == pytest.approx(0.08)
    center, half = 8 / 102, 1.95996 * math.sqrt((16 / 102 - (8 / 102) ** 2) / 102)
    assert (found.low, found.high) == pytest.approx((center - half, center + half), abs=1e-5)


def test_it_contains_the_true_difference_in_95_percent_of_draws() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.multinomial(200, [0.8, 0.04, 0.10, 0.06], size=1000)
    found = [mcnemar(*hits(*map(int, counts))).difference for counts in kinds]
    held = sum(each.low <= 0.06 <= each.high for each in found)
    assert 930 <= held <= 975
