"""Counts, percentages, tiers, corrections and absolutes."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from counted import SLIDE, WEIGHTS, blood, cell, field, prediction
from hypothesis import given
from hypothesis import strategies as st

from cbctool.hematology import interpret
from cbctool.hematology.differential import count_cells, outside
from cbctool.hematology.profile import Platelets, Profile, ReferenceBand
from cbctool.imaging.field import analyse_field
from cbctool.records import (
    LEUKOCYTES,
    Adequacy,
    CellClass,
    CellKind,
    CellStatus,
    Field,
    FieldQuality,
    Observation,
)
from cbctool.synthetic.render import render_field


def counted(observations, slide=SLIDE, fields=None, profile=None):
    return interpret(slide, fields or [field()], observations, WEIGHTS, profile or Profile()).differential


def test_percent_is_of_classified_leukocytes_only():
    found = counted(
        blood(neutrophil=60, lymphocyte=30, monocyte=10, erythroblast=8, unclassified=7, platelets=50, red_cells=1000)
    )
    assert [(row.cell_class, row.count, row.percent) for row in found.rows[:3]] == [
        (CellClass.NEUTROPHIL, 60, 60.0),
        (CellClass.LYMPHOCYTE, 30, 30.0),
        (CellClass.MONOCYTE, 10, 10.0),
    ]
    assert tuple(row.cell_class for row in found.rows) == LEUKOCYTES
    assert (found.leukocytes, found.unclassified, found.erythroblasts) == (100, 7, 8)
    assert found.nrbc_per_100_wbc == 8.0
    assert (found.platelets, found.erythrocytes) == (50, 1000)
    assert found.platelets_per_1000_red_cells == 50.0
    assert found.platelets_per_mm2 == 5000.0
    assert found.adequacy is Adequacy.REPORTABLE


@given(st.fixed_dictionaries({c.value: st.integers(0, 20) for c in LEUKOCYTES}), st.integers(0, 5))
def test_percentages_sum_to_100_or_the_differential_is_empty(classes, unclassified):
    found = counted(blood(**classes, unclassified=unclassified))
    if found.leukocytes:
        assert sum(row.percent for row in found.rows) == pytest.approx(100)
        assert all(row.total_low <= row.ci_low <= row.percent <= row.ci_high <= row.total_high for row in found.rows)
    else:
        assert all(math.isnan(row.percent) and math.isnan(row.ci_low) and not row.outside for row in found.rows)


@pytest.mark.parametrize(
    ("leukocytes", "tier"),
    [
        (0, Adequacy.NONE),
        (49, Adequacy.NONE),
        (50, Adequacy.LIMITED),
        (99, Adequacy.LIMITED),
        (100, Adequacy.REPORTABLE),
        (199, Adequacy.REPORTABLE),
        (200, Adequacy.PREFERRED),
    ],
)
def test_adequacy(leukocytes, tier):
    assert counted(blood(neutrophil=leukocytes)).adequacy is tier


@pytest.mark.parametrize(
    ("nrbc", "uncorrected", "corrected"),
    [(5, True, 20 * 100 / 105), (5, False, None), (4, True, None), (100, True, 10.0)],
)
def test_wbc_is_corrected_only_when_uncorrected_and_from_5_nrbc_on(nrbc, uncorrected, corrected):
    slide = replace(SLIDE, wbc_10e9_per_l=20.0, wbc_uncorrected=uncorrected)
    found = counted(blood(neutrophil=100, erythroblast=nrbc), slide)
    assert found.wbc_10e9_per_l == 20.0
    if corrected is None:
        assert math.isnan(found.wbc_corrected_10e9_per_l)
    else:
        assert found.wbc_corrected_10e9_per_l == pytest.approx(corrected)
    assert found.rows[0].absolute_10e9_per_l == pytest.approx(corrected or 20.0)


def test_absolutes_need_the_analysers_count():
    found = counted(blood(neutrophil=100))
    assert math.isnan(found.wbc_10e9_per_l)
    assert all(math.isnan(row.absolute_10e9_per_l) and row.absolute_outside == "" for row in found.rows)


@pytest.mark.parametrize(("leukocytes", "side"), [(49, ""), (50, "high")])
def test_nothing_is_called_high_or_low_without_a_differential(leukocytes, side):
    # 49 lymphocytes of 49 are 100 %, 92.7 at least, and 20 x10^9/L: numbers stay, the word for them does not
    row = counted(blood(lymphocyte=leukocytes), replace(SLIDE, wbc_10e9_per_l=20.0)).rows[1]
    assert (row.percent, row.absolute_10e9_per_l) == (100.0, 20.0)
    assert (row.outside, row.absolute_outside) == (side, side)


def test_absolute_outside_takes_the_interval_too():
    # 50 % of 2.0 is 1.0, at most 0.603 * 2.0 = 1.21: below 2.0 with its interval
    low = counted(blood(neutrophil=50, lymphocyte=50), replace(SLIDE, wbc_10e9_per_l=2.0)).rows[0]
    assert (low.absolute_10e9_per_l, low.absolute_outside) == (1.0, "low")
    # 50 % of 3.9 is 1.95, but up to 2.35
    near = counted(blood(neutrophil=50, lymphocyte=50), replace(SLIDE, wbc_10e9_per_l=3.9)).rows[0]
    assert near.absolute_outside == "borderline low"


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (50, 45, 55, ""),
        (85, 81, 90, "high"),
        (85, 80, 90, "borderline high"),
        (30, 25, 39, "low"),
        (30, 25, 40, "borderline low"),
        (math.nan, math.nan, math.nan, ""),
    ],
)
def test_outside(value, low, high, expected):
    assert outside(value, low, high, (40, 80)) == expected


def test_without_a_reference_nothing_is_outside():
    assert outside(99, 98, 100, (math.nan, math.nan)) == ""


def test_a_child_gets_no_adult_reference():
    row = counted(blood(neutrophil=10, lymphocyte=90), replace(SLIDE, age_years=2.0)).rows[1]
    assert math.isnan(row.reference_high)
    assert row.outside == ""


@pytest.mark.parametrize(("leukocytes", "corrected"), [(49, math.nan), (50, 20 * 100 / 110)])
def test_wbc_is_not_corrected_by_a_count_that_carries_no_differential(leukocytes, corrected):
    cells = blood(neutrophil=leukocytes, erythroblast=leukocytes // 10)
    found = counted(cells, replace(SLIDE, wbc_10e9_per_l=20.0, wbc_uncorrected=True))
    assert found.wbc_corrected_10e9_per_l == pytest.approx(corrected, nan_ok=True)


@pytest.mark.parametrize(
    ("age", "begins"), [(None, "from 18 years, no age being given; percent: default"), (54.0, "from 18 years; percent")]
)
def test_the_reference_intervals_name_their_ages_and_source(age, begins):
    assert counted(blood(neutrophil=1), replace(SLIDE, age_years=age)).reference.startswith(begins)


def test_a_bands_ages_and_the_laboratorys_intervals_are_named():
    band = ReferenceBand(age_from_years=6, age_to_years=18, percent={CellClass.NEUTROPHIL: (33, 61)})
    profile = Profile(reference=(band,))
    child = replace(SLIDE, age_years=7.0)
    assert counted(blood(neutrophil=1), child, profile=profile).reference == "from 6 to under 18 years; the laboratory"
    assert counted(blood(neutrophil=1), SLIDE, profile=Profile(reference=())).reference == "none for this age"


def test_platelet_estimate_only_with_a_calibrated_factor():
    cells = blood(neutrophil=10, platelets=50, red_cells=1000)
    assert math.isnan(counted(cells).platelet_estimate_10e9_per_l)
    found = counted(cells, profile=Profile(platelets=Platelets(estimate_factor=4.8)))
    assert found.platelet_estimate_10e9_per_l == pytest.approx(240)


def test_no_red_cells_no_ratio():
    found = counted(blood(neutrophil=10, platelets=5))
    assert math.isnan(found.platelets_per_1000_red_cells)
    assert found.platelets_per_mm2 == 500


def test_edge_artefacts_and_smudges_have_counts_of_their_own():
    cut = Observation(
        "f1.png",
        cell(900, nucleus_touches_edge=True, touches_edge=True),
        prediction(CellClass.NEUTROPHIL, status=CellStatus.EXCLUDED, reason="cut by the edge of the field"),
    )
    debris = Observation(
        "f1.png",
        cell(901, CellKind.ARTEFACT, reason="stain debris"),
        prediction(None, status=CellStatus.EXCLUDED, reason="stain debris"),
    )
    found = counted([*blood(neutrophil=10, smudges=3), cut, debris])
    assert (found.leukocytes, found.cut_by_edge, found.artefacts, found.smudge_cells) == (10, 1, 4, 3)


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ({"xmin_px": 0, "xmax_px": 40}, True),  # left
        ({"ymin_px": 0, "ymax_px": 40}, True),  # top
        ({"xmin_px": 960, "xmax_px": 1000}, False),  # right
        ({"ymin_px": 960, "ymax_px": 1000}, False),  # bottom
        ({"xmin_px": 0, "xmax_px": 40, "ymin_px": 960, "ymax_px": 1000}, False),  # a corner
    ],
)
def test_platelets_on_the_forbidden_edges_belong_to_the_next_field(box, counts):
    red = Observation("f1.png", cell(1, CellKind.ERYTHROCYTE, touches_edge=True, **box), None)
    platelet = Observation(
        "f1.png", cell(2, CellKind.PLATELET, touches_edge=True, **box), prediction(CellClass.PLATELET)
    )
    found = counted([red, platelet])
    assert found.platelets == int(counts)
    assert found.erythrocytes == 1, "imaging finds only those whose centre is in the field"


def test_fields_unfit_to_count_are_in_no_count():
    bad = field("f2.png", quality=FieldQuality(fit=False, reason="blurred"))
    seen = [
        *blood(neutrophil=10, red_cells=100, blasts=2),
        *blood(name="f2.png", neutrophil=90, red_cells=50, blasts=9),
    ]
    result = interpret(SLIDE, [field(), bad], seen, WEIGHTS, Profile())
    found = result.differential
    assert (found.leukocytes, found.erythrocytes, found.unclassified, found.blast_like) == (10, 100, 2, 2)
    assert found.area_mm2 == 0.01
    excluded = [o for o in result.observations if o.field == "f2.png" and o.prediction is not None]
    assert {(o.prediction.status, o.prediction.reason) for o in excluded} == {
        (CellStatus.EXCLUDED, "field not fit: blurred")
    }


def test_an_empty_slide():
    found = counted([])
    assert (found.leukocytes, found.adequacy) == (0, Adequacy.NONE)
    assert math.isnan(found.nrbc_per_100_wbc)


def test_a_field_cut_into_small_ones_has_as_many_red_cells_as_in_one_piece():
    rgb, _ = render_field({"red cell": 190, "platelet": 10}, (800, 800), 0.15)

    def red_cells(side_px: int) -> int:
        fields, seen = [], []
        for row, col in itertools.product(range(0, 800, side_px), repeat=2):
            part = np.ascontiguousarray(rgb[row : row + side_px, col : col + side_px])
            found = analyse_field(Field("s", f"{row} {col}", part), given_um_per_px=0.15)
            fields.append(found.summary)
            reds = (one for one in found.cells if one.kind is CellKind.ERYTHROCYTE)
            seen += [Observation(found.summary.name, one, None) for one in reds]
        return count_cells(fields, seen).erythrocytes

    assert red_cells(200) == pytest.approx(red_cells(800), rel=0.05)
