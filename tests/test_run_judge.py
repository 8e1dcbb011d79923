"""Judging on fields small enough to draw by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cbctool.records import CLASSES, LEUKOCYTES, Cell, CellClass, CellKind, CellStatus, Prediction
from cbctool.run.findings import Findings
from cbctool.run.judge import differential_change, differential_counts, judge
from cbctool.run.truth import FieldTruth, Truth, TruthObject
from cbctool.run.truth_formats import TruthFormat

PATH = Path("a.png")
N, E, P = CellKind.NUCLEATED, CellKind.ERYTHROCYTE, CellKind.PLATELET


def cell(kind: CellKind, row: float, col: float, side: float = 20, reason: str = "") -> Cell:
    half = side / 2
    box = (int(row - half), int(col - half), int(row + half), int(col + half))
    return Cell(1, kind, row, col, *box, area_um2=1.0, touches_edge=False, reason=reason)


def box(kind: CellKind | None, row: float, col: float, side: float = 20, cls: CellClass | None = None) -> TruthObject:
    half = side / 2
    return TruthObject(kind or "odd", kind, cls, row - half, col - half, row + half, col + half)


def found(*cells: Cell, um_per_px: float = 0.5) -> Findings:
    return Findings(PATH, "a.png", 200, 300, um_per_px=um_per_px, red_cell_um_per_px=um_per_px, cells=cells)


def truth(*objects: TruthObject, form: TruthFormat = TruthFormat.BOXES, **field) -> Truth:
    return Truth(form, (FieldTruth(PATH, objects, **field),), ())


def call(cls: CellClass, status: CellStatus = CellStatus.CLASSIFIED, reason: str = "") -> Prediction:
    return Prediction(cls, 0.9, (0.125,) * 8, 0.0, status, reason)


def test_each_kind_is_judged_apart_and_every_mistake_is_kept():
    result = judge(
        [found(cell(N, 50, 50), cell(N, 100, 200), cell(E, 50, 100), cell(P, 150, 150, 6))],
        truth(box(N, 52, 50), box(N, 150, 150), box(E, 50, 100)),
    )
    nucleated = result.figures["kinds"]["nucleated"]
    assert (nucleated["centre"]["recall"], nucleated["centre"]["precision"]) == (0.5, 0.5)
    assert nucleated["iou"]["f1"] == 0.5
    assert nucleated["count_error"]["total"] == 0.0
    assert result.figures["kinds"]["erythrocyte"]["iou"]["f1"] == 1.0
    assert "platelet" not in result.figures["kinds"]  # annotated nowhere: cannot be judged
    missed, false = result.mistakes
    assert (missed.what, missed.found_as) == ("missed", "platelet")
    assert (false.what, false.found_as, false.ymin_px, false.xmax_px) == ("false", "nothing", 90, 210)


def test_right_centre_with_a_loose_box_is_told_apart():
    result = judge([found(cell(N, 50, 50, 60))], truth(box(N, 50, 50, 20)))
    assert result.figures["kinds"]["nucleated"]["centre"]["recall"] == 1.0
    assert result.figures["kinds"]["nucleated"]["iou"]["recall"] == 0.0
    (loose,) = result.mistakes
    assert (loose.what, loose.found_as, loose.detection) == ("loose", "IoU 0.11", (20, 20, 80, 80))


def test_cell_inside_a_clump_says_so():
    result = judge([found(cell(N, 50, 50, 60))], truth(box(N, 60, 70, 14), box(N, 45, 45, 30)))
    assert [m.found_as for m in result.mistakes if m.what == "missed"] == ["part of nucleated"]


def test_objects_of_unknown_kind_are_neither_right_nor_wrong():
    figures = judge([found(cell(N, 50, 50))], truth(box(None, 50, 50), box(N, 150, 150))).figures
    centre = figures["kinds"]["nucleated"]["centre"]
    assert (centre["false_positives"], centre["ignored"], centre["false_negatives"]) == (0, 1, 1)
    assert figures["kinds"]["nucleated"]["iou"]["false_positives"] == 0


def test_field_that_failed_counts_as_all_missed_and_is_named():
    result = judge([Findings(PATH, "a.png", error="a.png: no scale.", advice="Pass it.")], truth(box(N, 50, 50)))
    assert result.figures["kinds"]["nucleated"]["centre"]["recall"] == 0.0
    assert result.figures["fields"]["failed"] == [{"field": "a.png", "error": "a.png: no scale.", "advice": "Pass it."}]


def test_points_match_within_five_micrometres_and_far_detections_are_listed():
    points = [box(N, 50, 50, 0), box(None, 150, 150, 0)]
    findings = found(cell(N, 50, 59), cell(N, 150, 160), cell(N, 100, 250))  # 4.5 um, 5.0 um, far
    result = judge([findings], truth(*points, form=TruthFormat.POINTS))
    assert result.figures["kinds"]["nucleated"]["iou"] is None
    assert result.figures["points"]["recall_by_name"]["nucleated"]["recall"] == 1.0
    assert result.figures["points"]["far_from_any_point"] == 1
    assert result.figures["points"]["far_share"] == pytest.approx(1 / 3)
    assert result.figures["points"]["far"][0]["row_px"] == 100
    near = judge([replace(findings, um_per_px=0.6)], truth(*points, form=TruthFormat.POINTS))
    assert near.figures["points"]["recall_by_name"]["nucleated"]["recall"] == 0.0  # 5.4 um


def test_field_without_a_point_has_all_its_detections_far():
    annotated = Truth(TruthFormat.POINTS, (FieldTruth(PATH),), ())
    assert judge([found(cell(N, 50, 50))], annotated).figures["points"]["far_from_any_point"] == 1


def test_resized_picture_is_judged_in_its_own_pixels_and_mistakes_are_put_back():
    findings = replace(found(cell(N, 100, 100, 40)), height_px=400, width_px=600, factor_row=2.0, factor_col=2.0)
    result = judge([findings], truth(box(N, 50, 50), box(N, 150, 250)))
    assert result.figures["kinds"]["nucleated"]["iou"]["true_positives"] == 1
    assert (result.mistakes[0].ymin_px, result.mistakes[0].xmax_px) == (140, 260)


def test_scale_is_compared_with_whole_annotated_red_cells():
    red = [box(E, 50, 50, 15), box(E, 100, 100, 15), box(E, 150, 200, 15), box(E, 5, 150, 10)]
    figures = judge([found(um_per_px=0.51)], truth(*red)).figures["scale"]
    assert figures["truth_median_um_per_px"] == pytest.approx(0.5)
    assert figures["median_error"] == pytest.approx(0.02)
    assert figures["share_within_5_percent"] == 1.0


def test_classes_of_named_boxes():
    cells = (cell(N, 50, 50), cell(N, 50, 150), cell(N, 150, 50), cell(N, 150, 150))
    predictions = (
        call(CellClass.NEUTROPHIL),
        call(CellClass.MONOCYTE),
        call(CellClass.LYMPHOCYTE, CellStatus.UNCLASSIFIED, "low probability"),
        call(CellClass.NEUTROPHIL, CellStatus.EXCLUDED, "cut by the edge of the field"),
    )
    neutrophil, lymphocyte = CellClass.NEUTROPHIL, CellClass.LYMPHOCYTE
    objects = (
        box(N, 50, 50, cls=neutrophil),
        box(N, 50, 150, cls=lymphocyte),
        box(N, 150, 50, cls=lymphocyte),
        box(N, 150, 150, cls=neutrophil),
        box(N, 100, 250, cls=neutrophil),
    )
    figures = judge([replace(found(*cells), predictions=predictions)], truth(*objects)).figures["classes"]
    assert figures["judged"] == 3
    assert figures["not_judged"] == {"not found": 1, "cut by the edge of the field": 1}
    assert figures["accuracy_before_abstention"] == pytest.approx(2 / 3)
    assert figures["coverage"] == pytest.approx(2 / 3)
    assert figures["selective_accuracy"] == 0.5
    row = figures["confusion"][CLASSES.index(lymphocyte)]
    assert (row[CLASSES.index(CellClass.MONOCYTE)], row[-1]) == (1, 1)
    assert figures["per_class"]["neutrophil"]["sensitivity"] == 1.0


def test_field_with_one_name_and_two_cells_is_not_judged_by_guess():
    findings = replace(found(cell(N, 50, 50), cell(N, 50, 150)), predictions=(call(CellClass.NEUTROPHIL),) * 2)
    annotated = truth(form=TruthFormat.FIELD_CLASSES, classes=(CellClass.NEUTROPHIL,))
    figures = judge([findings], annotated).figures["classes"]
    assert figures["judged"] == 0
    assert sum(figures["not_judged"].values()) == 1
    twice = truth(form=TruthFormat.FIELD_CLASSES, classes=(CellClass.NEUTROPHIL,) * 2)
    assert judge([findings], twice).figures["classes"]["judged"] == 2


def test_dice_of_whole_cell_and_nucleus(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[:, :4] = 128
    mask[:, :2] = 255
    path = tmp_path / "ü.png"
    path.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    cells, nuclei = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    cells[:, :3], nuclei[:, :1] = True, True
    packed = [np.packbits(mask, axis=1) for mask in (cells, nuclei)]
    findings = Findings(PATH, "a.png", 4, 6, um_per_px=1.0, cell_mask=packed[0], nucleus_mask=packed[1])
    dice = judge([findings], truth(form=TruthFormat.MASKS, mask=path)).figures["dice"]
    assert dice["cell"]["pooled"] == pytest.approx(2 * 12 / (16 + 12))
    assert dice["nucleus"]["median_field"] == pytest.approx(2 * 4 / (8 + 4))


def test_mask_of_labels_has_no_nuclei(tmp_path):
    path = tmp_path / "m.png"
    path.write_bytes(cv2.imencode(".png", np.array([[0, 1], [2, 2]], np.uint8))[1].tobytes())
    empty = np.packbits(np.zeros((2, 2), bool), axis=1)
    findings = Findings(PATH, "a.png", 2, 2, um_per_px=1.0, cell_mask=empty, nucleus_mask=empty)
    dice = judge([findings], truth(form=TruthFormat.MASKS, mask=path)).figures["dice"]
    assert dice == {"cell": {"pooled": 0.0, "median_field": 0.0, "mean_field": 0.0, "fields": 1}}


def test_differential_counts_leave_out_what_is_not_classified():
    predictions = (
        call(CellClass.NEUTROPHIL),
        call(CellClass.PLATELET),
        call(CellClass.BASOPHIL, CellStatus.UNCLASSIFIED),
        None,
    )
    counts = differential_counts([replace(found(), predictions=predictions)])
    assert sum(counts.values()) == counts[CellClass.NEUTROPHIL] == 1


def test_differential_changes_when_one_class_leaves_its_interval():
    before = dict.fromkeys(LEUKOCYTES, 0) | {CellClass.NEUTROPHIL: 60, CellClass.LYMPHOCYTE: 40}
    same = differential_change(before, before | {CellClass.NEUTROPHIL: 55, CellClass.LYMPHOCYTE: 45})
    assert same["unchanged"] is True
    moved = differential_change(before, before | {CellClass.NEUTROPHIL: 40, CellClass.LYMPHOCYTE: 60})
    assert moved["unchanged"] is False
    assert moved["classes"]["neutrophil"]["percent_after"] == 40
    assert differential_change(before, dict.fromkeys(LEUKOCYTES, 0))["unchanged"] is None
    assert math.isnan(differential_change(dict.fromkeys(LEUKOCYTES, 0), before)["classes"]["neutrophil"]["percent"])
