"""A person's word is last: corrections are applied, recomputed and written whole, or nothing is."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from slides import RULES, slide_result

from cbctool import hematology, report
from cbctool.errors import InputError, UsageError
from cbctool.hematology.profile import Profile
from cbctool.records import CellClass, CellKind, CellStatus, SlideResult
from cbctool.run import manifest, review
from cbctool.run.review import review_slide

WHEN = datetime(2026, 3, 2, 10, tzinfo=UTC)
STYLE = report.ReportStyle(outputs=frozenset({"hl7", "fhir", "html"}))


def made(tmp_path: Path, lymphocytes: int = 50) -> tuple[Path, SlideResult]:
    """A slide's report as ``analyze`` leaves it: interpreted by haematology, with manifest and summary."""
    from dataclasses import replace

    counts = {"neutrophil": 60, "lymphocyte": lymphocytes, "immature_granulocyte": 1, "platelet": 5}
    result = slide_result(counts, red_cells=30, unclassified=2, cut_by_edge=1, artefacts=1)
    found = hematology.interpret(result.slide, result.fields, result.observations, result.weights, Profile())
    result = replace(
        result, observations=found.observations, differential=found.differential, flags=found.flags, options={}
    )
    folder = tmp_path / "reports" / "slide-1"
    folder.mkdir(parents=True)
    report.write_slide(result, folder, STYLE, RULES)
    row = report.summary_row(result)
    done = manifest.Manifest("slide-1", "f" * 64, "c" * 64, (1,), {"a": "b"}, row)
    (folder / manifest.MANIFEST).write_text(manifest.manifest_text(done))
    report.write_run(folder.parent, [row, {"slide": "other", "status": "done"}], [], STYLE)
    return folder, result


def edited(folder: Path, name: str = "corrected.csv", **changes: dict[str, str]) -> Path:
    """The slide's cells.csv with columns of some rows changed; keys are ``r`` and the row's number in the table."""
    with (folder / "cells.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for key, values in changes.items():
        for column, value in values.items():
            rows[int(key[1:]) - 1][rows[0].index(column)] = value
    path = folder.parent.parent / name
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def row_of(folder: Path, **wanted: str) -> int:
    """The number in the table of the first row that has these values."""
    for number, row in enumerate(report.read_table(folder / "cells.csv"), start=2):
        if all(row[k] == v for k, v in wanted.items()):
            return number
    raise AssertionError(wanted)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count(result: SlideResult, name: CellClass) -> int:
    return next(row.count for row in result.differential.rows if row.cell_class is name)


def test_changed_class_is_counted_anew_and_the_old_call_kept(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    row = row_of(folder, **{"class": "neutrophil", "status": "classified"})
    after = review_slide(folder, edited(folder, **{f"r{row}": {"class": "monocyte"}}), "Dr. Grün", reviewed_at=WHEN)
    assert count(after, CellClass.MONOCYTE) == 1
    assert count(after, CellClass.NEUTROPHIL) == count(before, CellClass.NEUTROPHIL) - 1
    written = report.read_table(folder / "cells.csv")[row - 2]
    assert (written["class"], written["called"], written["status"]) == ("monocyte", "neutrophil", "classified")
    document = json.loads((folder / "result.json").read_text())
    assert document["report"] == "reviewed"
    review = {"reviewer": "Dr. Grün", "reviewed_at": "2026-03-02T10:00:00+00:00", "corrections": 1, "number": 1}
    assert document["review"] == review
    assert "|F|" in (folder / "result.hl7").read_text()
    assert json.loads((folder / "fhir.json").read_text())["entry"][0]["resource"]["status"] == "final"
    assert "Dr. Grün" in (folder / "report.html").read_text()


def test_tables_and_manifest_follow(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    review_slide(folder, None, "A", reviewed_at=WHEN)
    rows = {row["slide"]: row for row in report.read_table(folder.parent / "summary.csv")}
    assert rows["slide-1"]["report"] == "reviewed"
    assert rows["slide-1"]["reviewer"] == "A"
    assert rows["other"]["status"] == "done"
    done = manifest.read_manifest(folder)
    assert done is not None
    assert done.row["report"] == "reviewed"
    assert done.identity == "f" * 64, "an unchanged slide is still skipped by the next run"


@pytest.mark.parametrize("spoilt", [b"spoilt\n1\n", b"\xff\xfe\x00"])
def test_tables_that_somebody_has_spoilt_are_written_anew(tmp_path: Path, spoilt: bytes) -> None:
    folder, _ = made(tmp_path)
    for name in ("summary.csv", "failures.csv"):
        (folder.parent / name).write_bytes(spoilt)
    review_slide(folder, None, "A", reviewed_at=WHEN)
    assert [row["slide"] for row in report.read_table(folder.parent / "summary.csv")] == ["slide-1"]
    assert report.read_table(folder.parent / "failures.csv") == []


def test_no_corrections_change_no_count(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    after = review_slide(folder, folder / "cells.csv", "A", reviewed_at=WHEN)
    assert after.review is not None
    assert after.review.corrections == 0
    assert [r.count for r in after.differential.rows] == [r.count for r in before.differential.rows]
    assert after.differential.unclassified == before.differential.unclassified
    assert [o.prediction and o.prediction.status for o in after.observations] == [
        o.prediction and o.prediction.status for o in before.observations
    ]


def test_confirmed_calls_have_sampling_error_alone(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    assert any(row.total_high > row.ci_high for row in before.differential.rows)
    after = review_slide(folder, None, "A", reviewed_at=WHEN)
    assert all((row.total_low, row.total_high) == (row.ci_low, row.ci_high) for row in after.differential.rows)
    assert after.weights == report.read_slide(folder).weights == before.weights


def test_no_flag_speaks_of_the_classifiers_error_any_more(tmp_path: Path) -> None:
    folder, before = made(tmp_path, lymphocytes=80)
    assert any("classifier's own error" in flag.text for flag in before.flags)
    after = review_slide(folder, None, "A", reviewed_at=WHEN)
    assert not any("classifier's own error" in flag.text for flag in after.flags)


def test_a_confirmed_rare_cell_is_no_longer_a_possible_one(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    after = review_slide(folder, None, "A", reviewed_at=WHEN)
    assert "immature_granulocytes" not in {flag.code for flag in before.flags}
    assert "immature_granulocytes" in {flag.code for flag in after.flags}


def test_unclassified_cell_is_named(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    row = row_of(folder, status="unclassified")
    after = review_slide(folder, edited(folder, **{f"r{row}": {"class": "monocyte"}}), "A", reviewed_at=WHEN)
    assert after.differential.unclassified == before.differential.unclassified - 1
    assert count(after, CellClass.MONOCYTE) == 1


def test_guess_of_unclassified_cell_is_confirmed_by_its_status(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    row = row_of(folder, **{"status": "unclassified", "class": "lymphocyte"})
    after = review_slide(folder, edited(folder, **{f"r{row}": {"status": "classified"}}), "A", reviewed_at=WHEN)
    assert after.differential.unclassified == before.differential.unclassified - 1
    assert count(after, CellClass.LYMPHOCYTE) == count(before, CellClass.LYMPHOCYTE) + 1


@pytest.mark.parametrize("word", ["artefact", ""])
def test_a_leukocyte_turns_into_an_artefact(tmp_path: Path, word: str) -> None:
    folder, before = made(tmp_path)
    row = row_of(folder, **{"class": "neutrophil", "status": "classified"})
    after = review_slide(folder, edited(folder, **{f"r{row}": {"class": word}}), "A", reviewed_at=WHEN)
    assert after.differential.artefacts == before.differential.artefacts + 1
    assert after.differential.leukocytes == before.differential.leukocytes - 1
    changed = after.observations[row - 2]
    assert changed.cell.kind is CellKind.ARTEFACT
    assert changed.called is CellClass.NEUTROPHIL


def test_a_cell_cut_by_the_edge_stays_out_whatever_its_name(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    row = row_of(folder, nucleus_touches_edge="true")
    after = review_slide(folder, edited(folder, **{f"r{row}": {"class": "monocyte"}}), "A", reviewed_at=WHEN)
    prediction = after.observations[row - 2].prediction
    assert prediction is not None
    assert (prediction.cell_class, prediction.status) == (CellClass.MONOCYTE, CellStatus.EXCLUDED)
    assert after.differential.leukocytes == before.differential.leukocytes


def test_second_review_starts_from_the_first_and_keeps_the_softwares_call(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    row = row_of(folder, **{"class": "neutrophil", "status": "classified"})
    review_slide(folder, edited(folder, **{f"r{row}": {"class": "monocyte"}}), "A", reviewed_at=WHEN)
    after = review_slide(folder, edited(folder, **{f"r{row}": {"class": "basophil"}}), "B", reviewed_at=WHEN)
    assert after.observations[row - 2].called is CellClass.NEUTROPHIL
    assert (count(after, CellClass.MONOCYTE), count(after, CellClass.BASOPHIL)) == (0, 1)
    assert after.review is not None
    assert (after.review.reviewer, after.review.corrections, after.review.number) == ("B", 2, 2)
    assert json.loads((folder / "fhir.json").read_text())["entry"][0]["resource"]["status"] == "corrected"


def test_spreadsheets_own_ways(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    rows = report.read_table(folder / "cells.csv")
    first = next(r for r in rows if r["class"] == "neutrophil" and r["status"] == "classified")
    path = tmp_path / "excel.csv"
    line = f"{first['field']};{first['cell']};Immature Granulocyte;trouvé\n"
    path.write_bytes(("field; cell;class ;note\n" + line + ";;;\n").encode("cp1252"))
    after = review_slide(folder, path, "A", reviewed_at=WHEN)
    assert count(after, CellClass.IMMATURE_GRANULOCYTE) == 2


@pytest.mark.parametrize(
    ("written", "name", "same"),
    [("12", "0012", True), ("2,02611E+14", "202611290001234", True), ("13", "0012", False), ("s", "0012", False)],
)
def test_a_slide_named_by_a_number_is_known_as_a_spreadsheet_saves_it(written: str, name: str, same: bool) -> None:
    assert review._names(written, name) is same


def test_a_table_from_before_an_earlier_review_takes_nothing_back(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    row = row_of(folder, **{"class": "neutrophil", "status": "classified"})
    old = edited(folder, "old.csv")
    review_slide(folder, edited(folder, **{f"r{row}": {"class": "monocyte"}}), "A", reviewed_at=WHEN)
    with pytest.raises(UsageError, match=f"row {row}: the table is older than the last review"):
        review_slide(folder, old, "B", reviewed_at=WHEN)
    back = review_slide(folder, edited(folder, **{f"r{row}": {"class": "neutrophil"}}), "B", reviewed_at=WHEN)
    assert count(back, CellClass.MONOCYTE) == 0, "on the table of now a call can be taken back"


def test_an_artefact_that_a_second_reviewer_leaves_open_is_an_unclassified_cell_again(tmp_path: Path) -> None:
    folder, before = made(tmp_path)
    row = row_of(folder, **{"class": "neutrophil", "status": "classified"})
    review_slide(folder, edited(folder, **{f"r{row}": {"class": "artefact"}}), "A", reviewed_at=WHEN)
    after = review_slide(folder, edited(folder, **{f"r{row}": {"class": "unclassified"}}), "B", reviewed_at=WHEN)
    assert after.differential.unclassified == before.differential.unclassified + 1
    assert after.observations[row - 2].prediction is not None
    assert after.observations[row - 2].prediction.cell_class is CellClass.NEUTROPHIL, "the software's guess"
    written = report.read_table(folder / "cells.csv")[row - 2]
    assert (written["kind"], written["reason"]) == ("nucleated", "left open by the reviewer")


def test_a_profile_of_another_version_is_said(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    document = json.loads((folder / "result.json").read_text())
    document["options"]["profile"] = {"flags": {"gone": 1}}
    (folder / "result.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="profile"):
        review_slide(folder, None, "A", reviewed_at=WHEN)
    ours = tmp_path / "profile.toml"
    ours.write_text('[lab]\nname = "Lab"\n[flags]\noff = ["too_few_leukocytes"]\n')
    review_slide(folder, None, "A", profile=ours, reviewed_at=WHEN)
    stored = json.loads((folder / "result.json").read_text())["options"]["profile"]
    assert (stored["lab"]["name"], stored["flags"]["off"]) == ("Lab", ["too_few_leukocytes"])
    review_slide(folder, None, "B", reviewed_at=WHEN)
    assert "Lab" in (folder / "result.hl7").read_text(), "the profile in force is kept"


def test_users_own_files_in_the_folder_survive(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    (folder / "my notes.txt").write_text("seen")
    (folder / "overlay_gone.jpg").write_bytes(b"stale")
    review_slide(folder, None, "A", reviewed_at=WHEN)
    assert (folder / "my notes.txt").read_text() == "seen"
    assert not (folder / "overlay_gone.jpg").exists()
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": "blast"}, "no class 'blast'"),
        ({"cell": "9999"}, "no cell '9999'"),
        ({"cell": "x"}, "no cell 'x'"),
        ({"field": "other.png"}, "in field 'other.png'"),
        ({"slide": "slide-2"}, "the report is on 'slide-1'"),
    ],
)
def test_bad_row_is_named_and_nothing_is_written(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    folder, _ = made(tmp_path)
    before = contents(folder)
    row = row_of(folder, **{"class": "neutrophil", "status": "classified"})
    with pytest.raises(UsageError, match=f"row {row}: .*{message}"):
        review_slide(folder, edited(folder, **{f"r{row}": changes}), "A", reviewed_at=WHEN)
    assert contents(folder) == before


def test_red_cell_cannot_be_named(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    row = row_of(folder, kind="erythrocyte")
    with pytest.raises(UsageError, match=f"row {row}: a red cell"):
        review_slide(folder, edited(folder, **{f"r{row}": {"class": "neutrophil"}}), "A", reviewed_at=WHEN)


def test_cell_given_twice_is_refused(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    path = edited(folder)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(UsageError, match="stands in row 2 too"):
        review_slide(folder, path, "A", reviewed_at=WHEN)


def test_no_reviewer_no_column_no_report(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    with pytest.raises(UsageError, match="No reviewer"):
        review_slide(folder, None, "  ")
    path = tmp_path / "short.csv"
    path.write_text("field,cell\n")
    with pytest.raises(UsageError, match="no column class"):
        review_slide(folder, path, "A")
    with pytest.raises(InputError, match="not a slide's report"):
        review_slide(tmp_path, None, "A")
    with pytest.raises(InputError, match="cannot be read"):
        review_slide(folder, tmp_path / "none.csv", "A")
    (folder / "evidence.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged"):
        review_slide(folder, None, "A")
