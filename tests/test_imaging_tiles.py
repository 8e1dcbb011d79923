"""Slides cut without gap or overlap, background left out, each cell counted once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pyramids import smear, write_pyramid

from cbctool.imaging.field import analyse_field
from cbctool.imaging.read import read_field
from cbctool.imaging.tiles import (
    Tile,
    TileOptions,
    cut,
    fill_map,
    keep_owned,
    occupied,
    owns,
    plan_tiles,
    read_tile,
    seam_twins,
    slide_white,
    tile_map,
    to_level_0,
)
from cbctool.imaging.whole_slide import open_whole_slide
from cbctool.records import Cell, CellKind, FieldQuality, FieldResult, FieldSummary, Scale, ScaleSource, TileUse

SMALL = TileOptions(tile_px=256, margin_um=10.0, margin_px=40)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return smear()


def test_a_replaced_file_is_opened_anew(tmp_path: Path, scene: np.ndarray) -> None:
    path = write_pyramid(tmp_path / "a.tif", scene)
    tile = cut((1500, 2000), (1.0,), 0.25, SMALL)[30]
    before = read_tile(path, tile, "s").rgb
    write_pyramid(path, 255 - scene)
    assert_array_equal(read_tile(path, tile, "s").rgb, 255 - before)


SCALES = st.one_of(st.none(), st.floats(0.05, 1.0))


@settings(deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), SCALES, st.sampled_from([(1.0,), (1.0, 2.0, 4.0)]))
def test_cores_cover_every_pixel_once(
    height: int, width: int, um_per_px: float | None, downsamples: tuple[float, ...]
) -> None:
    options = TileOptions(tile_px=1500)
    tiles = cut((height, width), downsamples, um_per_px, options)
    assert sum((t.core[2] - t.core[0]) * (t.core[3] - t.core[1]) for t in tiles) == height * width
    for row, col in ((0, 0), (height - 1, width - 1), (height // 2, width // 3), (height / 2 - 0.5, width / 2 - 0.5)):
        assert sum(owns(tile, row, col) for tile in tiles) == 1
    assert len({tile.name for tile in tiles}) == len(tiles)
    for tile in tiles:
        assert 0 <= tile.ymin_px <= tile.core[0] < tile.core[2] <= tile.ymax_px <= height
        assert 0 <= tile.xmin_px <= tile.core[1] < tile.core[3] <= tile.xmax_px <= width
        assert (tile.ymax_px - tile.ymin_px) / tile.downsample <= max(options.tile_px, 750 + 2 * 600) + 4
        margin = 300.0 if um_per_px is None else options.margin_um / um_per_px
        assert tile.core[0] - tile.ymin_px >= min(margin - 1e-6, tile.core[0])
        assert tile.xmax_px - tile.core[3] >= min(margin - 1e-6, width - tile.core[3])


@pytest.mark.parametrize(
    ("um_per_px", "level"), [(0.25, 0), (0.1, 1), (0.05, 2), (0.075, 2), (0.5, 0), (0.3, 0), (0.15, 1), (None, 0)]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(um_per_px: float | None, level: int) -> None:
    assert {tile.level for tile in cut((4000, 4000), (1.0, 2.0, 4.0, 16.0), um_per_px)} == {level}


def test_tiles_grow_where_margins_would_fill_them() -> None:
    tiles = cut((8000, 8000), (1.0,), 0.02)
    assert max(tile.ymax_px - tile.ymin_px for tile in tiles) <= 2048 / 2 + 2 * 1500 + 2


def test_background_is_left_out(tmp_path: Path, scene: np.ndarray) -> None:
    slide = open_whole_slide(write_pyramid(tmp_path / "a.tif", scene))
    tiles = plan_tiles(slide, SMALL)
    everything = cut(slide.shapes[0], slide.downsamples, slide.um_per_px, SMALL)
    left_out = set(everything) - set(tiles)
    assert left_out
    for tile in everything:
        ymin, xmin, ymax, xmax = tile.core
        if tile in left_out:
            assert (scene[ymin:ymax, xmin:xmax] == 245).all()
    assert all(tile.core[1] >= 2000 / 3 - 200 for tile in tiles)
    slide.close()


def test_an_evenly_covered_slide_is_not_all_background() -> None:
    tiles = cut((1000, 1000), (1.0,), 0.25, SMALL)
    assert all(occupied(np.full((100, 100, 3), 180, np.uint8), 10.0, tiles))


def test_a_black_thumbnail_does_not_divide_by_zero() -> None:
    tiles = cut((1000, 1000), (1.0,), 0.25, SMALL)
    assert all(occupied(np.zeros((100, 100, 3), np.uint8), 10.0, tiles))


def test_read_tile_says_where_it_is_and_at_what_scale(tmp_path: Path, scene: np.ndarray) -> None:
    path = write_pyramid(tmp_path / "a.tif", scene, um_per_px=0.1)
    options = TileOptions(tile_px=400, margin_um=15.0)
    slide = open_whole_slide(path)
    tile = plan_tiles(slide, options)[-1]
    field = read_tile(path, tile, "case")
    assert (tile.level, tile.downsample) == (1, 2.0)
    assert field.um_per_px == pytest.approx(0.2)
    assert (field.slide, field.name) == ("case", tile.name)
    assert (field.row_px, field.col_px) == (tile.ymin_px, tile.xmin_px)
    half = cv2.resize(scene, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert_array_equal(field.rgb, half[round(tile.ymin_px / 2) :, round(tile.xmin_px / 2) :])
    assert read_tile(path, tile, "case", um_per_px=0.12).um_per_px == pytest.approx(0.24)
    assert read_tile(path, tile, "case", um_per_px=0.5).warnings
    slide.close()


# --------------------------------------------------------------------------------------------------------------- seams


def _blobs(rgb: np.ndarray) -> list[tuple[float, float, float]]:
    """Find violet discs: (row, col, area)."""
    mask = (rgb[..., 0] < 150).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(mask)
    return [(float(r), float(c), float(a)) for (c, r), a in zip(centres[1:], stats[1:, cv2.CC_STAT_AREA], strict=True)]


def _result(cells: list[Cell], crops: list[int], area_mm2: float = 1.0) -> FieldResult:
    summary = FieldSummary("f", 10, 10, Scale(0.25, ScaleSource.METADATA), FieldQuality(True), area_mm2)
    pictures = np.arange(len(crops), dtype=np.uint8)[:, None, None, None] * np.ones((1, 28, 28, 3), np.uint8)
    return FieldResult(
        summary, tuple(cells), pictures, np.array(crops, int), tuple(bytes([i]) for i in range(len(crops)))
    )


def _cell(number: int, row: float, col: float, radius: int = 5, kind: CellKind = CellKind.NUCLEATED) -> Cell:
    box = (int(row) - radius, int(col) - radius, int(row) + radius, int(col) + radius)
    return Cell(number, kind, row, col, *box, area_um2=10.0, touches_edge=False)


@pytest.mark.parametrize("um_per_px", [0.25, 0.12, None])
def test_each_cell_is_counted_once_and_whole(tmp_path: Path, scene: np.ndarray, um_per_px: float | None) -> None:
    path = write_pyramid(tmp_path / "a.tif", scene, um_per_px=um_per_px)
    slide = open_whole_slide(path)
    found = []
    for tile in plan_tiles(slide, TileOptions(tile_px=256, margin_um=10.0, margin_px=40)):
        cells = [_cell(i, row, col) for i, (row, col, _) in enumerate(_blobs(read_tile(path, tile, "s").rgb), start=1)]
        found += [(cell, tile.name) for cell in keep_owned(tile, _result(cells, [])).cells]
    slide.close()
    found = _once(found, 1.5 / 0.25)
    expected = [(row, col) for row, col, _ in _blobs(scene)]
    assert len(found) == len(expected)
    assert np.abs(np.array(sorted(found)) - np.array(sorted(expected))).max() < 1.0


@pytest.mark.real
def test_a_real_field_has_the_same_cells_as_one_and_as_tiles(tmp_path: Path) -> None:
    data = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).parents[2] / "shared/data"))
    path = data / "all_idb1/original/Im041_0.jpg"
    if not path.is_file():
        pytest.skip(f"the real data are not at {data}")
    um_per_px = 0.0807  # as analyse_field measures it from the red cells
    field = replace(read_field(path, "s", "f"), um_per_px=um_per_px)
    whole = analyse_field(field)
    tiled = write_pyramid(tmp_path / "a.tif", field.rgb, um_per_px=um_per_px, steps=(4,))
    slide = open_whole_slide(tiled)
    tiles = plan_tiles(slide, TileOptions(1024))
    parts = [keep_owned(tile, analyse_field(read_tile(tiled, tile, "s"))) for tile in tiles]
    slide.close()
    assert sum(part.summary.area_mm2 for part in parts) == pytest.approx(whole.summary.area_mm2)
    cells = [(cell, tile.name) for part, tile in zip(parts, tiles, strict=True) for cell in part.cells]
    for kind, slack in (
        (CellKind.NUCLEATED, 0),
        (CellKind.PLATELET, 2),
        (CellKind.ERYTHROCYTE, 9),
    ):  # 2 of about 27, 450
        there = np.array([(cell.row_px, cell.col_px) for cell in whole.cells if cell.kind == kind])
        found = np.array(_once([one for one in cells if one[0].kind == kind], 1.5 / um_per_px))
        assert abs(len(there) - len(found)) <= slack
        far = np.linalg.norm(there[:, None] - found[None], axis=2).min(axis=1) * um_per_px > 2.0
        assert far.sum() <= slack


def _once(found: list[tuple[Cell, str]], within_px: float) -> list[tuple[float, float]]:
    """Centres of cells with their tiles, without those that a neighbouring tile has already."""
    twins = seam_twins([cell for cell, _ in found], [tile for _, tile in found], within_px)
    return [(cell.row_px, cell.col_px) for i, (cell, _) in enumerate(found) if i not in twins]


def test_keep_owned_takes_crops_and_pictures_along() -> None:
    tile = Tile(0, 1, 0, 1.0, 0, 100, 200, 300, core=(0, 120, 180, 280))
    cells = [
        _cell(1, 50, 10),  # the left neighbour's
        _cell(2, 60, 30),
        _cell(3, 70, 90, kind=CellKind.ERYTHROCYTE),
        _cell(4, 190, 90),  # the one below's
        _cell(5, 100, 179.9),
        _cell(6, 100, 187),  # the right neighbour's: more than 1.5 um (6 px) beyond
    ]
    kept = keep_owned(tile, _result(cells, [0, 1, 3, 4, 5]))
    assert [cell.cell for cell in kept.cells] == [1, 2, 3]
    assert [(cell.row_px, cell.col_px) for cell in kept.cells] == [(60, 130), (70, 190), (100, pytest.approx(279.9))]
    assert kept.crop_cells.tolist() == [0, 2]
    assert kept.crops[:, 0, 0, 0].tolist() == [1, 3]
    assert kept.thumbnails == (b"\x01", b"\x03")
    assert kept.summary.area_mm2 == pytest.approx(180 * 160 / (200 * 200))
    assert (kept.summary.height_px, kept.summary.width_px, kept.summary.scale.um_per_px) == (200, 200, 0.25)
    halved = keep_owned(replace(tile, downsample=2.0), _result([], []))
    assert (halved.summary.scale.um_per_px, halved.summary.preview_scale) == (0.125, 0.5)
    nothing = keep_owned(tile, _result([], []))
    assert nothing.cells == ()
    assert nothing.crops.shape == (0, 28, 28, 3)


def test_to_level_0_scales_centres_and_boxes() -> None:
    tile = Tile(0, 0, 1, 4.0, 100, 200, 500, 600, core=(100, 200, 500, 600))
    moved = to_level_0(tile, _cell(1, 9.5, 19.5))
    assert (moved.row_px, moved.col_px) == (139.5, 279.5)  # the middle of 4 x 4 pixels
    assert (moved.ymin_px, moved.xmin_px, moved.ymax_px, moved.xmax_px) == (116, 256, 156, 296)
    same = _cell(1, 9.5, 19.5)
    assert to_level_0(replace(tile, downsample=1.0, ymin_px=0, xmin_px=0), same) == same


def _at(row: float, col: float, kind: CellKind = CellKind.ERYTHROCYTE) -> Cell:
    return Cell(1, kind, row, col, 0, 0, 9, 9, 40.0, False)


def test_a_cell_that_two_tiles_kept_is_found_once() -> None:
    cells = [_at(10, 99.8), _at(10, 100.3), _at(10, 104.0), _at(50, 99.0), _at(50, 99.2)]
    # The second is the first again; the last is the fourth's neighbour in its own tile.
    assert seam_twins(cells, ["left", "right", "right", "left", "left"], within_px=2.0) == {1}
    assert seam_twins([], [], within_px=2.0) == set()


@pytest.mark.parametrize(
    ("unfit", "left_out"), [((), {1}), (["left"], {0}), (["right"], {1}), (["left", "right"], {1})]
)
def test_of_two_twins_the_one_stays_that_is_counted(unfit: list[str], left_out: set[int]) -> None:
    cells = [_at(10, 99.8, CellKind.NUCLEATED), _at(10, 100.3, CellKind.NUCLEATED)]
    assert seam_twins(cells, ["left", "right"], 2.0, unfit) == left_out


@pytest.mark.parametrize("other", [CellKind.PLATELET, CellKind.ERYTHROCYTE, CellKind.ARTEFACT])
def test_a_cell_that_two_tiles_call_by_different_kinds_is_counted_once(other: CellKind) -> None:
    cells = [_at(10, 99.8, other), _at(10, 100.3, CellKind.NUCLEATED)]
    assert seam_twins(cells, ["left", "right"], 2.0) == {0}
    assert seam_twins(cells, ["left", "right"], 2.0, ["right"]) == {1}
    assert seam_twins(cells, ["left", "left"], 2.0) == set()


def test_a_platelet_on_a_red_cell_is_no_twin_of_it() -> None:
    red, platelet = CellKind.ERYTHROCYTE, CellKind.PLATELET
    cells = [_at(10, 99.8, red), _at(10, 99.5, platelet), _at(10, 100.3, red)]  # the right tile has not seen it
    assert seam_twins(cells, ["left", "left", "right"], 2.0) == {2}
    assert seam_twins([*cells, _at(10, 100.1, platelet)], ["left", "left", "right", "right"], 2.0) == {2, 3}


def test_at_a_corner_of_four_tiles_a_cell_is_found_once() -> None:
    cells = [_at(10 + row / 4, 99 + col / 4) for row in range(2) for col in range(2)]
    assert seam_twins(cells, list("abcd"), 2.0, ["a", "c"]) == {0, 2, 3}


def test_the_map_shows_each_core(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_pyramid(path, smear(1000, 1500))
    slide = open_whole_slide(path)
    options = TileOptions(tile_px=600, margin_um=10.0, overview_px=100)
    empty = tile_map(slide, options=options)
    assert slide_white(path) == pytest.approx(245, abs=2)
    tiles = plan_tiles(slide, options)
    slide.close()
    assert (empty.height_px, empty.width_px) == (1000, 1500)
    assert {use for row in empty.uses for use in row} == {TileUse.BACKGROUND}
    picture = cv2.imdecode(np.frombuffer(empty.overview_jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 100
    assert picture.shape[0] in (66, 67)  # level 8 is 125 x 188 px
    drawn = fill_map(empty, {(tile.row, tile.col): TileUse.COUNTED for tile in tiles})
    assert [len(row) for row in drawn.uses] == [3] * 2
    # The left third of the picture is white.
    assert [row[0] for row in drawn.uses] == [TileUse.BACKGROUND] * 2
    assert {use for row in drawn.uses for use in row[1:]} == {TileUse.COUNTED}
