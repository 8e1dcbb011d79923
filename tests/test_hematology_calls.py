"""Calls: classified, unclassified with a reason, excluded."""

import math

import numpy as np
import pytest
from counted import WEIGHTS, cell

from cbctool.hematology.calls import call_cells
from cbctool.records import CLASSES, CellClass, CellKind, CellStatus, Scores


def sure(cell_class, probability=0.93):
    rest = (1 - probability) / 7
    return [probability if c is cell_class else rest for c in CLASSES]


def call(one, cell_class, probability=0.93, unknown=0.1):
    scores = Scores(np.array([sure(cell_class, probability)], np.float32), np.array([unknown], np.float32))
    return call_cells([one], np.array([0]), scores, WEIGHTS)[0]


@pytest.mark.parametrize(
    ("one", "cell_class", "probability", "unknown", "status", "reason"),
    [
        (cell(), CellClass.MONOCYTE, 0.93, 0.1, CellStatus.CLASSIFIED, ""),
        (cell(), CellClass.MONOCYTE, 0.601, 0.5, CellStatus.CLASSIFIED, ""),
        (cell(), CellClass.MONOCYTE, 0.55, 0.1, CellStatus.UNCLASSIFIED, "low probability"),
        (cell(), CellClass.MONOCYTE, 0.93, 0.51, CellStatus.UNCLASSIFIED, "unlike any trained class"),
        (
            cell(),
            CellClass.PLATELET,
            0.93,
            0.1,
            CellStatus.UNCLASSIFIED,
            "segmented as a nucleated cell, classified as platelet",
        ),
        (
            cell(kind=CellKind.PLATELET),
            CellClass.IMMATURE_GRANULOCYTE,
            0.93,
            0.1,
            CellStatus.UNCLASSIFIED,
            "segmented as a platelet, classified as immature granulocyte",
        ),
        (cell(kind=CellKind.PLATELET), CellClass.PLATELET, 0.4, 0.9, CellStatus.CLASSIFIED, ""),
        (
            cell(nucleus_touches_edge=True),
            CellClass.MONOCYTE,
            0.93,
            0.1,
            CellStatus.EXCLUDED,
            "cut by the edge of the field",
        ),
        (cell(touches_edge=True), CellClass.MONOCYTE, 0.93, 0.1, CellStatus.CLASSIFIED, ""),
    ],
)
def test_call(one, cell_class, probability, unknown, status, reason):
    found = call(one, cell_class, probability, unknown)
    assert (found.cell_class, found.status, found.reason) == (cell_class, status, reason)
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.probability == max(found.probabilities)
    assert found.unknown_score == pytest.approx(unknown)
    assert not found.blast_like


def test_what_segmentation_saw_weighs_the_probabilities():
    weights = {CellClass.NEUTROPHIL: 0.36, CellClass.PLATELET: 0.6, CellClass.EOSINOPHIL: 0.04}
    row = [weights.get(c, 0.0) for c in CLASSES]
    scores = Scores(np.array([row, row], np.float32), np.array([0.1, 0.1], np.float32))
    cells = [cell(), cell(kind=CellKind.PLATELET)]
    nucleated, platelet = call_cells(cells, np.array([0, 1]), scores, WEIGHTS)
    # 0.6 twentyfold down is 0.03
    assert (nucleated.cell_class, nucleated.status) == (CellClass.NEUTROPHIL, CellStatus.CLASSIFIED)
    assert nucleated.probability == pytest.approx(0.36 / 0.43, abs=1e-6)
    assert (platelet.cell_class, platelet.status) == (CellClass.PLATELET, CellStatus.CLASSIFIED)
    assert platelet.probability == pytest.approx(0.6 / 0.62, abs=1e-6)


def test_calls_are_aligned_with_the_cells_and_red_cells_have_none():
    cells = [
        cell(1, CellKind.ERYTHROCYTE),
        cell(2),
        cell(3, CellKind.ARTEFACT, reason="stain debris"),
        cell(4, CellKind.PLATELET),
    ]
    scores = Scores(np.array([sure(CellClass.PLATELET), sure(CellClass.BASOPHIL)]), np.zeros(2))
    red, nucleated, artefact, platelet = call_cells(cells, np.array([3, 1]), scores, WEIGHTS)
    assert red is None
    assert nucleated.cell_class is CellClass.BASOPHIL
    assert platelet.cell_class is CellClass.PLATELET
    assert (artefact.status, artefact.reason, artefact.cell_class) == (CellStatus.EXCLUDED, "stain debris", None)
    assert len(artefact.probabilities) == len(CLASSES)
    assert all(math.isnan(p) for p in artefact.probabilities)


def test_a_cell_without_a_crop_is_not_lost():
    (found,) = call_cells([cell()], np.array([], int), Scores(np.empty((0, 8)), np.empty(0)), WEIGHTS)
    assert (found.status, found.reason) == (CellStatus.UNCLASSIFIED, "no crop was scored")


def test_no_cells():
    assert call_cells([], np.array([], int), Scores(np.empty((0, 8)), np.empty(0)), WEIGHTS) == ()


def test_crops_and_scores_must_agree():
    with pytest.raises(ValueError, match="1 crops"):
        call_cells([cell()], np.array([0]), Scores(np.empty((0, 8)), np.empty(0)), WEIGHTS)
