"""Whole-slide files: opened, cut without gap or overlap, background left out, each cell counted once."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from cbctool.errors import UnreadableImageError
from cbctool.imaging.field import analyse_field
from cbctool.imaging.read import read_field
from cbctool.imaging.whole_slide import (
    MonolayerOptions,
    Tile,
    TileOptions,
    choose_monolayer,
    companions,
    cut,
    fill_map,
    is_whole_slide,
    keep_owned,
    occupied,
    open_whole_slide,
    owns,
    plan_tiles,
    read_tile,
    seam_twins,
    set_aside,
    slide_white,
    tile_map,
    to_level_0,
)
from cbctool.records import Cell, CellKind, Field, FieldQuality, FieldResult, FieldSummary, Scale, ScaleSource, TileUse

SMALL = TileOptions(tile_px=256, margin_um=10.0, margin_px=40)


def smear(height: int = 1500, width: int = 2000) -> np.ndarray:
    """Draw red cells on white in all but the left third, and a dark disc here and there."""
    rng = np.random.default_rng(3)
    rgb = np.full((height, width, 3), 245, np.uint8)
    for row, col in rng.uniform((15, width / 3 + 60), (height - 15, width - 15), (900, 2)):
        cv2.circle(rgb, (int(col), int(row)), 14, (215, 150, 160), -1, cv2.LINE_AA)
    for row, col in rng.uniform((40, width / 3 + 80), (height - 40, width - 40), (12, 2)):
        cv2.circle(rgb, (int(col), int(row)), 26, (100, 60, 150), -1, cv2.LINE_AA)
    return rgb


def write_pyramid(
    path: Path,
    rgb: np.ndarray,
    um_per_px: float | None = 0.25,
    steps: tuple[int, ...] = (2, 4, 8),
    subifds: bool = False,
    compression: str | None = "deflate",
    **options: object,
) -> Path:
    density = {} if um_per_px is None else {"resolution": (1e4 / um_per_px, 1e4 / um_per_px), "resolutionunit": 3}
    common = {"tile": (128, 128), "photometric": "rgb", "compression": compression}
    with tifffile.TiffWriter(path) as writer:
        writer.write(rgb, subifds=len(steps) if subifds else None, **common, **density, **options)
        for step in steps:
            level = cv2.resize(rgb, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
            writer.write(level, subfiletype=1, **common)
    return path


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return smear()


@pytest.mark.parametrize("subifds", [False, True])
@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_pyramid_is_opened_and_read_where_asked(
    tmp_path: Path, scene: np.ndarray, subifds: bool, compression: str | None
) -> None:
    path = write_pyramid(tmp_path / "a.tif", scene, subifds=subifds, compression=compression)
    assert is_whole_slide(path)
    slide = open_whole_slide(path)
    assert slide.shapes == ((1500, 2000), (750, 1000), (375, 500), (188, 250))
    assert slide.downsamples == pytest.approx((1, 2, 4, 8), rel=0.01)
    assert slide.um_per_px == pytest.approx(0.25)
    assert_array_equal(slide.read(0, 100, 900, 333, 257), scene[100:433, 900:1157])
    assert_array_equal(slide.read(0, 1400, 1990, 100, 10), scene[1400:, 1990:])
    half = cv2.resize(scene, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert_array_equal(slide.read(1, 50, 60, 70, 80), half[50:120, 60:140])
    slide.close()


def test_jpeg_tiles_are_read(tmp_path: Path, scene: np.ndarray) -> None:
    slide = open_whole_slide(write_pyramid(tmp_path / "a.tif", scene, compression="jpeg"))
    assert np.abs(slide.read(0, 0, 0, 1500, 2000).astype(int) - scene).mean() < 3
    slide.close()


def test_a_scanners_own_format_goes_through_openslide(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "a.svs"
    common = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    label = np.zeros((60, 60, 3), np.uint8)
    says = "Aperio Image Library v11\n2000x1500 [0,0 2000x1500] (128x128) JPEG/RGB Q=90|AppMag = 40|MPP = 0.2500"
    with tifffile.TiffWriter(path) as writer:
        writer.write(scene, tile=(128, 128), description=says, **common)
        writer.write(scene[::8, ::8], rowsperstrip=16, description="Aperio Image Library v11\nthumbnail", **common)
        writer.write(scene[::4, ::4], tile=(128, 128), description=says, **common)
        writer.write(
            label, rowsperstrip=16, description="Aperio Image Library v11\nlabel 60x60", subfiletype=1, **common
        )
    assert is_whole_slide(path)
    slide = open_whole_slide(path)
    assert slide.reader == "openslide"
    assert slide.um_per_px == pytest.approx(0.25)
    assert slide.shapes == ((1500, 2000), (375, 500))
    part = slide.read(0, 300, 1000, 200, 300)
    assert np.abs(part.astype(int) - scene[300:500, 1000:1300]).mean() < 4
    coarse = slide.read(1, 75, 250, 50, 75)
    assert np.abs(coarse.astype(int) - scene[::4, ::4][75:125, 250:325]).mean() < 4
    assert plan_tiles(slide, SMALL)
    slide.close()


def test_photos_are_no_whole_slides(tmp_path: Path, scene: np.ndarray) -> None:
    plain, tiled, text = tmp_path / "plain.tif", tmp_path / "tiled.tif", tmp_path / "text.tif"
    tifffile.imwrite(plain, scene[:300, :300], photometric="rgb")
    tifffile.imwrite(tiled, scene[:300, :300], photometric="rgb", tile=(64, 64))
    text.write_text("no picture")
    for path in (plain, tiled, text, tmp_path, tmp_path / "absent.tif"):
        assert not is_whole_slide(path)


def test_a_large_plain_tiled_tiff_is_read_in_tiles(tmp_path: Path) -> None:
    path = tmp_path / "big.tif"
    tile = np.full((1024, 1024, 3), 200, np.uint8)
    tifffile.imwrite(
        path,
        (tile for _ in range(11 * 10)),
        shape=(10_500, 10_200, 3),
        dtype=np.uint8,
        tile=(1024, 1024),
        photometric="rgb",
        compression="deflate",
    )
    assert is_whole_slide(path)
    slide = open_whole_slide(path)
    assert slide.thumbnail() is None
    tiles = plan_tiles(slide)
    assert len(tiles) == len(cut(slide.shapes[0], slide.downsamples, None))
    field = read_tile(path, tiles[-1], "s")
    assert field.um_per_px is None
    assert (field.rgb == 200).all()
    slide.close()


def read_everything(path: Path) -> None:
    for tile in cut((1500, 2000), (1.0,), 0.25):
        read_tile(path, tile, "s")
    slide = open_whole_slide(path)
    for level, (height, width) in enumerate(slide.shapes):
        slide.read(level, 0, 0, height, width)
    if len(slide.shapes) < 4:
        raise UnreadableImageError(f"{path} has lost a level.", "-")


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path, scene: np.ndarray) -> None:
    path = write_pyramid(tmp_path / "a.tif", scene)
    data = path.read_bytes()
    for percent in range(0, 100, 10):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(UnreadableImageError) as caught:
            read_everything(path)
        assert "a.tif" in caught.value.message
        assert caught.value.advice
    grey = tmp_path / "grey.tif"
    tifffile.imwrite(grey, np.zeros((300, 300), np.uint16), tile=(64, 64))
    with pytest.raises(UnreadableImageError, match="8-bit RGB"):
        open_whole_slide(grey)


def test_a_replaced_file_is_opened_anew(tmp_path: Path, scene: np.ndarray) -> None:
    path = write_pyramid(tmp_path / "a.tif", scene)
    tile = cut((1500, 2000), (1.0,), 0.25, SMALL)[30]
    before = read_tile(path, tile, "s").rgb
    write_pyramid(path, 255 - scene)
    assert_array_equal(read_tile(path, tile, "s").rgb, 255 - before)


# -------------------------------------------------------------------------------------------------------------- tiles


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


# ---------------------------------------------------------------------------------------------------------- monolayer


def test_monolayer_by_cover_and_overlap() -> None:
    cover = np.array([0.02, 0.3, 0.3, 0.9, 0.3, math.nan, 0.01])
    overlap = np.array([0.0, 0.1, 0.9, 0.95, 0.1, math.nan, math.nan])
    fit = np.array([True, True, True, True, False, True, False])
    uses = choose_monolayer(cover, overlap, fit, MonolayerOptions(max_overlap=0.8))
    assert choose_monolayer(cover, overlap, fit)[2] is TileUse.COUNTED
    assert uses == (
        TileUse.TOO_THIN, TileUse.COUNTED, TileUse.TOO_THICK, TileUse.TOO_THICK, TileUse.UNFIT, TileUse.UNFIT,
        TileUse.TOO_THIN,
    )  # fmt: skip
    assert choose_monolayer(cover[:1], overlap[:1], fit[:1], MonolayerOptions(min_cover=0.01)) == (TileUse.COUNTED,)
    assert choose_monolayer(np.array([]), np.array([]), np.array([], bool)) == ()


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


def test_tiles_outside_the_monolayer_are_set_aside_at_a_glance() -> None:
    def tile(rgb: np.ndarray, um_per_px: float | None = 0.25) -> Field:
        return Field("s", "tile", rgb, um_per_px, row_px=100, col_px=200)

    whole = smear(800, 1600)
    thin, monolayer = whole[:, :400], whole[:, 800:1200]
    rng = np.random.default_rng(1)
    thick = np.full((400, 400, 3), 245, np.uint8)
    for row, col in rng.uniform(0, 400, (420, 2)).tolist():
        shade = rng.uniform(0.8, 1.0) * np.array((225, 160, 170))
        cv2.circle(thick, (int(col), int(row)), 14, shade.tolist(), -1, cv2.LINE_AA)
    assert set_aside(tile(monolayer)) is None
    assert set_aside(tile(thick, um_per_px=None)) is None  # without a scale nobody knows
    for picture, reason in ((thin, "blank"), (thick, "too thick")):
        result = set_aside(tile(picture))
        assert result is not None
        summary = result.summary
        assert not summary.quality.fit
        assert reason in summary.quality.reason
        assert (len(result.cells), len(result.crops), len(result.crop_cells), summary.row_px) == (0, 0, 0, 100)
        assert summary.scale.source is ScaleSource.METADATA
        assert summary.area_mm2 == pytest.approx(picture.shape[0] * picture.shape[1] * 0.25**2 / 1e6, rel=0.01)
    confluent = np.full((400, 400, 3), (225, 165, 175), np.uint8)
    confluent[100:110, 50:60] = 245
    result = set_aside(tile(confluent), white=245.0)
    assert result is not None
    assert "too thick" in result.summary.quality.reason
    assert choose_monolayer(np.array([result.summary.quality.cell_cover]), np.zeros(1), np.zeros(1, bool)) == (
        TileUse.TOO_THICK,
    )
    result = set_aside(tile(thin), white=245.0)
    assert result is not None
    assert "blank" in result.summary.quality.reason
    given = set_aside(tile(thick, um_per_px=0.5), given_um_per_px=0.25)
    assert given is not None
    assert (given.summary.scale.um_per_px, given.summary.scale.source) == (0.25, ScaleSource.GIVEN)


def test_a_tile_half_blank_is_judged_by_the_other_half() -> None:
    rng = np.random.default_rng(1)

    def half_of(cells: int) -> np.ndarray:
        rgb = np.full((1000, 1000, 3), 245, np.uint8)
        for row, col in rng.uniform((0, 0), (1000, 500), (cells, 2)).tolist():
            shade = rng.uniform(0.8, 1.0) * np.array((225, 160, 170))
            cv2.circle(rgb, (int(col), int(row)), 14, shade.tolist(), -1, cv2.LINE_AA)
        return rgb

    # Discs of 14 px laid at random: 1 - exp(-n 616 / 500,000) of the half is covered.
    result = set_aside(Field("s", "tile", half_of(2000), 0.25))  # 0.91 of the half, 0.46 of the tile
    assert result is not None
    assert result.summary.quality.cell_cover > 0.75
    assert "too thick" in result.summary.quality.reason
    assert set_aside(Field("s", "tile", half_of(500), 0.25)) is None  # 0.46 of the half: a monolayer


def test_companions_of_a_plain_tiff_are_none(tmp_path: Path) -> None:
    assert companions(tmp_path / "a.tif") == set()
    (tmp_path / "a.vms").write_bytes(b"\xff\xfe no ini")
    assert companions(tmp_path / "a.vms") == set()
    (tmp_path / "b.vms").write_text("[x]\nImageFile=../../etc/passwd\nMapFile=b_map.jpg\n")
    assert companions(tmp_path / "b.vms") == {tmp_path / "b_map.jpg"}


def test_a_cell_that_two_tiles_kept_is_found_once() -> None:
    def at(row: float, col: float, kind: CellKind = CellKind.ERYTHROCYTE) -> Cell:
        return Cell(1, kind, row, col, 0, 0, 9, 9, 40.0, False)

    cells = [at(10, 99.8), at(10, 100.3), at(10, 104.0), at(50, 99.0), at(50, 99.5, CellKind.PLATELET), at(50, 99.2)]
    tiles = ["left", "right", "right", "left", "right", "left"]
    # The second is the first again; the last is the fourth's neighbour in its own tile, the platelet another kind.
    assert seam_twins(cells, tiles, within_px=2.0) == {1}
    assert seam_twins([], [], within_px=2.0) == set()
