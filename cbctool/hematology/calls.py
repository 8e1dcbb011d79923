"""From the network's scores to a call on every cell: classified, unclassified with a reason, or excluded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cbctool.records import CLASSES, Cell, CellClass, CellKind, CellStatus, Prediction, Scores, WeightsInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUT_BY_EDGE = "cut by the edge of the field"
UNKNOWN = "unlike any trained class"
LOW_PROBABILITY = "low probability"

KIND_SLIP = 0.05
"""The chance that segmentation takes a platelet for a nucleated cell, or the reverse. It took 2 of 418 annotated
platelets and none of 637 leukocytes so (PBC, BCCD annotated again); with clumps of platelets and other laboratories it
may be ten times as often."""

_NOT_SCORED = (math.nan,) * len(CLASSES)


def call_cells(
    cells: Sequence[Cell], crop_cells: NDArray[Any] | Sequence[int], scores: Scores, weights: WeightsInfo
) -> tuple[Prediction | None, ...]:
    """Call every cell of a field.

    Segmentation and network are two witnesses. What segmentation saw weighs the network's probabilities by Bayes' rule
    (:data:`KIND_SLIP`); where they still disagree about *what kind of thing* an object is, no call is made, with that
    reason. A platelet on which both agree is called without asking how sure the network is: it enters no differential.
    A nucleated cell is called only when it is neither doubtful nor unlike anything trained on.

    Parameters
    ----------
    cells : sequence of Cell, length M
    crop_cells : (N,) int array
        Index into ``cells`` of each scored crop.
    scores : Scores
        Of the N crops.
    weights : WeightsInfo
        Gives ``abstain_below`` and ``unknown_above``.

    Returns
    -------
    tuple of Prediction or None, length M
        None for red cells.

    Raises
    ------
    ValueError
        When crops and scores differ in number.
    """
    index = np.asarray(crop_cells, dtype=np.intp)
    probabilities = np.asarray(scores.probabilities, dtype=float)
    unknown = np.asarray(scores.unknown, dtype=float)
    if probabilities.shape != (len(index), len(CLASSES)) or unknown.shape != (len(index),):
        raise ValueError(f"{len(index)} crops, but scores of shape {probabilities.shape} and {unknown.shape}")
    predictions = [_without_scores(cell) for cell in cells]
    probabilities = _given_kind(probabilities, [cells[i].kind for i in index.tolist()])
    for i, row, score in zip(index.tolist(), probabilities.tolist(), unknown.tolist(), strict=True):
        predictions[i] = _call(cells[i], row, score, weights)
    return tuple(predictions)


def _given_kind(probabilities: NDArray[Any], kinds: Sequence[CellKind]) -> NDArray[Any]:
    """Probabilities (N, 8) of the classes once it is known how each of N crops was segmented."""
    seen = np.array([kind is CellKind.PLATELET for kind in kinds], dtype=bool)
    named = np.array([name is CellClass.PLATELET for name in CLASSES])
    weighed = np.where(seen[:, np.newaxis] == named, probabilities, KIND_SLIP * probabilities)
    return np.asarray(weighed / weighed.sum(axis=1, keepdims=True))


def _without_scores(cell: Cell) -> Prediction | None:
    if cell.kind is CellKind.ERYTHROCYTE:
        return None
    if cell.kind is CellKind.ARTEFACT:
        status, reason = CellStatus.EXCLUDED, cell.reason or "artefact"
    else:
        status, reason = CellStatus.UNCLASSIFIED, "no crop was scored"
    return Prediction(None, math.nan, _NOT_SCORED, math.nan, status, reason)


def _call(cell: Cell, probabilities: list[float], unknown: float, weights: WeightsInfo) -> Prediction | None:
    if cell.kind is CellKind.ERYTHROCYTE:
        return None
    probability = max(probabilities)
    cell_class = CLASSES[probabilities.index(probability)]
    status, reason = CellStatus.UNCLASSIFIED, ""
    if cell.kind is CellKind.ARTEFACT:
        return _without_scores(cell)
    if cell.nucleus_touches_edge:
        status, reason = CellStatus.EXCLUDED, CUT_BY_EDGE
    elif (cell.kind is CellKind.PLATELET) != (cell_class is CellClass.PLATELET):
        reason = f"segmented as {_article(cell.kind)}, classified as {cell_name(cell_class)}"
    elif cell.kind is CellKind.PLATELET:
        status = CellStatus.CLASSIFIED
    elif unknown > weights.unknown_above:
        reason = UNKNOWN
    elif probability < weights.abstain_below:
        reason = LOW_PROBABILITY
    else:
        status = CellStatus.CLASSIFIED
    return Prediction(cell_class, probability, tuple(probabilities), unknown, status, reason)


def _article(kind: CellKind) -> str:
    return "a nucleated cell" if kind is CellKind.NUCLEATED else "a platelet"


def cell_name(cell_class: CellClass) -> str:
    """A class as a sentence names it."""
    return str(cell_class).replace("_", " ")
