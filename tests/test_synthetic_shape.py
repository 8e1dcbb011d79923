"""Shapes are depth maps in micrometres: their areas, unions and dents are those of geometry."""

from __future__ import annotations

import numpy as np
import pytest

from cbctool.synthetic.shape import DRAWING_UM_PER_PX, Paper, blob, dent, edge, ellipse, grains, join, noise, thread

PIXEL_UM2 = DRAWING_UM_PER_PX**2


def area(depth: np.ndarray) -> float:
    return float((depth > 0).sum()) * PIXEL_UM2


def test_a_smooth_blob_is_a_disc_and_stretching_keeps_its_area() -> None:
    paper, rng = Paper.of_size(16), np.random.default_rng(1)
    assert area(blob(paper, 4.0, rng, bumps=0.0)) == pytest.approx(np.pi * 16, rel=0.01)
    assert area(blob(paper, 4.0, rng, bumps=0.0, stretch=1.5)) == pytest.approx(np.pi * 16, rel=0.01)


def test_join_covers_both_shapes_and_dent_takes_one_away() -> None:
    paper = Paper.of_size(16)
    left, right = ellipse(paper, 0, -3, 2, 2, 0), ellipse(paper, 0, 3, 2, 2, 0)
    both = join([left, right], 0.1)
    assert ((both > 0) >= ((left > 0) | (right > 0))).all()
    assert not (dent(both, right, 0.1) > 0)[right > 0.3].any()


def test_a_thread_follows_its_points() -> None:
    paper = Paper.of_size(10)
    depth = thread(paper, np.array([[0.0, -3.0], [0.0, 3.0]]), 0.5)
    assert area(depth) == pytest.approx(6 * 1.0 + np.pi * 0.25, rel=0.03)


@pytest.mark.parametrize("grain_um", [0.2, 0.5, 3.0])
def test_noise_has_unit_scatter_and_the_asked_grain(grain_um: float) -> None:
    field = noise((300, 300), np.random.default_rng(2), grain_um)
    assert (field.mean(), field.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    # Autocorrelation of Gaussian-filtered noise at a lag of 2 sigma is exp(-1).
    lag = round(2 * grain_um / DRAWING_UM_PER_PX)
    assert (field[lag:] * field[:-lag]).mean() == pytest.approx(np.exp(-1), abs=0.25)


def test_edge_is_one_inside_and_zero_outside() -> None:
    assert edge(np.array([-1.0, 0.0, 1.0])).tolist() == [0.0, 0.5, 1.0]


def test_grains_stay_near_their_ground_and_none_is_an_empty_canvas() -> None:
    ground = np.zeros((60, 60), np.float32)
    ground[20:40, 20:40] = 1
    dots = grains(ground, np.random.default_rng(3), 5.0, 0.2)
    assert dots.max() > 0.8
    assert not dots[:12].any()
    assert not grains(np.zeros((60, 60), np.float32), np.random.default_rng(3), 5.0, 0.2).any()
