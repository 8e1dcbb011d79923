"""Blast-likeness on hand-made nuclei; the flag on real leukaemia where the data is there."""

import math
from dataclasses import replace

import numpy as np
import pytest
from counted import BLAST, NUCLEI, WEIGHTS, blood, cell, nucleus, prediction
from hypothesis import given
from hypothesis import strategies as st

from cbctool.hematology.blast import (
    BlastOptions,
    cell_evidence,
    find_blasts,
    nucleus_measures,
    red_cell_diameter_um,
    slide_evidence,
)
from cbctool.records import CLASSES, RED_CELL_UM, CellClass, CellKind, CellStatus, Observation

OPTIONS = BlastOptions()
EVEN = np.full((1, 8), 1 / 8)


def evidence(shape, probabilities=EVEN, unknown=False, red_cell_um=RED_CELL_UM):
    measures = nucleus_measures([cell(**nucleus(*shape))], red_cell_um)
    return cell_evidence(measures, np.array([shape[3]]), probabilities, np.array([unknown]), OPTIONS)[0]


@pytest.mark.parametrize("cell_class", list(NUCLEI))
def test_normal_nuclei_do_not_look_like_blasts(cell_class):
    limit = OPTIONS.cell_evidence if cell_class is CellClass.BASOPHIL else 0.0
    assert evidence(NUCLEI[cell_class]) < limit


def test_a_blasts_nucleus_does():
    assert evidence(BLAST) > 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((8.6, 0.85, 0.96, 1.0), "small, as a lymphocyte's"),
        ((12.0, 0.50, 0.96, 1.0), "much cytoplasm"),
        ((12.0, 0.85, 0.70, 1.0), "deeply notched"),
        ((12.0, 0.85, 0.96, 3.0), "three lobes"),
        ((math.nan, math.nan, math.nan, math.nan), "no nucleus"),
    ],
)
def test_near_misses(change, why):
    assert evidence(change) < OPTIONS.cell_evidence, why


def test_size_is_against_the_slides_own_red_cells():
    assert evidence(BLAST, red_cell_um=RED_CELL_UM * 1.4) < OPTIONS.cell_evidence < evidence(BLAST)


def test_a_still_higher_ratio_is_no_less_a_blast():
    assert evidence((12.0, 0.97, 0.99, 1.0)) == pytest.approx(evidence((12.0, 0.80, 0.96, 1.0)))


def test_the_networks_word_counts():
    sure = {c: np.array([[0.93 if k is c else 0.01 for k in CLASSES]]) for c in CLASSES}
    assert evidence(BLAST, sure[CellClass.NEUTROPHIL]) < evidence(BLAST, sure[CellClass.LYMPHOCYTE]) - 1.0
    assert evidence(BLAST, EVEN, unknown=True) == pytest.approx(evidence(BLAST) + math.log(OPTIONS.unknown_odds))


@given(st.lists(st.floats(-20, 8), min_size=0, max_size=40))
def test_slide_evidence_is_never_negative_and_grows_with_a_blast(values):
    less = slide_evidence(np.array(values), OPTIONS.normal_share)
    more = slide_evidence(np.array([*values, 5.0]), OPTIONS.normal_share)
    assert less >= 0
    assert less <= more + 1e-9


def test_slide_evidence_allows_for_odd_normal_cells():
    normal = np.full(98, -5.0)
    two_odd = np.append(normal, [4.0, 4.0])  # 2 % of a large slide
    assert slide_evidence(two_odd, OPTIONS.normal_share) < OPTIONS.slide_evidence
    ten_odd = np.append(normal[:90], [4.0] * 10)
    assert slide_evidence(ten_odd, OPTIONS.normal_share) > OPTIONS.slide_evidence


def test_one_unmistakable_cell_is_enough_but_one_doubtful_is_not():
    assert slide_evidence(np.array([5.0]), OPTIONS.normal_share) > OPTIONS.slide_evidence
    assert slide_evidence(np.array([1.5]), OPTIONS.normal_share) < OPTIONS.slide_evidence


def test_slide_evidence_survives_infinities():
    assert slide_evidence(np.array([-np.inf, -np.inf]), OPTIONS.normal_share) == 0
    assert slide_evidence(np.array([-np.inf, 900.0]), OPTIONS.normal_share) > 1


def test_marks_come_with_reasons_the_most_blast_like_first():
    seen = [*blood(neutrophil=3, lymphocyte=3), *[replace(o, field="f2.png") for o in blood(blasts=2)]]
    marked, finding = find_blasts(seen, WEIGHTS)
    assert [o.prediction.blast_like for o in marked] == [False] * 6 + [True] * 2
    assert finding.flagged
    assert finding.cells == (("f2.png", 1), ("f2.png", 2))
    assert marked[-1].prediction.blast_reasons == (
        "nucleus 1.6 red-cell diameters",
        "N:C 0.8",
        "nucleus without lobes",
        "smooth chromatin",
        "unlike any trained class",
    )
    assert "nucleus 1.6 red-cell diameters" in finding.text
    assert "%" not in finding.text  # never a blast percentage


def test_predominance_wants_more_blast_like_cells_than_neutrophils():
    assert find_blasts(blood(neutrophil=4, lymphocyte=4, blasts=5), WEIGHTS)[1].predominance
    few = find_blasts(blood(neutrophil=6, lymphocyte=4, blasts=5), WEIGHTS)[1]
    assert few.flagged
    assert not few.predominance
    # no more neutrophils, but under a fifth of all
    assert not find_blasts(blood(neutrophil=1, lymphocyte=40, blasts=5), WEIGHTS)[1].predominance


def test_a_class_without_doubt_can_look_like_a_blast():
    sure = Observation("f1.png", cell(**nucleus(*BLAST)), prediction(CellClass.LYMPHOCYTE))
    assert find_blasts([sure], WEIGHTS)[0][0].prediction.blast_like


def test_excluded_and_reviewed_cells_are_never_marked_and_old_marks_go():
    shape = nucleus(*BLAST)
    excluded = prediction(CellClass.LYMPHOCYTE, status=CellStatus.EXCLUDED, blast_like=True, blast_reasons=("old",))
    reviewed = prediction(CellClass.LYMPHOCYTE, blast_like=True, blast_reasons=("old",))
    seen = [
        Observation("f1.png", cell(1, **shape), excluded),
        Observation("f1.png", cell(2, **shape), reviewed, called=CellClass.MONOCYTE),
    ]
    marked, finding = find_blasts(seen, WEIGHTS)
    assert [(o.prediction.blast_like, o.prediction.blast_reasons) for o in marked] == [(False, ())] * 2
    assert not finding.flagged
    assert finding.evidence == 0


def test_red_cell_diameter():
    red = [cell(n, CellKind.ERYTHROCYTE, equivalent_diameter_um=8.0 + 0.01 * n, circularity=0.95) for n in range(11)]
    clump = [cell(n, CellKind.ERYTHROCYTE, equivalent_diameter_um=20.0, circularity=0.5) for n in range(30)]
    edge = [replace(red[0], touches_edge=True, equivalent_diameter_um=3.0)] * 30
    assert red_cell_diameter_um([*red, *clump, *edge]) == pytest.approx(8.05)
    assert red_cell_diameter_um(red[:9]) == RED_CELL_UM


def test_no_cells():
    marked, finding = find_blasts([], WEIGHTS)
    assert marked == []
    assert not finding.flagged
    assert finding.cells == ()
