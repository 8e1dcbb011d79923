"""A field's result on its way through the run, packed small: its cells stay closed until the slide's report is written.

A whole-slide file has half a million red cells. As records they would take 0.7 kB each in the one process that all
slides go through, and be pickled four times; packed they take some 80 bytes and travel as they are.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from operator import attrgetter
from pathlib import Path

from cbctool.records import Cell, FieldResult
from cbctool.run import manifest

_VALUES = attrgetter(*(f.name for f in dataclass_fields(Cell)))


@dataclass(frozen=True, eq=False)
class Parcel:
    """``result`` is open but has no cells; ``count`` of them are in ``packed``.

    What lies on a :class:`Shelf` has no pictures either, and is there: file, first byte and number of bytes.
    """

    result: FieldResult
    count: int
    packed: bytes
    place: tuple[Path, int, int] | None = None


def pack(result: FieldResult) -> Parcel:
    """Close a field's result."""
    return Parcel(replace(result, cells=()), len(result.cells), pack_cells(result.cells))


def unpack(parcel: Parcel) -> FieldResult:
    """Open it again."""
    if parcel.place is not None:
        path, start, length = parcel.place
        with path.open("rb") as file:
            file.seek(start)
            parcel = pickle.loads(file.read(length))
    return replace(parcel.result, cells=unpack_cells(parcel.packed))


def pack_cells(cells: Sequence[Cell]) -> bytes:
    """Cells as bytes; measures that do not apply (NaN at a record's end) are left out.

    Deflating them would save a fifth of the bytes and take as long as all the rest.
    """
    rows = []
    for cell in cells:
        values = _VALUES(cell)
        end = len(values)
        while values[end - 1] != values[end - 1]:
            end -= 1
        rows.append(values[:end])
    return pickle.dumps(rows, pickle.HIGHEST_PROTOCOL)


def unpack_cells(packed: bytes) -> tuple[Cell, ...]:
    """Cells from what :func:`pack_cells` made, in another process of the same run."""
    return tuple(Cell(*values) for values in pickle.loads(packed))


class Shelf:
    """Keeps the parcels of one large slide in a file of the output folder, so that memory does not grow with the slide.

    Parameters
    ----------
    out : Path
        The output folder; what a killed run leaves there the next one clears up.
    slide : str
    """

    def __init__(self, out: Path, slide: str) -> None:
        self._folder = manifest.partial_folder(out, f"parcels of {slide}")
        self._file = (self._folder / "parcels").open("wb", buffering=0)

    def put(self, parcel: Parcel) -> Parcel:
        """Lay a parcel down; what is left of it is what the run still asks for. On a full disk it stays as it is."""
        path, data = self._folder / "parcels", pickle.dumps(parcel, pickle.HIGHEST_PROTOCOL)
        start = self._file.tell()
        try:
            if self._file.write(data) != len(data):
                raise OSError("written in part")
            os.utime(self._folder)  # another run takes an old folder for one that was left behind
        except OSError:
            self._file.seek(start)
            return parcel
        result = parcel.result
        left = replace(result, summary=replace(result.summary, preview_jpeg=b""), thumbnails=())
        return Parcel(left, parcel.count, b"", (path, start, len(data)))

    def clear(self) -> None:
        """Throw everything away."""
        self._file.close()
        manifest.discard(self._folder)
