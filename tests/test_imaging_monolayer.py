"""Tiles too thick or too thin to be counted."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from pyramids import smear

from cbctool.imaging.monolayer import MonolayerOptions, choose_monolayer, set_aside
from cbctool.records import Field, ScaleSource, TileUse


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
