"""Annotations, overlays and the store of pictures."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from slides import cell, field_summary, prediction, slide_result

from cbctool.records import Flag, Observation, Severity
from cbctool.report.pictures import (
    boxes_of,
    by_field,
    fields_to_show,
    overlay_jpeg,
    pictures_of,
    scale_bar,
    write_evidence,
)
from cbctool.report.tables import cells_csv


def grey_field(height: int = 200, width: int = 300) -> bytes:
    return bytes(cv2.imencode(".jpg", np.full((height, width, 3), 200, np.uint8))[1])


def decoded(jpeg: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def seen(number: int = 1, kind: str = "nucleated", status: str = "classified", **where: int) -> Observation:
    box = {"ymin_px": 60, "xmin_px": 100, "ymax_px": 120, "xmax_px": 160, **where}
    return Observation("f", dataclasses.replace(cell(number, kind), **box), prediction("neutrophil", 0.9, status))


def test_boxes_are_in_pixels_of_the_preview_and_of_the_tile() -> None:
    summary = field_summary("f", row_px=40, col_px=60, preview_scale=0.5)
    (box,) = boxes_of(summary, [seen()])
    assert (box.top, box.left, box.bottom, box.right) == (10, 20, 40, 50)
    assert (box.key, box.counted) == ("neutrophil", True)


def test_unclassified_and_excluded_are_not_counted_and_red_cells_not_drawn() -> None:
    red = Observation("f", cell(3, "erythrocyte"), None)
    boxes = boxes_of(field_summary("f"), [seen(1, status="unclassified"), seen(2, status="excluded"), red])
    assert [(box.key, box.counted) for box in boxes] == [("unclassified", False), ("excluded", False)]


def test_a_platelet_is_a_ring_unless_it_raised_a_flag() -> None:
    platelets = [seen(1, "platelet"), seen(2, "platelet"), seen(3)]
    assert [box.ring for box in boxes_of(field_summary("f"), platelets, {("f", 2)})] == [True, False, False]


def test_overlay_draws_the_box_and_its_label_inside_the_picture() -> None:
    summary = field_summary("f", height_px=200, width_px=300)
    picture = decoded(overlay_jpeg(grey_field(), boxes_of(summary, [seen()])))
    assert picture.shape == (200, 300, 3)
    changed = np.abs(picture.astype(int) - 200).max(axis=2) > 40
    assert changed[60:62, 110:150].all(), "upper edge of the box"
    assert changed[45:58, 102:112].any(), "label above it"
    assert not changed[75:105, 115:145].any(), "the cell itself stays visible"
    assert not changed[150:, :].any()


def test_half_size_halves_large_pictures_only() -> None:
    summary = field_summary("f", height_px=900, width_px=1200)
    large = decoded(overlay_jpeg(grey_field(900, 1200), boxes_of(summary, [seen()]), half=True))
    assert large.shape == (450, 600, 3)
    changed = np.abs(large.astype(int) - 200).max(axis=2) > 40
    assert changed[30:32, 55:75].all(), "upper edge of the box at half its place"
    assert decoded(overlay_jpeg(grey_field(), [], half=True)).shape == (200, 300, 3)


@pytest.mark.parametrize("where", [{"ymin_px": 0}, {"xmax_px": 300, "xmin_px": 280}, {"ymin_px": -5, "ymax_px": 500}])
def test_overlay_at_the_edge(where: dict[str, int]) -> None:
    overlay_jpeg(grey_field(), boxes_of(field_summary("f"), [seen(**where), seen(2, "platelet")]))


def test_broken_preview_is_said() -> None:
    with pytest.raises(ValueError, match="not a JPEG"):
        overlay_jpeg(b"no picture", [])


def test_flagged_fields_come_first_then_the_fullest() -> None:
    counts = {"neutrophil": 5, "platelet": 3}
    result = slide_result(counts, fields=3, flags=[Flag("a", Severity.NOTE, "A", "a.", (("field_03.png", 1),))])
    bare = dataclasses.replace(result.fields[1], preview_jpeg=b"")
    result = dataclasses.replace(result, fields=(result.fields[0], bare, result.fields[2]))
    assert [summary.name for summary in fields_to_show(result)] == ["field_03.png", "field_01.png"]


def test_the_field_of_the_most_severe_flag_comes_before_fuller_ones() -> None:
    note = Flag("n", Severity.NOTE, "n", "n.", (("field_01.png", 1), ("field_03.png", 1)))
    critical = Flag("c", Severity.CRITICAL, "c", "c.", (("field_03.png", 1),))
    result = slide_result({"neutrophil": 4}, fields=3, flags=[note, critical])
    assert [field.name for field in fields_to_show(result)] == ["field_03.png", "field_01.png", "field_02.png"]


def test_by_field_has_what_is_drawn() -> None:
    result = slide_result({"neutrophil": 2, "platelet": 2}, red_cells=5, artefacts=1, fields=2)  # a smudge cell
    assert sum(len(group) for group in by_field(result.observations).values()) == 5


def test_of_artefacts_the_smudge_cells_are_drawn_since_a_flag_counts_them() -> None:
    smudge = Observation("f", cell(1, "artefact", reason="smudge cell"), prediction("lymphocyte", status="excluded"))
    debris = Observation("f", cell(2, "artefact", reason="stain debris"), prediction("lymphocyte", status="excluded"))
    assert [box.observation.cell.cell for box in boxes_of(field_summary("f"), [smudge, debris])] == [1]


@pytest.mark.parametrize(("width_um", "bar_um"), [(49.0, 10.0), (233.0, 50.0), (2000.0, 200.0), (3.0, 1.0)])
def test_scale_bars_are_round_and_fit(width_um: float, bar_um: float) -> None:
    assert scale_bar(width_um) == bar_um


def test_overlay_has_a_scale_bar_where_its_scale_is_known() -> None:
    plain, barred = decoded(overlay_jpeg(grey_field(), [])), decoded(overlay_jpeg(grey_field(), [], um_per_px=0.1))
    # 300 px are 30 um: a bar of 5 um, 50 px
    assert plain[189:191, 12:58].min() > 150
    assert barred[189:191, 12:58].max() < 80
    assert barred[189:191, 70:].min() > 150


def test_evidence_keeps_every_picture_under_its_number(tmp_path: Path) -> None:
    result = slide_result({"neutrophil": 2, "platelet": 1}, red_cells=2, fields=1)
    (tmp_path / "cells.csv").write_text(cells_csv(result), encoding="utf-8")
    out, again = io.BytesIO(), io.BytesIO()
    write_evidence(result, tmp_path / "cells.csv", out)
    write_evidence(result, tmp_path / "cells.csv", again)
    assert out.getvalue() == again.getvalue()
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert archive.read("cells.csv").decode() == cells_csv(result)
        thumbnails = pictures_of(archive, "cells")
        assert pictures_of(archive, "fields") == {0: result.fields[0].preview_jpeg}
    assert thumbnails == {i: o.thumbnail for i, o in enumerate(result.observations) if o.thumbnail}
