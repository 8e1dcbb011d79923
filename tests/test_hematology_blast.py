"""Blast-likeness on hand-made nuclei; the flag on real leukaemia where the data is there."""

import importlib.util
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counted import BLAST, NUCLEI, WEIGHTS, blood, cell, nucleus, prediction
from hypothesis import given
from hypothesis import strategies as st

from cbctool.hematology.blast import (
    BlastOptions,
    cell_evidence,
    find_blasts,
    is_flagged,
    nucleus_measures,
    red_cell_diameter_um,
    slide_evidence,
)
from cbctool.hematology.normal_cells import RED_CELL_SEGMENTED_UM
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


def test_what_is_far_too_small_is_no_blast_however_odd_it_is():
    platelet = np.array([[0.93 if k is CellClass.PLATELET else 0.01 for k in CLASSES]])
    assert evidence((3.8, 0.54, 0.73, 1.0), platelet, unknown=True) < OPTIONS.cell_evidence


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
    less = slide_evidence(np.array(values), OPTIONS.normal_share)[0]
    more = slide_evidence(np.array([*values, 5.0]), OPTIONS.normal_share)[0]
    assert less >= 0
    assert less <= more + 1e-9


def test_slide_evidence_allows_for_odd_normal_cells():
    normal = np.full(98, -5.0)
    two_odd = np.append(normal, [4.0, 4.0])  # 2 % of a large slide
    assert slide_evidence(two_odd, OPTIONS.normal_share)[0] < OPTIONS.slide_evidence
    ten_odd = np.append(normal[:90], [4.0] * 10)
    assert slide_evidence(ten_odd, OPTIONS.normal_share)[0] > OPTIONS.slide_evidence


def test_one_unmistakable_cell_is_enough_but_one_doubtful_is_not():
    assert is_flagged(np.array([2.5]), OPTIONS)
    assert not is_flagged(np.array([1.9]), OPTIONS)
    # among ten that speak against it, it must be stronger
    assert not is_flagged(np.array([2.5, *[-6.0] * 9]), OPTIONS)
    assert is_flagged(np.array([5.0, *[-6.0] * 9]), OPTIONS)


def test_two_blast_like_cells_are_enough_where_normal_ones_would_give_one_at_most():
    assert is_flagged(np.array([2.1, 2.1, *[-6.0] * 15]), OPTIONS)  # 0.34 expected
    assert not is_flagged(np.array([2.1, 2.1, *[-6.0] * 98]), OPTIONS)  # 2 expected


def test_company_counts_in_the_evidence_that_is_kept():
    alone = find_blasts(blood(lymphocyte=1), WEIGHTS)[0][0].prediction.blast_evidence
    among = find_blasts(blood(lymphocyte=1, blasts=20), WEIGHTS)[0][0].prediction.blast_evidence
    assert alone < 0
    assert among > alone + 3


def test_slide_evidence_survives_infinities():
    assert slide_evidence(np.array([-np.inf, -np.inf]), OPTIONS.normal_share)[0] == 0
    assert slide_evidence(np.array([-np.inf, 900.0]), OPTIONS.normal_share)[0] > 1


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


def test_the_finding_says_how_many_normal_blood_gives_and_agrees_with_the_differential():
    healthy = blood(neutrophil=60, lymphocyte=30)
    unsure = [
        replace(o, field="f2.png", prediction=replace(o.prediction, status=CellStatus.UNCLASSIFIED, reason="low"))
        for o in blood(neutrophil=2)
    ]
    _, finding = find_blasts([*healthy, *unsure, *[replace(o, field="f3.png") for o in blood(blasts=1)]], WEIGHTS)
    assert not finding.flagged
    says = "1 of 93 nucleated cells has some signs of a blast, no more than normal blood gives (up to 4); its signs: "
    assert finding.text.startswith(says)
    assert finding.beside.endswith("beside 62 neutrophils (2 of them without a call).")


def test_the_finding_of_few_cells_tells_their_evidence():
    _, finding = find_blasts(blood(blasts=1), WEIGHTS)
    assert finding.flagged
    assert "1 of 1 nucleated cells looks like a blast; the nuclei together are unlike normal ones" in finding.text
    assert "limit 0.5)" in finding.text


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
    assert red_cell_diameter_um([*red, *clump, *edge]) == pytest.approx(8.05 * RED_CELL_UM / RED_CELL_SEGMENTED_UM)
    assert red_cell_diameter_um(red[:9]) == RED_CELL_UM


def test_no_cells():
    marked, finding = find_blasts([], WEIGHTS)
    assert marked == []
    assert not finding.flagged
    assert finding.cells == ()


ROOT = Path(__file__).resolve().parents[1]
FIELDS = Path(os.environ.get("CBCTOOL_DATA", ROOT.parent / "shared" / "data")) / "all_idb1" / "images"


@pytest.mark.real
@pytest.mark.skipif(not FIELDS.is_dir(), reason="ALL-IDB1 is not there (set CBCTOOL_DATA)")
@pytest.mark.filterwarnings("default")
def test_real_leukaemia_is_flagged_and_health_is_not_by_morphometry_alone(monkeypatch):
    spec = importlib.util.spec_from_file_location("check_blast_flag", ROOT / "scripts" / "check_blast_flag.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_blast_flag", script)
    spec.loader.exec_module(script)
    names = ["Im005_1", "Im015_1", "Im049_1", "Im035_0", "Im067_0", "Im103_0"]
    fields = script.analyse([FIELDS / f"{name}.jpg" for name in names], script.NoNetwork(), OPTIONS)
    assert [field.flagged for field in fields] == [True, True, True, False, False, False]
