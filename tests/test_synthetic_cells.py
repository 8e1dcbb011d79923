"""Drawn cells have the sizes and nuclei of their kind, and a seed gives one cell."""

from __future__ import annotations

import numpy as np
import pytest

from cbctool.records import CLASSES, CellClass, CellKind
from cbctool.synthetic.cells import ARTISTS, BLAST, DEBRIS, RED_CELL, RED_CELL_EDGE_UM, SMUDGE, Drawing, draw, kind_of
from cbctool.synthetic.shape import DRAWING_UM_PER_PX
from cbctool.synthetic.stain import DYES

PIXEL_UM2 = DRAWING_UM_PER_PX**2
NUCLEATED = [c for c in CLASSES if c is not CellClass.PLATELET] + [BLAST]


def diameter(drawing: Drawing) -> float:
    return 2 * float(np.sqrt(drawing.cell.sum() * PIXEL_UM2 / np.pi))


def several(name: str) -> list[Drawing]:
    return [draw(name, seed) for seed in range(8)]


@pytest.mark.parametrize("name", list(ARTISTS))
def test_a_drawing_is_finite_dye_inside_its_paper(name: str) -> None:
    drawing = draw(name, 5)
    size = drawing.cell.shape[0]
    assert drawing.dyes.shape == (size, size, len(DYES))
    assert drawing.nucleus.shape == drawing.cell.shape
    assert np.isfinite(drawing.dyes).all()
    assert drawing.dyes.min() >= 0
    assert drawing.cell.any()
    assert not (drawing.nucleus & ~drawing.cell).any()


def test_a_seed_gives_one_cell_and_another_seed_another() -> None:
    first = draw("neutrophil", 1).dyes.copy()
    draw.cache_clear()
    assert np.array_equal(draw("neutrophil", 1).dyes, first)
    other = draw("neutrophil", 2).dyes
    assert other.shape != first.shape or not np.array_equal(other, first)


# Medians of the boxes of TXL-PBC on PBC frames, micrometres (erythroblast, immature granulocyte, blast: any atlas).
@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("neutrophil", 13.1, 0.8),
        ("eosinophil", 13.6, 0.8),
        ("basophil", 12.5, 0.8),
        ("monocyte", 15.8, 1.5),
        ("lymphocyte", 10.3, 1.0),
        ("erythroblast", 9.5, 1.0),
        ("immature_granulocyte", 14.2, 1.2),
        (BLAST, 14.6, 1.5),
        (RED_CELL, RED_CELL_EDGE_UM, 0.45),
        ("platelet", 3.4, 0.6),
    ],
)
def test_sizes_are_those_of_real_cells(name: str, expected: float, tolerance: float) -> None:
    assert np.median([diameter(draw(name, seed)) for seed in range(16)]) == pytest.approx(expected, abs=tolerance)


def test_only_nucleated_cells_have_a_nucleus_and_blasts_are_nearly_all_nucleus() -> None:
    for name in NUCLEATED:
        assert all(d.nucleus.any() for d in several(name)), name
    for name in (RED_CELL, CellClass.PLATELET, SMUDGE, DEBRIS):
        assert not any(d.nucleus.any() for d in several(name)), name
    ratio = {n: np.mean([d.nucleus.sum() / d.cell.sum() for d in several(n)]) for n in (BLAST, "neutrophil")}
    assert ratio[BLAST] > 0.75
    assert ratio["neutrophil"] < 0.5


def test_eosinophils_hold_eosin_and_red_cells_haemoglobin_with_pallor() -> None:
    eosin = {n: np.mean([d.dyes[..., 1].sum() for d in several(n)]) for n in ("eosinophil", "neutrophil")}
    assert eosin["eosinophil"] > 3 * eosin["neutrophil"]
    for drawing in several(RED_CELL):
        assert not drawing.dyes[..., :3].any()
    middle, rim = [], []
    for drawing in several(RED_CELL):
        size = drawing.cell.shape[0]
        row, col = np.mgrid[:size, :size] - (size - 1) / 2
        radius = np.hypot(row, col) * DRAWING_UM_PER_PX
        middle.append(drawing.dyes[radius < 0.8, 3].mean())
        rim.append(drawing.dyes[(radius > 2.2) & (radius < 2.8), 3].mean())
    assert np.median(middle) < 0.7 * np.median(rim)


def test_kinds_decide_the_denominator() -> None:
    assert {kind_of(name) for name in NUCLEATED} == {CellKind.NUCLEATED}
    assert kind_of(RED_CELL) is CellKind.ERYTHROCYTE
    assert kind_of(CellClass.PLATELET) is CellKind.PLATELET
    assert kind_of(SMUDGE) is kind_of(DEBRIS) is CellKind.ARTEFACT


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unicorn"):
        draw("unicorn", 0)
