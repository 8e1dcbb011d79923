"""What people say is in a field: every common annotation format, read into one record.

Formats: Pascal VOC (``*.xml``), YOLO (``*.txt`` with ``classes.txt``, ``obj.names`` or ``data.yaml``), COCO and LabelMe
(``*.json``), boxes in one CSV (``id|path, name, xmin, ymin, xmax, ymax``), points in one CSV (``id, x, y[, kind]``) or
one ``x,y[,class]`` file per field, masks (``*.png``: labels, or 0/128/255 for background, cytoplasm and nucleus),
classes per field in one CSV (``id, classes``) and manual differentials in one CSV (``slide``, a column per class).
Tables may have any separator, decimal comma and encoding that a spreadsheet writes.

Pixels are the file's own, origin top left; boxes are taken as half-open, polygons as the boxes around them. Whatever
cannot be used is a :class:`TruthFault` and named in the result, never dropped in silence.
"""

from __future__ import annotations

import csv
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from cbctool.errors import InputError, UsageError
from cbctool.records import LEUKOCYTES, CellClass, CellKind
from cbctool.run.spreadsheet import decode, parse_number, separator

SMALLEST_BOX_PX = 2.0
"""A box with a side below this encloses nothing (BCCD has two of 0 x 0 px): named and left out."""

EXCESS_PX = 2.0
"""Annotation tools round and count from 1: a box may pass the field's edge by this much without being named."""


class TruthFormat(StrEnum):
    """How the annotation is written down."""

    VOC = "voc"
    YOLO = "yolo"
    COCO = "coco"
    LABELME = "labelme"
    BOXES = "boxes"
    POINTS = "points"
    MASKS = "masks"
    FIELD_CLASSES = "field-classes"
    DIFFERENTIALS = "differentials"


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
class TruthFault:
    """Something in the annotation that cannot be used as it stands."""

    source: str
    what: str


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
        key = _key(value)
        if key == IGNORE:
            names[_key(name)] = Meaning(None)
        elif key in NAMES:
            names[_key(name)] = NAMES[key]
        else:
            known = ", ".join([*CellKind, *CellClass, IGNORE])
            raise UsageError(f"--map {pair!r}: {value!r} is no kind or class.", f"Use one of: {known}.")
    return names


def parse_format(text: str) -> TruthFormat:
    """Read a ``--truth-format``.

    Raises
    ------
    UsageError
        For a format that does not exist.
    """
    if text not in {f.value for f in TruthFormat}:
        raise UsageError(f"--truth-format {text!r} is unknown.", f"Use one of: {', '.join(TruthFormat)}.")
    return TruthFormat(text)


def detect_format(path: Path) -> TruthFormat:
    """Tell the format of an annotation by its file endings and column names.

    Raises
    ------
    InputError
        When there is nothing at ``path``.
    UsageError
        When the format cannot be told.
    """
    if not path.exists():
        raise InputError(f"Truth {path} does not exist.", "Check the path given with --truth.")
    if path.is_dir():
        endings = Counter(p.suffix.lower() for p in path.rglob("*") if p.is_file())
        if endings[".xml"]:
            return TruthFormat.VOC
        if endings[".png"] or endings[".tif"] or endings[".tiff"] or endings[".bmp"]:
            return TruthFormat.MASKS
        if endings[".txt"]:
            return TruthFormat.YOLO if _looks_like_yolo(path) else TruthFormat.POINTS
        if endings[".csv"] or endings[".xyc"]:
            return TruthFormat.POINTS
        if endings[".json"]:
            return _format_of_json(next(p for p in sorted(path.rglob("*")) if p.suffix.lower() == ".json"))
    elif path.suffix.lower() == ".json":
        return _format_of_json(path)
    elif path.suffix.lower() == ".xml":
        return TruthFormat.VOC
    elif path.suffix.lower() in {".csv", ".tsv"}:
        columns = {_key(c) for c in _read_table(path).header}
        if set(_SIDES.values()) <= {_SIDES.get(c) for c in columns}:
            return TruthFormat.BOXES
        if {"x", "y"} <= columns:
            if columns & {"w", "width"}:
                raise UsageError(
                    f"Truth {path} has columns x, y and a width: of a corner, a centre or a point, it does not say.",
                    "Write boxes as xmin, ymin, xmax, ymax; for points, add --truth-format points.",
                )
            return TruthFormat.POINTS
        if "slide" in columns:
            return TruthFormat.DIFFERENTIALS
        if columns & _FIELD_COLUMNS and columns & _CLASSES_COLUMNS:
            return TruthFormat.FIELD_CLASSES
    raise UsageError(
        f"Truth {path}: its format cannot be told.", f"Say it with --truth-format ({', '.join(TruthFormat)})."
    )


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
    reader = _READERS.get(truth_format)
    if reader is None:
        raise UsageError(
            f"Truth {path} holds manual differentials, which belong to slides and not to fields.",
            "Give a reports folder or a folder of slides instead of fields.",
        )
    raw = reader(path, _PictureIndex(pictures))
    return _resolve(raw, truth_format, _PictureIndex(pictures), {**NAMES, **(name_map or {})}, path)


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
        return [line.strip() for line in _text(path).splitlines() if line.strip()]
    table = _read_table(path)
    column = _field_column(table.header, path)
    if splits and "split" not in table.header:
        raise UsageError(f"Fields list {path} has no split column.", "--split needs one.")
    return [r[column] for r in table.rows if not splits or r["split"] in splits]


def select_pictures(pictures: Sequence[Path], names: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The pictures that ``names`` (stems or relative paths) mean, in the order of ``pictures``, and names of none."""
    index = _PictureIndex(pictures)
    wanted, missing = set(), []
    for name in names:
        found = index.find(name)
        if found is None:
            missing.append(name)
        else:
            wanted.add(found)
    return [p for p in pictures if p in wanted], missing


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
    table = _read_table(path)
    header = table.header
    slide_column = next((c for c in header if _key(c) in {"slide", "sample", "id"}), None)
    values: dict[str, CellClass | None] = {}
    percent = False
    for column in header:
        key = re.sub(r"_?(percent|pct|count)$", "", _key(column.replace("%", "_percent")))
        if column == slide_column or key in _NOT_CLASSES:
            continue
        meaning = NAMES.get(key)
        if meaning is not None and meaning.kind is not CellKind.NUCLEATED:
            continue
        percent |= "%" in column or _key(column).endswith(("percent", "pct"))
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


# ------------------------------------------------------------------------------------------------------------- reading

_FIELD_COLUMNS = frozenset({"id", "field", "path", "image", "image_id", "filename", "file"})
_NAME_COLUMNS = frozenset({"name", "class", "label", "kind", "cell_class", "category"})
_SIDES = {spelt: side for side in ("xmin", "ymin", "xmax", "ymax") for spelt in (side, f"{side[0]}_{side[1:]}")}
"""How box columns are spelt (keys), and their names here."""
_CLASSES_COLUMNS = frozenset({"classes", "wbc_classes", "class", "label"})
_NOT_CLASSES = frozenset({"total", "cells", "n", "wbc", "comment", "reader", "date", ""})


@dataclass(frozen=True)
class _RawBox:
    name: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


@dataclass(frozen=True)
class _RawField:
    """One field's annotation before names are given a meaning; ``picture`` is as the annotation calls it."""

    picture: str
    boxes: tuple[_RawBox, ...] = ()
    mask: Path | None = None
    classes: tuple[str, ...] = ()
    faults: tuple[TruthFault, ...] = ()
    height_width: tuple[int, int] | None = None  # of the picture, as the annotation has it


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold()).strip("_")


class _PictureIndex:
    """Finds the picture that an annotation is of, by stem and then by folders."""

    def __init__(self, pictures: Sequence[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for picture in pictures:
            self._by_stem[picture.stem].append(picture)
            if picture.name != picture.stem:
                self._by_stem[picture.name].append(picture)

    def find(self, name: str) -> Path | None:
        """The picture called ``name`` (a path, a file name or a stem); None where there is none or several."""
        path = PurePosixPath(name.replace("\\", "/"))
        found = self._by_stem.get(path.name) or self._by_stem.get(path.stem, [])
        if len(found) == 1:
            return found[0]
        folders = path.parts[:-1]
        agreeing = [p for p in found if folders and p.parts[:-1][-len(folders) :] == folders]
        return agreeing[0] if len(agreeing) == 1 else None


@dataclass(frozen=True)
class _Table:
    """A CSV file: its heading, its rows, and what separates them."""

    header: list[str]
    rows: list[dict[str, str]]
    delimiter: str

    def number(self, text: str) -> float:
        return parse_number(text, self.delimiter)

    def columns(self) -> dict[str, str]:
        """Column names by what they are called here: ``X_Min`` is ``xmin``."""
        return {_SIDES.get(_key(c), _key(c)): c for c in self.header}


def _text(path: Path) -> str:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"Truth {path} cannot be read ({error.strerror}).", "Check the path and its rights.") from None


def _read_table(path: Path) -> _Table:
    if not path.is_file():
        raise InputError(f"Truth {path} does not exist.", "Check the path.")
    text = _text(path)
    delimiter = separator(text)
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), restval="", delimiter=delimiter)
        return _Table([c or "" for c in reader.fieldnames or ()], list(reader), delimiter)
    except csv.Error as error:
        raise UsageError(f"Truth {path} cannot be read as CSV ({error}).", "Save it as CSV.") from error


def _field_column(header: Sequence[str], path: Path) -> str:
    for column in header:
        if _key(column) in _FIELD_COLUMNS:
            return column
    raise UsageError(f"{path} has no column that names the field.", "Call it id, field or path.")


def _stated_cells(row: Mapping[str, str]) -> int | None:
    for column, value in row.items():
        if column and _key(column) in {"n", "cells", "total"} and value.strip().isdigit():
            return int(value)
    return None


def _read_voc(path: Path, index: _PictureIndex) -> list[_RawField]:
    fields = []
    for file in [path] if path.is_file() else sorted(path.rglob("*.xml")):
        try:
            root = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as error:
            fields.append(_RawField(file.stem, faults=(TruthFault(file.name, f"not XML: {error}"),)))
            continue
        if root.tag != "annotation":
            what = f"no Pascal VOC (its root is <{root.tag}>): export it as Pascal VOC, COCO or YOLO"
            fields.append(_RawField("", faults=(TruthFault(file.name, what),)))
            continue
        boxes, faults = [], []
        for number, item in enumerate(root.iter("object"), start=1):
            name = item.findtext("name", "").strip()
            try:
                x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
            except ValueError:
                faults.append(TruthFault(file.name, f"object {number} ({name or 'no name'}) has no box"))
                continue
            boxes.append(_RawBox(name, x0, y0, x1, y1))
        size = _stated_size(root.findtext("size/height"), root.findtext("size/width"))
        # The file's own stem counts: <filename> often lacks the ending or names a picture elsewhere.
        fields.append(_RawField(file.stem, tuple(boxes), faults=tuple(faults), height_width=size))
    return fields


def _stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """The picture's size as the annotation has it; None where it says nothing, or 0 as some tools do."""
    try:
        return (int(height), int(width)) if int(height) > 0 and int(width) > 0 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _box_around(name: str, xs: Sequence[float], ys: Sequence[float]) -> _RawBox:
    return _RawBox(name, min(xs), min(ys), max(xs), max(ys))


def _yolo_names(path: Path) -> list[str]:
    for folder in (path, *path.absolute().parents[:2]):  # as in train/labels beside train/images
        for name in ("classes.txt", "obj.names", "labels.names"):
            if (folder / name).is_file():
                return [x.strip() for x in _text(folder / name).splitlines() if x.strip()]
        for name in ("data.yaml", "data.yml", "dataset.yaml"):
            if (folder / name).is_file():
                return _names_of_yaml(_text(folder / name))
    return []


def _names_of_yaml(text: str) -> list[str]:
    """The ``names`` of a YOLO data file, written as a list in one line, a list of lines, or ``0: name`` lines."""
    match = re.search(r"^names\s*:\s*(\[.*?\]|\{.*?\})", text, re.MULTILINE | re.DOTALL)
    if match:
        items = re.split(r",", match.group(1)[1:-1])
    else:
        block = re.search(r"^names\s*:\s*\n((?:[ \t]+.*\n?|-.*\n?)+)", text, re.MULTILINE)
        items = block.group(1).splitlines() if block else []
    return [re.sub(r"^\s*(-|\d+\s*:)?\s*", "", item).strip().strip("'\"") for item in items if item.strip()]


def _looks_like_yolo(path: Path) -> bool:
    if _yolo_names(path):
        return True
    for file in sorted(path.rglob("*.txt")):
        first = _text(file).split("\n", 1)[0].split()
        if first:
            return len(first) >= 5 and first[0].isdigit()
    return False


def _read_yolo(path: Path, index: _PictureIndex) -> list[_RawField]:
    names = _yolo_names(path)
    if not names:
        raise UsageError(
            f"Truth {path}: YOLO labels without a list of class names.",
            "Put a classes.txt beside them, one name a line.",
        )
    fields = []
    for file in sorted(path.rglob("*.txt")):
        if file.name == "classes.txt" or file.name.startswith("README"):
            continue
        picture = index.find(file.stem)
        if picture is None:
            fields.append(_RawField(file.stem))
            continue
        size = _picture_size(picture)
        if size is None:
            fields.append(_RawField(file.stem, faults=(TruthFault(picture.name, "cannot be opened"),)))
            continue
        height, width = size
        boxes, faults = [], []
        for number, line in enumerate(_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                label, *shares = (float(v) for v in line.split())
                box = _yolo_box(names[int(label)], shares, height, width)
            except (ValueError, IndexError, OverflowError):
                faults.append(TruthFault(file.name, f"line {number} is no box of a known class: {line.strip()[:60]!r}"))
                continue
            boxes.append(box)
        fields.append(_RawField(file.stem, tuple(boxes), faults=tuple(faults)))
    return fields


def _yolo_box(name: str, shares: Sequence[float], height: int, width: int) -> _RawBox:
    """A box (centre, size and perhaps a confidence), or the one around a polygon (x and y of its corners)."""
    if len(shares) >= 6 and len(shares) % 2 == 0:
        return _box_around(name, [x * width for x in shares[::2]], [y * height for y in shares[1::2]])
    if len(shares) not in (4, 5):
        raise ValueError("neither a box nor a polygon")
    xc, yc, w, h = shares[:4]
    return _RawBox(name, (xc - w / 2) * width, (yc - h / 2) * height, (xc + w / 2) * width, (yc + h / 2) * height)


def _picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width as a person sees the picture (EXIF orientation resolved), from the header alone.

    None where it cannot be opened: analysing it will say why.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in {5, 6, 7, 8}
    except Exception:  # a broken header raises whatever its decoder does
        return None
    return (width, height) if turned else (height, width)


def _json_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() == ".json")


def _format_of_json(file: Path) -> TruthFormat:
    try:
        data = json.loads(_text(file))
    except (ValueError, RecursionError):
        return TruthFormat.COCO  # whose reader says what is wrong
    return TruthFormat.LABELME if isinstance(data, dict) and "shapes" in data else TruthFormat.COCO


def _read_coco(path: Path, index: _PictureIndex) -> list[_RawField]:
    return [field for file in _json_files(path) for field in _read_coco_file(file)]


def _read_coco_file(file: Path) -> list[_RawField]:
    try:
        data: dict[str, Any] = json.loads(_text(file))
        categories = {c["id"]: str(c["name"]) for c in data["categories"]}
        pictures = {i["id"]: str(i["file_name"]) for i in data["images"]}
        sizes = {i["id"]: _stated_size(i.get("height"), i.get("width")) for i in data["images"]}
        annotations: list[dict[str, Any]] = data["annotations"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"Truth {file} is not COCO ({error!r}).", "It needs images, annotations and categories."
        ) from error
    boxes: dict[Any, list[_RawBox]] = {i: [] for i in pictures}
    faults: dict[Any, list[TruthFault]] = {i: [] for i in pictures}
    stray: list[TruthFault] = []
    for a in annotations:
        what = f"annotation {a.get('id')}"
        try:
            boxes[a["image_id"]].append(_coco_box(categories[a["category_id"]], a))
        except (KeyError, ValueError, TypeError) as error:
            faults.get(a.get("image_id"), stray).append(TruthFault(file.name, f"{what} cannot be used ({error!r})"))
    fields = [_RawField(pictures[i], tuple(boxes[i]), faults=tuple(faults[i]), height_width=sizes[i]) for i in pictures]
    return [*fields, _RawField("", faults=tuple(stray))] if stray else fields


def _coco_box(name: str, annotation: Mapping[str, Any]) -> _RawBox:
    """Its ``bbox``, or the box around the polygons of its ``segmentation``."""
    if annotation.get("bbox"):
        x, y, w, h = (float(v) for v in annotation["bbox"])
        return _RawBox(name, x, y, x + w, y + h)
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not any(polygons):
        raise ValueError("neither bbox nor polygons")
    xs, ys = ([float(v) for polygon in polygons for v in polygon[first::2]] for first in (0, 1))
    return _box_around(name, xs, ys)


def _read_labelme(path: Path, index: _PictureIndex) -> list[_RawField]:
    fields = []
    for file in _json_files(path):
        try:
            data: dict[str, Any] = json.loads(_text(file))
            shapes: list[dict[str, Any]] = data["shapes"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fields.append(_RawField(file.stem, faults=(TruthFault(file.name, f"not LabelMe ({error!r})"),)))
            continue
        boxes, faults = [], []
        for number, shape in enumerate(shapes, start=1):
            try:
                boxes.append(_labelme_box(shape))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                faults.append(TruthFault(file.name, f"shape {number} cannot be used ({error!r})"))
        size = _stated_size(data.get("imageHeight"), data.get("imageWidth"))
        fields.append(_RawField(file.stem, tuple(boxes), faults=tuple(faults), height_width=size))
    return fields


def _labelme_box(shape: Mapping[str, Any]) -> _RawBox:
    """The box around a shape; a circle is its centre and a point of its rim."""
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if shape.get("shape_type") == "circle":
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    xs, ys = zip(*points, strict=True)
    return _box_around(str(shape["label"]), xs, ys)


def _read_boxes(path: Path, index: _PictureIndex) -> list[_RawField]:
    table = _read_table(path)
    field_column = _field_column(table.header, path)
    name_column = _name_column(table.header, field_column)
    keys = table.columns()
    missing = {"xmin", "ymin", "xmax", "ymax"} - keys.keys()
    if missing:
        raise UsageError(f"Truth {path} has no column {', '.join(sorted(missing))}.", "Boxes need all four sides.")
    boxes: dict[str, list[_RawBox]] = defaultdict(list)
    faults: dict[str, list[TruthFault]] = defaultdict(list)
    for line, row in enumerate(table.rows, start=2):
        name = row[name_column] if name_column else CellKind.NUCLEATED.value
        try:
            sides = [table.number(row[keys[k]]) for k in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            faults[row[field_column]].append(TruthFault(path.name, f"line {line} has no box"))
            continue
        boxes[row[field_column]].append(_RawBox(name, *sides))
    return [_RawField(f, tuple(boxes[f]), faults=tuple(faults[f])) for f in dict.fromkeys([*boxes, *faults])]


def _name_column(header: Sequence[str], field_column: str) -> str | None:
    return next((c for c in header if c != field_column and _key(c) in _NAME_COLUMNS), None)


def _read_points(path: Path, index: _PictureIndex) -> list[_RawField]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in {".csv", ".txt", ".xyc"})
        return [_read_point_file(p) for p in files]
    table = _read_table(path)
    field_column = _field_column(table.header, path)
    name_column = _name_column(table.header, field_column)
    keys = table.columns()
    boxes: dict[str, list[_RawBox]] = defaultdict(list)
    faults: dict[str, list[TruthFault]] = defaultdict(list)
    for line, row in enumerate(table.rows, start=2):
        field = row[field_column]
        boxes[field]  # an annotated field stays one when all its rows are at fault
        name = row[name_column] if name_column else CellKind.NUCLEATED.value
        if not row[keys["x"]].strip() and not row[keys["y"]].strip():
            continue  # a row that says "this field holds nothing"
        try:
            x, y = table.number(row[keys["x"]]), table.number(row[keys["y"]])
        except ValueError:
            faults[field].append(TruthFault(path.name, f"line {line} has no point"))
            continue
        boxes[field].append(_RawBox(name, x, y, x, y))
    return [_RawField(f, tuple(b), faults=tuple(faults[f])) for f, b in boxes.items()]


def _read_point_file(path: Path) -> _RawField:
    """``x,y[,class]`` lines (comma, semicolon, tab or blanks), with or without a header."""
    boxes, faults = [], []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        parts = [p.strip() for p in re.split(r"[,;\t ]+", line.strip(), maxsplit=2)]
        if parts == [""]:
            continue
        try:
            x, y = float(parts[0]), float(parts[1])
        except (ValueError, IndexError):
            if number > 1:  # the first may be a header
                faults.append(TruthFault(path.name, f"line {number} has no point: {line.strip()[:60]!r}"))
            continue
        name = parts[2] if len(parts) > 2 and parts[2] else CellKind.NUCLEATED.value
        boxes.append(_RawBox(name, x, y, x, y))
    return _RawField(path.stem, tuple(boxes), faults=tuple(faults))


def _read_masks(path: Path, index: _PictureIndex) -> list[_RawField]:
    endings = {".png", ".tif", ".tiff", ".bmp"}
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in endings)
    return [_RawField(re.sub(r"_mask$", "", p.stem), mask=p) for p in files]


def _read_field_classes(path: Path, index: _PictureIndex) -> list[_RawField]:
    table = _read_table(path)
    field_column = _field_column(table.header, path)
    column = next(c for c in table.header if c != field_column and _key(c) in _CLASSES_COLUMNS)
    classes: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:  # one per field, or one per cell
        classes[row[field_column]] += [x for x in re.split(r"[,;|]\s*", row[column].strip()) if x]
    return [_RawField(field, classes=tuple(names)) for field, names in classes.items()]


_READERS = {
    TruthFormat.VOC: _read_voc,
    TruthFormat.YOLO: _read_yolo,
    TruthFormat.COCO: _read_coco,
    TruthFormat.LABELME: _read_labelme,
    TruthFormat.BOXES: _read_boxes,
    TruthFormat.POINTS: _read_points,
    TruthFormat.MASKS: _read_masks,
    TruthFormat.FIELD_CLASSES: _read_field_classes,
}


def _resolve(
    raw: Sequence[_RawField],
    truth_format: TruthFormat,
    index: _PictureIndex,
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
            meaning = names.get(_key(box.name))
            if meaning is None:
                unknown[box.name] += 1
                meaning = Meaning(None)
            where = f"{box.name} at x {box.xmin:g}-{box.xmax:g}, y {box.ymin:g}-{box.ymax:g}"
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
            meaning = names.get(_key(name))
            if meaning is None or meaning.cell_class is None:
                unknown[name] += 1
            else:
                classes.append(meaning.cell_class)
        if item.height_width and (seen := _picture_size(picture)) and seen != item.height_width:
            (height, width), (stated_height, stated_width) = seen, item.height_width
            what = f"annotated at {stated_width} x {stated_height} px, but the picture has {width} x {height}"
            faults.append(TruthFault(item.picture, what))
        here = FieldTruth(picture, distinct, item.mask, tuple(classes))
        if picture in fields:
            faults.append(TruthFault(item.picture, "annotated more than once: the objects are added up"))
            here = replace(here, objects=fields[picture].objects + here.objects)
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
