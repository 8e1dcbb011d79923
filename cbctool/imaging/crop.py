"""The classifier's window: 19 um of normalised smear around a cell, as 28 x 28 pixels.

BloodMNIST is the central 200 x 200 pixels of a frame at 0.095 um/px, resized with Pillow's bicubic filter (Yang et al.
2023, doi 10.1038/s41597-022-01721-8). :func:`crop_windows` does the same at any scale: Pillow's filter widens with the
reduction, so that it also averages over the area that becomes a pixel, and its source box may lie between pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbctool.errors import CalibrationError
from cbctool.imaging.background import Background
from cbctool.imaging.background import normalise as normalise_field
from cbctool.imaging.pyramid import Pyramid
from cbctool.imaging.scale import estimate_scale
from cbctool.records import CROP_PX, CROP_UM, THUMBNAIL_PX, THUMBNAIL_UM

_WHITE = 255
_FEWEST_PX = 2.5
"""Pixels of the halved field that become one of the window's, at least: 99.9 % of the values of BCCD's 706 windows are
then within 1 of those cut at full size, for a quarter of the time."""

# Pillow's bicubic kernel reaches two source pixels, widened by the reduction; one spare pixel for the box's fraction.
_KERNEL_REACH = 2.0


def crop_windows(
    rgb: NDArray[Any] | Pyramid,
    centres: NDArray[Any],
    um_per_px: float,
    background: Background | None = None,
) -> NDArray[Any]:
    """Cut the classifier's windows out of a field with its background at white.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array or Pyramid
        Field with its background at white (:func:`~cbctool.imaging.background.normalise`); with ``background``, the
        field as photographed.
    centres : (N, 2) array
        Row and column of each cell's centre, pixels; (0, 0) is the centre of the first pixel.
    um_per_px : float
        Scale of ``rgb``, micrometres per pixel.
    background : Background, optional
        Of a field as photographed: only the windows are normalised.

    Returns
    -------
    (N, 28, 28, 3) uint8 array
        A window that passes the edge of the field is padded with white.
    """
    pyramid = Pyramid.of(rgb)
    _check(pyramid.rgb, um_per_px)
    level, _, zoom = pyramid.at(_FEWEST_PX * CROP_PX * um_per_px / CROP_UM)
    centres = (np.asarray(centres, dtype=float).reshape(-1, 2) + 0.5) * zoom - 0.5
    side = CROP_UM / um_per_px * zoom
    if background is not None and len(centres) * side**2 > level.shape[0] * level.shape[1]:
        level, background = background.apply(level), None
    crops = np.empty((len(centres), CROP_PX, CROP_PX, 3), np.uint8)
    for crop, (row, col) in zip(crops, centres, strict=True):
        crop[:] = _window(level, row, col, side, CROP_PX, background, zoom)
    return crops


def thumbnail_jpegs(
    rgb: NDArray[Any] | Pyramid, centres: NDArray[Any], um_per_px: float, quality: int = 85
) -> list[bytes]:
    """Cut 96 x 96 gallery pictures, 23.75 um wide, out of a field as photographed, one JPEG per centre."""
    pyramid = Pyramid.of(rgb)
    _check(pyramid.rgb, um_per_px)
    pictures = []
    level, _, zoom = pyramid.at(THUMBNAIL_PX * um_per_px / THUMBNAIL_UM)
    side = max(1, round(THUMBNAIL_UM / um_per_px * zoom))
    for row, col in (np.asarray(centres, dtype=float).reshape(-1, 2) + 0.5) * zoom:
        top, left = round(row - side / 2), round(col - side / 2)
        patch = _patch(level, top, left, top + side, left + side)
        window = cv2.resize(patch, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_LINEAR)
        blue_first = cv2.cvtColor(window, cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pictures.append(encoded.tobytes())
    return pictures


def prepare_picture(
    rgb: NDArray[Any], um_per_px: float | None = None, already_cropped: bool = False, normalise: bool = True
) -> NDArray[Any]:
    """Turn a picture of a single cell into the classifier's input, by the code that fields go through.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
        Picture with the cell at its centre.
    um_per_px : float, optional
        Its scale. Without it, the scale comes from the red cells around the cell.
    already_cropped : bool
        The whole picture is the window (BloodMNIST's own): it is only resized, and needs no scale.
    normalise : bool
        False where the background is already white.

    Returns
    -------
    (28, 28, 3) uint8 array

    Raises
    ------
    CalibrationError
        If there is neither a scale nor a way to find one.
    """
    _check(rgb, um_per_px or 1.0)
    if normalise:
        rgb = normalise_field(rgb).rgb
    height, width = rgb.shape[:2]
    if already_cropped:
        if (height, width) == (CROP_PX, CROP_PX):
            return np.array(rgb)
        return np.asarray(Image.fromarray(rgb).resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC))
    if um_per_px is None:
        estimate = estimate_scale(rgb)
        if estimate is None:
            raise CalibrationError(
                "The picture's scale is not known and it shows too few single red cells to measure it.",
                "Pass --um-per-px.",
            )
        um_per_px = estimate[0]
    return crop_windows(rgb, np.array([[(height - 1) / 2, (width - 1) / 2]]), um_per_px)[0]


def _check(rgb: NDArray[Any], um_per_px: float) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 picture, got {rgb.shape} {rgb.dtype}")
    if not um_per_px > 0:
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")


def _window(
    rgb: NDArray[Any],
    row: float,
    col: float,
    side: float,
    size: int,
    background: Background | None = None,
    zoom: float = 1.0,
) -> NDArray[Any]:
    """Resample the ``side`` px square centred on (row, col) to ``size`` x ``size``; white beyond the edge."""
    # A pixel covers [i, i + 1) for Pillow, while a centre of 0 is the middle of the first pixel.
    top, left = row + 0.5 - side / 2, col + 0.5 - side / 2
    reach = int(np.ceil(_KERNEL_REACH * max(side / size, 1.0))) + 1
    y0, x0 = int(np.floor(top)) - reach, int(np.floor(left)) - reach
    y1, x1 = int(np.ceil(top + side)) + reach, int(np.ceil(left + side)) + reach
    patch = _patch(rgb, y0, x0, y1, x1, background, zoom)
    box = (left - x0, top - y0, left - x0 + side, top - y0 + side)
    return np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BICUBIC, box=box))


def _patch(
    rgb: NDArray[Any],
    y0: int,
    x0: int,
    y1: int,
    x1: int,
    background: Background | None = None,
    zoom: float = 1.0,
) -> NDArray[Any]:
    """Cut out rows ``y0`` to ``y1`` and columns ``x0`` to ``x1``; white beyond the edge.

    ``rgb`` has ``zoom`` pixels for each of the field that ``background`` is of.
    """
    height, width = rgb.shape[:2]
    inside = np.ascontiguousarray(rgb[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)])
    if background is not None and inside.size:
        inside = background.apply(inside, max(y0, 0) / zoom, max(x0, 0) / zoom, zoom)
    if y0 >= 0 and x0 >= 0 and y1 <= height and x1 <= width:
        return inside
    patch = np.full((y1 - y0, x1 - x0, 3), _WHITE, np.uint8)
    ya, xa = max(-y0, 0), max(-x0, 0)
    patch[ya : ya + inside.shape[0], xa : xa + inside.shape[1]] = inside
    return patch
