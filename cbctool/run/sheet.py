"""The slide sheet: what a laboratory knows about its slides and a picture cannot say.

A CSV file ``slides.csv`` in the input folder (or ``--sheet``), one row per slide. Only ``slide`` must be there; an
empty entry says nothing. Text is data and nothing else: ``=1+1`` stays those four characters.

============== ==========================================================================================
slide          name of the slide: the file's stem or the folder's name
wbc            the analyser's leukocyte count, 10^9/L
wbc_uncorrected yes where that count still includes nucleated red cells
um_per_px      scale of the slide's pictures, micrometres per pixel
sample_id      the laboratory's own number
age            of the patient, years
comment        goes into the report as it is
fields         ``consecutive`` where the fields were taken one after the other without choosing
============== ==========================================================================================
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from cbctool.errors import InputError, UsageError
from cbctool.imaging.headers import CREDIBLE_UM_PER_PX
from cbctool.imaging.read import printable, read_bytes
from cbctool.run.spreadsheet import decode, parse_number, separator

SHEET_NAME = "slides.csv"

COLUMNS = ("slide", "wbc", "wbc_uncorrected", "um_per_px", "sample_id", "age", "comment", "fields")

_MAX_BYTES = 16 << 20  # 16 MiB is a row of 160 bytes for each of 100,000 slides
_YES = {"yes", "y", "true", "1", "x", "ja", "oui", "si", "sí"}
_NO = {"", "no", "n", "false", "0", "nein", "non"}


@dataclass(frozen=True)
class SheetRow:
    """What the sheet says of one slide; the names and units are those of :class:`cbctool.records.Slide`."""

    slide: str
    row: int
    wbc_10e9_per_l: float | None = None
    wbc_uncorrected: bool = False
    um_per_px: float | None = None
    sample_id: str = ""
    age_years: float | None = None
    comment: str = ""
    consecutive: bool = False


def read_sheet(path: Path) -> dict[str, SheetRow]:
    """Read a slide sheet.

    Comma, semicolon or tab separate (a spreadsheet writes what its country does), with decimal point or, unless commas
    separate, decimal comma; UTF-8 or, failing that, Windows-1252.

    Returns
    -------
    dict
        From slide name to its row, in the sheet's order.

    Raises
    ------
    UsageError
        Naming row (the header is row 1) and column, where the sheet cannot be taken as it is.
    """
    shown = printable(path)
    try:
        data = read_bytes(path, _MAX_BYTES)
    except InputError as error:
        raise UsageError(error.message, "Check the slide sheet.") from None
    return parse_sheet(data, shown)


def parse_sheet(data: bytes, shown: str) -> dict[str, SheetRow]:
    """Parse the bytes of a slide sheet; ``shown`` names it in errors. See :func:`read_sheet`."""
    if data[:2] in (b"PK", b"\xd0\xcf"):
        raise UsageError(f"{shown} is a spreadsheet workbook, not CSV.", "Save it as CSV.")
    text = decode(data)
    if "\0" in text:
        raise UsageError(f"{shown} is not a text.", "Save it as CSV.")
    delimiter = separator(text)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        # The parser's own words quote the separator, which may be a tab.
        raise UsageError(f"{shown} is not valid CSV: {printable(error)}.", "Check its quotation marks.") from None
    lines = [(number, row) for number, row in enumerate(rows, start=1) if any(entry.strip() for entry in row)]
    if not lines:
        raise UsageError(f"{shown} is empty.", f"Give it a header row with any of {', '.join(COLUMNS)}.")
    head, header = lines[0][0], [name.strip().lower() for name in lines[0][1]]
    while header and not header[-1]:
        header.pop()  # trailing separators, as spreadsheets leave them
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise UsageError(
            f"{shown}, row {head}: column {printable(unknown[0])[:60]!r} is not known.",
            f"Rename or remove it; the columns are {', '.join(COLUMNS)}.",
        )
    doubled = [name for name in header if header.count(name) > 1]
    if doubled:
        raise UsageError(f"{shown}, row {head}: column {doubled[0]} is there twice.", "Remove one.")
    if "slide" not in header:
        raise UsageError(f"{shown}, row {head}: there is no column slide.", "Add it with the names of the slides.")
    sheet: dict[str, SheetRow] = {}
    for number, row in lines[1:]:
        if any(entry.strip() for entry in row[len(header) :]):
            raise UsageError(
                f"{shown}, row {number}: {len(row)} entries, but the header has {len(header)}.",
                "Put quotation marks around text that holds the separator.",
            )
        entries = dict(zip(header, (entry.strip() for entry in row), strict=False))
        parsed = _parse_row(entries, number, shown, delimiter)
        if parsed.slide in sheet:
            raise UsageError(
                f"{shown}, row {number}, column slide: {printable(parsed.slide)!r} is already in row "
                f"{sheet[parsed.slide].row}.",
                "Keep one of the two rows.",
            )
        sheet[parsed.slide] = parsed
    return sheet


def _parse_row(entries: dict[str, str], number: int, shown: str, delimiter: str) -> SheetRow:
    def fault(column: str, what: str, advice: str) -> UsageError:
        entry = printable(entries.get(column, ""))[:60]
        return UsageError(f"{shown}, row {number}, column {column}: {entry!r} {what}.", advice)

    def figure(column: str, low: float, high: float, advice: str) -> float | None:
        entry = entries.get(column, "")
        if not entry:
            return None
        try:
            value = parse_number(entry, delimiter)
        except ValueError:
            raise fault(column, "is not a number", advice) from None
        if not low <= value <= high:
            raise fault(column, f"is not between {low:g} and {high:g}", advice)
        return value

    slide = entries.get("slide", "")
    if not slide:
        raise fault("slide", "names no slide", "Give the file's stem or the folder's name.")
    uncorrected = entries.get("wbc_uncorrected", "").lower()
    if uncorrected not in _YES | _NO:
        raise fault("wbc_uncorrected", "is neither yes nor no", "Write yes or no.")
    fields = entries.get("fields", "").lower()
    if fields not in ("", "consecutive"):
        raise fault("fields", "is not known", "Write consecutive, or leave it empty.")
    return SheetRow(
        slide=slide,
        row=number,
        # The highest counts of leukaemia stay below 1000; 7500 is a count per microlitre.
        wbc_10e9_per_l=figure("wbc", 0.0, 1000.0, "Give the leukocytes in 10^9/L, such as 7.5."),
        wbc_uncorrected=uncorrected in _YES,
        um_per_px=figure("um_per_px", *CREDIBLE_UM_PER_PX, "Give micrometres per pixel, such as 0.1."),
        sample_id=entries.get("sample_id", ""),
        age_years=figure("age", 0.0, 130.0, "Give the age in years."),
        comment=entries.get("comment", ""),
        consecutive=fields == "consecutive",
    )
