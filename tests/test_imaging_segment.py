"""Finding cells in drawn fields: kinds, places, splitting, colour casts, magnifications."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbctool.imaging.background import normalise
from cbctool.imaging.field import analyse_field
from cbctool.imaging.measure import measure_cells
from cbctool.imaging.nucleated import (
    NucleatedOptions,
    bright_lines,
    find_smudges,
    joined_lobes,
    mostly,
    part_by_nuclei,
    without_appendages,
)
from cbctool.imaging.platelets import PlateletOptions, find_platelets
from cbctool.imaging.red_cells import RedCellOptions, find_red_cells
from cbctool.imaging.segment import segment
from cbctool.imaging.split import fill_holes, solidity, split_clump
from cbctool.imaging.stain import (
    _EDGES_IN_PX,
    RedCellColour,
    _displacements,
    align_channels,
    is_colourless,
    optical_density,
    red_cell_colour,
    stain_densities,
)
from cbctool.records import CellKind, Field
from cbctool.synthetic.render import render_field

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

RED_CELL = (235, 190, 205)
NUCLEUS = (90, 50, 160)
CYTOPLASM = (190, 170, 225)
PLATELET = (150, 110, 190)
STAINS = {
    "brown": ((205, 175, 140), (105, 60, 150), (190, 160, 190), (155, 115, 165)),
    "olive": ((190, 185, 160), (90, 55, 115), (185, 165, 185), (145, 110, 150)),
    "pink": ((235, 165, 185), (130, 55, 165), (215, 160, 205), (175, 105, 180)),
    "blue": ((195, 205, 222), (60, 65, 150), (170, 175, 215), (120, 125, 190)),
    "faded": ((225, 205, 185), (140, 105, 165), (205, 185, 200), (175, 145, 180)),
}
"""Red cells, nuclei, cytoplasm and platelets as other laboratories have them."""


def draw(
    side_um=60.0,
    um_per_px=0.1,
    red=(),
    leukocytes=(),
    platelets=(),
    shift=(0.0, 0.0),
    platelet_um=1.2,
    stain=(RED_CELL, NUCLEUS, CYTOPLASM, PLATELET),
):
    """A field with cells at (row, column) in um; red cells absorb on top of each other."""
    size = round(side_um / um_per_px)
    density = np.zeros((size, size, 3))

    def disc(centre, radius):
        mask = np.zeros((size, size), np.uint8)
        place = tuple(round((value + move) / um_per_px) for value, move in zip(centre[::-1], shift[::-1], strict=True))
        cv2.circle(mask, place, round(radius / um_per_px), 1, -1)
        return mask > 0

    for centre in red:
        density[disc(centre, 3.75)] -= np.log(np.array(stain[0]) / 255)
    for centre in leukocytes:
        density[disc(centre, 6.0)] = -np.log(np.array(stain[2]) / 255)
        density[disc(centre, 4.0)] = -np.log(np.array(stain[1]) / 255)
    for centre in platelets:
        density[disc(centre, platelet_um)] = -np.log(np.array(stain[3]) / 255)
    rgb = 255 * np.exp(-density)
    return cv2.GaussianBlur(rgb, (0, 0), 0.15 / um_per_px).round().astype(np.uint8)


SCENE = {
    "red": [(10, 10), (10, 30), (12, 50), (30, 12), (50, 15), (50, 30), (48, 50), (30, 50)],
    "leukocytes": [(31, 31)],
    "platelets": [(20, 20), (40, 42)],
}


def counts(rgb, um_per_px=0.1):
    kinds = [cell.kind for cell in measure_cells(segment(rgb, um_per_px), *rgb.shape[:2])]
    return {kind: kinds.count(kind) for kind in CellKind}


TRUTH = {CellKind.NUCLEATED: 1, CellKind.PLATELET: 2, CellKind.ERYTHROCYTE: 8, CellKind.ARTEFACT: 0}


def test_every_cell_of_a_drawn_field_is_found():
    assert counts(draw(**SCENE)) == TRUTH


@pytest.mark.parametrize("radius_um", [0.9, 2.4, 3.6])
def test_a_free_platelet_is_no_red_cell_whatever_its_size(radius_um):
    assert counts(draw(**SCENE, platelet_um=radius_um)) == TRUTH


@pytest.mark.parametrize("stain", STAINS.values(), ids=STAINS)
def test_the_colours_of_a_stain_do_not_matter(stain):
    field = normalise(draw(**SCENE, stain=stain)).rgb
    assert counts(field) == TRUTH


@pytest.mark.parametrize("stain", STAINS.values(), ids=STAINS)
def test_a_leukocyte_that_fills_its_picture_is_one_in_any_stain(stain):
    window = draw(18.0, red=[(0, 0), (17, 18)], leukocytes=[(9, 9)], stain=stain)
    assert counts(window)[CellKind.NUCLEATED] == 1
    size = [cell.area_um2 for cell in measure_cells(segment(window, 0.1), 180, 180) if cell.kind is CellKind.NUCLEATED]
    assert size == pytest.approx([np.pi * 6**2], rel=0.15)


def test_red_cells_that_absorb_red_are_no_nuclei():
    red = [(row, col) for row in range(6, 60, 9) for col in range(6, 60, 9)]
    stain = STAINS["olive"]
    noise = np.random.default_rng(0).normal(0, 3, (600, 600, 3))
    field = np.clip(draw(red=red, stain=stain) + noise, 0, 255).astype(np.uint8)
    colour = red_cell_colour(optical_density(cv2.resize(field, (240, 240), interpolation=cv2.INTER_AREA)), 0.02, 0.25)
    red_od, green_od, blue_od = -np.log10((np.array(stain[0]) + 1) / 256)
    assert colour.red_per_blue == pytest.approx(red_od / blue_od, rel=0.15)
    assert colour.blue_per_green == pytest.approx(blue_od / green_od, rel=0.15)


def test_the_cytoplasm_of_a_leukocyte_that_fills_the_picture_is_no_red_cell():
    size = 180  # 18 um, and an eosinophil with two lobes, in PBC's colours
    red, eosinophilic, nucleus = (209, 191, 212), (184, 121, 178), (85, 51, 143)
    density = np.zeros((size, size, 3))
    for centre, radius, colour in (
        ((0, 0), 40, red),
        ((180, 180), 40, red),
        ((90, 90), 62, eosinophilic),
        ((68, 108), 26, nucleus),
        ((112, 72), 26, nucleus),
    ):
        disc = cv2.circle(np.zeros((size, size), np.uint8), centre, radius, 1, -1) > 0
        density[disc] = -np.log(np.array(colour) / 255)
    rgb = cv2.GaussianBlur(255 * np.exp(-density), (0, 0), 1.5).round().astype(np.uint8)
    assert counts(rgb)[CellKind.NUCLEATED] == 1


@pytest.mark.parametrize("um_per_px", [0.06, 0.12, 0.2, 0.25])
def test_magnification_does_not_matter(um_per_px):
    assert counts(draw(um_per_px=um_per_px, **SCENE), um_per_px) == TRUTH


@pytest.mark.parametrize("gains", [(1.0, 0.9, 0.7), (0.7, 0.8, 1.0), (0.75, 1.0, 0.75)])
def test_colour_cast_does_not_matter(gains):
    cast = (draw(**SCENE) * np.array(gains)).astype(np.uint8)
    assert counts(normalise(cast).rgb) == TRUTH


def test_cells_lie_where_they_were_drawn():
    rgb = draw(**SCENE)
    cells = measure_cells(segment(rgb, 0.1), *rgb.shape[:2])
    leukocyte = next(cell for cell in cells if cell.kind is CellKind.NUCLEATED)
    assert (leukocyte.row_px, leukocyte.col_px) == pytest.approx((310, 310), abs=3)
    assert leukocyte.ymax_px - leukocyte.ymin_px == pytest.approx(120, abs=12)
    red = np.array([(cell.row_px, cell.col_px) for cell in cells if cell.kind is CellKind.ERYTHROCYTE])
    for centre in SCENE["red"]:
        assert np.abs(red - 10.0 * np.array(centre)).max(axis=1).min() < 4


def test_a_clipped_red_channel_does_not_matter():
    over = np.clip(draw(**SCENE) * np.array([1.3, 1.0, 0.7]), 0, 255).astype(np.uint8)
    rgb = normalise(over).rgb
    assert not red_cell_colour(optical_density(rgb), 0.02, 0.1).red_tells
    assert counts(rgb) == TRUTH


def test_half_the_stain_gives_the_same_outline():
    rgb = draw(**SCENE)
    pale = np.rint(255 * (rgb / 255.0) ** 0.5).astype(np.uint8)
    areas = [
        next(cell.area_um2 for cell in measure_cells(segment(picture, 0.1), *rgb.shape[:2]) if cell.kind == "nucleated")
        for picture in (rgb, pale)
    ]
    assert areas[1] == pytest.approx(areas[0], rel=0.03)


@settings(max_examples=8, deadline=None)
@given(st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_a_moved_field_gives_moved_cells(shift):
    assert counts(draw(shift=shift, **SCENE)) == TRUTH


def test_a_grey_field_has_its_leukocytes_by_density():
    colour = draw(red=[*SCENE["red"], (10, 15)], leukocytes=SCENE["leukocytes"])
    grey = np.repeat(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)[..., np.newaxis], 3, axis=2)
    found = counts(grey)
    assert found[CellKind.NUCLEATED] == 1
    assert found[CellKind.ERYTHROCYTE] == 9
    assert found[CellKind.ARTEFACT] == 0
    assert segment(grey, 0.1).colourless
    assert not segment(colour, 0.1).colourless


def test_only_pictures_without_any_colour_are_colourless():
    density = optical_density(draw(um_per_px=0.25, **SCENE))
    assert not is_colourless(density)
    assert is_colourless(np.repeat(density[..., 1:2], 3, axis=2))
    assert is_colourless(np.zeros_like(density))


def test_overlapping_red_cells_are_counted_one_by_one():
    rgb = draw(red=[(20, 20), (20, 25), (40, 30), (44, 33), (15, 45)])
    assert counts(rgb)[CellKind.ERYTHROCYTE] == 5


def test_touching_leukocytes_are_two():
    rgb = draw(red=SCENE["red"][:3], leukocytes=[(31, 22), (31, 33.5)])
    assert counts(rgb)[CellKind.NUCLEATED] == 2


def test_a_platelet_on_a_red_cell_is_found():
    rgb = draw(red=SCENE["red"], platelets=[(30, 12)])
    found = counts(rgb)
    assert found[CellKind.PLATELET] == 1
    assert found[CellKind.ERYTHROCYTE] == 8


def test_a_red_cell_is_counted_where_its_centre_is_in_the_field():
    rgb = draw(red=[*SCENE["red"], (-2, 40), (61.5, 40)])
    assert counts(rgb)[CellKind.ERYTHROCYTE] == 8
    rgb = draw(red=[*SCENE["red"], (1.5, 40)])
    assert counts(rgb)[CellKind.ERYTHROCYTE] == 9


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (120, 120)])
def test_an_empty_field_has_no_cells(shape):
    rgb = np.full((*shape, 3), 255, np.uint8)
    assert measure_cells(segment(rgb, 0.1), *shape) == ()


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        segment(np.zeros((5, 5, 3), np.uint8), 0.0)


def test_red_cells_have_no_azure_density_however_deep():
    rgb = draw(red=[(20, 20), (20, 25), (20, 22)])
    density = optical_density(rgb)
    azure, _ = stain_densities(density, red_cell_colour(density, 0.02, 0.25))
    assert np.percentile(azure, 99) <= 0.1 * density[..., 1].max()


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.integers(0, 254))
@settings(max_examples=40, deadline=None)
def test_the_majority_of_a_mask_is_the_threshold_of_a_median(seed, height, width, level):
    plane = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    expected = cv2.medianBlur(plane, 5) > level
    np.testing.assert_array_equal(mostly((plane > level).astype(np.uint8)), expected)


def test_a_displacement_is_told_from_some_of_the_rows_of_a_large_field():
    cells = [(row, col) for row in range(5, 158, 10) for col in range(5, 158, 10)]
    density = optical_density(draw(160.0, 0.25, red=cells))
    assert density.shape[0] * density.shape[1] > 2 * _EDGES_IN_PX
    moved = density.copy()
    moved[..., 2] = cv2.warpAffine(density[..., 2], np.array([[1, 0, 0.6], [0, 1, -0.4]]), density.shape[1::-1])
    assert _displacements(moved)[2] == pytest.approx((-0.6, 0.4, 0.0), abs=0.12)


def test_a_clipped_blue_lacks_a_constant():
    depth = np.repeat(np.arange(10, 31), 40).reshape(20, 42)
    density = np.stack([depth, 2 * depth, depth - 6], axis=-1).astype(np.uint8)
    colour = red_cell_colour(density, 0.02, 0.25, blue_clipped=True)
    assert colour.red_green_per_blue == pytest.approx(3.0, abs=0.01)
    assert colour.red_green_without_blue == pytest.approx(18.0, abs=0.1)
    assert stain_densities(density, colour)[0].max() <= 1
    assert stain_densities(density, red_cell_colour(density, 0.02, 0.25))[0].max() > 10


def test_displaced_blue_is_laid_back_on_green():
    density = optical_density(draw(um_per_px=0.25, red=SCENE["red"]))
    moved = density.copy()
    moved[..., 2] = np.roll(density[..., 2], (1, -1), (0, 1))

    aligned = align_channels(moved)

    def apart(blue):
        return np.abs(blue.astype(int) - density[..., 2])[4:-4, 4:-4].mean()

    assert apart(aligned[..., 2]) < 0.6 * apart(moved[..., 2])


def dumbbell(distance, radius=10):
    mask = np.zeros((40, 80), np.uint8)
    cv2.circle(mask, (20, 20), radius, 1, -1)
    cv2.circle(mask, (20 + distance, 20), radius, 1, -1)
    return mask


@pytest.mark.parametrize(("distance", "bodies"), [(0, 1), (6, 1), (19, 2)])
def test_a_clump_is_split_at_its_waist(distance, bodies):
    mask = dumbbell(distance)
    labels = split_clump(mask, 4, 0.8)
    assert labels.max() == bodies
    np.testing.assert_array_equal(labels > 0, mask > 0)


def test_gaps_between_bodies_split_what_has_no_waist():
    mask = np.ones((20, 40), np.uint8)
    bodies = mask.copy()
    bodies[:, 20] = 0
    assert split_clump(mask, 4, 0.8).max() == 1
    labels = split_clump(mask, 4, 0.8, bodies)
    assert labels.max() == 2
    assert (labels > 0).all()


def test_holes_are_filled_by_size_and_by_what_is_in_them():
    mask = np.ones((20, 20), np.uint8)
    mask[3:5, 3:5] = 0
    mask[8:14, 8:14] = 0
    np.testing.assert_array_equal(fill_holes(mask, 4) == 0, np.pad(np.ones((6, 6), bool), ((8, 6), (8, 6))))
    assert fill_holes(mask, 4, np.ones_like(mask), 40).all()


def test_solidity():
    assert solidity(np.ones((6, 6))) == 1
    assert solidity(np.zeros((6, 6))) == 1
    corner = np.tri(20, 20) > 0
    corner[5:, :15] = False
    assert solidity(corner) < 0.8


def test_an_appendage_on_a_neck_is_dropped():
    mask = np.zeros((80, 120), np.uint8)
    cv2.circle(mask, (40, 40), 24, 1, -1)
    cv2.circle(mask, (73, 40), 6, 1, -1)
    mask[39:42, 60:70] = 1
    kept = without_appendages(mask > 0, 0.25, NucleatedOptions())
    assert kept[40, 40]
    assert not kept[40, 74]
    assert kept[:, :60].sum() == mask[:, :60].sum()


def test_what_is_thin_everywhere_is_no_appendage_of_nothing():
    mask = np.zeros((40, 40), bool)
    mask[16:24, 6:34] = True  # 2 x 7 um
    np.testing.assert_array_equal(without_appendages(mask, 0.25, NucleatedOptions()), mask)


@pytest.mark.parametrize(("nucleus_um", "cells"), [(4.6, 2), (2.6, 1)])
def test_fused_cells_are_two_where_both_nuclei_fill_them(nucleus_um, cells):
    cell, nuclei = np.zeros((100, 140), np.uint8), np.zeros((100, 140), np.uint8)
    for col in (50, 90):
        cv2.circle(cell, (col, 50), 20, 1, -1)
        cv2.circle(nuclei, (col, 50), round(nucleus_um / 0.25), 1, -1)
    cell[35:66, 50:90] = 1  # so wide a waist that the outline alone shows one body
    found = part_by_nuclei(cell > 0, nuclei, None, 0.25, NucleatedOptions())
    assert len(found) == cells
    assert (np.sum(found, axis=0) == cell).all()


@pytest.mark.parametrize(("axes", "found"), [((5, 8), 0), ((7, 10), 1)])
def test_of_the_bodies_that_are_no_disc_the_small_ones_are_no_red_cells(axes, found):
    density = np.zeros((120, 120, 3), np.uint8)
    cv2.ellipse(density, (60, 60), axes, 0, 0, 360, (20, 40, 40), -1)
    density = cv2.GaussianBlur(density, (3, 3), 0)
    foreground = (density[..., 1] > 12).astype(np.uint8)
    nothing = np.zeros((120, 120), np.int32)
    outlines = find_red_cells(density, foreground, nothing, 40.0, 0.25, RedCellOptions())
    assert len(outlines) == found
    assert len(find_red_cells(density, foreground, nothing, 40.0, 0.25, RedCellOptions(min_alone_um2=4.0))) == 1


def test_a_bright_line_is_as_deep_as_it_is_paler_than_both_sides():
    green = np.full((40, 60), 100, np.uint8)
    green[:, 30] = 60
    window = (slice(10, 30), slice(20, 50))
    lines = bright_lines(green, window, 0.25, NucleatedOptions())
    assert lines.shape == (20, 30)
    assert lines[5, 10] == pytest.approx(0.4)
    assert lines[:, :10].max() == 0


def test_parts_with_a_border_wider_than_themselves_are_one():
    parts = np.zeros((60, 90), np.int32)
    cv2.circle(parts, (30, 30), 20, 1, -1)
    cv2.circle(parts, (65, 30), 18, 2, -1)  # pressed on the first: a short border
    parts[:, 80:] = 0
    np.testing.assert_array_equal(joined_lobes(parts, 0.25, NucleatedOptions()), parts)
    wrapped = np.zeros((60, 60), np.int32)
    cv2.circle(wrapped, (30, 30), 24, 1, -1)
    cv2.circle(wrapped, (30, 30), 14, 2, -1)  # one inside the other
    assert len(np.unique(joined_lobes(wrapped, 0.25, NucleatedOptions()))) == 2


def test_a_faint_line_parts_what_is_two_whole_cells():
    cell, nuclei = np.zeros((60, 100), np.uint8), np.zeros((60, 100), np.uint8)
    for col in (32, 68):
        cv2.circle(cell, (col, 30), 19, 1, -1)
        cv2.circle(nuclei, (col, 30), 17, 1, -1)
    cell[12:49, 32:68] = 1
    lines = np.zeros((60, 100), np.float32)
    assert len(part_by_nuclei(cell > 0, np.ones_like(nuclei), lines, 0.25, NucleatedOptions())) == 1
    lines[:, 49:52] = 0.15
    options = NucleatedOptions(fused_convex=1.0)
    assert len(part_by_nuclei(cell > 0, nuclei, lines, 0.25, options)) == 2


def test_a_red_cell_with_an_open_pallor_is_found():
    density = np.zeros((120, 120, 3), np.uint8)
    cv2.circle(density, (60, 60), 15, (20, 40, 40), -1)
    cv2.circle(density, (60, 60), 9, (0, 0, 0), -1)
    density[57:64, 60:] = 0  # the ring is broken
    density = cv2.GaussianBlur(density, (3, 3), 0)
    foreground = (density[..., 1] > 12).astype(np.uint8)
    nothing = np.zeros((120, 120), np.int32)
    outlines = find_red_cells(density, foreground, nothing, 40.0, 0.25, RedCellOptions())
    assert len(outlines) == 1
    assert outlines[0].mean(axis=0) == pytest.approx((60, 60), abs=3)
    assert np.ptp(outlines[0], axis=0) == pytest.approx((30, 30), abs=5)


RED_CELLS = RedCellColour(20.0, 1.5, 1.8)


def test_a_rim_is_no_platelet():
    azure = np.zeros((60, 60), np.uint8)
    cv2.ellipse(azure, (30, 30), (14, 14), 0, 0, 120, 60, 6)
    cv2.circle(azure, (10, 50), 6, 60, -1)
    labels = platelets_in(azure)
    assert labels.max() == 1
    assert labels[50, 10] == 1


def platelets_in(azure):
    density = np.zeros((*azure.shape, 3), np.uint8)
    return find_platelets(azure, density, np.zeros_like(azure), None, RED_CELLS, 0.25, PlateletOptions())[0]


@pytest.mark.parametrize(
    ("heap", "grain", "kind"),
    [((120, 90, 175), 0.15, CellKind.PLATELET), ((60, 40, 110), 0.0, CellKind.NUCLEATED)],
    ids=["a heap of granules", "the nucleus of an erythroblast"],
)
def test_a_heap_of_granules_in_a_field_without_leukocytes_is_no_nucleus(heap, grain, kind):
    rgb = draw(um_per_px=0.1, red=SCENE["red"]).astype(float)
    cell = cv2.circle(np.zeros((600, 600)), (310, 310), 33, 1, -1)
    nucleus = cv2.circle(np.zeros((600, 600)), (310, 310), 22, 1, -1)
    speckle = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(600, 600)), (0, 0), 4)
    density = -np.log(np.array((200, 180, 225)) / 255) * (cell - nucleus)[..., np.newaxis]
    density += -np.log(np.array(heap) / 255) * (nucleus * (1 + grain * speckle / speckle.std()))[..., np.newaxis]
    rgb = cv2.GaussianBlur(rgb * np.exp(-density), (0, 0), 1.5).round().astype(np.uint8)
    found = counts(rgb)
    assert (found[kind], found[CellKind.NUCLEATED] + found[CellKind.PLATELET]) == (1, 1)


def test_small_platelets_are_found_on_bare_ground_alone():
    azure = np.zeros((60, 90), np.uint8)
    density = np.zeros((60, 90, 3), np.uint8)
    cv2.circle(density, (75, 30), 12, (12, 20, 14), -1)  # a red cell
    for row, col in ((30, 15), (30, 75), (30, 63)):  # on bare ground, on the cell, at its edge
        azure[row - 2 : row + 2, col - 3 : col + 3] = 40
    labels = find_platelets(azure, density, np.zeros_like(azure), None, RED_CELLS, 0.25, PlateletOptions())[0]
    assert labels.max() == 1
    assert labels[30, 15] == 1


def test_a_very_dark_platelet_on_a_red_cell_may_be_small():
    azure, density = np.zeros((60, 60), np.uint8), np.zeros((60, 60, 3), np.uint8)
    cv2.circle(density, (30, 30), 15, (12, 20, 14), -1)
    cv2.ellipse(azure, (30, 30), (4, 3), 0, 0, 360, 255, -1)  # 2.3 um2
    for level, found in ((2.5, 0), (5.0, 1)):
        body = np.where(azure > 0, round(level * RED_CELLS.level), 0).astype(np.uint8)
        labels = find_platelets(body, density, np.zeros_like(azure), None, RED_CELLS, 0.25, PlateletOptions())[0]
        assert labels.max() == found


def test_a_giant_platelet_is_whole_round_and_dark():
    azure = np.zeros((100, 100), np.uint8)
    cv2.circle(azure, (50, 50), 15, 60, -1)  # 7.5 um across
    assert platelets_in(azure).max() == 1
    assert platelets_in(azure[:, 40:]).max() == 0
    assert platelets_in(np.where(azure > 0, 16, 0).astype(np.uint8)).max() == 0
    cv2.ellipse(azure, (50, 50), (22, 12), 0, 0, 360, 60, -1)
    assert platelets_in(azure).max() == 0


def test_platelets_are_parted_from_what_they_touch():
    azure = np.zeros((60, 80), np.uint8)
    cv2.line(azure, (20, 0), (20, 59), 22, 4)  # the fringe of a red cell
    cv2.circle(azure, (24, 30), 5, 90, -1)
    cv2.circle(azure, (48, 30), 4, 90, -1)  # two that touch
    cv2.circle(azure, (57, 30), 4, 90, -1)
    azure[30, 52:54] = 30
    labels = platelets_in(azure)
    assert labels.max() == 3
    assert len({labels[30, 24], labels[30, 48], labels[30, 57]}) == 3
    assert (labels[:, 20][[5, 55]] == 0).all()


def test_a_string_of_grains_is_not_cut_into_platelets():
    azure = np.zeros((60, 80), np.uint8)
    cv2.circle(azure, (20, 30), 4, 90, -1)
    for col, row in ((27, 34), (33, 29), (39, 34), (45, 29)):
        cv2.circle(azure, (col, row), 2, 90, -1)
    cv2.polylines(azure, [np.array([(20, 30), (27, 34), (33, 29), (39, 34), (45, 29)])], False, 60, 3)
    assert platelets_in(azure).max() == 0


def test_a_piece_of_a_leukocyte_is_no_platelet():
    azure = np.zeros((60, 60), np.uint8)
    azure[:, 30:] = 80  # the rest of the cell, found already
    labels = np.zeros_like(azure)
    labels[:, 32:] = 1
    cv2.circle(azure, (28, 30), 5, 80, -1)
    density = np.zeros((60, 60, 3), np.uint8)
    assert find_platelets(azure, density, labels, None, RED_CELLS, 0.25, PlateletOptions())[0].max() == 0
    assert (
        find_platelets(azure * (labels == 0), density, labels, None, RED_CELLS, 0.25, PlateletOptions())[0].max() == 1
    )


def test_a_platelet_has_the_colour_of_nuclei():
    density, nuclei, labels = (
        np.zeros((60, 90, 3), np.uint8),
        np.zeros((60, 90), np.uint8),
        np.zeros((60, 90), np.int32),
    )
    for col, stain in ((15, (60, 60, 20)), (45, (30, 30, 10)), (75, (30, 30, 20))):
        cv2.circle(density, (col, 30), 6, stain, -1)
    cv2.circle(nuclei, (15, 30), 6, 1, -1)
    labels[nuclei > 0] = 1
    azure = cv2.transform(density, np.array([[1.0, 1.0, -RED_CELLS.red_green_per_blue]]))
    found = find_platelets(azure, density, labels, nuclei > 0, RED_CELLS, 0.25, PlateletOptions())[0]
    assert (found[30, 45], found[30, 75]) == (1, 0)
    assert find_platelets(azure, density, labels, None, RED_CELLS, 0.25, PlateletOptions())[0].max() == 2


def test_a_burst_nucleus_is_told_by_the_others_only():
    labels = np.zeros((80, 340), np.int32)
    for label in (1, 2, 3):
        cv2.circle(labels, (80 * label - 40, 40), 22, label, -1)
    for turn in range(6):
        tip = (round(290 + 32 * np.cos(turn * 1.05)), round(40 + 32 * np.sin(turn * 1.05)))
        cv2.line(labels, (290, 40), tip, 4, 8)
    density = np.zeros((80, 340, 3), np.uint8)
    density[labels > 0] = (95, 150, 30)
    density[labels == 4] = (50, 150, 25)
    options = NucleatedOptions()
    np.testing.assert_array_equal(find_smudges(density, labels, labels > 0, 0.25, options), [False, False, False, True])
    with_cytoplasm = density.copy()
    rim = (labels == 4) & (cv2.erode((labels == 4).astype(np.uint8), np.ones((7, 7))) == 0)
    with_cytoplasm[rim] = (50, 50, 15)
    assert not find_smudges(with_cytoplasm, labels, labels > 0, 0.25, options).any()
    labels[labels == 3], labels[labels == 4] = 0, 3
    assert not find_smudges(density, labels, labels > 0, 0.25, options).any()


@pytest.mark.real
def test_leukocytes_of_real_fields():
    if not (DATA / "bccd").is_dir():
        pytest.skip(f"no real data at {DATA}")
    import xml.etree.ElementTree as ET

    found = boxed = matched = 0
    for path in sorted((DATA / "bccd" / "annotations").glob("*.xml"))[::29]:
        rgb = cv2.imread(str(DATA / "bccd" / "images" / f"{path.stem}.jpg"))[..., ::-1].copy()
        cells = measure_cells(segment(normalise(rgb).rgb, 7.5 / 103), *rgb.shape[:2])
        centres = [(cell.row_px, cell.col_px) for cell in cells if cell.kind is CellKind.NUCLEATED]
        boxes = [
            [float(item.find("bndbox").find(side).text) for side in ("ymin", "xmin", "ymax", "xmax")]
            for item in ET.parse(path).getroot().iter("object")
            if item.find("name").text == "WBC"
        ]
        found, boxed = found + len(centres), boxed + len(boxes)
        matched += sum(any(y0 < r < y1 and x0 < c < x1 for r, c in centres) for y0, x0, y1, x1 in boxes)
    assert matched == boxed
    assert found <= boxed + 1


def test_leukocytes_without_red_cells_are_no_red_cells() -> None:
    """Where a field shows little else, theirs is the commonest colour."""
    rgb, _ = render_field({"lymphocyte": 12, "neutrophil": 12}, (900, 900), 0.12, seed=3)
    result = analyse_field(Field("slide", "field.png", rgb), given_um_per_px=0.12)
    found = [cell for cell in result.cells if cell.kind is CellKind.NUCLEATED]
    assert 22 <= len(found) <= 26
