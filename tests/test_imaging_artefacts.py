"""What is no cell: drawings on the picture, precipitate, dust, pens."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cbctool.imaging.artefacts import (
    ArtefactOptions,
    add_labels,
    find_drawn,
    find_foreign,
    find_pale_drawn,
    find_precipitate,
    nuclear_hues,
)
from cbctool.imaging.background import normalise
from cbctool.imaging.measure import measure_cells
from cbctool.imaging.segment import segment
from cbctool.imaging.stain import RedCellColour, optical_density
from cbctool.records import CellKind

UM = 0.25
OPTIONS = ArtefactOptions()
COLOURS = {
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "navy": (0, 0, 128),
}


RED_CELLS = RedCellColour(20.0, 2.3, 1.8)


def drawn_labels(rgb, red_cells=RED_CELLS):
    return find_drawn(rgb, optical_density(rgb), red_cells, UM, OPTIONS)


def blank(side=120, colour=(255, 255, 255)):
    return np.full((side, side, 3), colour, np.uint8)


@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
def test_a_drawn_line_is_an_annotation(colour):
    rgb = blank()
    cv2.line(rgb, (20, 30), (90, 80), colour, 3, cv2.LINE_AA)
    labels, reasons = drawn_labels(rgb)
    assert reasons == ["annotation"]
    assert labels[55, 55] == 1
    assert labels[100, 20] == 0


@pytest.mark.parametrize(
    "stain",
    [
        (90, 50, 160),
        (235, 190, 205),
        (230, 120, 170),
        (200, 170, 225),
        (40, 15, 120),
        (16, 11, 133),
        (14, 7, 94),
        (90, 0, 250),
    ],
    ids=str,
)
def test_stains_are_not_drawn(stain):
    rgb = blank()
    cv2.circle(rgb, (60, 60), 30, stain, -1)
    assert drawn_labels(rgb)[1] == []


def test_red_cells_may_absorb_hardly_any_red():
    rgb = blank()
    cv2.circle(rgb, (60, 60), 30, (232, 100, 130), -1)
    assert drawn_labels(rgb)[1] == ["annotation"]
    assert drawn_labels(rgb, RedCellColour(60.0, 1.6, 6.0))[1] == []


@pytest.mark.parametrize(
    "red_cell", [(205, 175, 140), (240, 190, 110), (170, 175, 178)], ids=["brown", "yellow", "grey"]
)
def test_piles_of_red_cells_are_no_drawing_whatever_their_colour(red_cell):
    od = -np.log10((np.array(red_cell) + 1) / 256)
    own = RedCellColour(200 * od[1], (od[0] + od[1]) / od[2], od[1] / od[0])
    rgb = blank()
    for layers, col in ((1, 20), (2, 60), (3, 100)):
        cv2.circle(rgb, (col, 60), 12, (255 * (np.array(red_cell) / 255) ** layers).tolist(), -1)
    assert drawn_labels(rgb, own)[1] == []
    cv2.line(rgb, (10, 100), (110, 100), (255, 230, 0), 5)
    assert drawn_labels(rgb, own)[1] == ["annotation"]


def test_opaque_dust_is_out_of_focus():
    rgb = blank()
    cv2.circle(rgb, (60, 60), 25, (0, 0, 0), -1)
    assert drawn_labels(rgb)[1] == ["annotation"]
    assert drawn_labels(cv2.GaussianBlur(rgb, (0, 0), 9))[1] == ["dust"]


def test_a_stroke_of_a_pen_is_larger_than_any_drawing():
    rgb = blank(400)
    cv2.line(rgb, (0, 200), (400, 260), (30, 150, 60), 120)
    assert drawn_labels(rgb)[1] == ["pen mark"]


def test_a_pale_yellow_arrow_is_no_red_cell():
    rgb = blank()
    cv2.circle(rgb, (30, 30), 15, (235, 190, 205), -1)
    cv2.rectangle(rgb, (70, 60), (85, 100), (255, 250, 160), -1)
    labels, reasons = find_pale_drawn(optical_density(rgb), RedCellColour(25.0, 1.8, 3.5), UM, OPTIONS)
    assert reasons == ["annotation"]
    assert labels[80, 78] == 1
    assert labels[30, 30] == 0


def test_granules_of_dye_are_black_in_the_middle():
    density = np.zeros((60, 120, 3), np.float32)
    platelets = np.zeros((60, 120), np.int32)
    for label, col in ((1, 25), (2, 90)):
        cv2.circle(platelets, (col, 30), 7, label, -1)
    density[platelets == 1] = (50, 90, 20)
    middle = np.zeros((60, 120), np.float32)
    middle[30, 90] = 1
    density[platelets == 2] = (10, 20, 5)
    middle = cv2.GaussianBlur(middle, (0, 0), 2)
    density += (middle / middle.max())[..., np.newaxis] * (150, 140, 40)
    for hue in (0.0, 0.7):
        found = find_precipitate(density.astype(np.uint8), platelets, True, hue, UM, OPTIONS)
        np.testing.assert_array_equal(found, [False, True])


def test_a_platelet_of_high_contrast_that_is_redder_than_nuclei_is_none_of_dye():
    platelets = cv2.circle(np.zeros((60, 60), np.int32), (30, 30), 7, 1, -1)
    grain = np.zeros((60, 60), np.float32)
    grain[30, 30] = 1
    grain = cv2.GaussianBlur(grain, (0, 0), 2)
    density = ((grain / grain.max())[..., np.newaxis] * (80, 160, 40)).astype(np.uint8)
    assert find_precipitate(density, platelets, True, 0.4, UM, OPTIONS).all()
    for hue in (0.6, 0.0):  # none: of a field without nuclei
        assert not find_precipitate(density, platelets, True, hue, UM, OPTIONS).any()


def test_a_blue_platelet_is_none_of_dye_where_nuclei_are_as_blue():
    density = np.zeros((40, 40, 3), np.uint8)
    platelets = cv2.circle(np.zeros((40, 40), np.int32), (20, 20), 6, 1, -1)
    density[platelets == 1] = (90, 95, 30)
    assert find_precipitate(density, platelets, True, 0.7, UM, OPTIONS).all()
    assert not find_precipitate(density, platelets, True, 0.95, UM, OPTIONS).any()


def test_hue_of_every_nucleus():
    labels = np.array([[1, 2, 3, 0]], np.int32)
    density = np.array([[(50, 100, 9), (80, 100, 9), (90, 100, 9), (0, 0, 0)]], np.uint8)
    assert nuclear_hues(density, labels, labels > 0) == pytest.approx([0.5, 0.8, 0.9])
    assert len(nuclear_hues(density, 0 * labels, labels > 9)) == 0


def test_eosin_spares_no_red_that_the_camera_has_clipped():
    rgb = blank()
    cv2.circle(rgb, (60, 60), 30, (255, 120, 170), -1)
    assert drawn_labels(rgb)[1] == ["annotation"]
    clipped = RedCellColour(20.0, 1.6, 25.0)
    assert not clipped.red_tells
    assert drawn_labels(rgb, clipped)[1] == []


def test_a_heap_of_dye_is_ragged_and_bluer_than_a_nucleus():
    density = np.zeros((60, 160, 3), np.uint8)
    labels = np.zeros((60, 160), np.int32)
    cv2.circle(labels, (30, 30), 15, 1, -1)
    for turn in range(5):
        tip = (round(110 + 28 * np.cos(turn * 1.26)), round(30 + 28 * np.sin(turn * 1.26)))
        cv2.line(labels, (110, 30), tip, 2, 4)
    density[labels == 1] = (120, 180, 50)
    density[labels == 2] = (180, 150, 50)
    hues = nuclear_hues(density, labels, labels > 0)
    assert find_foreign(hues, labels, OPTIONS) == ["", "stain precipitate"]
    alone = np.where(labels == 2, 1, 0).astype(np.int32)
    assert find_foreign(hues[1:], alone, OPTIONS) == [""]  # a neutrophil in blue stain looks like that


def test_nothing_drawn_over_a_cell_takes_its_label():
    labels = np.array([[1, 1, 0, 0]], np.int32)
    kinds, reasons = [CellKind.NUCLEATED], [""]
    found = np.array([[1, 0, 0, 2]], np.int32)
    grown = add_labels(labels, kinds, reasons, found, ["annotation", "dust"])
    np.testing.assert_array_equal(grown, [[1, 1, 0, 2]])
    assert kinds == [CellKind.NUCLEATED, CellKind.ARTEFACT]
    assert reasons == ["", "dust"]


def annotate(rgb, um_per_px, colour, thickness=2):
    """A scale bar with its text below, an arrow and a frame above, as viewers draw them; and what lies 2.5 um near."""
    height, width = rgb.shape[:2]
    drawn = rgb.copy()
    cv2.rectangle(drawn, (width // 20, height - height // 10), (width * 3 // 10, height - height // 10 + 5), colour, -1)
    cv2.putText(drawn, "10 um", (width // 20, height - height // 8), 0, width / 400, colour, thickness, cv2.LINE_AA)
    cv2.arrowedLine(drawn, (width // 10, height // 10), (width // 4, height // 4), colour, thickness, cv2.LINE_AA)
    cv2.rectangle(drawn, (width * 6 // 10, height // 10), (width * 9 // 10, height * 4 // 10), colour, thickness)
    reach = 2 * round(2.5 / um_per_px) + 1
    touched = cv2.dilate((drawn != rgb).any(axis=2).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    return drawn, touched


def found_in(rgb, um_per_px):
    normalised = normalise(rgb)
    cells = measure_cells(segment(normalised.rgb, um_per_px), *rgb.shape[:2])
    chosen = [cell for cell in cells if cell.kind in (CellKind.NUCLEATED, CellKind.PLATELET)]
    return [(cell.kind, round(cell.row_px), round(cell.col_px)) for cell in chosen], {cell.reason for cell in cells}


@pytest.mark.real
@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize(
    ("path", "um_per_px"),
    [("bccd/images/BloodImage_00049.jpg", 7.5 / 103), ("pbc/images/neutrophil/BNE_58419.jpg", 7.5 / 39.45)],
    ids=["bccd", "pbc"],
)
def test_drawings_on_real_fields_are_no_cells(data, path, um_per_px, colour):
    picture = cv2.imread(str(data / path))
    if picture is None:
        pytest.skip(f"no {path} in {data}")
    rgb = picture[..., ::-1].copy()
    before, _ = found_in(rgb, um_per_px)
    drawn, touched = annotate(rgb, um_per_px, colour)
    after, reasons = found_in(drawn, um_per_px)
    assert "annotation" in reasons

    def near(cell, others):
        return any(
            cell[0] is kind and np.hypot(cell[1] - row, cell[2] - col) * um_per_px < 1.5 for kind, row, col in others
        )

    assert [cell for cell in after if not near(cell, before)] == []
    assert [cell for cell in before if not touched[cell[1], cell[2]] and not near(cell, after)] == []
