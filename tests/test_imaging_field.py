"""One field from pixels to result: scale, crops, thumbnails, preview."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from cbctool.errors import CalibrationError
from cbctool.imaging.background import normalise
from cbctool.imaging.crop import crop_windows
from cbctool.imaging.field import ImagingOptions, analyse_field
from cbctool.records import CellKind, Field, Scale, ScaleSource


def smear(with_leukocyte=True):
    """Twelve red cells of 75 px and a leukocyte: 0.1 um/px."""
    rgb = np.full((480, 640, 3), 235, np.uint8)
    for row in range(60, 480, 120):
        for col in range(60, 640, 130):
            if (row, col) != (180, 320):
                cv2.circle(rgb, (col, row), 37, (215, 175, 190), -1)
    if with_leukocyte:
        cv2.circle(rgb, (320, 180), 55, (180, 160, 215), -1)
        cv2.circle(rgb, (320, 180), 40, (85, 50, 150), -1)
    return cv2.GaussianBlur(rgb, (0, 0), 1.2)


def test_a_field_is_analysed():
    result = analyse_field(Field("slide", "a.jpg", smear()))

    scale = result.summary.scale
    assert scale.source is ScaleSource.RED_CELLS
    assert scale.um_per_px == pytest.approx(0.1, rel=0.08)
    assert scale.red_cells >= 10
    nucleated = [cell for cell in result.cells if cell.kind is CellKind.NUCLEATED]
    assert len(nucleated) == 1
    assert (nucleated[0].row_px, nucleated[0].col_px) == pytest.approx((180, 320), abs=3)
    assert result.crops.shape == (1, 28, 28, 3)
    assert result.crop_cells.tolist() == [result.cells.index(nucleated[0])]
    assert Image.open(io.BytesIO(result.thumbnails[0])).size == (96, 96)
    assert result.summary.area_mm2 == pytest.approx(480 * 640 * scale.um_per_px**2 / 1e6, rel=1e-6)
    assert Image.open(io.BytesIO(result.summary.preview_jpeg)).size == (640, 480)
    assert result.summary.quality.fit, result.summary.quality.reason
    assert all(value >= 0 for value in result.seconds.values())


def test_crops_are_such_as_the_weights_were_taught():
    rgb = smear() * np.array([0.9, 1.0, 0.8])
    field = Field("slide", "a.jpg", rgb.astype(np.uint8))
    white = analyse_field(field).crops[0]
    raw = analyse_field(field, ImagingOptions(white_balanced=False)).crops[0]
    corners = [crop[[0, 0, -1, -1], [0, -1, 0, -1]].max(axis=0) for crop in (white, raw)]
    assert corners[0] == pytest.approx([255] * 3, abs=3)
    assert corners[1] == pytest.approx([211, 235, 188], abs=3)


def test_the_scale_comes_by_order_of_trust():
    rgb = smear()
    slide = Scale(0.11, ScaleSource.SLIDE, 0.02)
    given = analyse_field(Field("s", "a", rgb, um_per_px=0.12), None, 0.105, slide).summary.scale
    assert (given.um_per_px, given.source) == (0.105, ScaleSource.GIVEN)
    assert given.red_cell_um_per_px == pytest.approx(0.1, rel=0.08)
    stated = analyse_field(Field("s", "a", rgb, um_per_px=0.12), None, None, slide).summary.scale
    assert (stated.um_per_px, stated.source) == (0.12, ScaleSource.METADATA)
    own = analyse_field(Field("s", "a", rgb), None, None, slide).summary.scale
    assert own.source is ScaleSource.RED_CELLS


def test_a_stated_scale_that_the_red_cells_contradict_is_in_the_summary():
    field = Field("s", "a.tif", smear(), um_per_px=0.2, warnings=("read with care",))
    summary = analyse_field(field).summary
    assert summary.scale.source is ScaleSource.METADATA
    assert summary.scale.red_cell_um_per_px == pytest.approx(0.1, rel=0.08)
    assert summary.warnings[0] == "read with care"
    assert "0.2 um/px" in summary.warnings[1]
    assert analyse_field(Field("s", "a.tif", smear(), um_per_px=0.1)).summary.warnings == ()


def test_the_crop_is_the_one_that_training_cuts():
    rgb = (smear() * np.linspace(0.8, 1.0, 640)[:, np.newaxis]).astype(np.uint8)
    result = analyse_field(Field("s", "a", rgb), None, 0.1)
    cell = result.cells[result.crop_cells[0]]
    expected = crop_windows(normalise(rgb).rgb, np.array([[cell.row_px, cell.col_px]]), 0.1)
    np.testing.assert_allclose(result.crops[:1].astype(int), expected, atol=3)


def test_a_field_without_red_cells_borrows_the_slide_scale_or_says_what_to_pass():
    empty = Field("s", "empty.png", np.full((200, 300, 3), 240, np.uint8))
    borrowed = analyse_field(empty, None, None, Scale(0.2, ScaleSource.RED_CELLS, 0.03, 40, 0.2))
    assert borrowed.summary.scale.source is ScaleSource.SLIDE
    assert borrowed.cells == ()
    assert borrowed.crops.shape == (0, 28, 28, 3)
    assert borrowed.thumbnails == ()
    with pytest.raises(CalibrationError, match=r"empty\.png.*--um-per-px"):
        analyse_field(empty)


def test_a_large_preview_is_reduced():
    rgb = np.full((1000, 3200, 3), 240, np.uint8)
    summary = analyse_field(Field("s", "a", rgb), None, 0.1).summary
    assert summary.preview_scale == 0.5
    assert Image.open(io.BytesIO(summary.preview_jpeg)).size == (1600, 500)


def test_the_preview_of_a_sliver_has_the_scale_that_is_stated():
    summary = analyse_field(Field("s", "a", np.full((2, 5000, 3), 240, np.uint8)), None, 0.1).summary
    width, _ = Image.open(io.BytesIO(summary.preview_jpeg)).size
    assert width == 5000 * summary.preview_scale


def test_a_grey_picture_is_said_to_be_one():
    grey = cv2.cvtColor(cv2.cvtColor(smear(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    warnings = analyse_field(Field("s", "a.tif", grey, um_per_px=0.1)).summary.warnings
    assert [w for w in warnings if "grey picture" in w]
    assert not analyse_field(Field("s", "a.tif", smear(), um_per_px=0.1)).summary.warnings


@pytest.mark.parametrize(("gain", "doubted"), [(1.0, False), (1.25, True)])
def test_the_scale_of_an_overexposed_picture_is_doubted(gain: float, doubted: bool):
    rgb = np.clip(gain * smear().astype(float), 0, 255).astype(np.uint8)
    summary = analyse_field(Field("s", "a.jpg", rgb)).summary
    assert summary.scale.source is ScaleSource.RED_CELLS
    assert any("overexposed" in warning for warning in summary.warnings) == doubted
    given = analyse_field(Field("s", "a.jpg", rgb), given_um_per_px=0.1).summary
    assert not any("overexposed" in warning for warning in given.warnings)
