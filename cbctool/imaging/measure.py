"""Morphometry: what is measured of every cell, with its unit and its source.

All measures are taken at the working scale of :mod:`cbctool.imaging.segment`, in optical density (log10), after the
background was put at zero, so that they compare across cameras.

===========================  ========  =====================================================================
``area_um2``                 um²       pixels of the whole cell
``equivalent_diameter_um``   um        diameter of the circle of that area
``circularity``              0-1       4 pi area / perimeter², perimeter by Crofton's formula in 4 directions
``eccentricity``             0-1       of the ellipse with the cell's second moments
``nucleus_area_um2``         um²       pixels of the nucleus, all lobes
``nc_ratio``                 0-1       nucleus area / whole-cell area
``nuclear_lobes``            count     bodies of the nucleus, split where it narrows to under half of the thinner body
``nuclear_solidity``         0-1       nucleus area / area of its convex hull
``chromatin_texture``        ratio     standard deviation / mean of the red density inside the nucleus
``nucleus_od``               OD        mean density of the nucleus, mean of R, G and B
``cytoplasm_od``             OD        the same of the cytoplasm
``haematoxylin_od``          OD        amount of haematoxylin-like dye, mean over the cell (Ruifrok & Johnston 2001)
``eosin_od``                 OD        amount of eosin-like dye, mean over the cell
``granularity``              OD        root mean square of the green density's detail finer than 1 um, in the cytoplasm
===========================  ========  =====================================================================

Ruifrok AC, Johnston DA. Quantification of histochemical staining by color deconvolution. Anal Quant Cytol Histol 2001;
23:291-9. Their vectors are those of H&E; on a Romanowsky stain they serve as fixed axes, azure-like and eosin-like.
"""

from __future__ import annotations

import math
from dataclasses import fields
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.segment import Segmentation
from cbctool.imaging.split import extents, solidity, split_clump
from cbctool.imaging.stain import DENSITY_UNIT
from cbctool.records import Cell, CellKind

_STAIN_VECTORS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_UNMIX = np.linalg.inv(_STAIN_VECTORS / np.linalg.norm(_STAIN_VECTORS, axis=1, keepdims=True))

_LOBE_SADDLE = 0.5
_LOBE_RADIUS_UM = 0.6
_DETAIL_UM = 1.0


def measure_cells(
    segmentation: Segmentation, height_px: int, width_px: int, surround: NDArray[Any] | None = None
) -> tuple[Cell, ...]:
    """Measure everything that segmentation found.

    Parameters
    ----------
    segmentation : Segmentation
    height_px, width_px : int
        Size of the field, which the boxes are held to.
    surround : (h, w) bool array, optional
        What is no field, at the working scale: it cuts cells as the edge does.

    Returns
    -------
    tuple of Cell
        Numbered from 1, top to bottom by their centre.
    """
    cut = None
    if surround is not None:  # outlines are drawn up to two pixels within what is seen
        cut = cv2.dilate(surround.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    others = _nucleated_and_platelets(segmentation, height_px, width_px, cut)
    cells = [tuple(measures.get(name, usual) for name, usual in _FIELDS.items()) for measures in others]
    cells += _red_cells(segmentation, height_px, width_px, cut)
    place = list(_FIELDS)
    cells.sort(key=itemgetter(place.index("row_px"), place.index("col_px")))
    return tuple(Cell(number, *measures) for number, measures in enumerate(cells, start=1))


_FIELDS = {field.name: field.default for field in fields(Cell)[1:]}
"""What a cell has besides its number, and what it is by default, in order: by position is twice as fast as by name."""


def _red_cells(
    segmentation: Segmentation, height_px: int, width_px: int, surround: NDArray[Any] | None
) -> list[tuple[Any, ...]]:
    """Size, place and form of every red cell from its outline; what passes the edge of the field is cut off.

    One row per cell, as in ``_FIELDS``.
    """
    um, per_row, per_col = segmentation.um_per_px, segmentation.px_per_row, segmentation.px_per_col
    height, width = segmentation.azure.shape
    # from pixel centres to the pixels' outer edges, where a field begins at 0
    rows = segmentation.red_outlines[..., 0].astype(float) + 0.5
    cols = segmentation.red_outlines[..., 1].astype(float) + 0.5
    cut = (rows.min(axis=1) < 0.5) | (cols.min(axis=1) < 0.5)
    cut |= (rows.max(axis=1) > height - 0.5) | (cols.max(axis=1) > width - 0.5)
    rows, cols = np.clip(rows, 0, height), np.clip(cols, 0, width)
    if surround is not None and len(rows):
        at = np.minimum(rows.astype(int), height - 1), np.minimum(cols.astype(int), width - 1)
        cut |= surround[at].any(axis=1)
    next_rows, next_cols = np.roll(rows, -1, axis=1), np.roll(cols, -1, axis=1)
    cross = cols * next_rows - next_cols * rows
    signed = cross.sum(axis=1) / 2
    area = np.abs(signed)
    perimeter = np.hypot(next_rows - rows, next_cols - cols).sum(axis=1)
    row = ((rows + next_rows) * cross).sum(axis=1) / (6 * signed)
    col = ((cols + next_cols) * cross).sum(axis=1) / (6 * signed)
    circularity = np.clip(4 * np.pi * area / perimeter**2, 0, 1)
    dr, dc = rows - row[:, np.newaxis], cols - col[:, np.newaxis]
    rr, cc, rc = (dr * dr).mean(axis=1), (dc * dc).mean(axis=1), (dr * dc).mean(axis=1)
    root = np.sqrt(((rr - cc) / 2) ** 2 + rc**2)
    eccentricity = np.sqrt(np.clip(1 - ((rr + cc) / 2 - root) / ((rr + cc) / 2 + root), 0, 1))
    top, bottom = rows.min(axis=1) * per_row, rows.max(axis=1) * per_row
    left, right = cols.min(axis=1) * per_col, cols.max(axis=1) * per_col
    top, left = np.clip(np.rint(top), 0, height_px - 1), np.clip(np.rint(left), 0, width_px - 1)
    bottom, right = np.clip(np.rint(bottom), 1, height_px), np.clip(np.rint(right), 1, width_px)
    columns: dict[str, NDArray[Any]] = {
        "row_px": row * per_row - 0.5,
        "col_px": col * per_col - 0.5,
        "ymin_px": top.astype(int),
        "xmin_px": left.astype(int),
        "ymax_px": bottom.astype(int),
        "xmax_px": right.astype(int),
        "area_um2": area * um**2,
        "touches_edge": cut,
        "equivalent_diameter_um": 2 * np.sqrt(area / np.pi) * um,
        "circularity": circularity,
        "eccentricity": eccentricity,
    }
    usual = {**_FIELDS, "kind": CellKind.ERYTHROCYTE}
    measured = {name: values.tolist() for name, values in columns.items()}
    return list(zip(*(measured.get(name, len(area) * [usual[name]]) for name in _FIELDS), strict=True))


def _nucleated_and_platelets(
    segmentation: Segmentation, height_px: int, width_px: int, surround: NDArray[Any] | None
) -> list[dict[str, Any]]:
    labels, nuclei = segmentation.cell_labels, segmentation.nuclei
    measured, boxes = _shapes(labels, segmentation, height_px, width_px)
    for index, (measures, kind) in enumerate(zip(measured, segmentation.kinds, strict=True)):
        measures["kind"] = kind
        measures["reason"] = segmentation.reasons[index]
        window = boxes[index]
        inside = labels[window] == index + 1
        beyond = None if surround is None else surround[window]
        measures["touches_edge"] = _reaches_edge(labels.shape, window, inside, beyond)
        level = cv2.mean(segmentation.density[window], inside.view(np.uint8))[:3]
        dyes = np.array(level) / DENSITY_UNIT @ _UNMIX
        measures["haematoxylin_od"], measures["eosin_od"] = float(dyes[0]), float(dyes[1])
        if kind is CellKind.NUCLEATED:
            nucleus = inside & nuclei[window]
            edge = measures["touches_edge"] and _reaches_edge(labels.shape, window, nucleus, beyond)
            measures["nucleus_touches_edge"] = edge
            density = segmentation.density[window].astype(np.float32) / DENSITY_UNIT
            measures.update(_nucleus(inside, nucleus, density, segmentation.um_per_px))
    return measured


def _shapes(
    labels: NDArray[Any], segmentation: Segmentation, height_px: int, width_px: int
) -> tuple[list[dict[str, Any]], list[tuple[slice, slice]]]:
    """Size, place and form of every label, in one pass over the labelled pixels; and the window around each."""
    um, per_row, per_col = segmentation.um_per_px, segmentation.px_per_row, segmentation.px_per_col
    count = len(segmentation.kinds) + 1
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    place = np.flatnonzero(framed > 0)
    label = np.take(framed, place).astype(np.intp)  # as counting wants them
    rows, cols = np.divmod(place, framed.shape[1])
    rows, cols = rows - 1, cols - 1
    ends = extents(label, rows, cols)[:, 1:].T.tolist()
    boxes = [(slice(top, bottom + 1), slice(left, right + 1)) for top, bottom, left, right in ends]
    area = np.bincount(label, minlength=count).astype(float)
    area[area == 0] = np.nan
    row = np.bincount(label, rows, count) / area
    col = np.bincount(label, cols, count) / area
    dr, dc = rows - row[label], cols - col[label]
    # 1/12: a pixel is a square, not a point
    rr = np.bincount(label, dr * dr, count) / area + 1 / 12
    cc = np.bincount(label, dc * dc, count) / area + 1 / 12
    rc = np.bincount(label, dr * dc, count) / area
    root = np.sqrt(((rr - cc) / 2) ** 2 + rc**2)
    major, minor = (rr + cc) / 2 + root, (rr + cc) / 2 - root
    eccentricity = np.sqrt(np.clip(1 - minor / major, 0, 1))
    circularity = np.clip(4 * np.pi * area / _perimeters(framed, place, label, count) ** 2, 0, 1)
    measured = []
    for index, (window_rows, window_cols) in enumerate(boxes, start=1):
        top, bottom = window_rows.start, window_rows.stop
        left, right = window_cols.start, window_cols.stop
        ymin, xmin = min(round(top * per_row), height_px - 1), min(round(left * per_col), width_px - 1)
        measured.append(
            {
                "row_px": float((row[index] + 0.5) * per_row - 0.5),
                "col_px": float((col[index] + 0.5) * per_col - 0.5),
                "ymin_px": ymin,
                "xmin_px": xmin,
                "ymax_px": min(max(round(bottom * per_row), ymin + 1), height_px),
                "xmax_px": min(max(round(right * per_col), xmin + 1), width_px),
                "area_um2": float(area[index] * um**2),
                "equivalent_diameter_um": float(2 * np.sqrt(area[index] / np.pi) * um),
                "circularity": float(circularity[index]),
                "eccentricity": float(eccentricity[index]),
            }
        )
    return measured, boxes


def _perimeters(framed: NDArray[Any], place: NDArray[Any], label: NDArray[Any], count: int) -> NDArray[Any]:
    """Perimeter of every label by Crofton's formula: boundary crossings along 4 directions of lines.

    ``place`` are the flat indices of the labelled pixels in a label picture that is framed with 0, ``label`` what they
    hold there.
    """
    flat, width = framed.ravel(), framed.shape[1]
    crossings = np.zeros(count)
    for step, spacing in ((1, 1.0), (width, 1.0), (width + 1, 1 / np.sqrt(2)), (width - 1, 1 / np.sqrt(2))):
        for neighbour in (place + step, place - step):
            crossings += spacing * np.bincount(label[flat[neighbour] != label], minlength=count)
    # length = pi/2 * mean over directions of (crossings x line spacing)
    lengths = np.pi / 2 * crossings / 4
    lengths[lengths == 0] = np.nan
    return np.asarray(lengths)


def _reaches_edge(
    shape: tuple[int, ...], window: tuple[slice, slice], mask: NDArray[Any], surround: NDArray[Any] | None
) -> bool:
    """Whether a mask in a window of a picture meets the picture's edge, or what surrounds the field."""
    rows, cols = window
    return bool(
        (rows.start == 0 and mask[0].any())
        or (cols.start == 0 and mask[:, 0].any())
        or (rows.stop == shape[0] and mask[-1].any())
        or (cols.stop == shape[1] and mask[:, -1].any())
        or (surround is not None and (mask & surround).any())
    )


def _nucleus(cell: NDArray[Any], nucleus: NDArray[Any], density: NDArray[Any], um: float) -> dict[str, float]:
    """Measures that only a cell with a nucleus has."""
    mask, body = nucleus.astype(np.uint8), cell.astype(np.uint8)
    nucleus_px, cell_px = cv2.countNonZero(mask), cv2.countNonZero(body)
    if nucleus_px == 0:
        return {}
    lobes = split_clump(mask, _LOBE_RADIUS_UM / um, _LOBE_SADDLE)
    inner = _eroded(mask)
    red, green, _ = cv2.split(density)
    red_mean, red_sigma = cv2.meanStdDev(red, mask=inner if cv2.countNonZero(inner) else mask)
    detail = green - cv2.GaussianBlur(green, (0, 0), _DETAIL_UM / um / 2)
    granular = _eroded(body) & (cv2.dilate(mask, np.ones((3, 3), np.uint8)) == 0)
    square, cytoplasm = cv2.mean(detail * detail, granular)[0], cv2.mean(density, body - mask)
    return {
        "nucleus_area_um2": nucleus_px * um**2,
        "nc_ratio": nucleus_px / cell_px,
        "nuclear_lobes": float(lobes.max()),
        "nuclear_solidity": solidity(mask),
        "chromatin_texture": float(red_sigma[0, 0]) / max(float(red_mean[0, 0]), 1e-3),
        "nucleus_od": sum(cv2.mean(density, mask)[:3]) / 3,
        "cytoplasm_od": sum(cytoplasm[:3]) / 3 if cell_px > nucleus_px else math.nan,
        "granularity": math.sqrt(square) if granular.any() else math.nan,
    }


def _eroded(mask: NDArray[Any]) -> NDArray[Any]:
    """A mask (0 and 1, uint8) without its rim of one pixel, also where it ends with the picture."""
    return np.asarray(cv2.erode(mask, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0))
