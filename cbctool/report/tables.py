"""The CSV files: ``cells.csv``, ``differential.csv``, ``summary.csv``, ``failures.csv``, written and read back.

UTF-8, comma, ``\\n``; an empty cell is a value that does not apply; true/false in small letters. Measures have six
significant digits: 0.1 nm in a position, and far below any threshold's meaning.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from cbctool.records import (
    CLASSES,
    LEUKOCYTES,
    Cell,
    CellClass,
    CellKind,
    CellStatus,
    Differential,
    Failure,
    Observation,
    Prediction,
    SlideResult,
)
from cbctool.report.names import plain_text, spreadsheet_text
from cbctool.report.style import SEVERITY_ORDER, report_status

MEASURES: tuple[str, ...] = (
    "equivalent_diameter_um",
    "circularity",
    "eccentricity",
    "nuclear_lobes",
    "nuclear_solidity",
    "chromatin_texture",
    "nucleus_od",
    "cytoplasm_od",
    "haematoxylin_od",
    "eosin_od",
    "granularity",
)
"""Measures of a :class:`~cbctool.records.Cell` that follow the columns of the contract."""

PROBABILITIES: tuple[str, ...] = tuple(f"p_{name}" for name in CLASSES)

CELL_COLUMNS: tuple[str, ...] = (
    *("slide", "field", "cell", "kind", "class", "probability", "status"),
    *("row_px", "col_px", "ymin_px", "xmin_px", "ymax_px", "xmax_px", "area_um2", "touches_edge"),
    *("nucleus_area_um2", "nc_ratio", "blast_like"),
    *PROBABILITIES,
    *("reason", "nucleus_touches_edge"),
    *MEASURES,
    *("unknown_score", "blast_reasons", "called", "tile_row_px", "tile_col_px"),
)

DIFFERENTIAL_COLUMNS: tuple[str, ...] = (
    *("class", "count", "percent", "ci_low", "ci_high", "reference_low", "reference_high", "outside"),
    *("total_low", "total_high", "absolute_10e9_per_l", "absolute_reference_low", "absolute_reference_high"),
    *("absolute_outside", "adequacy"),
)

SUMMARY_COLUMNS: tuple[str, ...] = (
    *("slide", "status", "fields", "leukocytes"),
    *(f"{name}_percent" for name in LEUKOCYTES),
    *("nrbc_per_100_wbc", "platelets", "erythrocytes", "flags", "um_per_px", "seconds"),
    *("severity", "adequacy", "report", "unclassified", "blast_like", "fields_failed", "sample_id", "comment"),
    *("reviewer", "analysed_at", "version", "weights_sha256", "identity"),
)

FAILURE_COLUMNS: tuple[str, ...] = ("slide", "path", "error", "advice")

_MEASURES_OF = attrgetter(*MEASURES)

# The empty columns of a red cell's row.
_TO_REASON = "," * (CELL_COLUMNS.index("reason") - CELL_COLUMNS.index("touches_edge"))
_TO_TILE = "," * (CELL_COLUMNS.index("tile_row_px") - CELL_COLUMNS.index("eccentricity"))
_RED_CELL = {
    (edge, nucleus): f",%d,erythrocyte,,,,%.6g,%.6g,%d,%d,%d,%d,%.6g,{'true' if edge else 'false'}{_TO_REASON},"
    f"{'true' if nucleus else 'false'},%.6g,%.6g,%.6g{_TO_TILE}"
    for edge in (False, True)
    for nucleus in (False, True)
}
_RED_CELL_VALUES = attrgetter(
    *("cell", "row_px", "col_px", "ymin_px", "xmin_px", "ymax_px", "xmax_px", "area_um2"),
    *("equivalent_diameter_um", "circularity", "eccentricity"),
)


def cells_csv(result: SlideResult) -> str:
    """``cells.csv`` as text: one row per object found, in the order of the observations."""
    return "".join(cell_lines(result))


def cell_lines(result: SlideResult) -> Iterator[str]:
    """``cells.csv`` line by line.

    A whole slide has tens of thousands of red cells, so that a row of theirs is one formatting: 15,000 in some 30 ms.
    """
    tiles = {f.name: (f.row_px, f.col_px) for f in result.fields} if result.slide.whole_slide else {}
    slide = _quoted(result.slide.name)
    yield ",".join(CELL_COLUMNS) + "\n"
    heads: dict[str, tuple[str, str]] = {}
    for observation in result.observations:
        name = observation.field
        if name not in heads:
            tile = tiles.get(name)
            heads[name] = (f"{slide},{_quoted(name)}", f"{tile[0]},{tile[1]}" if tile else ",")
        head, tail = heads[name]
        cell = observation.cell
        if observation.prediction is None and cell.kind is CellKind.ERYTHROCYTE and not cell.reason:
            row = _RED_CELL[cell.touches_edge, cell.nucleus_touches_edge] % _RED_CELL_VALUES(cell)
            if "nan" in row:  # no measure: an empty column
                row = row.replace("nan", "")
            yield f"{head}{row}{tail}\n"
        else:
            yield _cell_row(head, observation, tail) + "\n"


def _cell_row(head: str, observation: Observation, tail: str) -> str:
    cell, prediction = observation.cell, observation.prediction
    if prediction is None:
        status = CellStatus.EXCLUDED.value if cell.reason else ""
        call = ["", "", status]
        probabilities = "," * (len(CLASSES) - 1)
        reason, blast, unknown, blast_reasons = cell.reason, "", "", ""
    else:
        call = [prediction.cell_class or "", _measure(prediction.probability), prediction.status.value]
        probabilities = _measures(prediction.probabilities) or "," * (len(CLASSES) - 1)
        reason = prediction.reason or cell.reason
        blast, unknown = _bool(prediction.blast_like), _measure(prediction.unknown_score)
        blast_reasons = "; ".join(prediction.blast_reasons)
    values = [
        head,
        str(cell.cell),
        cell.kind.value,
        *call,
        _measures((cell.row_px, cell.col_px)),
        f"{cell.ymin_px},{cell.xmin_px},{cell.ymax_px},{cell.xmax_px}",
        _measure(cell.area_um2),
        _bool(cell.touches_edge),
        _measures((cell.nucleus_area_um2, cell.nc_ratio)),
        blast,
        probabilities,
        _quoted(reason),
        _bool(cell.nucleus_touches_edge),
        _measures(_MEASURES_OF(cell)),
        unknown,
        _quoted(blast_reasons),
        observation.called or "",
        tail,
    ]
    return ",".join(values)


def _measure(value: float) -> str:
    return "" if value != value else f"{value:.6g}"


def _measures(values: Sequence[float]) -> str:
    """Several columns at once, in half the time."""
    columns = ",".join(["%.6g"] * len(values)) % tuple(values)
    return columns.replace("nan", "")


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _quoted(text: str) -> str:
    text = spreadsheet_text(text)
    if any(c in text for c in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text


def differential_csv(differential: Differential) -> str:
    """``differential.csv``: a row per leukocyte class; ``total_*`` is the interval with the classifier's own error.

    ``adequacy`` is the same in every row: percentages are given for any count, and "no differential" says of which not
    to use them.
    """
    rows = [
        {
            "class": row.cell_class.value,
            **{name: getattr(row, name) for name in DIFFERENTIAL_COLUMNS[1:-1]},
            "adequacy": differential.adequacy.value,
        }
        for row in differential.rows
    ]
    return table_csv(DIFFERENTIAL_COLUMNS, rows)


def summary_row(result: SlideResult) -> dict[str, Any]:
    """The slide's row of ``summary.csv``: :data:`SUMMARY_COLUMNS` to values."""
    differential = result.differential
    severities = sorted((flag.severity for flag in result.flags), key=SEVERITY_ORDER.__getitem__)
    percent = {row.cell_class: row.percent for row in differential.rows}
    return {
        "slide": result.slide.name,
        "status": result.status,
        "fields": len(result.fields),
        "leukocytes": differential.leukocytes,
        **{f"{name}_percent": percent.get(name, math.nan) for name in LEUKOCYTES},
        "nrbc_per_100_wbc": differential.nrbc_per_100_wbc,
        "platelets": differential.platelets,
        "erythrocytes": differential.erythrocytes,
        "flags": ";".join(flag.code for flag in result.flags),
        "um_per_px": result.um_per_px,
        "seconds": result.seconds,
        "severity": severities[0].value if severities else "",
        "adequacy": differential.adequacy.value,
        "report": report_status(result),
        "unclassified": differential.unclassified,
        "blast_like": differential.blast_like,
        "fields_failed": len(result.failures),
        "sample_id": result.slide.sample_id,
        "comment": result.slide.comment,
        "reviewer": result.review.reviewer if result.review else "",
        "analysed_at": result.analysed_at,
        "version": result.version,
        "weights_sha256": result.weights.sha256,
        "identity": result.identity,
    }


def summary_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """``summary.csv`` of these rows, in their order."""
    return table_csv(SUMMARY_COLUMNS, rows)


def failures_csv(failures: Iterable[Failure]) -> str:
    """``failures.csv``: one row per slide or field that could not be analysed."""
    return table_csv(FAILURE_COLUMNS, ({name: getattr(f, name) for name in FAILURE_COLUMNS} for f in failures))


def table_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV text of ``rows``; text is made safe for spreadsheets, NaN and what is missing are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_value(row.get(name, "")) for name in columns] for row in rows)
    return out.getvalue()


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return _bool(value)
    if isinstance(value, float):
        return _measure(value)
    return spreadsheet_text(str(value))


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file written here, as text with the spreadsheet escapes taken off."""
    return parse_table(path.read_bytes().decode("utf-8-sig"))


def parse_table(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    """The same from text."""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [{k: plain_text(v or "") for k, v in row.items() if k} for row in rows]


def observation_of(row: Mapping[str, str], thumbnail: bytes = b"") -> Observation:
    """One row of ``cells.csv`` (as read by :func:`read_table`) back to its record.

    Raises
    ------
    KeyError, ValueError
        Where the row is not one that :func:`cells_csv` wrote.
    """
    kind = CellKind(row["kind"])
    artefact_reason = row["reason"] if kind is CellKind.ARTEFACT else ""
    cell = Cell(
        cell=int(row["cell"]),
        kind=kind,
        row_px=_float(row["row_px"]),
        col_px=_float(row["col_px"]),
        ymin_px=int(row["ymin_px"]),
        xmin_px=int(row["xmin_px"]),
        ymax_px=int(row["ymax_px"]),
        xmax_px=int(row["xmax_px"]),
        area_um2=_float(row["area_um2"]),
        touches_edge=row["touches_edge"] == "true",
        nucleus_touches_edge=row["nucleus_touches_edge"] == "true",
        reason=artefact_reason,
        nucleus_area_um2=_float(row["nucleus_area_um2"]),
        nc_ratio=_float(row["nc_ratio"]),
        **{name: _float(row[name]) for name in MEASURES},
    )
    if row["blast_like"] == "":  # no prediction was made
        return Observation(row["field"], cell, None, thumbnail)
    prediction = Prediction(
        cell_class=CellClass(row["class"]) if row["class"] else None,
        probability=_float(row["probability"]),
        probabilities=tuple(_float(row[name]) for name in PROBABILITIES),
        unknown_score=_float(row["unknown_score"]),
        status=CellStatus(row["status"]),
        reason=row["reason"],
        blast_like=row["blast_like"] == "true",
        blast_reasons=tuple(filter(None, row["blast_reasons"].split("; "))),
    )
    called = CellClass(row["called"]) if row["called"] else None
    return Observation(row["field"], cell, prediction, thumbnail, called)


def _float(text: str) -> float:
    return float(text) if text else math.nan
