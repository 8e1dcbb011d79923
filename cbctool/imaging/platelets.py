"""Platelets, free or lying on red cells: small bodies of azure density."""

from __future__ import annotations

import math
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
        Density of a tenth of the body that makes a platelet on empty ground; 5 % of platelets have less than
        1.05 (PBC), 1.6 (BCCD), 95 % of what is none less than 1.55, 1.14.
    dense_share : float
        Share of a body that has ``min_peak``.
    one_compactness : float
        What is more compact than this is one body; two discs that touch have 0.71.
    core : float
        Share of a body's own density (95th percentile) that its core has: half of it where it is blurred, the width
        that a lens leaves. What touches a platelet, the azure fringe of a red cell or another platelet, is paler.
    core_whole : float
        Least share of the core that platelets must make up, so that strings of precipitate are not cut into platelets.
    max_azure_around : float
        Azure density around it, above which it is a piece of a leukocyte: red cells have none.
    min_peak_on_red : float
        The same as ``min_peak`` on a red cell, where granules, parasites and folds are dark, too.
    ground : float
        Green density around it above which it lies on a red cell.
    min_thickness_um : float
        Radius of the largest circle inside; chromatic fringes are thinner.
    min_um2, max_um2 : float
        1.2: 1.25 um across; 30: a giant platelet of 6 um.
    min_um2_on_red : float
        Smaller spots on red cells are inclusions or dirt: the median platelet has 4.3. Half where cut by the edge.
    min_compactness : float
        Radius of the largest circle inside over that of a disc of the same area; 0.7 for a half disc cut by the edge.
        The azure rims of red cells and strings of precipitate have 0.5 and less, 99 % of platelets more than 0.63.
    nuclear_share : float
        A platelet is stained by what stains nuclei: azure is at least this much of its red and green density, in units
        of what it is in the field's nuclei. 99 % of 231 platelets of PBC and BCCD have more than 0.75; half of what is
        none in BCCD, made richer in azure, has less than 0.7: rims of red cells, where lens and stain are off. Between
        0.65 and 0.72, F1 goes from 0.880 to 0.890 (BCCD annotated again), from 0.891 to 0.885 (PBC).
    """

    min_azure_od: float = 0.04
    level: float = 0.6
    min_peak: float = 1.2
    dense_share: float = 0.1
    one_compactness: float = 0.75
    core: float = 0.45
    core_whole: float = 0.5
    max_azure_around: float = 1.0
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
    least_share = 0.0 if nuclei is None else options.nuclear_share * _azure_share(azure, density, nuclei, colour)
    azure = cv2.medianBlur(azure, 3)
    low = max(options.min_azure_od * DENSITY_UNIT, options.level * colour.level)
    mask = cv2.threshold(azure, low, 1, cv2.THRESH_BINARY)[1] & (cell_labels == 0)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    labels, area = connected_parts(mask, connectivity=8)
    place = np.flatnonzero(mask.view(bool))
    is_dense = np.take(azure, place) > options.min_peak * colour.level
    dense = np.bincount(np.take(labels, place)[is_dense], minlength=len(area))
    kept = dense * um**2 >= options.dense_share * options.min_um2
    windows = part_windows(labels, mask) if kept.any() else {}
    platelets, count = np.zeros_like(labels), 0
    for label in np.flatnonzero(kept).tolist():
        rows, cols = windows[label]
        window = (slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(cols.start - 2, 0), cols.stop + 2))
        body = (labels[window] == label).astype(np.uint8)
        here = (azure[window], density[window], least_share, colour, um, options)
        found = [body] if _is_platelet(body, *here) else []
        if _compactness(body) < options.one_compactness:
            cores, core_px = _cores(body, azure[window], options)
            parts = [core for core in cores if _is_platelet(core, *here)]
            explained = sum(map(cv2.countNonZero, parts)) >= options.core_whole * core_px
            if explained and (len(parts) > 1 or not found):
                found = parts
        for one in found:
            count += 1
            platelets[window][one > 0] = count
    return platelets


def _cores(body: NDArray[Any], azure: NDArray[Any], options: PlateletOptions) -> tuple[list[NDArray[Any]], int]:
    """The parts of a body (h, w) uint8 that are half as dense as it is, and the pixels of that half in all."""
    top = float(_percentile(azure[body > 0], 95))
    core = np.asarray(body & (azure > options.core * top), np.uint8)
    count, parts = cv2.connectedComponents(cv2.morphologyEx(core, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    return [(parts == part).astype(np.uint8) for part in range(1, count)], cv2.countNonZero(core)


def _compactness(body: NDArray[Any]) -> float:
    """Radius of the largest circle inside a body (h, w) uint8 over that of a disc of its area."""
    # the nearest gap lies in the window, unless it lies beyond the picture
    radius = float(cv2.distanceTransform(body, cv2.DIST_L2, 3).max())
    return radius / math.sqrt(max(cv2.countNonZero(body), 1) / math.pi)


def _percentile(values: NDArray[Any], percent: int) -> int:
    """As NumPy's, without interpolation: a tenth of its time for few values."""
    return int(np.sort(values)[percent * (len(values) - 1) // 100])


def _is_platelet(
    body: NDArray[Any],
    azure: NDArray[Any],
    density: NDArray[Any],
    least_share: float,
    colour: RedCellColour,
    um: float,
    options: PlateletOptions,
) -> bool:
    """Whether a body (h, w) uint8 is a platelet, by its size, shape and stain and by what lies around it.

    The window reaches two pixels beyond the body, or to the edge of the picture.
    """
    area = cv2.countNonZero(body)
    if not options.min_um2 <= area * um**2 <= options.max_um2:
        return False
    inside = azure[body > 0]
    if np.count_nonzero(inside > options.min_peak * colour.level) < options.dense_share * area:
        return False
    compactness = _compactness(body)
    thickness_um = compactness * math.sqrt(area / math.pi) * um
    if thickness_um < options.min_thickness_um or compactness < options.min_compactness:
        return False
    if _azure_share(azure, density, body > 0, colour) < least_share:
        return False
    ring = cv2.dilate(body, np.ones((5, 5), np.uint8)) > cv2.dilate(body, np.ones((3, 3), np.uint8))
    if not ring.any():
        return True
    if float(azure[ring].mean()) > options.max_azure_around * colour.level:
        return False
    if float(density[..., 1][ring].mean()) <= options.ground * colour.level:
        return True
    is_cut = body[[0, -1]].any() or body[:, [0, -1]].any()
    large = area * um**2 >= options.min_um2_on_red * (0.5 if is_cut else 1.0)
    return large and _percentile(inside, 90) > options.min_peak_on_red * colour.level


def _azure_share(azure: NDArray[Any], density: NDArray[Any], mask: NDArray[Any], colour: RedCellColour) -> float:
    """Share of azure in the red and green density inside a mask, the rest being what red cells of that blue have."""
    inside = mask.view(np.uint8)
    stain, blue = cv2.mean(azure, inside)[0], cv2.mean(density, inside)[2]
    return stain / max(stain + colour.red_green_per_blue * blue, 1.0)
