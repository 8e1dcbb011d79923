"""Confidence intervals of a differential: for sampling alone, and with the classifier's own error added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from cbctool.records import CLASSES, LEUKOCYTES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def clopper_pearson(count: ArrayLike, total: ArrayLike, confidence: float = 0.95) -> tuple[NDArray[Any], NDArray[Any]]:
    """Exact two-sided interval of a proportion.

    Parameters
    ----------
    count, total : array-like of int, broadcast together
        ``count`` successes of ``total``; where ``total`` is 0 nothing is known and the interval is 0 to 1.
    confidence : float

    Returns
    -------
    low, high : float arrays, as fractions

    References
    ----------
    Clopper & Pearson, Biometrika 26 (1934) 404: the beta quantiles at (1 - confidence) / 2 on either side.
    """
    k, n = np.broadcast_arrays(np.asarray(count, dtype=float), np.asarray(total, dtype=float))
    if (k < 0).any() or (k > n).any():
        raise ValueError("counts must lie between 0 and their total")
    tail = (1.0 - confidence) / 2.0
    with np.errstate(invalid="ignore"):
        low = np.where(k > 0, special.betaincinv(np.maximum(k, 1e-9), n - k + 1, tail), 0.0)
        high = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, 1e-9), 1 - tail), 1.0)
    return low, high


@dataclass(frozen=True)
class ErrorAllowance:
    """How much worse than at home the classifier may be in a laboratory that it has never seen.

    Attributes
    ----------
    recall_loss : float
        Taken from every class's recall. A discriminative classifier that gets about 97 % of cells right at home got
        74.4 % under domain shift (the comparison published with CytoDiffusion), 0.23 less, and single classes lose more
        than the mean of all. 0.37: of BCCD's eosinophils half are called neutrophils, rightly or not, and with 0.3
        coverage fell to 86 % for them (``scripts/simulate_intervals.py --bccd``).
    unexpected_share : float
        Share of the errors that go to any other class alike instead of where errors go at home: another stain makes
        mistakes that home never made. Half, for want of anything better.
    concentration : float
        How alike laboratories are in where a class's errors go: that of a Dirichlet around the two parts above. 8, one
        pseudo-cell per possible call: with 12 coverage falls to 95 % where all neutrophils missed go to one class, with
        3 intervals get a tenth wider for nothing (``scripts/simulate_intervals.py``).
    """

    recall_loss: float = 0.37
    unexpected_share: float = 0.5
    concentration: float = 8.0


def total_interval(
    counts: ArrayLike, confusion: ArrayLike, allowance: ErrorAllowance | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """95 % interval of the true share of each leukocyte class, the classifier's own error included.

    A conservative bound in closed form. For class *j* let *q* be the share of calls, *e* the share of true *j* called
    something else, *f* the share of the other leukocytes called *j*, and *l* the share of those called no leukocyte at
    all. The true share is then at least ``(q (1 - l) - f) / (1 - f - q l)`` (nothing missed) and at most
    ``q / (1 - e)`` (nothing false). ``q`` takes its exact sampling limits. ``e`` is the upper 97.5 % limit of the error
    on the held-out cells plus ``allowance.recall_loss``. Where these errors go differs between laboratories: their
    shares are Dirichlet distributed around a blend of where errors went on the held-out cells and anywhere; ``f`` is
    the 97.5 % quantile of what then reaches *j* (gamma by its moments), the slide's own mix of the other classes as
    weights. The interval holds for every laboratory whose errors stay within the allowance; that it is wide is the
    truth about a preclassification.

    Parameters
    ----------
    counts : (..., 6) ints
        Calls per class, in ``LEUKOCYTES`` order, of one slide or many.
    confusion : (8, 8) ints
        Of the weights, held-out cells, row = truth, column = call.
    allowance : ErrorAllowance, optional

    Returns
    -------
    low, high : (..., 6) float arrays, as fractions
        Never inside the sampling interval.

    References
    ----------
    The inversion is Rogan & Gladen, Am J Epidemiol 107 (1978) 71, with both error rates at their limits as in Lang &
    Reiczigel, Prev Vet Med 113 (2014) 13; sampling after Clopper & Pearson (1934).
    """
    called = np.asarray(counts, dtype=float)
    allowance = allowance or ErrorAllowance()
    missed, goes_to = _errors_elsewhere(np.asarray(confusion, dtype=float), allowance)
    # The mix of the others, seen from each class; half a cell each, so that a class nobody saw still has a say.
    others = (called[..., None, :] + 0.5) * (1 - np.eye(len(LEUKOCYTES)))  # (..., class, other class)
    errors = others / others.sum(axis=-1, keepdims=True) * missed
    expected = np.einsum("...ji,ij->...j", errors, goes_to[:, _COLUMNS])
    varies = goes_to * (1 - goes_to) / (allowance.concentration + 1)
    variance = np.einsum("...ji,ij->...j", errors**2, varies[:, _COLUMNS])
    false = special.gammaincinv(expected**2 / variance, 0.975) * variance / expected
    false = np.minimum(false, errors.sum(axis=-1))
    lost = errors @ (1.0 - goes_to[:, _COLUMNS].sum(axis=1))
    sampling_low, sampling_high = clopper_pearson(called, called.sum(axis=-1, keepdims=True))
    low = (sampling_low * (1 - lost) - false) / np.maximum(1 - false - sampling_low * lost, 1e-9)
    return np.clip(low, 0.0, sampling_low), np.clip(sampling_high / (1 - missed), sampling_high, 1.0)


_COLUMNS = [CLASSES.index(cell_class) for cell_class in LEUKOCYTES]


def _errors_elsewhere(confusion: NDArray[Any], allowance: ErrorAllowance) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each leukocyte class: (6,) share missed at the far end of the allowance, (6, 8) where those should go."""
    rows = confusion[_COLUMNS]
    n, right = rows.sum(axis=1), rows[np.arange(len(rows)), _COLUMNS]
    _, missed = clopper_pearson(n - right, n)
    wrong = rows + 1.0 / rows.shape[1]  # Perks' prior: one cell in all
    wrong[np.arange(len(rows)), _COLUMNS] = 0.0
    anywhere = (wrong > 0) / (rows.shape[1] - 1)
    as_home = wrong / wrong.sum(axis=1, keepdims=True)
    goes_to = (1 - allowance.unexpected_share) * as_home + allowance.unexpected_share * anywhere
    return np.minimum(missed + allowance.recall_loss, 0.95), goes_to


def poisson_limit(expected: float, confidence: float = 0.95) -> int:
    """The smallest count that a Poisson variable of this mean exceeds in at most ``1 - confidence`` of cases."""
    if expected <= 0:
        return 0
    # scipy.special, not scipy.stats: the latter takes a second to import
    count = max(math.ceil(special.pdtrik(confidence, expected)), 0)
    return count - 1 if count and special.pdtr(count - 1, expected) >= confidence else count


def false_positive_limit(
    cells: ArrayLike, false_calls: ArrayLike, held_out: ArrayLike, confidence: float = 0.95
) -> int:
    """The most false calls of a rare kind that a slide without any would show, at this confidence.

    Parameters
    ----------
    cells : (K,) array-like
        Cells of each other class on the slide.
    false_calls, held_out : (K,) array-like
        How many of the ``held_out`` cells of each of these classes were falsely called the rare kind.
    confidence : float

    Returns
    -------
    int
        A count above this is more than the classifier's own mistakes.

    Notes
    -----
    The expected number is bounded from above (gamma with the mean and variance of the sum of the classes' beta
    posteriors, Perks' prior), then its Poisson quantile is taken: uncertain rates and chance both count.
    """
    n = np.asarray(cells, dtype=float)
    prior = 1.0 / len(CLASSES)
    a = np.asarray(false_calls, dtype=float) + prior
    total = np.asarray(held_out, dtype=float) + 1.0
    mean = float((n * a / total).sum())
    variance = float((n**2 * a * (total - a) / (total**2 * (total + 1))).sum())
    if mean <= 0:
        return 0
    upper = float(special.gammaincinv(mean**2 / variance, confidence)) * variance / mean
    return poisson_limit(max(upper, mean), confidence)
