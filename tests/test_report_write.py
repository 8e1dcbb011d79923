"""What is written, and what happens where it cannot be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from slides import RULES, slide_result

from cbctool.errors import OutputError
from cbctool.records import Failure
from cbctool.report import OUTPUTS, ReportStyle, summary_row, write_run, write_slide

ALWAYS = {"cells.csv", "differential.csv", "result.json", "evidence.zip"}


def test_every_file_of_the_contract(tmp_path: Path) -> None:
    written = write_slide(slide_result(fields=2, red_cells=5), tmp_path, ReportStyle(), RULES)
    names = {path.name for path in written}
    overlays = {"overlay_field_01.jpg", "overlay_field_02.jpg"}
    assert names == ALWAYS | {"report.pdf", "report.html", "result.hl7", "fhir.json"} | overlays
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "overlay_field_01.jpg").read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_profile_chooses_outputs(tmp_path: Path, output: str) -> None:
    names = {
        p.name for p in write_slide(slide_result(fields=1), tmp_path, ReportStyle(outputs=frozenset({output})), RULES)
    }
    assert names > ALWAYS
    assert len(names) == len(ALWAYS) + 1


def test_same_input_gives_the_same_files(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_slide(slide_result(red_cells=20, unclassified=1), tmp_path / name, ReportStyle(), RULES)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_overlays_are_bounded(tmp_path: Path) -> None:
    style = ReportStyle(outputs=frozenset({"overlays"}), max_overlays=3)
    write_slide(slide_result(fields=8), tmp_path, style, RULES)
    assert len(list(tmp_path.glob("overlay_*.jpg"))) == 3


def test_slide_without_fields_or_cells(tmp_path: Path) -> None:
    assert write_slide(slide_result({}, fields=1), tmp_path, ReportStyle(), RULES)


def test_no_folder_of_the_machine_gets_into_a_report(tmp_path: Path) -> None:
    result = slide_result({"neutrophil": 1}, fields=1)
    message = f"{result.slide.root / 'broken.jpg'} is cut short."
    result = dataclasses.replace(result, failures=(Failure("s", "broken.jpg", message, "Copy it again."),))
    write_slide(result, tmp_path, ReportStyle(outputs=frozenset({"html"})), RULES)
    page, document = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "result.json"))
    assert "<p>– broken.jpg is cut short. Copy it again.</p>" in page
    assert str(result.slide.root) not in page + document


@pytest.mark.parametrize("name", ["😐.png", "a\udcff.png", "日本/x.png", "=1+1.png", "x" * 250 + ".png"])
def test_awkward_names(tmp_path: Path, name: str) -> None:
    result = slide_result({"neutrophil": 2}, name=name, field_names=[name], red_cells=1)
    for path in write_slide(result, tmp_path, ReportStyle(), RULES):
        assert path.is_file()
        if path.suffix in (".csv", ".json", ".html", ".hl7"):
            path.read_text(encoding="utf-8")
    write_run(tmp_path, [summary_row(result)], [], ReportStyle())


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cells\.csv: cannot be written"):
        write_slide(slide_result(), tmp_path / "gone", ReportStyle(), RULES)
    with pytest.raises(OutputError, match="cannot be written"):
        write_run(tmp_path / "gone", [], [], ReportStyle())
    (tmp_path / "summary.csv").mkdir()
    with pytest.raises(OutputError, match=r"summary\.csv: cannot be replaced"):
        write_run(tmp_path, [], [], ReportStyle())
    assert [p.name for p in tmp_path.iterdir()] == ["summary.csv"]
