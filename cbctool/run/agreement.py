"""How well two judgements agree: detections with annotations, calls with names, differentials with differentials.

Pure functions on arrays; boxes are ``(N, 4)`` as ``ymin, xmin, ymax, xmax``, points ``(N, 2)`` as ``row, col``.
Matching is one-to-one and optimal within a field (``scipy.optimize.linear_sum_assignment``): as many pairs as there can
be, and of those assignments the one with the best overlap or the smallest distances. A second detection of one cell is
therefore a false positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import linear_sum_assignment

from cbctool.hematology.intervals import clopper_pearson
from cbctool.records import RED_CELL_UM

IOU_THRESHOLD = 0.5
"""Overlap from which a box counts as the same cell (PASCAL VOC challenge, Everingham et al. 2010)."""

POINT_RADIUS_UM = 5.0
"""A detection belongs to an annotated point within this distance: less than the radius of a lymphocyte's cell plus the
uncertainty of a click, and less than half the distance between two touching leukocytes."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class DetectionCounts:
    """Right, missed and false detections; ``ignored`` ones lie on objects of unknown kind and are neither."""

    true_positives: int
    false_negatives: int
    false_positives: int
    ignored: int = 0

    @property
    def recall(self) -> float:
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def precision(self) -> float:
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def f1(self) -> float:
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_negatives + self.false_positives)

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(
            self.true_positives + other.true_positives,
            self.false_negatives + other.false_negatives,
            self.false_positives + other.false_positives,
            self.ignored + other.ignored,
        )


@dataclass(frozen=True)
class CountError:
    """Cells found against cells annotated. ``total`` is relative and signed; the rest are cells per field."""

    annotated: int
    found: int
    total: float
    mean_absolute_per_field: float
    bias_per_field: float
    limits_per_field: tuple[float, float]


@dataclass(frozen=True)
class BlandAltman:
    """Mean difference (second minus first) and its 95 % limits of agreement, each with a 95 % interval."""

    n: int
    bias: float
    bias_interval: tuple[float, float]
    sd: float
    lower: float
    lower_interval: tuple[float, float]
    upper: float
    upper_interval: tuple[float, float]


@dataclass(frozen=True)
class PassingBablok:
    """Regression of the second method on the first, with 95 % intervals."""

    n: int
    slope: float
    slope_interval: tuple[float, float]
    intercept: float
    intercept_interval: tuple[float, float]


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its large-sample 95 % interval."""

    n: int
    kappa: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class ClassRates:
    """One class against the rest: counts, sensitivity and specificity with exact 95 % intervals, precision, F1."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    sensitivity: float
    sensitivity_interval: tuple[float, float]
    specificity: float
    specificity_interval: tuple[float, float]
    precision: float
    f1: float


# ----------------------------------------------------------------------------------------------------------- detection


def iou_matrix(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Parameters
    ----------
    first, second : (N, 4), (M, 4) array
        ``ymin, xmin, ymax, xmax``, half-open.

    Returns
    -------
    (N, M) float array
    """
    a, b = _boxes(first), _boxes(second)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    union = area_a[:, None] + area_b[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def match_by_iou(truth: ArrayLike, found: ArrayLike, threshold: float = IOU_THRESHOLD) -> NDArray[np.intp]:
    """Pairs ``(truth, found)`` of boxes that overlap by at least ``threshold``.

    Returns
    -------
    (K, 2) int array
        Row per pair, sorted by the first column.
    """
    iou = iou_matrix(truth, found)
    return _assign(iou >= threshold, 1.0 - iou)


def match_by_centre(truth: ArrayLike, centres: ArrayLike) -> NDArray[np.intp]:
    """Pairs of truth boxes and detections whose centre lies in the box; the nearest to the box's middle first.

    Parameters
    ----------
    truth : (N, 4) array
    centres : (M, 2) array
        Row and column of each detection.
    """
    boxes, points = _boxes(truth), _points(centres)
    inside = np.all((points[None] >= boxes[:, None, :2]) & (points[None] < boxes[:, None, 2:]), axis=2)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    return _assign(inside, _distances(middles, points))


def match_by_distance(truth: ArrayLike, centres: ArrayLike, radius: float) -> NDArray[np.intp]:
    """Pairs of truth points and detections no further apart than ``radius`` (same unit as the points)."""
    distances = _distances(_points(truth), _points(centres))
    return _assign(distances <= radius, distances)


def count_error(annotated: Sequence[int], found: Sequence[int]) -> CountError:
    """Error of the counts per field and in total; the total is NaN where nothing is annotated."""
    a, f = np.asarray(annotated, float), np.asarray(found, float)
    if a.shape != f.shape:
        raise ValueError("annotated and found need one count per field each")
    agreement = bland_altman(a, f)
    return CountError(
        int(a.sum()),
        int(f.sum()),
        _share(float(f.sum() - a.sum()), float(a.sum())),
        float(np.abs(f - a).mean()) if a.size else math.nan,
        agreement.bias,
        (agreement.lower, agreement.upper),
    )


def red_cell_scale(boxes: ArrayLike, height: int, width: int, margin: float = 1.0) -> tuple[float, int]:
    """Scale that annotated red cells give: 7.5 um over the median side of the boxes that the edge does not cut.

    Parameters
    ----------
    boxes : (N, 4) array
    height, width : int
        Of the field, pixels.
    margin : float
        A box nearer to the edge than this many pixels counts as cut.

    Returns
    -------
    um_per_px : float
        NaN where no whole red cell is annotated.
    red_cells : int
    """
    b = _boxes(boxes)
    whole = b[np.all(b[:, :2] >= margin, axis=1) & (b[:, 2] <= height - margin) & (b[:, 3] <= width - margin)]
    if not len(whole):
        return math.nan, 0
    sides = np.sqrt(np.prod(whole[:, 2:] - whole[:, :2], axis=1))
    return RED_CELL_UM / float(np.median(sides)), len(whole)


# ------------------------------------------------------------------------------------------------------------- classes


def exact_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact (Clopper-Pearson 1934) interval of a proportion; ``(nan, nan)`` without trials."""
    if trials == 0:
        return math.nan, math.nan
    low, high = clopper_pearson(successes, trials, confidence)
    return float(low), float(high)


def same_share(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Chance of shares (count, total) as different as these where the true one is the same: exact (Fisher 1934)."""
    table = [[count, total - count] for count, total in (first, second)]
    return float(stats.fisher_exact(table).pvalue)


def sign_test(only_first: int, only_second: int) -> float:
    """Chance of so unequal a number where both are as likely: exact, two-sided (McNemar 1947, for few cells)."""
    return float(stats.binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def confusion_matrix(truth: ArrayLike, called: ArrayLike, rows: int, columns: int | None = None) -> NDArray[np.int64]:
    """Counts, row = truth, column = call. More columns than rows hold calls that are no class ("unclassified")."""
    matrix = np.zeros((rows, columns or rows), np.int64)
    np.add.at(matrix, (np.asarray(truth, np.intp), np.asarray(called, np.intp)), 1)
    return matrix


def class_rates(confusion: ArrayLike) -> tuple[ClassRates, ...]:
    """Each class against the rest. Calls in columns past the rows are no class: they count as not calling it."""
    m = np.asarray(confusion, np.int64)
    total = int(m.sum())
    rates = []
    for k in range(m.shape[0]):
        tp, fn = int(m[k, k]), int(m[k].sum() - m[k, k])
        fp = int(m[:, k].sum() - m[k, k])
        tn = total - tp - fn - fp
        rates.append(
            ClassRates(
                tp,
                fn,
                fp,
                tn,
                _share(tp, tp + fn),
                exact_interval(tp, tp + fn),
                _share(tn, tn + fp),
                exact_interval(tn, tn + fp),
                _share(tp, tp + fp),
                _share(2 * tp, 2 * tp + fp + fn),
            )
        )
    return tuple(rates)


def cohen_kappa(confusion: ArrayLike, weights: str | None = None) -> Kappa:
    """Cohen's kappa of a square table of counts (Cohen 1960, 1968).

    Parameters
    ----------
    confusion : (K, K) array
    weights : None, "linear" or "quadratic"
        How much a disagreement by several steps of an ordered scale weighs.

    Returns
    -------
    Kappa
        With the large-sample interval of Fleiss, Cohen and Everitt (1969), which full agreement, or a judge who always
        says the same, leaves without width: it is NaN then. NaN throughout where both always say the same.
    """
    m = np.asarray(confusion, float)
    if m.ndim != 2 or m.shape[0] != m.shape[1]:
        raise ValueError(f"kappa needs a square table, not {m.shape}")
    n = float(m.sum())
    if n == 0:
        return Kappa(0, math.nan, (math.nan, math.nan))
    p = m / n
    step = np.abs(np.subtract.outer(np.arange(len(m)), np.arange(len(m)))) / max(len(m) - 1, 1)
    if weights not in (None, "linear", "quadratic"):
        raise ValueError(f"weights {weights!r}")
    agree = 1.0 - {None: (step > 0).astype(float), "linear": step, "quadratic": step**2}[weights]
    row, col = p.sum(axis=1), p.sum(axis=0)
    observed, expected = float((agree * p).sum()), float((agree * np.outer(row, col)).sum())
    if math.isclose(expected, 1.0):
        return Kappa(int(n), math.nan, (math.nan, math.nan))
    kappa = (observed - expected) / (1 - expected)
    mean_row, mean_col = agree @ col, agree.T @ row
    spread = float((p * (agree - np.add.outer(mean_row, mean_col) * (1 - kappa)) ** 2).sum())
    variance = max(spread - (kappa - expected * (1 - kappa)) ** 2, 0.0) / (n * (1 - expected) ** 2)
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance) if variance > 1e-12 else math.nan
    return Kappa(int(n), kappa, (kappa - reach, min(kappa + reach, 1.0)))


# ------------------------------------------------------------------------------------------------------- differentials


def bland_altman(first: ArrayLike, second: ArrayLike) -> BlandAltman:
    """Agreement of two methods of measurement (Bland & Altman, Lancet 1986); differences are second minus first.

    Parameters
    ----------
    first, second : (N,) array
        The reference and the method under test. Everything that needs more pairs than there are is NaN.
    """
    d = np.asarray(second, float) - np.asarray(first, float)
    n = len(d)
    bias = float(d.mean()) if n else math.nan
    sd = float(d.std(ddof=1)) if n > 1 else math.nan
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) if n > 1 else math.nan
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    lower, upper = bias - z * sd, bias + z * sd
    reach_bias = t * sd / math.sqrt(n) if n else math.nan
    reach_limit = t * sd * math.sqrt(3 / n) if n else math.nan  # their approximation: var(limit) = 3 s^2 / n
    return BlandAltman(
        n,
        bias,
        (bias - reach_bias, bias + reach_bias),
        sd,
        lower,
        (lower - reach_limit, lower + reach_limit),
        upper,
        (upper - reach_limit, upper + reach_limit),
    )


def passing_bablok(first: ArrayLike, second: ArrayLike) -> PassingBablok:
    """Regression of two methods that both have error (Passing & Bablok, J Clin Chem Clin Biochem 1983).

    The slope is the median of all pairwise slopes, shifted by the number of slopes below -1; slopes of exactly -1 are
    left out, and those of equal first values count as +infinity. NaN with fewer than three different first values.
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    if x.shape != y.shape:
        raise ValueError("passing_bablok needs pairs")
    n = len(x)
    nothing = PassingBablok(n, math.nan, (math.nan, math.nan), math.nan, (math.nan, math.nan))
    if len(np.unique(x)) < 3:
        return nothing
    i, j = np.triu_indices(n, k=1)
    dx, dy = x[j] - x[i], y[j] - y[i]
    different = (dx != 0) | (dy != 0)
    dx, dy = dx[different], dy[different]
    slopes = np.divide(dy, dx, out=np.full(len(dx), np.inf), where=dx != 0)
    slopes = np.sort(slopes[slopes != -1])
    count, shift = len(slopes), int((slopes < -1).sum())
    if count == 0:
        return nothing

    def ranked(rank: int) -> float:
        """The slope of this rank (from 1), shifted; infinite past the last."""
        if rank + shift < 1:
            return -math.inf
        return float(slopes[rank + shift - 1]) if rank + shift <= count else math.inf

    slope = ranked((count + 1) // 2) if count % 2 else (ranked(count // 2) + ranked(count // 2 + 1)) / 2
    slope += 0.0  # no "-0.0"
    if not math.isfinite(slope):
        return nothing
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first_rank = round((count - reach) / 2)
    low, high = ranked(first_rank), ranked(count - first_rank + 1)

    def intercept(b: float) -> float:
        return float(np.median(y - b * x)) if math.isfinite(b) else math.nan

    return PassingBablok(n, slope, (low, high), intercept(slope), (intercept(high), intercept(low)))


# ------------------------------------------------------------------------------------------------------------ plumbing


def _boxes(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, float).reshape(-1, 4)


def _points(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, float).reshape(-1, 2)


def _distances(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=2))


def _assign(allowed: NDArray[np.bool_], cost: NDArray[Any]) -> NDArray[np.intp]:
    """Largest one-to-one assignment of allowed pairs; among those of equal size the one of least total cost."""
    if not allowed.any():
        return np.zeros((0, 2), np.intp)
    rows, cols = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    possible, price = allowed[np.ix_(rows, cols)], cost[np.ix_(rows, cols)]
    # One forbidden pair must cost more than all allowed ones together, so that no pair is given up for a nearer one.
    forbidden = 1.0 + float(price[possible].max()) * (min(possible.shape) + 1)
    r, c = linear_sum_assignment(np.where(possible, price, forbidden))
    taken = possible[r, c]
    return np.stack([rows[r[taken]], cols[c[taken]]], axis=1)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
