"""The page of a validation: its figures, and pictures of every kind of mistake."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.read import read_field
from cbctool.records import RED_CELL_UM
from cbctool.run.judge import Mistake

if TYPE_CHECKING:
    from cbctool.run.validate import Validation

PICTURES_PER_KIND = 48
"""Misses, and as many false detections, shown of each kind; the table of mistakes has all of them."""

_ROWS, _COLUMNS = 6, 4
_A4 = (8.27, 11.69)
_TITLES = {"missed": "missed", "false": "false detections", "loose": "found, but box off (IoU below 0.5)"}
_ANNOTATED, _FOUND = "#0072B2", "#D55E00"  # told apart by every kind of colour vision (Okabe & Ito 2008)
_WINDOW_UM = 24.0
"""Side of a picture: a leukocyte of 15 um with its neighbours."""


def write_page(result: Validation, folder: Path) -> list[Path]:
    """Write ``validation.pdf`` and ``validation.png`` (its first page).

    Parameters
    ----------
    result : Validation
    folder : Path
        Exists already.

    Returns
    -------
    list of Path
    """
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    pdf_path, png_path = folder / "validation.pdf", folder / "validation.png"
    with PdfPages(pdf_path) as pdf:
        first = _front(Figure(figsize=_A4), result)
        first.savefig(png_path, dpi=110)
        pdf.savefig(first)
        for title, mistakes in _chapters(result.mistakes):
            for start in range(0, len(mistakes), _ROWS * _COLUMNS):
                pdf.savefig(_gallery(Figure(figsize=_A4), title, mistakes[start : start + _ROWS * _COLUMNS], result))
    return [pdf_path, png_path]


def _front(figure: Any, result: Validation) -> Any:
    from cbctool.run.validate import headline

    f = result.figures
    figure.text(0.06, 0.955, "cbctool validation", fontsize=17, weight="bold")
    about = f"{f.get('input', '')}   truth {f.get('truth', '')} ({f.get('truth_format', '')})   version {f['version']}"
    figure.text(0.06, 0.932, about, fontsize=8.5, color="#444444")
    y = 0.90
    if fields := f.get("fields"):
        text = (
            f"{fields.get('judged', 0)} fields judged, {fields.get('without_annotation', 0)} without annotation, "
            f"{len(fields.get('failed', []))} failed, {len(fields.get('unfit', []))} unfit to count"
        )
        figure.text(0.06, y, text, fontsize=9)
        y -= 0.03
    for name, value in headline(f):
        figure.text(0.06, y, name, fontsize=8, weight="bold")
        for line in _wrapped(value, 92):
            figure.text(0.33, y, line, fontsize=8)
            y -= 0.0155
        y -= 0.003
    faults = f.get("truth_faults", [])
    if faults and y > 0.15:
        y -= 0.012
        figure.text(0.06, y, f"Named faults of the annotation ({len(faults)})", fontsize=9, weight="bold")
        for fault in faults[: int((y - 0.12) / 0.015)]:
            y -= 0.015
            figure.text(0.06, y, _wrapped(f"{fault['source']}: {fault['what']}", 120)[0], fontsize=7)
    note = "Research use. What is counted as wrong may be a fault of the annotation: look at the pictures that follow."
    figure.text(0.06, 0.045, note, fontsize=8, color="#444444")
    return figure


def _chapters(mistakes: Sequence[Mistake]) -> list[tuple[str, list[Mistake]]]:
    by_chapter: dict[str, list[Mistake]] = defaultdict(list)
    for m in mistakes:
        by_chapter[f"{m.kind.value}: {_TITLES[m.what]}"].append(m)
    chapters = []
    for title, found in by_chapter.items():
        # Evenly over the fields rather than the first few, which come from one patient.
        step = max(1.0, len(found) / PICTURES_PER_KIND)
        shown = [found[int(i * step)] for i in range(min(len(found), PICTURES_PER_KIND))]
        count = f"{len(found)}" if len(shown) == len(found) else f"{len(shown)} of {len(found)}"
        chapters.append((f"{title} ({count})", shown))
    return chapters


def _gallery(figure: Any, title: str, mistakes: Sequence[Mistake], result: Validation) -> Any:
    figure.text(0.06, 0.965, title, fontsize=12, weight="bold")
    legend = "blue: annotated, not found or not at IoU 0.5; orange: detected; thin black: the field's other annotations"
    figure.text(0.06, 0.95, legend, fontsize=7.5, color="#444444")
    objects = {t.path: t.objects for t in result.truth.fields} if result.truth else {}
    cache: dict[Path, NDArray[Any]] = {}
    for i, m in enumerate(mistakes):
        axes = figure.add_subplot(_ROWS, _COLUMNS, i + 1)
        if m.path not in cache:
            cache.clear()  # mistakes come field by field: one picture in memory is enough
            cache[m.path] = read_field(m.path, "", m.field).rgb
        window, top, left = _window(cache[m.path], m)
        height, width = window.shape[:2]
        axes.imshow(window, interpolation="nearest" if height < 60 else "bilinear")
        for o in objects.get(m.path, ()):
            if o.is_point:
                axes.plot(o.xmin_px - left, o.ymin_px - top, "+", color="#333333", markersize=6, markeredgewidth=0.8)
            else:
                _rectangle(axes, o.ymin_px - top, o.xmin_px - left, o.ymax_px - top, o.xmax_px - left, "#333333", 0.5)
        if m.detection is not None:
            ymin, xmin, ymax, xmax = m.detection
            _rectangle(axes, ymin - top, xmin - left, ymax - top, xmax - left, _FOUND, 1.2)
        colour = _FOUND if m.what == "false" else _ANNOTATED
        _rectangle(axes, m.ymin_px - top, m.xmin_px - left, m.ymax_px - top, m.xmax_px - left, colour, 1.6)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        there = {"missed": "found as ", "false": "annotated: ", "loose": ""}[m.what] + m.found_as
        axes.set_title(f"{Path(m.field).name}\n{there}"[:90], fontsize=5.5, pad=2)
    figure.subplots_adjust(left=0.05, right=0.95, bottom=0.03, top=0.92, hspace=0.22, wspace=0.08)
    return figure


def _window(rgb: NDArray[Any], m: Mistake) -> tuple[NDArray[Any], float, float]:
    """The surroundings of a mistake, and the row and column in the file of its top left corner."""
    extent = max(m.ymax_px - m.ymin_px, m.xmax_px - m.xmin_px)
    # Without a scale: as wide as three of the annotated cells.
    side = _WINDOW_UM / m.um_per_px if math.isfinite(m.um_per_px) else 3 * max(extent, RED_CELL_UM)
    half = max(side, 1.3 * extent) / 2
    row, col = (m.ymin_px + m.ymax_px) / 2, (m.xmin_px + m.xmax_px) / 2
    top, left = int(max(row - half, 0)), int(max(col - half, 0))
    bottom, right = int(min(row + half, rgb.shape[0])), int(min(col + half, rgb.shape[1]))
    return np.asarray(rgb[top : max(bottom, top + 1), left : max(right, left + 1)]), float(top), float(left)


def _rectangle(axes: Any, ymin: float, xmin: float, ymax: float, xmax: float, colour: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    corner = (xmin - 0.5, ymin - 0.5)
    axes.add_patch(Rectangle(corner, xmax - xmin, ymax - ymin, fill=False, edgecolor=colour, linewidth=width))


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]
