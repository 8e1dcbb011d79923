"""Agreement figures against numbers worked by hand, published, or given by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import cohen_kappa_score

from cbctool.run import agreement as ag

# Peak expiratory flow by two meters, first readings (Bland & Altman, Lancet 1986, table 1).
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI_WRIGHT = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_iou_of_boxes_worked_by_hand():
    iou = ag.iou_matrix([[0, 0, 10, 10]], [[0, 0, 10, 10], [0, 5, 10, 15], [10, 0, 20, 10], [2, 2, 4, 4]])
    np.testing.assert_allclose(iou, [[1.0, 50 / 150, 0.0, 0.04]])


def test_iou_of_two_empty_boxes_is_zero():
    assert ag.iou_matrix([[3, 3, 3, 3]], [[3, 3, 3, 3]])[0, 0] == 0.0


def test_optimal_assignment_gives_up_the_best_pair_for_two_pairs():
    # The second detection fits both boxes, and the first box best; greedy matching would leave the second box alone.
    truth = [[0, 0, 10, 10], [0, 3, 10, 13]]
    found = [[0, -3, 10, 7], [0, 1, 10, 11]]
    assert ag.match_by_iou(truth, found, 0.5).tolist() == [[0, 0], [1, 1]]


def test_second_detection_of_one_cell_is_no_match():
    assert len(ag.match_by_iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [0, 0, 10, 9]])) == 1
    assert ag.match_by_centre([[0, 0, 10, 10]], [[5.5, 5], [5, 5]]).tolist() == [[0, 1]]


def test_centre_on_the_far_edge_is_outside_the_half_open_box():
    assert len(ag.match_by_centre([[0, 0, 10, 10]], [[10, 5]])) == 0
    assert len(ag.match_by_centre([[0, 0, 10, 10]], [[0, 0]])) == 1


def test_points_match_within_the_radius_and_one_to_one():
    pairs = ag.match_by_distance([[0, 0], [0, 6]], [[0, 3], [0, 9.5], [50, 50]], radius=4)
    assert pairs.tolist() == [[0, 0], [1, 1]]
    assert len(ag.match_by_distance([[0, 0]], [[0, 4.01]], radius=4)) == 0


@pytest.mark.parametrize("match", [ag.match_by_iou, ag.match_by_centre])
def test_nothing_matches_nothing(match):
    width = 4 if match is ag.match_by_iou else 2
    assert match(np.zeros((0, 4)), np.zeros((3, width))).shape == (0, 2)
    assert match(np.zeros((3, 4)), np.zeros((0, width))).shape == (0, 2)


@given(hnp.arrays(float, st.tuples(st.integers(0, 8), st.just(2)), elements=st.floats(0, 50)))
def test_points_always_match_themselves(points):
    assert len(ag.match_by_distance(points, points, radius=0.0)) == len(points)


@given(
    hnp.arrays(float, st.tuples(st.integers(0, 6), st.just(2)), elements=st.floats(0, 20)),
    hnp.arrays(float, st.tuples(st.integers(0, 6), st.just(2)), elements=st.floats(0, 20)),
    st.floats(0, 10),
)
def test_matching_is_symmetric_in_size_and_one_to_one(first, second, radius):
    pairs = ag.match_by_distance(first, second, radius)
    assert len(pairs) == len(ag.match_by_distance(second, first, radius))
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)


def test_recall_precision_f1_worked_by_hand():
    counts = ag.DetectionCounts(8, 2, 0) + ag.DetectionCounts(1, 1, 3, ignored=2)
    assert (counts.true_positives, counts.false_negatives, counts.false_positives, counts.ignored) == (9, 3, 3, 2)
    assert counts.recall == counts.precision == counts.f1 == 0.75
    assert math.isnan(ag.DetectionCounts(0, 0, 1).recall)


def test_count_error_worked_by_hand():
    error = ag.count_error([10, 20, 30], [12, 18, 33])
    assert (error.annotated, error.found) == (60, 63)
    assert error.total == pytest.approx(0.05)
    assert error.mean_absolute_per_field == pytest.approx(7 / 3)
    assert error.bias_per_field == pytest.approx(1.0)
    assert math.isnan(ag.count_error([0], [3]).total)


def test_scale_takes_the_median_side_of_whole_red_cells_only():
    boxes = [[10, 10, 85, 85], [10, 100, 85, 175], [100, 10, 172, 82], [0, 200, 40, 275], [100, 200, 175, 300]]
    um_per_px, n = ag.red_cell_scale(boxes, height=400, width=300)
    assert n == 3  # one is cut by the top, one by the right edge
    assert um_per_px == pytest.approx(0.1)
    assert math.isnan(ag.red_cell_scale([], 10, 10)[0])


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (5, 100, 0.016, 0.113),
        (10, 200, 0.024, 0.090),
        (20, 400, 0.031, 0.076),
        (0, 100, 0.0, 0.036),
        (0, 0, None, None),
    ],
)
def test_exact_interval_is_that_of_ruemkes_table(k, n, low, high):
    interval = ag.exact_interval(k, n)
    if low is None:
        assert all(map(math.isnan, interval))
    else:
        assert interval == pytest.approx((low, high), abs=6e-4)


def test_kappa_of_full_agreement_has_no_interval():
    kappa = ag.cohen_kappa([[3, 0], [0, 2]])
    assert kappa.kappa == 1.0
    assert np.isnan(kappa.interval).all()


def test_same_share_is_that_of_fishers_tea():
    assert ag.same_share((3, 4), (1, 4)) == pytest.approx(34 / 70)


def test_sign_test_worked_by_hand():
    assert ag.sign_test(0, 0) == 1.0
    assert ag.sign_test(5, 0) == pytest.approx(2 / 32)
    assert ag.sign_test(1, 2) == 1.0


def test_confusion_keeps_calls_that_are_no_class_apart():
    m = ag.confusion_matrix([0, 0, 1, 1, 1], [0, 2, 1, 1, 0], rows=2, columns=3)
    assert m.tolist() == [[1, 0, 1], [1, 2, 0]]
    first, second = ag.class_rates(m)
    assert (first.true_positives, first.false_negatives, first.false_positives, first.true_negatives) == (1, 1, 1, 2)
    assert first.sensitivity == 0.5
    assert first.specificity == pytest.approx(2 / 3)
    assert second.sensitivity == pytest.approx(2 / 3)
    assert second.specificity == 1.0
    assert second.sensitivity_interval == ag.exact_interval(2, 3)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_kappa_is_that_of_scikit_learn(weights):
    rng = np.random.default_rng(4)
    a = rng.integers(0, 4, 200)
    b = np.where(rng.random(200) < 0.6, a, rng.integers(0, 4, 200))
    kappa = ag.cohen_kappa(ag.confusion_matrix(a, b, 4), weights)
    assert kappa.kappa == pytest.approx(cohen_kappa_score(a, b, weights=weights))
    assert kappa.interval[0] < kappa.kappa < kappa.interval[1]


def test_kappa_interval_of_fleiss_cohen_everitt_worked_by_hand():
    # Cohen's example of two judges: observed 0.70, expected 0.50, kappa 0.40; standard error 0.0917 at n = 100, from
    # the formula for a 2 x 2 table with even margins, sqrt(po (1 - po) / n) / (1 - pe).
    kappa = ag.cohen_kappa([[35, 15], [15, 35]])
    assert kappa.kappa == pytest.approx(0.4)
    assert kappa.interval[1] - kappa.kappa == pytest.approx(1.96 * math.sqrt(0.7 * 0.3 / 100) / 0.5, rel=1e-3)


def test_kappa_of_a_constant_judge_pair_is_unknown_and_misuse_is_refused():
    assert math.isnan(ag.cohen_kappa([[7, 0], [0, 0]]).kappa)
    assert math.isnan(ag.cohen_kappa(np.zeros((2, 2))).kappa)
    with pytest.raises(ValueError, match="square"):
        ag.cohen_kappa(np.zeros((2, 3)))


def test_bland_altman_gives_the_published_figures():
    result = ag.bland_altman(MINI_WRIGHT, WRIGHT)
    assert result.bias == pytest.approx(-2.1, abs=0.05)
    assert result.sd == pytest.approx(38.8, abs=0.05)
    # Published with 2 s: -79.7 to 75.5; the interval of the mean -22.0 to 17.8.
    assert result.bias - 2 * result.sd == pytest.approx(-79.7, abs=0.1)
    assert result.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)
    assert result.lower == pytest.approx(result.bias - 1.95996 * result.sd, abs=1e-3)


def test_bland_altman_of_one_pair_has_no_limits():
    result = ag.bland_altman([1], [3])
    assert result.bias == 2
    assert math.isnan(result.lower)


def test_passing_bablok_of_a_straight_line_is_that_line():
    x = np.arange(10.0)
    fit = ag.passing_bablok(x, 2 * x + 1)
    assert (fit.slope, fit.intercept) == pytest.approx((2, 1))
    assert fit.slope_interval == pytest.approx((2, 2))


def test_passing_bablok_worked_by_hand():
    # Slopes of (1,1) (2,3) (3,2) (4,5): 2, 1/2, 4/3, -1 (left out), 1, 3; none below -1. Sorted 1/2 1 4/3 2 3.
    fit = ag.passing_bablok([1, 2, 3, 4], [1, 3, 2, 5])
    assert fit.slope == pytest.approx(4 / 3)
    # y - 4/3 x: -1/3, 1/3, -2, -1/3
    assert fit.intercept == pytest.approx(-1 / 3)


def test_passing_bablok_shifts_by_the_slopes_below_minus_one():
    # Slopes: 1, 1.25 (x 2), -5 and so on; one steep fall moves the median up by one rank.
    x, y = [0, 1, 2, 2.5], [0, 1, 5, 0]
    slopes = sorted((y[j] - y[i]) / (x[j] - x[i]) for i in range(4) for j in range(i + 1, 4))
    below = sum(s < -1 for s in slopes)
    assert below == 1
    assert ag.passing_bablok(x, y).slope == pytest.approx((slopes[2 + below] + slopes[3 + below]) / 2)


def test_passing_bablok_needs_three_different_values():
    assert math.isnan(ag.passing_bablok([1, 1, 2, 2], [1, 2, 3, 4]).slope)


@given(st.integers(0, 2**32 - 1))
def test_passing_bablok_does_not_care_which_method_comes_first(seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 60, 21)
    y = 0.9 * x + rng.normal(0, 3, 21)
    there, back = ag.passing_bablok(x, y), ag.passing_bablok(y, x)
    assert there.slope * back.slope == pytest.approx(1.0, rel=0.02)
