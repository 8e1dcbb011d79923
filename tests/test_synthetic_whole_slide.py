"""A whole smear renders by parts that agree, and its file opens as a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cbctool.errors import OutputError
from cbctool.records import CellKind
from cbctool.synthetic.cells import RED_CELL
from cbctool.synthetic.whole_slide import WholeSmear, write_pyramid

SMEAR = WholeSmear((704, 960), um_per_px=0.8, seed=2, distinct=4)


def test_overlapping_regions_agree_to_the_last_bit() -> None:
    whole, _ = SMEAR.region(200, 400, (240, 300))
    part, _ = SMEAR.region(270, 500, (120, 150))
    assert np.array_equal(whole[70:190, 100:250], part)


def test_truth_of_a_region_is_that_of_its_rendering_and_moves_with_it() -> None:
    _, rendered = SMEAR.region(200, 400, (240, 300))
    assert rendered.cells == SMEAR.truth(200, 400, (240, 300)).cells
    part = SMEAR.truth(270, 500, (120, 150))
    whole = {(c.name, round(c.row_px - 70, 1), round(c.col_px - 100, 1)) for c in rendered.cells}
    inside = [c for c in part.cells if not c.touches_edge]
    assert len(inside) > 20
    assert {(c.name, round(c.row_px, 1), round(c.col_px, 1)) for c in inside} <= whole


def test_blood_is_thick_on_the_left_and_ends_in_a_feather() -> None:
    middle = SMEAR.shape[0] * SMEAR.um_per_px / 2
    width = SMEAR.shape[1] * SMEAR.um_per_px
    covers = [SMEAR.cover(middle, share * width) for share in (0.01, 0.15, 0.6, 0.9, 0.99)]
    assert covers[0] == covers[4] == 0
    assert covers[1] > 0.9
    assert 0.3 < covers[2] < 0.5
    assert 0 < covers[3] < 0.3
    red = [sum(c.name == RED_CELL for c in SMEAR.truth(280, col, (150, 150)).cells) for col in (130, 560, 800)]
    assert red[0] > 1.5 * red[1] > 3 * red[2]


def test_the_file_opens_as_a_pyramid_with_its_scale(tmp_path: Path) -> None:
    import openslide

    path = tmp_path / "smear.tif"
    write_pyramid(path, SMEAR)
    assert [p.name for p in tmp_path.iterdir()] == ["smear.tif"]
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.dimensions == (960, 704)
        assert slide.level_dimensions[1] == (240, 176)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.8, rel=1e-3)
        tile = np.array(slide.read_region((400, 300), 0, (300, 200)).convert("RGB"), float)
        small = np.array(slide.read_region((400, 300), 1, (75, 50)).convert("RGB"), float)
    region, truth = SMEAR.region(300, 400, (200, 300))
    assert np.abs(tile - region).mean() < 6  # JPEG
    assert np.abs(region.reshape(50, 4, 75, 4, 3).mean(axis=(1, 3)) - small).mean() < 8
    assert any(cell.kind is CellKind.NUCLEATED for cell in truth.cells)


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_pyramid(tmp_path / "absent" / "smear.tif", SMEAR)
