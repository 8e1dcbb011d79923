"""``report.html`` and ``index.html``: self-contained pages; every text of a user is escaped by the template engine."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cbctool.records import Adequacy, FieldSummary, FlagRule, SlideResult, TileUse
from cbctool.report import content
from cbctool.report.evidence import Shown, doubts, flagged_cells, gallery_groups, numbered_fields
from cbctool.report.pictures import boxes_of, by_field, fields_to_show, flagged_identities, scale_bar
from cbctool.report.style import (
    LIMITS,
    MARKS,
    OUTSIDE_SIGN,
    SEVERITY_ORDER,
    SEVERITY_SIGN,
    TILE_MARKS,
    ReportStyle,
    confirmation,
    number,
    report_status,
)

CHART_WIDTH = 240.0
FIELD_ROWS = 200
STRIP = 24
"""Flagged cells at the head of the page."""


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cbctool.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["jpeg"] = _data_url
    environment.filters["urlpath"] = lambda text: quote(str(text).encode("utf-8", "surrogateescape"))
    return environment


def report_html(
    result: SlideResult, style: ReportStyle, rules: Sequence[FlagRule], overlays: Mapping[str, str] | None = None
) -> str:
    """The report as one HTML file without anything outside it.

    Parameters
    ----------
    result : SlideResult
    style : ReportStyle
    rules : sequence of FlagRule
    overlays : mapping of field name to file name, optional
        Overlay pictures beside the report; a field too many for the page is linked there.
    """
    overlays = overlays or {}
    fields = _fields(result, style, overlays)
    inline = {name for field in fields for name in field["anchors"]}
    groups = gallery_groups(result, style.html_cells)
    strip, flagged = flagged_cells(result, STRIP)
    numbers = numbered_fields(result)

    def cell(shown: Shown) -> dict[str, Any]:
        observation = shown.observation
        anchor = _anchor(numbers, observation.field, observation.cell.cell)
        overlay = overlays.get(observation.field, "")
        prediction = observation.prediction
        reasons = () if prediction is None else (prediction.reason, *prediction.blast_reasons)
        return {
            "shown": shown,
            "href": f"#{anchor}" if anchor in inline else quote(overlay),
            "title": "; ".join(filter(None, (observation.field, *shown.flags, *dict.fromkeys(reasons)))),
        }

    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            style=style,
            status=report_status(result),
            confirmation=confirmation(result),
            facts=content.head_facts(result, style),
            adequacy=content.ADEQUACY_WORDS[result.differential.adequacy],
            classified=content.classified_text(result),
            unclassified=content.unclassified_text(result),
            flags=[
                (flag, content.flag_text(flag))
                for flag in sorted(result.flags, key=lambda flag: SEVERITY_ORDER[flag.severity])
            ],
            signs=SEVERITY_SIGN,
            rows=_rows(result),
            counted=result.differential.adequacy is not Adequacy.NONE,
            absolute=any(row.absolute_10e9_per_l == row.absolute_10e9_per_l for row in result.differential.rows),
            too_few=content.TOO_FEW,
            chart_width=CHART_WIDTH,
            ticks=[(tick, _place(tick)) for tick in (0, 1, 5, 10, 25, 50, 75, 100)],
            chart_key=content.chart_key(result),
            panels=content.panels(result),
            strip=[cell(shown) for shown in strip],
            flagged=flagged,
            groups=[(group, [cell(shown) for shown in group.cells], doubts(group)) for group in groups],
            marks=MARKS,
            map=_map(result),
            fields=fields,
            gallery_key=content.GALLERY_KEY,
            fields_text=content.fields_text(result, len(fields)),
            field_key=content.FIELD_KEY,
            field_headings=content.FIELD_HEADINGS,
            field_rows=content.field_rows(result, FIELD_ROWS),
            stain_rows=content.stain_rows(result),
            method=content.METHOD,
            method_facts=content.method_facts(result),
            failures=[content.failure_text(failure) for failure in result.failures],
            error_title=content.ERROR_TITLE,
            error_headings=content.ERROR_HEADINGS,
            error_rows=content.error_rows(result),
            limits=LIMITS,
            legend=list(zip(("raised", "not raised", "switched off"), content.legend(result, rules), strict=True)),
        )
    )


def _data_url(jpeg: bytes) -> Markup:
    # Base64 has nothing to escape, and looking for it in megabytes takes a fifth of the page's time.
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))


def _place(percent: float) -> float:
    return CHART_WIDTH * math.sqrt(min(max(percent, 0.0), 100.0) / 100)


def _rows(result: SlideResult) -> list[dict[str, Any]]:
    rows = []
    for row in result.differential.rows:
        places = {
            name: _place(value) if (value := getattr(row, name)) == value else None
            for name in ("percent", "ci_low", "ci_high", "total_low", "total_high", "reference_low", "reference_high")
        }
        rows.append(
            {
                "row": row,
                "mark": MARKS[row.cell_class],
                "at": places,
                "outside": OUTSIDE_SIGN.get(row.outside, row.outside),
                "absolute_outside": OUTSIDE_SIGN.get(row.absolute_outside, row.absolute_outside),
            }
        )
    return rows


def _anchor(numbers: Mapping[str, int], field: str, cell: int) -> str:
    return f"cell-{numbers.get(field, 0)}-{cell}"


def _fields(result: SlideResult, style: ReportStyle, overlays: Mapping[str, str]) -> list[dict[str, Any]]:
    """Fields with their boxes, within the bounds of the style; later ones are left to the overlay files."""
    numbers = numbered_fields(result)
    groups, flagged = by_field(result.observations), flagged_identities(result)
    fields = []
    weight = 0
    for summary in fields_to_show(result)[: style.html_fields]:
        weight += len(summary.preview_jpeg)
        if weight > style.html_preview_bytes:
            break
        boxes = [
            {
                "anchor": _anchor(numbers, summary.name, box.observation.cell.cell),
                "ring": box.ring,
                "counted": box.counted,
                "mark": MARKS[box.key],
                "number": box.observation.cell.cell,
                **{name: round(getattr(box, name), 1) for name in ("left", "top", "right", "bottom")},
            }
            for box in boxes_of(summary, groups.get(summary.name, ()), flagged)
        ]
        fields.append(
            {
                "number": numbers[summary.name],
                "summary": summary,
                "size": _preview_size(summary),
                "bar": _scale_bar(summary),
                "boxes": boxes,
                "anchors": [box["anchor"] for box in boxes],
                "overlay": overlays.get(summary.name, ""),
            }
        )
    return fields


def _scale_bar(summary: FieldSummary) -> tuple[float, float]:
    """Micrometres and preview pixels of a field's scale bar."""
    um = scale_bar(summary.width_px * summary.scale.um_per_px)
    return um, round(um / summary.scale.um_per_px * summary.preview_scale, 1)


MAP_SIDE = 420.0
"""Longer side of a whole slide's map, CSS pixels: two fit beside each other."""


def _map(result: SlideResult) -> dict[str, Any] | None:
    """A whole slide's map: size of the drawing, its tiles and legend; None for other slides."""
    tiles = result.tiles
    if tiles is None:
        return None
    zoom = MAP_SIDE / max(tiles.width_px, tiles.height_px)
    width, height = zoom * tiles.width_px, zoom * tiles.height_px
    across, down = width / len(tiles.uses[0]), height / len(tiles.uses)
    return {
        "heading": content.MAP_HEADING,
        "text": content.map_text(result, tiles),
        "size": (round(width, 1), round(height, 1)),
        "tile": (round(across, 2), round(down, 2)),
        "overview": tiles.overview_jpeg,
        "legend": content.map_legend(tiles),
        "tiles": [
            (round(j * across, 2), round(i * down, 2), TILE_MARKS[use])
            for i, row in enumerate(tiles.uses)
            for j, use in enumerate(row)
            if use is not TileUse.BACKGROUND
        ],
    }


def _preview_size(summary: FieldSummary) -> tuple[float, float]:
    scale = summary.preview_scale
    return round(summary.width_px * scale, 1), round(summary.height_px * scale, 1)


def index_html(
    rows: Iterable[Mapping[str, Any]],
    failures: Iterable[Any],
    style: ReportStyle,
    folder_of: Callable[[str], str] = str,
) -> str:
    """The run as a sortable table, the slides that need a person first.

    Parameters
    ----------
    rows : iterable of mappings
        Rows of ``summary.csv``, values or their text.
    failures : iterable of Failure
    style : ReportStyle
    folder_of : callable
        A slide's name to the name of its folder.
    """
    table = sorted((_index_row(row, folder_of, style) for row in rows), key=lambda row: (row["rank"], row["slide"]))
    return _environment().get_template("index.html.j2").render(rows=table, failures=list(failures), style=style)


_RANK = {"critical": 1, "warning": 3, "note": 4, "": 5}


def _index_row(row: Mapping[str, Any], folder_of: Callable[[str], str], style: ReportStyle) -> dict[str, Any]:
    slide, severity = str(row.get("slide", "")), str(row.get("severity", "") or "")
    failed = row.get("status") == "failed"
    # Failed slides first, then critical flags, lost fields and counts too small, warnings, notes.
    small = row.get("adequacy") == Adequacy.NONE
    rank = 0 if failed else _RANK.get(severity, 5)
    if rank > 2 and (row.get("status") == "partial" or small):
        rank = 2
    # Below the least number of leukocytes there is no differential, here as in the report.
    ratios: Mapping[str, Any] = {} if small else row
    flags = [_flag_words(code) for code in str(row.get("flags", "") or "").split(";") if code]
    page = next((name for name in ("html", "pdf") if name in style.outputs), "")
    href = f"{quote(folder_of(slide).encode('utf-8', 'surrogateescape'))}/{f'report.{page}' if page else ''}"
    return {
        **{name: row.get(name, "") for name in ("status", "leukocytes", "adequacy", "report", "unclassified")},
        **{name: row.get(name, "") for name in ("sample_id", "comment", "fields")},
        "nrbc": _text(ratios.get("nrbc_per_100_wbc", "")),
        "slide": slide,
        "severity": "failed" if failed else severity,
        "flags": flags,
        "rank": rank,
        "href": "" if failed else href,
        "percent": [_text(ratios.get(f"{name}_percent", "")) for name in INDEX_CLASSES],
    }


INDEX_CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "immature_granulocyte")


def _flag_words(code: str) -> str:
    """A flag's code as words: ``blast_like_cells`` to "blast-like cells"; the table has no more than the code."""
    return code.replace("_like", "-like").replace("_", " ").replace("nrbc", "NRBC")


def _text(value: Any) -> str:
    try:
        return number(float(value), missing="")
    except (TypeError, ValueError):
        return ""
