"""Write the files of one slide, and those of a whole output folder.

Everything is written from the :class:`~cbctool.records.SlideResult` alone. A slide's files go into a folder that the
caller made and renames into place; files of the run are written beside their place and renamed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from cbctool.errors import OutputError
from cbctool.records import Failure, FlagRule, SlideResult
from cbctool.report.fhir import result_fhir
from cbctool.report.hl7 import result_hl7
from cbctool.report.html import index_html, report_html
from cbctool.report.names import overlay_names
from cbctool.report.pdf import report_pdf
from cbctool.report.pictures import boxes_of, by_field, fields_to_show, flagged_identities, overlay_jpeg, write_evidence
from cbctool.report.result_json import result_json
from cbctool.report.style import ReportStyle
from cbctool.report.tables import cell_lines, differential_csv, failures_csv, summary_csv

FULL_OVERLAYS = 24
"""Overlays at the size of the preview, for the most telling fields; the others at half of it where it is large, since
drawing 1600 x 1200 px takes 13 ms."""


def write_slide(result: SlideResult, folder: Path, style: ReportStyle, rules: Sequence[FlagRule]) -> list[Path]:
    """Write every output of one slide into ``folder``, which exists.

    Parameters
    ----------
    result : SlideResult
    folder : Path
        A temporary folder; the caller renames it into place.
    style : ReportStyle
    rules : sequence of FlagRule
        The registry, for the legend.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    OutputError
        Where the folder cannot be written to, or the disk is full.
    """
    result = dataclasses.replace(result, failures=tuple(_without_root(f, result) for f in result.failures))
    cells = _write(folder / "cells.csv", lambda file: file.writelines(map(str.encode, cell_lines(result))))
    evidence = _write(folder / "evidence.zip", partial(write_evidence, result, cells))
    return [cells, evidence, *(_write(folder / name, data) for name, data in _files(result, style, rules))]


def _without_root(failure: Failure, result: SlideResult) -> Failure:
    """A report is passed on: its messages name pictures, not the folders of the machine."""
    root = f"{result.slide.root}{os.sep}"
    error, advice = (text.replace(root, "") for text in (failure.error, failure.advice))
    return dataclasses.replace(failure, error=error, advice=advice)


def _files(result: SlideResult, style: ReportStyle, rules: Sequence[FlagRule]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, one after the other: a whole slide's together would be hundreds of megabytes."""
    yield "differential.csv", differential_csv(result.differential).encode()
    yield "result.json", result_json(result).encode()
    # Red cells are rows of cells.csv and numbers elsewhere: nothing below looks at tens of thousands of them again.
    result = dataclasses.replace(result, observations=tuple(o for o in result.observations if o.prediction is not None))
    overlays: dict[str, str] = {}
    if "overlays" in style.outputs:
        names = overlay_names(summary.name for summary in result.fields)
        groups, flagged = by_field(result.observations), flagged_identities(result)
        for i, summary in enumerate(fields_to_show(result)[: style.max_overlays]):
            overlays[summary.name] = names[summary.name]
            boxes = boxes_of(summary, groups.get(summary.name, ()), flagged)
            scale = summary.scale.um_per_px / summary.preview_scale
            yield names[summary.name], overlay_jpeg(summary.preview_jpeg, boxes, i >= FULL_OVERLAYS, scale)
    if "pdf" in style.outputs:
        yield "report.pdf", report_pdf(result, style, rules)
    if "html" in style.outputs:
        yield "report.html", report_html(result, style, rules, overlays).encode("utf-8", "backslashreplace")
    if "hl7" in style.outputs:
        yield "result.hl7", result_hl7(result, style).encode()
    if "fhir" in style.outputs:
        yield "fhir.json", result_fhir(result, style).encode()


def write_run(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    failures: Iterable[Failure],
    style: ReportStyle,
    folder_of: Callable[[str], str] = str,
) -> list[Path]:
    """Write ``summary.csv``, ``failures.csv`` and ``index.html`` over the whole output folder.

    Parameters
    ----------
    folder : Path
        The output folder.
    rows : iterable of mappings
        One per slide, earlier runs included, as :func:`~cbctool.report.tables.summary_row` makes or
        :func:`~cbctool.report.tables.read_table` reads them.
    failures : iterable of Failure
    style : ReportStyle
    folder_of : callable
        A slide's name to the name of its folder, for the links.

    Raises
    ------
    OutputError
        Where a file cannot be written or replaced.
    """
    rows, failures = list(rows), list(failures)
    files = {
        "summary.csv": summary_csv(rows),
        "failures.csv": failures_csv(failures),
        "index.html": index_html(rows, failures, style, folder_of),
    }
    return [_replace(folder / name, text.encode("utf-8", "backslashreplace")) for name, text in files.items()]


def _write(path: Path, data: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write bytes, or let a function write what is too large to be held."""
    try:
        with path.open("wb") as file:
            file.write(data) if isinstance(data, bytes) else data(file)
    except OSError as error:
        raise OutputError(
            f"{path.name}: cannot be written: {error.strerror}.", "Check the output folder's rights and free space."
        ) from error
    return path


def _replace(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _write(temporary, data)
    try:
        temporary.replace(path)
    except OSError as error:  # Windows: somebody has it open in a spreadsheet
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path.name}: cannot be replaced: {error.strerror}.", "Close it and run again.") from error
    return path
