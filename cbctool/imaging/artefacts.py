"""What lies in a field and is no cell: what was drawn on the picture, pens, opaque dust, precipitate of the stain.

Told by what light does. Every dye of a Romanowsky smear absorbs green the most or nearly so, and none spares one
channel wholly while it blackens another: of PBC's pixels with an optical density above 0.25, 1 in 10,000 has less
than 0.26 of green's density in red or more than 0.9 of it in blue, and none has a blue density above 0.37. Ink and
drawn colours do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.split import connected_parts, disk, part_windows
from cbctool.imaging.stain import DENSITY_UNIT, RedCellColour
from cbctool.records import CellKind

ANNOTATION = "annotation"
DUST = "dust"
PEN_MARK = "pen mark"
PRECIPITATE = "stain precipitate"

_BAND_PX = 100_000


@dataclass(frozen=True)
class ArtefactOptions:
    """How foreign bodies are told.

    Attributes
    ----------
    full, spared : int
        Grey levels: a drawn colour reaches ``spared`` in one channel while another is at or below ``full``. Nuclei as
        dark as that hold their blue below 200 (PBC), 230 where much eosin is in them (ALL-IDB1, green by 1.2); more
        where a camera boosts saturation, so that purple, the stain's own hue, is no drawn colour.
    black, none : int
        Grey level that no channel exceeds in opaque bodies (density 1.05), or that neither red nor green does in navy
        ink. Red and green of a nucleus fall to 10 where the stain is rich or the camera's curve steep; blue, at a
        density below 0.37 on PBC, stays above 70 at one and a half its density.
    crisp : float
        Share of the dark pixels of an opaque body that are black: lines drawn have an edge of one pixel, dust lies out
        of focus.
    min_od : float
        Density from which a hue is judged.
    red_spared, blue_over_green, green_spared : float
        Hues that no stain has: red under this share of green or blue, blue over this multiple of green, green under
        this share of red; PBC stays above 0.26, below 0.9, above 0.9.
    red_spared_of_red_cells : float
        More than this share of the red that the field's red cells have is enough, too: on some fields of ALL-IDB1 they
        have a fifth of green's density.
    deep_od, deep_blue_over_green : float
        Blue over green where blue is dense; PBC stays below 0.37 and 0.65.
    beyond_red_cells, as_red_cells : float
        Where red cells are yellow, brown or grey themselves, a hue is impossible only beyond this multiple of theirs;
        piles of them are dense in blue, and spared where their hue is theirs but for this factor.
    pale_od : float
        Density from which flat areas of ``pale_um`` radius are judged against the field's own red cells.
    pale_blue, pale_red : float
        They have more than this multiple of the blue, and less than this share of the red, that red cells would have.
    pale_um, min_um2, join_um, rim_um : float
        Smallest area; lines and letters nearer than ``join_um`` are one; the rim is given up, too.
    pen_um2 : float
        Larger strokes are of a pen: a square of 45 um, twice the largest leukocyte.
    granule_contrast : float
        Standard deviation over mean of the red density in a body: dye without cytoplasm is black at its centre. 99 % of
        PBC's platelets have less than 0.64. What is redder than the nuclei is a platelet all the same: a steep curve of
        the camera raises its contrast to 0.8.
    granule_contrast_near, granule_near_um : float
        The same within this distance of a granule: precipitate lies in heaps. Three in four of PBC's platelets have
        less than 0.5.
    nuclear_hue : float
        Red over green density of nuclei, where a field shows none: PBC's have 0.57 to 0.69.
    granule_red, granule_red_od : float
        Red over green density, and red density, of the densest tenth: blue-black, where no platelet of PBC has both.
    bluer : float
        In a smear whose nuclei are blue-black themselves (haematoxylin, alkaline buffers), dye is bluer than they are
        by this factor. PBC's nuclei have 0.57 to 0.69 of green's density in red, ALL-IDB1's 0.31 to 0.69.
    foreign : float
        The same for heaps as large as cells: nuclei of one field differ by up to 1.4, ALL-IDB1's two heaps by 1.7 and
        2.8.
    precipitate_circularity : float
        A large heap is ragged, and its darkest parts absorb red more than green, as no nucleus does.
    """

    full: int = 30
    spared: int = 245
    black: int = 22
    none: int = 4
    crisp: float = 0.5
    min_od: float = 0.2
    red_spared: float = 0.1
    red_spared_of_red_cells: float = 0.4
    blue_over_green: float = 1.3
    deep_od: float = 0.5
    deep_blue_over_green: float = 0.7
    beyond_red_cells: float = 1.9
    as_red_cells: float = 1.25
    green_spared: float = 0.5
    pale_od: float = 0.1
    pale_blue: float = 1.6
    pale_red: float = 0.3
    pale_um: float = 0.5
    min_um2: float = 1.0
    join_um: float = 1.0
    rim_um: float = 0.5
    pen_um2: float = 2000.0
    granule_contrast: float = 0.66
    granule_contrast_near: float = 0.5
    granule_near_um: float = 5.0
    nuclear_hue: float = 0.6
    granule_red: float = 0.85
    bluer: float = 1.12
    foreign: float = 1.5
    granule_red_od: float = 0.3
    precipitate_circularity: float = 0.6


def find_drawn(
    rgb: NDArray[Any], density: NDArray[Any], colour: RedCellColour, um: float, options: ArtefactOptions
) -> tuple[NDArray[Any], list[str]]:
    """Label what was drawn on the picture, and opaque dust.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
        The field in full, so that thin lines have their colour still.
    density : (h, w, 3) uint8 array
        Optical density at the working scale.
    colour : RedCellColour
    um : float
        Micrometres per pixel of ``density``.
    options : ArtefactOptions

    Returns
    -------
    labels : (h, w) int32 array
        From 1.
    reasons : list of str
        Label 1 first.
    """
    size = density.shape[1::-1]
    drawn = _impossible_hue(density, colour, options)
    pure, opaque = _lines(rgb, options)
    for lines in (pure, opaque):
        if lines is not None:
            drawn |= cv2.resize(lines, size, interpolation=cv2.INTER_AREA) > 64
    if not drawn.any():
        return np.zeros(drawn.shape, np.int32), []
    return _label(drawn, rgb, opaque, um, options)


def _lines(rgb: NDArray[Any], options: ArtefactOptions) -> list[NDArray[Any] | None]:
    """Where a field is of a drawn colour, and where it is opaque, each (H, W) uint8 of 0 and 255 (None if nowhere)."""
    shape = rgb.shape[:2]
    masks: list[NDArray[Any] | None] = [None, None]
    band = max(1, _BAND_PX // rgb.shape[1])  # what is small stays in the processor's own memory
    for top in range(0, len(rgb), band):
        part = rgb[top : top + band]
        if part.min() > max(options.full, options.black):
            continue
        red, green, blue = cv2.split(part)
        lighter, darker = cv2.max(red, green), cv2.min(red, green)
        lightest = cv2.max(lighter, blue)
        full, spared = cv2.min(darker, blue) <= options.full, lightest >= options.spared
        # purple is the stain's own hue, and a camera that boosts saturation makes it pure
        purple = (green <= options.full) & (red > options.full) & (red < options.spared)
        pure, opaque = full & spared & ~purple, (lightest <= options.black) | (lighter <= options.none)
        for index, found in enumerate((pure, opaque)):
            if found.any():
                mask = masks[index]
                masks[index] = mask = np.zeros(shape, np.uint8) if mask is None else mask
                mask[top : top + band][found] = 255
    return masks


def find_pale_drawn(
    density: NDArray[Any], colour: RedCellColour, um: float, options: ArtefactOptions
) -> tuple[NDArray[Any], list[str]]:
    """Label flat areas of a colour that light through red cells does not take: pale yellow and orange arrows.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    colour : RedCellColour
    um : float
        Micrometres per pixel.
    options : ArtefactOptions

    Returns
    -------
    labels : (h, w) int32 array
        From 1.
    reasons : list of str
        Label 1 first.
    """
    # a flat area holds a square of 3 px, so that every third pixel shows whether there can be any
    if not _is_pale(density[::3, ::3], colour, options).any():
        return np.zeros(density.shape[:2], np.int32), []
    pale = _is_pale(density, colour, options)
    flat = cv2.morphologyEx(pale.astype(np.uint8), cv2.MORPH_OPEN, disk(options.pale_um / um)) > 0
    return _label(flat, None, None, um, options)


def _is_pale(density: NDArray[Any], colour: RedCellColour, options: ArtefactOptions) -> NDArray[Any]:
    """Where blue is absorbed, but neither red nor green as red cells would; (h, w) bool."""
    red, green, blue = (density[..., channel].astype(np.float32) for channel in range(3))
    pale = (blue > options.pale_od * DENSITY_UNIT) & (red < options.pale_red / colour.green_per_red * blue)
    return np.asarray(pale & (colour.red_green_per_blue * blue > options.pale_blue * (red + green)))


def _impossible_hue(density: NDArray[Any], colour: RedCellColour, options: ArtefactOptions) -> NDArray[Any]:
    """Where a dense pixel has a hue that no stain has; (h, w) bool. A clipped red is spared by every stain."""
    red_per_blue, blue_per_green = colour.red_per_blue, colour.blue_per_green
    least_red = options.red_spared_of_red_cells * min(1 / colour.green_per_red, red_per_blue)
    least_red = min(options.red_spared, least_red) if colour.red_tells else 0.0
    least_green = min(options.green_spared, colour.green_per_red / options.beyond_red_cells)
    most_blue = max(options.blue_over_green, options.beyond_red_cells * blue_per_green)
    level = options.min_od * DENSITY_UNIT
    found = cv2.inRange(density, (0, 0, 0), (math.floor(level),) * 3) == 0
    place = np.flatnonzero(found)
    r, g, b = np.take(density.reshape(-1, 3), place, axis=0).T.astype(np.float32)
    odd = r < least_red * np.maximum(g, b)
    odd |= (b > level) & (b > most_blue * g)
    is_red_cell = (r < options.as_red_cells * red_per_blue * b) & (b < options.as_red_cells * blue_per_green * g)
    deep = (b > options.deep_od * DENSITY_UNIT) & (b > options.deep_blue_over_green * g)
    odd |= deep & ~is_red_cell
    odd |= (r > level) & (g < least_green * r)
    np.put(found, place, odd)
    return found


def _label(
    drawn: NDArray[Any],
    rgb: NDArray[Any] | None,
    opaque: NDArray[Any] | None,
    um: float,
    options: ArtefactOptions,
) -> tuple[NDArray[Any], list[str]]:
    """Number bodies of a mask with their rim, and say what each is."""
    labels, size = connected_parts(drawn.astype(np.uint8), connectivity=8)
    large = size * um**2 >= options.min_um2
    large[0] = False
    if not large.any():
        return np.zeros(drawn.shape, np.int32), []
    mask: NDArray[Any] = cv2.dilate(np.take(large.view(np.uint8), labels), disk(options.rim_um / um))
    joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disk(options.join_um / um))
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    labels[mask == 0] = 0
    area = np.bincount(labels.ravel(), minlength=count) * um**2
    black, dark = np.zeros(count, int), np.zeros(count, int)
    if rgb is not None and opaque is not None:
        full = cv2.resize(labels, opaque.shape[::-1], interpolation=cv2.INTER_NEAREST)
        black = np.bincount(full[opaque > 0], minlength=count)
        dark = np.bincount(full[cv2.inRange(rgb, (0, 0, 0), (127, 127, 127)) > 0], minlength=count)
    reasons = []
    for label in range(1, count):
        if area[label] > options.pen_um2:
            reasons.append(PEN_MARK)
        elif 0 < black[label] < options.crisp * dark[label]:
            reasons.append(DUST)
        else:
            reasons.append(ANNOTATION)
    return labels, reasons


def find_foreign(hues: NDArray[Any], labels: NDArray[Any], options: ArtefactOptions) -> list[str]:
    """Which bodies taken for nucleated cells are heaps of precipitate: ragged, and far bluer than the field's nuclei.

    A body without another beside it is none: where a whole smear is stained blue, its neutrophils are ragged and blue.

    Parameters
    ----------
    hues : (N,) array
        See :func:`nuclear_hues`.
    labels : (h, w) int32 array
        Nucleated cells, from 1 without gaps.
    options : ArtefactOptions

    Returns
    -------
    list of str
        Label 1 first; "" for cells.
    """
    count = int(labels.max())
    reasons = [""] * count
    suspects = np.flatnonzero(hues > options.granule_red)
    windows = part_windows(labels) if len(suspects) else {}
    for index in suspects.tolist():
        others = np.delete(hues, index)
        if len(others) == 0 or hues[index] < options.foreign * np.median(others):
            continue
        body = np.pad((labels[windows[index + 1]] == index + 1).astype(np.uint8), 1)
        contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        perimeter = sum(cv2.arcLength(contour, True) for contour in contours)
        if 4 * np.pi * body.sum() < options.precipitate_circularity * perimeter**2:
            reasons[index] = PRECIPITATE
    return reasons


def nuclear_hues(density: NDArray[Any], labels: NDArray[Any], nuclei: NDArray[Any]) -> NDArray[Any]:
    """Red over green density of each nucleus of a field.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    labels : (h, w) int32 array
        Nucleated cells, from 1 without gaps.
    nuclei : (h, w) bool array

    Returns
    -------
    (N,) array
        Label 1 first.
    """
    place = np.flatnonzero(nuclei)
    label = np.take(labels, place)
    count = int(label.max(initial=0)) + 1
    red, green, _ = np.take(density.reshape(-1, 3), place, axis=0).T
    return np.asarray((np.bincount(label, red, count) / np.maximum(np.bincount(label, green, count), 1.0))[1:])


def find_precipitate(
    density: NDArray[Any],
    platelets: NDArray[Any],
    red_tells: bool,
    hue: float,
    um: float,
    options: ArtefactOptions,
) -> NDArray[Any]:
    """Which bodies taken for platelets are granules of dye.

    A platelet is a piece of cytoplasm with granules in it, fairly even; a granule of precipitate is blue-black in the
    middle and nothing else around.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    platelets : (h, w) int32 array
        Labels, from 1 without gaps.
    red_tells : bool
        See :class:`~cbctool.imaging.stain.RedCellColour`; evenness is judged in green where red is clipped.
    hue : float
        The median of :func:`nuclear_hues`; 0 without any nucleus.
    um : float
        Micrometres per pixel.
    options : ArtefactOptions

    Returns
    -------
    (N,) bool array
        Label 1 first.
    """
    count = int(platelets.max())
    if count == 0:
        return np.zeros(0, bool)
    place = np.flatnonzero(platelets > 0)
    label = platelets.ravel()[place]
    red, green, _ = np.take(density.reshape(-1, 3), place, axis=0).T.astype(float)
    order = np.lexsort((-green, label))  # body after body, each from its densest pixel on
    red, green = red[order], green[order]
    size = np.bincount(label, minlength=count + 1)[1:]
    densest = np.minimum(np.maximum(size // 10, 3), size)
    depth = red if red_tells else green
    mean = _means(depth, size, size)
    contrast = np.sqrt(np.maximum(_means(depth * depth, size, size) - mean**2, 0.0)) / np.maximum(mean, 1.0)
    peak_red, peak_green = _means(red, size, densest), _means(green, size, densest)
    bluest = max(options.granule_red, options.bluer * hue)
    blue_black = peak_red > np.maximum(options.granule_red_od * DENSITY_UNIT, bluest * peak_green)
    is_purple = peak_red < (hue or options.nuclear_hue) * peak_green
    granules = ((contrast > options.granule_contrast) & ~is_purple) | blue_black
    dubious = (contrast > options.granule_contrast_near) & ~is_purple
    if granules.any() and dubious.any():
        is_granule, windows = np.append(False, granules), part_windows(platelets)
        reach = math.ceil(options.granule_near_um / um)
        for index in np.flatnonzero(dubious & ~granules).tolist():
            rows, cols = windows[index + 1]
            around = platelets[
                max(rows.start - reach, 0) : rows.stop + reach, max(cols.start - reach, 0) : cols.stop + reach
            ]
            others = (~np.take(is_granule, around)).astype(np.uint8)
            distance = cv2.distanceTransform(others, cv2.DIST_L2, 5)[around == index + 1].min() * um
            granules[index] = distance < options.granule_near_um
    return granules


def _means(values: NDArray[Any], size: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
    """Means (n,) of the ``first`` values of each of n bodies that follow one another in ``values``, ``size`` long."""
    total = np.append(0.0, np.cumsum(values))
    start = np.cumsum(size) - size
    return np.asarray((total[start + first] - total[start]) / first)


def add_labels(
    labels: NDArray[Any],
    kinds: list[CellKind],
    reasons: list[str],
    found: NDArray[Any],
    found_reasons: list[str],
) -> NDArray[Any]:
    """Append artefacts to the labels where they are free; ``kinds`` and ``reasons`` grow by those that show.

    Parameters
    ----------
    labels : (h, w) int32 array
    kinds : list of CellKind
    reasons : list of str
        Label 1 first; both are added to.
    found : (h, w) int32 array
        Artefacts, from 1.
    found_reasons : list of str

    Returns
    -------
    (h, w) int32 array
    """
    if not found_reasons:
        return labels
    free = np.where(labels == 0, found, 0)
    shows = np.bincount(free.ravel(), minlength=len(found_reasons) + 1) > 0
    shows[0] = False
    numbers = np.where(shows, np.cumsum(shows) + len(kinds), 0).astype(np.int32)
    kinds += [CellKind.ARTEFACT] * int(shows.sum())
    reasons += [reason for reason, is_shown in zip(found_reasons, shows[1:], strict=True) if is_shown]
    return np.asarray(np.where(free > 0, numbers[free], labels))
