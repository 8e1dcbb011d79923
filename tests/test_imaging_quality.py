"""Field quality: what is measured has the right size, and what is unfit says why."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cbctool.imaging.background import normalise
from cbctool.imaging.quality import assess_field, clumped_share, edge_spread, outline_spread
from cbctool.imaging.stain import optical_density
from cbctool.records import Unfit

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
real = pytest.mark.skipif(not DATA.is_dir(), reason="real data not found (CBCTOOL_DATA or ../shared/data)")

UM = 0.25
WHITE = (200.0, 200.0, 200.0)


def discs(centres, shape=(160, 200), radius=15, level=(230, 190, 190)):
    """A white picture with red-cell-like discs; centres in (row, col)."""
    rgb = np.full((*shape, 3), 255, np.uint8)
    for row, col in centres:
        cv2.circle(rgb, (col, row), radius, level, -1, cv2.LINE_AA)
    return rgb


SPREAD = [(30, 30), (30, 90), (30, 150), (80, 50), (80, 120), (130, 30), (130, 100), (130, 165)]


def assess(rgb, photographed=None, white=WHITE, **kwargs):
    dimmed = (rgb.astype(float) * white[1] / 255).astype(np.uint8)
    return assess_field(dimmed if photographed is None else photographed, white, optical_density(rgb), UM, **kwargs)


def test_a_good_field_is_fit_and_its_cover_is_the_area_of_its_cells():
    quality = assess(discs(SPREAD))
    assert quality.fit
    assert quality.reason == ""
    assert quality.unfit is None
    assert quality.cell_cover == pytest.approx(8 * math.pi * 15**2 / (160 * 200), rel=0.12)
    assert quality.overlap == 0.0
    assert quality.exposure == pytest.approx(200 / 255)
    assert quality.clipped == 0.0
    assert all(math.isnan(value) for value in quality.stain_od)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 3.0])
def test_blur_is_the_width_of_the_edge(sigma):
    plane = np.zeros((80, 120), np.float32)
    plane[:, 60:] = 0.2
    assert edge_spread(cv2.GaussianBlur(plane, (0, 0), sigma)) == pytest.approx(sigma, rel=0.15)


def test_blur_grows_with_blur_and_ends_in_unfit():
    rgb = discs(SPREAD)
    measured = [assess(cv2.GaussianBlur(rgb, (0, 0), sigma / UM)) for sigma in (0.25, 0.5, 1.0, 1.5)]
    widths = [quality.blur_um for quality in measured]
    assert widths == sorted(widths)
    assert measured[0].fit
    assert not measured[-1].fit
    assert measured[-1].unfit is Unfit.OUT_OF_FOCUS


@pytest.mark.parametrize("rest", range(12))
def test_a_picture_of_any_height_has_its_blur_measured(rest):
    picture = np.zeros((256 + rest, 1000), np.float32)
    picture[:, 500:] = 1
    assert edge_spread(cv2.GaussianBlur(picture, (0, 0), 2.0)) == pytest.approx(2.0, abs=0.3)


def test_no_edges_no_blur():
    assert math.isnan(edge_spread(np.zeros((40, 40), np.float32)))
    assert math.isnan(edge_spread(np.zeros((3, 3), np.float32)))


def test_blank_field():
    quality = assess(np.full((100, 100, 3), 255, np.uint8))
    assert not quality.fit
    assert quality.unfit is Unfit.BLANK
    assert quality.reason == "blank: no cells in the field"
    assert quality.cell_cover == 0.0
    assert math.isnan(quality.overlap)


def test_underexposed_field():
    quality = assess(discs(SPREAD), white=(25.0, 25.0, 25.0))
    assert not quality.fit
    assert quality.unfit is Unfit.UNDEREXPOSED
    assert quality.reason == "underexposed: the background is at 10 % of full scale"


def test_overexposed_field():
    burnt = np.full((160, 200, 3), 255, np.uint8)
    quality = assess(discs(SPREAD), photographed=burnt, white=(255.0, 255.0, 255.0))
    assert quality.clipped == 1.0
    assert not quality.fit
    assert quality.unfit is Unfit.OVEREXPOSED


def test_thick_field():
    rgb = np.full((160, 200, 3), 180, np.uint8)
    cv2.circle(rgb, (100, 80), 12, (255, 255, 255), -1)
    quality = assess(rgb)
    assert not quality.fit
    assert quality.unfit is Unfit.TOO_THICK
    assert quality.overlap == 1.0


def test_clumps_by_area():
    single, pair = np.zeros((60, 120), bool), np.zeros((60, 120), bool)
    rows, cols = np.mgrid[0:60, 0:120]
    single |= (rows - 30) ** 2 + (cols - 20) ** 2 < 15**2
    pair |= single
    for col in (70, 95):
        pair |= (rows - 30) ** 2 + (cols - col) ** 2 < 15**2
    assert clumped_share(single, UM) == 0.0
    assert clumped_share(pair, UM) == pytest.approx(2 / 3, abs=0.03)


def test_a_large_field_is_judged_as_its_parts_are():
    part = discs([*SPREAD[:6], (130, 100), (130, 128)])  # two of them touch
    field = np.tile(part, (3, 3, 1))
    one, nine = assess(part), assess(field)
    assert field.shape[0] * field.shape[1] > 200_000  # so that every second pixel is looked at
    assert nine.cell_cover == pytest.approx(one.cell_cover, rel=0.02)
    assert nine.overlap == pytest.approx(one.overlap, abs=0.02)
    assert nine.blur_um == pytest.approx(one.blur_um, abs=0.05)


@pytest.mark.parametrize("sigma", [4.0, 8.0])
def test_outlines_are_as_wide_as_the_blur(sigma):
    half = np.zeros((200, 200), np.uint8)
    half[:, 100:] = 120
    wide = cv2.GaussianBlur(half, (0, 0), sigma)
    assert outline_spread(wide, 5.0) == pytest.approx(sigma, rel=0.15)


def test_far_out_of_focus_the_grain_of_the_camera_is_no_focus():
    blurred = cv2.GaussianBlur(discs(SPREAD), (0, 0), 10.0).astype(float)
    grainy = np.clip(blurred + np.random.default_rng(0).normal(0, 2, blurred.shape), 0, 255).astype(np.uint8)
    quality = assess(grainy)
    assert edge_spread(optical_density(grainy)[..., 1], unit=200.0) * UM < 0.72
    assert quality.unfit is Unfit.OUT_OF_FOCUS
    assert quality.blur_um > 1.0


def test_what_is_not_red_cell_makes_no_clump():
    rgb = discs(SPREAD)
    cv2.rectangle(rgb, (60, 90), (140, 150), (150, 110, 180), -1)
    nucleated = np.zeros(rgb.shape[:2], bool)
    nucleated[88:153, 58:143] = True
    assert assess(rgb).overlap > 0.4
    assert assess(rgb, nucleated=nucleated).overlap == 0.0


def test_stain_is_the_mean_density_of_nuclei():
    rgb = discs(SPREAD)
    nuclei = np.zeros(rgb.shape[:2], bool)
    nuclei[100:110, 60:70] = True
    rgb[nuclei] = (64, 32, 128)
    assert assess(rgb, nuclei=nuclei).stain_od == pytest.approx(-np.log10(np.array([65, 33, 129]) / 256), abs=0.01)


def test_surround_is_not_field():
    rgb = discs(SPREAD)
    surround = np.zeros(rgb.shape[:2], bool)
    surround[:, 100:] = True
    whole, half = assess(rgb), assess(rgb, surround=surround)
    assert half.cell_cover == pytest.approx(whole.cell_cover, rel=0.2)


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="um_per_px"):
        assess_field(discs(SPREAD), WHITE, optical_density(discs(SPREAD)), 0.0)


@pytest.mark.real
@real
@pytest.mark.parametrize(
    ("pattern", "um_per_px"),
    [
        ("bccd/images/BloodImage_002*.jpg", 0.073),
        ("all_idb1/images/Im0[0-3]*.jpg", 0.19),
        ("pbc/images/ig/*0.jpg", 0.19),
    ],
)
def test_good_real_fields_are_fit_and_blurred_ones_are_not(pattern, um_per_px):
    paths = sorted(DATA.glob(pattern))
    assert paths, f"no pictures in {DATA / pattern}"
    blurred_unfit = 0
    chosen = paths[:: max(1, len(paths) // 6)]
    for path in chosen:
        rgb = cv2.imread(str(path))[..., ::-1].copy()
        for blur_um in (0.0, 1.5, 4.0):
            field = cv2.GaussianBlur(rgb, (0, 0), blur_um / um_per_px) if blur_um else rgb
            normalised = normalise(field)
            small = cv2.resize(normalised.rgb, None, fx=um_per_px / UM, fy=um_per_px / UM, interpolation=cv2.INTER_AREA)
            quality = assess_field(field, normalised.white_level, optical_density(small), UM)
            if blur_um == 0.0:
                assert quality.fit, f"{path.name}: {quality.reason}"
            else:
                blurred_unfit += not quality.fit
    assert blurred_unfit >= 0.9 * 2 * len(chosen)
