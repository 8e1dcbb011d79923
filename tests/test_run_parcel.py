"""A field's result comes out of its parcel as it went in."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from slides import field_summary

from cbctool.records import Cell, CellKind, FieldResult
from cbctool.run.parcel import pack, pack_cells, unpack, unpack_cells

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
    assert len(parcel.packed) < 60 * 1000
    back = unpack(parcel)
    assert len(back.cells) == 1000
    assert back.cells[999].equivalent_diameter_um == 7.0
    assert math.isnan(back.cells[999].nc_ratio)
    assert back.summary == result.summary
    assert back.thumbnails == (b"x",)
