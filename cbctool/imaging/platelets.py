"""Platelets, free or lying on red cells: small bodies of azure density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import connected_parts, part_windows
from cbctool.imaging.stain import DENSITY_UNIT, RedCellColour


class Ground(NamedTuple):
    """What a platelet lies on, and what a body there must have to be one.

    Attributes
    ----------
    max_green, max_azure : float
        Densities in a rim around the body, in units of the field's red-cell density.
    min_peak : float
        Azure density of a tenth of the body, in the unit of :class:`PlateletOptions`.
    min_um2, least_um2 : float
        Smallest body; smallest that the edge of the picture cuts, or that is very dark.
    min_thickness_um : float
        Radius of the largest circle inside.
    """

    max_green: float
    max_azure: float
    min_peak: float
    min_um2: float
    least_um2: float
    min_thickness_um: float


@dataclass(frozen=True)
class PlateletOptions:
    """How platelets are told from fringes and dust.

    Azure densities in units of the field's red-cell density, or of a ``nuclear_azure``-th of its nuclei's where that is
    less: where eosin is strong, red cells are dense and platelets are not. Percentiles of 203 platelets of PBC and
    BCCD.

    Attributes
    ----------
    nuclear_azure : float
        Azure density of nuclei over the red cells' density: 98 % of the fields of BCCD, PBC and ALL-IDB1 have more
        than this.
    min_azure_od : float
        Floor of the outline's density where red cells are very pale.
    level : float
        Density of the outline.
    grounds : tuple of Ground
        From the emptiest on: the first whose ``max_green`` and ``max_azure`` the rim of a body keeps holds for it, and
        where none does it is a piece of a leukocyte: red cells have no such azure. On bare ground a small or pale body
        is no part of anything: 0.9 um2 are 1.1 um across, and two pixels 0.48 um. Near a red cell it may be its azure
        fringe, which is thin and pale: 5 % of platelets have a peak below 1.05 (PBC), 1.6 (BCCD), 95 % of what is none
        one below 1.55, 1.14. On a red cell granules, parasites, folds and dirt are dark, too, and smaller: the median
        platelet has 4.3 um2.
    max_um2 : float
        30: a platelet of 6 um; larger ones are giant.
    max_giant_um2, giant_compactness, giant_share : float
        A giant platelet, up to 9 um across, is whole, at least so compact, and at least so much stained as nuclei are:
        smudges are less compact (below 0.83 on ALL-IDB1), polychromatic red cells have 0.6 to 0.85 of the stain (PBC).
    dense_share : float
        Share of a body that must have ``min_peak``.
    dark : float
        What has this multiple of ``min_peak`` is very dark, as few folds and no dirt is.
    one_compactness : float
        What is more compact than this is one body; two discs that touch have 0.71.
    core : float
        Share of a body's own density (95th percentile) that its core has: half of it where it is blurred, the width
        that a lens leaves. What touches a platelet, the azure fringe of a red cell or another platelet, is paler.
    core_whole : float
        Least share of the core that platelets must make up, so that strings of precipitate are not cut into platelets.
    min_compactness : float
        Radius of the largest circle inside over that of a disc of the same area; 0.7 for a half disc cut by the edge.
        The azure rims of red cells and strings of precipitate have 0.5 and less, 99 % of platelets more than 0.63.
    nuclear_share : float
        A platelet is stained by what stains nuclei: azure is at least this much of its red and green density, in units
        of what it is in the field's nuclei. 99 % of 231 platelets of PBC and BCCD have more than 0.75; half of what is
        none in BCCD, made richer in azure, has less than 0.7: rims of red cells, where lens and stain are off. Between
        0.65 and 0.72, F1 goes from 0.880 to 0.890 (BCCD annotated again), from 0.891 to 0.885 (PBC).
    """

    nuclear_azure: float = 3.0
    min_azure_od: float = 0.04
    level: float = 0.6
    grounds: tuple[Ground, ...] = (
        Ground(max_green=0.25, max_azure=0.4, min_peak=0.9, min_um2=0.9, least_um2=0.9, min_thickness_um=0.45),
        Ground(max_green=0.4, max_azure=1.0, min_peak=1.2, min_um2=1.2, least_um2=1.2, min_thickness_um=0.6),
        Ground(max_green=math.inf, max_azure=1.0, min_peak=1.8, min_um2=3.0, least_um2=1.5, min_thickness_um=0.6),
    )
    max_um2: float = 30.0
    max_giant_um2: float = 60.0
    giant_compactness: float = 0.85
    giant_share: float = 0.9
    dense_share: float = 0.1
    dark: float = 2.0
    one_compactness: float = 0.75
    core: float = 0.45
    core_whole: float = 0.5
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
) -> tuple[NDArray[Any], NDArray[Any]]:
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
    labels : (h, w) int32 array
        From 1.
    on_red : (n + 1,) bool array
        Which of them lie on a red cell, by label.
    """
    nuclear, unit = 0.0, colour.level
    if nuclei is not None:
        nuclear = _azure_share(azure, density, nuclei, colour)
        if nuclei.any():
            unit = min(unit, cv2.mean(azure, nuclei.view(np.uint8))[0] / options.nuclear_azure)
    azure = cv2.medianBlur(azure, 3)
    low = max(options.min_azure_od * DENSITY_UNIT, options.level * unit)
    mask = cv2.threshold(azure, low, 1, cv2.THRESH_BINARY)[1] & (cell_labels == 0)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    labels, area = connected_parts(mask, connectivity=8)
    place = np.flatnonzero(mask.view(bool))
    is_dense = np.take(azure, place) > min(ground.min_peak for ground in options.grounds) * unit
    dense = np.bincount(np.take(labels, place)[is_dense], minlength=len(area))
    kept = dense * um**2 >= options.dense_share * min(ground.min_um2 for ground in options.grounds) / 2
    windows = part_windows(labels, mask) if kept.any() else {}
    platelets, on_red = np.zeros_like(labels), [False]
    for label in np.flatnonzero(kept).tolist():
        rows, cols = windows[label]
        window = (slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(cols.start - 2, 0), cols.stop + 2))
        body = (labels[window] == label).astype(np.uint8)
        here = (azure[window], density[window], nuclear, unit, colour, um, options)
        found = _platelets([body], *here)
        if _compactness(body) < options.one_compactness:
            cores, core_px = _cores(body, azure[window], options)
            parts = _platelets(cores, *here)
            explained = sum(cv2.countNonZero(part) for part, _ in parts) >= options.core_whole * core_px
            if explained and (len(parts) > 1 or not found):
                found = parts
        for one, ground in found:
            platelets[window][one > 0] = len(on_red)
            on_red.append(ground is options.grounds[-1])
    return platelets, np.array(on_red)


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


def _platelets(bodies: list[NDArray[Any]], *here: Any) -> list[tuple[NDArray[Any], Ground]]:
    """Those of some bodies of a window that are platelets, and what they lie on."""
    grounds = ((body, _ground(body, *here)) for body in bodies)
    return [(body, ground) for body, ground in grounds if ground is not None]


def _ground(
    body: NDArray[Any],
    azure: NDArray[Any],
    density: NDArray[Any],
    nuclear: float,
    unit: float,
    colour: RedCellColour,
    um: float,
    options: PlateletOptions,
) -> Ground | None:
    """What a body (h, w) uint8 lies on if it is a platelet, by its size, shape and stain and by what lies around it.

    ``nuclear`` is the share of azure in the field's nuclei, 0 where there are none; ``unit`` that of azure densities.
    The window reaches two pixels beyond the body, or to the edge of the picture.
    """
    area = cv2.countNonZero(body)
    if not 0 < area * um**2 <= options.max_giant_um2:
        return None
    is_giant = area * um**2 > options.max_um2
    is_cut = body[[0, -1]].any() or body[:, [0, -1]].any()
    compactness = _compactness(body)
    if compactness < (options.giant_compactness if is_giant else options.min_compactness) or (is_giant and is_cut):
        return None
    share = options.giant_share if is_giant else options.nuclear_share
    if _azure_share(azure, density, body > 0, colour) < share * nuclear:
        return None
    ring = (cv2.dilate(body, np.ones((5, 5), np.uint8)) > cv2.dilate(body, np.ones((3, 3), np.uint8))).view(np.uint8)
    around_green, around_azure = cv2.mean(density, ring)[1] / colour.level, cv2.mean(azure, ring)[0] / colour.level
    ground = next(
        (one for one in options.grounds if around_green <= one.max_green and around_azure <= one.max_azure), None
    )
    if ground is None or compactness * math.sqrt(area / math.pi) * um < ground.min_thickness_um:
        return None
    densest = area - math.ceil(options.dense_share * area)
    top = float(np.partition(azure[body > 0], densest)[densest])
    is_dark = top > options.dark * ground.min_peak * unit
    if area * um**2 < (ground.least_um2 if is_cut or is_dark else ground.min_um2):
        return None
    return ground if top > ground.min_peak * unit else None


def _azure_share(azure: NDArray[Any], density: NDArray[Any], mask: NDArray[Any], colour: RedCellColour) -> float:
    """Share of azure in the red and green density inside a mask, the rest being what red cells of that blue have."""
    inside = mask.view(np.uint8)
    stain, blue = cv2.mean(azure, inside)[0], cv2.mean(density, inside)[2]
    return stain / max(stain + colour.red_green_per_blue * blue, 1.0)
