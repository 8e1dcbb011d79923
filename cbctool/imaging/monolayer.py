"""Which tiles of a whole slide can be counted: those where the cells lie side by side."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.background import estimate_background
from cbctool.imaging.quality import assess_field
from cbctool.imaging.segment import working_copy
from cbctool.imaging.stain import DENSITY_UNIT, optical_density
from cbctool.records import CROP_PX, Field, FieldResult, FieldSummary, Scale, ScaleSource, TileUse, Unfit


@dataclass(frozen=True)
class MonolayerOptions:
    """Where cells lie side by side.

    Attributes
    ----------
    min_cover, max_cover : float
        Share of the tile under cells. Discs laid down at random without overlap jam at 0.547 (Feder, J Theor Biol 1980,
        87, 237) and a perfect hexagonal layer has 0.907; halfway cells must lie on one another. Below a quarter of the
        jamming limit, in the feathered edge, red cells lose their pallor and leukocytes are dragged and broken.
        Checked, not fitted: 64 real fields chosen by people lie between 0.29 and 0.65.
    max_overlap : float
        Largest share of red-cell area in clumps. Cells that merely touch are a clump too, and fields that people chose
        reach 1 (median 0.77 of 25 BCCD fields), so that by default cover alone decides.
    glance_um_per_px : float
        Scale of the copy on which a tile is looked at before it is analysed: 0.09 s where analysis takes 1.2-2.7.
    glance_margin : float
        What lies this far outside ``min_cover`` and ``max_cover`` there is not analysed. Cover at 0.5 um/px was 0.000
        to 0.014 above that at 0.25 on 15 rendered tiles from feathered edge to thick.
    darkest_background_od : float
        Where a tile's background is darker than the slide's by this optical density, it is none: cells cover it all. A
        monolayer averages as much, cells included; scanners' light is even within 0.02 or so.
    blank_um : float
        A place with next to nothing within a square of this side, five red cells, is blank. ``max_cover`` is held
        against the rest of the tile, so that half a tile of thick smear beside half of bare glass is no monolayer.
    blank_od : float
        Optical density (green) of what is there, that of the faintest cell bodies in a field's quality.
    """

    min_cover: float = 0.14
    max_cover: float = 0.72
    max_overlap: float = 1.0
    glance_um_per_px: float = 0.5
    glance_margin: float = 0.02
    darkest_background_od: float = 0.1
    blank_um: float = 40.0
    blank_od: float = 0.025


def set_aside(
    field: Field,
    given_um_per_px: float | None = None,
    white: float | None = None,
    options: MonolayerOptions | None = None,
) -> FieldResult | None:
    """Tell at a glance, by its cover, that a tile lies outside the monolayer: its result without cells.

    None where it may lie inside or has no scale, and has to be analysed. In the thick part of a smear there are more
    cells than in all of its monolayer, and none of them is counted.

    Parameters
    ----------
    field : Field
        A tile as :func:`read_tile` gives it.
    given_um_per_px : float, optional
        Scale of the level read, as given by the user.
    white : float, optional
        Level of the slide's own white (green, 0-255), see :func:`slide_white`.
    options : MonolayerOptions, optional

    Returns
    -------
    FieldResult or None
    """
    options = options or MonolayerOptions()
    um_per_px = given_um_per_px or field.um_per_px
    if um_per_px is None:
        return None
    began = time.perf_counter()
    background = estimate_background(field.rgb)
    small = working_copy(field.rgb, um_per_px, options.glance_um_per_px)
    density = optical_density(background.apply(small))
    outside = background.surround_small
    quality = assess_field(field.rgb, background.white_level, density, options.glance_um_per_px, surround=outside)
    if white and background.white_level[1] < white * 10**-options.darkest_background_od:
        quality = replace(quality, fit=False, reason=Unfit.TOO_THICK.since("no background can be seen"), cell_cover=1.0)
    own = min(1.0, quality.cell_cover / max(1e-6, 1.0 - _blank_share(density[..., 1], options)))
    if own > options.max_cover + options.glance_margin:
        quality = replace(quality, cell_cover=own)
    low, high = options.min_cover - options.glance_margin, options.max_cover + options.glance_margin
    if low <= quality.cell_cover <= high:
        return None
    (use,) = choose_monolayer(np.array([quality.cell_cover]), np.array([0.0]), np.array([True]), options)
    height, width = field.rgb.shape[:2]
    summary = FieldSummary(
        name=field.name,
        height_px=height,
        width_px=width,
        scale=Scale(um_per_px, ScaleSource.GIVEN if given_um_per_px else ScaleSource.METADATA),
        quality=replace(quality, fit=False, reason=quality.reason or use.value),
        area_mm2=height * width * float(1.0 - outside.mean()) * um_per_px**2 / 1e6,
        row_px=field.row_px,
        col_px=field.col_px,
        warnings=field.warnings,
    )
    none = np.empty((0, CROP_PX, CROP_PX, 3), np.uint8)
    return FieldResult(summary, (), none, np.empty(0, np.int64), (), {"glance": time.perf_counter() - began})


def _blank_share(green: NDArray[Any], options: MonolayerOptions) -> float:
    """Share of a tile (density at ``glance_um_per_px``) that is bare glass."""
    there = (green > DENSITY_UNIT * options.blank_od).astype(np.float32)
    side = max(1, round(options.blank_um / options.glance_um_per_px))
    local = cv2.blur(there, (side, side))
    return float(np.mean(local < options.min_cover / 2))


def choose_monolayer(
    cover: NDArray[Any], overlap: NDArray[Any], fit: NDArray[Any], options: MonolayerOptions | None = None
) -> tuple[TileUse, ...]:
    """Decide which tiles count, from what analysis measured in each.

    Parameters
    ----------
    cover, overlap : (N,) float arrays
        ``FieldQuality.cell_cover`` and ``overlap`` of each tile; a cover that is NaN makes it unfit.
    fit : (N,) bool array
    options : MonolayerOptions, optional

    Returns
    -------
    tuple of TileUse
        One per tile; only ``COUNTED`` ones go into the differential.
    """
    options = options or MonolayerOptions()
    uses = []
    for here, clumped, usable in zip(cover.tolist(), overlap.tolist(), fit.tolist(), strict=True):
        if math.isfinite(here) and here < options.min_cover:
            uses.append(TileUse.TOO_THIN)
        elif here > options.max_cover or clumped > options.max_overlap:
            uses.append(TileUse.TOO_THICK)
        elif not usable or math.isnan(here):
            uses.append(TileUse.UNFIT)
        else:
            uses.append(TileUse.COUNTED)
    return tuple(uses)
