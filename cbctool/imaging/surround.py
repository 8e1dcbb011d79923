"""What is no field: the black that surrounds it when a camera looks into an eyepiece."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LEVEL = 0.20
"""The surround is darker than this share of the field's light end in every channel; the darkest nuclei of BCCD, PBC and
ALL-IDB1 keep 0.3 in blue."""

_SHARE = 0.01
"""A dark border smaller than this share of the picture is left alone (it may be a cell), but for the corners."""

_STEEP = 0.9
"""Light that falls to less than this over 3 % of a picture is the rim of an eyepiece; vignetting falls by 0.95."""


def find_surround(rgb: Array) -> Array:
    """Mask of a black surround: the wall of the tube when a camera looks into an eyepiece.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array

    Returns
    -------
    (H, W) bool array
        Dark regions that touch the border: all beyond the field of a round eyepiece and its soft rim, else with a
        margin of 2 %. All False where there are none.
    """
    red, green, blue = cv2.split(rgb)
    brightest = cv2.max(cv2.max(red, green), blue)
    light_end = np.searchsorted(np.cumsum(np.bincount(brightest.ravel())), 0.95 * brightest.size)
    dark = (brightest < _LEVEL * light_end).astype(np.uint8)
    nothing = np.zeros(dark.shape, bool)
    if not dark.any():
        return nothing
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]  # where a wide eyepiece leaves little black
    large = [
        label
        for label in np.unique(border)
        if label != 0 and (label in corners or stats[label, cv2.CC_STAT_AREA] >= _SHARE * dark.size)
    ]
    if not large:
        return nothing
    mask = np.isin(labels, large).astype(np.uint8)
    round_field = _eyepiece(mask, brightest)
    if round_field is not None:
        return round_field
    margin = max(1, round(0.02 * max(mask.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return np.asarray(cv2.dilate(mask, kernel) > 0)


def _eyepiece(surround: Array, brightness: Array) -> Array | None:
    """What lies beyond the field of an eyepiece and its soft rim, (h, w) bool; None if the field is not round."""
    rim = cv2.dilate(surround, np.ones((3, 3), np.uint8)) - surround
    rim[[0, -1]] = rim[:, [0, -1]] = 0  # the picture's own edge is no rim
    y, x = (place.astype(np.float64) for place in np.nonzero(rim))
    on_circle = np.ones(len(x), bool)
    for _ in range(4):  # without what else is dark there
        if np.count_nonzero(on_circle) < 12:
            return None
        terms = np.stack([x, y, np.ones_like(x)], axis=1)[on_circle]
        across, down, rest = np.linalg.lstsq(terms, (x * x + y * y)[on_circle], rcond=None)[0]
        centre = (down / 2, across / 2)
        radius = math.sqrt(max(rest + centre[0] ** 2 + centre[1] ** 2, 0.0))
        off = np.abs(np.hypot(y - centre[0], x - centre[1]) - radius)
        on_circle = off < max(1.5, 0.03 * radius)
    if on_circle.mean() < 0.8 or radius > 2 * max(surround.shape):
        return None
    rows, cols = np.ogrid[: surround.shape[0], : surround.shape[1]]
    distance = np.hypot(rows - centre[0], cols - centre[1])
    if surround[distance < 0.9 * radius].sum() > 0.1 * surround.sum():
        return None  # something round and black at the border
    ring = distance.astype(int)
    lights = [brightness[ring == step] for step in range(int(radius) + 1)]
    light = [float(np.percentile(values, 90)) if len(values) else 0.0 for values in lights]
    inner = int(radius)
    while inner > max(3, 0.7 * radius) and light[inner] < _STEEP * light[inner - 3]:
        inner -= 1
    return np.asarray(distance > inner)


def border_of(outside: Array) -> tuple[int, int, int, int]:
    """Rows and columns at the top, bottom, left and right of a picture that are no field at all."""
    ends = (np.flatnonzero(~outside.all(axis=axis)) for axis in (1, 0))
    (top, bottom), (left, right) = (
        ((end[0], len(line) - 1 - end[-1]) if len(end) else (0, 0))
        for end, line in zip(ends, (outside, outside.T), strict=True)
    )
    return int(top), int(bottom), int(left), int(right)


def cropped(picture: Array, around: tuple[int, int, int, int]) -> Array:
    """A picture (h, w, ...) without its border."""
    top, bottom, left, right = around
    return picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
