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
    body = np.pad(np.asarray(mask) > 0, 1).astype(np.uint8)
    solid = body if bodies is None else body * (np.pad(np.asarray(bodies), 1) > 0)
    depth = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 5)
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
    return float(body.sum() / hull.sum())


def fill_holes(
    mask: NDArray[Any], max_px: float, likely: NDArray[Any] | None = None, likely_max_px: float = 0
) -> NDArray[Any]:
    """Fill the holes of a mask up to a size; larger ones where most of them is ``likely``.

    Parameters
    ----------
    mask : (h, w) uint8 array of 0 and 1
    max_px : float
        Holes up to this size are always filled.
    likely : (h, w) uint8 array of 0 and 1, optional
        Pixels that probably belong inside; a hole of them up to ``likely_max_px`` is filled too.

    Returns
    -------
    (h, w) uint8 array
    """
    count, labels = cv2.connectedComponents(1 - mask, connectivity=4)
    area = np.bincount(labels.ravel(), minlength=count)
    fill = area <= max_px
    if likely is not None:
        share = np.bincount(labels[likely > 0], minlength=len(area)) / np.maximum(area, 1)
        fill |= (area <= likely_max_px) & (share > 0.7)
    fill[0] = False
    return np.asarray(mask | fill[labels].astype(np.uint8))
