"""Nucleated cells: the nucleus by its azure density, the cell around it by what its stain is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import connected_parts, disk, fill_holes, part_windows, solidity, split_clump
from cbctool.imaging.stain import DENSITY_UNIT
from cbctool.records import CellKind


@dataclass(frozen=True)
class NucleatedOptions:
    """How nucleated cells are told and taken apart.

    Levels are in units of the field's red-cell density. Chosen by eye on BCCD, PBC and ALL-IDB1.

    Attributes
    ----------
    min_azure_od : float
        Floor of the cell's outline where red cells are very pale. BCCD at half its density has a leukocyte F1 at
        IoU 0.5 of 0.96 with 0.04, 0.83 with 0.06.
    cell_level, eosin_level : float
        Azure and eosin density of the cell's outline. Medians of cytoplasm: 1.4 (BCCD) and up; eosinophil granules 0.7.
    nucleus_over_cell : float
        A nucleus is at least this much denser than the outline.
    min_nucleus_um2, min_cell_um2 : float
        10: the pyknotic nucleus of an erythroblast, 3.6 um across.
    close_um, open_um : float
        Radii that join grains and remove fringes.
    hole_um2, stained_hole_um2 : float
        Vacuoles, and pale but absorbing cytoplasm, that are filled.
    min_seed_radius_um : float
        Smallest inscribed circle of a cell: small lymphocytes have 3, lobes of a nucleus 2.
    saddle : float
        Waist over body at which touching cells part.
    gap_um, gap_depth : float
        Half-width and relative depth of the bright line between cells that press on each other.
    one_cell_um2, convex : float
        A body up to this size and solidity is one cell: monocytes reach 20 um across; two blasts of 10 um that overlap
        by a fifth have 0.94.
    widest_border : float
        Parts of a body that could be one cell share a border of at most this many widths of the smaller: 1 for convex
        bodies pressed flat; up to 1.12 for touching cells of the three sets, 1.35 and more between lobes.
    faint_gap_depths : tuple of float
        Shallower lines, as a blurred picture has them, that part a body if each part is a whole cell by itself.
    min_split_nucleus_um2 : float
        Two cells parted by a bright line in a body no larger have nuclei of at least this size.
    fused_um2, fused_convex, nuclear_saddle : float
        A body at least this large and less convex is tried for two cells that only their nuclei tell apart, by a waist
        of the nuclei narrower than ``nuclear_saddle`` of the thinner.
    fused_nucleus_um2, fused_nc, fused_part_convex : float
        They are two if each has a nucleus of this size, that fills this share of it, and is this convex: blasts pressed
        together. The halves of a monocyte, parted by the bay of its nucleus, have less of each: of 600 granulocytes and
        monocytes of PBC and 292 fields of BCCD none is parted.
    body_um, appendage_um2, appendage_thickness_um, neck : float
        What hangs on a cell: outside its opening by ``body_um``, as large and as thick as a platelet, on a neck
        narrower than itself.
    smudge_min_cells, smudge_hue, smudge_density, smudge_circularity, smudge_rim_um, smudge_rim : float
        See :func:`find_smudges`. On ALL-IDB1, 27 of 42 smudges, no blast of 282 and 4 of 134 other objects are called;
        with a ``smudge_rim`` of 1.15 two blasts more, with 0.98 two smudges less.
    platelet_um2, granulomere_um2, granulomere_density, granulomere_texture : float
        See :func:`large_platelets`. Of PBC's erythroblasts with so small a nucleus 98 % are denser than 3.4 times the
        red cells and 90 % scatter less than 0.08; nine in ten platelets are paler than 3.7 and scatter more than 0.09.
    """

    min_azure_od: float = 0.04
    cell_level: float = 0.6
    eosin_level: float = 0.45
    nucleus_over_cell: float = 2.0
    min_nucleus_um2: float = 10.0
    min_cell_um2: float = 18.0
    close_um: float = 0.5
    open_um: float = 0.75
    hole_um2: float = 4.0
    stained_hole_um2: float = 40.0
    min_seed_radius_um: float = 2.4
    saddle: float = 0.80
    gap_um: float = 0.75
    gap_depth: float = 0.3
    one_cell_um2: float = 230.0
    convex: float = 0.93
    min_split_nucleus_um2: float = 25.0
    widest_border: float = 1.25
    faint_gap_depths: tuple[float, ...] = (0.2, 0.12)
    fused_um2: float = 140.0
    fused_convex: float = 0.94
    nuclear_saddle: float = 0.88
    fused_nucleus_um2: float = 40.0
    fused_nc: float = 0.6
    fused_part_convex: float = 0.82
    body_um: float = 1.75
    appendage_um2: tuple[float, float] = (1.2, 16.0)
    appendage_thickness_um: float = 1.0
    neck: float = 1.0
    smudge_min_cells: int = 4
    smudge_hue: float = 0.88
    smudge_density: float = 0.88
    smudge_circularity: float = 0.8
    smudge_rim_um: float = 1.0
    smudge_rim: float = 1.02
    platelet_um2: float = 45.0
    granulomere_um2: float = 25.0
    granulomere_density: float = 4.0
    granulomere_texture: float = 0.075


def find_nucleated(
    azure: NDArray[Any],
    eosin: NDArray[Any],
    green: NDArray[Any],
    foreground: NDArray[Any],
    red_level: float,
    um: float,
    options: NucleatedOptions,
) -> tuple[NDArray[Any], NDArray[Any], list[CellKind], list[str]]:
    """Label nucleated cells and stained artefacts.

    Parameters
    ----------
    azure, eosin, green : (h, w) uint8 array
        Stain densities and density in green, ``DENSITY_UNIT`` levels per unit.
    foreground : (h, w) uint8 array
        1 where anything absorbs.
    red_level : float
        Green density of the field's red cells, levels.
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    labels : (h, w) int32 array
    nuclei : (h, w) bool array
    kinds : list of CellKind
        ``NUCLEATED`` or ``ARTEFACT``, label 1 first.
    reasons : list of str
    """
    azure = np.asarray(cv2.medianBlur(azure, 3))
    low = max(options.min_azure_od * DENSITY_UNIT, options.cell_level * red_level)
    low_eosin = max(options.min_azure_od * DENSITY_UNIT / 2, options.eosin_level * red_level)
    stained = np.asarray(cv2.bitwise_or(_above(azure, low), mostly(_above(eosin, low_eosin))))
    nuclei = _above(azure, nuclear_threshold(azure, low, options))
    stained = cv2.morphologyEx(stained, cv2.MORPH_CLOSE, disk(options.close_um / um))
    stained = fill_holes(stained, options.hole_um2 / um**2, foreground, options.stained_hole_um2 / um**2)
    stained = cv2.morphologyEx(stained, cv2.MORPH_OPEN, disk(options.open_um / um))

    # opened by a disk, what touches by corners alone is as rare as it is odd, and eight neighbours are found sooner
    clumps, area = connected_parts(stained, connectivity=8)
    nuclear_px = np.bincount(np.take(clumps, np.flatnonzero(nuclei.view(bool))), minlength=len(area))
    cells = (nuclear_px * um**2 >= options.min_nucleus_um2) & (area * um**2 >= options.min_cell_um2)
    cells[0] = False
    windows = part_windows(clumps, stained) if cells.any() else {}
    labels = np.zeros(clumps.shape, np.int32)
    kinds: list[CellKind] = []
    reasons: list[str] = []
    for clump in np.flatnonzero(cells).tolist():
        window = windows[clump]
        here = clumps[window] == clump
        lines = None
        # A convex body no larger than a leukocyte is one, whatever bright lines there are between its lobes.
        if area[clump] * um**2 <= options.one_cell_um2 and solidity(here) >= options.convex:
            parts = here.astype(np.int32)
        else:
            lines = bright_lines(green, window, um, options)
            parts = part_clump(here, nuclei[window], lines, um, options)
        nuclear = np.bincount(parts[nuclei[window] > 0], minlength=parts.max() + 1) * um**2
        for part in np.flatnonzero(nuclear >= options.min_nucleus_um2).tolist():
            if part == 0:
                continue
            mine = parts == part
            near = _near(mine)  # a part of a large clump is small
            cell = without_appendages(mine[near], um, options)
            seen = None if lines is None else lines[near]
            for single in part_by_nuclei(cell, nuclei[window][near], seen, um, options):
                kinds.append(CellKind.NUCLEATED)
                reasons.append("")
                labels[window][near][single] = len(kinds)
    return labels, nuclei.view(bool) & (labels > 0), kinds, reasons


def _near(mask: NDArray[Any]) -> tuple[slice, slice]:
    """The smallest window of an (h, w) mask that holds it, and a pixel more on every side where there is one."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)


def _above(plane: NDArray[Any], level: float) -> NDArray[Any]:
    """1 where an (h, w) uint8 plane exceeds a level, else 0; uint8."""
    return np.asarray(cv2.threshold(plane, level, 1, cv2.THRESH_BINARY)[1])


def mostly(mask: NDArray[Any]) -> NDArray[Any]:
    """Where most of 5 x 5 pixels are set: what a median of a plane, then a threshold give, in a fifth of the time.

    Parameters
    ----------
    mask : (h, w) uint8 array of 0 and 1

    Returns
    -------
    (h, w) uint8 array of 0 and 1
    """
    return _above(cv2.boxFilter(mask, -1, (5, 5), normalize=False, borderType=cv2.BORDER_REPLICATE), 12)


def bright_lines(
    green: NDArray[Any], window: tuple[slice, slice], um: float, options: NucleatedOptions
) -> NDArray[Any]:
    """How deep the bright lines are that cells leave between them where they press on each other.

    Parameters
    ----------
    green : (H, W) uint8 array
        Density in green of the field.
    window : (slice, slice)
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    (h, w) float32 array
        Of the window: share of the density on both sides that a line lacks, 0-1.
    """
    element = disk(options.gap_um / um)
    reach = len(element)
    top, left = max(window[0].start - reach, 0), max(window[1].start - reach, 0)
    around = green[top : window[0].stop + reach, left : window[1].stop + reach]
    closed = cv2.morphologyEx(around, cv2.MORPH_CLOSE, element)
    depth = (closed - around).astype(np.float32) / np.maximum(closed, 1)
    rows, cols = window[0].start - top, window[1].start - left
    return np.asarray(depth[rows:, cols:][: window[0].stop - window[0].start, : window[1].stop - window[1].start])


def part_clump(
    here: NDArray[Any], nuclei: NDArray[Any], lines: NDArray[Any], um: float, options: NucleatedOptions
) -> NDArray[Any]:
    """Part touching cells by their waists and by the bright lines between them, but not the lobes of one nucleus.

    Parameters
    ----------
    here : (h, w) bool array
    nuclei : (h, w) array
        Non-zero in nuclei.
    lines : (h, w) float32 array
        See :func:`bright_lines`.
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    (h, w) int32 array
        Labels from 1.
    """
    bodies = fill_holes((here & (lines <= options.gap_depth)).astype(np.uint8), options.hole_um2 / um**2)
    parts = split_clump(here, options.min_seed_radius_um / um, options.saddle, bodies)
    if parts.max() < 2:
        return parts
    if np.count_nonzero(here) * um**2 <= options.one_cell_um2:
        nuclear = np.bincount(parts[nuclei > 0], minlength=parts.max() + 1) * um**2
        small = nuclear[1:].min() < options.min_split_nucleus_um2
        if small or min(solidity(parts == part) for part in range(1, parts.max() + 1)) < options.convex:
            # A part with so small a nucleus, or so odd a shape, is a lobe and what lies round it: the waist decides.
            parts = split_clump(here, options.min_seed_radius_um / um, options.saddle)
    return joined_lobes(parts, um, options)


def joined_lobes(parts: NDArray[Any], um: float, options: NucleatedOptions) -> NDArray[Any]:
    """Join parts of one cell: convex bodies that press on each other share no more than the smaller one's width.

    Parameters
    ----------
    parts : (h, w) int32 array
        Labels from 1.
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    (h, w) int32 array
        Labels from 1, maybe with gaps.
    """
    count = int(parts.max()) + 1
    area = np.bincount(parts.ravel(), minlength=count)
    border = np.zeros((count, count))
    for one, other in ((parts[1:], parts[:-1]), (parts[:, 1:], parts[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        np.add.at(border, (one[meet], other[meet]), 1)
    # steps along rows and columns make a line of any direction 4 / pi times as long as it is
    border = np.pi / 4 * (border + border.T)
    for first, second in zip(*np.nonzero(np.triu(border)), strict=True):
        width = 2 * np.sqrt(min(area[first], area[second]) / np.pi)
        if border[first, second] > options.widest_border * width:
            together = area[first] + area[second]
            if together * um**2 <= options.one_cell_um2:
                parts = np.where(parts == second, parts.dtype.type(first), parts)
                area[first] = area[second] = together
    return parts


def find_smudges(
    density: NDArray[Any], labels: NDArray[Any], nuclei: NDArray[Any], um: float, options: NucleatedOptions
) -> NDArray[Any]:
    """Which nucleated cells are smudges: burst nuclei, spread out, ragged and redder than the field's other nuclei.

    Chromatin that has lost its cell takes up the stain evenly with its proteins: its red density falls more than its
    green. It has no cytoplasm either, whose rim would be bluer than the nucleus: what has a rim like the field's other
    cells, ``smudge_rim_um`` wide, is a pale cell. The comparison needs other nuclei, so that none is called where fewer
    than ``smudge_min_cells`` are seen. No hue alone will do: taking 3/4 of the lowest hue of PBC's nuclei for it, one
    leukocyte in 52 of BCCD was lost for two smudges found in 54 fields of ALL-IDB1.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    labels : (h, w) int32 array
        Nucleated cells, from 1 without gaps.
    nuclei : (h, w) bool array
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    (N,) bool array
        Label 1 first.
    """
    count = int(labels.max())
    smudged = np.zeros(count, bool)
    if count < options.smudge_min_cells:
        return smudged
    place = np.flatnonzero(nuclei)
    nuclear = np.take(labels, place)
    size = np.maximum(np.bincount(nuclear, minlength=count + 1)[1:], 1)
    red, green, _ = np.take(density.reshape(-1, 3), place, axis=0).T
    red = np.bincount(nuclear, red, count + 1)[1:] / size
    green = np.bincount(nuclear, green, count + 1)[1:] / size
    hue = red / np.maximum(green, 1.0)
    pale = red < options.smudge_density * np.median(red)
    reddish = hue < options.smudge_hue * np.median(hue)
    suspects = np.flatnonzero(pale & reddish).tolist()
    if not suspects:
        return smudged
    windows, blueness = part_windows(labels), _rim_blueness(density, labels, options.smudge_rim_um / um)
    rimless = blueness < options.smudge_rim * np.median(blueness)
    for index in suspects:
        rows, cols = np.nonzero(labels[windows[index + 1]] == index + 1)
        body = np.zeros((int(np.ptp(rows)) + 3, int(np.ptp(cols)) + 3), np.uint8)
        body[rows - rows.min() + 1, cols - cols.min() + 1] = 1
        contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        perimeter = sum(cv2.arcLength(contour, True) for contour in contours)
        ragged = 4 * np.pi * len(rows) < options.smudge_circularity * perimeter**2
        smudged[index] = ragged and rimless[index]
    return smudged


def large_platelets(
    density: NDArray[Any],
    labels: NDArray[Any],
    nuclei: NDArray[Any],
    red_level: float,
    um: float,
    options: NucleatedOptions,
) -> NDArray[Any]:
    """Which nucleated cells are large platelets.

    Their granules gather like a nucleus, and pass for one where a field shows none to compare with. They are no larger
    than a red cell; the smallest nuclei, those of erythroblasts, are dense and even, a heap of granules is neither. Of
    what the edge of the picture cuts nothing is said.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    labels : (h, w) int32 array
        Nucleated cells, from 1 without gaps.
    nuclei : (h, w) bool array
    red_level : float
        Green density of the field's red cells, levels.
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    (N,) bool array
        Label 1 first.
    """
    area = np.bincount(labels[labels > 0], minlength=int(labels.max()) + 1)[1:] * um**2
    found = np.zeros(len(area), bool)
    suspects = np.flatnonzero(area <= options.platelet_um2).tolist()
    windows = part_windows(labels) if suspects else {}
    for index in suspects:
        rows, cols = window = windows[index + 1]
        if min(rows.start, cols.start) == 0 or rows.stop == labels.shape[0] or cols.stop == labels.shape[1]:
            continue
        nucleus = ((labels[window] == index + 1) & nuclei[window]).view(np.uint8)
        if cv2.countNonZero(nucleus) * um**2 > options.granulomere_um2:
            continue
        # not its rim, which is half cytoplasm
        inside = cv2.erode(nucleus, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        mean, sigma = cv2.meanStdDev(density[window], mask=inside)
        is_pale = sum(cv2.mean(density[window], nucleus)[:3]) / 3 < options.granulomere_density * red_level
        found[index] = is_pale and sigma[0, 0] > options.granulomere_texture * mean[0, 0]
    return found


def _rim_blueness(density: NDArray[Any], labels: NDArray[Any], rim_px: float) -> NDArray[Any]:
    """Red over green density of each cell's rim, as a multiple of what it is inside, (N,); blue cytoplasm has more."""
    plane = labels.astype(np.float32)  # where the picture ends there is no rim
    rim = cv2.dilate(plane, disk(rim_px)) != cv2.erode(plane, disk(rim_px))
    part = (2 * labels + rim).ravel()
    count = 2 * int(labels.max()) + 2
    red, green = (np.bincount(part, density[..., channel].ravel(), count)[2:] + 1.0 for channel in (0, 1))
    hue = red / green
    return np.asarray(hue[1::2] / hue[::2])


def without_appendages(cell: NDArray[Any], um: float, options: NucleatedOptions) -> NDArray[Any]:
    """Drop from a cell's mask what hangs on it by a neck: platelets that touch it.

    Parameters
    ----------
    cell : (h, w) bool array
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    (h, w) bool array
    """
    radius = max(1, round(options.body_um / um))
    margin = radius + 1
    padded = cv2.copyMakeBorder(cell.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    body: NDArray[Any] = cv2.dilate(cv2.morphologyEx(padded, cv2.MORPH_OPEN, disk(radius)), np.ones((3, 3), np.uint8))
    hanging = cv2.bitwise_and(padded, 1 - body)
    pieces, sizes = connected_parts(hanging)
    kept = padded > 0
    for piece, area in enumerate((sizes[1:] * um**2).tolist(), start=1):
        if not options.appendage_um2[0] <= area <= options.appendage_um2[1]:
            continue
        here: NDArray[Any] = (pieces == piece).astype(np.uint8)
        neck = cv2.countNonZero(cv2.bitwise_and(cv2.dilate(here, np.ones((3, 3), np.uint8)), body)) / 2 * um
        thickness = 2 * float(cv2.distanceTransform(here, cv2.DIST_L2, 3).max()) * um
        if thickness >= options.appendage_thickness_um and neck <= options.neck * 2 * np.sqrt(area / np.pi):
            kept &= here == 0
    # what is thin everywhere hangs on nothing
    return np.asarray(kept[margin:-margin, margin:-margin]) if kept.any() else cell


def part_by_nuclei(
    cell: NDArray[Any], nuclei: NDArray[Any], lines: NDArray[Any] | None, um: float, options: NucleatedOptions
) -> list[NDArray[Any]]:
    """Part cells whose outlines have fused but whose nuclei have a waist between them.

    Parameters
    ----------
    cell : (h, w) bool array
        What passes for one cell.
    nuclei : (h, w) array
        Non-zero in nuclei.
    lines : (h, w) float32 array or None
        See :func:`bright_lines`; None where they were not asked for.
    um : float
        Micrometres per pixel.
    options : NucleatedOptions

    Returns
    -------
    list of (h, w) bool array
        The cell itself where it is one.
    """
    if np.count_nonzero(cell) * um**2 < options.fused_um2 or solidity(cell) > options.fused_convex:
        return [cell]
    if lines is not None:
        for depth in options.faint_gap_depths:
            bodies = fill_holes((cell & (lines <= depth)).astype(np.uint8), options.hole_um2 / um**2)
            parts = split_clump(cell, options.min_seed_radius_um / um, options.saddle, bodies)
            if parts.max() > 1 and (singles := _single_cells(parts, nuclei, um, options)):
                return singles
    nuclear: NDArray[Any] = np.pad((cell & (nuclei > 0)).astype(np.uint8), 1)
    nuclear = fill_holes(nuclear, options.stained_hole_um2 / um**2)
    nuclear = cv2.morphologyEx(nuclear, cv2.MORPH_OPEN, disk(options.open_um / um))
    parts = split_clump(nuclear, options.min_seed_radius_um / um, options.nuclear_saddle)
    if parts.max() < 2:
        return [cell]
    _, nearest = cv2.distanceTransformWithLabels(
        (parts == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(nearest.max()) + 1, np.int32)
    owner[nearest[parts > 0]] = parts[parts > 0]
    shares = np.where(cell, owner[nearest][1:-1, 1:-1], 0)
    return _single_cells(shares, nuclei, um, options) or [cell]


def _single_cells(
    parts: NDArray[Any], nuclei: NDArray[Any], um: float, options: NucleatedOptions
) -> list[NDArray[Any]]:
    """Parts, labels from 1, if each is a whole cell: convex, filled by a nucleus; else none."""
    if len(np.unique(joined_lobes(parts, um, options))) <= parts.max():
        return []
    singles = [parts == part for part in range(1, int(parts.max()) + 1)]
    for single in singles:
        nucleus = np.count_nonzero(single & (nuclei > 0))
        if nucleus * um**2 < options.fused_nucleus_um2 or nucleus < options.fused_nc * np.count_nonzero(single):
            return []
        if solidity(single) < options.fused_part_convex:
            return []
    return singles


def nuclear_threshold(azure: NDArray[Any], low: float, options: NucleatedOptions) -> float:
    """Azure density that parts nuclei from cytoplasm and platelets: Otsu's threshold over what is stained at all."""
    pixels = np.take(azure, np.flatnonzero(azure > low))
    if pixels.size < 50:
        return options.nucleus_over_cell * low
    level, _ = cv2.threshold(pixels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return max(options.nucleus_over_cell * low, float(level))
