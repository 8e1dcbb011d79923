"""What people say is in a field: names and pictures put to what :mod:`cbctool.run.truth_formats` reads.

Whatever cannot be used is a :class:`~cbctool.run.truth_formats.TruthFault` and named in the result, never dropped in
silence.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cbctool.errors import InputError, UsageError
from cbctool.records import LEUKOCYTES, CellClass, CellKind
from cbctool.run.truth_formats import (
    READERS,
    PictureIndex,
    RawField,
    TruthFault,
    TruthFormat,
    column_of_field,
    detect_format,
    key_of,
    picture_size,
    read_table,
    read_text,
)

SMALLEST_BOX_PX = 2.0
"""A box with a side below this encloses nothing (BCCD has two of 0 x 0 px): named and left out."""

EXCESS_PX = 2.0
"""Annotation tools round and count from 1: a box may pass the field's edge by this much without being named."""


_KIND_NAMES: Mapping[CellKind, str] = {
    CellKind.NUCLEATED: "nucleated wbc wbcs white leukocyte leukocytes leucocyte leucocytes white_blood_cell "
    "blast blasts",
    CellKind.ERYTHROCYTE: "erythrocyte erythrocytes rbc rbcs red red_blood_cell red_cell",
    CellKind.PLATELET: "platelet platelets plt thrombocyte thrombocytes",
    CellKind.ARTEFACT: "artefact artifact smudge smudge_cell debris stain_debris",
}
_CLASS_NAMES: Mapping[CellClass, str] = {
    CellClass.BASOPHIL: "basophil basophils ba baso",
    CellClass.EOSINOPHIL: "eosinophil eosinophils eo eos",
    CellClass.ERYTHROBLAST: "erythroblast erythroblasts normoblast nrbc nucleated_red_cell nucleated_red_blood_cell",
    CellClass.IMMATURE_GRANULOCYTE: "immature_granulocyte immature_granulocytes ig metamyelocyte metamyelocytes "
    "myelocyte myelocytes promyelocyte promyelocytes",
    CellClass.LYMPHOCYTE: "lymphocyte lymphocytes ly lymph lymphs",
    CellClass.MONOCYTE: "monocyte monocytes mo mono",
    CellClass.NEUTROPHIL: "neutrophil neutrophils ne neut segmented segmented_neutrophil segmented_neutrophils seg "
    "segs band bands band_neutrophil band_neutrophils",
}

IGNORE = "ignore"
"""``--map NAME=ignore``: objects of that name are neither right nor wrong."""


@dataclass(frozen=True)
class Meaning:
    """What a name in an annotation stands for. ``kind`` None: an object of unknown kind, neither right nor wrong."""

    kind: CellKind | None
    cell_class: CellClass | None = None


def _default_names() -> dict[str, Meaning]:
    names = {name: Meaning(kind) for kind, words in _KIND_NAMES.items() for name in words.split()}
    names |= {n: Meaning(CellKind.NUCLEATED, cls) for cls, words in _CLASS_NAMES.items() for n in words.split()}
    return names


NAMES: Mapping[str, Meaning] = _default_names()
"""Names that annotations use, lower case with underscores, and what they stand for."""


@dataclass(frozen=True)
class TruthObject:
    """One annotated object: a box, or a point (a box without extent).

    ``name`` is as written in the annotation; ``kind`` None means that the name says no kind.
    """

    name: str
    kind: CellKind | None
    cell_class: CellClass | None
    ymin_px: float
    xmin_px: float
    ymax_px: float
    xmax_px: float

    @property
    def is_point(self) -> bool:
        return self.ymin_px == self.ymax_px and self.xmin_px == self.xmax_px


@dataclass(frozen=True)
class FieldTruth:
    """What is annotated on one picture. ``mask`` is a file; ``classes`` are leukocytes named without a position."""

    path: Path
    objects: tuple[TruthObject, ...] = ()
    mask: Path | None = None
    classes: tuple[CellClass, ...] = ()


@dataclass(frozen=True)
class Truth:
    """The annotation of a set of pictures.

    Attributes
    ----------
    format : TruthFormat
    fields : tuple of FieldTruth
        Annotated pictures that were found, in the order of the pictures.
    faults : tuple of TruthFault
    """

    format: TruthFormat
    fields: tuple[FieldTruth, ...]
    faults: tuple[TruthFault, ...]

    @property
    def kinds(self) -> frozenset[CellKind]:
        """Kinds that the annotation names anywhere: only these can be judged."""
        return frozenset(o.kind for f in self.fields for o in f.objects if o.kind is not None)


@dataclass(frozen=True)
class ManualDifferential:
    """A person's differential of one slide, percent of ``cells`` leukocytes (None where the count is not stated)."""

    slide: str
    percent: Mapping[CellClass, float]
    cells: int | None


def parse_name_map(pairs: Sequence[str]) -> dict[str, Meaning]:
    """Read ``NAME=KIND`` options; KIND is a kind, a class or ``ignore``.

    Raises
    ------
    UsageError
        For a pair that is not one, or a kind that does not exist.
    """
    names: dict[str, Meaning] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip():
            raise UsageError(f"--map {pair!r} is not NAME=KIND.", "Write for example --map WBC=nucleated.")
        key = key_of(value)
        if key == IGNORE:
            names[key_of(name)] = Meaning(None)
        elif key in NAMES:
            names[key_of(name)] = NAMES[key]
        else:
            known = ", ".join([*CellKind, *CellClass, IGNORE])
            raise UsageError(f"--map {pair!r}: {value!r} is no kind or class.", f"Use one of: {known}.")
    return names


def read_truth(
    path: Path,
    pictures: Sequence[Path],
    truth_format: TruthFormat | None = None,
    name_map: Mapping[str, Meaning] | None = None,
) -> Truth:
    """Read an annotation and put it beside the pictures that it is of.

    Parameters
    ----------
    path : Path
        File or folder.
    pictures : sequence of Path
        The pictures to be judged. An annotation belongs to the picture with its stem; where several have it, to the one
        whose folders agree too.
    truth_format : TruthFormat, optional
        Detected where not given.
    name_map : mapping of str to Meaning, optional
        Added to, and stronger than, :data:`NAMES`.

    Raises
    ------
    InputError, UsageError
        When the annotation is missing, cannot be told or parsed, or is of none of the pictures.
    """
    truth_format = truth_format or detect_format(path)
    reader = READERS.get(truth_format)
    if reader is None:
        raise UsageError(
            f"Truth {path} holds manual differentials, which belong to slides and not to fields.",
            "Give a reports folder or a folder of slides instead of fields.",
        )
    raw = reader(path, PictureIndex(pictures))
    return _resolve(raw, truth_format, PictureIndex(pictures), {**NAMES, **(name_map or {})}, path)


def clip_to_field(truth: FieldTruth, height: int, width: int) -> tuple[FieldTruth, tuple[TruthFault, ...]]:
    """Cut boxes to the field and leave out, by name, what lies outside it.

    Boxes that pass the edge by no more than :data:`EXCESS_PX` are cut without a word.
    """
    kept, faults = [], []
    for o in truth.objects:
        where = f"{o.name} at x {o.xmin_px:g}-{o.xmax_px:g}, y {o.ymin_px:g}-{o.ymax_px:g}"
        excess = max(-o.ymin_px, -o.xmin_px, o.ymax_px - height, o.xmax_px - width)
        cut = replace(
            o,
            ymin_px=max(o.ymin_px, 0.0),
            xmin_px=max(o.xmin_px, 0.0),
            ymax_px=min(o.ymax_px, float(height)),
            xmax_px=min(o.xmax_px, float(width)),
        )
        side = min(cut.ymax_px - cut.ymin_px, cut.xmax_px - cut.xmin_px)
        if side < 0 or (not o.is_point and side < SMALLEST_BOX_PX):
            faults.append(TruthFault(truth.path.name, f"{where}: outside the {width} x {height} px field, left out"))
            continue
        if excess > EXCESS_PX:
            faults.append(TruthFault(truth.path.name, f"{where}: passes the edge of the field, cut to it"))
        kept.append(cut)
    return replace(truth, objects=tuple(kept)), tuple(faults)


def scale_truth(truth: FieldTruth, factor_row: float, factor_col: float) -> FieldTruth:
    """The same annotation for the picture resized by these factors."""
    return replace(
        truth,
        objects=tuple(
            replace(
                o,
                ymin_px=o.ymin_px * factor_row,
                xmin_px=o.xmin_px * factor_col,
                ymax_px=o.ymax_px * factor_row,
                xmax_px=o.xmax_px * factor_col,
            )
            for o in truth.objects
        ),
    )


def read_fields_list(path: Path, splits: Sequence[str] = ()) -> list[str]:
    """Names of the fields in a text file (one per line) or a CSV with an ``id``, ``field`` or ``path`` column.

    ``splits`` keeps the rows whose ``split`` column is one of them.

    Raises
    ------
    InputError, UsageError
        When the file is missing or has no such column.
    """
    if not path.is_file():
        raise InputError(f"Fields list {path} does not exist.", "Check the path given with --fields-list.")
    if path.suffix.lower() != ".csv":
        if splits:
            raise UsageError(f"Fields list {path} has no split column.", "--split needs a CSV with one.")
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    table = read_table(path)
    column = column_of_field(table.header, path)
    if splits and "split" not in table.header:
        raise UsageError(f"Fields list {path} has no split column.", "--split needs one.")
    return [r[column] for r in table.rows if not splits or r["split"] in splits]


def select_pictures(pictures: Sequence[Path], names: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The pictures that ``names`` (stems or relative paths) mean, in the order of ``pictures``, and names of none."""
    index = PictureIndex(pictures)
    wanted, missing = set(), []
    for name in names:
        found = index.find(name)
        if found is None:
            missing.append(name)
        else:
            wanted.add(found)
    return [p for p in pictures if p in wanted], missing


_NOT_CLASSES = frozenset({"total", "cells", "n", "wbc", "comment", "reader", "date", ""})


def read_differentials(path: Path) -> tuple[tuple[ManualDifferential, ...], tuple[TruthFault, ...]]:
    """Read manual differentials: a ``slide`` column, and per class a count or a percentage.

    Bands and segmented cells add up to neutrophils, promyelocytes to metamyelocytes to immature granulocytes. Nucleated
    red cells stay outside the denominator. Columns that are no class of ours (blasts, atypical lymphocytes) stay in it
    and are named. Rows of whole numbers without a "percent" or "%" in the header are counts.

    Raises
    ------
    InputError, UsageError
        When the file is missing or has no slide or class columns.
    """
    table = read_table(path)
    header = table.header
    slide_column = next((c for c in header if key_of(c) in {"slide", "sample", "id"}), None)
    values: dict[str, CellClass | None] = {}
    percent = False
    for column in header:
        key = re.sub(r"_?(percent|pct|count)$", "", key_of(column.replace("%", "_percent")))
        if column == slide_column or key in _NOT_CLASSES:
            continue
        meaning = NAMES.get(key)
        if meaning is not None and meaning.kind is not CellKind.NUCLEATED:
            continue
        percent |= "%" in column or key_of(column).endswith(("percent", "pct"))
        values[column] = meaning.cell_class if meaning is not None else None
    if slide_column is None or not any(values.values()):
        raise UsageError(
            f"Truth {path} has no slide column, or no column named after a class.",
            "Name the columns slide, neutrophil, lymphocyte, monocyte, eosinophil, basophil, immature_granulocyte.",
        )
    faults = [
        TruthFault(path.name, f"column {c!r} is no class of this software: kept in the manual count's total only")
        for c, cls in values.items()
        if cls is None
    ]
    found = []
    percent |= any(row[c].strip().endswith("%") for row in table.rows for c in values)
    for row in table.rows:
        slide = row[slide_column].strip()
        try:
            numbers = {c: table.number(row[c].strip().rstrip("% ")) for c in values if row[c].strip()}
        except ValueError:
            faults.append(TruthFault(path.name, f"slide {slide!r}: a value is not a number, left out"))
            continue
        total = sum(n for c, n in numbers.items() if values[c] is not CellClass.ERYTHROBLAST)
        if total <= 0 or min(numbers.values()) < 0:
            faults.append(TruthFault(path.name, f"slide {slide!r}: no leukocytes counted, left out"))
            continue
        per_class: dict[CellClass, float] = {cls: 0.0 for cls in LEUKOCYTES if cls in values.values()}
        for column, number in numbers.items():
            cls = values[column]
            if cls in per_class:
                per_class[cls] += 100.0 * number / total
        counted = not percent and all(n == int(n) for n in numbers.values())
        found.append(ManualDifferential(slide, per_class, int(total) if counted else _stated_cells(row)))
    return tuple(found), tuple(faults)


def _stated_cells(row: Mapping[str, str]) -> int | None:
    for column, value in row.items():
        if column and key_of(column) in {"n", "cells", "total"} and value.strip().isdigit():
            return int(value)
    return None


def _resolve(
    raw: Sequence[RawField],
    truth_format: TruthFormat,
    index: PictureIndex,
    names: Mapping[str, Meaning],
    source: Path,
) -> Truth:
    """Give names a meaning and annotations their picture; leave out, by name, what has none."""
    fields: dict[Path, FieldTruth] = {}
    faults: list[TruthFault] = []
    unknown: Counter[str] = Counter()
    without_picture = []
    for item in raw:
        faults.extend(item.faults)
        picture = index.find(item.picture)
        if picture is None:
            if item.picture:
                without_picture.append(item.picture)
            continue
        objects = []
        for box in item.boxes:
            meaning = names.get(key_of(box.name))
            if meaning is None:
                unknown[box.name] += 1
                meaning = Meaning(None)
            where = f"{box.name} at x {box.xmin:g}-{box.xmax:g}, y {box.ymin:g}-{box.ymax:g}"
            if not all(map(math.isfinite, (box.xmin, box.xmax, box.ymin, box.ymax))):
                faults.append(TruthFault(item.picture, f"{where}: not a place, left out"))
                continue
            x0, x1 = sorted((box.xmin, box.xmax))
            y0, y1 = sorted((box.ymin, box.ymax))
            if truth_format is not TruthFormat.POINTS and min(x1 - x0, y1 - y0) < SMALLEST_BOX_PX:
                faults.append(TruthFault(item.picture, f"{where}: degenerate box, left out"))
                continue
            if (x0, y0) != (box.xmin, box.ymin):
                faults.append(TruthFault(item.picture, f"{where}: corners in the wrong order, swapped"))
            objects.append(TruthObject(box.name, meaning.kind, meaning.cell_class, y0, x0, y1, x1))
        distinct = tuple(dict.fromkeys(objects))
        if len(distinct) < len(objects):
            what = f"{len(objects) - len(distinct)} objects annotated more than once, counted once"
            faults.append(TruthFault(item.picture, what))
        classes = []
        for name in item.classes:
            meaning = names.get(key_of(name))
            if meaning is None or meaning.cell_class is None:
                unknown[name] += 1
            else:
                classes.append(meaning.cell_class)
        if item.height_width and (seen := picture_size(picture)) and seen != item.height_width:
            (height, width), (stated_height, stated_width) = seen, item.height_width
            what = f"annotated at {stated_width} x {stated_height} px, but the picture has {width} x {height}"
            faults.append(TruthFault(item.picture, what))
        here = FieldTruth(picture, distinct, item.mask, tuple(classes))
        if picture in fields:
            faults.append(TruthFault(item.picture, "annotated more than once: the objects are added up"))
            before = fields[picture]
            here = replace(here, objects=before.objects + here.objects, classes=before.classes + here.classes)
        fields[picture] = here
    for name, count in unknown.items():
        what = f"name {name!r} ({count} objects) is no kind or class: neither right nor wrong"
        faults.append(TruthFault(source.name, f"{what} (--map gives it a meaning)"))
    if without_picture:
        shown = ", ".join(without_picture[:5]) + (" …" if len(without_picture) > 5 else "")
        what = f"{len(without_picture)} annotated fields without a picture here: {shown}"
        faults.append(TruthFault(source.name, what))
    if not fields:
        said = f"it names {without_picture[0]!r}" if without_picture else faults[0].what if faults else "it is empty"
        raise InputError(
            f"Truth {source} annotates none of the pictures: {said}.",
            "Its names must be those of the pictures (or their stems).",
        )
    judged = any(f.mask or f.classes or any(o.kind for o in f.objects) for f in fields.values())
    if unknown and not judged and truth_format is not TruthFormat.POINTS:
        raise UsageError(
            f"Truth {source}: of its names ({', '.join(map(repr, list(unknown)[:5]))}) none is a kind or class.",
            "Give them a meaning with --map, such as --map WBC=nucleated.",
        )
    return Truth(truth_format, tuple(fields[p] for p in sorted(fields)), tuple(faults))
