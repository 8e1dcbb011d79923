"""Red cells: what absorbs and is no nucleated cell, taken apart where cells touch or overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import disk, fill_holes, split_clump


@dataclass(frozen=True)
class RedCellOptions:
    """How red cells are told and taken apart."""

    min_um2: float = 8.0
    hole_um2: float = 25.0
    min_seed_radius_um: float = 2.0
    saddle: float = 0.85


def find_red_cells(
    density: NDArray[Any], foreground: NDArray[Any], cell_labels: NDArray[Any], um: float, options: RedCellOptions
) -> NDArray[Any]:
    """Label red cells; (h, w) int32, from 1."""
    mask = foreground * (cell_labels == 0).astype(np.uint8)
    mask = fill_holes(mask, options.hole_um2 / um**2)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(0.5 / um))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    out = np.zeros(labels.shape, np.int32)
    found = 0
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] * um**2 < options.min_um2:
            continue
        x, y, w, h = stats[label, :4]
        window = (slice(y, y + h), slice(x, x + w))
        parts = split_clump(labels[window] == label, options.min_seed_radius_um / um, options.saddle)
        out[window] += np.where(parts > 0, parts + found, 0)
        found += int(parts.max())
    return out
