"""How the classifier does on other laboratories' cells, cut by the project's own segmentation. Checks; fits nothing.

``python scripts/check_classifier.py --data ../shared/data --split train`` scores BCCD's leukocytes of named class
(argmax over all eight outputs; a cell that is missed or gets no call counts as wrong), as many cells of each class from
PBC's val frames, and the unknown-score: ALL-IDB1's blasts against the leukocytes of its healthy fields, red cells
against leukocytes. With ``--insult`` (as ``cbctool validate`` has it) every field goes through it first, and takes its
settings in turn.
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cbctool.classifier import Classifier
from cbctool.classifier.model import STRANGER, SmearNet
from cbctool.errors import CbctoolError
from cbctool.imaging.background import normalise
from cbctool.imaging.crop import crop_windows
from cbctool.imaging.field import ImagingOptions, analyse_field
from cbctool.imaging.read import read_field
from cbctool.imaging.segment import SegmentOptions
from cbctool.records import CLASSES, CROP_PX, CellKind, FieldResult
from cbctool.run.insult import Insult, apply_insult, parse_insult
from cbctool.run.score_crops import auroc, calls_made

_BCCD_UM_PER_PX = 7.5 / 103  # one camera: the median red-cell box of its fields is 103 px wide
_PBC_UM_PER_PX = 0.190
_PBC_PER_CLASS = 48
_NOT_FOUND = np.full((CROP_PX, CROP_PX, 3), 255, np.uint8)
_REACH_UM = 5.0  # a point or box centre belongs to the nucleated cell nearest to it within this distance


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="train", help="of BCCD: train to choose by, val once at the end")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--cache", type=Path, help="crops (.npz), cut where it is not there; of one insult each")
    parser.add_argument("--insult", type=parse_insult, help="what the fields go through first, as for validate")
    options = parser.parse_args()
    if options.cache is not None and options.cache.is_file():
        with np.load(options.cache) as file:
            cut = dict(file)
    else:
        cut = cut_all(options.data, options.split, options.insult)
        if options.cache is not None:
            np.savez(options.cache, **cut)
    print(json.dumps(figures(Classifier(options.weights, "cpu"), cut), indent=1))


def cut_all(data: Path, split: str, insult: Insult | None = None) -> dict[str, NDArray[Any]]:
    """All crops that :func:`figures` takes."""
    bccd = cut_bccd(data / "bccd", split, insult)
    return {**bccd, **cut_pbc(data / "pbc", insult), **cut_all_idb1(data / "all_idb1", insult)}


def figures(classifier: Classifier, cut: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Accuracy on named cells, AUROC of the unknown-score."""
    labels, found = cut["bccd_labels"], cut["bccd_found"].astype(bool)
    scores = classifier.classify(cut["bccd_crops"])
    calls = np.where(found, scores.probabilities.argmax(axis=1), -1)
    classified = found & calls_made(scores, classifier.info)
    names = {label: str(CLASSES[label]) for label in np.unique(labels)}
    recall = {name: float((calls[labels == label] == label).mean()) for label, name in names.items()}
    many = [name for label, name in names.items() if (labels == label).sum() >= 10 or label == 5]
    idb = {name: classifier.classify(cut[f"idb_{name}"]) for name in ("blast", "healthy", "red_cells")}
    bccd_red = classifier.classify(cut["bccd_red_cells"])
    return {
        "weights": classifier.info.sha256,
        "bccd": {
            "cells": len(labels),
            "found": float(found.mean()),
            "accuracy": float((calls == labels).mean()),
            "accuracy_of_found": float((calls == labels)[found].mean()),
            "accuracy_with_abstention": float(((calls == labels) & classified).mean()),
            "balanced_accuracy": float(np.mean([recall[name] for name in many])),
            "recall": recall,
            "coverage_of_found": float(classified[found].mean()),
            "calls": {str(c): int((calls == i).sum()) for i, c in enumerate(CLASSES)},
            "red_cells_auroc": auroc(scores.unknown[found], bccd_red.unknown),
            **by_readout(classifier, cut["bccd_crops"], np.where(found, labels, -1)),
        },
        "pbc": on_pbc(classifier, cut),
        "all_idb1": {
            "blasts": len(idb["blast"].unknown),
            "healthy": len(idb["healthy"].unknown),
            "blasts_auroc": auroc(idb["healthy"].unknown, idb["blast"].unknown),
            "blasts_uncalled": float((~calls_made(idb["blast"], classifier.info)).mean()),
            "healthy_uncalled": float((~calls_made(idb["healthy"], classifier.info)).mean()),
            "red_cells_auroc": auroc(idb["healthy"].unknown, idb["red_cells"].unknown),
        },
    }


def on_pbc(classifier: Classifier, cut: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Accuracy, and recall by class; a cell that was not found counts as wrong."""
    labels, found = cut["pbc_labels"], cut["pbc_found"]
    scores = classifier.classify(cut["pbc_crops"])
    calls = np.where(found, scores.probabilities.argmax(axis=1), -1)
    called = found & calls_made(scores, classifier.info)
    return {
        "cells": len(labels),
        "accuracy": float((calls == labels).mean()),
        "coverage": float(called.mean()),
        "accuracy_of_called": float((calls == labels)[called].mean()),
        "recall": {str(CLASSES[i]): float((calls[labels == i] == i).mean()) for i in np.unique(labels)},
    }


def by_readout(classifier: Classifier, crops: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Accuracy of each readout by itself, and the share of cells for which the gate prefers the own one."""
    network = classifier.network
    if not isinstance(network, SmearNet):
        return {}
    with torch.inference_mode():
        gate, own, foreign = (part.numpy() for part in network.readouts(torch.from_numpy(crops)))
    return {
        "accuracy_own_readout": float((own[:, :-1].argmax(axis=1) == labels).mean()),
        "accuracy_foreign_readout": float((foreign[:, :-1].argmax(axis=1) == labels).mean()),
        "gated_to_own": float((gate > STRANGER).mean()),
    }


def cut_bccd(folder: Path, split: str, insult: Insult | None = None) -> dict[str, NDArray[Any]]:
    """Crops of the one named leukocyte of each field (that of the largest box), white where none was found."""
    table = pd.read_csv(folder / "fields.csv").fillna("")
    order = {str(name): number for number, name in enumerate(CLASSES)}
    crops, labels, found, red = [], [], [], []
    for row in table[(table["split"] == split)].itertuples():
        label = order.get(str(row.wbc_classes).lower())
        boxes = [
            [float(one.findtext(f"bndbox/{side}", "0")) for side in ("ymin", "xmin", "ymax", "xmax")]
            for one in ElementTree.parse(folder / "annotations" / f"{row.id}.xml").iter("object")
            if one.findtext("name") == "WBC"
        ]
        if label is None or not boxes:
            continue
        ymin, xmin, ymax, xmax = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
        rgb, result, grown = _analyse(folder / "images" / f"{row.id}.jpg", insult, len(labels), _BCCD_UM_PER_PX)
        centre = np.array([[(ymin + ymax) / 2, (xmin + xmax) / 2]])
        reach = max(ymax - ymin, xmax - xmin) / 2
        nearest = _nearest(result, centre * grown, reach * grown)[0]
        crops.append(result.crops[nearest] if nearest >= 0 else _NOT_FOUND)
        labels.append(label)
        found.append(nearest >= 0)
        red.append(_red_cells(rgb, result, 3))
    return {
        "bccd_crops": np.stack(crops),
        "bccd_labels": np.array(labels),
        "bccd_found": np.array(found),
        "bccd_red_cells": np.concatenate(red),
    }


def cut_pbc(folder: Path, insult: Insult | None = None) -> dict[str, NDArray[Any]]:
    """Crops of the cell in the middle of frames of the val split, as many of each class but platelets."""
    table = pd.read_csv(folder / "images.csv")
    table = table[(table["split"] == "val") & (table["duplicate"] == 0) & (table["class"] != "platelet")]
    table = table.groupby("class").head(_PBC_PER_CLASS)
    order = {str(name): number for number, name in enumerate(CLASSES)} | {"ig": CLASSES.index("immature_granulocyte")}
    crops, found = [], []
    for number, path in enumerate(table["path"]):
        rgb, result, _ = _analyse(folder / path, insult, number, _PBC_UM_PER_PX)
        middle = np.array([rgb.shape[:2]]) / 2
        nearest = _nearest(result, middle, _REACH_UM / result.summary.scale.um_per_px)[0]
        crops.append(result.crops[nearest] if nearest >= 0 else _NOT_FOUND)
        found.append(nearest >= 0)
    labels = table["class"].map(order).to_numpy()
    return {"pbc_crops": np.stack(crops), "pbc_labels": labels, "pbc_found": np.array(found)}


def cut_all_idb1(folder: Path, insult: Insult | None = None) -> dict[str, NDArray[Any]]:
    """Crops at the marked blasts, of the nucleated cells of healthy fields, and of red cells."""
    points = pd.read_csv(folder / "points.csv")
    parts: dict[str, list[NDArray[np.uint8]]] = {"blast": [], "healthy": [], "red_cells": []}
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        try:
            rgb, result, grown = _analyse(path, insult, number)
        except CbctoolError as error:
            print(f"{path.name}: {error.message}")
            continue
        mine = points[points["id"] == path.stem]
        kind = "blast" if path.stem.endswith("_1") else "other"
        centres = mine.loc[mine["kind"] == kind, ["y", "x"]].to_numpy(float)
        nearest = _nearest(result, centres * grown, _REACH_UM / result.summary.scale.um_per_px)
        cells = [result.cells[i] for i in result.crop_cells[nearest[nearest >= 0]]]
        whole = [not cell.touches_edge and cell.kind == CellKind.NUCLEATED for cell in cells]
        name = "blast" if kind == "blast" else "healthy"
        parts[name].append(result.crops[nearest[nearest >= 0]][np.array(whole, bool)])
        if name == "healthy":
            parts["red_cells"].append(_red_cells(rgb, result, 10))
    return {f"idb_{name}": np.concatenate(crops) for name, crops in parts.items()}


def _analyse(
    path: Path, insult: Insult | None, number: int, um_per_px: float | None = None
) -> tuple[NDArray[Any], FieldResult, float]:
    """The field's picture and what was found in it, after the insult, and by what factor that made it larger."""
    field = read_field(path, path.stem, path.name)
    if insult is None:
        return field.rgb, analyse_field(field, ImagingOptions(), um_per_px), 1.0
    own = um_per_px or analyse_field(field).summary.scale.um_per_px
    working_px = SegmentOptions().working_um_per_px / own
    rgb = apply_insult(field.rgb, insult.kind, insult.setting(number), working_px)
    grown = rgb.shape[0] / field.rgb.shape[0]
    scale = um_per_px / grown if um_per_px else None
    return rgb, analyse_field(replace(field, rgb=rgb), ImagingOptions(), scale), grown


def _nearest(result: FieldResult, centres: NDArray[Any], reach_px: float) -> NDArray[np.int64]:
    """Index of the crop of the nucleated cell nearest to each centre, -1 where none is within reach."""
    cells = [result.cells[i] for i in result.crop_cells]
    places = np.array([[c.row_px, c.col_px] if c.kind == CellKind.NUCLEATED else [np.inf, np.inf] for c in cells])
    if not len(places):
        return np.full(len(centres), -1)
    distance = np.linalg.norm(centres[:, None] - places[None], axis=2)
    return np.where(distance.min(axis=1) <= reach_px, distance.argmin(axis=1), -1)


def _red_cells(rgb: NDArray[Any], result: FieldResult, count: int) -> NDArray[np.uint8]:
    red = [c for c in result.cells if c.kind == CellKind.ERYTHROCYTE and not c.touches_edge][:count]
    centres = np.array([[c.row_px, c.col_px] for c in red])
    return crop_windows(normalise(rgb).rgb, centres, result.summary.scale.um_per_px)


if __name__ == "__main__":
    main()
