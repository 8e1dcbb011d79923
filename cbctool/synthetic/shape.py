"""Outlines and textures from which cells are drawn.

A shape is a depth map: distance inside its outline in micrometres, negative outside. Depth maps join, dent and warp
smoothly, which is what makes a nucleus look grown and not cut out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

DRAWING_UM_PER_PX = 0.1
"""Scale at which cells are drawn, um/px: finer than a 100x lens resolves (0.2 um), so that any field samples down."""

Map = NDArray[np.floating]


@dataclass(frozen=True)
class Paper:
    """The square on which one cell is drawn; its origin is the cell's centre.

    Attributes
    ----------
    row, col : (N, N) float32 array
        Coordinates, micrometres.
    """

    row: Map
    col: Map

    @classmethod
    def of_size(cls, size_um: float) -> Paper:
        half = round(size_um / 2 / DRAWING_UM_PER_PX)
        axis = (np.arange(-half, half, dtype=np.float32) + 0.5) * np.float32(DRAWING_UM_PER_PX)
        col, row = np.meshgrid(axis, axis)
        return cls(row, col)

    def moved(self, row_um: float, col_um: float) -> Paper:
        """Return the paper with its origin at (row_um, col_um)."""
        return Paper(self.row - np.float32(row_um), self.col - np.float32(col_um))

    def warped(self, rng: np.random.Generator, amount_um: float, grain_um: float) -> Paper:
        """Return the paper crumpled by ``amount_um`` (standard deviation) in folds of ``grain_um``."""
        return Paper(
            self.row + np.float32(amount_um) * noise(self.row.shape, rng, grain_um),
            self.col + np.float32(amount_um) * noise(self.row.shape, rng, grain_um),
        )


def noise(shape: tuple[int, ...], rng: np.random.Generator, grain_um: float) -> Map:
    """Return smooth noise of mean 0 and standard deviation 1 with a Gaussian correlation of ``grain_um`` (sigma)."""
    sigma = grain_um / DRAWING_UM_PER_PX
    # Coarse noise is drawn on a coarse grid: the blur's cost grows with sigma, and nothing finer survives it.
    step = max(1, int(sigma / 3))
    height, width = -(-shape[0] // step) + 8, -(-shape[1] // step) + 8
    white = rng.standard_normal((height, width), dtype=np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigma / step)
    if step > 1:
        smooth = cv2.resize(smooth, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    smooth = smooth[4 * step : 4 * step + shape[0], 4 * step : 4 * step + shape[1]]
    return (smooth - smooth.mean()) / max(float(smooth.std()), 1e-6)


def ramp(values: Map, low: float, high: float) -> Map:
    """Return 0 below ``low``, 1 above ``high``, and a smooth step between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def edge(depth: Map, width_um: float = 0.25) -> Map:
    """Return the coverage (0-1) of a shape whose outline is ``width_um`` soft."""
    return ramp(depth, -width_um / 2, width_um / 2)


def blob(
    paper: Paper, radius_um: float, rng: np.random.Generator, bumps: float = 0.04, stretch: float = 1.0, waves: int = 6
) -> Map:
    """Return the depth of a rounded outline.

    ``bumps`` is the standard deviation of the outline relative to the radius, over 2 to ``waves`` waves around;
    ``stretch`` the ratio of length to width (area kept), along a random direction.
    """
    angle = rng.uniform(0, np.pi)
    s = np.float32(np.sqrt(stretch))
    u = (paper.row * np.cos(angle) + paper.col * np.sin(angle)).astype(np.float32) / s
    v = (paper.col * np.cos(angle) - paper.row * np.sin(angle)).astype(np.float32) * s
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for k in range(2, waves + 1):
        amplitude = rng.normal() * bumps * 1.4 / k**0.5 / (waves - 1) ** 0.5
        outline += np.float32(amplitude) * np.cos(k * theta + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.float32(radius_um) * outline - np.hypot(u, v)


def ellipse(paper: Paper, row_um: float, col_um: float, length_um: float, width_um: float, angle: float) -> Map:
    """Return the depth of an ellipse with the given half-axes."""
    row, col = paper.row - np.float32(row_um), paper.col - np.float32(col_um)
    u = row * np.float32(np.cos(angle)) + col * np.float32(np.sin(angle))
    v = col * np.float32(np.cos(angle)) - row * np.float32(np.sin(angle))
    q = np.hypot(u / np.float32(length_um), v / np.float32(width_um))
    return (1 - q) * np.float32(min(length_um, width_um))


def thread(paper: Paper, points: NDArray[np.floating], radius_um: float) -> Map:
    """Return the depth of a thread of ``radius_um`` along ``points`` (N, 2) row/col."""
    depth = np.full(paper.row.shape, -1e3, np.float32)
    for (r0, c0), (r1, c1) in pairwise(points):
        length2 = max((r1 - r0) ** 2 + (c1 - c0) ** 2, 1e-9)
        t = np.clip(((paper.row - r0) * (r1 - r0) + (paper.col - c0) * (c1 - c0)) / length2, 0, 1)
        distance = np.hypot(paper.row - (r0 + t * (r1 - r0)), paper.col - (c0 + t * (c1 - c0)))
        depth = np.maximum(depth, radius_um - distance)
    return depth.astype(np.float32)


def join(depths: list[Map], blend_um: float = 0.3) -> Map:
    """Return the union of shapes, with necks of about ``blend_um`` where they meet."""
    k = np.float32(blend_um)
    top = np.maximum.reduce(depths)
    total = np.zeros_like(top)
    for depth in depths:
        total += np.exp((depth - top) / k)
    return top + k * np.log(total)


def dent(depth: Map, cut: Map, blend_um: float = 0.3) -> Map:
    """Return ``depth`` without ``cut``, with the corners rounded."""
    return -join([-depth, cut], blend_um)


def grains(coverage: Map, rng: np.random.Generator, per_um2: float, radius_um: float, spread: float = 0.25) -> Map:
    """Return round granules scattered over ``coverage``: 1 in the middle of a granule, 0 outside.

    Sizes vary by ``spread`` (relative standard deviation); a granule is centred where ``coverage`` exceeds one half.
    """
    inside = np.flatnonzero(coverage > 0.5)
    count = int(rng.poisson(per_um2 * inside.size * DRAWING_UM_PER_PX**2))
    canvas = np.zeros(coverage.shape, np.float32)
    if count == 0 or inside.size == 0:
        return canvas
    rows, cols = np.unravel_index(rng.choice(inside, count), coverage.shape)
    radii = radius_um * np.clip(rng.normal(1, spread, count), 0.4, 2.0) / DRAWING_UM_PER_PX
    shift = 4  # cv2 draws with 4 fractional bits
    stamp = np.zeros(coverage.shape, np.uint8)
    for row, col, radius in zip(rows, cols, radii, strict=True):
        centre = (int((col + rng.uniform()) * 16), int((row + rng.uniform()) * 16))
        cv2.circle(stamp, centre, max(8, int(radius * 16)), 255, -1, cv2.LINE_AA, shift)
    return cv2.GaussianBlur(stamp, (0, 0), 0.8).astype(np.float32) / 255
