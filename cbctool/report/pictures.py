"""Pictures of a report: which fields are worth showing, the annotated overlays, and the store of all JPEGs.

The JPEGs that come with a result are put into reports as they are; only the overlays are drawn and encoded again.
"""

from __future__ import annotations

import io
import math
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cbctool.records import SMUDGE_CELL, CellKind, FieldSummary, Observation, SlideResult
from cbctool.report.style import MARKS, SEVERITY_ORDER, mark_key

OVERLAY_QUALITY = 85
"""JPEG quality of overlays: text edges stay clean, and a 640 x 480 field is about 80 kB."""


@dataclass(frozen=True)
class Box:
    """One annotation in preview pixels: the cell's box, the code it is labelled with, colour, and whether it counts.

    ``flagged`` says that the cell raised a flag. A platelet is a ring, unless it did: then it is found by its number.
    """

    observation: Observation
    key: str
    left: float
    top: float
    right: float
    bottom: float
    flagged: bool = False

    @property
    def ring(self) -> bool:
        return self.observation.cell.kind is CellKind.PLATELET and not self.flagged

    @property
    def counted(self) -> bool:
        return self.key not in ("unclassified", "excluded")


def flagged_identities(result: SlideResult) -> frozenset[tuple[str, int]]:
    """(field, cell) of all cells that raised a flag."""
    return frozenset(identity for flag in result.flags for identity in flag.cells)


def boxes_of(
    summary: FieldSummary, observations: Iterable[Observation], flagged: Collection[tuple[str, int]] = ()
) -> list[Box]:
    """Annotations of one field in pixels of its preview: nucleated cells, smudge cells and platelets.

    Cells are in pixels of the file; a tile's own origin is taken off. ``flagged`` are (field, cell).
    """
    boxes = []
    scale = summary.preview_scale
    for observation in observations:
        cell = observation.cell
        if not _drawn(observation) or observation.field != summary.name:
            continue
        boxes.append(
            Box(
                observation,
                mark_key(observation),
                (cell.xmin_px - summary.col_px) * scale,
                (cell.ymin_px - summary.row_px) * scale,
                (cell.xmax_px - summary.col_px) * scale,
                (cell.ymax_px - summary.row_px) * scale,
                (observation.field, cell.cell) in flagged,
            )
        )
    return boxes


def _drawn(observation: Observation) -> bool:
    """Whether a cell is annotated: of artefacts smudge cells alone, since a flag counts them."""
    return observation.cell.kind in (CellKind.NUCLEATED, CellKind.PLATELET) or observation.cell.reason == SMUDGE_CELL


def scale_bar(width_um: float) -> float:
    """Length of a scale bar, micrometres, for a picture of this width: the largest round one below a quarter of it."""
    return max((n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= width_um / 4), default=1)


def by_field(observations: Iterable[Observation]) -> dict[str, list[Observation]]:
    """Nucleated cells, smudge cells and platelets of each field, in order: what is drawn."""
    groups: dict[str, list[Observation]] = defaultdict(list)
    for observation in observations:
        if _drawn(observation):
            groups[observation.field].append(observation)
    return groups


def fields_to_show(result: SlideResult) -> list[FieldSummary]:
    """Fields that have a picture: by the most severe flag that has cells in them, then by their nucleated cells."""
    severity: dict[str, int] = {}
    for flag in result.flags:
        for name, _ in flag.cells:
            severity[name] = min(SEVERITY_ORDER[flag.severity], severity.get(name, len(SEVERITY_ORDER)))
    nucleated: dict[str, int] = defaultdict(int)
    for observation in result.observations:
        if observation.cell.kind is CellKind.NUCLEATED:
            nucleated[observation.field] += 1
    shown = [summary for summary in result.fields if summary.preview_jpeg]
    return sorted(shown, key=lambda field: (severity.get(field.name, len(SEVERITY_ORDER)), -nucleated[field.name]))


LARGE_PX = 1000
"""A longer side above this is halved where half size was asked for."""


def overlay_jpeg(preview: bytes, boxes: Sequence[Box], half: bool = False, um_per_px: float = math.nan) -> bytes:
    """The field with a box and a class code on every nucleated cell, a thin circle on every platelet, as JPEG.

    A thick line is a cell that counts, a thin one a cell that does not. A scale bar stands at the lower left where the
    preview's scale is known.
    """
    import cv2
    import numpy as np

    data = np.frombuffer(preview, np.uint8)
    half = half and _longer_side(preview) > LARGE_PX
    # Decoding at half size takes a third of the time.
    picture = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a field's preview is not a JPEG")
    zoom = 0.5 if half else 1.0
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.45, max(picture.shape) / 2000)
    for box in boxes:
        mark = MARKS[box.key]
        red, green, blue = (int(mark.colour[i : i + 2], 16) for i in (1, 3, 5))
        colour = (blue, green, red)
        left, top, right, bottom = (round(zoom * v) for v in (box.left, box.top, box.right, box.bottom))
        if box.ring:
            centre = ((left + right) // 2, (top + bottom) // 2)
            radius = max(5, (bottom - top + right - left) // 4 + 4)
            for tone, thick in (((255, 255, 255), 3), (colour, 1)):  # seen on any ground
                cv2.circle(picture, centre, radius, tone, thick, cv2.LINE_AA)
            continue
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 2 if box.counted else 1)
        text = f"{'x' if box.key == 'excluded' else mark.code} {box.observation.cell.cell}"
        (width, height), base = cv2.getTextSize(text, font, size, 1)
        y = top if top >= height + base + 2 else min(bottom + height + base + 2, picture.shape[0])
        x = max(0, min(left, picture.shape[1] - width - 4))
        cv2.rectangle(picture, (x, y - height - base - 2), (x + width + 4, y), colour, -1)
        cv2.putText(picture, text, (x + 2, y - base), font, size, (255, 255, 255), 1, cv2.LINE_AA)
    if um_per_px == um_per_px:
        um = scale_bar(picture.shape[1] * um_per_px / zoom)
        left, right, y = 10, 10 + round(zoom * um / um_per_px), picture.shape[0] - 10
        for colour, thick in (((255, 255, 255), 4), ((0, 0, 0), 2)):
            cv2.line(picture, (left, y), (right, y), colour, thick)
            cv2.putText(picture, f"{um:g} um", (left, y - 6), font, size, colour, thick - 1, cv2.LINE_AA)
    ok, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, OVERLAY_QUALITY])
    if not ok:
        raise ValueError("an overlay could not be encoded")
    return bytes(encoded)


def _longer_side(jpeg: bytes) -> int:
    """In pixels, by the header alone; 0 where there is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(jpeg)) as picture:
            return max(picture.size)
    except UnidentifiedImageError:
        return 0


OVERVIEW = "slide.jpg"
"""Name of a whole slide's picture in ``evidence.zip``."""


def write_evidence(result: SlideResult, cells: Path, out: BinaryIO) -> None:
    """``evidence.zip``: what a later correction needs, so that it needs no picture of the slide again.

    ``cells.csv`` as it was written, ``fields/<n>.jpg`` (previews) and ``cells/<n>.jpg`` (thumbnails), where n is the
    place in ``result.fields`` and among the rows of ``cells.csv``, from 0; of a whole
    slide ``slide.jpg``. Times are fixed: same input, same bytes. A whole slide's table is never in memory as a whole.

    Parameters
    ----------
    result : SlideResult
    cells : Path
        ``cells.csv``.
    out : binary file
        Seekable.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with cells.open("rb") as table, archive.open("cells.csv", "w") as entry:
            shutil.copyfileobj(table, entry, 1 << 20)
        archive.getinfo("cells.csv").external_attr = _READABLE
        if result.tiles is not None and result.tiles.overview_jpeg:
            _add(archive, OVERVIEW, result.tiles.overview_jpeg)
        for n, summary in enumerate(result.fields):
            if summary.preview_jpeg:
                _add(archive, f"fields/{n}.jpg", summary.preview_jpeg)
        for n, observation in enumerate(result.observations):
            if observation.thumbnail:
                _add(archive, f"cells/{n}.jpg", observation.thumbnail)


_READABLE = 0o644 << 16
"""The mode of an entry, as ZIP files hold it."""


def _add(archive: zipfile.ZipFile, name: str, jpeg: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # stored: a JPEG does not get smaller
    entry.external_attr = _READABLE
    archive.writestr(entry, jpeg)


def pictures_of(archive: zipfile.ZipFile, folder: str) -> Mapping[int, bytes]:
    """The JPEGs under ``folder`` of what :func:`write_evidence` wrote, by number."""
    return {
        int(name.removeprefix(f"{folder}/").removesuffix(".jpg")): archive.read(name)
        for name in archive.namelist()
        if name.startswith(f"{folder}/")
    }
