"""Whole-slide files: opened and read where asked, or a sentence why not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from pyramids import smear, write_pyramid

from cbctool.errors import UnreadableImageError
from cbctool.imaging.tiles import (
    cut,
    plan_tiles,
    read_tile,
)
from cbctool.imaging.whole_slide import companions, is_whole_slide, open_whole_slide


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
    assert plan_tiles(slide)
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


def test_companions_of_a_plain_tiff_are_none(tmp_path: Path) -> None:
    assert companions(tmp_path / "a.tif") == set()
    (tmp_path / "a.vms").write_bytes(b"\xff\xfe no ini")
    assert companions(tmp_path / "a.vms") == set()
    (tmp_path / "b.vms").write_text("[x]\nImageFile=../../etc/passwd\nMapFile=b_map.jpg\n")
    assert companions(tmp_path / "b.vms") == {tmp_path / "b_map.jpg"}
