"""Physical scale of a field: how large its red cells are."""

from __future__ import annotations

import bisect
import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.background import Background
from cbctool.imaging.pyramid import Pyramid, halved
from cbctool.imaging.split import fill_holes
from cbctool.records import RED_CELL_UM

logger = logging.getLogger(__name__)

Array = NDArray[Any]


@dataclass(frozen=True)
class RedCellOptions:
    """How red cells are recognised and measured, whatever the magnification.

    Attributes
    ----------
    cell_px : float
        Diameter at which cells are measured: every field is brought to it, so that the estimate does not depend on
        the size of the picture. 32 px is 0.23 um a pixel, about the resolution of the lens.
    window_px : int
        Longer side of the part that is looked at, at that resolution: some 50 cells, a standard error of 1 %.
    outline : float
        The outline is where the density falls to this share of the body's: on the visible edge of the cells of PBC.
        Half would lie 4 % further in, since the rim of a red cell is rounded.
    margin : float
        Diameter, as people draw it and as the constant of 7.5 um means it, over that of the outline. People's boxes
        are 1.03 times the outline's box on PBC, cell by cell; PBC alone set it (BCCD's are 1.10 times).
    hole : float
        A light spot smaller than this share of a cell is the pale middle of one: the gap between four that touch is
        0.27 (4 / pi - 1).
    core : float
        A cell's middle lies at least this share of the radius inside the outline of its clump.
    free, irregular : float
        The outline is free in at least this share of directions, and there its distances scatter less than that.
    strip : float
        Second harmonic of the distances over their mean, above which an outline may be that of a strip, which is free
        on two sides, too: the wall of a pale red cell's ring, a third as wide as the cell. An ellipse of 1 to 1.25 has
        0.11. Two cells, and half of all that pass, must have less.
    off_middle : float
        Scatter of the inscribed circle's middle about the cell's own, as a share of the radius. What an outline that
        is half hidden says about its middle is weighed against this.
    purple, purple_below, purple_cover : float
        (blue - red density) / green density below this is chromatin or a platelet, not haemoglobin. Medians: red
        cells +0.2 (BCCD), -0.06 (PBC), 0 (grey fields of ALL-IDB1); platelets -0.7, -0.4. A stain rich in azure, or
        a clipped blue channel, lowers all of them by up to 0.5: where the upper quartile of what absorbs is low
        itself, what lies ``purple_below`` under it is purple. Not where so little of the field is covered that it
        may be platelets alone.
    min_density : float
        Density that a body's outline must have at least (natural logarithm).
    max_red_density, max_green_density : float
        Densities that the haemoglobin of one cell never reaches: in green it has 0.1 to 0.4 on the three sets.
    channel, clearer : int, float
        In which outlines are read: green, which haemoglobin absorbs well and lenses draw best. Blue where green is
        clipped and blue less so, by this share of the background.
    usual_density, usual_blue_density, lost : float
        Where the background is clipped, a constant is lacking from all densities, the outline is that of what is left,
        and the diameter is too small: by ``lost`` times the share of the density that is lacking, on BCCD, PBC and
        ALL-IDB1 alike, exposed 1.03 to 1.2 times over. They have 0.2, 0.28 and 0.2 in green, two thirds
        of it in blue; the share is told from the usual density.
    max_clipped_density, clipped_cover : float
        There, no scale comes from fewer cells than ``enough_cells``, or of less of the blood's area than
        ``enough_area``. Bodies denser than the first, or a few where less of the field than the second is still
        covered, are nuclei and pieces.
    elongation : float
        A radius this much longer than a cell's short ones runs on into a neighbour.
    min_cells, enough_cells, many_cells : int
        Fewer cells give no scale (two may be two clumps); so many end the search for the magnification; so many need no
        second look.
    min_area, enough_area : float
        Share of the blood's area that cells must have for a scale, and to end the search. At the right magnification
        it is 0.1-0.9 on PBC, at half or twice that below 0.1, in few frames 0.2.
    clear_area, ring_widths, ring_area : float, tuple of float, float
        Cells with less of the blood's area may be pieces of the rings of red cells so many times as wide; they are if
        those have ``ring_area`` times as much. Of windows of 18 to 35 um cut out of PBC and BCCD at random, 31 had a
        scale half too large or more and 25 of them have none now, as 3 of 175 others that are as empty; of whole fields
        5 of 6, and 5 others.
    systematic : float
        Relative uncertainty that counting more cells does not remove: the mean diameter of people's red cells on dry
        smears is 7.2-7.5 um, and the margin is good to 3 %.
    max_uncertainty : float
        A scale less certain than this is none: cells that disagree so much are not all red cells.
    search_px : tuple of float
        Cell diameters looked for: 0.05-0.5 um/px, those of immersion objectives and full-size cameras first. Each finds
        cells from 0.75 to 1.4 times it.
    search_cell_px, search_window_px : float, int
        The search is made on copies where cells are only so wide, at a quarter of the cost.
    """

    cell_px: float = 32.0
    window_px: int = 320
    outline: float = 0.25
    margin: float = 1.03
    hole: float = 0.25
    core: float = 0.6
    free: float = 0.4
    irregular: float = 0.08
    strip: float = 0.12
    off_middle: float = 0.1
    purple: float = -0.25
    purple_below: float = 0.25
    purple_cover: float = 0.2
    min_density: float = 0.03
    max_red_density: float = 0.5
    max_green_density: float = 0.9
    channel: int = 1
    clearer: float = 0.05
    usual_density: float = 0.25
    usual_blue_density: float = 0.17
    lost: float = 0.125
    max_clipped_density: float = 0.4
    clipped_cover: float = 0.15
    elongation: float = 1.25
    min_cells: int = 3
    enough_cells: int = 4
    many_cells: int = 10
    min_area: float = 0.10
    enough_area: float = 0.25
    clear_area: float = 0.3
    ring_widths: tuple[float, ...] = (1.9, 2.4)
    ring_area: float = 1.5
    systematic: float = 0.03
    max_uncertainty: float = 0.2
    search_px: tuple[float, ...] = (90.0, 40.0, 60.0, 28.0, 135.0, 19.0, 200.0, 13.0)
    search_cell_px: float = 16.0
    search_window_px: int = 200


class RedCellScale(NamedTuple):
    """Scale of a field from its red cells."""

    um_per_px: float
    relative_uncertainty: float
    n_single_red_cells: int


def estimate_scale(
    rgb: Array | Pyramid,
    options: RedCellOptions | None = None,
    background: Background | None = None,
    near_um_per_px: float | None = None,
) -> RedCellScale | None:
    """Scale of a field from the diameter of its own red cells, 7.5 um.

    The picture is looked at as if its red cells were this or that wide, until round bodies of that width with the
    colour of haemoglobin are found; then they are measured where they are ``cell_px`` wide.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array or Pyramid
        Normalised field: background 255. With ``background``, the field as photographed.
    options : RedCellOptions, optional
    background : Background, optional
        Of the field. Only what is looked at is normalised then.
    near_um_per_px : float, optional
        Scale at which cells are looked for first, and nowhere else if they are found.

    Returns
    -------
    RedCellScale or None
        None if there are too few red cells with a free outline to tell.
    """
    options, rgb = options or RedCellOptions(), Pyramid.of(rgb)
    if background and background.is_clipped(1) and background.clipped[2] < background.clipped[1] - options.clearer:
        options = replace(options, channel=2, usual_density=options.usual_blue_density)
    zoom = _search(rgb, options, background, near_um_per_px)
    if zoom is None:
        return None
    cells = _NO_CELLS
    for _ in range(3):
        cells = _red_cells(rgb, zoom, options, background)
        if not cells.tell(options):
            return None
        middle = float(np.median(cells.diameters))
        if abs(zoom * middle / options.cell_px - 1.0) < 0.05:
            break
        zoom = options.cell_px / middle
    diameters, seen = cells.diameters, len(cells.diameters)
    if seen < options.many_cells:
        # Where cells are few, which of them pass hangs on single pixels: pool what is seen at zooms close by.
        near = [_red_cells(rgb, zoom * factor, options, background).diameters for factor in (0.9, 1.1)]
        diameters = np.concatenate([diameters, *near])
    if cells.share < options.clear_area and _larger_cells(rgb, zoom, cells.share, options, background):
        return None
    diameter = float(np.median(diameters))
    # Standard error of a median: 1.25 sigma / sqrt(n). Red cells of one person vary by 6-7 %, so a few that happen
    # to agree prove little; half an outline proves half as much as a whole one.
    sigma = max(0.06, 1.4826 * float(np.median(np.abs(diameters - diameter))) / diameter)
    uncertainty = math.hypot(1.2533 * sigma / math.sqrt(float(cells.free.sum())), options.systematic)
    if background and background.is_clipped(options.channel):
        few = seen < options.enough_cells or cells.share < options.enough_area
        bare = background.cover < options.clipped_cover and seen < options.many_cells
        if few or bare or cells.density > options.max_clipped_density:
            return None
        lacking = options.lost * max(0.0, 1.0 - cells.density / options.usual_density)
        diameter, uncertainty = diameter * (1.0 + lacking), math.hypot(uncertainty, lacking)
    if uncertainty > options.max_uncertainty:
        return None
    return RedCellScale(RED_CELL_UM / (diameter * options.margin), uncertainty, seen)


def _larger_cells(
    rgb: Pyramid, zoom: float, share: float, options: RedCellOptions, background: Background | None
) -> bool:
    """Whether larger discs are more of the blood: then the cells found at a zoom are pieces of their rings."""
    sizes = (_red_cells(rgb, zoom / larger, options, background) for larger in options.ring_widths)
    return any(found.share > options.ring_area * share for found in sizes)


class _RedCells(NamedTuple):
    """Red cells whose outlines can be seen: diameters in pixels of the field, free share of each outline, the share of
    the body's area that they are, which cannot be a piece of a ring, and the median density of all bodies."""

    diameters: Array
    free: Array
    share: float
    whole: Array
    density: float

    def tell(self, options: RedCellOptions) -> bool:
        """Whether they are enough for a scale: two at least, and half of them, beyond doubt."""
        enough = len(self.whole) >= options.min_cells
        return enough and bool(np.count_nonzero(self.whole) >= max(2, 0.5 * len(self.whole)))


_NO_CELLS = _RedCells(np.empty(0), np.empty(0), 0.0, np.empty(0, bool), 0.0)


def _search(
    rgb: Pyramid, options: RedCellOptions, background: Background | None, near_um_per_px: float | None
) -> float | None:
    """Zoom at which red cells are ``cell_px`` wide, found on copies where they are ``search_cell_px`` wide."""
    coarse = replace(options, cell_px=options.search_cell_px, window_px=options.search_window_px)
    longer = max(rgb.rgb.shape[:2])
    sizes = [size for size in options.search_px if size <= longer]
    near = 0.0 if near_um_per_px is None else RED_CELL_UM / (near_um_per_px * options.margin)
    if min(options.search_px) / 2 < near < longer:
        sizes.insert(0, near)
    best, diameter = 0.0, 0.0
    for size in sizes:
        found = _red_cells(rgb, coarse.cell_px / size, coarse, background)
        if not found.tell(options) or found.share < options.min_area:
            continue
        score = found.share * min(1.0, float(found.free.sum()) / options.enough_cells)
        if score > best:
            best, diameter = score, float(np.median(found.diameters))
            if diameter < 0.8 * size and len(found.diameters) >= options.many_cells:
                # near the smallest that count: the median is over the larger ones, 8 % too large at 0.12 um/px
                diameter *= 0.93
        enough = options.min_cells if size == near else options.enough_cells
        if len(found.diameters) >= enough and found.share > options.enough_area:
            break
    return options.cell_px / diameter if diameter else None


def _red_cells(rgb: Pyramid, zoom: float, options: RedCellOptions, background: Background | None) -> _RedCells:
    """Red cells about ``cell_px`` wide at a zoom.

    A cell's middle is where the outline of what is darker than the background is farthest all round. Its radius is the
    distance to the outline in those directions where the outline is the cell's own: not where it touches or laps over
    another, nor where the picture ends. A cell counts that shows enough of a circle.
    """
    small, zoom, surround = _looked_at(rgb, zoom, options.window_px, background)
    smooth = cv2.GaussianBlur(small, (3, 3), 0)
    level = _outline_level(smooth, options)
    if level is None:
        return _NO_CELLS
    body = _body(smooth, level, options)
    height, width = body.shape
    radius = options.cell_px / 2
    depth = cv2.distanceTransform(body, cv2.DIST_L2, cv2.DIST_MASK_5)
    # a slope that is too small to matter, so that a plateau has one top
    depth = cv2.GaussianBlur(depth, (3, 3), 0) + _slope(height, width)
    around = 2 * round(0.4 * radius) + 1
    peak = (depth >= cv2.dilate(depth, np.ones((around, around), np.uint8))) & (depth > options.core * radius)
    y, x = np.divmod(np.flatnonzero(peak & (depth < 1.5 * radius)), width)
    near = _blurred_half(small, round(0.5 * radius))
    high, wide = near.shape[:2]
    middle = near[np.minimum(y // 2, high - 1), np.minimum(x // 2, wide - 1)]
    red, green, blue = -np.log(np.maximum(middle, 1.0) / 255.0).T
    is_red = (red < options.max_red_density) & (green < options.max_green_density)
    if not is_red.any():
        return _NO_CELLS
    mask = cv2.resize(body, (wide, high), interpolation=cv2.INTER_NEAREST)
    is_red &= blue - red > _purple(near[::2, ::2], mask[::2, ::2], options) * green
    if not is_red.any():
        return _NO_CELLS
    diameter, free, scatter, is_strip = _circles(body, surround, x[is_red], y[is_red], options)
    chosen = (
        (free >= options.free)
        & (diameter > 0.7 * options.cell_px)
        & (diameter < 1.45 * options.cell_px)
        & (scatter < 0.5 * options.irregular * diameter)
    )
    covered = float((math.pi / 4 * diameter[chosen] ** 2).sum()) / max(1, cv2.countNonZero(body))
    density = -math.log(level / 255.0) / options.outline
    return _RedCells(diameter[chosen] / zoom, free[chosen], covered, ~is_strip[chosen], density)


_DENSITY_OF_LEVEL = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1.0) / 255.0)


def _purple(small: Array, body: Array, options: RedCellOptions) -> float:
    """Hue below which there is no haemoglobin, in a picture (h, w, 3) of which ``body`` (h, w) is covered."""
    if np.count_nonzero(body) < options.purple_cover * body.size:
        return options.purple
    place = np.flatnonzero(body)
    red, green, blue = (np.take(_DENSITY_OF_LEVEL, np.take(small[..., channel], place)) for channel in range(3))
    hues = ((blue - red) / np.maximum(green, options.min_density))[red < options.max_red_density]
    if not hues.size:
        return options.purple
    upper = round(0.75 * (len(hues) - 1))
    return min(options.purple, float(np.partition(hues, upper)[upper]) - options.purple_below)


def _body(smooth: Array, level: float, options: RedCellOptions) -> Array:
    """Mask (h, w) uint8 of what is darker than a level, pale middles of cells included."""
    plane = cv2.extractChannel(smooth, options.channel)
    body = cv2.threshold(plane, math.ceil(level) - 1, 1, cv2.THRESH_BINARY_INV)[1]
    return fill_holes(body, math.ceil(options.hole * math.pi / 4 * options.cell_px**2) - 1)


def _blurred_half(rgb: Array, reach: int) -> Array:
    """A picture halved, and averaged over squares of about ``2 * reach`` of its own pixels."""
    size = 2 * (reach // 2) + 1
    return np.asarray(cv2.blur(halved(rgb, 0.5)[0], (size, size)))


@lru_cache(maxsize=16)
def _slope(height: int, width: int) -> Array:
    slope = 1e-3 * np.arange(width, dtype=np.float32) + 4e-4 * np.arange(height, dtype=np.float32)[:, np.newaxis]
    slope.flags.writeable = False
    return slope


@lru_cache(maxsize=4)
def _rays(cell_px: float) -> tuple[Array, Array, Array, Array]:
    """Pixels (directions, steps) and distances (steps,) outwards from a middle; an oval's basis (5, directions)."""
    # the middles are at least ``core`` radii inside
    distance = np.arange(0.25 * cell_px, math.ceil(0.8 * cell_px), 0.5)
    angle = np.arange(24) * (2 * math.pi / 24)
    rows, cols = (np.rint(line(angle)[:, np.newaxis] * distance).astype(np.intp) for line in (np.sin, np.cos))
    waves = [wave(times * angle) for times in (1, 2) for wave in (np.cos, np.sin)]
    return rows, cols, distance, np.stack([np.ones(24), *waves])


def _circles(
    body: Array, surround: Array | None, x: Array, y: Array, options: RedCellOptions
) -> tuple[Array, Array, Array, Array]:
    """Circles through the free parts of outlines round points (n,) deep inside a mask.

    Where a mask ends with the picture, or at what surrounds the field, is no outline.

    Distances to the outline of a circle whose middle is off by a little are R + a cos + b sin.

    Returns
    -------
    diameter, free, scatter, is_strip : (n,) arrays
        Diameter; share of directions in which the outline is free; root mean square of what the circle leaves; whether
        it may be no circle but a strip.
    """
    rows, cols, distance, oval = _rays(options.cell_px)
    basis = oval[:3]
    reach = math.ceil(distance[-1]) + 1
    outside, inside, unseen = 0, 1, 2
    if surround is not None:
        body = np.where(surround, np.uint8(unseen), body)
    framed = cv2.copyMakeBorder(body, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=unseen)
    wide = framed.shape[1]
    met = np.take(framed, ((y + reach) * wide + x + reach)[:, None, None] + (rows * wide + cols))
    first = (met != inside).argmax(axis=2)  # (n, directions)
    at = np.arange(0, met.size, len(distance)).reshape(first.shape) + first
    ends = np.take(met, at) == outside
    length = np.where(ends, distance[first] - 0.5 * (distance[1] - distance[0]), np.inf)

    short = np.sort(length, axis=1)[:, len(rows) // 5, np.newaxis]
    free = length < options.elongation * np.minimum(short, reach)
    # the outline is read to half a pixel, and its middle is known as well as ``off_middle`` says
    pull = (0.06 / options.off_middle) ** 2
    prior = np.array([[1e-6, 0, 0], [0, pull, 0], [0, 0, pull]])
    squares = (basis[:, np.newaxis] * basis).reshape(9, -1)
    for _ in range(2):
        seen = np.where(free, length, 0.0)
        products = (free.astype(float) @ squares.T).reshape(-1, 3, 3) + prior
        fitted = np.linalg.solve(products, (seen @ basis.T)[..., np.newaxis])[..., 0]
        residual = (seen - fitted @ basis) * free
        scatter = np.sqrt((residual**2).sum(axis=1) / np.maximum(free.sum(axis=1), 1))
        free &= np.abs(residual) < 0.12 * fitted[:, :1]
    seen = np.where(free, length, 0.0)
    squares = (oval[:, np.newaxis] * oval).reshape(25, -1)
    products = (free.astype(float) @ squares.T).reshape(-1, 5, 5) + np.diag([1e-6, pull, pull, 0.1, 0.1])
    shape = np.linalg.solve(products, (seen @ oval.T)[..., np.newaxis])[..., 0]
    is_strip = np.hypot(shape[:, 3], shape[:, 4]) > options.strip * fitted[:, 0]
    return 2.0 * fitted[:, 0], free.mean(axis=1), scatter, is_strip


def _looked_at(
    rgb: Pyramid, zoom: float, window_px: int, background: Background | None
) -> tuple[Array, float, Array | None]:
    """The middle of a picture at a zoom, at most ``window_px`` long either way, the zoom that it really has, and where
    it is no field (None if all is)."""
    level, rest, own = rgb.at(zoom)
    side = math.ceil(window_px / rest)
    height, width = (min(length, side) for length in level.shape[:2])
    top, left = (level.shape[0] - height) // 2, (level.shape[1] - width) // 2
    part = level[top : top + height, left : left + width]
    size = (max(1, round(width * rest)), max(1, round(height * rest)))
    zoom = own * size[0] / width
    small = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR if rest <= 1 else cv2.INTER_CUBIC)
    if background is None:
        return small, zoom, None
    window = () if (height, width) == level.shape[:2] else (top / own, left / own, zoom)
    surround = background.surround(*small.shape[:2], *window) if background.has_surround else None
    if surround is not None:
        # where the mask is soft, what it covers is still seen at its rim
        surround = cv2.dilate(surround.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return background.apply(small, *window), zoom, surround


def _outline_level(small: Array, options: RedCellOptions) -> float | None:
    """Level of the outlines of red cells: a share of the median density of what lies inside (None if nothing)."""
    sample = small[::2, ::2]
    seen = sample[..., options.channel][sample[..., 0] > 255 * math.exp(-options.max_red_density)]
    total = np.cumsum(np.bincount(seen, minlength=256)).tolist()  # from dark to light
    threshold = options.min_density
    for _ in range(8):
        lightest = math.ceil(255.0 * math.exp(-threshold)) - 1
        if total[lightest] == 0:
            return None
        middle = bisect.bisect_right(total, total[lightest] / 2)
        before, threshold = threshold, max(-options.outline * math.log(max(middle, 1) / 255.0), options.min_density)
        if threshold == before:
            break
    return 255.0 * math.exp(-threshold)
