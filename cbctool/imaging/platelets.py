"""Platelets, free or lying on red cells: small bodies of azure density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import disk
from cbctool.imaging.stain import DENSITY_UNIT


@dataclass(frozen=True)
class PlateletOptions:
    """How platelets are told from fringes and dust."""

    min_azure_od: float = 0.06
    level: float = 0.6
    min_um2: float = 0.9
    max_um2: float = 30.0


def find_platelets(
    azure: NDArray[Any], cell_labels: NDArray[Any], red_level: float, um: float, options: PlateletOptions
) -> NDArray[Any]:
    """Label platelets outside nucleated cells; (h, w) int32, from 1."""
    low = max(options.min_azure_od * DENSITY_UNIT, options.level * red_level)
    mask = ((cv2.medianBlur(azure, 3) > low) & (cell_labels == 0)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk(0.5 / um))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA] * um**2
    kept = (area >= options.min_um2) & (area <= options.max_um2)
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return np.asarray(numbers[labels])
