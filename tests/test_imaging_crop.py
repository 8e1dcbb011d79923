"""The classifier's window: place, padding, scale."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbctool.imaging.crop import crop_windows, prepare_picture, thumbnail_jpegs
from cbctool.imaging.pyramid import Pyramid
from cbctool.records import CROP_PX, CROP_UM

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def test_window_of_one_pixel_per_pixel_is_copied():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    um_per_px = CROP_UM / CROP_PX

    crop = crop_windows(rgb, np.array([[30 - 0.5, 35 - 0.5]]), um_per_px)[0]

    np.testing.assert_array_equal(crop, rgb[16:44, 21:49])


def test_window_beyond_the_edge_is_white():
    rgb = np.zeros((40, 40, 3), np.uint8)

    crop = crop_windows(rgb, np.array([[-0.5, -0.5]]), CROP_UM / CROP_PX)[0]

    assert (crop[:13] == 255).all()
    assert (crop[:, :13] == 255).all()
    assert (crop[15:, 15:] == 0).all()


def test_window_far_outside_is_all_white():
    crop = crop_windows(np.zeros((20, 20, 3), np.uint8), np.array([[500.0, -300.0]]), 0.2)
    assert (crop == 255).all()


def test_no_cells_give_an_empty_stack():
    assert crop_windows(np.zeros((20, 20, 3), np.uint8), np.zeros((0, 2)), 0.2).shape == (0, CROP_PX, CROP_PX, 3)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_same_cell_at_another_magnification_gives_the_same_crop(factor):
    rows, cols = np.mgrid[0:200, 0:200]
    cell = (255 - 200 * np.exp(-((rows - 99.5) ** 2 + (cols - 99.5) ** 2) / 900)).astype(np.uint8)
    fine = np.repeat(np.repeat(np.dstack([cell] * 3), factor, 0), factor, 1)
    coarse = crop_windows(np.dstack([cell] * 3), np.array([[99.5, 99.5]]), 0.2)[0]

    magnified = crop_windows(fine, np.array([[99.5 * factor + (factor - 1) / 2] * 2]), 0.2 / factor)[0]

    assert np.abs(coarse.astype(int) - magnified).max() <= 2


def test_thumbnail_is_a_jpeg_of_96_pixels():
    picture = thumbnail_jpegs(np.full((90, 90, 3), 128, np.uint8), np.array([[45.0, 45.0]]), 0.25)[0]
    assert Image.open(io.BytesIO(picture)).size == (96, 96)


def test_cropped_picture_is_only_resized():
    rgb = np.full((28, 28, 3), 200, np.uint8)
    np.testing.assert_array_equal(prepare_picture(rgb, already_cropped=True, normalise=False), rgb)
    assert prepare_picture(np.full((56, 56, 3), 9, np.uint8), already_cropped=True, normalise=False).shape == (
        28,
        28,
        3,
    )


def test_picture_is_cropped_round_its_centre():
    rgb = np.full((200, 200, 3), 255, np.uint8)
    rgb[95:105, 95:105] = 0
    crop = prepare_picture(rgb, um_per_px=0.19, normalise=False)
    np.testing.assert_array_equal(crop[..., 0], crop[::-1, ::-1, 0])
    assert crop[14, 14, 0] < 50


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), float)])
def test_programmers_mistakes(bad):
    with pytest.raises(ValueError, match="uint8"):
        crop_windows(bad, np.zeros((1, 2)), 0.2)
    with pytest.raises(ValueError, match="positive"):
        crop_windows(np.zeros((5, 5, 3), np.uint8), np.zeros((1, 2)), 0.0)


@pytest.mark.real
def test_crop_of_a_frame_is_its_bloodmnist_picture():
    if not (DATA / "pbc").is_dir():
        pytest.skip(f"no real data at {DATA}")
    import pandas as pd

    rows = pd.read_csv(DATA / "pbc" / "images.csv").query("split == 'val'").iloc[::300]
    pictures = np.load(DATA / "bloodmnist" / "bloodmnist.npz")["val_images"]
    for row in rows.itertuples():
        frame = np.asarray(Image.open(DATA / "pbc" / row.path).convert("RGB"))
        crop = prepare_picture(frame, um_per_px=0.19, normalise=False)
        # frames are kept at half resolution: 2 grey levels on average
        assert np.abs(crop.astype(int) - pictures[row.npz_row]).mean() < 4


def test_a_window_cut_from_the_halved_field_is_the_one_cut_from_the_whole():
    um_per_px = CROP_UM / CROP_PX / 6  # 6 px of the field to one of the window, 3 once halved
    noise = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    rgb = np.asarray(Image.fromarray(noise).resize((264, 240), Image.Resampling.BICUBIC))
    top, left, side = 36, 48, 6 * CROP_PX
    box = (left, top, left + side, top + side)
    whole = np.asarray(Image.fromarray(rgb).resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC, box=box))
    centre = (top + side / 2 - 0.5, left + side / 2 - 0.5)

    pyramid = Pyramid(rgb)
    crop = crop_windows(pyramid, np.array([centre]), um_per_px)[0]

    assert len(pyramid.levels) == 2
    assert np.abs(crop.astype(int) - whole).max() <= 1
    np.testing.assert_array_equal(crop, crop_windows(rgb, np.array([centre]), um_per_px)[0])
