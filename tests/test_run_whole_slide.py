"""A whole-slide file through the pipeline: the same cells as one field, each counted once, memory of a tile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from counted import SLIDE, WEIGHTS, cell, field
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from written import table

from cbctool.hematology.profile import Profile
from cbctool.records import CellKind, FieldQuality, FieldResult, Scores
from cbctool.report import ReportStyle
from cbctool.run.analyse import analyse
from cbctool.run.parcel import pack
from cbctool.run.pipeline import Settings
from cbctool.run.tasks import RunContext, SlideEvidence, slide_result
from cbctool.synthetic.whole_slide import WholeSmear, write_pyramid


@pytest.fixture(scope="module")
def smear() -> WholeSmear:
    return WholeSmear((1500, 4400), um_per_px=0.25, seed=3)


def counted(path: Path) -> dict[str, NDArray[np.float64]]:
    """Row and column of each cell in px, and the number of the field (tile) that it was seen in, by kind."""
    found: dict[str, list[tuple[float, float, int]]] = {}
    tiles: dict[str, int] = {}
    for row in table(path):
        tile = tiles.setdefault(row["field"], len(tiles))
        found.setdefault(row["kind"], []).append((float(row["row_px"]), float(row["col_px"]), tile))
    return {kind: np.array(rows) for kind, rows in found.items()}


@pytest.mark.parametrize(("left_cover", "right_cover"), [(0.9, 0.4), (0.4, 0.9), (0.4, 0.4)])
def test_a_cell_on_the_seam_of_the_monolayer_is_counted_once(left_cover: float, right_cover: float) -> None:
    parcels = []
    for name, col, cover in (("left", 99.8, left_cover), ("right", 100.3, right_cover)):
        red = cell(1, CellKind.ERYTHROCYTE, row_px=50.0, col_px=col)
        summary = field(name, quality=FieldQuality(True, cell_cover=cover, overlap=0.1))
        none = np.empty((0, 28, 28, 3), np.uint8)
        parcels.append(pack(FieldResult(summary, (red,), none, np.empty(0, np.int64), ())))
    scores = (Scores(np.empty((0, 8)), np.empty(0)),) * 2
    evidence = SlideEvidence(replace(SLIDE, whole_slide=True), tuple(parcels), scores, (), {}, (), "", 0.0)
    context = RunContext(Path(), WEIGHTS, Profile(), ReportStyle(), "cpu", {}, "")
    assert slide_result(evidence, context).differential.erythrocytes == 1


def test_tiles_give_the_cells_of_the_same_scene_as_one_field(smear: WholeSmear, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    write_pyramid(slides / "scan.tif", smear, quality=95)
    rgb = smear.region(0, 0, smear.shape)[0]
    cv2.imwrite(str(slides / "photo.png"), rgb[..., ::-1])
    out = tmp_path / "out"
    report = analyse(slides, Settings(out=out, jobs=2, um_per_px=0.25))
    assert not report.failures
    scan, photo = counted(out / "scan" / "cells.csv"), counted(out / "photo" / "cells.csv")
    result = json.loads((out / "scan" / "result.json").read_text(encoding="utf-8"))
    assert len(result["fields"]) > 1  # there are seams
    assert result["um_per_px"] == pytest.approx(0.25)
    uses = [use for row in result["tiles"]["uses"] for use in row]
    fit = sum(field["quality"]["fit"] for field in result["fields"])
    assert uses.count("counted") == fit == result["tiles"]["counts"]["counted"] > 0
    assert len(uses) - uses.count("background") == len(result["fields"])
    for kind, tolerance in (("nucleated", 0.03), ("erythrocyte", 0.05)):
        tiles, whole = scan[kind], photo[kind]
        assert len(tiles) == pytest.approx(len(whole), rel=tolerance, abs=2), kind
        apart_um = 0.25 * cdist(tiles[:, :2], tiles[:, :2])
        other_tile = tiles[:, None, 2] != tiles[None, :, 2]
        assert apart_um[other_tile].min() > 1.5, f"{kind}: one cell counted twice at a seam"
        nearest_um = 0.25 * cdist(whole[:, :2], tiles[:, :2]).min(1)
        assert np.mean(nearest_um < 2.0) > 0.95, kind
