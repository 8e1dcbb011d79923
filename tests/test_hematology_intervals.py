"""Exact intervals, and those that add the classifier's own error."""

import numpy as np
import pytest
from counted import CONFUSION
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cbctool.hematology.intervals import (
    ErrorAllowance,
    clopper_pearson,
    false_positive_limit,
    poisson_limit,
    total_interval,
)
from cbctool.records import CLASSES, LEUKOCYTES

COLUMNS = [CLASSES.index(c) for c in LEUKOCYTES]


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(5, 100, 1.6, 11.3), (10, 200, 2.4, 9.0), (20, 400, 3.1, 7.6), (50, 1000, 3.7, 6.5), (0, 100, 0, 3.6)],
)
def test_clopper_pearson_gives_ruemkes_table(count, total, low, high):
    found = clopper_pearson(count, total)
    assert [round(100 * float(limit), 1) for limit in found] == [low, high]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_is_the_binomial_test_turned_round(count_and_total):
    count, total = count_and_total
    low, high = clopper_pearson(count, total)
    if count:
        assert stats.binom.sf(count - 1, total, low) == pytest.approx(0.025, rel=1e-6)
    if count < total:
        assert stats.binom.cdf(count, total, high) == pytest.approx(0.025, rel=1e-6)


def test_without_cells_nothing_is_known():
    assert clopper_pearson(0, 0) == (0, 1)


def test_more_hits_than_cells_is_a_mistake():
    with pytest.raises(ValueError, match="between 0 and their total"):
        clopper_pearson(3, 2)


@given(st.lists(st.integers(0, 300), min_size=6, max_size=6))
def test_total_interval_lies_around_the_sampling_interval(counts):
    low, high = total_interval(counts, CONFUSION)
    sampling_low, sampling_high = clopper_pearson(counts, sum(counts))
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= sampling_low).all()
    assert (high >= sampling_high).all()


def test_a_worse_confusion_widens_the_interval():
    worse = np.array(CONFUSION) + 40 - 40 * 8 * np.eye(8, dtype=int)
    counts = [120, 60, 10, 6, 2, 2]
    low, high = total_interval(counts, CONFUSION)
    worse_low, worse_high = total_interval(counts, worse)
    assert (worse_low <= low).all()
    assert (worse_high >= high).all()
    assert worse_low[0] < low[0]


def test_many_slides_at_once_as_one_by_one():
    counts = np.array([[120, 60, 10, 6, 2, 2], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    together = np.array(total_interval(counts, CONFUSION))
    single = np.array([total_interval(row, CONFUSION) for row in counts]).transpose(1, 0, 2)
    np.testing.assert_allclose(together, single)


@pytest.mark.parametrize("recall", [0.95, 0.80])
def test_total_interval_covers_the_truth_under_another_laboratorys_confusion(recall):
    rng = np.random.default_rng(7)
    slides, leukocytes = 1000, 200
    rates = np.zeros((slides, 6, 8))
    for row, column in enumerate(COLUMNS):
        others = [c for c in range(8) if c != column]
        rates[:, row, others] = (1 - recall) * rng.dirichlet(np.ones(7), slides)
        rates[:, row, column] = recall
    truth = rng.dirichlet(40 * np.array([0.58, 0.28, 0.07, 0.04, 0.01, 0.02]), slides)
    calls = rng.multinomial(rng.multinomial(leukocytes, truth), rates).sum(axis=1)[:, COLUMNS]
    low, high = total_interval(calls, CONFUSION)
    covered = ((low <= truth) & (truth <= high)).mean(axis=0)
    assert covered.min() >= 0.94
    # Sampling alone does not do it once a fifth is called wrongly, so the allowance is what holds.
    low, high = clopper_pearson(calls, calls.sum(axis=1, keepdims=True))
    if recall < 0.9:
        assert ((low <= truth) & (truth <= high)).mean(axis=0).min() < 0.8


def test_without_allowance_the_interval_is_narrower():
    counts = [120, 60, 10, 6, 2, 2]
    low, high = total_interval(counts, CONFUSION, ErrorAllowance(recall_loss=0.0))
    wide_low, wide_high = total_interval(counts, CONFUSION)
    assert (high - low < wide_high - wide_low).all()


def test_false_positive_limit_grows_with_the_slide_and_with_ignorance():
    assert false_positive_limit([0, 0], [10, 0], [1000, 1000]) == 0
    few = false_positive_limit([100, 0], [10, 0], [1000, 1000])
    many = false_positive_limit([1000, 0], [10, 0], [1000, 1000])
    unsure = false_positive_limit([1000, 0], [1, 0], [100, 100])
    assert few < many < unsure


@given(st.floats(0, 500), st.sampled_from([0.5, 0.95, 0.99]))
def test_poisson_limit_is_the_quantile(expected, confidence):
    assert poisson_limit(expected, confidence) == max(stats.poisson.ppf(confidence, expected), 0)


def test_false_positive_limit_is_rarely_passed_by_mistakes_alone():
    rng = np.random.default_rng(3)
    limit = false_positive_limit([150, 50], [20, 5], [2000, 1000])
    false = rng.binomial(150, 0.01, 20000) + rng.binomial(50, 0.005, 20000)
    assert (false > limit).mean() <= 0.05
    assert limit <= 6
