"""The pages of a validation: its figures, and pictures of every kind of mistake."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from cbctool.imaging.read import read_field
from cbctool.records import CLASSES, RED_CELL_UM
from cbctool.report.sheet import BAND, GREY, INK, MARGIN, Sheet, register_fonts
from cbctool.run.judge import Mistake
from cbctool.run.training_data import NAMES, UNKNOWN_LABEL

if TYPE_CHECKING:
    from cbctool.run.score_crops import JudgedCrops
    from cbctool.run.validate import Validation

PICTURES_PER_KIND = 60
"""Misses, and as many false detections, shown of each kind; the table of mistakes has all of them."""

_COLUMNS, _ROWS = 5, 6
_STEP = (A4[0] - 2 * MARGIN) / _COLUMNS
_SIDE = _STEP - 8
_TITLES = {"missed": "missed", "false": "false detections", "loose": "found, but box off (IoU below 0.5)"}
_ANNOTATED, _FOUND = "#0072B2", "#D55E00"  # told apart by every kind of colour vision (Okabe & Ito 2008)
_WINDOW_UM = 24.0
"""Side of a picture: a leukocyte of 15 um with its neighbours."""
_PICTURE_PX = 300


def write_page(result: Validation, folder: Path) -> Path:
    """Write ``validation.pdf`` into a folder that exists.

    Returns
    -------
    Path
    """
    register_fonts()
    path = folder / "validation.pdf"
    canvas = Canvas(str(path), pagesize=A4, invariant=True)
    canvas.setTitle("cbctool validation")
    sheet = Sheet(canvas, *A4)
    _front(sheet, result)
    if result.crops is not None:
        _crop_pages(sheet, result.crops)
    if result.pairs:
        _agreement_page(sheet, result)
    for title, mistakes in _chapters(result.mistakes):
        for start in range(0, len(mistakes), _ROWS * _COLUMNS):
            _gallery(sheet, title, mistakes[start : start + _ROWS * _COLUMNS], result)
    canvas.save()
    return path


def _front(sheet: Sheet, result: Validation) -> None:
    from cbctool.run.validate import headline

    f = result.figures
    sheet.text(MARGIN, 52, "cbctool validation", 17, bold=True)
    weights = f.get("weights")
    about = [
        f.get("input", ""),
        "/".join(part for part in (f.get("source", ""), f.get("split", "")) if part),
        f"truth {f['truth']} ({f['truth_format']})" if "truth" in f else "",
        f"weights {weights['name']} (sha256 {weights['sha256'][:12]}…)" if weights else "",
        f"version {f['version']}",
    ]
    sheet.text(MARGIN, 68, "   ".join(a for a in about if a), 8, colour=GREY, width=sheet.inner)
    y = 92.0
    if fields := f.get("fields"):
        text = f"{fields['judged']} fields of {fields['pictures']} judged, {fields['without_annotation']} without truth"
        sheet.text(MARGIN, y, f"{text}, {len(fields['failed'])} failed, {len(fields['unfit'])} unfit to count.", 9)
        y += 20
    for name, value in headline(f):
        sheet.text(MARGIN, y, name, 8, bold=True, width=150)
        y = sheet.paragraph(MARGIN + 158, y, value, sheet.inner - 158, 8) + 4
    classes = f.get("classes") or {}
    if confusion := f.get("confusion") or classes.get("confusion"):
        y = _confusion(sheet, y + 16, confusion, classes.get("columns") or CLASSES)
    faults = f.get("truth_faults", [])
    if faults:
        y += 12
        sheet.text(MARGIN, y, f"Named faults of the annotation ({len(faults)})", 9, bold=True)
        for fault in faults[: max(0, int((sheet.height - 90 - y) / 11))]:
            y += 11
            sheet.text(MARGIN, y, f"{fault['source']}: {fault['what']}", 7, width=sheet.inner)
    note = "Research use."
    if result.mistakes or result.crops is not None:
        note += " What is counted as wrong may be a fault of the annotation: look at the pictures that follow."
    sheet.text(MARGIN, sheet.height - MARGIN, note, 8, colour=GREY)
    sheet.turn()


def _confusion(sheet: Sheet, y: float, table: Sequence[Sequence[int]], columns: Sequence[str]) -> float:
    """Cells by truth (row) and call (column), right ones in bold; returns where the next line goes."""
    step = (sheet.inner - 100) / len(columns)
    sheet.text(MARGIN, y, "truth, and what it was called", 8, bold=True)
    for number, name in enumerate(columns):
        short = name.replace("immature_granulocyte", "imm. gran.").replace("_", " ")
        sheet.text(MARGIN + 100 + (number + 1) * step, y + 13, short, 6.5, colour=GREY, align="right", width=step - 4)
    y += 13
    for number, (name, row) in enumerate(zip(CLASSES, table, strict=True)):
        if not sum(row):
            continue
        y += 12
        sheet.text(MARGIN, y, name.replace("_", " "), 7.5)
        for column, count in enumerate(row):
            if count:
                right = MARGIN + 100 + (column + 1) * step
                sheet.text(right, y, str(count), 7.5, bold=column == number, align="right")
    return y + 14


_PLOT = (150.0, 92.0)  # width and height of a plot: two beside each other, six classes on a page


def _agreement_page(sheet: Sheet, result: Validation) -> None:
    """Per class: this tool's percentages over the manual ones, and differences over the means; slides as rings."""
    sheet.text(MARGIN, 48, "differentials by hand and by this software", 12, bold=True)
    legend = (
        "percent; left: here over by hand, on the line where they agree; right: here minus by hand over their mean, "
    )
    legend += "with bias and limits of agreement"
    sheet.text(MARGIN, 61, legend, 7.5, colour=GREY)
    y = 78.0
    for name, figures in result.figures["differentials"].items():
        hand, here = np.array([pair[2:4] for pair in result.pairs if pair[1] == name], float).T
        agree = figures["bland_altman"]
        sheet.text(MARGIN, y + _PLOT[1] / 2, name.replace("_", " "), 7.5, bold=True, width=112)
        top = max(float(np.ceil(max(hand.max(), here.max()) / 10) * 10), 10.0)
        plot = _Plot(sheet, MARGIN + 125, y, (0.0, top), (0.0, top))
        plot.line(0, 0, top, top, GREY)
        plot.dots(hand, here)
        reach = [abs(v) for v in (*(here - hand), agree["lower"], agree["upper"]) if math.isfinite(v)]
        side = max(float(np.ceil(max(reach) / 5) * 5), 5.0)
        plot = _Plot(sheet, MARGIN + 325, y, (0.0, top), (-side, side))
        plot.line(0, 0, top, 0, BAND)
        for value, colour in ((agree["bias"], _ANNOTATED), (agree["lower"], GREY), (agree["upper"], GREY)):
            if math.isfinite(value):
                plot.line(0, value, top, value, colour)
                sheet.text(plot.x + _PLOT[0] + 3, plot.place(0, value)[1] + 2, f"{value:z.1f}", 6, colour=colour)
        plot.dots((hand + here) / 2, here - hand)
        y += _PLOT[1] + 24
    sheet.turn()


@dataclass(frozen=True)
class _Plot:
    """A framed plot with its top left corner at (x, y); ``across`` and ``up`` are the ranges of its axes."""

    sheet: Sheet
    x: float
    y: float
    across: tuple[float, float]
    up: tuple[float, float]

    def __post_init__(self) -> None:
        left, bottom = self.x, self.y + _PLOT[1]
        self.sheet.box(self.x, self.y, *_PLOT, stroke=GREY, line=0.4)
        for value, align in zip(self.across, ("left", "right"), strict=True):
            self.sheet.text(self.place(value, 0)[0], bottom + 8, f"{value:g}", 6, colour=GREY, align=align)
        for value, drop in zip(self.up, (0.0, 6.0), strict=True):
            row = self.place(0, value)[1] + drop
            self.sheet.text(left - 3, row, f"{value:g}", 6, colour=GREY, align="right")

    def place(self, value: float, height: float) -> tuple[float, float]:
        """Where a pair of values lies on the sheet."""
        x = self.x + (value - self.across[0]) / (self.across[1] - self.across[0]) * _PLOT[0]
        return x, self.y + (self.up[1] - height) / (self.up[1] - self.up[0]) * _PLOT[1]

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        self.sheet.line(*self.place(x0, y0), *self.place(x1, y1), 0.6, colour)

    def dots(self, values: NDArray[np.float64], heights: NDArray[np.float64]) -> None:
        for value, height in zip(values.tolist(), heights.tolist(), strict=True):
            self.sheet.ring(*self.place(value, height), 1.8, colour=_FOUND)


def _crop_pages(sheet: Sheet, crops: JudgedCrops) -> None:
    """The single cells that were called another class, the surest first: there the label may be what is wrong."""
    best = crops.scores.probabilities.argmax(axis=1)
    confidence = crops.scores.probabilities.max(axis=1)
    labels = crops.data.labels
    # an unknown picture is wrong once it gets a call, another one where its likeliest class is not its own
    wrong = np.flatnonzero(np.where(labels == UNKNOWN_LABEL, crops.called, best != labels))
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    shown = wrong[:PICTURES_PER_KIND]
    count = f"{len(wrong)}" if len(shown) == len(wrong) else f"the surest {len(shown)} of {len(wrong)}"
    for start in range(0, len(shown), _ROWS * _COLUMNS):
        sheet.text(MARGIN, 48, f"cells called another class ({count})", 12, bold=True)
        sheet.text(MARGIN, 61, "as the network sees them; the surest first", 7.5, colour=GREY)
        for i, cell in enumerate(shown[start : start + _ROWS * _COLUMNS]):
            x, y = MARGIN + (i % _COLUMNS) * _STEP, 74 + (i // _COLUMNS) * (_STEP + 18)
            sheet.jpeg(_jpeg(crops.data.crops[cell]), x, y, _SIDE, _SIDE)
            called = f"{CLASSES[best[cell]]} {confidence[cell]:.2f}{'' if crops.called[cell] else ', no call'}"
            sheet.text(x, y + _SIDE + 7, crops.data.names[cell], 5.5, width=_SIDE)
            text = f"{NAMES[labels[cell]]}: {called}".replace("_", " ")
            sheet.text(x, y + _SIDE + 14, text, 5.5, colour=GREY, width=_SIDE)
        sheet.turn()


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


def _gallery(sheet: Sheet, title: str, mistakes: Sequence[Mistake], result: Validation) -> None:
    sheet.text(MARGIN, 48, title, 12, bold=True, width=sheet.inner)
    legend = "blue: annotated, not found or not at IoU 0.5; orange: detected; thin black: the field's other annotations"
    sheet.text(MARGIN, 61, legend, 7.5, colour=GREY)
    objects = {t.path: t.objects for t in result.truth.fields} if result.truth else {}
    path, rgb = None, np.zeros((1, 1, 3), np.uint8)
    for i, m in enumerate(mistakes):
        x, y = MARGIN + (i % _COLUMNS) * _STEP, 74 + (i // _COLUMNS) * (_STEP + 18)
        if m.path != path:  # mistakes come field by field: one picture in memory is enough
            path, rgb = m.path, read_field(m.path, "", m.field).rgb
        window, top, left = _window(rgb, m)
        scale = _SIDE / max(window.shape[:2])
        sheet.jpeg(_jpeg(window), x, y, window.shape[1] * scale, window.shape[0] * scale)
        frame = _Frame(sheet, x, y, scale, top, left, window.shape[0], window.shape[1])
        for o in objects.get(m.path, ()):
            if o.is_point:
                frame.cross(o.ymin_px, o.xmin_px)
            else:
                frame.box(o.ymin_px, o.xmin_px, o.ymax_px, o.xmax_px, INK, 0.4)
        if m.detection is not None:
            frame.box(*m.detection, _FOUND, 1.0)
        frame.box(m.ymin_px, m.xmin_px, m.ymax_px, m.xmax_px, _FOUND if m.what == "false" else _ANNOTATED, 1.4)
        there = {"missed": "found as ", "false": "annotated: ", "loose": ""}[m.what] + m.found_as
        sheet.text(x, y + _SIDE + 7, Path(m.field).name, 5.5, width=_SIDE)
        sheet.text(x, y + _SIDE + 14, there, 5.5, colour=GREY, width=_SIDE)
    sheet.turn()


@dataclass(frozen=True)
class _Frame:
    """A window of the field on the sheet; draws what lies in it, in pixels of the file."""

    sheet: Sheet
    x: float
    y: float
    scale: float
    top: float
    left: float
    height: int
    width: int

    def box(self, ymin: float, xmin: float, ymax: float, xmax: float, colour: str, line: float) -> None:
        y0, y1 = (min(max(v - self.top, 0), self.height) * self.scale for v in (ymin, ymax))
        x0, x1 = (min(max(v - self.left, 0), self.width) * self.scale for v in (xmin, xmax))
        if y1 > y0 and x1 > x0:
            self.sheet.box(self.x + x0, self.y + y0, x1 - x0, y1 - y0, stroke=colour, line=line)

    def cross(self, row: float, col: float) -> None:
        y, x = (row - self.top) * self.scale, (col - self.left) * self.scale
        if 0 <= y <= self.height * self.scale and 0 <= x <= self.width * self.scale:
            self.sheet.line(self.x + x - 3, self.y + y, self.x + x + 3, self.y + y, 0.6)
            self.sheet.line(self.x + x, self.y + y - 3, self.x + x, self.y + y + 3, 0.6)


def _jpeg(window: NDArray[Any]) -> bytes:
    factor = _PICTURE_PX / max(window.shape[:2])
    shown = cv2.resize(
        window, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    )
    code = cv2.imencode(".jpg", np.ascontiguousarray(shown[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return bytes(code.tobytes())


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
