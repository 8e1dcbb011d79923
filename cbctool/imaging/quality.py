"""How fit a field is to be counted: focus, exposure, emptiness, crowding. Measured always, judged by stated limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import connected_parts
from cbctool.records import RED_CELL_UM, FieldQuality, Unfit

Array = NDArray[Any]

_SOBEL_VARIANCE = 0.5
"""What the gradient filter and the pixel add to an edge's variance, square pixels: a perfect step reads 0.27 px."""

_FIRST_BLUR, _ADDED_BLUR = 1.0, 1.5
"""Sigma, pixels: the first keeps noise from passing for sharpness and is taken off again; the second is the measure."""

_MIN_PX = 8
"""A picture less high or wide has no edge that the filters below could measure."""

_EDGES_IN_PX, _BAND_PX = 75_000, 32
"""Edges are looked for in so many pixels of a larger picture, thousands of them, in bands over all of it."""

_COVER_IN_PX = 200_000
"""Cover and clumps of a picture with more pixels are judged on every second row and column."""


@dataclass(frozen=True)
class QualityOptions:
    """Limits beyond which a field is not counted.

    The worst of 292 BCCD, 54 ALL-IDB1 and 300 PBC fields stands in brackets: all of them are fit.

    Attributes
    ----------
    max_blur_um : float
        Edge spread (0.37). A platelet of 2 um loses 60 % of its contrast to a blur of 1 um, and the grain of chromatin
        is gone; sharp fields blurred by 1 um measure 0.75-0.95.
    max_outline_um : float
        Spread of the cells' outlines (0.64; 0.74 in pictures of one leukocyte). Far out of focus, where grain and grey
        levels are the sharpest there is, it tells alone, as it does where edges are few: fields blurred by 4 um measure
        1.3 and more.
    min_exposure : float
        Background level (0.40); below 0.15, fewer than 40 grey levels are left for everything that absorbs.
    max_clipped : float
        Share at full white or black (0.03). BCCD fields exposed twice over are at 0.96 and have lost their red cells;
        a picture whose background was whitened by software may well be at 0.6.
    min_cover : float
        Share of the field under anything (0.14); below, it is blank. One red cell covers 0.03 of a BCCD field.
    max_cover : float
        Above (0.76), there is no background left to tell one cell from the next.
    max_overlap, crowded_cover : float
        Share of red-cell area in clumps, and cover, that together are too thick (0.98 at 0.70): three layers of BCCD
        laid over each other have 1.0 at 0.83.
    body_density : float
        Green density (log10) at which a pixel counts as covered when the field's own bodies are paler than that.
    edge_px : int
        Edge pixels that a blur estimate needs.
    blurred_cover : float
        A field covered more than this has cells, and so has edges.
    """

    max_blur_um: float = 0.72
    max_outline_um: float = 0.9
    min_exposure: float = 0.15
    max_clipped: float = 0.95
    min_cover: float = 0.003
    max_cover: float = 0.88
    max_overlap: float = 0.97
    crowded_cover: float = 0.80
    body_density: float = 0.025
    edge_px: int = 8
    blurred_cover: float = 0.10


_OUTLINE_PX = 20
"""Fewer pixels are no outline: a platelet has as many."""

_SOBEL_GAIN = 8.0
"""What Sobel's filter gives for a slope of 1."""


def assess_field(
    rgb: Array,
    white_level: tuple[float, float, float],
    density: Array,
    um_per_px: float,
    nuclei: Array | None = None,
    nucleated: Array | None = None,
    surround: Array | None = None,
    options: QualityOptions | None = None,
    density_unit: float = 200.0,
) -> FieldQuality:
    """Measure a field's quality and say whether it is fit to be counted.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
        The field as photographed.
    white_level : tuple of float
        Level of its background (R, G, B), 0-255.
    density : (h, w, 3) uint8 array
        Optical density (log10, ``density_unit`` levels per unit) of the normalised field at a working scale.
    um_per_px : float
        Scale of ``density``.
    nuclei, nucleated : (h, w) bool array, optional
        Nuclei; nucleated cells, platelets and artefacts (everything that is not red cell).
    surround : array of bool, optional
        What is not field, at any size.
    options : QualityOptions, optional
    density_unit : float

    Returns
    -------
    FieldQuality
    """
    if not um_per_px > 0:
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")
    options = options or QualityOptions()
    every = 2 if density.shape[0] * density.shape[1] > _COVER_IN_PX else 1
    plane = density[..., 1]
    edges = _edges(plane)
    blur_um, most_blur_um = edge_spread(plane, options.edge_px, density_unit, edges) * um_per_px, options.max_blur_um
    outline_um = outline_spread(plane, options.body_density * density_unit, edges) * um_per_px
    if math.isnan(blur_um) or (outline_um > options.max_outline_um and outline_um > blur_um):
        blur_um, most_blur_um = outline_um, options.max_outline_um
    height, width = -(-density.shape[0] // every), -(-density.shape[1] // every)
    if every > 1:
        um_per_px *= every
        density = cv2.resize(density, (width, height), interpolation=cv2.INTER_NEAREST)
        nuclei, nucleated = (
            part if part is None else np.ascontiguousarray(part[::every, ::every]) for part in (nuclei, nucleated)
        )
    green = cv2.extractChannel(density, 1)
    level = _outline_level(green, options.body_density * density_unit)
    covered: Array = cv2.threshold(green, level, 1, cv2.THRESH_BINARY)[1]
    field_px = height * width
    if surround is not None and surround.any():
        outside = cv2.resize(surround.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        covered[outside > 0] = 0
        field_px = max(1, field_px - cv2.countNonZero(outside))

    cover = cv2.countNonZero(covered) / field_px
    red_cells = covered if nucleated is None else covered * ~nucleated
    overlap = clumped_share(red_cells, um_per_px)
    exposure = float(np.mean(white_level)) / 255.0
    clipped = _clipped_share(rgb)
    stain = (math.nan, math.nan, math.nan)
    if nuclei is not None and nuclei.any():
        red_od, green_od, blue_od, _ = cv2.mean(density, nuclei.astype(np.uint8))
        stain = (red_od / density_unit, green_od / density_unit, blue_od / density_unit)

    reason = ""
    if exposure < options.min_exposure:
        reason = Unfit.UNDEREXPOSED.since(f"the background is at {100 * exposure:.0f} % of full scale")
    elif clipped > options.max_clipped:
        reason = Unfit.OVEREXPOSED.since(f"{100 * clipped:.0f} % of the picture is at full white")
    elif cover < options.min_cover:
        reason = Unfit.BLANK.since("no cells in the field")
    elif cover > options.max_cover or (cover > options.crowded_cover and overlap > options.max_overlap):
        reason = Unfit.TOO_THICK.since(f"cells cover {100 * cover:.0f} % of the field")
    elif blur_um > most_blur_um:
        reason = Unfit.OUT_OF_FOCUS.since(f"edges are spread over {blur_um:.1f} um (limit {most_blur_um:g} um)")
    elif math.isnan(blur_um) and cover > options.blurred_cover:
        reason = Unfit.OUT_OF_FOCUS.since("something covers the field, but it has no edges")
    return FieldQuality(not reason, reason, blur_um, exposure, clipped, cover, overlap, stain)


class _Edges(NamedTuple):
    """A band of a picture, less two pixels around it; each (h - 4, w - 4)."""

    band: Array
    slope: Array
    slope_after: Array  # after more blur
    crest: Array  # where the slope is steepest, bool


def edge_spread(density: Array, edge_px: int = 8, unit: float = 1.0, edges: Sequence[_Edges] | None = None) -> float:
    """Width (sigma) of the sharpest edges of a picture, pixels.

    A known blur is added: where it lowers the slope of an edge little, the edge was blurred already. With the ratio R
    of slopes before and after a blur sigma, the edge's own sigma is ``sigma / sqrt(R**2 - 1)`` (Zhuo & Sim 2011,
    doi 10.1016/j.patcog.2011.03.009).

    Parameters
    ----------
    density : (h, w) array
    edge_px : int
        Fewer edge pixels give NaN.
    unit : float
        What is a density (log10) of 1 there.
    edges : sequence, optional
        The picture's, where they are known.

    Returns
    -------
    float
        Pixels; NaN where there are no edges.
    """
    sigma = _edge_spread(_edges(density) if edges is None else edges, edge_px, unit)
    if sigma > 2.5 and min(density.shape) >= 32:
        # The added blur has to be of the order of the edge's own, or the ratio tells nothing.
        half = cv2.resize(density.astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        coarse = 2.0 * _edge_spread(_edges(half), edge_px, unit)
        return sigma if math.isnan(coarse) else max(sigma, coarse)
    return sigma


def _edge_spread(edges: Sequence[_Edges], edge_px: int, unit: float) -> float:
    if not edges:
        return math.nan
    slope = np.concatenate([part.slope.ravel() for part in edges])
    slope_after = np.concatenate([part.slope_after.ravel() for part in edges])
    crest = np.concatenate([part.crest.ravel() for part in edges])
    sample = slope[:: max(1, slope.size // 20_000)]
    place = np.flatnonzero(crest & (slope > max(0.5 * _quantile(sample, 0.99), 0.005 * unit)))
    if len(place) < edge_px:
        return math.nan
    ratio = slope[place] / np.maximum(slope_after[place], 1e-6 * unit)
    variance = _ADDED_BLUR**2 / np.maximum(ratio**2 - 1.0, 1e-3) - _FIRST_BLUR**2 - _SOBEL_VARIANCE
    return math.sqrt(max(0.0, _quantile(variance, 0.3)))


def outline_spread(plane: Array, body_level: float, edges: Sequence[_Edges] | None = None) -> float:
    """Width (sigma) of the outlines of what lies in a picture: its depth over the slope that it rises with.

    Parameters
    ----------
    plane : (h, w) uint8 array
        Density.
    body_level : float
        Density below which nothing counts.
    edges : sequence, optional
        The picture's, where they are known.

    Returns
    -------
    float
        Pixels, of the steepest quarter of the outlines; NaN where nothing has any.
    """
    level = _outline_level(plane, body_level)
    depths: list[Array] = [np.empty(0, np.uint8)]
    slopes: list[Array] = [np.empty(0, np.float32)]
    for part in _edges(plane) if edges is None else edges:
        body = cv2.threshold(part.band, level, 1, cv2.THRESH_BINARY)[1]
        body = cv2.morphologyEx(body, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))  # no grain
        outline = cv2.erode(body, np.ones((3, 3), np.uint8)) < body
        depths.append(part.band[body > 0])
        slopes.append(part.slope[outline] / np.float32(_SOBEL_GAIN))
    depth, slope = np.concatenate(depths), np.concatenate(slopes)
    if len(slope) < _OUTLINE_PX:
        return math.nan
    # an edge of this depth, blurred by a Gaussian, rises by depth / (sqrt(2 pi) sigma) at its steepest
    return _quantile(depth, 0.5) / (math.sqrt(2 * math.pi) * max(_quantile(slope, 0.75), 1e-3))


def _quantile(values: Array, share: float) -> float:
    """The value below which a share of them lies; several times as fast as NumPy's, which interpolates."""
    place = round(share * (values.size - 1))
    return float(np.partition(values, place)[place])


def _edges(plane: Array) -> list[_Edges]:
    """Edges of a picture, or of as many bands of it as show enough; of none that is too small for the filters."""
    if min(plane.shape) < _MIN_PX:
        return []
    every = math.ceil(plane.size / _EDGES_IN_PX)
    bands = [plane]
    if every > 1:
        tops = range(0, len(plane) - _MIN_PX + 1, every * _BAND_PX)
        bands = [plane[top : top + _BAND_PX] for top in tops]
    edges = []
    for band in bands:
        first = cv2.GaussianBlur(band.astype(np.float32), (0, 0), _FIRST_BLUR)
        second = cv2.GaussianBlur(first, (0, 0), _ADDED_BLUR)
        slope, slope_after = (_slope(picture)[2:-2, 2:-2] for picture in (first, second))
        crest = slope >= cv2.dilate(slope, np.ones((3, 3), np.uint8))
        edges.append(_Edges(np.ascontiguousarray(band[2:-2, 2:-2]), slope, slope_after, crest))
    return edges


def clumped_share(mask: Array, um_per_px: float) -> float:
    """Share of a mask's area in pieces larger than 1.7 red cells; NaN if the mask is empty.

    Parameters
    ----------
    mask : (h, w) array
        Red cells: True or 1 inside.
    um_per_px : float

    Returns
    -------
    float
        0-1.
    """
    areas = connected_parts(mask.astype(np.uint8))[1][1:] * um_per_px**2
    areas = areas[areas > 5.0]  # platelets' remains and dust
    if areas.sum() == 0:
        return math.nan
    return float(areas[areas > 1.7 * math.pi / 4 * RED_CELL_UM**2].sum() / areas.sum())


def _slope(picture: Array) -> Array:
    """Magnitude of the gradient."""
    return np.asarray(cv2.magnitude(cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1)))


def _outline_level(green: Array, body_level: float) -> float:
    """Level of the outlines of what lies in the field: a third of its median density, and no less than given."""
    count = cv2.calcHist([green], [0], None, [256], [0, 256]).ravel()
    count[: math.floor(body_level) + 1] = 0
    total = np.cumsum(count)
    return max(body_level, 0.35 * int(np.searchsorted(total, total[-1] / 2)))


def _clipped_share(rgb: Array) -> float:
    """Share of pixels at full white or full black in all channels, on about 10,000 of them."""
    step = max(1, round(math.sqrt(rgb.shape[0] * rgb.shape[1] / 10_000)))
    size = (-(-rgb.shape[1] // step), -(-rgb.shape[0] // step))
    sample = cv2.resize(rgb, size, interpolation=cv2.INTER_NEAREST)
    white, black = cv2.inRange(sample, (254, 254, 254), (255, 255, 255)), cv2.inRange(sample, (0, 0, 0), (1, 1, 1))
    return (cv2.countNonZero(white) + cv2.countNonZero(black)) / white.size
