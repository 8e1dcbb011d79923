"""Finding every cell of a field: nucleated cells with their nuclei, platelets, red cells, and what is none of these.

Everything is judged on a copy of the field at a fixed scale (0.25 um/px), in optical density, so that camera and
magnification do not matter, and in stain densities that the field's own red cells do not have
(:mod:`cbctool.imaging.stain`), so that stain and haemoglobin are not confused.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.artefacts import (
    ANNOTATION,
    PRECIPITATE,
    ArtefactOptions,
    add_labels,
    find_drawn,
    find_foreign,
    find_pale_drawn,
    find_precipitate,
    nuclear_hues,
)
from cbctool.imaging.nucleated import NucleatedOptions, find_nucleated, find_smudges, large_platelets
from cbctool.imaging.platelets import PlateletOptions, find_platelets
from cbctool.imaging.pyramid import halved
from cbctool.imaging.red_cells import RedCellOptions, find_red_cells
from cbctool.imaging.stain import (
    DENSITY_UNIT,
    align_channels,
    density_beyond_red_cells,
    is_colourless,
    optical_density,
    red_cell_colour,
    stain_densities,
)
from cbctool.records import SMUDGE_CELL, CellKind

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentOptions:
    """Sizes in micrometres; densities as multiples of the field's own red cells where they can be.

    Attributes
    ----------
    working_um_per_px : float
        Scale at which cells are found. 0.25: a red cell is 30 px, a 1.5 um platelet 6 px.
    min_od : float
        Green density (log10) below which nothing is foreground: twice the background's noise on BCCD.
    foreground_share : float
        Foreground absorbs more than this share of the red cells' density. A blurred outline lies at half; this was
        chosen together with the values of :class:`~cbctool.imaging.red_cells.RedCellOptions`.
    """

    working_um_per_px: float = 0.25
    min_od: float = 0.02
    foreground_share: float = 0.35
    nucleated: NucleatedOptions = field(default_factory=NucleatedOptions)
    platelets: PlateletOptions = field(default_factory=PlateletOptions)
    red_cells: RedCellOptions = field(default_factory=RedCellOptions)
    artefacts: ArtefactOptions = field(default_factory=ArtefactOptions)


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
    red_outlines : (N, K, 2) float32 array
        Row and column of the points round each red cell; overlapping cells have overlapping outlines.
    colourless : bool
        A grey picture: nuclei were told by density alone, so that outlines and kinds are poor.
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
    red_outlines: NDArray[Any]
    colourless: bool = False


def working_copy(rgb: NDArray[Any], um_per_px: float, working_um_per_px: float) -> NDArray[Any]:
    """Resize a field to the working scale, averaging where it shrinks to half or less."""
    rgb, zoom = halved(rgb, um_per_px / working_um_per_px)
    size = (max(1, round(rgb.shape[1] * zoom)), max(1, round(rgb.shape[0] * zoom)))
    return rgb if size == rgb.shape[1::-1] else np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR))


def _without(density: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Density (h, w, 3) with nothing where there are labels (h, w)."""
    return np.asarray(cv2.bitwise_and(density, density, mask=(labels == 0).view(np.uint8)))


def segment(
    rgb: NDArray[Any], um_per_px: float, options: SegmentOptions | None = None, blue_clipped: bool = False
) -> Segmentation:
    """Find and tell apart the cells of a normalised field.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
        Field with its background at white, surround included.
    um_per_px : float
    options : SegmentOptions, optional
    blue_clipped : bool
        The background was at full scale in blue; see :func:`~cbctool.imaging.stain.red_cell_colour`.

    Returns
    -------
    Segmentation
    """
    if not um_per_px > 0:
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")
    options = options or SegmentOptions()
    small = working_copy(rgb, um_per_px, options.working_um_per_px)
    height, width = small.shape[:2]
    px_per_row, px_per_col = rgb.shape[0] / height, rgb.shape[1] / width
    um = um_per_px * float(np.sqrt(px_per_row * px_per_col))
    density = optical_density(small)
    # before the channels are aligned: what was drawn has no aberration, but would pass for a cell's edges
    colourless = is_colourless(density)
    drawn, drawn_reasons = np.zeros((height, width), np.int32), list[str]()
    if colourless:
        _log.info("a grey picture: nuclei are told by density alone, and neither drawings nor precipitate are told")
    else:
        colour = red_cell_colour(density, options.min_od, um, sample_px=5000)  # only how they absorb red
        drawn, drawn_reasons = find_drawn(rgb, density, colour, um, options.artefacts)
    del rgb, small  # the largest arrays of all
    if drawn_reasons:
        density = _without(density, drawn)
    density = cv2.GaussianBlur(align_channels(density), (3, 3), 0)
    colour = red_cell_colour(density, options.min_od, um, blue_clipped)
    pale, pale_reasons = find_pale_drawn(density, colour, um, options.artefacts)
    if pale_reasons:
        density = _without(density, pale)
    azure, eosin = stain_densities(density, colour)
    if colourless:
        azure = density_beyond_red_cells(density, colour)
    green = cv2.extractChannel(density, 1)
    level = max(options.min_od * DENSITY_UNIT, options.foreground_share * colour.level)
    foreground = cv2.threshold(green, level, 1, cv2.THRESH_BINARY)[1]

    cell_labels, nuclei, kinds, reasons = find_nucleated(
        azure, eosin, green, foreground, colour.level, um, options.nucleated
    )
    hues = nuclear_hues(density, cell_labels, nuclei)
    hue = float(np.median(hues)) if len(hues) else 0.0
    for index, reason in enumerate(find_foreign(hues, cell_labels, options.artefacts)):
        if reason:
            kinds[index], reasons[index] = CellKind.ARTEFACT, reason
    for index in np.flatnonzero(find_smudges(density, cell_labels, nuclei, um, options.nucleated)).tolist():
        kinds[index], reasons[index] = CellKind.ARTEFACT, SMUDGE_CELL
    large = large_platelets(density, cell_labels, nuclei, colour.level, um, options.nucleated)
    for index in np.flatnonzero(large).tolist():
        if not reasons[index]:
            kinds[index] = CellKind.PLATELET
    is_nucleated = np.array([False] + [kind is CellKind.NUCLEATED for kind in kinds])
    if not is_nucleated[1:].all():
        place = np.flatnonzero(nuclei)
        np.put(nuclei, place, np.take(is_nucleated, np.take(cell_labels, place)))
    cell_labels = add_labels(cell_labels, kinds, reasons, drawn, drawn_reasons)
    cell_labels = add_labels(cell_labels, kinds, reasons, pale, pale_reasons)
    platelet_labels, on_red = find_platelets(
        azure, density, cell_labels, None if colourless else nuclei, colour, um, options.platelets
    )
    nucleated = len(kinds)
    granules = np.zeros(int(platelet_labels.max()), bool)
    if not colourless:
        granules = find_precipitate(density, platelet_labels, colour.red_tells, hue, um, options.artefacts)
    covered = np.zeros(len(granules) + 1, bool)
    if drawn_reasons or pale_reasons:
        covered[platelet_labels[cv2.dilate((drawn + pale > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0]] = True
    for is_granule, is_covered in zip(granules.tolist(), covered[1:].tolist(), strict=True):
        kinds.append(CellKind.ARTEFACT if is_granule or is_covered else CellKind.PLATELET)
        reasons.append(ANNOTATION if is_covered else PRECIPITATE if is_granule else "")
    # what lies on a red cell does not end it
    place = np.flatnonzero(platelet_labels > 0)
    label = np.take(platelet_labels, place)
    np.put(cell_labels, place, np.where(on_red[label], 0, label + nucleated))
    red_outlines = find_red_cells(density, foreground, cell_labels, colour.level, um, options.red_cells)
    np.put(cell_labels, place, label + nucleated)
    return Segmentation(
        um,
        px_per_row,
        px_per_col,
        density,
        azure,
        cell_labels,
        nuclei,
        tuple(kinds),
        tuple(reasons),
        red_outlines,
        colourless,
    )
