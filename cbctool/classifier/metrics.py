"""How good calls are, and how honest their probabilities: figures on held-out cells, temperature and thresholds.

Calibration: Guo et al. 2017 (arXiv 1706.04599); equal-mass bins: Nixon et al. 2019 (arXiv 1904.01685).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from cbctool.records import CLASSES

ECE_BINS = 15

COVERAGE = 0.95
"""Share of held-out cells sure enough for a call: the least sure few percent are where most of the mistakes are."""

WRONG_SHARE = 0.05
"""Share of the calls on held-out cells that may be wrong, however few calls that leaves: wrong calls then move a class
by five percent points at most, as much as chance does in a count of 200 (95 % interval of 15 %: 10 to 21)."""
_CHANCE_DRAWS = 1000


def evaluate(
    probabilities: NDArray[Any], labels: NDArray[Any], classified: NDArray[Any], seed: int = 0
) -> dict[str, Any]:
    """All figures of one held-out set.

    Parameters
    ----------
    probabilities : (N, 8) array
    labels : (N,) int array
        Positions in ``CLASSES``.
    classified : (N,) bool array
        False where the classifier abstains.
    seed : int
        Of the simulation behind ``ece_chance_95``.

    Returns
    -------
    dict
        ``n, accuracy, balanced_accuracy, macro_f1, ece, ece_chance_95, nll, coverage, selective_accuracy, confusion``
        (row = truth, column = call, before abstention) and ``per_class`` (recall, precision, f1, n). Averages over
        classes are over those that occur. ``ece_chance_95`` is the 95th percentile of the ECE of a perfectly calibrated
        classifier with the same confidences.
    """
    labels = np.asarray(labels)
    if not len(labels):
        raise ValueError("no cells to evaluate")
    calls = probabilities.argmax(axis=1)
    table = confusion(labels, calls)
    hits = np.diag(table)
    truths, called = table.sum(axis=1), table.sum(axis=0)
    present = truths > 0
    recall = np.divide(hits, truths, out=np.zeros(len(CLASSES)), where=present)
    precision = np.divide(hits, called, out=np.zeros(len(CLASSES)), where=called > 0)
    f1 = 2 * hits / np.maximum(truths + called, 1)
    confidence = probabilities.max(axis=1)
    right = calls == labels
    likelihood = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    return {
        "n": len(labels),
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "ece": expected_calibration_error(confidence, right),
        "ece_chance_95": chance_calibration_error(confidence, seed),
        "nll": float(-np.log(likelihood).mean()),
        "coverage": float(classified.mean()),
        "selective_accuracy": float(right[classified].mean()) if classified.any() else float("nan"),
        "confusion": table.tolist(),
        "per_class": {
            str(name): {
                "n": int(truths[i]),
                "recall": float(recall[i]),
                "precision": float(precision[i]),
                "f1": float(f1[i]),
            }
            for i, name in enumerate(CLASSES)
            if present[i]
        },
    }


def confusion(labels: NDArray[Any], calls: NDArray[Any]) -> NDArray[np.int64]:
    """Counts (8, 8), row = truth, column = call."""
    size = len(CLASSES)
    return np.bincount(np.asarray(labels) * size + calls, minlength=size * size).reshape(size, size)


def expected_calibration_error(confidence: NDArray[Any], right: NDArray[Any]) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal size."""
    order = np.argsort(confidence, kind="stable")
    gap = np.asarray(right, float)[order] - np.asarray(confidence, float)[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gap, ECE_BINS)) / len(gap))


def chance_calibration_error(confidence: NDArray[Any], seed: int = 0) -> float:
    """95th percentile of the ECE when every call is right with exactly its own confidence."""
    rng = np.random.default_rng(seed)
    draws = [
        expected_calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(_CHANCE_DRAWS)
    ]
    return float(np.percentile(draws, 95))


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """The divisor of the logits with the lowest negative log likelihood on held-out cells."""

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(np.asarray(logits, float) / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.2), np.log(10.0)), method="bounded").x))


def fit_abstention(confidence: NDArray[Any], known: NDArray[Any], coverage: float = COVERAGE) -> float:
    """The confidence below which to abstain so that ``coverage`` of held-out cells keep a call.

    ``known`` (N,) bool says which cells pass the unknown-score; those that do not count as not covered already.
    """
    values = np.sort(np.where(known, confidence, -1.0))
    return float(np.clip(values[int(np.floor((1 - coverage) * len(values)))], 0.0, 1.0))


def fit_trust(
    confidence: NDArray[Any], right: NDArray[Any], known: NDArray[Any], wrong_share: float = WRONG_SHARE
) -> float:
    """The lowest confidence from which up no more than ``wrong_share`` of the calls on held-out cells are wrong.

    One mistake more than was seen is counted, as in conformal risk control (Angelopoulos et al. 2022, arXiv
    2208.02814), so that a handful of cells proves nothing by being right. Where no confidence shows as much it is
    ``1 - wrong_share``, at which a call promises it by itself.

    Parameters
    ----------
    confidence : (N,) array
    right, known : (N,) bool array
        Whether the likeliest class is the true one; which cells pass the unknown-score (the others get no call).
    wrong_share : float
    """
    confidence, wrong = np.asarray(confidence)[known], ~np.asarray(right)[known]
    order = np.argsort(-confidence, kind="stable")
    confidence, wrong = confidence[order], wrong[order]
    calls = np.arange(1, len(order) + 1)
    few = (np.cumsum(wrong) + 1) / (calls + 1) <= wrong_share
    # cells as sure as each other are called together
    few &= np.append(confidence[1:] < confidence[:-1], True)[: len(few)]
    return float(confidence[few][-1]) if few.any() else 1 - wrong_share


def fit_unknown(scores: NDArray[Any], share: float = 0.995) -> float:
    """The unknown-score that ``share`` of held-out cells stay at or below."""
    return float(np.quantile(scores, share))
