"""result.json: its schema, its privacy, and the way back."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import pytest
from slides import RULES, slide_result, tile_map

from cbctool.errors import InputError
from cbctool.records import Failure, Flag, Review, Severity, SlideResult
from cbctool.report import ReportStyle, read_slide, write_slide
from cbctool.report.result_json import result_json, schema

BARE = ReportStyle(outputs=frozenset())


def full_result() -> SlideResult:
    flags = (Flag("a", Severity.CRITICAL, "A", "a.", (("field_01.png", 1),)),)
    result = slide_result(
        {"neutrophil": 30, "lymphocyte": 25, "erythroblast": 1, "platelet": 2},
        red_cells=20, unclassified=2, blast_like=1, cut_by_edge=2, artefacts=1, wbc=6.5, flags=flags,
    )  # fmt: skip
    return dataclasses.replace(
        result,
        failures=(Failure("slide-1", "x.png", "broken", "repair it"),),
        warnings=("look",),
        options={"um_per_px": None, "profile": {"lab": {"name": "L"}}},
        review=Review("Dr. Ü", "2026-03-02T10:00:00+00:00", 1),
        tiles=tile_map(),
    )


@pytest.mark.parametrize("result", [full_result(), slide_result({}), slide_result()], ids=["full", "empty", "plain"])
def test_document_meets_the_shipped_schema(result: SlideResult) -> None:
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema())
    document = json.loads(result_json(result), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    validator(schema(), format_checker=jsonschema.FormatChecker()).validate(document)


def test_schema_notices_a_missing_name_and_a_wrong_class() -> None:
    document = json.loads(result_json(full_result()))
    del document["differential"]["leukocytes"]
    document["cells"][0]["class"] = "blast"
    errors = {error.json_path for error in jsonschema.Draft202012Validator(schema()).iter_errors(document)}
    assert errors == {"$.differential", "$.cells[0].class"}


def test_nucleated_cells_only_and_no_path_of_the_machine() -> None:
    result = full_result()
    secret = Path("/home/somebody/secret")
    slide = dataclasses.replace(result.slide, root=secret, paths=(secret / "a" / "b.png",))
    text = result_json(dataclasses.replace(result, slide=slide))
    document = json.loads(text)
    assert "secret" not in text
    assert document["slide"]["files"] == ["a/b.png"]
    assert {c["kind"] for c in document["cells"]} == {"nucleated"}
    assert len(document["cells"]) == 30 + 25 + 1 + 2 + 1 + 2


def test_result_comes_back_from_its_folder(tmp_path: Path) -> None:
    result = full_result()
    write_slide(result, tmp_path, BARE, RULES)
    back = read_slide(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    write_slide(back, again, BARE, RULES)
    for name in ("result.json", "cells.csv", "differential.csv", "evidence.zip"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert back.fields == result.fields
    assert back.flags == result.flags
    assert back.review == result.review
    assert back.tiles == result.tiles
    assert [o.thumbnail for o in back.observations] == [o.thumbnail for o in result.observations]
    assert math.isnan(back.differential.wbc_corrected_10e9_per_l)


def test_a_whole_slide_says_what_became_of_each_tile() -> None:
    tiles = json.loads(result_json(full_result()))["tiles"]
    assert (tiles["rows"], tiles["columns"]) == (3, 4)
    assert tiles["counts"] == {
        "counted": 2, "too thick": 1, "too thin": 1, "unfit": 1, "failed": 1, "background": 6
    }  # fmt: skip
    assert tiles["uses"][1] == ["too thick", "counted", "counted", "too thin"]
    assert json.loads(result_json(slide_result()))["tiles"] is None


def test_an_edited_cells_csv_does_not_change_what_was_measured(tmp_path: Path) -> None:
    write_slide(full_result(), tmp_path, BARE, RULES)
    (tmp_path / "cells.csv").write_text("gone")
    assert len(read_slide(tmp_path).observations) == len(full_result().observations)


def test_names_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    write_slide(full_result(), tmp_path, BARE, RULES)
    document = json.loads((tmp_path / "result.json").read_text())
    document["new"] = document["weights"]["new"] = document["fields"][0]["new"] = 1
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert read_slide(tmp_path).weights == full_result().weights


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"fields": 1}'])
def test_damaged_result_is_said(tmp_path: Path, text: str) -> None:
    write_slide(full_result(), tmp_path, BARE, RULES)
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        read_slide(tmp_path)
