"""Pictures of one leukocyte each, cut out of annotated fields, with the boxes of the leukocytes in them.

    python scripts/cut_leukocytes.py pbc --side-um 18 --out /tmp/close
    cbctool validate /tmp/close --truth /tmp/close/boxes.csv --um-per-px 0.190

Collections of single cells look like this: half of the picture is leukocyte, and hardly a whole red cell is seen.
Needs the real data (``CBCTOOL_DATA``, or ``../shared/data`` beside the checkout).
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from pathlib import Path

import cv2

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

Box = tuple[str, float, float, float, float]

BOXES = {"pbc": ("pbc/boxes.csv", 0.190), "bccd": ("bccd/boxes_txl.csv", 0.0746)}
"""Boxes of a collection, and its um/px, from the annotated red cells."""


def cut(collection: str, side_um: float, out: Path) -> int:
    """Write the windows around every leukocyte that lies in one whole; number of them.

    Parameters
    ----------
    collection : str
        Key of ``BOXES``.
    side_um : float
        Side of the window, less at the edge of the field.
    out : Path
        Folder for PNG pictures and ``boxes.csv``.
    """
    table, um_per_px = BOXES[collection]
    fields: dict[str, list[Box]] = defaultdict(list)
    with (DATA / table).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place = row.get("path") or f"images/{row['id']}.jpg"
            x0, y0, x1, y1 = (float(row[edge]) for edge in ("xmin", "ymin", "xmax", "ymax"))
            fields[place].append((row["name"], x0, y0, x1, y1))
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str | float, ...]] = []
    count = 0
    for place, boxes in fields.items():
        picture = cv2.imread(str((DATA / table).parent / place), cv2.IMREAD_COLOR)
        for _, x0, y0, x1, y1 in sorted({box for box in boxes if box[0] == "WBC"}):
            half = side_um / um_per_px / 2
            left, top = (max(0, round((low + high) / 2 - half)) for low, high in ((x0, x1), (y0, y1)))
            window = picture[top : round((y0 + y1) / 2 + half), left : round((x0 + x1) / 2 + half)]
            height, width = window.shape[:2]
            if x0 < left or y0 < top or x1 > left + width or y1 > top + height:
                continue
            name = f"{Path(place).stem}_{count}.png"
            cv2.imwrite(str(out / name), window)
            for kind, bx0, by0, bx1, by1 in boxes:
                near, far = (max(bx0 - left, 0), max(by0 - top, 0)), (min(bx1 - left, width), min(by1 - top, height))
                seen = max(far[0] - near[0], 0) * max(far[1] - near[1], 0)
                if kind == "WBC" and seen >= 0.5 * (bx1 - bx0) * (by1 - by0):  # of a neighbour, not a sliver
                    rows.append((name, kind, *near, *far))
            count += 1
    with (out / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "name", "xmin", "ymin", "xmax", "ymax"))
        writer.writerows(rows)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=sorted(BOXES))
    parser.add_argument("--side-um", type=float, default=18.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(f"{cut(options.collection, options.side_um, options.out)} pictures; um/px {BOXES[options.collection][1]:g}")


if __name__ == "__main__":
    main()
