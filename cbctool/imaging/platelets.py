"""Platelets, free or lying on red cells: small bodies of azure density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import connected_parts, part_windows
from cbctool.imaging.stain import DENSITY_UNIT, RedCellColour


@dataclass(frozen=True)
class PlateletOptions:
    """How platelets are told from fringes and dust.

    Azure densities in units of the field's red-cell density; percentiles of 203 platelets of PBC and BCCD.

    Attributes
    ----------
    min_azure_od : float
        Floor of the outline's density where red cells are very pale.
    level : float
        Density of the outline.
    min_peak : float
        Density of the body (90th percentile) that makes a platelet on empty ground; 5 % of platelets have less than
        1.05 (PBC), 1.6 (BCCD), 95 % of what is none less than 1.55, 1.14.
    min_peak_on_red : float
        The same on a red cell, where granules, parasites and folds are dark, too.
    ground : float
        Green density around it above which it lies on a red cell.
    min_thickness_um : float
        Radius of the largest circle inside; chromatic fringes are thinner.
    min_um2, max_um2 : float
        1.2: 1.25 um across; 30: a giant platelet of 6 um.
    min_um2_on_red : float
        Smaller spots on red cells are inclusions or dirt: the median platelet has 4.3.
    min_compactness : float
        Radius of the largest circle inside over that of a disc of the same area; 0.7 for a half disc cut by the edge.
        The azure rims of red cells and strings of precipitate have 0.5 and less, 99 % of platelets more than 0.63.
    nuclear_share : float
        A platelet is stained by what stains nuclei: azure is at least this much of its red and green density, in units
        of what it is in the field's nuclei. 99 % of 231 platelets of PBC and BCCD have more than 0.75; half of what is
        none in BCCD, made richer in azure, has less than 0.7: rims of red cells, where lens and stain are off. Between
        0.65 and 0.72, F1 goes from 0.856 to 0.869 (BCCD annotated again), from 0.889 to 0.882 (PBC).
    """

    min_azure_od: float = 0.04
    level: float = 0.6
    min_peak: float = 1.2
    min_peak_on_red: float = 1.8
    ground: float = 0.4
    min_thickness_um: float = 0.6
    min_um2: float = 1.2
    max_um2: float = 30.0
    min_um2_on_red: float = 3.0
    min_compactness: float = 0.56
    nuclear_share: float = 0.68


def find_platelets(
    azure: NDArray[Any],
    density: NDArray[Any],
    cell_labels: NDArray[Any],
    nuclei: NDArray[Any] | None,
    colour: RedCellColour,
    um: float,
    options: PlateletOptions,
) -> NDArray[Any]:
    """Label platelets outside nucleated cells.

    Parameters
    ----------
    azure : (h, w) uint8 array
        Azure density.
    density : (h, w, 3) uint8 array
        Optical density.
    cell_labels : (h, w) array
        Non-zero in nucleated cells and artefacts.
    nuclei : (h, w) bool array or None
        Nuclei of the nucleated cells; without any, colour is not compared.
    colour : RedCellColour
    um : float
        Micrometres per pixel.
    options : PlateletOptions

    Returns
    -------
    (h, w) int32 array
        Labels from 1.
    """
    red_level = colour.level
    least_share = 0.0 if nuclei is None else options.nuclear_share * _azure_share(azure, density, nuclei, colour)
    azure = cv2.medianBlur(azure, 3)
    green = cv2.extractChannel(density, 1)
    floor = options.min_azure_od * DENSITY_UNIT
    low = max(floor, options.level * red_level)
    mask = cv2.threshold(azure, low, 1, cv2.THRESH_BINARY)[1] & (cell_labels == 0)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    labels, area = connected_parts(mask, connectivity=8)
    count = len(area)
    place = np.flatnonzero(mask.view(bool))
    inside, is_dense = np.take(labels, place), np.take(azure, place) > options.min_peak * red_level
    dense = np.bincount(inside[is_dense], minlength=count) >= 0.1 * area
    fits = (area * um**2 >= options.min_um2) & (area * um**2 <= options.max_um2)
    kept = dense & fits
    kept[0] = False
    windows = part_windows(labels, mask) if kept.any() else {}
    for label in np.flatnonzero(kept).tolist():
        rows, cols = windows[label]
        window = (slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(cols.start - 2, 0), cols.stop + 2))
        here = (labels[window] == label).astype(np.uint8)
        # the nearest gap lies in the window, unless it lies beyond the picture
        thickness = float(cv2.distanceTransform(here, cv2.DIST_L2, 3).max())
        compact = thickness >= options.min_compactness * np.sqrt(area[label] / np.pi)
        if thickness * um < options.min_thickness_um or not compact:
            kept[label] = False
            continue
        if _azure_share(azure[window], density[window], here > 0, colour) < least_share:
            kept[label] = False
            continue
        ring = cv2.dilate(here, np.ones((5, 5), np.uint8)) > cv2.dilate(here, np.ones((3, 3), np.uint8))
        on_red = bool(ring.any()) and float(green[window][ring].mean()) > options.ground * red_level
        if on_red:
            peak = float(np.percentile(azure[window][here > 0], 90))
            large = area[label] * um**2 >= options.min_um2_on_red
            kept[label] = large and peak > options.min_peak_on_red * red_level
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    platelets = np.zeros_like(labels)
    platelets.ravel()[place] = np.take(numbers, inside)
    return platelets


def _azure_share(azure: NDArray[Any], density: NDArray[Any], mask: NDArray[Any], colour: RedCellColour) -> float:
    """Share of azure in the red and green density inside a mask, the rest being what red cells of that blue have."""
    inside = mask.view(np.uint8)
    stain, blue = cv2.mean(azure, inside)[0], cv2.mean(density, inside)[2]
    return stain / max(stain + colour.red_green_per_blue * blue, 1.0)
