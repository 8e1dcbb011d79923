"""Bright and dark bands that a flickering lamp leaves on a picture from a rolling shutter (a phone's).

Rows are exposed one after another while the lamp's light goes up and down with the mains, so that whole rows (columns,
in a picture on its side) are lighter or darker. Bands of 6 % pass for red cells, which absorb as little.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FAINTEST = 0.016
"""Amplitude (RMS, density) from which bands are taken away: chance gives 0.011 in 2 % of fields without any, and bands
of 0.011 cost nothing yet."""

_SHARED = 0.5
"""Correlation of the two halves from which they are bands: the median is 0.9 where they are, 0.1 where they are not. A
cell that fills the picture shows in both halves; 0.4 % of PBC's pictures pass for banded, at 0.35 and 0.012 1.5 %."""

_NEAR = 0.04
"""Density about the light end within which a pixel is background."""

_SMALLEST = 48
"""Side, pixels, below which a picture may be a single cell's, which spans both halves."""

_ENOUGH = 4
"""Pixels that tell a row's level."""


def find_bands(residual: Array, candidate: Array) -> Array | None:
    """Find bands along the rows or the columns.

    They are told from cells by their length: the light ends of the left and the right half of each row, which no cell
    spans, go up and down together.

    Parameters
    ----------
    residual : (h, w) float array
        Logarithm of the level over that of a smooth background.
    candidate : (h, w) bool array
        What may be background.

    Returns
    -------
    (h, 1) or (1, w) float32 array, or None
        Logarithm of the light of each row or column over the mean; None where there are no bands.
    """
    if min(residual.shape) < _SMALLEST:
        return None
    for axis in (1, 0):
        halves = zip(np.array_split(residual, 2, axis), np.array_split(candidate, 2, axis), strict=True)
        one, two = (_light_ends(*half, axis) for half in halves)
        known = np.isfinite(one) & np.isfinite(two)
        if known.sum() < 3 * _ENOUGH:
            continue
        both = np.stack([one[known], two[known]])
        both = np.clip(both - np.median(both, axis=1, keepdims=True), -0.1, 0.1)
        (first, shared), (_, second) = np.cov(both)
        if shared > _FAINTEST**2 and shared > _SHARED * math.sqrt(first * second):
            return _levels(residual, candidate, axis)
    return None


def _levels(residual: Array, candidate: Array, axis: int) -> Array:
    """The background's level in each row or column against the mean, (h, 1) or (1, w)."""
    bands = np.expand_dims(_bridged(_light_ends(residual, candidate, axis)), axis)
    for _ in range(3):  # from the light end to the middle of the background
        rest = residual - bands
        near = candidate & (np.abs(rest) < _NEAR)
        total = near.sum(axis)
        means = np.where(total >= _ENOUGH, (rest * near).sum(axis) / np.maximum(total, 1), np.nan)
        bands = bands + np.expand_dims(_bridged(means), axis)
    return np.asarray(bands - bands.mean(), np.float32)


def _light_ends(residual: Array, candidate: Array, axis: int) -> Array:
    """The ninth decile of the candidates of each row or column, NaN where there are too few."""
    ordered = np.sort(np.where(candidate, residual, np.float32(-10.0)), axis)
    total = candidate.sum(axis, keepdims=True)
    place = residual.shape[axis] - 1 - (0.1 * total).astype(int)
    return np.asarray(np.where(total >= _ENOUGH, np.take_along_axis(ordered, place, axis), np.nan).squeeze(axis))


def _bridged(values: Array) -> Array:
    """Values with what is NaN interpolated, 0 where nothing is known."""
    known = np.isfinite(values)
    places = np.flatnonzero(known)
    return np.interp(np.arange(len(values)), places, values[known]) if len(places) else np.zeros(len(values))
