"""Augmentation: shapes, determinism, and that each drawn laboratory stays a picture of the same cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cbctool.classifier import outliers
from cbctool.classifier.augment import AugmentOptions, crowd, draw_spread, draw_swelling, geometry, light

NO = np.zeros(5, bool)
NONE_OF_30 = np.zeros(30, bool)
STILL = AugmentOptions(shrink=1.0, grow=1.0, stretch=1.0, shift_px=0.0, jpeg=0.0)
CLEAN = AugmentOptions(cast_od=0.0, overexposure=0.0, noise=0.0, edge=0.0)


def _cell(side: int = 84) -> np.ndarray:
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.full((side, side, 3), 250, np.uint8)
    picture[np.hypot(rows, cols) < side / 6] = (90, 40, 130)
    return picture


def test_shapes_and_determinism() -> None:
    cells = np.stack([_cell()] * 5)
    one, two = (
        light(torch.from_numpy(geometry(cells, NO, NO, 56.0, rng, AugmentOptions())), NO, rng, AugmentOptions())
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert one.shape == (5, 28, 28, 3)
    assert one.dtype == torch.uint8
    assert torch.equal(one, two)


def test_a_round_cell_turned_stays_where_it_is() -> None:
    turned = geometry(np.stack([_cell()] * 4), NO[:4], NO[:4], 56.0, np.random.default_rng(0), STILL)
    for picture in turned:
        dark = np.argwhere(picture[..., 1] < 120)
        np.testing.assert_allclose(dark.mean(axis=0), 27.5, atol=0.6)
        assert abs(len(dark) - np.pi * (84 / 6) ** 2) < 60


def test_shrinking_makes_cells_smaller_and_never_larger() -> None:
    rng = np.random.default_rng(0)
    pictures = geometry(np.stack([_cell()] * 30), NONE_OF_30, NONE_OF_30, 56.0, rng, replace(STILL, shrink=1.5))
    areas = (pictures[..., 1] < 120).sum(axis=(1, 2))
    assert areas.max() <= np.pi * 14**2 + 30
    assert areas.min() < 0.7 * areas.max()


def test_plain_crops_keep_their_colours() -> None:
    picture = np.full((3, 56, 56, 3), (200, 100, 150), np.uint8)
    out = light(torch.from_numpy(picture), ~NO[:3], np.random.default_rng(0), CLEAN)
    assert (out.int() - torch.tensor([200, 100, 150])).abs().max() <= 1


def test_white_background_stays_light_under_any_stain() -> None:
    white = torch.full((30, 56, 56, 3), 255, dtype=torch.uint8)
    assert light(white, NONE_OF_30, np.random.default_rng(0), CLEAN).min() > 245


def test_debris_darkens_and_a_smudge_is_spread() -> None:
    rng = np.random.default_rng(1)
    empty = np.full((84, 84, 3), 250, np.uint8)
    assert outliers.without_nucleus(empty, 10)
    dirty = outliers.debris(empty, rng)
    assert (dirty <= empty).all()
    assert (dirty < empty).any()
    smeared = outliers.smudge(_cell(), rng)
    assert smeared.shape == (84, 84, 3)
    assert (smeared != _cell()).mean() > 0.05
    assert not outliers.without_nucleus(_cell(), 10)


def test_platelets_do_not_grow_into_leukocytes() -> None:
    rng = np.random.default_rng(0)
    options = replace(STILL, grow=1.5, platelet_grow=1.0)
    pictures = geometry(np.stack([_cell()] * 30), np.arange(30) < 15, NONE_OF_30, 56.0, rng, options)
    areas = (pictures[..., 1] < 120).sum(axis=(1, 2))
    assert areas[:15].max() < np.pi * 14**2 + 30 < areas[15:].max()


def test_plain_crops_nearly_keep_their_size_and_their_sharpness() -> None:
    rng = np.random.default_rng(0)
    options = replace(STILL, shrink=2.0, grow=2.0)
    half = np.arange(30) < 15
    pictures = geometry(np.stack([_cell()] * 30), NONE_OF_30, half, 56.0, rng, options)
    areas = (pictures[..., 1] < 120).sum(axis=(1, 2)) / (np.pi * 14**2)
    assert abs(areas[:15] - 1).max() < 0.25
    assert abs(areas[15:] - 1).max() > 0.5
    square = np.full((30, 56, 56, 3), 255, np.uint8)
    square[:, 20:36, 20:36] = 80
    crops = light(torch.from_numpy(square), half, rng, replace(CLEAN, sharpen=2.0)).float()
    contrast = crops.std(dim=(1, 2, 3))
    assert contrast[:15].std() < 0.01 < contrast[15:].std()


def test_a_cell_dries_while_what_lies_around_it_stays() -> None:
    rng = np.random.default_rng(0)
    ringed = _cell()
    rows, cols = np.mgrid[:84, :84] - 41.5
    ringed[abs(np.hypot(rows, cols) - 40) < 1.5] = 0
    for factor in (1.0, 1.4, 0.7):
        picture = geometry(ringed[None], NO[:1], NO[:1], 84.0, rng, STILL, np.array([factor]))[0].astype(int)
        cell = np.sqrt((picture[..., 0] - picture[..., 1] > 25).sum() / np.pi)
        assert abs(cell - 56 / 6 / factor) < 0.6
        line = picture[28, :8, 1]
        assert abs(int(line.argmin()) - 27.5 + 40 * 56 / 84) < 1.5 or factor < 1


def test_platelets_and_plain_crops_do_not_dry_and_blasts_are_large() -> None:
    rng = np.random.default_rng(0)
    first, last = np.arange(30) < 10, np.arange(30) >= 20
    options = replace(STILL, dried=1.0)
    spread = draw_spread(first, last, rng, options)
    assert (spread[first | last] == 1).all()
    assert (spread[~(first | last)] != 1).all()
    assert (draw_swelling(20, rng, options) < 1 / 1.39).all()


def test_red_cells_come_near_a_cell_and_nuclei_do_not() -> None:
    rng = np.random.default_rng(0)
    others = np.full((4, 84, 84, 3), 255, np.uint8)
    others[:, 20:60, 20:40] = (230, 180, 200)
    others[:, 20:60, 50:70] = (90, 40, 130)
    crowded = crowd(np.stack([_cell()] * 4), others, 56.0, rng)
    assert (crowded == 180).any()
    rows, cols = np.mgrid[:84, :84] - 41.5
    radius = np.hypot(rows, cols)
    assert (crowded[:, radius < 13] == _cell()[radius < 13]).all()
    assert (crowded[:, radius > 15][..., 1] > 140).all()


def test_restained_cells_absorb_most_green_in_their_nuclei_and_keep_two_colours() -> None:
    densities = torch.zeros(64, 56, 56, 3)
    densities[:, :, :28] = torch.tensor([0.21, 0.30, 0.18])  # red cells of the training frames
    densities[:, :, 28:] = torch.tensor([0.88, 1.40, 0.35])  # nuclei
    pictures = (256 * torch.exp(-densities) - 1).round().to(torch.uint8)
    quiet = replace(
        CLEAN, restained=1.0, vivid=0.0, near=0.0, gamma=1.0, chroma=0.0, strength_low=1.0, strength_high=1.0
    )
    out = light(pictures, np.zeros(64, bool), np.random.default_rng(0), quiet)
    density = torch.log(256.0 / (out.float() + 1.0))
    red, nuclei = density[:, 14, 5], density[:, 14, 22]
    assert (nuclei[:, 1] > nuclei[:, 2]).all()
    assert (nuclei.mean(1) > red.mean(1)).float().mean() > 0.9
    hue = torch.log(red[:, 2] / red[:, 1])
    assert hue.std() > 0.3, "from grey-blue to orange"
    assert torch.corrcoef(torch.stack([hue, torch.log(nuclei[:, 2] / nuclei[:, 1])]))[0, 1].abs() < 0.3


def test_what_is_neither_stain_of_a_white_crop_stays_white() -> None:
    white = torch.full((30, 56, 56, 3), 255, dtype=torch.uint8)
    out = light(white, NONE_OF_30, np.random.default_rng(0), replace(CLEAN, restained=1.0))
    assert int(out.min()) >= 250
