"""How a report looks and what it always says: laboratory, page, marks of the classes, wording shared by all outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cbctool.records import CellClass, CellStatus, Observation, ScaleSource, Severity, SlideResult, TileUse

OUTPUTS: tuple[str, ...] = ("pdf", "html", "overlays", "hl7", "fhir")
"""What can be switched off. CSV and JSON files and ``evidence.zip`` are always written: corrections rest on them."""

PAGE_SIZES: Mapping[str, tuple[float, float]] = {"A4": (595.276, 841.890), "Letter": (612.0, 792.0)}
"""Points, portrait."""


@dataclass(frozen=True)
class ReportStyle:
    """What a laboratory may choose about its reports.

    Attributes
    ----------
    lab_name : str
    logo : Path or None
        PNG or JPEG, drawn top left on page 1.
    page_size : str
        "A4" or "Letter".
    outputs : frozenset of str
        Which of :data:`OUTPUTS` to write.
    generated_at : str
        ISO 8601 time of writing; "" takes ``SOURCE_DATE_EPOCH``, else the time of analysis (or of the review), so that
        the same input gives the same bytes.
    max_overlays : int
        Overlay pictures written per slide. 200 fields are what a 400-cell count rarely needs; a whole-slide file has
        thousands of tiles, and those with flagged cells come first.
    pdf_cells, pdf_fields, pdf_preview_bytes : int
        Bounds of the PDF: gallery cells (400 is the largest manual count, CLSI H20), annotated fields (two pages) and
        their bytes (with 3 kB a thumbnail this keeps a 200-cell slide below 2 MB).
    html_cells, html_fields, html_preview_bytes : int
        The same for ``report.html``.
    """

    lab_name: str = ""
    logo: Path | None = None
    page_size: str = "A4"
    outputs: frozenset[str] = frozenset(OUTPUTS)
    generated_at: str = ""
    max_overlays: int = 200
    pdf_cells: int = 400
    pdf_fields: int = 12
    pdf_preview_bytes: int = 900_000
    html_cells: int = 1000
    html_fields: int = 60
    html_preview_bytes: int = 6_000_000

    def __post_init__(self) -> None:
        if self.page_size not in PAGE_SIZES:
            raise ValueError(f"page_size is {self.page_size!r}, not one of {', '.join(PAGE_SIZES)}")
        unknown = self.outputs - set(OUTPUTS)
        if unknown:
            raise ValueError(f"no such output: {', '.join(sorted(unknown))}; there are {', '.join(OUTPUTS)}")


@dataclass(frozen=True)
class Mark:
    """How a class is drawn: a code for labels (it carries the meaning in grey) and a colour (it helps)."""

    code: str
    label: str
    colour: str  # "#rrggbb"


# Colours: Okabe & Ito's palette for colour-blind readers (Color Universal Design, 2008), darkened until white letters
# on them have a contrast of 4.5 (WCAG 2 AA).
MARKS: Mapping[str, Mark] = {
    CellClass.NEUTROPHIL: Mark("NEU", "Neutrophils", "#0072B2"),
    CellClass.LYMPHOCYTE: Mark("LYM", "Lymphocytes", "#007F5C"),
    CellClass.MONOCYTE: Mark("MON", "Monocytes", "#6A3D9A"),
    CellClass.EOSINOPHIL: Mark("EOS", "Eosinophils", "#B84F00"),
    CellClass.BASOPHIL: Mark("BAS", "Basophils", "#1B1F8A"),
    CellClass.IMMATURE_GRANULOCYTE: Mark("IG", "Immature granulocytes", "#B0307A"),
    CellClass.ERYTHROBLAST: Mark("NRBC", "Erythroblasts", "#8A5A00"),
    CellClass.PLATELET: Mark("PLT", "Platelets", "#6F6F6F"),
    "unclassified": Mark("?", "Unclassified", "#000000"),
    "excluded": Mark("×", "Not counted", "#6F6F6F"),
}

TILE_MARKS: Mapping[TileUse, Mark] = {
    TileUse.COUNTED: Mark("", "counted", "#0072B2"),
    TileUse.TOO_THICK: Mark("+", "too thick", "#E69F00"),
    TileUse.TOO_THIN: Mark("–", "too thin (feathered edge)", "#B8DDF2"),
    TileUse.UNFIT: Mark("×", "unfit (focus, exposure)", "#E0A5C3"),
    TileUse.FAILED: Mark("!", "failed", "#D55E00"),
    TileUse.BACKGROUND: Mark("", "background", "#FFFFFF"),
}
"""How tiles of a whole-slide file are drawn on the map: in grey the dark ones without a sign are those counted."""

SEVERITY_ORDER: Mapping[Severity, int] = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.NOTE: 2}
SEVERITY_SIGN: Mapping[Severity, str] = {Severity.CRITICAL: "▲", Severity.WARNING: "◆", Severity.NOTE: "○"}
"""Shapes differ, so that severity survives a grey printer."""

OUTSIDE_SIGN: Mapping[str, str] = {
    "": "",
    "low": "▼ low",
    "high": "▲ high",
    "borderline low": "▽ borderline low",
    "borderline high": "△ borderline high",
}
"""Filled where the interval is outside too, hollow where only the value is."""

LIMITS: tuple[str, ...] = (
    "For research use. Not a medical device.",
    "A preclassification: preliminary until confirmed by a qualified person.",
    "Red-cell morphology and parasites are not assessed.",
    "Bands are not separated from segmented neutrophils: a left shift cannot be called.",
    "The classifier has no class for blasts, plasma cells or atypical lymphocytes; a cell unlike anything it was "
    "trained on is shown as such and never counted as a blast.",
)


def mark_key(observation: Observation) -> str:
    """The key into :data:`MARKS` for one nucleated cell or platelet: its class, or what became of it."""
    prediction = observation.prediction
    if prediction is None or prediction.status is CellStatus.EXCLUDED:
        return "excluded"
    if prediction.status is not CellStatus.CLASSIFIED or prediction.cell_class is None:
        return "unclassified"
    return prediction.cell_class


def report_status(result: SlideResult) -> str:
    """ "preliminary", or "reviewed" once a person has put a name to it."""
    return "reviewed" if result.review else "preliminary"


def written_at(result: SlideResult, style: ReportStyle) -> datetime:
    """When the outputs say they were written, UTC: injected, ``SOURCE_DATE_EPOCH``, the review, or the analysis."""
    if style.generated_at:
        return parse_time(style.generated_at)
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch.isdigit():
        return datetime.fromtimestamp(int(epoch), tz=UTC)
    return parse_time(result.review.reviewed_at if result.review else result.analysed_at)


def confirmation(result: SlideResult) -> str:
    """Who has confirmed the result, in a sentence."""
    review = result.review
    if review is None:
        return "not yet confirmed by a qualified person"
    corrected = (
        "no call changed"
        if not review.corrections
        else f"{review.corrections} call{'' if review.corrections == 1 else 's'} changed"
    )
    if review.number > 1:
        corrected += f" in {review.number} reviews"  # the others may have been somebody else's
    return f"Reviewed by {review.reviewer}, {parse_time(review.reviewed_at):%Y-%m-%d %H:%M} UTC, {corrected}"


_SCALE_WORDS: Mapping[ScaleSource, str] = {
    ScaleSource.GIVEN: "given",
    ScaleSource.METADATA: "from the file",
    ScaleSource.RED_CELLS: "from the red cells",
    ScaleSource.SLIDE: "from other fields",
}


def scale_text(result: SlideResult) -> str:
    """The slide's scale and where its fields have it from."""
    sources = sorted({summary.scale.source for summary in result.fields}, key=list(ScaleSource).index)
    return f"{number(result.um_per_px, 4)} µm/px, {' and '.join(_SCALE_WORDS[s] for s in sources)}"


def parse_time(text: str) -> datetime:
    """ISO 8601 to UTC; a time without a zone is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def number(value: float, digits: int = 1, missing: str = "–") -> str:
    """A number for people; a NaN is a dash."""
    return missing if value != value else f"{value:,.{digits}f}"
