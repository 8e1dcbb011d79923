"""``report.pdf``: page 1 for the decision, then the evidence."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

from reportlab import rl_config
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from cbctool.records import FlagRule, SlideResult
from cbctool.report.style import LIMITS, MARKS, PAGE_SIZES, ReportStyle, number, report_status

rl_config.useA85 = 0  # binary streams: a quarter smaller, and the JPEGs stay as they are

FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"


@lru_cache(maxsize=1)
def register_fonts() -> None:
    """Parse and register the shipped fonts, once per process."""
    folder = resources.files("cbctool.report") / "fonts"
    for name in (FONT, BOLD):
        with resources.as_file(folder / f"{name}.ttf") as path:
            pdfmetrics.registerFont(TTFont(name, str(path)))


def report_pdf(result: SlideResult, style: ReportStyle, rules: Sequence[FlagRule]) -> bytes:
    """The report as PDF bytes; the same result gives the same bytes."""
    register_fonts()
    out = io.BytesIO()
    width, height = PAGE_SIZES[style.page_size]
    canvas = Canvas(out, pagesize=(width, height), invariant=1, pageCompression=1)
    lines = [
        f"Slide {result.slide.name} ({report_status(result)})",
        f"{result.differential.leukocytes} leukocytes: {result.differential.adequacy}",
        *(f"{flag.severity}: {flag.text}" for flag in result.flags),
        *(f"{MARKS[r.cell_class].label}: {r.count} = {number(r.percent)} %" for r in result.differential.rows),
        *LIMITS,
    ]
    for i, line in enumerate(lines):
        canvas.setFont(FONT, 9)
        canvas.drawString(40, height - 50 - 14 * i, line)
    canvas.showPage()
    canvas.save()
    return out.getvalue()
