"""A field's result on its way through the run, packed small: its cells stay closed until the slide's report is written.

A whole-slide file has half a million red cells. As records they would take 0.7 kB each in the one process that all
slides go through, and be pickled four times; packed they take some 60 bytes and travel as they are.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from operator import attrgetter

from cbctool.records import Cell, FieldResult

_VALUES = attrgetter(*(f.name for f in dataclass_fields(Cell)))


@dataclass(frozen=True, eq=False)
class Parcel:
    """``result`` is open but has no cells; ``count`` of them are in ``packed``."""

    result: FieldResult
    count: int
    packed: bytes


def pack(result: FieldResult) -> Parcel:
    """Close a field's result."""
    return Parcel(replace(result, cells=()), len(result.cells), pack_cells(result.cells))


def unpack(parcel: Parcel) -> FieldResult:
    """Open it again."""
    return replace(parcel.result, cells=unpack_cells(parcel.packed))


def pack_cells(cells: Sequence[Cell]) -> bytes:
    """Cells as bytes; measures that do not apply (NaN at a record's end) are left out."""
    rows = []
    for cell in cells:
        values = _VALUES(cell)
        end = len(values)
        while values[end - 1] != values[end - 1]:
            end -= 1
        rows.append(values[:end])
    return zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)


def unpack_cells(packed: bytes) -> tuple[Cell, ...]:
    """Cells from what :func:`pack_cells` made, in another process of the same run."""
    return tuple(Cell(*values) for values in pickle.loads(zlib.decompress(packed)))
