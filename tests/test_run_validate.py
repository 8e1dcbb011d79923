"""``cbctool validate`` on drawn fields whose truth is known, from files to figures and pages."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from pypdf import PdfReader
from typer.testing import CliRunner

from cbctool.classifier.weights import read_registry
from cbctool.cli import app
from cbctool.errors import InputError, UsageError
from cbctool.records import CellClass, CellKind
from cbctool.report.tables import summary_csv
from cbctool.run.compare import compare_differentials
from cbctool.run.findings import find_cells, list_pictures
from cbctool.run.insult import parse_insult
from cbctool.run.truth import ManualDifferential
from cbctool.run.truth_formats import TruthFormat
from cbctool.run.validate import ValidateOptions, summary, to_json, validate, validate_fields, write_validation

NAMES = {CellKind.NUCLEATED: "WBC", CellKind.ERYTHROCYTE: "RBC", CellKind.PLATELET: "Platelets"}
UM_PER_PX = 0.25


@pytest.fixture(scope="module")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn fields in ``fields/``, a third without annotation, and the truth as boxes, points and masks."""
    from cbctool.synthetic.cells import RED_CELL
    from cbctool.synthetic.render import render_field

    folder = tmp_path_factory.mktemp("smear")
    for sub in ("fields", "masks"):
        (folder / sub).mkdir()
    boxes, points = [("id", "name", "xmin", "ymin", "xmax", "ymax")], [("id", "kind", "x", "y")]
    for seed, name in enumerate(("a", "b", "c")):
        cells = {RED_CELL: 50, "neutrophil": 3, "lymphocyte": 2, "platelet": 3}
        rgb, truth = render_field(cells, (320, 400), um_per_px=UM_PER_PX, seed=seed, with_labels=True)
        cv2.imwrite(str(folder / "fields" / f"{name}.png"), rgb[..., ::-1])
        if name == "c":
            continue
        nucleated = [c for c in truth.cells if c.kind is CellKind.NUCLEATED]
        boxes += [
            (name, NAMES[c.kind], c.xmin_px, c.ymin_px, c.xmax_px, c.ymax_px) for c in truth.cells if c.kind in NAMES
        ]
        points += [(name, "blast", c.col_px, c.row_px) for c in nucleated]
        mask = np.where(np.isin(truth.labels, [c.label for c in nucleated]), 128, 0)
        mask[np.isin(truth.nuclei, [c.label for c in nucleated])] = 255
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask.astype(np.uint8))
    for file, rows in (("boxes.csv", boxes), ("points.csv", points)):
        with (folder / file).open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)
    return folder


OPTIONS = ValidateOptions(um_per_px=UM_PER_PX, jobs=1)


def test_drawn_leukocytes_are_found_and_the_field_without_truth_is_counted(smear, tmp_path):
    result = validate_fields(smear / "fields", smear / "boxes.csv", OPTIONS)
    assert result.figures["fields"] | {"failed": [], "unfit": []} == {
        "pictures": 3,
        "annotated": 2,
        "without_annotation": 1,
        "judged": 2,
        "failed": [],
        "unfit": [],
    }
    assert result.figures["kinds"]["nucleated"]["centre"]["recall"] == 1.0
    written = write_validation(result, tmp_path / "out")
    assert {p.name for p in written} >= {"validation.json", "fields.csv", "mistakes.csv", "validation.pdf"}
    told = json.loads((tmp_path / "out" / "validation.json").read_text(encoding="utf-8"))
    assert told["kinds"]["nucleated"]["centre"]["recall"] == 1.0
    rows = list(csv.DictReader((tmp_path / "out" / "fields.csv").read_text(encoding="utf-8").splitlines()))
    assert {(r["field"], r["kind"]) for r in rows} >= {("a.png", "nucleated"), ("b.png", "erythrocyte")}
    text = PdfReader(tmp_path / "out" / "validation.pdf").pages[0].extract_text()
    assert "nucleated, by centre" in text
    assert "2 fields of 3 judged" in text


def test_mistakes_have_their_pictures(smear, tmp_path):
    moved = smear / "moved.csv"
    moved.write_text("id,name,xmin,ymin,xmax,ymax\na,WBC,0,0,12,12\n")
    result = validate_fields(smear / "fields", moved, OPTIONS)
    assert {m.what for m in result.mistakes} >= {"missed", "false"}
    write_validation(result, tmp_path)
    pages = PdfReader(tmp_path / "validation.pdf").pages
    assert "nucleated: missed (1)" in pages[1].extract_text()
    assert len(pages[1].images) == 1


def test_points_and_masks_of_the_same_fields(smear):
    points = validate(smear / "fields", smear / "points.csv", options=OPTIONS).figures
    assert points["points"]["recall_by_name"]["blast"]["recall"] == 1.0
    masks = validate(smear / "fields", smear / "masks", options=OPTIONS).figures
    assert masks["truth_format"] == "masks"
    assert masks["dice"]["cell"]["pooled"] > 0.8
    assert masks["dice"]["nucleus"]["pooled"] > 0.8


def test_fields_list_keeps_to_its_split(smear, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("id,split\na,train\nb,val\n")
    options = ValidateOptions(um_per_px=UM_PER_PX, jobs=1, fields_list=listed, splits=("val",))
    result = validate_fields(smear / "fields", smear / "boxes.csv", options)
    assert {c.field for c in result.counts} == {"b.png"}
    with pytest.raises(UsageError, match="--fields-list"):
        validate_fields(smear / "fields", smear / "boxes.csv", ValidateOptions(splits=("val",)))


def test_resized_fields_are_found_at_their_own_scale(smear):
    pictures = list_pictures(smear / "fields")[:1]
    (half,) = find_cells(pictures, smear / "fields", um_per_px=UM_PER_PX, insult=parse_insult("resize:0.5"))
    assert (half.height_px, half.width_px, half.factor_col) == (160, 200, 0.5)
    assert half.um_per_px == pytest.approx(0.5)
    (whole,) = find_cells(pictures, smear / "fields", um_per_px=UM_PER_PX)
    count = [sum(c.kind is CellKind.NUCLEATED for c in f.cells) for f in (half, whole)]
    assert count[0] == count[1]


def test_insult_says_what_it_costs(smear):
    options = ValidateOptions(um_per_px=UM_PER_PX, jobs=1, insult=parse_insult("jpeg"))
    figures = validate_fields(smear / "fields", smear / "points.csv", options).figures
    assert figures["insult"]["loss"]["nucleated"]["centre"]["recall"] == pytest.approx(0.0)
    assert figures["insult"]["figures"]["kinds"]["nucleated"]["centre"]["recall"] == 1.0


def test_workers_find_what_this_process_finds(smear):
    pictures = list_pictures(smear / "fields")
    told = []
    here = find_cells(pictures, smear / "fields", um_per_px=UM_PER_PX)
    there = find_cells(
        pictures, smear / "fields", um_per_px=UM_PER_PX, jobs=2, progress=lambda done, total: told.append((done, total))
    )
    assert [repr(f.cells) for f in here] == [repr(f.cells) for f in there]  # NaN is not equal to itself
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_unreadable_picture_fails_alone(smear, tmp_path):
    folder = tmp_path / "fields"
    folder.mkdir()
    (folder / "a.png").write_bytes((smear / "fields" / "a.png").read_bytes())
    (folder / "b.png").write_bytes(b"\x89PNG not really")
    figures = validate_fields(folder, smear / "boxes.csv", OPTIONS).figures
    assert [f["field"] for f in figures["fields"]["failed"]] == ["b.png"]
    assert figures["kinds"]["nucleated"]["centre"]["recall"] == pytest.approx(0.5, abs=0.1)


def test_blank_field_borrows_the_scale_of_its_folder(smear, tmp_path):
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((320, 400, 3), 235, np.uint8))
    (alone,) = find_cells([blank], tmp_path)
    assert alone.no_scale
    assert "scale" in alone.error
    (tmp_path / "a.png").write_bytes((smear / "fields" / "a.png").read_bytes())
    drawn, borrowing = find_cells(list_pictures(tmp_path), tmp_path)
    assert (drawn.scale_source, borrowing.scale_source) == ("red_cells", "slide")
    assert borrowing.um_per_px == drawn.um_per_px


def test_arguments_that_ask_for_nothing_or_too_much_are_refused(smear):
    with pytest.raises(UsageError, match="one of"):
        validate(None, None)
    with pytest.raises(UsageError, match="--truth"):
        validate(smear / "fields", None)
    with pytest.raises(UsageError, match="one of"):
        validate(smear / "fields", None, crops=smear)
    with pytest.raises(InputError, match="does not exist"):
        validate(smear / "nowhere", smear / "boxes.csv")


def test_json_has_null_where_there_is_no_number():
    assert json.loads(to_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (1, None)}})) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": [1, None]},
    }


def test_pictures_of_the_truth_are_left_out_however_its_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("fields/a.png", "fields/masks/a.png", "fields/masks/deep/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    relative, absolute = Path("fields"), tmp_path / "fields"
    for fields in (relative, absolute):
        for truth in (relative / "masks", absolute / "masks", Path("fields/../fields/masks")):
            assert list_pictures(fields, leave_out=truth) == [fields / "a.png"]
        assert len(list_pictures(fields, leave_out=absolute)) == 3
        assert len(list_pictures(fields, leave_out=tmp_path)) == 3  # the truth's folder holds the fields
        assert len(list_pictures(fields)) == 3


def test_command_prints_one_json_object(smear):
    arguments = ["validate", str(smear / "fields"), "--truth", str(smear / "points.csv"), "--json", "--quiet"]
    result = CliRunner().invoke(app, [*arguments, "--um-per-px", str(UM_PER_PX), "--jobs", "1"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["kinds"]["nucleated"]["annotated"] == 10


def manual(slide: str, neutrophil: float, cells: int | None = 200) -> ManualDifferential:
    return ManualDifferential(slide, {CellClass.NEUTROPHIL: neutrophil, CellClass.LYMPHOCYTE: 100 - neutrophil}, cells)


def row(slide: str, neutrophil: float | str) -> dict[str, object]:
    rest = 100 - neutrophil if isinstance(neutrophil, float) else ""
    return {"slide": slide, "neutrophil_percent": neutrophil, "lymphocyte_percent": rest}


def test_differentials_are_compared_class_by_class():
    figures, pairs, missing = compare_differentials(
        [manual(slide, percent) for slide, percent in zip("123457", (30.0, 60.0, 90.0, 50.0, 50.0, 50.0), strict=True)],
        [
            *(row("1", 32.0), row("2", 62.0), row("3", 92.0), row("4", ""), row("6", 10.0)),
            row("7", 0.0) | {"adequacy": "no differential"},  # of three cells: its report gives no percentages
        ],
    )
    neutrophil = figures["differentials"]["neutrophil"]
    assert neutrophil["bland_altman"]["bias"] == pytest.approx(2.0)
    assert (neutrophil["passing_bablok"]["slope"], neutrophil["passing_bablok"]["intercept"]) == pytest.approx((1, 2))
    assert neutrophil["kappa"]["kappa"] == 1.0  # low, within, high on both sides
    assert neutrophil["within_manual_interval"] == 1.0
    assert figures["slides"] == {"compared": 3, "manual": 6, "without_manual": 3}
    assert missing == [("4", "has no differential"), ("5", "not analysed"), ("7", "has no differential")]
    assert ("1", "neutrophil", 30.0, 32.0, 200, None) in pairs
    assert math.isnan(neutrophil["within_both_counts"])  # this tool's cells are not stated


def test_both_counts_have_their_chance():
    # 60 of 100 against 9 of 20: outside the exact interval of 60 % (50 to 70 %), yet p = 0.23
    far = row("2", 10.0) | {"leukocytes": 200}
    figures, pairs, _ = compare_differentials(
        [manual("1", 60.0, 100), manual("2", 60.0, 100)], [row("1", 45.0) | {"leukocytes": "20"}, far]
    )
    assert figures["differentials"]["neutrophil"]["within_manual_interval"] == 0.0
    assert figures["differentials"]["neutrophil"]["within_both_counts"] == 0.5
    assert pairs[0] == ("1", "neutrophil", 60.0, 45.0, 100, 20)
    text = summary(figures)
    assert "2 compared, median of 100 cells by hand, 110 here; a comparison of methods asks for 40 or more" in text
    assert "limits of agreement" in text


def test_it_says_which_weights_made_the_reports():
    shipped = read_registry()["sha256"]["default.safetensors"]
    rows = [
        row("1", 45.0) | {"version": "0.1.0", "weights_sha256": shipped},
        row("2", 45.0) | {"version": "0.1.0", "weights_sha256": shipped},
        row("3", 45.0) | {"version": "0.1.0", "weights_sha256": "ab" * 32},
        row("4", 45.0),
        row("5", 45.0) | {"version": "0.0.9", "weights_sha256": "cd" * 32},  # not compared
    ]
    figures, _, _ = compare_differentials([manual(slide, 60.0) for slide in "1234"], rows)
    assert figures["made_by"][0] == {
        "version": "0.1.0",
        "weights": "default",
        "weights_sha256": shipped,
        "slides": 2,
    }
    text = " ".join(summary(figures).split())
    assert f"2 made by version 0.1.0, weights default (sha256 {shipped[:12]}…)" in text
    assert "1 made by version 0.1.0, weights (sha256 abababababab…)" in text
    assert "1 made by version not stated, weights (not stated)" in text
    assert "0.0.9" not in text


def test_reports_folder_is_compared_with_a_manual_count(tmp_path):
    lines = ["slide,neutrophil_percent,lymphocyte_percent", "1,32,68", "2,62,38", "3,92,8"]
    (tmp_path / "summary.csv").write_text("\n".join(lines))
    truth = tmp_path / "manual.csv"
    truth.write_text("slide,segs,bands,lymphocytes\n1,50,10,140\n2,100,20,80\n3,170,10,20\n9,1,1,1\n")
    result = validate(tmp_path, truth)
    assert result.figures["truth_format"] == TruthFormat.DIFFERENTIALS
    assert result.figures["differentials"]["neutrophil"]["bland_altman"]["bias"] == pytest.approx(2.0)
    assert result.figures["truth_faults"][0]["what"] == "slide '9': not analysed, left out"
    written = write_validation(result, tmp_path / "out")
    assert "differentials.csv" in {p.name for p in written}
    text = "".join(page.extract_text() for page in PdfReader(tmp_path / "out" / "validation.pdf").pages)
    assert "differentials by hand and by this software" in text
    (tmp_path / "summary.csv").write_text(summary_csv([{"slide": "=1", "neutrophil_percent": 32.0}]))
    truth.write_text("slide,neutrophil\n=1,30\n")
    assert validate(tmp_path, truth).figures["slides"]["compared"] == 1  # as a spreadsheet may not run it
    truth.write_text("slide,neutrophil\n9,100\n")
    with pytest.raises(UsageError, match="none of its slides"):
        validate(tmp_path, truth)


@pytest.mark.real
def test_real_leukocytes_of_another_laboratory(data, tmp_path):
    names = tmp_path / "few.txt"
    names.write_text("\n".join(f"BloodImage_{i:05d}" for i in (0, 1, 3, 4, 5, 6)))
    options = ValidateOptions(fields_list=names, um_per_px=0.073, jobs=1)
    figures = validate_fields(data / "bccd" / "images", data / "bccd" / "annotations", options).figures
    assert figures["kinds"]["nucleated"]["centre"]["f1"] >= 0.9
    assert figures["fields"]["judged"] == 6
