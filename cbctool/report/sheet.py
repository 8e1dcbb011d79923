"""A page to draw on: reportlab's canvas, origin top left, with the shipped fonts, text that fits, JPEGs as they are."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path

from reportlab import rl_config
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

rl_config.useA85 = 0  # binary streams: a quarter smaller than ASCII-85, and the JPEGs stay as they are

FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"
MARGIN = 36.0
INK, GREY, PALE, BAND = "#111111", "#555555", "#BBBBBB", "#DDDDDD"


@lru_cache(maxsize=1)
def register_fonts() -> None:
    """Parse and register the shipped fonts, once per process (50 ms)."""
    folder = resources.files("cbctool.report") / "fonts"
    for name in (FONT, BOLD):
        with resources.as_file(folder / f"{name}.ttf") as path:
            pdfmetrics.registerFont(TTFont(name, str(path)))


@lru_cache(maxsize=64)
def _colour(text: str) -> Color:
    return HexColor(text)


class _Jpeg:
    """What reportlab asks of an image, without decoding it: the stream goes into the PDF as it is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._name = hashlib.sha1(data, usedforsecurity=False).hexdigest()

    def __str__(self) -> str:
        return self._name

    def jpeg_fh(self) -> io.BytesIO:
        return io.BytesIO(self._data)


class Sheet:
    """Drawing in points from the top left corner. Text of users is drawn as it is: nothing here reads markup."""

    def __init__(self, canvas: Canvas, width: float, height: float) -> None:
        self.canvas, self.width, self.height = canvas, width, height
        self._fill = self._stroke = ""

    def turn(self) -> None:
        """End the page; the next starts with a fresh graphics state."""
        self.canvas.showPage()
        self._fill = self._stroke = ""

    def _set_fill(self, colour: str) -> None:
        if colour != self._fill:  # writing numbers is half of the time that reportlab takes
            self.canvas.setFillColor(_colour(colour))
            self._fill = colour

    def _set_stroke(self, colour: str) -> None:
        if colour != self._stroke:
            self.canvas.setStrokeColor(_colour(colour))
            self._stroke = colour

    @property
    def inner(self) -> float:
        """Width between the margins."""
        return self.width - 2 * MARGIN

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 8,
        *,
        bold: bool = False,
        colour: str = INK,
        align: str = "left",
        width: float | None = None,
    ) -> None:
        """One line with its baseline at ``y``; cut with an ellipsis where it is wider than ``width``."""
        font = BOLD if bold else FONT
        text = one_line(text)
        if width is not None:
            text = shortened(text, font, size, width)
        self.canvas.setFont(font, size)
        self._set_fill(colour)
        draw = {
            "left": self.canvas.drawString,
            "right": self.canvas.drawRightString,
            "centre": self.canvas.drawCentredString,
        }[align]
        draw(x, self.height - y, text)

    def paragraph(
        self,
        x: float,
        y: float,
        text: str,
        width: float,
        size: float = 8,
        *,
        bold: bool = False,
        colour: str = INK,
        leading: float = 1.3,
    ) -> float:
        """Wrapped text whose first baseline is ``y``; the baseline after the last line."""
        for line in wrapped(text, BOLD if bold else FONT, size, width):
            self.text(x, y, line, size, bold=bold, colour=colour)
            y += size * leading
        return y

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float = 0.5, colour: str = INK) -> None:
        self._set_stroke(colour)
        self.canvas.setLineWidth(width)
        self.canvas.line(x0, self.height - y0, x1, self.height - y1)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str | None = None,
        stroke: str | None = None,
        line: float = 0.5,
        dash: bool = False,
    ) -> None:
        """A rectangle whose top left corner is (x, y); the gaps of a dashed line are white, to be seen on dark, too."""
        if fill:
            self._set_fill(fill)
        if stroke:
            self._set_stroke(stroke)
            self.canvas.setLineWidth(line)
        if dash:
            self.canvas.setStrokeColor(_colour("#FFFFFF"))
            self.canvas.rect(x, self.height - y - height, width, height, stroke=1, fill=0)
            self._stroke = ""
            self._set_stroke(stroke or INK)
            self.canvas.setDash(2, 1.5)
        self.canvas.rect(x, self.height - y - height, width, height, stroke=int(bool(stroke)), fill=int(bool(fill)))
        if dash:
            self.canvas.setDash()

    def dot(self, x: float, y: float, radius: float, *, fill: str = INK, stroke: str = INK) -> None:
        self._set_fill(fill)
        self._set_stroke(stroke)
        self.canvas.setLineWidth(0.8)
        self.canvas.circle(x, self.height - y, radius, stroke=1, fill=1)

    def ring(self, x: float, y: float, radius: float, *, colour: str) -> None:
        """A thin circle, white around, so that it is seen on any ground."""
        for stroke, line in (("#FFFFFF", 1.8), (colour, 0.8)):
            self._set_stroke(stroke)
            self.canvas.setLineWidth(line)
            self.canvas.circle(x, self.height - y, radius, stroke=1, fill=0)

    @contextmanager
    def clipped(self, x: float, y: float, width: float, height: float) -> Iterator[None]:
        """Nothing that is drawn within leaves this rectangle."""
        self.canvas.saveState()
        path = self.canvas.beginPath()
        path.rect(x, self.height - y - height, width, height)
        self.canvas.clipPath(path, stroke=0, fill=0)
        yield
        self.canvas.restoreState()
        self._fill = self._stroke = ""

    def jpeg(self, data: bytes, x: float, y: float, width: float, height: float) -> None:
        """A JPEG, top left corner at (x, y), embedded without decoding; the same picture is stored once."""
        self.canvas.drawImage(_Jpeg(data), x, self.height - y - height, width, height)

    def logo(self, path: Path, x: float, y: float, width: float, height: float) -> float:
        """A PNG or JPEG scaled into the box; the width it took."""
        image = ImageReader(str(path))
        w, h = image.getSize()
        scale = min(width / w, height / h)
        self.canvas.drawImage(image, x, self.height - y - h * scale, w * scale, h * scale, mask="auto")
        return float(w * scale)


def tint(colour: str, white: float = 0.5) -> str:
    """The colour mixed with white, so that black lines stand out on it, also in grey."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 * white + v * (1 - white)):02x}" for v in parts)


def one_line(text: str) -> str:
    """Text that the shipped font can draw: control characters (line feeds in file names) to spaces, others to U+1F610.

    Characters beyond U+FFFF are spelt out too: reportlab draws them, but writes a broken map for copying them.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(_drawable(c) for c in text)


@lru_cache(maxsize=4096)
def _drawable(character: str) -> str:
    if not character.isprintable():
        return " "
    register_fonts()
    covered = ord(character) <= 0xFFFF and ord(character) in pdfmetrics.getFont(FONT).face.charToGlyph
    return character if covered else f"U+{ord(character):04X}"


@lru_cache(maxsize=8192)  # the legend's lines are measured again in every report: half of a small report's time
def text_width(text: str, font: str, size: float) -> float:
    """Width of a text in points."""
    return float(pdfmetrics.stringWidth(text, font, size))


def shortened(text: str, font: str, size: float, width: float) -> str:
    """The text, its middle replaced by an ellipsis where it is too wide: the ends of file names tell them apart."""
    if text_width(text, font, size) <= width:
        return text
    keep = len(text)
    while keep > 1:
        keep = min(keep - 1, max(1, int(keep * width / max(text_width(text[:keep] + "…", font, size), 1e-6))))
        short = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
        if text_width(short, font, size) <= width:
            return short
    return "…"


def wrapped(text: str, font: str, size: float, width: float) -> list[str]:
    """Lines of at most ``width`` points; a word that is wider is broken, a number keeps its percent sign."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in re.split(r"\s+(?!%)", one_line(paragraph).strip()):
            trial = f"{line} {word}" if line else word
            if text_width(trial, font, size) <= width:
                line = trial
                continue
            if line:
                lines.append(line)
            line = word
            while text_width(line, font, size) > width and len(line) > 1:
                cut = max(1, int(len(line) * width / text_width(line, font, size)) - 1)
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    return lines
