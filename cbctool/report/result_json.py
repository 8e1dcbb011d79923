"""``result.json``: a slide's result for machines, and its way back to records.

The schema is shipped beside this module (``result.schema.json``). Names are those of :mod:`cbctool.records`; NaN is
null. Red cells are totals here and rows in ``cells.csv``; pictures are in ``evidence.zip``. No path of the machine and
no picture metadata gets in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from importlib import resources
from pathlib import Path
from typing import Any

from cbctool.records import (
    CLASSES,
    SCHEMA_VERSION,
    Adequacy,
    CellClass,
    CellKind,
    Differential,
    DifferentialRow,
    Failure,
    FieldQuality,
    FieldSummary,
    Flag,
    Observation,
    Review,
    Scale,
    ScaleSource,
    Severity,
    Slide,
    SlideResult,
    TileMap,
    TileUse,
    WeightsInfo,
)
from cbctool.report.content import tile_counts
from cbctool.report.style import LIMITS, report_status


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``result.json``."""
    text = resources.files("cbctool.report").joinpath("result.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def result_json(result: SlideResult) -> str:
    """``result.json`` as text, keys in a fixed order."""
    slide = result.slide
    document = {
        "schema_version": SCHEMA_VERSION,
        "slide": {
            "name": slide.name,
            "files": [_relative(path, slide.root) for path in slide.paths],
            "whole_slide": slide.whole_slide,
            "um_per_px": slide.um_per_px,
            "wbc_10e9_per_l": slide.wbc_10e9_per_l,
            "wbc_uncorrected": slide.wbc_uncorrected,
            "age_years": slide.age_years,
            "sample_id": slide.sample_id,
            "comment": slide.comment,
            "consecutive": slide.consecutive,
            "warnings": list(slide.warnings),
        },
        "status": result.status,
        "report": report_status(result),
        "analysed_at": result.analysed_at,
        "version": result.version,
        "identity": result.identity,
        "supersedes": result.supersedes,
        "device": result.device,
        "seconds": result.seconds,
        "um_per_px": result.um_per_px,
        "differential": _flat(result.differential),
        "flags": [_flat(flag) for flag in result.flags],
        "review": _flat(result.review) if result.review else None,
        "weights": _flat(result.weights),
        "options": dict(result.options),
        "warnings": list(result.warnings),
        "failures": [_flat(failure) for failure in result.failures],
        "fields": [_field(summary) for summary in result.fields],
        "cells": [_cell(o) for o in result.observations if o.cell.kind is CellKind.NUCLEATED],
        "limits": list(LIMITS),
        "tiles": _tiles(result.tiles) if result.tiles else None,
    }
    return _lines(_plain(document))


def _lines(document: Mapping[str, Any]) -> str:
    """JSON with a line per name, and per record in lists of records: readable, and ten times faster than ``indent``."""
    parts = []
    for name, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(json.dumps(record, allow_nan=False) for record in value) + "\n ]"
        else:
            text = json.dumps(value, allow_nan=False)
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _flat(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclass_fields(record)}


def _field(summary: FieldSummary) -> dict[str, Any]:
    values = _flat(summary)
    del values["preview_jpeg"]
    return values


def _tiles(tiles: TileMap) -> dict[str, Any]:
    return {
        "rows": len(tiles.uses),
        "columns": len(tiles.uses[0]),
        "height_px": tiles.height_px,
        "width_px": tiles.width_px,
        "counts": tile_counts(tiles),
        "uses": tiles.uses,
    }


def _tiles_of(values: Mapping[str, Any] | None, overview: bytes) -> TileMap | None:
    if not values:
        return None
    uses = tuple(tuple(TileUse(use) for use in row) for row in values["uses"])
    return TileMap(uses, values["height_px"], values["width_px"], overview)


def _cell(observation: Observation) -> dict[str, Any]:
    values = {"field": observation.field, **_flat(observation.cell)}
    prediction = observation.prediction
    if prediction is not None:
        values |= {
            "class": prediction.cell_class,
            "probability": prediction.probability,
            "probabilities": dict(zip(CLASSES, map(_short, prediction.probabilities), strict=False)),
            "unknown_score": prediction.unknown_score,
            "status": prediction.status,
            "reason": prediction.reason or observation.cell.reason,
            "blast_like": prediction.blast_like,
            "blast_reasons": prediction.blast_reasons,
            "called": observation.called,
        }
    return {name: _short(value) for name, value in values.items()}


def _short(value: Any) -> Any:
    """Measures as ``cells.csv`` has them: a result read back from there is written the same."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    """Records, enums, tuples and paths to what JSON has; NaN and infinities to null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):  # enums are strings too
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(v) for name, v in _flat(value).items()}
    if hasattr(value, "item"):  # a NumPy scalar
        return _plain(value.item())
    return str(value)


def result_of(
    document: Mapping[str, Any],
    observations: tuple[Observation, ...],
    previews: Mapping[str, bytes],
    root: Path,
    overview: bytes = b"",
) -> SlideResult:
    """A parsed ``result.json`` with its cells and pictures back to the record.

    Parameters
    ----------
    document : mapping
    observations : tuple of Observation
        From ``cells.csv``, which has every cell.
    previews : mapping of field name to JPEG
    root : Path
        Stands for the folder of the pictures, which the file does not tell.
    overview : bytes
        The picture of a whole slide, JPEG.

    Raises
    ------
    KeyError, TypeError, ValueError
        Where the document is not a ``result.json``.
    """
    slide = _values(Slide, document["slide"], nan=False)
    differential = _values(Differential, document["differential"])
    rows = [
        DifferentialRow(**{**_values(DifferentialRow, row), "cell_class": CellClass(row["cell_class"])})
        for row in document["differential"]["rows"]
    ]
    flags = [Flag(**{**_values(Flag, flag), "severity": Severity(flag["severity"])}) for flag in document["flags"]]
    return SlideResult(
        slide=Slide(root=root, paths=tuple(root / name for name in document["slide"]["files"]), **slide),
        status=document["status"],
        fields=tuple(_field_of(values, previews) for values in document["fields"]),
        observations=observations,
        differential=Differential(
            **{**differential, "rows": tuple(rows), "adequacy": Adequacy(differential["adequacy"])}
        ),
        flags=tuple(flags),
        weights=WeightsInfo(**_values(WeightsInfo, document["weights"])),
        um_per_px=math.nan if document["um_per_px"] is None else document["um_per_px"],
        analysed_at=document["analysed_at"],
        version=document["version"],
        identity=document["identity"],
        device=document["device"],
        seconds=document["seconds"],
        options=document["options"],
        warnings=tuple(document["warnings"]),
        failures=tuple(Failure(**_values(Failure, failure)) for failure in document["failures"]),
        review=Review(**_values(Review, document["review"])) if document["review"] else None,
        supersedes=document["supersedes"],
        tiles=_tiles_of(document.get("tiles"), overview),
    )


def _field_of(values: Mapping[str, Any], previews: Mapping[str, bytes]) -> FieldSummary:
    scale = _values(Scale, values["scale"])
    quality = FieldQuality(**_values(FieldQuality, values["quality"]))
    record = _values(FieldSummary, values)
    record |= {
        "scale": Scale(**{**scale, "source": ScaleSource(scale["source"])}),
        "quality": quality,
        "preview_jpeg": previews.get(values["name"], b""),
    }
    return FieldSummary(**record)


def _values(record: type, values: Mapping[str, Any], nan: bool = True) -> dict[str, Any]:
    """Arguments for ``record``: lists as tuples, null as NaN; names that a later version has added are left out."""
    names = {f.name for f in dataclass_fields(record)}
    return {k: _tuples(v, nan) for k, v in values.items() if k in names}


def _tuples(value: Any, nan: bool) -> Any:
    if value is None and nan:
        return math.nan
    if isinstance(value, list):
        return tuple(_tuples(v, nan) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v, nan) for k, v in value.items()}
    return value
