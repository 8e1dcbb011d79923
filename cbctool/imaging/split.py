"""Taking touching bodies apart by their waists, and filling what is inside them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def disk(radius_px: float) -> NDArray[Any]:
    """Elliptic structuring element of at least one pixel's radius."""
    radius = max(1, round(radius_px))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))


def connected_parts(mask: NDArray[Any], connectivity: int = 4) -> tuple[NDArray[Any], NDArray[Any]]:
    """Label the connected parts of a mask and count their pixels.

    Half the time of OpenCV's ``connectedComponentsWithStats``, whose boxes and centres are seldom wanted.

    Parameters
    ----------
    mask : (h, w) uint8 array
    connectivity : int
        4 or 8.

    Returns
    -------
    labels : (h, w) int32 array
        0 is what is not in the mask.
    area : (n + 1,) int array
        Pixels of each label, of 0 first.
    """
    count, labels = cv2.connectedComponents(mask, connectivity=connectivity)
    inside = labels.ravel()[np.flatnonzero(mask != 0)]
    area = np.bincount(inside, minlength=count)
    area[0] = labels.size - len(inside)
    return np.asarray(labels), area


def part_windows(labels: NDArray[Any], mask: NDArray[Any] | None = None) -> dict[int, tuple[slice, slice]]:
    """Smallest window around each label that occurs; what is 0 costs nearly nothing.

    Parameters
    ----------
    labels : (h, w) int array
    mask : (h, w) uint8 array of 0 and 1, optional
        1 where there are labels, if it is at hand: it is searched in less time.

    Returns
    -------
    mapping of int to (slice, slice)
        Rows and columns, by label.
    """
    place = np.flatnonzero(labels > 0 if mask is None else mask.view(bool))
    if len(place) == 0:
        return {}
    label = np.take(labels, place).astype(np.intp)
    top, bottom, left, right = extents(label, *np.divmod(place, labels.shape[1]))
    seen = np.flatnonzero(top >= 0)
    ends = (edge[seen].tolist() for edge in (top, bottom + 1, left, right + 1))
    return {
        number: (slice(top, bottom), slice(left, right))
        for number, top, bottom, left, right in zip(seen.tolist(), *ends, strict=True)
    }


def extents(label: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[Any]:
    """First and last row, first and last column of every label, (4, n + 1); of one that does not occur the first is -1.

    Parameters
    ----------
    label, rows, cols : (N,) int array
        Of labelled pixels, row after row down the picture.
    """
    ends = np.full((4, int(label.max(initial=0)) + 1), -1)
    top, bottom, left, right = ends
    # of what is written to one label the last stays
    top[label[::-1]], bottom[label] = rows[::-1], rows
    left[:] = 1 << 40  # more columns than any picture has
    np.minimum.at(left, label, cols)
    np.maximum.at(right, label, cols)
    return ends


def split_clump(
    mask: NDArray[Any], min_radius: float, saddle: float, bodies: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Split a clump of convex bodies where its waist is narrower than ``saddle`` of the thinner body.

    The waist and the bodies are read off the distance transform: a body is a maximum that every way to a higher one
    leaves through distances below ``saddle`` of its own (a relative h-maximum; Soille, Morphological Image Analysis,
    2003, ch. 6). Pixels go to the nearest body.

    Parameters
    ----------
    mask : (h, w) array
        One connected component, non-zero inside.
    min_radius : float
        Bodies whose inscribed circle is smaller, pixels, are no bodies of their own.
    saddle : float
        0-1; at 1 every local maximum is a body.
    bodies : (h, w) array, optional
        The mask less the gaps that are known to lie between bodies.

    Returns
    -------
    (h, w) int32 array
        Labels from 1; one label if there is nothing to split.
    """
    body = _framed(mask)
    depth = cv2.distanceTransform(body if bodies is None else body & _framed(bodies), cv2.DIST_L2, 5)
    size = 2 * max(1, int(min_radius / 2)) + 1
    peaks = (depth == cv2.dilate(depth, np.ones((size, size), np.uint8))) & (depth >= max(min_radius, 1.0))
    places = np.argwhere(peaks)
    if len(places) <= 1:
        return body[1:-1, 1:-1].astype(np.int32)
    seeds = np.zeros(body.shape, np.uint8)
    found = 0
    places = places[np.argsort(-depth[tuple(places.T)], kind="stable")]
    for row, col in places:
        if seeds[row, col]:
            continue
        _, plateau = cv2.connectedComponents((depth > saddle * depth[row, col]).astype(np.uint8), connectivity=4)
        here = plateau == plateau[row, col]
        if not seeds[here].any():
            found += 1
            seeds[here] = 1
    if found <= 1:
        return body[1:-1, 1:-1].astype(np.int32)
    nearest = cv2.distanceTransformWithLabels(1 - seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)[1]
    return np.asarray(np.where(body > 0, nearest, 0)[1:-1, 1:-1].astype(np.int32))


def _framed(mask: NDArray[Any]) -> NDArray[Any]:
    """A mask as 0 and 1, uint8, in a frame of zeros one pixel wide."""
    body = (np.asarray(mask) != 0).view(np.uint8)
    return np.asarray(cv2.copyMakeBorder(body, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0))


def solidity(mask: NDArray[Any]) -> float:
    """Area of a mask over that of its convex hull, 0-1, both by pixels; 1 for an empty mask.

    Parameters
    ----------
    mask : (h, w) array
        Non-zero inside; may have several parts.

    Returns
    -------
    float
    """
    body = (np.asarray(mask) > 0).astype(np.uint8)
    contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 1.0
    hull = cv2.fillConvexPoly(np.zeros_like(body), cv2.convexHull(np.concatenate(contours)), 1)
    return cv2.countNonZero(body) / cv2.countNonZero(hull)


def fill_holes(
    mask: NDArray[Any], max_px: float, likely: NDArray[Any] | None = None, likely_max_px: float = 0
) -> NDArray[Any]:
    """Fill the holes of a mask up to a size; larger ones where most of them is ``likely``.

    Parameters
    ----------
    mask : (h, w) uint8 array of 0 and 1
    max_px : float
        Holes up to this size, islands in them left out, are always filled.
    likely : (h, w) uint8 array of 0 and 1, optional
        Pixels that probably belong inside; a hole of them up to ``likely_max_px`` is filled too.

    Returns
    -------
    (h, w) uint8 array
    """
    # framed, so that background at the edge of the picture is a hole, too
    filled = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    outlines, nesting = cv2.findContours(filled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for outline, parent in zip(outlines, nesting[0, :, 3].tolist(), strict=True):
        if parent < 0:
            continue
        left, top, width, height = cv2.boundingRect(outline)
        if (width - 2) * (height - 2) > max_px:
            # connected pixels are at least as many as their box is long and wide, less one
            if width + height - 5 > max(max_px, likely_max_px):
                continue
            body = cv2.drawContours(
                np.zeros((height, width), np.uint8), [outline], 0, 1, cv2.FILLED, offset=(-left, -top)
            )
            hole = cv2.subtract(body, filled[top : top + height, left : left + width])[1:-1, 1:-1]
            area = cv2.countNonZero(hole)
            if area > max_px:
                if likely is None or area > likely_max_px:
                    continue
                if cv2.countNonZero(hole & likely[top : top + height - 2, left : left + width - 2]) <= 0.7 * area:
                    continue
        cv2.drawContours(filled, [outline], 0, 1, cv2.FILLED)
    return np.ascontiguousarray(filled[1:-1, 1:-1])
