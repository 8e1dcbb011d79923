"""``report.pdf``: page 1 for the decision, the pages after it for the evidence.

Pages: decision; gallery per class, most doubtful first; annotated fields; quality, scale and stain; method, limits,
legend. Everything that is meant is also readable in grey: shapes, codes, words; colour only helps.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Sequence

from reportlab.pdfgen.canvas import Canvas

from cbctool.records import (
    Adequacy,
    DifferentialRow,
    FieldSummary,
    Flag,
    FlagRule,
    SlideResult,
    TileMap,
)
from cbctool.report.content import (
    ADEQUACY_WORDS,
    ERROR_HEADINGS,
    ERROR_TITLE,
    FIELD_HEADINGS,
    FIELD_KEY,
    GALLERY_KEY,
    MAP_HEADING,
    METHOD,
    TOO_FEW,
    chart_key,
    classified_text,
    error_rows,
    failure_text,
    field_rows,
    fields_text,
    flag_text,
    head_facts,
    legend,
    map_legend,
    map_text,
    method_facts,
    panels,
    stain_rows,
    unclassified_text,
)
from cbctool.report.evidence import Shown, doubts, flagged_cells, gallery_groups, numbered_fields
from cbctool.report.pictures import Box, boxes_of, by_field, fields_to_show, flagged_identities, scale_bar
from cbctool.report.sheet import (
    BAND,
    BOLD,
    FONT,
    GREY,
    INK,
    MARGIN,
    PALE,
    Sheet,
    one_line,
    register_fonts,
    text_width,
    tint,
    wrapped,
)
from cbctool.report.style import (
    LIMITS,
    MARKS,
    OUTSIDE_SIGN,
    PAGE_SIZES,
    SEVERITY_ORDER,
    SEVERITY_SIGN,
    TILE_MARKS,
    ReportStyle,
    confirmation,
    number,
    report_status,
)

logger = logging.getLogger(__name__)

THUMB = 47.0
"""Side of a gallery picture, points: 96 px at 147 dpi, so that chromatin can be seen on paper."""

GALLERY_STEP = (52.3, 66.0)
"""Column and row pitch of the gallery, points: ten to a row on A4."""

AXIS_TICKS = (0, 1, 5, 10, 25, 50, 75, 100)

FIELD_POINTS_PER_UM = 2.2
"""Scale at which annotated fields are drawn, about that of the gallery: a cell is wider than its label."""

MOST_COLUMNS = 3
"""Annotated fields side by side at most, however small they are."""

TALLEST_FIELD = 320.0
"""Points: two rows of fields to a page."""

TOP = MARGIN + 26
"""First baseline below the running head."""


def report_pdf(result: SlideResult, style: ReportStyle, rules: Sequence[FlagRule]) -> bytes:
    """The report as PDF.

    Parameters
    ----------
    result : SlideResult
    style : ReportStyle
    rules : sequence of FlagRule
        The registry, for the legend.

    Returns
    -------
    bytes
        The same input gives the same bytes: no clock, no random identifier.
    """
    register_fonts()
    width, height = PAGE_SIZES[style.page_size]
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(width, height), invariant=1, pageCompression=1)
    canvas.setTitle(one_line(f"Blood smear {result.slide.name}: {report_status(result)}"))
    canvas.setAuthor(one_line(style.lab_name))
    canvas.setSubject("Leukocyte differential by image preclassification, for research use")
    canvas.setCreator(f"cbctool {result.version}")
    pages = _Pages(Sheet(canvas, width, height), result)
    _decision(pages, style)
    _all_flags(pages)
    _galleries(pages, style)
    _annotated_fields(pages, style)
    flow = _Flow(pages, "Quality, method, limits and legend")
    _map(flow, result)
    _quality(flow, result)
    _method(flow, result, rules)
    pages.finish()
    return out.getvalue()


class _Pages:
    """Turns pages: head and foot of each, the outline, and the number of pages, known only at the end."""

    def __init__(self, sheet: Sheet, result: SlideResult) -> None:
        self.sheet, self.result = sheet, result
        self.count = 0
        self._title = ""

    def turn(self, title: str) -> float:
        """Start a page; the first baseline on it."""
        sheet, result = self.sheet, self.result
        if self.count:
            self._foot()
            sheet.turn()
        self.count += 1
        if title != self._title:
            sheet.canvas.bookmarkPage(f"page-{self.count}")
            sheet.canvas.addOutlineEntry(title, f"page-{self.count}")
            self._title = title
        if self.count > 1:
            sheet.text(MARGIN, MARGIN + 4, title, 11, bold=True)
            label = f"{result.slide.name} · {report_status(result)}"
            sheet.text(sheet.width - MARGIN, MARGIN + 4, label, 8, colour=GREY, align="right", width=sheet.inner * 0.55)
            sheet.line(MARGIN, MARGIN + 10, sheet.width - MARGIN, MARGIN + 10, 0.7)
        return TOP

    @property
    def bottom(self) -> float:
        """Where the text area ends."""
        return self.sheet.height - 40

    def _foot(self) -> None:
        sheet, result = self.sheet, self.result
        y = sheet.height - 22
        sheet.line(MARGIN, y - 9, sheet.width - MARGIN, y - 9, 0.3, PALE)
        left = f"For research use · cbctool {result.version} · weights {result.weights.sha256[:12]}"
        sheet.text(MARGIN, y, f"{left} · result {result.identity[:12]}", 6.5, colour=GREY)
        sheet.text(sheet.width - MARGIN - 14, y, f"page {self.count} of", 6.5, colour=GREY, align="right")
        sheet.canvas.doForm("pages")

    def finish(self) -> None:
        """Close the last page and fill in the number of pages."""
        sheet = self.sheet
        self._foot()
        sheet.turn()
        sheet.canvas.beginForm("pages")
        sheet.text(sheet.width - MARGIN - 14, sheet.height - 22, f" {self.count}", 6.5, colour=GREY)
        sheet.canvas.endForm()
        sheet.canvas.save()


# -------------------------------------------------------------------------------------------------------------- page 1


def _decision(pages: _Pages, style: ReportStyle) -> None:
    sheet, result = pages.sheet, pages.result
    pages.turn("Decision")
    y = _head(sheet, result, style)
    y = _counted(sheet, result, y)
    y = _flags(sheet, result, y)
    y = _differential(sheet, result, y)
    y = _panels(sheet, result, y)
    _strip(sheet, result, y, pages.bottom - 60)
    _sign_off(sheet, result, pages.bottom - 34)


def _head(sheet: Sheet, result: SlideResult, style: ReportStyle) -> float:
    x, right = MARGIN, sheet.width - MARGIN
    y = MARGIN
    if style.logo is not None:
        try:
            x += sheet.logo(style.logo, MARGIN, y - 6, 110, 30) + 8
        except OSError as error:  # moved since the profile was read, or no picture: a report without it is still right
            logger.warning("%s: the logo is left out: %s", style.logo, error)
    badge = "REVIEWED" if result.review else "PRELIMINARY"
    badge_width = text_width(badge, BOLD, 11) + 18
    sheet.text(x, y + 8, style.lab_name or "Blood smear report", 11, bold=True, width=right - badge_width - x - 12)
    if style.lab_name:
        sheet.text(x, y + 19, "Blood smear report", 8, colour=GREY)
    sheet.box(right - badge_width, y - 5, badge_width, 18, stroke=INK, line=1.4, dash=not result.review)
    sheet.text(right - badge_width / 2, y + 8, badge, 11, bold=True, align="centre")
    sheet.text(right, y + 22, confirmation(result), 7, colour=GREY, align="right", width=sheet.inner * 0.6)
    y += 46
    sheet.text(MARGIN, y, result.slide.name, 18, bold=True, width=sheet.inner)
    facts = head_facts(result, style)
    y += 15
    column = sheet.inner / 2
    narrow = [fact for fact in facts if text_width(one_line(fact[1]), FONT, 7.5) <= column - 52]
    for i, (name, value) in enumerate(narrow):
        left, line = MARGIN + (i % 2) * column, y + (i // 2) * 11
        sheet.text(left, line, name, 7.5, colour=GREY)
        sheet.text(left + 46, line, value, 7.5)
    y += ((len(narrow) + 1) // 2) * 11
    for name, value in facts:
        if (name, value) not in narrow:  # a long comment has lines of its own
            lines = wrapped(value, FONT, 7.5, sheet.inner - 52)
            sheet.text(MARGIN, y, name, 7.5, colour=GREY)
            for i, text in enumerate(lines[:FACT_LINES]):
                more = " …" if i == FACT_LINES - 1 and len(lines) > FACT_LINES else ""
                sheet.text(MARGIN + 46, y, text + more, 7.5)
                y += 11
    return y + 4


def _counted(sheet: Sheet, result: SlideResult, y: float) -> float:
    differential = result.differential
    sheet.box(MARGIN, y, sheet.inner, 24, fill="#F2F2F2")
    text = classified_text(result)
    sheet.text(MARGIN + 8, y + 16, text, 12, bold=True)
    x = MARGIN + 8 + text_width(text, BOLD, 12) + 10
    sheet.text(x, y + 16, ADEQUACY_WORDS[differential.adequacy], 9.5)
    sheet.text(sheet.width - MARGIN - 8, y + 16, unclassified_text(result), 8, align="right")
    return y + 38


FACT_LINES = 3
"""Lines of a long comment on page 1; HTML has it whole."""

FLAGS_ON_PAGE_1 = 7
FLAG_LINES = 14
"""Lines that the flags may take on page 1, so that the cells that raised them have room too."""

FLAG_TEXT = 190.0
"""Where the sentence of a flag starts, points from the margin."""


def _flags(sheet: Sheet, result: SlideResult, y: float) -> float:
    flags = sorted(result.flags, key=lambda flag: SEVERITY_ORDER[flag.severity])
    sheet.text(MARGIN, y, "Flags", 9.5, bold=True)
    if not flags:
        sheet.text(MARGIN + 40, y, "None was raised.", 8.5)
        return y + 16
    y += 13
    most = _lines_per_flag(sheet, flags)
    for flag in flags[:FLAGS_ON_PAGE_1]:
        sheet.text(MARGIN, y, SEVERITY_SIGN[flag.severity], 9, bold=True)
        sheet.text(MARGIN + 13, y, flag.severity.value, 7, colour=GREY)
        title = wrapped(_sentence(flag.short), BOLD, 8, FLAG_TEXT - 56)[:2]
        lines = _flag_lines(sheet, flag)
        for i, line in enumerate(title):
            sheet.text(MARGIN + 50, y + i * 10, line, 8, bold=True)
        for i, line in enumerate(lines[:most]):
            more = " …" if i == most - 1 and len(lines) > most else ""
            sheet.text(MARGIN + FLAG_TEXT, y + i * 10, line + more, 8)
        y += 10 * max(len(title), min(len(lines), most)) + 2.5
    if len(flags) > FLAGS_ON_PAGE_1:
        sheet.text(MARGIN + 13, y, f"and {len(flags) - FLAGS_ON_PAGE_1} more on the next page", 8, bold=True)
        y += 12
    return y + 8


def _lines_per_flag(sheet: Sheet, flags: Sequence[Flag]) -> int:
    """Three lines for each flag's sentence, two where there are many flags."""
    return 3 if sum(min(len(_flag_lines(sheet, flag)), 3) for flag in flags[:FLAGS_ON_PAGE_1]) <= FLAG_LINES else 2


def _flag_lines(sheet: Sheet, flag: Flag) -> list[str]:
    return wrapped(flag_text(flag), FONT, 8, sheet.inner - FLAG_TEXT - 10)


def _differential(sheet: Sheet, result: SlideResult, y: float) -> float:
    differential = result.differential
    absolute = any(row.absolute_10e9_per_l == row.absolute_10e9_per_l for row in differential.rows)
    counted = differential.adequacy is not Adequacy.NONE
    left, right = MARGIN, sheet.width - MARGIN
    end_name, end_count, end_percent, end_ci = left + 116, left + 146, left + 182, left + 242
    chart = end_ci + 10
    chart_width = right - chart - (172 if absolute else 128)
    reference, mark = chart + chart_width + 40, chart + chart_width + 48
    sheet.text(left, y, "Differential", 9.5, bold=True)
    headings = [(end_count, "count"), (end_percent, "%"), (end_ci, "95 % interval"), (reference, "reference")]
    for x, label in headings if counted else headings[:1]:
        sheet.text(x, y, label, 7, colour=GREY, align="right")
    if absolute and counted:
        sheet.text(right, y, "×10⁹/L (reference)", 7, colour=GREY, align="right")
    y += 5
    sheet.line(left, y, right, y, 0.7)
    row_height = 19.0
    top = y

    def place(percent: float) -> float:
        return chart + chart_width * math.sqrt(min(max(percent, 0.0), 100.0) / 100)

    if counted:
        for tick in AXIS_TICKS:
            sheet.line(place(tick), top, place(tick), top + row_height * len(differential.rows), 0.25, PALE)
            sheet.text(
                place(tick), top + row_height * len(differential.rows) + 8, str(tick), 6, colour=GREY, align="centre"
            )
    for row in differential.rows:
        middle = y + row_height / 2
        base = middle + 3
        strong = bool(row.outside) and counted
        mark_of = MARKS[row.cell_class]
        sheet.box(left, middle - 3, 6, 6, fill=mark_of.colour)
        sheet.text(left + 10, base, mark_of.label, 8, bold=strong, width=end_name - left)
        sheet.text(end_count, base, f"{row.count:,}", 8.5, align="right")
        if counted:
            sheet.text(end_percent, base, number(row.percent), 9.5, bold=True, align="right")
            sheet.text(end_ci, base, f"{number(row.ci_low)} – {number(row.ci_high)}", 7.5, align="right")
            _chart_row(sheet, row, place, middle, mark_of.colour)
            if row.reference_high == row.reference_high:
                low_high = f"{row.reference_low:g} – {row.reference_high:g}"
                sheet.text(reference, base, low_high, 7.5, align="right")
            sheet.text(mark, base, OUTSIDE_SIGN.get(row.outside, row.outside), 7.5, bold=strong)
            if absolute:
                _absolute(sheet, row, right, middle)
        sheet.line(left, y + row_height, right, y + row_height, 0.25, PALE)
        y += row_height
    if not counted:
        sheet.text((chart + right) / 2, top + row_height * 2.5 + 3, TOO_FEW, 9, bold=True, align="centre")
        return y + 14
    y += 17
    return sheet.paragraph(left, y, chart_key(result), sheet.inner, 6.3, colour=GREY) + 6


def _chart_row(sheet: Sheet, row: DifferentialRow, place: Callable[[float], float], middle: float, colour: str) -> None:
    if row.reference_high == row.reference_high:
        start = place(row.reference_low)
        sheet.box(start, middle - 7, place(row.reference_high) - start, 14, fill=BAND)
    if row.percent != row.percent:
        return
    sheet.box(place(0), middle - 3, max(place(row.percent) - place(0), 0.4), 6, fill=tint(colour))
    sheet.line(place(row.total_low), middle, place(row.total_high), middle, 0.7)
    for end in (row.total_low, row.total_high):
        sheet.line(place(end), middle - 2.5, place(end), middle + 2.5, 0.7)
    sheet.line(place(row.ci_low), middle, place(row.ci_high), middle, 2.2)
    sheet.dot(place(row.percent), middle, 2.6, fill="#FFFFFF")


def _absolute(sheet: Sheet, row: DifferentialRow, right: float, middle: float) -> None:
    sign = OUTSIDE_SIGN.get(row.absolute_outside, "")[:1]
    text = f"{sign} {row.absolute_10e9_per_l:.2f}".strip()
    known = row.absolute_reference_high == row.absolute_reference_high
    sheet.text(right, middle + (0 if known else 3), text, 8.5, bold=bool(sign), align="right")
    if known:
        interval = f"{row.absolute_reference_low:g} – {row.absolute_reference_high:g}"
        sheet.text(right, middle + 7.5, interval, 6, colour=GREY, align="right")


def _panels(sheet: Sheet, result: SlideResult, y: float) -> float:
    boxes = panels(result)
    gap = 6.0
    width = (sheet.inner - gap * (len(boxes) - 1)) / len(boxes)
    for i, (title, value, note) in enumerate(boxes):
        x = MARGIN + i * (width + gap)
        sheet.box(x, y, width, 46, stroke=PALE)
        sheet.text(x + 6, y + 11, title, 7, colour=GREY)
        sheet.text(x + 6, y + 24, value, 8.5, bold=True, width=width - 10)
        sheet.paragraph(x + 6, y + 33, note, width - 10, 6.3, colour=GREY, leading=1.15)
    return y + 60


def _strip(sheet: Sheet, result: SlideResult, y: float, bottom: float) -> None:
    """Cells that raised flags, the most severe flag first, as many as there is room for."""
    columns = int(sheet.inner // GALLERY_STEP[0])
    rows = min(int((bottom - y) // GALLERY_STEP[1]), 3)
    shown, total = flagged_cells(result, columns * max(rows, 0))
    if not shown:
        return
    more = f": {len(shown)} of {total}" if total > len(shown) else ""
    sheet.text(MARGIN, y, f"Cells that raised flags{more}", 9.5, bold=True)
    for i, cell in enumerate(shown):
        x = MARGIN + (i % columns) * GALLERY_STEP[0]
        _thumbnail(sheet, cell, x, y + 6 + (i // columns) * GALLERY_STEP[1])


def _sign_off(sheet: Sheet, result: SlideResult, y: float) -> None:
    if not result.review:
        sheet.text(MARGIN, y, "Confirmed by", 8)
        sheet.line(MARGIN + 58, y + 2, MARGIN + 300, y + 2, 0.5)
        sheet.text(MARGIN + 312, y, "Date", 8)
        sheet.line(MARGIN + 336, y + 2, sheet.width - MARGIN, y + 2, 0.5)
    else:
        sheet.text(MARGIN, y, confirmation(result), 8.5, bold=True, width=sheet.inner)
    sheet.paragraph(MARGIN, y + 15, " ".join(LIMITS), sheet.inner, 6.8, leading=1.25)


def _all_flags(pages: _Pages) -> None:
    """All flags in full, where page 1 had to cut."""
    result = pages.result
    flags = sorted(result.flags, key=lambda flag: SEVERITY_ORDER[flag.severity])
    most = _lines_per_flag(pages.sheet, flags)
    cut = any(len(_flag_lines(pages.sheet, flag)) > most for flag in flags)
    if len(flags) <= FLAGS_ON_PAGE_1 and not cut:
        return
    flow = _Flow(pages, "Flags")
    for flag in flags:
        flow.write(
            f"{SEVERITY_SIGN[flag.severity]} {_sentence(flag.short)} ({flag.severity.value})", size=8.5, bold=True
        )
        flow.write(flag_text(flag), indent=13, after=5)


# ----------------------------------------------------------------------------------------------------------- galleries


LEAST_NOTE = 3.5
"""Points: smaller print is left out, as HTML and ``cells.csv`` have it."""


def _thumbnail(sheet: Sheet, shown: Shown, x: float, y: float) -> None:
    """One cell: picture, call, field.cell number, second guess; flagged cells have a heavy frame."""
    sheet.jpeg(shown.thumbnail, x, y, THUMB, THUMB)
    sheet.box(x, y, THUMB, THUMB, stroke=INK if shown.flagged else GREY, line=2.0 if shown.flagged else 0.5)
    sheet.text(x, y + THUMB + 7, shown.call, min(6, 6 * THUMB / text_width(shown.call, BOLD, 6)), bold=True)
    number_width = text_width(shown.number, FONT, 5.4)
    sheet.text(x, y + THUMB + 13, shown.number, 5.4, width=THUMB)
    if shown.note:  # gives way to the number, by which a cell is found again
        size = min(5, 5 * (THUMB - number_width - 2) / text_width(shown.note, FONT, 5))
        if size >= LEAST_NOTE:
            sheet.text(x + THUMB, y + THUMB + 13, shown.note, size, colour=GREY, align="right")


def _galleries(pages: _Pages, style: ReportStyle) -> None:
    """Cells per class in order of doubt, so that a person can check the calls in a minute."""
    groups = gallery_groups(pages.result, style.pdf_cells)
    if not groups:
        return
    sheet, title = pages.sheet, "Cells by class"
    columns = int(sheet.inner // GALLERY_STEP[0])
    y = pages.turn(title)
    y = sheet.paragraph(MARGIN, y, GALLERY_KEY, sheet.inner, 6.8, colour=GREY) + 6
    for group in groups:
        if y + 6 + GALLERY_STEP[1] > pages.bottom:
            y = pages.turn(title)
        sheet.text(MARGIN, y, f"{group.title} ({MARKS[group.key].code})", 9, bold=True)
        sheet.text(sheet.width - MARGIN, y, group.note, 7.5, align="right", width=sheet.inner - 190)
        y += 6
        for start in range(0, len(group.cells), columns):
            if y + GALLERY_STEP[1] - 8 > pages.bottom:
                y = pages.turn(title)
                sheet.text(MARGIN, y, f"{group.title} (continued)", 9, bold=True)
                y += 6
            for i, cell in enumerate(group.cells[start : start + columns]):
                _thumbnail(sheet, cell, MARGIN + i * GALLERY_STEP[0], y)
            y += GALLERY_STEP[1]
        for note in doubts(group):
            if y > pages.bottom:
                y = pages.turn(title)
            y = sheet.paragraph(MARGIN, y + 3, note, sheet.inner, 6.5, colour=GREY) - 3
        y += 10


# -------------------------------------------------------------------------------------------------------------- fields


def _annotated_fields(pages: _Pages, style: ReportStyle) -> None:
    """Fields as photographed; boxes and codes are lines and text, so that they stay sharp when enlarged."""
    sheet, result, title = pages.sheet, pages.result, "Annotated fields"
    chosen: list[FieldSummary] = []
    weight = 0
    for summary in fields_to_show(result)[: style.pdf_fields]:
        weight += len(summary.preview_jpeg)
        if weight > style.pdf_preview_bytes:
            break
        chosen.append(summary)
    if not chosen:
        return
    numbers = numbered_fields(result)
    groups, flagged = by_field(result.observations), flagged_identities(result)
    y = pages.turn(title)
    y = sheet.paragraph(MARGIN, y, fields_text(result, len(chosen)), sheet.inner, 6.8, colour=GREY)
    widest = max(summary.width_px * summary.scale.um_per_px for summary in chosen)
    columns = min(max(round(sheet.inner / (FIELD_POINTS_PER_UM * widest)), 1), MOST_COLUMNS)
    column = (sheet.inner - 10 * (columns - 1)) / columns
    for start in range(0, len(chosen), columns):
        row = chosen[start : start + columns]
        sizes = [_fitted(summary, column) for summary in row]
        tallest = max(height for _, height in sizes)
        if y + tallest + 14 > pages.bottom:
            y = pages.turn(title) - 10
        for i, (summary, (width, height)) in enumerate(zip(row, sizes, strict=True)):
            x = MARGIN + i * (column + 10)
            label = f"Field {numbers[summary.name]}: {summary.name}"
            sheet.text(x, y + 8, label, 7, bold=True, width=width - _scale_bar(sheet, summary, x + width, y + 8, width))
            with sheet.clipped(x, y + 12, width, height):
                sheet.jpeg(summary.preview_jpeg, x, y + 12, width, height)
                zoom = width / (summary.width_px * summary.preview_scale)
                for box in boxes_of(summary, groups.get(summary.name, ()), flagged):
                    _annotation(sheet, box, zoom, (x, y + 12, width, height))
            sheet.box(x, y + 12, width, height, stroke=GREY)
        y += tallest + 20


def _scale_bar(sheet: Sheet, summary: FieldSummary, right: float, y: float, width: float) -> float:
    """A bar that ends at ``right``, above the picture so that it hides nothing of it; the room that it takes."""
    width_um = summary.width_px * summary.scale.um_per_px
    um = scale_bar(width_um)
    length = width * um / width_um
    label = f"{um:g} µm"
    sheet.line(right - length, y - 2, right, y - 2, 1.6)
    sheet.text(right - length - 3, y, label, 6, align="right")
    return length + text_width(label, FONT, 6) + 8


def _fitted(summary: FieldSummary, column: float) -> tuple[float, float]:
    """Width and height of a field in its column; one that is too tall is made narrower."""
    width = min(column, TALLEST_FIELD * summary.width_px / summary.height_px)
    return width, width * summary.height_px / summary.width_px


def _annotation(sheet: Sheet, box: Box, zoom: float, frame: tuple[float, float, float, float]) -> None:
    x, y, width, height = frame
    left, right = (min(max(v * zoom, 0.0), width) for v in (box.left, box.right))
    top, bottom = (min(max(v * zoom, 0.0), height) for v in (box.top, box.bottom))
    if right <= left or bottom <= top:
        return
    mark = MARKS[box.key]
    if box.ring:
        radius = max(right - left, bottom - top) / 2 + 1.5
        sheet.ring(x + (left + right) / 2, y + (top + bottom) / 2, radius, colour=mark.colour)
        return
    sheet.box(x + left, y + top, right - left, bottom - top, stroke=mark.colour, line=1.1, dash=not box.counted)
    text = f"{mark.code} {box.observation.cell.cell}"
    label_width = text_width(text, BOLD, 5) + 3
    label_x = x + min(left, width - label_width)
    label_y = y + (top - 6.5 if top >= 6.5 else min(bottom, height - 6.5))
    sheet.box(label_x, label_y, label_width, 6.5, fill=mark.colour)
    sheet.text(label_x + 1.5, label_y + 5, text, 5, bold=True, colour="#FFFFFF")


# ---------------------------------------------------------------------------------------------- running text and tables


class _Flow:
    """Sets paragraphs and table rows one below the other over as many pages as they need."""

    def __init__(self, pages: _Pages, title: str) -> None:
        self.pages, self.title = pages, title
        self.y = pages.turn(title)

    def heading(self, text: str) -> None:
        if self.y > TOP:
            self.y += 7
        self._room(40)
        self.write(text, size=9, bold=True, after=3)

    def write(self, text: str, size: float = 7.5, bold: bool = False, indent: float = 0.0, after: float = 2.0) -> None:
        """A paragraph."""
        self.row(((indent / self.pages.sheet.inner, text),), size, bold, after)

    def row(
        self,
        cells: Sequence[tuple[float, str]],
        size: float = 7.0,
        bold: bool = False,
        after: float = 1.5,
        strong: bool = False,
    ) -> None:
        """Texts side by side; each starts at a share of the width and wraps before the next.

        ``bold`` is for the whole row, ``strong`` for its second text, the name.
        """
        sheet = self.pages.sheet
        fonts = [BOLD if bold or (strong and i == 1) else FONT for i in range(len(cells))]
        step = size * 1.3
        starts = [MARGIN + sheet.inner * share for share, _ in cells]
        ends = [*(start - 5 for start in starts[1:]), sheet.width - MARGIN]
        texts = [
            wrapped(text, font, size, end - start)
            for (_, text), font, start, end in zip(cells, fonts, starts, ends, strict=True)
        ]
        deepest = max(len(lines) for lines in texts)
        self._room(step * min(deepest, 20))
        for i in range(deepest):
            if self.y > self.pages.bottom:
                self.y = self.pages.turn(self.title)
            for start, font, lines in zip(starts, fonts, texts, strict=True):
                if i < len(lines):
                    sheet.text(start, self.y, lines[i], size, bold=font == BOLD)
            self.y += step
        self.y += after

    def rule(self) -> None:
        """A thin line under a table's head."""
        sheet = self.pages.sheet
        sheet.line(MARGIN, self.y - 6.5, sheet.width - MARGIN, self.y - 6.5, 0.4)
        self.y += 3

    def figure(self, height: float) -> float:
        """Keep ``height`` free in one piece; where it begins."""
        self._room(height)
        top = self.y
        self.y += height
        return top

    def _room(self, height: float) -> None:
        if self.y + height > self.pages.bottom + 7:
            self.y = self.pages.turn(self.title)


MAP_HEIGHT = 230.0
"""Tallest map, points: a third of the page, so that warnings and fields follow on it."""

SIGN_SIDE = 5.0
"""Tiles narrower than this, points, bear colour only."""


def _map(flow: _Flow, result: SlideResult) -> None:
    """A whole slide beside the map of its tiles."""
    tiles = result.tiles
    if tiles is None:
        return
    sheet = flow.pages.sheet
    flow.heading(MAP_HEADING)
    flow.write(map_text(result, tiles), after=0)
    column = (sheet.inner - 10) / 2
    zoom = min(column / tiles.width_px, MAP_HEIGHT / tiles.height_px)
    width, height = zoom * tiles.width_px, zoom * tiles.height_px
    top = flow.figure(height + 20)
    if tiles.overview_jpeg:
        sheet.jpeg(tiles.overview_jpeg, MARGIN, top, width, height)
        sheet.box(MARGIN, top, width, height, stroke=GREY)
    left = MARGIN + width + 10 if tiles.overview_jpeg else MARGIN
    _tiles(sheet, tiles, left, top, width, height)
    x = MARGIN
    for mark, count in map_legend(tiles):
        text = f"{mark.label}: {count:,}"
        sheet.box(x, top + height + 6, 8, 8, fill=mark.colour, stroke=GREY)
        sheet.text(x + 4, top + height + 12.5, mark.code, 7, bold=True, align="centre")
        sheet.text(x + 12, top + height + 12.5, text, 7)
        x += text_width(text, FONT, 7) + 24
    flow.y += 4


def _tiles(sheet: Sheet, tiles: TileMap, left: float, top: float, width: float, height: float) -> None:
    across, down = width / len(tiles.uses[0]), height / len(tiles.uses)
    for i, row in enumerate(tiles.uses):
        for j, use in enumerate(row):
            mark = TILE_MARKS[use]
            sheet.box(left + j * across, top + i * down, across, down, fill=mark.colour, stroke=PALE, line=0.25)
            if mark.code and min(across, down) >= SIGN_SIDE:
                size = min(across, down, 10.0) * 0.9
                middle = top + (i + 0.5) * down + 0.35 * size
                sheet.text(left + (j + 0.5) * across, middle, mark.code, size, align="centre")
    sheet.box(left, top, width, height, stroke=GREY)


FIELD_ROWS = 50
"""Fields listed one by one: a page. A whole-slide file has thousands, all in ``result.json``."""


def _quality(flow: _Flow, result: SlideResult) -> None:
    for heading, lines in (
        ("Warnings", result.warnings),
        ("Failed fields", [failure_text(f) for f in result.failures]),
    ):
        if lines:
            flow.heading(heading)
            for line in lines[:FIELD_ROWS]:
                flow.write(f"– {line}")
            if len(lines) > FIELD_ROWS:
                flow.write(f"and {len(lines) - FIELD_ROWS} more, in result.json")
    flow.heading("Quality and scale of the fields")
    starts = (0.0, 0.05, 0.36, 0.43, 0.50, 0.60, 0.72, 0.79, 0.86, 0.93)
    flow.write(FIELD_KEY, size=6.5, after=4)
    flow.row(_at(starts, FIELD_HEADINGS), 6.5, bold=True)
    flow.rule()
    for values, notes in field_rows(result, FIELD_ROWS):
        flow.row(_at(starts, values), 6.5)
        for note in notes:
            flow.row(((0.05, f"↳ {note}"),), 6.5)
    if len(result.fields) > FIELD_ROWS:
        flow.write(f"and {len(result.fields) - FIELD_ROWS} more, all in result.json", size=6.5)
    _stain(flow, result)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _at(starts: Sequence[float], values: Sequence[str]) -> list[tuple[float, str]]:
    return list(zip(starts, values, strict=True))


def _stain(flow: _Flow, result: SlideResult) -> None:
    """Nuclear optical density against that of the cells the weights were trained on."""
    rows = stain_rows(result)
    if not rows:
        return
    flow.heading("Stain")
    flow.write("Mean optical density of nuclei (median of the fields) against the cells the weights were trained on.")
    starts = (0.0, 0.15, 0.35, 0.75)
    flow.row(_at(starts, ("channel", "this slide", "training, 1st to 99th percentile", "")), 6.5, bold=True)
    flow.rule()
    for row in rows:
        flow.row(_at(starts, row), 6.5, bold=row[-1] == "outside")


def _method(flow: _Flow, result: SlideResult, rules: Sequence[FlagRule]) -> None:
    flow.heading("Limits")
    for limit in LIMITS:
        flow.write(f"– {limit}")
    flow.heading("Method")
    flow.write(METHOD)
    for name, value in method_facts(result):
        flow.row(((0.0, name), (0.16, value)), 7)
    _error_table(flow, result)
    flow.heading("Legend of flags")
    starts = (0.0, 0.03, 0.25, 0.76)
    raised, others, off = legend(result, rules)
    if raised:
        flow.row(_at(starts, ("", "raised", "meaning and rule", "source")), 6.5, bold=True)
        flow.rule()
    for rule in raised:
        values = (SEVERITY_SIGN[rule.severity], _sentence(rule.short), f"{rule.long} Rule: {rule.rule}", rule.source)
        flow.row(_at(starts, values), 6.2, strong=True)
    for heading, unraised in (("not raised", others), ("switched off", off)):
        if unraised:
            flow.y += 6
            flow.row(_at(starts[:3], ("", heading, "rule")), 6.5, bold=True)
            flow.rule()
        for rule in unraised:
            flow.row(_at(starts[:3], (SEVERITY_SIGN[rule.severity], _sentence(rule.short), rule.rule)), 6, after=0.5)
    flow.write("▲ critical, ◆ warning, ○ note.", size=6.5)


def _error_table(flow: _Flow, result: SlideResult) -> None:
    rows = error_rows(result)
    if not rows:
        return
    flow.heading(ERROR_TITLE)
    starts = (0.0, 0.3, 0.45, 0.62)
    flow.row(_at(starts, ERROR_HEADINGS), 6.5, bold=True)
    flow.rule()
    for row in rows:
        flow.row(_at(starts, row), 6.5)
