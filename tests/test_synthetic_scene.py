"""Cells are laid out as asked: how many, where, and without lying on each other by accident."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbctool.records import CellClass
from cbctool.synthetic.cells import DEBRIS, RED_CELL, SMUDGE, draw
from cbctool.synthetic.scene import RECIPES, RED_CELL_AREA_UM2, Placed, field_counts, place_cells

OTHERS = {RED_CELL, DEBRIS, SMUDGE, CellClass.PLATELET.value}


@pytest.mark.parametrize("name", list(RECIPES))
def test_counts_hold_the_asked_cells_in_the_recipes_shares(name: str) -> None:
    rng = np.random.default_rng(4)
    counts = field_counts(RECIPES[name], 5000, 100, 200, rng)
    assert sum(n for cell, n in counts.items() if cell not in OTHERS) == 5000
    total = sum(RECIPES[name].shares.values())
    for cell, share in RECIPES[name].shares.items():
        assert counts[cell] / 5000 == pytest.approx(share / total, abs=0.03)
    assert counts[RED_CELL] * RED_CELL_AREA_UM2 / 20000 == pytest.approx(RECIPES[name].red_cell_cover, abs=0.01)


def lay(counts: dict[str, int], seed: int = 1, **options: float) -> list[Placed]:
    return place_cells(counts, 120, 160, np.random.default_rng(seed), distinct=4, **options)


def test_the_same_generator_gives_the_same_layout() -> None:
    counts = {"neutrophil": 3, RED_CELL: 100, "platelet": 5}
    assert lay(counts, 7) == lay(counts, 7) != lay(counts, 8)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), nucleated=st.integers(0, 12), red=st.integers(0, 150), platelets=st.integers(0, 10))
def test_everything_is_laid_and_nucleated_cells_lie_in_the_field(
    seed: int, nucleated: int, red: int, platelets: int
) -> None:
    placed = lay({"lymphocyte": nucleated, RED_CELL: red, "platelet": platelets}, seed)
    names = [cell.name for cell in placed]
    assert names.count("lymphocyte") == nucleated
    assert names.count("platelet") == platelets
    for cell in placed:
        margin = 4.0 if cell.name == RED_CELL else 0.0
        assert -margin <= cell.row_um <= 120 + margin
        assert -margin <= cell.col_um <= 160 + margin


def test_nucleated_cells_do_not_lie_on_each_other_and_clusters_touch() -> None:
    def gaps(clustered: float) -> np.ndarray:
        placed = lay({"lymphocyte": 14}, 3, clustered=clustered)
        at = np.array([(c.row_um, c.col_um) for c in placed])
        reach = np.array([draw(c.name, c.drawing).reach_um for c in placed])
        apart = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) - reach[:, None] - reach[None]
        return apart[np.triu_indices(len(placed), 1)]

    assert gaps(0.0).min() > 0
    assert gaps(1.0).min() > -2.0
    assert (gaps(1.0) < 0.5).sum() >= 10


def test_margin_keeps_nucleated_cells_off_the_border() -> None:
    for cell in lay({"lymphocyte": 10}, margin_um=20.0):
        assert 20 <= cell.row_um <= 100
        assert 20 <= cell.col_um <= 140


def test_thick_blood_overlaps_more() -> None:
    def nearest(count: int) -> float:
        at = np.array([(c.row_um, c.col_um) for c in lay({RED_CELL: count})])
        apart = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) + 99 * np.eye(len(at))
        return float((apart.min(axis=1) < 6.5).mean())

    assert nearest(150) < 0.3 < nearest(450)
