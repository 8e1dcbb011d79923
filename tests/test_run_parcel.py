"""A field's result comes out of its parcel as it went in."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slides import field_summary

from cbctool.records import Cell, CellKind, FieldResult
from cbctool.run.parcel import Parcel, Shelf, pack, pack_cells, unpack, unpack_cells

MEASURES = [f.name for f in fields(Cell)][12:]
value = st.floats(allow_nan=True, allow_infinity=False)
cells = st.builds(
    lambda number, kind, row, reason, measures: replace(
        Cell(number, kind, row, row / 2, 0, 1, 30000, 4, 40.0, True), reason=reason, **measures
    ),
    st.integers(1, 10**6),
    st.sampled_from(CellKind),
    value,
    st.sampled_from(["", "smudge cell"]),
    st.dictionaries(st.sampled_from(MEASURES), value),
)


@given(st.lists(cells, max_size=5))
def test_cells_come_back_as_they_were(found: list[Cell]) -> None:
    assert repr(unpack_cells(pack_cells(found))) == repr(tuple(found))  # NaN is not equal to itself, its text is


def test_a_parcel_is_open_but_for_its_cells() -> None:
    red = Cell(1, CellKind.ERYTHROCYTE, 5.0, 6.0, 1, 2, 9, 10, 40.0, False, equivalent_diameter_um=7.0)
    crops = np.arange(28 * 28 * 3, dtype=np.uint8).reshape(1, 28, 28, 3)
    result = FieldResult(field_summary("a"), (red,) * 1000, crops, np.array([3]), (b"x",), {"decode": 0.5})
    parcel = pack(result)
    assert parcel.count == 1000
    assert parcel.result.cells == ()
    assert parcel.result.crops is crops
    assert len(parcel.packed) < 90 * 1000
    back = unpack(parcel)
    assert len(back.cells) == 1000
    assert back.cells[999].equivalent_diameter_um == 7.0
    assert math.isnan(back.cells[999].nc_ratio)
    assert back.summary == result.summary
    assert back.thumbnails == (b"x",)


def packed_field(number: int) -> Parcel:
    red = Cell(number, CellKind.ERYTHROCYTE, 5.0, 6.0, 1, 2, 9, 10, 40.0, False)
    summary = replace(field_summary(f"f{number}"), preview_jpeg=b"preview" * number)
    return pack(FieldResult(summary, (red,), np.empty((0, 28, 28, 3), np.uint8), np.array([0]), (b"x" * number,)))


def test_a_shelf_gives_back_what_was_laid_down_and_leaves_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "a slide")
    left = [shelf.put(packed_field(number)) for number in (1, 2, 3)]
    assert [parcel.packed for parcel in left] == [b"", b"", b""]
    assert [parcel.count for parcel in left] == [1, 1, 1]
    assert [parcel.result.summary.preview_jpeg for parcel in left] == [b"", b"", b""]
    assert left[1].result.summary.scale == packed_field(2).result.summary.scale
    for number, parcel in enumerate(left, start=1):
        back = unpack(parcel)
        assert back.cells[0].cell == number
        assert back.summary == packed_field(number).result.summary
        assert back.thumbnails == (b"x" * number,)
    assert all(path.name.startswith(".partial-") for path in tmp_path.iterdir())  # cleared up after a kill
    shelf.clear()
    assert not list(tmp_path.iterdir())


def test_on_a_full_disk_a_parcel_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path, "a slide")
    first, second, third = (packed_field(number) for number in (1, 2, 3))
    kept = shelf.put(first)
    with monkeypatch.context() as full:
        full.setattr(shelf, "_file", WritesHalf(shelf._file))
        assert shelf.put(second) is second
    assert unpack(shelf.put(third)).cells[0].cell == 3, "what was half written is written over"
    assert unpack(kept).cells[0].cell == 1
    shelf.clear()


class WritesHalf:
    """A file of a disk that has room for a little more."""

    def __init__(self, file: object) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data[: len(data) // 2])  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)
