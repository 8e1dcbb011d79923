"""The default weights' training data: frames of the PBC set prepared by the code that fields go through.

The set is Acevedo et al. 2020 (doi 10.1016/j.dib.2020.105474, CC BY 4.0): 17,092 frames of single cells, of which
BloodMNIST is the middle. The frames' margin is what shifts, turns and zooms bring into view, and their red cells and
empty background are what the network learns to call none of the eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbctool.classifier import outliers as made
from cbctool.classifier.train import Pictures
from cbctool.imaging.background import normalise
from cbctool.imaging.read import read_field
from cbctool.records import CLASSES, CROP_PX, CellClass
from cbctool.run.score_crops import normalise_crops, read_npz_split
from cbctool.run.train import TrainingData

CANVAS_PX = 84
"""Side of the training canvases: 28.5 um at 56 px per window, enough for a window turned by 45 degrees."""

_CANVAS_FRAME_PX = 150  # the same in px of the frames at half resolution, where BloodMNIST's window of 200 px is 100
_WINDOW_PX = 56.0
_FOLDERS = {"ig": "immature_granulocyte"}


def prepare_pbc(folder: Path, bloodmnist: Path, seed: int = 0) -> TrainingData:
    """Training canvases and outliers from the frames; validation and test windows from BloodMNIST itself.

    Parameters
    ----------
    folder : Path
        With ``images.csv``, ``boxes.csv`` and ``images/``.
    bloodmnist : Path
        The ``bloodmnist.npz`` of the same split.
    """
    table = _table(folder, "train")
    pictures = np.stack([_canvas(rgb, *_middle(rgb)) for rgb in _frames(folder, table)])
    train = Pictures(pictures, table["label"].to_numpy(np.int64), _WINDOW_PX)
    parts = {}
    for split in ("val", "test"):
        crops, labels = read_npz_split(bloodmnist, split)
        parts[split] = Pictures(normalise_crops(crops), labels, float(CROP_PX))
    return TrainingData(
        train=train,
        val=parts["val"],
        test=parts["test"],
        source="PBC frames (Acevedo et al. 2020), the train split of rebuilt BloodMNIST",
        outliers=pbc_outliers(folder, "train", 3000, seed),
        licence="CC BY 4.0",
    )


def pbc_outliers(folder: Path, split: str, drawn: int, seed: int = 0) -> NDArray[np.uint8]:
    """Canvases of what is no cell: red cells and background of a split, ``drawn`` smudges and as much debris."""
    table = _table(folder, split)
    table = table[table["label"] != CLASSES.index(CellClass.PLATELET)]
    boxes = pd.read_csv(folder / "boxes.csv")
    red_cells = dict(iter(boxes[boxes["name"] == "RBC"].groupby("path")))
    rng = np.random.default_rng(seed)
    bare: list[NDArray[np.uint8]] = []
    smudges: list[NDArray[np.uint8]] = []
    smeared = set(rng.choice(len(table), min(drawn, len(table)), replace=False).tolist())
    for number, rgb in enumerate(_frames(folder, table)):
        bare += _without_cell(rgb, red_cells.get(table["path"].iloc[number]), rng)
        if number in smeared:
            smudges.append(made.smudge(_canvas(rgb, *_middle(rgb)), rng))
    debris = [made.debris(bare[i], rng) for i in rng.integers(len(bare), size=drawn)]
    return np.stack(bare + smudges + debris)


def _table(folder: Path, split: str) -> pd.DataFrame:
    table = pd.read_csv(folder / "images.csv")
    table = table[table["split"] == split].reset_index(drop=True)
    order = {str(name): number for number, name in enumerate(CLASSES)}
    return table.assign(label=table["class"].replace(_FOLDERS).map(order))


def _frames(folder: Path, table: pd.DataFrame) -> Iterator[NDArray[np.uint8]]:
    for path in table["path"].astype(str):
        yield normalise(read_field(folder / path, "", path).rgb).rgb


def _middle(rgb: NDArray[np.uint8]) -> tuple[float, float]:
    return (rgb.shape[0] - 1) / 2, (rgb.shape[1] - 1) / 2


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
        if made.without_nucleus(canvas, 10):  # 3.4 um
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
