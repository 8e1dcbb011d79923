"""A rendered field is reproducible, physical, and its truth is where the pixels are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cbctool.records import CellClass, CellKind
from cbctool.synthetic.cells import BLAST, RED_CELL
from cbctool.synthetic.render import render_field
from cbctool.synthetic.scene import Placed
from cbctool.synthetic.stain import LOOKS, Look, vary_look

SHAPE = (200, 260)
CELLS = {"neutrophil": 2, "monocyte": 1, BLAST: 1, RED_CELL: 40, "platelet": 4, "smudge cell": 1}
CLEAN = Look(background=(250, 250, 250), vignette=0, tilt=0, blur_um=0, noise=0)


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (render_field(CELLS, SHAPE, 0.25, seed, distinct=4)[0] for seed in (5, 5, 6))
    assert first.shape == (*SHAPE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_truth_boxes_and_centres_fit_the_label_masks() -> None:
    rgb, truth = render_field(CELLS, SHAPE, 0.25, 3, CLEAN, with_labels=True, distinct=4)
    assert truth.labels is not None
    assert truth.nuclei is not None
    assert [cell.label for cell in truth.cells] == list(range(1, len(truth.cells) + 1))
    for cell in truth.cells:
        rows, cols = np.nonzero(truth.labels == cell.label)
        if rows.size:  # not wholly under another
            assert cell.ymin_px <= rows.min() <= rows.max() < cell.ymax_px
            assert cell.xmin_px <= cols.min() <= cols.max() < cell.xmax_px
        touches = cell.ymin_px == 0 or cell.xmin_px == 0 or cell.ymax_px == SHAPE[0] or cell.xmax_px == SHAPE[1]
        assert cell.touches_edge == touches
        assert cell.touches_edge or not cell.nucleus_touches_edge
    # Stain is where the labels are, and nowhere else but in the soft outlines.
    dark = rgb[..., 1] < 200
    assert (truth.labels[dark] > 0).mean() > 0.97
    assert rgb[truth.nuclei > 0].mean() < rgb[(truth.labels > 0) & (truth.nuclei == 0)].mean() - 40


def test_names_kinds_and_classes() -> None:
    _, truth = render_field(CELLS, SHAPE, 0.25, 3, distinct=4)
    found = {(cell.name, cell.kind, cell.cell_class) for cell in truth.cells}
    assert ("neutrophil", CellKind.NUCLEATED, CellClass.NEUTROPHIL) in found
    assert (BLAST, CellKind.NUCLEATED, None) in found
    assert ("smudge cell", CellKind.ARTEFACT, None) in found
    assert (RED_CELL, CellKind.ERYTHROCYTE, None) in found


def test_densities_add_where_cells_overlap() -> None:
    where = [Placed(RED_CELL, 1, 10.0, 10.0), Placed(RED_CELL, 2, 13.0, 12.0)]
    density = [-np.log10(render_field(w, (96, 96), 0.25, 0, CLEAN)[0] / 250.0) for w in (where[:1], where[1:], where)]
    assert np.abs(density[0] + density[1] - density[2]).max() < 0.01


def test_scale_is_obeyed() -> None:
    areas = []
    for shape, um_per_px in (((200, 200), 0.1), ((50, 50), 0.4)):
        labels = render_field([Placed("lymphocyte", 0, 10, 10)], shape, um_per_px, 0, with_labels=True)[1].labels
        areas.append(float((labels > 0).sum()) * um_per_px**2)
    assert areas[0] == pytest.approx(areas[1], rel=0.06)


def test_a_cell_outside_the_field_is_not_in_the_truth() -> None:
    assert render_field([Placed(RED_CELL, 0, -20.0, 10.0)], (50, 50), 0.25)[1].cells == ()


def test_blur_light_noise_and_jpeg_do_what_they_say() -> None:
    empty: list[Placed] = []
    uneven = render_field(empty, (100, 100), 0.2, 0, replace(CLEAN, vignette=0.2))[0].astype(float)
    assert uneven[50, 50].mean() > uneven[0, 0].mean() + 20
    noisy = render_field(empty, (100, 100), 0.2, 0, replace(CLEAN, noise=3.0, background=(128, 128, 128)))[0]
    assert noisy[..., 1].std() == pytest.approx(3.0, abs=0.8)
    cell = [Placed("lymphocyte", 0, 10, 10)]
    sharp, soft, packed = (
        render_field(cell, (100, 100), 0.2, 0, look)[0].astype(float)
        for look in (CLEAN, replace(CLEAN, blur_um=1.0), replace(CLEAN, jpeg_quality=30))
    )
    assert np.abs(np.diff(soft[..., 1], axis=0)).max() < 0.6 * np.abs(np.diff(sharp[..., 1], axis=0)).max()
    assert 0.2 < np.abs(packed - sharp).mean() < 5


@pytest.mark.parametrize("name", list(LOOKS))
def test_looks_differ_in_cast_and_vary_by_day(name: str) -> None:
    look = LOOKS[name]
    rgb, _ = render_field([], (40, 40), 0.2, 0, look)
    assert np.abs(rgb.mean(axis=(0, 1)) - np.array(look.background)).max() < 20
    other = vary_look(look, np.random.default_rng(1))
    assert other != look
    assert other == vary_look(look, np.random.default_rng(1))
    assert np.allclose(other.vectors(), look.vectors(), rtol=0.11)


@pytest.mark.parametrize("um_per_px", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_none_is_refused(um_per_px: float) -> None:
    with pytest.raises(ValueError, match="um_per_px"):
        render_field({}, (10, 10), um_per_px)
