"""White point, illumination and scale: what a cast, a lamp or a resize does must not matter."""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbctool.errors import CalibrationError
from cbctool.imaging.background import estimate_background, normalise
from cbctool.imaging.flicker import find_bands
from cbctool.imaging.pyramid import Pyramid, halved
from cbctool.imaging.scale import RedCellOptions, RedCellScale, estimate_scale
from cbctool.imaging.scale_choice import pool_scales, resolve_scale, scales_by_slide
from cbctool.imaging.surround import find_surround
from cbctool.records import RED_CELL_UM, Scale, ScaleSource
from cbctool.run.insult import InsultKind, apply_insult

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
real = pytest.mark.skipif(not DATA.is_dir(), reason="real data not found (CBCTOOL_DATA or ../shared/data)")


DISC = 0.92
"""um/px found on flat, slightly blurred discs, over 7.5 um by their diameter."""


def smear(diameter=40, shape=(300, 400), pitch=1.3, seed=0, colour=(190, 165, 160), background=(210, 212, 205)):
    """A field of round red cells on a lattice, jittered, with soft edges."""
    rng = np.random.default_rng(seed)
    rgb = np.full((*shape, 3), background, np.uint8)
    for row in np.arange(0.7 * diameter, shape[0] - 0.6 * diameter, pitch * diameter):
        for col in np.arange(0.7 * diameter, shape[1] - 0.6 * diameter, pitch * diameter):
            centre = [round(16 * (value + rng.uniform(-0.1, 0.1) * diameter)) for value in (col, row)]
            cv2.circle(rgb, centre, round(8 * diameter), colour, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(rgb, (0, 0), max(0.4, 0.02 * diameter))


def is_background(rgb):
    return cv2.erode((rgb[..., 1] > 205).astype(np.uint8), np.ones((5, 5))) > 0


# ---------------------------------------------------------------------------------------------------------- background


def test_background_becomes_white_and_cells_keep_their_density():
    rgb = smear()
    flat = normalise(rgb)
    assert flat.white_level == pytest.approx((210, 212, 205), abs=2.5)
    assert np.median(flat.rgb[is_background(rgb)], axis=0) == pytest.approx((255, 255, 255), abs=1)
    cell = rgb[..., 1] <= 165
    assert np.median(flat.rgb[cell], axis=0) == pytest.approx(np.array([190, 165, 160]) * 255 / [210, 212, 205], abs=3)
    assert not flat.surround.any()
    assert flat.rgb.dtype == np.uint8


@settings(max_examples=10, deadline=None)
@given(gains=st.tuples(*[st.floats(0.5, 1.15)] * 3))
def test_a_colour_cast_does_not_matter(gains):
    rgb = smear(background=(205, 205, 205), colour=(205, 165, 160))
    cast = np.clip(np.rint(rgb * np.array(gains)), 0, 255).astype(np.uint8)
    difference = normalise(cast).rgb.astype(int) - normalise(rgb).rgb
    assert np.abs(difference).mean() < 2.0


@pytest.mark.parametrize(("strength", "centre"), [(0.2, (0.5, 0.5)), (0.14, (0.3, 0.6))])
def test_vignetting_is_flattened(strength, centre):
    rgb = smear(shape=(480, 640))
    y, x = np.mgrid[0:480, 0:640]
    radius2 = ((y / 480 - centre[0]) ** 2 + (x / 640 - centre[1]) ** 2) / 0.25
    dark = (rgb * (1 - strength * radius2)[..., None]).astype(np.uint8)
    mask = is_background(rgb)
    assert dark[mask].min() < 0.75 * rgb[mask].min()
    assert np.percentile(normalise(dark).rgb[mask], 2) > 243


def test_light_that_is_tinted_and_falls_off_steeply_is_flattened():
    rgb = smear(shape=(480, 640))
    lit = apply_insult(rgb, InsultKind.LIGHT, (0.6, 0.2, 0, 0))
    flat = normalise(lit).rgb
    inner = is_background(rgb)
    inner[-24:, :24] = False  # the last of the corner
    assert np.percentile(flat[inner], 1) > 245


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.parametrize("bands", [2, 7])
def test_the_bands_of_a_flickering_lamp_are_taken_away(sideways, bands):
    rgb = smear(shape=(480, 640))
    if sideways:
        rgb = np.ascontiguousarray(rgb.swapaxes(0, 1))
    lit = apply_insult(rgb, InsultKind.LIGHT, (0.2, 0, 0.06, bands))
    if sideways:
        rgb, lit = (np.ascontiguousarray(one.swapaxes(0, 1)) for one in (rgb, lit))
    flat = normalise(lit).rgb
    assert np.percentile(flat[is_background(rgb)], 1) > 245
    window = normalise(lit).background.apply(lit[100:160, 200:260], 100, 200, 1.0)
    assert np.abs(window.astype(int) - flat[100:160, 200:260]).max() <= 3


def test_what_goes_up_and_down_on_one_side_alone_is_no_band():
    noise = np.random.default_rng(0).normal(0, 0.01, (72, 96))
    wave = 0.04 * np.sin(np.arange(72) / 3)[:, np.newaxis]
    everything = np.ones(noise.shape, bool)
    bands = find_bands(noise + wave, everything)
    assert bands.shape == (72, 1)
    assert np.abs(bands - wave).max() < 0.02
    assert find_bands((noise + wave).T, everything.T).shape == (1, 72)
    half = noise.copy()
    half[:, :48] += wave
    assert find_bands(half, everything) is None
    assert find_bands(noise + 0.3 * wave, everything) is None  # nothing to be gained
    assert find_bands((noise + wave)[:40, :40], everything[:40, :40]) is None  # a single cell's window
    assert find_bands(noise + wave, np.zeros(noise.shape, bool)) is None


def test_a_cell_that_fills_half_the_field_is_not_background():
    rgb = smear(shape=(300, 400))
    cv2.circle(rgb, (200, 150), 140, (190, 170, 195), -1)  # pale cytoplasm, half of the field
    cv2.circle(rgb, (200, 150), 90, (110, 70, 150), -1)
    background = estimate_background(rgb)
    assert background.levels.reshape(-1, 3).mean(axis=0) == pytest.approx((210, 212, 205), abs=4)
    flat = background.apply(rgb)
    assert flat[150, 60 + 15] == pytest.approx(np.array([190, 170, 195]) * 255 / [210, 212, 205], abs=8)


def test_seventy_percent_cover():
    rgb = smear(diameter=60, shape=(480, 640), pitch=1.06)
    background = estimate_background(rgb)
    assert background.cover > 0.6
    assert background.white_level == pytest.approx((210, 212, 205), abs=3)


def test_black_surround_is_masked_and_does_not_darken_the_white_point():
    rgb = smear(shape=(480, 640))
    mask = np.zeros((480, 640), np.uint8)
    cv2.circle(mask, (320, 240), 230, 255, -1)
    phone = (rgb * (cv2.GaussianBlur(mask, (0, 0), 3)[..., None] / 255.0)).astype(np.uint8)
    flat = normalise(phone)
    rows, cols = np.mgrid[0:480, 0:640]
    distance = np.hypot(rows - 240, cols - 320)
    assert flat.surround[distance > 235].all()
    assert not flat.surround[distance < 195].any()
    assert flat.white_level == pytest.approx((210, 212, 205), abs=4)
    assert (flat.rgb[flat.surround] == 255).all()


def test_the_soft_rim_of_an_eyepiece_is_no_field():
    rgb = smear(shape=(480, 640))
    rows, cols = np.mgrid[0:480, 0:640]
    distance = np.hypot(rows - 240, cols - 320)
    light = (1 - 0.35 * (distance / 230) ** 2).clip(0) / (1 + np.exp((distance - 230) / 5))
    flat = normalise((rgb * light[..., np.newaxis]).astype(np.uint8))
    assert flat.surround[distance > 230].all()  # also where the rim meets the picture's edge
    assert not flat.surround[distance < 190].any()
    assert np.percentile(flat.rgb[is_background(rgb) & ~flat.surround], 2) > 240


def test_something_round_and_black_at_the_border_is_no_eyepiece():
    rgb = smear(shape=(480, 640))
    cv2.circle(rgb, (0, 240), 90, (5, 5, 5), -1)
    surround = find_surround(rgb)
    assert surround[240, 20]
    assert 0.02 < surround.mean() < 0.06


@pytest.mark.parametrize(("diameter", "radius", "centre"), [(40, 80, (180, 300)), (60, 110, (200, 330))])
def test_an_eyepiece_cuts_no_red_cell_smaller(diameter, radius, centre):
    rgb = smear(diameter=diameter, shape=(480, 640))
    rows, cols = np.mgrid[0:480, 0:640]
    rgb[np.hypot(rows - centre[0], cols - centre[1]) > radius] = 6
    background = estimate_background(rgb)
    found = estimate_scale(rgb, background=background)
    assert found is not None
    # with the rim taken for their outline they give 0.10 and 0.37 more
    assert found.um_per_px == pytest.approx(DISC * RED_CELL_UM / diameter, rel=0.03)


def test_a_dark_nucleus_at_the_border_is_no_surround():
    rgb = smear()
    cv2.circle(rgb, (0, 150), 60, (60, 30, 110), -1)
    assert not find_surround(rgb).any()


def test_the_corners_of_a_wide_eyepiece_are_surround():
    rgb = smear(shape=(300, 400))
    for corner in ((0, 0), (399, 299)):
        cv2.circle(rgb, corner, 30, (8, 8, 8), -1)
    assert find_surround(rgb)[[0, -1], [0, -1]].all()
    assert not find_surround(rgb)[150, 200]


def test_the_white_ground_of_a_caption_is_not_the_background():
    rgb = smear()
    rgb[250:, 250:] = 255
    background = estimate_background(rgb)
    assert background.white_level == pytest.approx((210, 212, 205), abs=2.5)
    assert (background.apply(rgb)[260:, 260:] == 255).all()


def stretched(rgb, black):
    """What a camera shows that takes ``black`` (R, G, B) away and stretches the rest."""
    black = np.array(black)
    return np.clip(np.rint((rgb - black) * 255.0 / (255.0 - black)), 0, 255).astype(np.uint8)


def smear_with_nuclei():
    """Two nuclei, each with paler chromatin around the darkest."""
    rgb = smear(background=(255, 253, 245))
    for centre in ((80, 100), (280, 200)):
        cv2.circle(rgb, centre, 30, (110, 70, 165), -1)
        cv2.circle(rgb, centre, 15, (80, 50, 150), -1)
    return cv2.GaussianBlur(rgb, (0, 0), 1.5)


def test_black_that_a_camera_took_away_is_given_back():
    rgb = smear_with_nuclei()
    assert not any(estimate_background(rgb).black)
    background = estimate_background(stretched(rgb, (85, 55, 152)))
    assert min(background.black) > 0.1
    nucleus = background.apply(stretched(rgb, (85, 55, 152)))[100, 80].astype(float)
    assert nucleus == pytest.approx(np.array([0.45, 0.28, 0.65]) * 255, abs=8)


def test_red_cells_that_take_blue_are_no_black_of_the_camera():
    rgb = smear_with_nuclei()
    for row in range(20, 300, 60):
        cv2.circle(rgb, (150, row), 22, (150, 110, 45), -1)  # brown, two deep
    assert not any(estimate_background(rgb).black)


@pytest.mark.parametrize("what", ["text", "yellow text", "grey"])
def test_what_is_black_for_another_reason_stays(what):
    rgb = smear_with_nuclei()
    if what == "grey":
        rgb = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        rgb = stretched(rgb, (85, 85, 85))
    else:
        colour = (0, 0, 0) if what == "text" else (255, 255, 0)
        cv2.putText(rgb, "10 um", (150, 150), cv2.FONT_HERSHEY_SIMPLEX, 2.0, colour, 6)
    assert not any(estimate_background(rgb).black)


def test_a_channel_that_is_clipped_all_over_has_lost_no_black():
    rgb = np.full((96, 96, 3), (255, 230, 230), np.uint8)
    for index, level in enumerate(range(10, 110, 4)):
        cv2.circle(rgb, (9 + 18 * (index % 5), 9 + 18 * (index // 5)), 5, (255, level, level), -1)
    assert estimate_background(rgb).black == (0.0, 0.0, 0.0)


def test_window_and_resized_copy_get_the_gain_of_their_place():
    rgb = smear(shape=(400, 600))
    ramp = np.linspace(0.7, 1.0, 600)[None, :, None]
    rgb = (rgb * ramp).astype(np.uint8)
    background = estimate_background(rgb)
    whole = background.apply(rgb).astype(int)
    window = background.apply(rgb[100:220, 300:500], row0=100, col0=300, scale=1.0)
    assert np.abs(window - whole[100:220, 300:500]).max() <= 3
    half = cv2.resize(rgb, (300, 200), interpolation=cv2.INTER_AREA)
    reference = cv2.resize(whole.astype(np.uint8), (300, 200), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(background.apply(half) - reference).mean() < 1.0
    part = background.apply(half[50:150, 100:250], row0=100, col0=200, scale=0.5)
    assert np.abs(part - reference[50:150, 100:250]).mean() < 1.0


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (28, 28), (64, 1)])
@pytest.mark.parametrize("level", [0, 120, 255])
def test_small_and_plain_pictures_do_not_fail(shape, level):
    rgb = np.full((*shape, 3), level, np.uint8)
    flat = normalise(rgb)
    assert flat.rgb.shape == rgb.shape
    assert (flat.rgb == (255 if level else 0)).all()


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        normalise(np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        normalise(np.zeros((10, 10, 3), np.float32))


# --------------------------------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize("diameter", [20, 30, 48, 75, 105, 140])
def test_scale_of_round_cells_without_knowing_it(diameter):
    rgb = normalise(smear(diameter, shape=(diameter * 7, diameter * 9))).rgb
    found = estimate_scale(rgb)
    assert found is not None
    # A drawn disc has no rounded rim: what people would draw round it lies on it, and the margin is on top.
    assert found.um_per_px == pytest.approx(DISC * RED_CELL_UM / diameter, rel=0.05)
    assert found.n_single_red_cells >= 20
    assert 0.0 < found.relative_uncertainty < 0.06


def test_scale_survives_touching_cells():
    rgb = normalise(smear(45, shape=(400, 500), pitch=1.0)).rgb
    found = estimate_scale(rgb)
    assert found is not None
    assert found.um_per_px == pytest.approx(DISC * RED_CELL_UM / 45, rel=0.06)


def half_hidden(diameter=60):
    """Red cells in rows, each lapping over the next: none is single."""
    rgb = np.full((300, 420, 3), 255, np.uint8)
    for row in (70, 220):
        for col in range(60, 400, round(0.7 * diameter)):
            cv2.circle(rgb, (col, row), diameter // 2, (230, 190, 190), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(rgb, (0, 0), 1.0)


def test_half_an_outline_is_enough():
    found = estimate_scale(half_hidden(60))
    assert found is not None
    assert found.um_per_px == pytest.approx(DISC * RED_CELL_UM / 60, rel=0.08)


@pytest.mark.parametrize("near", [None, 0.115, 0.3, 25400 / 72])
def test_an_expected_scale_only_shortens_the_search(near):
    found = estimate_scale(smear(60, shape=(400, 500), background=(255, 255, 255)), near_um_per_px=near)
    assert found is not None
    assert found.um_per_px == pytest.approx(DISC * RED_CELL_UM / 60, rel=0.05)


def test_normalising_what_is_looked_at_is_the_same_as_normalising_all():
    rgb = smear(75, shape=(500, 620))
    background = estimate_background(rgb)
    looked_at = estimate_scale(rgb, background=background)
    whole = estimate_scale(background.apply(rgb))
    assert looked_at is not None
    assert whole is not None
    assert looked_at.um_per_px == pytest.approx(whole.um_per_px, rel=0.01)


def test_uncertainty_falls_with_cells():
    few = estimate_scale(normalise(smear(60, shape=(200, 260))).rgb)
    many = estimate_scale(normalise(smear(30, shape=(300, 400))).rgb)
    assert few is not None
    assert many is not None
    assert few.n_single_red_cells < many.n_single_red_cells
    assert few.relative_uncertainty > many.relative_uncertainty


@pytest.mark.parametrize("what", ["empty", "one white cell", "platelets"])
def test_no_red_cells_no_scale(what):
    rgb = np.full((300, 400, 3), 255, np.uint8)
    if what == "one white cell":
        cv2.circle(rgb, (200, 150), 70, (205, 190, 225), -1)
        cv2.circle(rgb, (200, 150), 50, (110, 70, 170), -1)
    if what == "platelets":
        for i in range(12):
            cv2.circle(rgb, (40 + 80 * (i % 4), 60 + 90 * (i // 4)), 20, (165, 130, 200), -1, cv2.LINE_AA)
    assert estimate_scale(rgb) is None


@pytest.mark.parametrize("red_cell", [(160, 165, 205), (170, 165, 225)])
def test_a_stain_rich_in_azure_makes_red_cells_blue(red_cell):
    rgb = smear(60, shape=(400, 500), pitch=1.1, background=(255, 255, 255), colour=red_cell)
    cv2.circle(rgb, (250, 200), 70, (40, 30, 120), -1)  # and a nucleus bluer still
    found = estimate_scale(rgb)
    assert found is not None
    assert found.um_per_px == pytest.approx(DISC * RED_CELL_UM / 60, rel=0.06)


def test_the_wall_of_a_ring_is_no_red_cell():
    rgb = np.full((192, 256, 3), 255, np.uint8)
    for centre in ((75, 80), (185, 115)):
        cv2.ellipse(rgb, centre, (50, 44), 0, 0, 360, (225, 195, 190), 26, cv2.LINE_AA)
    assert estimate_scale(cv2.GaussianBlur(rgb, (0, 0), 1.5)) is None


def test_small_bodies_beside_two_larger_ones_that_are_most_of_the_blood_give_no_scale():
    rgb = np.full((260, 340, 3), 255, np.uint8)
    for *centre, diameter in ((65, 70, 92), (185, 90, 92), (40, 210, 38), (102, 210, 38), (164, 210, 38)):
        cv2.circle(rgb, centre, diameter // 2, (225, 190, 185), -1, cv2.LINE_AA)
    assert estimate_scale(cv2.GaussianBlur(rgb, (0, 0), 1.5)) is None


def exposed(rgb, gains):
    return np.clip(np.rint(rgb * np.array(gains)), 0, 255).astype(np.uint8)


def blurred_smear():
    """Edges as a lens draws them and rims are rounded, a thirtieth of a cell wide."""
    rgb = smear(diameter=60, shape=(480, 640), colour=(235, 190, 198), background=(245, 245, 240))
    return cv2.GaussianBlur(rgb, (0, 0), 2.5)


def scale_of(rgb):
    return estimate_scale(rgb, background=estimate_background(rgb))


def test_outlines_are_read_in_blue_where_green_alone_is_clipped():
    rgb = blurred_smear()
    right, lifted = scale_of(rgb).um_per_px, exposed(rgb, (0.9, 1.2, 0.9))
    assert [estimate_background(lifted).is_clipped(channel) for channel in range(3)] == [False, True, False]
    assert scale_of(lifted).um_per_px == pytest.approx(right, rel=0.02)


@pytest.mark.parametrize("gain", [1.1, 1.15])
def test_an_overexposed_outline_is_set_right_and_less_certain(gain):
    rgb = blurred_smear()
    over = exposed(rgb, gain)
    right, found, as_seen = scale_of(rgb), scale_of(over), estimate_scale(normalise(over).rgb)
    assert as_seen.um_per_px > 1.04 * right.um_per_px
    assert abs(found.um_per_px - right.um_per_px) < 0.5 * (as_seen.um_per_px - right.um_per_px)
    assert found.relative_uncertainty > right.relative_uncertainty + 0.005


def test_an_overexposed_picture_that_has_lost_its_red_cells_has_no_scale():
    rgb = np.full((480, 640, 3), (245, 245, 240), np.uint8)
    for index in range(5):
        cv2.circle(rgb, (100 + 110 * index, 100 + 60 * index), 20, (200, 140, 150), -1)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 2)
    assert scale_of(rgb) is not None
    assert scale_of(exposed(rgb, 1.2)) is None


def test_one_cell_is_too_few():
    rgb = np.full((300, 400, 3), 255, np.uint8)
    cv2.circle(rgb, (200, 150), 40, (230, 190, 190), -1, cv2.LINE_AA)
    assert estimate_scale(rgb) is None
    assert RedCellOptions().min_cells > 1


# --------------------------------------------------------------------------------------------------------------- order

OWN = RedCellScale(0.1, 0.04, 12)
SLIDE = Scale(0.11, ScaleSource.SLIDE, 0.03, 200)


@pytest.mark.parametrize(
    ("given_scale", "metadata", "own", "slide", "expected"),
    [
        (0.2, 0.1, OWN, SLIDE, (0.2, ScaleSource.GIVEN)),
        (None, 0.105, OWN, SLIDE, (0.105, ScaleSource.METADATA)),
        (None, None, OWN, SLIDE, (0.1, ScaleSource.RED_CELLS)),
        (None, None, None, SLIDE, (0.11, ScaleSource.SLIDE)),
        (None, 25400 / 72, OWN, None, (0.1, ScaleSource.RED_CELLS)),
        (None, 25400 / 300, None, SLIDE, (0.11, ScaleSource.SLIDE)),
        (None, None, RedCellScale(0.1, 0.09, 2), SLIDE, (0.11, ScaleSource.SLIDE)),
        (None, None, RedCellScale(0.1, 0.09, 2), None, (0.1, ScaleSource.RED_CELLS)),
    ],
)
def test_order_of_trust(given_scale, metadata, own, slide, expected):
    scale, _ = resolve_scale(given_scale, metadata, own, slide)
    assert (scale.um_per_px, scale.source) == expected
    if own is None:
        assert math.isnan(scale.red_cell_um_per_px)
    else:
        assert (scale.red_cells, scale.red_cell_um_per_px) == (own.n_single_red_cells, own.um_per_px)


def by_red_cells(um_per_px, uncertainty=0.08):
    return Scale(um_per_px, ScaleSource.RED_CELLS, uncertainty, 8, um_per_px)


def test_fields_taken_alike_tell_their_slides_scale_better_than_one():
    assert pool_scales([]) is None
    pooled = pool_scales([by_red_cells(um) for um in (0.1, 0.104, 0.096, 0.09, 0.109)])
    assert (pooled.um_per_px, pooled.source, pooled.red_cells) == (0.1, ScaleSource.SLIDE, 40)
    assert 0.03 < pooled.uncertainty < 0.06
    apart = pool_scales([by_red_cells(um, 0.04) for um in (0.1, 0.1, 0.2, 0.2, 0.13)])
    assert apart.uncertainty > 0.2


def test_fields_that_few_red_cells_tell_worse_than_their_slide_take_its_scale():
    many = {i: (by_red_cells(0.1), (480, 640)) for i in range(12)}
    fields = many | {
        12: (by_red_cells(0.12), (480, 640)),
        13: (by_red_cells(0.102), (480, 640)),  # near enough
        14: (by_red_cells(0.2, 0.035), (480, 640)),  # another objective
        15: (by_red_cells(0.12), (960, 1280)),  # another camera
        16: (Scale(0.12, ScaleSource.METADATA), (480, 640)),
        17: (None, (0, 0)),
    }
    chosen = scales_by_slide(fields)
    assert set(chosen) == {12, 17}
    assert chosen[12].um_per_px == pytest.approx(0.1, rel=0.01)
    assert chosen[12].source is ScaleSource.SLIDE
    assert scales_by_slide({0: (None, (0, 0))}) == {}


def test_disagreement_is_a_warning_and_agreement_is_none():
    assert resolve_scale(None, 0.105, OWN)[1] == ()
    (warning,) = resolve_scale(None, 0.2, OWN, name="a.tif")[1]
    assert "a.tif" in warning
    assert "0.2" in warning
    assert "0.1" in warning
    assert resolve_scale(0.05, None, OWN)[1] != ()


def test_screen_resolution_is_named_and_not_used():
    scale, (warning,) = resolve_scale(None, 352.8, OWN)
    assert scale.source is ScaleSource.RED_CELLS
    assert "352.8" in warning


def test_no_scale_is_an_error_with_advice():
    with pytest.raises(CalibrationError, match="photo") as caught:
        resolve_scale(None, None, None, name="photo.jpg")
    assert "--um-per-px" in caught.value.advice


@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan])
def test_given_scale_must_be_positive(bad):
    with pytest.raises(ValueError, match="positive"):
        resolve_scale(bad, None, None)


# ---------------------------------------------------------------------------------------------------------- real fields


def annotated_diameters(table, key, prefix, suffix, size):
    """Median side of the uncut red-cell boxes of each picture."""
    sides = defaultdict(list)
    with (DATA / table).open() as lines:
        for row in csv.DictReader(lines):
            left, top, right, bottom = (float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
            if row["name"] == "RBC" and min(left, top) > 2 and right < size[0] - 2 and bottom < size[1] - 2:
                sides[DATA / f"{prefix}{row[key]}{suffix}"].append((right - left + bottom - top) / 2)
    return {path: float(np.median(values)) for path, values in sides.items() if len(values) >= 4}


@pytest.mark.real
@real
@pytest.mark.parametrize(
    ("table", "key", "prefix", "suffix", "size", "found_share"),
    [
        ("bccd/boxes_txl.csv", "id", "bccd/images/", ".jpg", (640, 480), 0.95),
        ("pbc/boxes.csv", "path", "pbc/", "", (180, 180), 0.9),
    ],
)
def test_scale_agrees_with_boxes_and_stays_when_resized(table, key, prefix, suffix, size, found_share):
    truth = annotated_diameters(table, key, prefix, suffix, size)
    paths = sorted(truth)[:: max(1, len(truth) // 36)]
    ratios, resized = [], []
    for path in paths:
        rgb = cv2.imread(str(path))[..., ::-1].copy()
        found = estimate_scale(normalise(rgb).rgb)
        if found is None:
            continue
        ratios.append(RED_CELL_UM / found.um_per_px / truth[path])
        small = cv2.resize(rgb, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        again = estimate_scale(normalise(small).rgb)
        if again is not None:
            resized.append(0.6 * again.um_per_px / found.um_per_px)
    assert len(ratios) >= found_share * len(paths)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)
    assert np.median(resized) == pytest.approx(1.0, abs=0.015)
    assert np.mean(np.abs(np.array(resized) - 1) < 0.03) > 0.6


@pytest.mark.real
@real
def test_half_resolution_and_original_agree():
    originals = sorted((DATA / "all_idb1" / "original").glob("*.jpg"))
    assert originals
    for path in originals[:2]:
        both = [cv2.imread(str(p))[..., ::-1].copy() for p in (path, path.parents[1] / "images" / path.name)]
        full, half = (estimate_scale(normalise(rgb).rgb) for rgb in both)
        assert full is not None
        assert half is not None
        assert half.um_per_px / full.um_per_px == pytest.approx(2.0, rel=0.03)


def test_a_pyramid_halves_as_often_as_a_zoom_allows_and_once_for_all():
    rgb = np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3)
    pyramid = Pyramid(rgb)

    whole, rest, zoom = pyramid.at(0.6)
    assert whole is rgb
    assert (rest, zoom) == (0.6, 1.0)

    quarter, rest, zoom = pyramid.at(0.2)
    assert quarter.shape == (1, 2, 3)  # odd rows are left out; a single row is not halved
    assert (rest, zoom) == (0.8, 0.25)
    assert pyramid.level(1) is pyramid.at(0.5)[0]
    np.testing.assert_array_equal(pyramid.level(1), halved(rgb, 0.5)[0])
    assert pyramid.at(0.001)[0] is quarter
    assert Pyramid.of(pyramid) is pyramid


def test_a_pyramid_has_the_scale_of_its_field():
    rgb = smear(60, shape=(400, 500), background=(255, 255, 255))
    found = estimate_scale(Pyramid(rgb))
    assert found is not None
    assert found == estimate_scale(rgb)
