"""Morphometry of shapes whose measures are known."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cbctool.imaging.measure import measure_cells
from cbctool.imaging.segment import Segmentation
from cbctool.records import CellKind

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
UM = 0.25


def disc(shape, row, col, radius):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


def segmentation(labels, kinds, nuclei=None, density=None, reds=(), zoom=1.0):
    shape = labels.shape
    nuclei = np.zeros(shape, bool) if nuclei is None else nuclei
    density = np.zeros((*shape, 3), np.uint8) if density is None else density
    angles = 2 * np.pi * np.arange(32) / 32
    outlines = [
        np.stack([row + radius * np.sin(angles), col + radius * np.cos(angles)], axis=1) for row, col, radius in reds
    ]
    return Segmentation(
        um_per_px=UM,
        px_per_row=zoom,
        px_per_col=zoom,
        density=density,
        azure=np.zeros(shape, np.uint8),
        cell_labels=labels.astype(np.int32),
        nuclei=nuclei,
        kinds=tuple(kinds),
        reasons=("",) * len(kinds),
        red_outlines=np.array(outlines, np.float32).reshape(-1, 32, 2),
    )


def one_cell(nucleus_radius=10, lobes=((40, 40),)):
    shape = (80, 80)
    cell = disc(shape, 40, 40, 20)
    nucleus = np.zeros(shape, bool)
    for row, col in lobes:
        nucleus |= disc(shape, row, col, nucleus_radius)
    density = np.zeros((*shape, 3), np.uint8)
    density[cell] = (20, 40, 10)
    density[nucleus] = (80, 120, 20)
    return measure_cells(segmentation(cell, [CellKind.NUCLEATED], nucleus, density), *shape)[0]


def test_a_round_cell():
    cell = one_cell()
    assert cell.area_um2 == pytest.approx(np.pi * 25, rel=0.02)
    assert cell.equivalent_diameter_um == pytest.approx(10, rel=0.01)
    assert cell.circularity == pytest.approx(1, abs=0.06)
    assert cell.eccentricity < 0.1
    assert (cell.row_px, cell.col_px) == pytest.approx((40, 40))
    assert (cell.ymin_px, cell.xmin_px, cell.ymax_px, cell.xmax_px) == (20, 20, 61, 61)
    assert cell.nc_ratio == pytest.approx(0.25, abs=0.01)
    assert cell.nucleus_area_um2 == pytest.approx(np.pi * 6.25, rel=0.03)
    assert not cell.touches_edge


def test_densities_are_means_of_what_was_put_in():
    cell = one_cell()
    assert cell.nucleus_od == pytest.approx((80 + 120 + 20) / 3 / 200, rel=1e-4)
    assert cell.cytoplasm_od == pytest.approx((20 + 40 + 10) / 3 / 200, rel=1e-4)
    assert cell.chromatin_texture == pytest.approx(0, abs=1e-5)
    assert cell.granularity < 0.03


def test_pure_dyes_are_told_apart():
    """A cell in the colour of one of Ruifrok and Johnston's vectors holds that dye and not the other."""
    shape = (40, 40)
    cell = disc(shape, 20, 20, 10)
    for vector, dye, other in (((0.650, 0.704, 0.286), 0, 1), ((0.072, 0.990, 0.105), 1, 0)):
        density = np.zeros((*shape, 3), np.uint8)
        density[cell] = np.rint(np.array(vector) * 200)
        measured = measure_cells(segmentation(cell, [CellKind.PLATELET], density=density), *shape)[0]
        amounts = (measured.haematoxylin_od, measured.eosin_od)
        assert amounts[dye] == pytest.approx(1, abs=0.02)
        assert amounts[other] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("lobes", "radius", "count"),
    [(((40, 40),), 10, 1), (((40, 32), (40, 48)), 6, 2), (((32, 34), (32, 46), (48, 40)), 5, 3)],
)
def test_lobes_are_counted(lobes, radius, count):
    cell = one_cell(radius, lobes)
    assert cell.nuclear_lobes == count
    assert (cell.nuclear_solidity < 0.93) == (count > 1)


def test_a_red_cell_has_size_and_place_but_no_nucleus():
    labels = np.zeros((80, 80))
    cell = measure_cells(segmentation(labels, [], reds=[(40, 30, 15)]), 80, 80)[0]
    assert cell.kind is CellKind.ERYTHROCYTE
    assert cell.area_um2 == pytest.approx(np.pi * 3.75**2, rel=0.01)
    assert cell.circularity == pytest.approx(1, abs=0.01)
    assert (cell.row_px, cell.col_px) == pytest.approx((40, 30), abs=0.01)
    assert np.isnan(cell.nc_ratio)


def test_a_red_cell_beyond_the_edge_is_cut_off_there():
    cell = measure_cells(segmentation(np.zeros((80, 80)), [], reds=[(5, 40, 15)]), 80, 80)[0]
    assert cell.touches_edge
    assert cell.ymin_px == 0
    assert cell.area_um2 < np.pi * 3.75**2


def test_a_cell_may_touch_the_edge_while_its_nucleus_does_not():
    shape = (60, 60)
    cell = disc(shape, 15, 30, 20)
    for row, reaches in ((16, False), (8, True)):
        measured = measure_cells(segmentation(cell, [CellKind.NUCLEATED], disc(shape, row, 30, 10)), *shape)[0]
        assert measured.touches_edge
        assert measured.nucleus_touches_edge is reaches


def test_what_surrounds_the_field_cuts_cells_as_its_edge_does():
    shape = (60, 60)
    surround = np.broadcast_to(np.arange(60) >= 40, shape)
    cell, nucleus = disc(shape, 30, 25, 15), disc(shape, 30, 22, 8)
    reds = [(30, 30, 9), (30, 10, 9)]
    found = segmentation(cell, [CellKind.NUCLEATED], nucleus, reds=reds)
    touching = {
        (c.kind, c.col_px): (c.touches_edge, c.nucleus_touches_edge) for c in measure_cells(found, *shape, surround)
    }
    assert sorted(touching.values()) == [(False, False), (True, False), (True, False)]
    found = segmentation(cell, [CellKind.NUCLEATED], disc(shape, 30, 31, 8))
    (cut,) = measure_cells(found, *shape, surround)
    assert cut.nucleus_touches_edge


def test_positions_are_pixels_of_the_field():
    shape = (40, 40)
    labels = np.zeros(shape)
    labels[10:20, 4:12] = 1
    cell = measure_cells(segmentation(labels, [CellKind.PLATELET], zoom=3.0), 120, 120)[0]
    assert (cell.ymin_px, cell.xmin_px, cell.ymax_px, cell.xmax_px) == (30, 12, 60, 36)
    assert (cell.row_px, cell.col_px) == pytest.approx((44.5, 23.5))


def test_a_box_holds_a_pixel_of_a_coarse_field():
    labels = np.zeros((8, 8), int)
    labels[3, 3] = 1  # a sliver of one pixel, half as wide as one of the field
    (cell,) = measure_cells(segmentation(labels, [CellKind.ARTEFACT], zoom=0.5), 4, 4)
    assert (cell.ymin_px, cell.xmin_px, cell.ymax_px, cell.xmax_px) == (2, 2, 3, 3)


def test_cells_are_numbered_from_top_to_bottom():
    labels = np.zeros((60, 60))
    labels[40:50, 10:20] = 1
    labels[5:9, 5:9] = 2
    cells = measure_cells(segmentation(labels, [CellKind.NUCLEATED, CellKind.PLATELET], reds=[(25, 40, 8)]), 60, 60)
    assert [cell.cell for cell in cells] == [1, 2, 3]
    assert [cell.kind for cell in cells] == [CellKind.PLATELET, CellKind.ERYTHROCYTE, CellKind.NUCLEATED]


def test_an_empty_field():
    assert measure_cells(segmentation(np.zeros((10, 10)), []), 10, 10) == ()


@pytest.mark.real
def test_nc_ratio_agrees_with_pathologists():
    if not (DATA / "pbc").is_dir():
        pytest.skip(f"no real data at {DATA}")
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    from cbctool.imaging.background import normalise
    from cbctool.imaging.segment import segment

    frames = pd.read_csv(DATA / "pbc" / "images.csv").query("split == 'train'")
    high = frames[frames.nuclear_cytoplasmic_ratio == "high"].iloc[::50]
    low = frames[frames.nuclear_cytoplasmic_ratio == "low"].iloc[::350]
    ratios = []
    for path in [*high.path, *low.path]:
        rgb = cv2.imread(str(DATA / "pbc" / path))[..., ::-1].copy()
        cells = measure_cells(segment(normalise(rgb).rgb, 0.19), *rgb.shape[:2])
        ratios.append(max((cell.area_um2, cell.nc_ratio) for cell in cells if cell.kind is CellKind.NUCLEATED)[1])
    assert roc_auc_score([1] * len(high) + [0] * len(low), ratios) >= 0.88
