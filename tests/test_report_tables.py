"""The CSV files: the contract's columns, escapes, and the way back."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import slide_result

from cbctool.records import CLASSES, Cell, CellKind, CellStatus, Failure, Flag, Observation, Prediction, Severity
from cbctool.report import read_table, summary_row
from cbctool.report.tables import (
    CELL_COLUMNS,
    cells_csv,
    differential_csv,
    failures_csv,
    observation_of,
    parse_table,
    summary_csv,
)

CONTRACT = (
    "slide,field,cell,kind,class,probability,status,row_px,col_px,ymin_px,xmin_px,ymax_px,xmax_px,area_um2,touches_edge,"
    "nucleus_area_um2,nc_ratio,blast_like,p_basophil,p_eosinophil,p_erythroblast,p_immature_granulocyte,p_lymphocyte,"
    "p_monocyte,p_neutrophil,p_platelet,"
)


def test_columns_of_the_contract_come_first() -> None:
    assert cells_csv(slide_result({})).startswith(CONTRACT)
    assert differential_csv(slide_result().differential).startswith(
        "class,count,percent,ci_low,ci_high,reference_low,reference_high,outside"
    )
    assert summary_csv([]).startswith(
        "slide,status,fields,leukocytes,neutrophil_percent,lymphocyte_percent,monocyte_percent,eosinophil_percent,"
        "basophil_percent,immature_granulocyte_percent,nrbc_per_100_wbc,platelets,erythrocytes,flags,um_per_px,seconds"
    )


def test_the_differential_says_whether_it_is_one() -> None:
    few = parse_table(differential_csv(slide_result().differential))
    assert {row["adequacy"] for row in few} == {"no differential"}


def test_every_row_has_every_column() -> None:
    result = slide_result({"neutrophil": 2, "platelet": 2}, red_cells=3, artefacts=1, unclassified=1, cut_by_edge=1)
    lines = cells_csv(result).splitlines()
    assert len(lines) == 1 + len(result.observations)
    assert {line.count(",") for line in lines} == {len(CELL_COLUMNS) - 1}


def test_red_cell_has_measures_and_no_call() -> None:
    result = slide_result({}, red_cells=1, fields=1)
    row = parse_table(cells_csv(result))[0]
    assert (row["kind"], row["class"], row["status"], row["reason"]) == ("erythrocyte", "", "", "")
    assert float(row["area_um2"]) == pytest.approx(math.pi * 7.5**2 / 4, rel=1e-5)
    assert (row["circularity"], row["eccentricity"], row["nuclear_lobes"]) == ("0.9", "0.3", "")
    assert row["nucleus_touches_edge"] == "false"


def test_tiles_have_their_origin() -> None:
    result = slide_result({"neutrophil": 1}, red_cells=1, fields=1, whole_slide=True)
    field = dataclasses.replace(result.fields[0], row_px=2048, col_px=4096)
    rows = parse_table(cells_csv(dataclasses.replace(result, fields=(field,))))
    assert {(row["tile_row_px"], row["tile_col_px"]) for row in rows} == {("2048", "4096")}


def test_formulas_and_quotes_in_names_are_text() -> None:
    result = slide_result({"neutrophil": 1}, name='=cmd|"x"', field_names=["@a,b.png"], red_cells=1)
    text = cells_csv(result)
    assert text.splitlines()[1].startswith('"\'=cmd|""x""","\'@a,b.png",1,')
    assert {(row["slide"], row["field"]) for row in parse_table(text)} == {('=cmd|"x"', "@a,b.png")}
    row = summary_row(dataclasses.replace(result, slide=dataclasses.replace(result.slide, comment="+1")))
    assert "'+1" in summary_csv([row])


MEASURE = st.floats(0, 1e6, width=32) | st.just(math.nan)
FLAGS = st.booleans()
CELLS = st.builds(
    Cell,
    cell=st.integers(1, 10**6),
    kind=st.sampled_from([CellKind.NUCLEATED, CellKind.PLATELET]),
    row_px=st.floats(0, 1e5),
    col_px=st.floats(0, 1e5),
    ymin_px=st.integers(0, 10**6),
    xmin_px=st.integers(0, 10**6),
    ymax_px=st.integers(0, 10**6),
    xmax_px=st.integers(0, 10**6),
    area_um2=MEASURE,
    touches_edge=FLAGS,
    nucleus_touches_edge=FLAGS,
    nucleus_area_um2=MEASURE,
    nc_ratio=MEASURE,
    granularity=MEASURE,
)
CALLS = st.builds(
    Prediction,
    cell_class=st.sampled_from(CLASSES) | st.none(),
    probability=st.floats(0, 1),
    probabilities=st.lists(st.floats(0, 1), min_size=8, max_size=8).map(tuple),
    unknown_score=MEASURE,
    status=st.sampled_from([CellStatus.CLASSIFIED, CellStatus.UNCLASSIFIED, CellStatus.EXCLUDED]),
    reason=st.text(max_size=20),
    blast_like=FLAGS,
    blast_reasons=st.lists(st.sampled_from(["N:C 0.9", "no lobes"]), unique=True).map(tuple),
)


@given(st.lists(st.tuples(CELLS, CALLS), max_size=5))
@settings(max_examples=40, deadline=None)
def test_observations_come_back(pairs: list[tuple[Cell, Prediction]]) -> None:
    observations = tuple(Observation("f.png", cell, call, called=call.cell_class) for cell, call in pairs)
    result = dataclasses.replace(slide_result({}), observations=observations)
    back = [observation_of(row) for row in parse_table(cells_csv(result))]
    assert len(back) == len(observations)
    for was, now in zip(observations, back, strict=True):
        assert (now.field, now.called, now.cell.kind, now.cell.cell) == (
            was.field,
            was.called,
            was.cell.kind,
            was.cell.cell,
        )
        assert now.cell.area_um2 == pytest.approx(was.cell.area_um2, rel=1e-5, abs=1e-300, nan_ok=True)
        assert now.cell.ymax_px == was.cell.ymax_px
        a, b = was.prediction, now.prediction
        assert a is not None
        assert b is not None
        assert (b.cell_class, b.status, b.reason, b.blast_like, b.blast_reasons) == (
            *(a.cell_class, a.status, a.reason, a.blast_like, a.blast_reasons),
        )
        assert b.probabilities == pytest.approx(a.probabilities, rel=1e-5, abs=1e-300)


def test_artefacts_and_red_cells_come_back() -> None:
    result = slide_result({}, red_cells=2, artefacts=2, fields=1)
    back = tuple(observation_of(row) for row in parse_table(cells_csv(result)))
    assert [o.cell.kind for o in back] == [o.cell.kind for o in result.observations]
    assert [o.prediction is None for o in back] == [o.prediction is None for o in result.observations]
    assert {o.cell.reason for o in back} == {"", "smudge cell"}


def test_summary_names_flags_worst_severity_and_missing_values() -> None:
    flags = (Flag("b", Severity.NOTE, "B", "b."), Flag("a", Severity.CRITICAL, "A", "a."))
    row = summary_row(slide_result({}, flags=flags))
    assert (row["flags"], row["severity"], row["report"]) == ("b;a", "critical", "preliminary")
    assert math.isnan(row["neutrophil_percent"])
    written = parse_table(summary_csv([row]))[0]
    assert written["neutrophil_percent"] == ""


def test_failures(tmp_path: Path) -> None:
    path = tmp_path / "failures.csv"
    path.write_text(failures_csv([Failure("s", "a\nb.png", "=broken", "Do, this.")]), encoding="utf-8")
    assert read_table(path) == [{"slide": "s", "path": "a\nb.png", "error": "=broken", "advice": "Do, this."}]
