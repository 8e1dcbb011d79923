"""Finding every cell of a field: nucleated cells with their nuclei, platelets, red cells, and what is none of these.

Everything is judged on a copy of the field at a fixed scale (0.25 um/px), in optical density, so that camera and
magnification do not matter. One picture carries the decision: the *azure density*, the density in red and green that
haemoglobin and eosin do not explain. Red cells absorb all three channels in a ratio of their own, which is measured in
every field; the thiazine dyes of a Romanowsky stain absorb red and green but hardly blue (Horobin & Walter 1987,
doi 10.1007/BF00494802), so that what is left after the red cells' share is taken away is nucleus, basophilic or granular
cytoplasm, and platelet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.records import CellKind

DENSITY_UNIT = 200.0
"""Grey levels per unit of optical density (log10) in the 8-bit density pictures: 255 is 1.275."""

_KIND_ORDER = (CellKind.NUCLEATED, CellKind.PLATELET, CellKind.ARTEFACT)


@dataclass(frozen=True)
class SegmentOptions:
    """Sizes in micrometres; densities as multiples of the field's own red cells where they can be.

    Attributes
    ----------
    working_um_per_px : float
        Scale at which cells are found. 0.25: a red cell is 30 px, a 1.5 um platelet 6 px.
    """

    working_um_per_px: float = 0.25
    min_foreground_od: float = 0.02
    foreground_share: float = 0.45
    min_nucleus_um2: float = 10.0
    min_platelet_um2: float = 0.9
    min_nucleated_um2: float = 18.0
    min_red_um2: float = 8.0
    min_seed_radius_um: float = 2.2
    saddle: float = 0.80


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in a field, at the working scale.

    Attributes
    ----------
    um_per_px : float
        Scale of the arrays below.
    px_per_row, px_per_col : float
        Pixels of the field per pixel of the arrays.
    density : (h, w, 3) uint8 array
        Optical density (R, G, B), ``DENSITY_UNIT`` levels per unit.
    azure : (h, w) uint8 array
        Azure density, same unit.
    cell_labels : (h, w) int32 array
        Nucleated cells, platelets and artefacts, from 1.
    nuclei : (h, w) bool array
        Nuclei of the nucleated cells.
    kinds : tuple of CellKind
        Kind of each label in ``cell_labels``, label 1 first.
    reasons : tuple of str
        Of the artefacts; "" for the others.
    red_labels : (h, w) int32 array
        Red cells, from 1.
    """

    um_per_px: float
    px_per_row: float
    px_per_col: float
    density: NDArray[Any]
    azure: NDArray[Any]
    cell_labels: NDArray[Any]
    nuclei: NDArray[Any]
    kinds: tuple[CellKind, ...]
    reasons: tuple[str, ...]
    red_labels: NDArray[Any]
    red_od: float


_LEVELS = np.arange(256, dtype=float)
_DENSITY_OF_LEVEL = np.clip(np.rint(-np.log10((_LEVELS + 1) / 256) * DENSITY_UNIT), 0, 255).astype(np.uint8)


def working_copy(rgb: NDArray[Any], um_per_px: float, working_um_per_px: float) -> NDArray[Any]:
    """Resize a field to the working scale, averaging over area where it shrinks."""
    factor = um_per_px / working_um_per_px
    height, width = rgb.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR))


def segment(
    rgb: NDArray[Any], um_per_px: float, options: SegmentOptions | None = None, surround: NDArray[Any] | None = None
) -> Segmentation:
    """Find and tell apart the cells of a normalised field."""
    options = options or SegmentOptions()
    small = working_copy(rgb, um_per_px, options.working_um_per_px)
    um = um_per_px * float(np.sqrt(rgb.shape[0] * rgb.shape[1] / (small.shape[0] * small.shape[1])))
    density = cv2.GaussianBlur(align_channels(cv2.LUT(small, _DENSITY_OF_LEVEL)), (3, 3), 0)
    foreground, red_od = find_foreground(density, options)
    ratio = red_cell_ratio(density, foreground)
    azure = azure_density(density, ratio)
    cell_labels, nuclei, kinds, reasons = find_cells(azure, foreground, red_od, um, options)
    red_labels = find_red_cells(foreground, cell_labels, kinds, um, options)
    return Segmentation(
        um,
        rgb.shape[0] / small.shape[0],
        rgb.shape[1] / small.shape[1],
        density,
        azure,
        cell_labels,
        nuclei,
        kinds,
        reasons,
        red_labels,
        red_od,
    )


def align_channels(density: NDArray[Any]) -> NDArray[Any]:
    """Undo the lateral chromatic aberration of the lens: lay red and blue on green.

    On BCCD blue is displaced by 0.2 um, which paints an azure rim on every red cell; on ALL-IDB1 the magnification
    differs between channels. The displacement, a shift plus a difference in magnification, is the least-squares
    solution of the optical-flow equation (Lucas & Kanade 1981) over the edges of the red cells.

    Parameters
    ----------
    density : (h, w, 3) uint8 array

    Returns
    -------
    (h, w, 3) uint8 array
    """
    height, width = density.shape[:2]
    planes = list(cv2.split(density))
    # Every other row is enough: there are thousands of edge pixels.
    green = planes[1].astype(np.float32)
    slope_x = cv2.Sobel(planes[1], cv2.CV_16S, 1, 0)
    slope_y = cv2.Sobel(planes[1], cv2.CV_16S, 0, 1)
    edge = cv2.add(cv2.convertScaleAbs(slope_x), cv2.convertScaleAbs(slope_y)) > 16
    wide = cv2.blur(density, (9, 9))
    azure = wide[..., 0].astype(np.int16) + wide[..., 1] - wide[..., 2]
    absorbing = wide[..., 1] > 4
    edge &= absorbing
    if edge.sum() < 200:
        return density
    edge &= azure <= np.percentile(azure[edge], 60)
    rows, cols = np.nonzero(edge)
    step = max(1, len(rows) // 8000)
    rows, cols = rows[::step], cols[::step]
    dx, dy = slope_x[rows, cols] / 8.0, slope_y[rows, cols] / 8.0
    y, x = (rows - height / 2) / width, (cols - width / 2) / width
    for channel in (0, 2):
        local = wide[rows, cols, channel] / np.maximum(wide[rows, cols, 1].astype(float), 1)
        columns = (local * green[rows, cols], local * dx, local * dy, local * (dx * x + dy * y), np.ones(len(rows)))
        design = np.stack(columns, axis=1)
        target = planes[channel][rows, cols].astype(float)
        for _ in range(2):
            solution = np.linalg.lstsq(design, target, rcond=None)[0]
            residual = np.abs(target - design @ solution)
            kept = residual <= 3 * np.median(residual) + 1e-6
            design, target = design[kept], target[kept]
        if solution[0] < 0.3:  # this channel does not follow green: nothing to align
            continue
        shift_x, shift_y, grow = np.clip(solution[1:4] / solution[0], -1.5, 1.5)
        grow /= width
        back = np.array(
            [[1 - grow, 0, -shift_x + grow * width / 2], [0, 1 - grow, -shift_y + grow * height / 2]], dtype=np.float64
        )
        planes[channel] = cv2.warpAffine(
            planes[channel],
            back,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return np.asarray(cv2.merge(planes))


def find_foreground(density: NDArray[Any], options: SegmentOptions) -> tuple[NDArray[Any], float]:
    """Mask of everything that absorbs green, and the median density of it in levels."""
    green = density[..., 1]
    floor = options.min_foreground_od * DENSITY_UNIT
    counts = np.bincount(green.ravel(), minlength=256)[:256].astype(float)
    counts[: int(floor) + 1] = 0
    if counts.sum() < 50:
        return np.zeros(green.shape, np.uint8), floor
    red_od = float(np.searchsorted(np.cumsum(counts) / counts.sum(), 0.5))
    level = max(floor, options.foreground_share * red_od)
    return (green > level).astype(np.uint8), red_od


def red_cell_ratio(density: NDArray[Any], foreground: NDArray[Any]) -> float:
    """(red + green) density per blue density of the field's red cells: the commonest ratio of its foreground."""
    pixels = density[foreground > 0]
    red, green, blue = (pixels[:, channel].astype(np.float32) for channel in range(3))
    chosen = (blue >= 6) & (red + green < 110)
    if chosen.sum() < 100:
        return 2.3
    ratio = (red[chosen] + green[chosen]) / blue[chosen]
    counts, edges = np.histogram(ratio, bins=np.arange(0.5, 8.0, 0.1))
    smooth = np.convolve(counts, np.ones(5), mode="same")
    best = int(np.argmax(smooth))
    return float((edges[best] + edges[best + 1]) / 2)


def azure_density(density: NDArray[Any], ratio: float) -> NDArray[Any]:
    """Density in red and green that the red cells' absorption of blue does not explain, uint8."""
    return np.asarray(cv2.transform(density, np.array([[1.0, 1.0, -ratio]])))


def find_cells(
    azure: NDArray[Any], foreground: NDArray[Any], red_od: float, um: float, options: SegmentOptions
) -> tuple[NDArray[Any], NDArray[Any], tuple[CellKind, ...], tuple[str, ...]]:
    """Label nucleated cells, platelets and artefacts in the azure density."""
    smooth = cv2.medianBlur(azure, 3)
    low = max(0.06 * DENSITY_UNIT, 0.6 * red_od)
    mask = (smooth > low).astype(np.uint8)
    high = nuclear_threshold(smooth, low)
    nuclei = (smooth > high).astype(np.uint8)
    radius = max(1, round(0.5 / um))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    nuclear_area = np.bincount(labels[nuclei > 0], minlength=count) * um**2
    area = stats[:, cv2.CC_STAT_AREA] * um**2
    out = np.zeros(labels.shape, np.int32)
    kinds: list[CellKind] = []
    reasons: list[str] = []
    for label in range(1, count):
        if area[label] < options.min_platelet_um2:
            continue
        x, y, w, h = stats[label, :4]
        window = (slice(y, y + h), slice(x, x + w))
        here = labels[window] == label
        if nuclear_area[label] >= options.min_nucleus_um2 and area[label] >= options.min_nucleated_um2:
            filled = _fill(here)
            filled = cv2.morphologyEx(np.pad(filled, radius), cv2.MORPH_OPEN, kernel)[radius:-radius, radius:-radius]
            parts = split_clump(filled, options.min_seed_radius_um / um, options.saddle)
            for part in range(1, parts.max() + 1):
                chosen = parts == part
                if (chosen & (nuclei[window] > 0)).sum() * um**2 < options.min_nucleus_um2:
                    continue
                kinds.append(CellKind.NUCLEATED)
                reasons.append("")
                out[window][chosen] = len(kinds)
        elif area[label] < options.min_nucleated_um2:
            kinds.append(CellKind.PLATELET)
            reasons.append("")
            out[window][here] = len(kinds)
    nucleated = np.array([False] + [kind is CellKind.NUCLEATED for kind in kinds])
    return out, (nuclei > 0) & nucleated[out], tuple(kinds), tuple(reasons)


def nuclear_threshold(azure: NDArray[Any], low: float) -> float:
    """Otsu's threshold between cytoplasm and nuclei, over the pixels above ``low``."""
    pixels = azure[azure > low]
    if pixels.size < 50:
        return 2 * low
    level, _ = cv2.threshold(pixels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return max(2 * low, float(level))


def split_clump(mask: NDArray[Any], min_radius: float, saddle: float) -> NDArray[Any]:
    """Split touching convex bodies where the mask's waist is narrower than ``saddle`` of the thinner body.

    Parameters
    ----------
    mask : (h, w) array
        One connected component, non-zero inside.
    min_radius : float
        Bodies whose inscribed circle is smaller, pixels, are no bodies of their own.
    saddle : float

    Returns
    -------
    (h, w) int32 array
        Labels from 1; one label if there is nothing to split.
    """
    mask = (np.pad(mask, 1) > 0).astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    top = float(depth.max())
    if top == 0:
        return np.zeros((mask.shape[0] - 2, mask.shape[1] - 2), np.int32)
    size = 2 * max(1, int(min_radius / 2)) + 1
    peaks = (depth == cv2.dilate(depth, np.ones((size, size), np.uint8))) & (depth >= min_radius)
    seeds = np.zeros(mask.shape, np.uint8)
    found = 0
    places = np.argwhere(peaks)
    places = places[np.argsort(-depth[tuple(places.T)], kind="stable")]
    for row, col in places:
        height = depth[row, col]
        _, plateau = cv2.connectedComponents((depth > saddle * height).astype(np.uint8), connectivity=4)
        here = plateau == plateau[row, col]
        if (seeds[here] > 0).any():
            continue
        found += 1
        seeds[here] = 1
    if found <= 1:
        return mask[1:-1, 1:-1].astype(np.int32)
    _, nearest = cv2.distanceTransformWithLabels(1 - seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    return np.asarray(np.where(mask > 0, nearest, 0)[1:-1, 1:-1].astype(np.int32))


def find_red_cells(
    foreground: NDArray[Any], cell_labels: NDArray[Any], kinds: tuple[CellKind, ...], um: float, options: SegmentOptions
) -> NDArray[Any]:
    """Label red cells: what absorbs and is not nucleated, split at its waists."""
    is_platelet = np.array([True] + [kind is CellKind.PLATELET for kind in kinds])
    mask = foreground * is_platelet[cell_labels].astype(np.uint8)
    mask = _fill_holes(mask, 25.0 / um**2)
    radius = max(1, round(0.5 / um))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    out = np.zeros(labels.shape, np.int32)
    found = 0
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] * um**2 < options.min_red_um2:
            continue
        x, y, w, h = stats[label, :4]
        window = (slice(y, y + h), slice(x, x + w))
        parts = split_clump(labels[window] == label, options.min_seed_radius_um / um, 0.85)
        out[window] += np.where(parts > 0, parts + found, 0)
        found += int(parts.max())
    return out


def _fill(mask: NDArray[Any]) -> NDArray[Any]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED))


def _fill_holes(mask: NDArray[Any], max_px: float) -> NDArray[Any]:
    """Fill holes up to ``max_px``: the central pallor of red cells."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= max_px
    small[0] = False
    return np.asarray(mask | small[labels].astype(np.uint8))
