"""The default weights' training data: frames of the PBC set prepared by the code that fields go through.

The set is Acevedo et al. 2020 (doi 10.1016/j.dib.2020.105474, CC BY 4.0): 17,092 frames of single cells, of which
BloodMNIST is the middle. The frames' margin is what shifts, turns and zooms bring into view, and their red cells and
empty background are what the network learns to call none of the eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbctool.classifier import outliers as made
from cbctool.classifier.train import Pictures
from cbctool.imaging import calibrate
from cbctool.imaging.crop import prepare_picture
from cbctool.imaging.read import read_field
from cbctool.records import CLASSES, CROP_PX, CROP_UM

FRAME_UM_PER_PX = CROP_UM / 100
"""BloodMNIST's window of 200 px is 100 px of the frames at half resolution."""

CANVAS_PX = 84
"""Side of the training canvases: 28.5 um at 56 px per window, enough for a window turned by 45 degrees."""

_CANVAS_FRAME_PX = 150
_WINDOW_PX = 56.0
_FOLDERS = {"ig": "immature_granulocyte"}


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a training needs. ``val`` and ``test`` are 28 x 28 windows, normalised; ``*_raw`` the same as cut."""

    train: Pictures
    val: Pictures
    test: Pictures
    outliers: NDArray[np.uint8]
    val_outliers: NDArray[np.uint8]
    source: str
    licence: str = ""


def prepare_pbc(folder: Path, seed: int = 0) -> Prepared:
    """Read, normalise and cut every frame of ``folder`` (``images.csv``, ``boxes.csv``, ``images/``)."""
    table = pd.read_csv(folder / "images.csv")
    boxes = pd.read_csv(folder / "boxes.csv")
    red_cells = dict(iter(boxes[boxes["name"] == "RBC"].groupby("path")))
    order = [str(name) for name in CLASSES]
    parts: dict[str, tuple[list[Any], list[int]]] = {split: ([], []) for split in ("train", "val", "test")}
    foreign: dict[str, list[NDArray[np.uint8]]] = {"train": [], "val": []}
    for number, row in enumerate(table.itertuples()):
        rgb = calibrate.normalise(read_field(folder / row.path, "", str(row.path)).rgb).rgb
        name = str(row[table.columns.get_loc("class") + 1])
        label = order.index(_FOLDERS.get(name, name))
        pictures, labels = parts[row.split]
        labels.append(label)
        middle = (rgb.shape[0] - 1) / 2, (rgb.shape[1] - 1) / 2
        if row.split == "train":
            pictures.append(_canvas(rgb, *middle))
        else:
            pictures.append(prepare_picture(rgb, FRAME_UM_PER_PX, normalise=False))
        if row.split != "test" and name != "platelet":
            rng = np.random.default_rng([seed, number])
            foreign[row.split] += _without_cell(rgb, red_cells.get(row.path), rng)
    rng = np.random.default_rng(seed)
    train = Pictures(np.stack(parts["train"][0]), np.array(parts["train"][1]), _WINDOW_PX)
    margin = int(CANVAS_PX - _WINDOW_PX) // 2
    val, test = (Pictures(np.stack(parts[s][0]), np.array(parts[s][1]), float(CROP_PX)) for s in ("val", "test"))
    nucleated = np.flatnonzero(train.labels != order.index("platelet"))
    drawn = {"train": 3000, "val": 400}
    outliers = {}
    for split, count in drawn.items():
        bare = foreign[split]
        smudges = [made.smudge(train.pictures[i], rng) for i in rng.choice(nucleated, count)]
        debris = [made.debris(bare[i], rng) for i in rng.integers(len(bare), size=count)]
        outliers[split] = np.stack(bare + smudges + debris)
    windows = outliers["val"][:, margin:-margin, margin:-margin]
    small = np.stack([prepare_picture(w, already_cropped=True, normalise=False) for w in windows])
    return Prepared(train, val, test, outliers["train"], small, "PBC (Acevedo et al. 2020), train split", "CC BY 4.0")


def _without_cell(rgb: NDArray[np.uint8], boxes: Any, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Canvases around red cells and bare background of one frame; none where something dark is in the middle."""
    height, width = rgb.shape[:2]
    centres = []
    if boxes is not None:
        centres = [((b.ymin + b.ymax) / 2, (b.xmin + b.xmax) / 2) for b in boxes.itertuples()]
    far = [c for c in rng.uniform(8, [height - 8, width - 8], (6, 2)) if np.hypot(*(c - [height / 2, width / 2])) > 40]
    found = []
    for row, col in [*centres, *far[:2]]:
        if min(row, col, height - row, width - col) < 8:
            continue
        canvas = _canvas(rgb, row, col)
        if made.without_nucleus(canvas, 10 * CANVAS_PX / 84):
            found.append(canvas)
    return found


def _canvas(rgb: NDArray[np.uint8], row: float, col: float) -> NDArray[np.uint8]:
    """The 28.5 um around a place, 84 x 84; the frame is mirrored beyond its edge."""
    half = _CANVAS_FRAME_PX // 2
    pad = half + 1
    padded = cv2.copyMakeBorder(rgb, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    top, left = round(row + 0.5) + pad - half, round(col + 0.5) + pad - half
    window = padded[top : top + _CANVAS_FRAME_PX, left : left + _CANVAS_FRAME_PX]
    return np.asarray(cv2.resize(window, (CANVAS_PX, CANVAS_PX), interpolation=cv2.INTER_AREA), np.uint8)
