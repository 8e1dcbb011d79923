"""Digital insults do what they say to a picture, and nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cbctool.errors import UsageError
from cbctool.run.insult import EXTREMES, InsultKind, apply_insult, parse_insult

GREY = np.full((40, 60, 3), 200, np.uint8)


def test_fields_take_the_extremes_in_turn():
    insult = parse_insult("gamma")
    assert [insult.setting(i) for i in range(3)] == [(0.8,), (1.25,), (0.8,)]
    assert parse_insult("gains:0.7,1,1.3").settings == ((0.7, 1.0, 1.3),)


@pytest.mark.parametrize(
    "text",
    [
        "sepia",
        "gains:1",
        "gamma:dark",
        "resize:0",
        "blur:",
        "camera:0,1,0,0",
        "camera:0,-1,0,0,90",
        "restain:1,2,3,4,5,300",
    ],
)
def test_insults_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--insult"):
        parse_insult(text)


def test_gains_multiply_channels_and_clip():
    assert apply_insult(GREY, InsultKind.GAINS, (0.7, 1.0, 1.3))[0, 0].tolist() == [140, 200, 255]


def test_gamma_keeps_black_and_white():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (2, 1, 3))
    dark = apply_insult(ramp, InsultKind.GAMMA, (1.25,))
    assert (dark[0, 0, 0], dark[0, 255, 0]) == (0, 255)
    assert dark[0, 128, 0] == round(255 * (128 / 255) ** 1.25)


def test_a_stain_changes_densities_and_leaves_the_background():
    rgb = GREY.copy()
    rgb[:5, :5] = (100, 50, 200)
    stained = apply_insult(rgb, InsultKind.STAIN, (2.0, 0.5, 1.5))
    assert stained[20, 20].tolist() == [200, 200, 200]
    assert stained[0, 0].tolist() == [50, 100, 200]


@pytest.mark.parametrize(("factor", "shape"), [(0.5, (20, 30, 3)), (2.0, (80, 120, 3))])
def test_resize_keeps_an_even_grey(factor, shape):
    resized = apply_insult(GREY, InsultKind.RESIZE, (factor,))
    assert resized.shape == shape
    assert (resized == 200).all()


def test_blur_is_in_pixels_of_the_working_scale():
    edge = np.zeros((21, 101, 3), np.uint8)
    edge[:, 50:] = 255
    narrow, wide = (apply_insult(edge, InsultKind.BLUR, (1.0,), working_px=px)[10, :, 0] for px in (1.0, 4.0))
    # Between 16 % and 84 % an edge blurred by sigma is two sigma wide.
    widths = [int(((row > 0.16 * 255) & (row < 0.84 * 255)).sum()) for row in (narrow, wide)]
    assert widths == [2, 8]


def camera(rgb, *setting):
    return apply_insult(rgb, InsultKind.CAMERA, (*setting, 100.0)).astype(int)


def test_light_falls_off_is_tinted_and_flickers():
    def lit(*setting):
        return apply_insult(GREY, InsultKind.LIGHT, setting).astype(int)

    assert (lit(0, 0, 0, 0) == GREY).all()
    dark = lit(0.5, 0, 0, 0)
    assert dark.max() == pytest.approx(200, abs=2)
    assert dark[-1, 0, 1] == pytest.approx(100, abs=8)  # the farthest corner
    tinted = lit(0, 0.2, 0, 0)
    assert tinted[0, 0] == pytest.approx((200, 200, 160), abs=3)
    assert tinted[0, -1] == pytest.approx((160, 200, 200), abs=3)
    rows = lit(0, 0, 0.1, 2)[:, :, 1]
    assert (rows == rows[:, :1]).all()
    assert (rows.min(), rows.max()) == (160, 200)


def test_a_camera_stretches_levels_to_black_and_white():
    ramp = np.tile(np.linspace(80, 200, 256).astype(np.uint8)[None, :, None], (64, 1, 3))
    stretched = camera(ramp, 0.05, 1, 0, 0)
    assert (stretched[:, 0].max(), stretched[:, -1].min()) == (0, 255)
    assert stretched[32, 128, 1] == pytest.approx(127, abs=4)


def test_a_camera_saturates_colours_and_keeps_hue_and_value():
    assert camera(np.full((32, 32, 3), (200, 150, 175), np.uint8), 0, 1.5, 0, 0)[16, 16] == pytest.approx(
        (200, 125, 162), abs=3
    )
    assert camera(np.full((32, 32, 3), (200, 20, 110), np.uint8), 0, 1.5, 0, 0)[16, 16] == pytest.approx(
        (200, 0, 100), abs=4
    )


def test_a_camera_draws_halos_and_noise():
    edge = np.full((40, 60, 3), 100, np.uint8)
    edge[:, 30:] = 200
    sharp = camera(edge, 0, 1, 1.5, 0)[20, :, 1]
    assert sharp.max() > 220
    assert sharp.min() < 80
    # colours at half resolution average the noise of red and blue
    assert 5 < camera(GREY, 0, 1, 0, 10)[..., 1].std() < 10
    assert (camera(GREY, 0, 1, 0, 0) == 200).all()


@pytest.mark.parametrize("kind", list(InsultKind))
def test_insults_leave_the_picture_that_they_got_alone(kind):
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    before = picture.copy()
    hurt = apply_insult(picture, kind, EXTREMES[kind][0], 1.0)
    assert hurt.dtype == np.uint8
    assert (picture == before).all()
    assert hurt.shape != picture.shape or (hurt != picture).any()


def smear_of_discs():
    """Eight red cells, two of them overlapping, and a nucleus on yellowish ground; what they let through."""
    white, red, nucleus = np.array([240, 235, 230]), np.array([0.9, 0.7, 0.75]), np.array([0.3, 0.2, 0.6])
    rgb = np.tile(white.astype(float), (160, 160, 1))
    for row, col in ((30, 30), (30, 75), (30, 120), (75, 30), (120, 30), (120, 75), (120, 120), (120, 132)):
        cell = np.zeros((160, 160), np.uint8)
        cv2.circle(cell, (col, row), 15, 1, -1)
        rgb[cell > 0] *= red
    cv2.circle(rgb, (95, 75), 14, (white * nucleus).tolist(), -1)
    return np.rint(rgb).astype(np.uint8), white


def test_restaining_gives_red_cells_and_nuclei_other_colours_and_leaves_the_background():
    rgb, white = smear_of_discs()
    brown = (205, 175, 140, 105, 60, 150)
    stained = apply_insult(rgb, InsultKind.RESTAIN, brown).astype(int)
    np.testing.assert_allclose(stained[5, 5], white, atol=3)
    np.testing.assert_allclose(stained[30, 30], white * np.array(brown[:3]) / 255, atol=8)
    np.testing.assert_allclose(stained[75, 95], white * np.array(brown[3:]) / 255, atol=8)
    np.testing.assert_allclose(stained[120, 126], white * (np.array(brown[:3]) / 255) ** 2, atol=10)


def test_without_nuclei_all_is_red_cells():
    rgb, white = smear_of_discs()
    rgb[58:92, 78:112] = white
    stained = apply_insult(rgb, InsultKind.RESTAIN, (205, 175, 140, 105, 60, 150)).astype(int)
    np.testing.assert_allclose(stained[120, 126], white * (np.array((205, 175, 140)) / 255) ** 2, atol=10)
