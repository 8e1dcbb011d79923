"""Every common annotation format, read as it is written.

Formats: Pascal VOC (``*.xml``), YOLO (``*.txt`` with ``classes.txt``, ``obj.names`` or ``data.yaml``), COCO and LabelMe
(``*.json``), boxes in one CSV (``id|path, name, xmin, ymin, xmax, ymax``), points in one CSV (``id, x, y[, kind]``) or
one ``x,y[,class]`` file per field, masks (``*.png``: labels, or 0/128/255 for background, cytoplasm and nucleus),
classes per field in one CSV (``id, classes``) and manual differentials in one CSV (``slide``, a column per class).
Tables may have any separator, decimal comma and encoding that a spreadsheet writes.

Pixels are the file's own, origin top left; boxes are taken as half-open, polygons as the boxes around them. What cannot
be used is a :class:`TruthFault`. What the names mean is told in :mod:`cbctool.run.truth`.
"""

from __future__ import annotations

import csv
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from cbctool.errors import InputError, UsageError
from cbctool.records import CellKind
from cbctool.run.spreadsheet import decode, parse_number, separator


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


@dataclass(frozen=True)
class TruthFault:
    """Something in the annotation that cannot be used as it stands."""

    source: str
    what: str


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
        columns = {key_of(c) for c in read_table(path).header}
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


_FIELD_COLUMNS = frozenset({"id", "field", "path", "image", "image_id", "filename", "file"})
_NAME_COLUMNS = frozenset({"name", "class", "label", "kind", "cell_class", "category"})
_SIDES = {spelt: side for side in ("xmin", "ymin", "xmax", "ymax") for spelt in (side, f"{side[0]}_{side[1:]}")}
"""How box columns are spelt (keys), and their names here."""
_CLASSES_COLUMNS = frozenset({"classes", "wbc_classes", "class", "label"})


@dataclass(frozen=True)
class RawBox:
    name: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


@dataclass(frozen=True)
class RawField:
    """One field's annotation before names are given a meaning; ``picture`` is as the annotation calls it."""

    picture: str
    boxes: tuple[RawBox, ...] = ()
    mask: Path | None = None
    classes: tuple[str, ...] = ()
    faults: tuple[TruthFault, ...] = ()
    height_width: tuple[int, int] | None = None  # of the picture, as the annotation has it


def key_of(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold()).strip("_")


class PictureIndex:
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
class Table:
    """A CSV file: its heading, its rows, and what separates them."""

    header: list[str]
    rows: list[dict[str, str]]
    delimiter: str

    def number(self, text: str) -> float:
        return parse_number(text, self.delimiter)

    def columns(self) -> dict[str, str]:
        """Column names by what they are called here: ``X_Min`` is ``xmin``."""
        return {_SIDES.get(key_of(c), key_of(c)): c for c in self.header}


def read_text(path: Path) -> str:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"Truth {path} cannot be read ({error.strerror}).", "Check the path and its rights.") from None


def read_table(path: Path) -> Table:
    if not path.is_file():
        raise InputError(f"Truth {path} does not exist.", "Check the path.")
    text = read_text(path)
    delimiter = separator(text)
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), restval="", delimiter=delimiter)
        return Table([c or "" for c in reader.fieldnames or ()], list(reader), delimiter)
    except csv.Error as error:
        raise UsageError(f"Truth {path} cannot be read as CSV ({error}).", "Save it as CSV.") from error


def column_of_field(header: Sequence[str], path: Path) -> str:
    for column in header:
        if key_of(column) in _FIELD_COLUMNS:
            return column
    raise UsageError(f"{path} has no column that names the field.", "Call it id, field or path.")


def _read_voc(path: Path, index: PictureIndex) -> list[RawField]:
    fields = []
    for file in [path] if path.is_file() else sorted(path.rglob("*.xml")):
        try:
            root = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as error:
            fields.append(RawField(file.stem, faults=(TruthFault(file.name, f"not XML: {error}"),)))
            continue
        if root.tag != "annotation":
            what = f"no Pascal VOC (its root is <{root.tag}>): export it as Pascal VOC, COCO or YOLO"
            fields.append(RawField("", faults=(TruthFault(file.name, what),)))
            continue
        boxes, faults = [], []
        for number, item in enumerate(root.iter("object"), start=1):
            name = item.findtext("name", "").strip()
            try:
                x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
            except ValueError:
                faults.append(TruthFault(file.name, f"object {number} ({name or 'no name'}) has no box"))
                continue
            boxes.append(RawBox(name, x0, y0, x1, y1))
        size = _stated_size(root.findtext("size/height"), root.findtext("size/width"))
        # The file's own stem counts: <filename> often lacks the ending or names a picture elsewhere.
        fields.append(RawField(file.stem, tuple(boxes), faults=tuple(faults), height_width=size))
    return fields


def _stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """The picture's size as the annotation has it; None where it says nothing, or 0 as some tools do."""
    try:
        return (int(height), int(width)) if int(height) > 0 and int(width) > 0 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _box_around(name: str, xs: Sequence[float], ys: Sequence[float]) -> RawBox:
    return RawBox(name, min(xs), min(ys), max(xs), max(ys))


def _yolo_names(path: Path) -> list[str]:
    for folder in (path, *path.absolute().parents[:2]):  # as in train/labels beside train/images
        for name in ("classes.txt", "obj.names", "labels.names"):
            if (folder / name).is_file():
                return [x.strip() for x in read_text(folder / name).splitlines() if x.strip()]
        for name in ("data.yaml", "data.yml", "dataset.yaml"):
            if (folder / name).is_file():
                return _names_of_yaml(read_text(folder / name))
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
        first = read_text(file).split("\n", 1)[0].split()
        if first:
            return len(first) >= 5 and first[0].isdigit()
    return False


def _read_yolo(path: Path, index: PictureIndex) -> list[RawField]:
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
            fields.append(RawField(file.stem))
            continue
        size = picture_size(picture)
        if size is None:
            fields.append(RawField(file.stem, faults=(TruthFault(picture.name, "cannot be opened"),)))
            continue
        height, width = size
        boxes, faults = [], []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                label, *shares = (float(v) for v in line.split())
                box = _yolo_box(names[int(label)], shares, height, width)
            except (ValueError, IndexError, OverflowError):
                faults.append(TruthFault(file.name, f"line {number} is no box of a known class: {line.strip()[:60]!r}"))
                continue
            boxes.append(box)
        fields.append(RawField(file.stem, tuple(boxes), faults=tuple(faults)))
    return fields


def _yolo_box(name: str, shares: Sequence[float], height: int, width: int) -> RawBox:
    """A box (centre, size and perhaps a confidence), or the one around a polygon (x and y of its corners)."""
    if len(shares) >= 6 and len(shares) % 2 == 0:
        return _box_around(name, [x * width for x in shares[::2]], [y * height for y in shares[1::2]])
    if len(shares) not in (4, 5):
        raise ValueError("neither a box nor a polygon")
    xc, yc, w, h = shares[:4]
    return RawBox(name, (xc - w / 2) * width, (yc - h / 2) * height, (xc + w / 2) * width, (yc + h / 2) * height)


def picture_size(path: Path) -> tuple[int, int] | None:
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
        data = json.loads(read_text(file))
    except (ValueError, RecursionError):
        return TruthFormat.COCO  # whose reader says what is wrong
    return TruthFormat.LABELME if isinstance(data, dict) and "shapes" in data else TruthFormat.COCO


def _read_coco(path: Path, index: PictureIndex) -> list[RawField]:
    return [field for file in _json_files(path) for field in _read_coco_file(file)]


def _read_coco_file(file: Path) -> list[RawField]:
    try:
        data: dict[str, Any] = json.loads(read_text(file))
        categories = {c["id"]: str(c["name"]) for c in data["categories"]}
        pictures = {i["id"]: str(i["file_name"]) for i in data["images"]}
        sizes = {i["id"]: _stated_size(i.get("height"), i.get("width")) for i in data["images"]}
        annotations: list[dict[str, Any]] = [dict(a) for a in data["annotations"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"Truth {file} is not COCO ({error!r}).", "It needs images, annotations and categories."
        ) from error
    boxes: dict[Any, list[RawBox]] = {i: [] for i in pictures}
    faults: dict[Any, list[TruthFault]] = {i: [] for i in pictures}
    stray: list[TruthFault] = []
    for a in annotations:
        place = stray
        try:
            place = faults[a["image_id"]]
            boxes[a["image_id"]].append(_coco_box(categories[a["category_id"]], a))
        except (KeyError, ValueError, TypeError) as error:
            place.append(TruthFault(file.name, f"annotation {a.get('id')} cannot be used ({error!r})"))
    fields = [RawField(pictures[i], tuple(boxes[i]), faults=tuple(faults[i]), height_width=sizes[i]) for i in pictures]
    return [*fields, RawField("", faults=tuple(stray))] if stray else fields


def _coco_box(name: str, annotation: Mapping[str, Any]) -> RawBox:
    """Its ``bbox``, or the box around the polygons of its ``segmentation``."""
    if annotation.get("bbox"):
        x, y, w, h = (float(v) for v in annotation["bbox"])
        return RawBox(name, x, y, x + w, y + h)
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not any(polygons):
        raise ValueError("neither bbox nor polygons")
    xs, ys = ([float(v) for polygon in polygons for v in polygon[first::2]] for first in (0, 1))
    return _box_around(name, xs, ys)


def _read_labelme(path: Path, index: PictureIndex) -> list[RawField]:
    fields = []
    for file in _json_files(path):
        try:
            data: dict[str, Any] = json.loads(read_text(file))
            shapes: list[dict[str, Any]] = list(data["shapes"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fields.append(RawField(file.stem, faults=(TruthFault(file.name, f"not LabelMe ({error!r})"),)))
            continue
        boxes, faults = [], []
        for number, shape in enumerate(shapes, start=1):
            try:
                boxes.append(_labelme_box(shape))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                faults.append(TruthFault(file.name, f"shape {number} cannot be used ({error!r})"))
        size = _stated_size(data.get("imageHeight"), data.get("imageWidth"))
        fields.append(RawField(file.stem, tuple(boxes), faults=tuple(faults), height_width=size))
    return fields


def _labelme_box(shape: Mapping[str, Any]) -> RawBox:
    """The box around a shape; a circle is its centre and a point of its rim."""
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if shape.get("shape_type") == "circle":
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    xs, ys = zip(*points, strict=True)
    return _box_around(str(shape["label"]), xs, ys)


def _read_boxes(path: Path, index: PictureIndex) -> list[RawField]:
    table = read_table(path)
    field_column = column_of_field(table.header, path)
    name_column = _name_column(table.header, field_column)
    keys = table.columns()
    missing = {"xmin", "ymin", "xmax", "ymax"} - keys.keys()
    if missing:
        raise UsageError(f"Truth {path} has no column {', '.join(sorted(missing))}.", "Boxes need all four sides.")
    boxes: dict[str, list[RawBox]] = defaultdict(list)
    faults: dict[str, list[TruthFault]] = defaultdict(list)
    for line, row in enumerate(table.rows, start=2):
        name = row[name_column] if name_column else CellKind.NUCLEATED.value
        try:
            sides = [table.number(row[keys[k]]) for k in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            faults[row[field_column]].append(TruthFault(path.name, f"line {line} has no box"))
            continue
        boxes[row[field_column]].append(RawBox(name, *sides))
    return [RawField(f, tuple(boxes[f]), faults=tuple(faults[f])) for f in dict.fromkeys([*boxes, *faults])]


def _name_column(header: Sequence[str], field_column: str) -> str | None:
    return next((c for c in header if c != field_column and key_of(c) in _NAME_COLUMNS), None)


def _read_points(path: Path, index: PictureIndex) -> list[RawField]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in {".csv", ".txt", ".xyc"})
        return [_read_point_file(p) for p in files]
    table = read_table(path)
    field_column = column_of_field(table.header, path)
    name_column = _name_column(table.header, field_column)
    keys = table.columns()
    boxes: dict[str, list[RawBox]] = defaultdict(list)
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
        boxes[field].append(RawBox(name, x, y, x, y))
    return [RawField(f, tuple(b), faults=tuple(faults[f])) for f, b in boxes.items()]


def _read_point_file(path: Path) -> RawField:
    """``x,y[,class]`` lines (comma, semicolon, tab or blanks), with or without a header."""
    boxes, faults = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
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
        boxes.append(RawBox(name, x, y, x, y))
    return RawField(path.stem, tuple(boxes), faults=tuple(faults))


def _read_masks(path: Path, index: PictureIndex) -> list[RawField]:
    endings = {".png", ".tif", ".tiff", ".bmp"}
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in endings)
    return [RawField(re.sub(r"_mask$", "", p.stem), mask=p) for p in files]


def _read_field_classes(path: Path, index: PictureIndex) -> list[RawField]:
    table = read_table(path)
    field_column = column_of_field(table.header, path)
    column = next(c for c in table.header if c != field_column and key_of(c) in _CLASSES_COLUMNS)
    classes: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:  # one per field, or one per cell
        classes[row[field_column]] += [x for x in re.split(r"[,;|]\s*", row[column].strip()) if x]
    return [RawField(field, classes=tuple(names)) for field, names in classes.items()]


READERS = {
    TruthFormat.VOC: _read_voc,
    TruthFormat.YOLO: _read_yolo,
    TruthFormat.COCO: _read_coco,
    TruthFormat.LABELME: _read_labelme,
    TruthFormat.BOXES: _read_boxes,
    TruthFormat.POINTS: _read_points,
    TruthFormat.MASKS: _read_masks,
    TruthFormat.FIELD_CLASSES: _read_field_classes,
}
