"""Pictures of what is not a cell of the eight classes, drawn from pictures of cells: smudge cells and stain debris.

Red cells and empty background come from the frames themselves; smudge and debris are rare there, so they are made. They
teach the network's ninth, silent output what "none of these" looks like (outlier exposure, Hendrycks et al. 2019, arXiv
1812.04606).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_BACKGROUND_DENSITY = 0.55
"""Optical density of green above which a pixel is no red cell (PBC's red cells have 0.35, nuclei 1 and more)."""


def smudge(canvas: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Smear a cell (S, S, 3) as the spreading of the film does: dragged, torn, its outline and cytoplasm lost."""
    side = canvas.shape[0]
    rows, cols = np.mgrid[:side, :side].astype(np.float32)
    shift = [_smooth(side, rng, side * rng.uniform(0.05, 0.12)) * side * rng.uniform(0.1, 0.25) for _ in range(2)]
    torn = cv2.remap(canvas, cols + shift[0], rows + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    length = int(rng.integers(side // 10, side // 4))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    for t in np.linspace(-0.5, 0.5, 2 * length):
        row, col = (length - 1) / 2 + t * (length - 1) * np.array([np.sin(angle), np.cos(angle)])
        kernel[round(row), round(col)] += 1
    return np.asarray(cv2.filter2D(torn, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101), np.uint8)


def debris(background: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Drop stain on a window (S, S, 3) without a nucleus: one to five ragged blots of one dye in the middle."""
    side = background.shape[0]
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    mask = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(1, 6))):
        row, col = rng.normal(0, side / 10, 2)
        radius = side * np.exp(rng.uniform(np.log(0.02), np.log(0.22)))
        stretch = np.exp(rng.normal(0, 0.5))
        distance = np.hypot((rows - row) * stretch, (cols - col) / stretch) / radius
        ragged = distance + rng.uniform(0.1, 0.6) * _smooth(side, rng, max(radius * rng.uniform(0.15, 0.6), 0.7))
        mask = np.maximum(mask, np.clip((1 - ragged) * rng.uniform(1.5, 8), 0, 1))
    dye = rng.uniform(0.2, 2.5) * np.array([rng.uniform(0.4, 1.1), 1.0, rng.uniform(0.2, 1.1)])
    density = mask[..., None] * dye * (1 + rng.uniform(0, 0.3) * _smooth(side, rng, 2.0)[..., None])
    return (background * np.exp(-density.clip(0))).round().astype(np.uint8)


def without_nucleus(canvas: NDArray[np.uint8], radius_px: float) -> bool:
    """True where the middle of a window shows at most red cells: nothing dark within ``radius_px`` of its centre."""
    side = canvas.shape[0]
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    green = canvas[..., 1][np.hypot(rows, cols) < radius_px]
    return bool(np.percentile(np.log(256.0 / (green + 1.0)), 98) < _BACKGROUND_DENSITY)


def _smooth(side: int, rng: np.random.Generator, sigma: float) -> NDArray[np.float32]:
    """Smooth noise (side, side) of unit variance."""
    field = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), float(sigma))
    return np.asarray(field / max(float(field.std()), 1e-6), np.float32)
