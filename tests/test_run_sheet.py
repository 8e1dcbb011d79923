"""The slide sheet: parsed as written, or refused naming row and column."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbctool.errors import ExitCode, UsageError
from cbctool.run.sheet import COLUMNS, SheetRow, parse_sheet, read_sheet

FULL = """slide,wbc,wbc_uncorrected,um_per_px,sample_id,age,comment,fields
17,7.5,yes,0.1,A-1,34,"tired, pale",consecutive
18,,,,,,,
"""


def test_every_column_is_read() -> None:
    sheet = parse_sheet(FULL.encode(), "slides.csv")
    assert list(sheet) == ["17", "18"]
    assert sheet["17"] == SheetRow("17", 2, 7.5, True, 0.1, "A-1", 34.0, "tired, pale", True)
    assert sheet["18"] == SheetRow("18", 3)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfslide,comment\na,\xc3\xa4\n",
        "slide,comment\na,ä\n".encode("cp1252"),
        "slide,comment\na,ä\n".encode("utf-16"),
        "slide;comment\r\na;ä\r\n".encode(),
        "slide\tcomment\ra\tä\r".encode(),
        "\n\n SLIDE , Comment ,,\n\n a , ä ,,\n,,\n".encode(),
    ],
)
def test_what_spreadsheets_write_is_read_alike(data: bytes) -> None:
    (row,) = parse_sheet(data, "slides.csv").values()
    assert (row.slide, row.comment) == ("a", "ä")


def test_decimal_comma_where_commas_do_not_separate() -> None:
    assert parse_sheet(b"slide;wbc\na;7,5\n", "s")["a"].wbc_10e9_per_l == 7.5


def test_formulas_stay_text() -> None:
    row = parse_sheet(b'slide,comment\n=1+1,"=HYPERLINK(""http://x"")"\n', "s")["=1+1"]
    assert row.comment == '=HYPERLINK("http://x")'


@pytest.mark.parametrize(
    ("text", "row", "column"),
    [
        ("slide,wbc\na,lots\n", 2, "wbc"),
        ("slide,wbc\na,7.5\nb,7500\n", 3, "wbc"),
        ("slide,wbc\na,-1\n", 2, "wbc"),
        ("slide,wbc\na,inf\n", 2, "wbc"),
        ("slide,wbc\na,nan\n", 2, "wbc"),
        ("slide,um_per_px\na,100\n", 2, "um_per_px"),
        ("slide,um_per_px\na,0\n", 2, "um_per_px"),
        ("slide,age\na,200\n", 2, "age"),
        ("slide,wbc_uncorrected\na,perhaps\n", 2, "wbc_uncorrected"),
        ("slide,fields\na,random\n", 2, "fields"),
        ("slide,age\n,30\n", 2, "slide"),
        ("slide\na\n\na\n", 4, "slide"),
        ("slide,wbc_uncorected\na,yes\n", 1, "wbc_uncorected"),
        ("slide,age,age\na,1,2\n", 1, "age"),
        ("wbc\n7\n", 1, "slide"),
    ],
)
def test_faults_name_row_and_column(text: str, row: int, column: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sheet(text.encode(), "my slides.csv")
    assert "my slides.csv" in caught.value.message
    assert f"row {row}" in caught.value.message
    assert column in caught.value.message
    assert caught.value.advice
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"PK\x03\x04rest", b"slide\0", b'slide\n"open', b"slide,age\na,1,2\n", b"slide\n" + b"x" * 140_000],
)
def test_what_is_no_sheet_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"slides\.csv"):
        parse_sheet(data, "slides.csv")


def test_a_sheet_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        read_sheet(tmp_path / "slides.csv")
    (tmp_path / "slides.csv").write_text(FULL)
    assert len(read_sheet(tmp_path / "slides.csv")) == 2


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_quoted_text_comes_back_as_it_was(rows: list[tuple[str, str]]) -> None:
    rows = [(f"{i}{name}".strip(), comment.strip()) for i, (name, comment) in enumerate(rows)]
    lines = ["slide,comment"] + [",".join('"' + one.replace('"', '""') + '"' for one in row) for row in rows]
    sheet = parse_sheet("\r\n".join(lines).encode(), "s")
    assert [(row.slide, row.comment) for row in sheet.values()] == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_a_sheet_or_a_usage_error(data: bytes) -> None:
    head = ",".join(COLUMNS).encode() + b"\n"
    for whole in (data, head + data):
        try:
            parse_sheet(whole, "slides.csv")
        except UsageError as error:
            refusal = error
        else:
            continue
        assert refusal.message.isprintable()
