"""Does the program agree with what was drawn? See python scripts/check_samples.py --help.

Renders fields of each class that nobody trained on, analyses them like any others, and prints per look: the scale found
against the true one, how many drawn cells were found, with the right kind, and how the classifier calls each class.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from cbctool.classifier.predict import Classifier
from cbctool.imaging.field import analyse_field
from cbctool.records import CLASSES, CellKind, Field, FieldResult
from cbctool.synthetic.cells import BLAST, RED_CELL
from cbctool.synthetic.render import TrueCell, Truth, render_field
from cbctool.synthetic.scene import RED_CELL_AREA_UM2

SHAPE, UM_PER_PX, PER_FIELD = (768, 1024), 0.19, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100, help="cells of each class")
    parser.add_argument("--looks", default="peach,cool,green,olive")
    parser.add_argument("--weights", type=Path, default=None, help="default: the shipped weights")
    parser.add_argument("--classes", default=",".join([*CLASSES, BLAST]))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    classifier = Classifier(options.weights, device="cpu")
    print(f"weights {classifier.info.name}; {options.cells} cells of each class per look")
    for look in options.looks.split(","):
        print(f"\n{look}")
        for name in options.classes.split(","):
            print(check(name, look, options.cells, classifier))


def check(name: str, look: str, cells: int, classifier: Classifier) -> str:
    """Return one line on one class in one look."""
    drawn = found = right_kind = 0
    calls: Counter[str] = Counter()
    scales, unknown, red = [], [], []
    red_cells = round(0.36 * SHAPE[0] * SHAPE[1] * UM_PER_PX**2 / RED_CELL_AREA_UM2)
    for seed in range(-(-cells // PER_FIELD)):
        counts = {name: PER_FIELD, RED_CELL: red_cells}
        rgb, truth = render_field(counts, SHAPE, UM_PER_PX, 1000 + seed, look, distinct=200)
        result = analyse_field(Field("drawn", f"{name} {seed}", rgb))
        scales.append(result.summary.scale.um_per_px / UM_PER_PX)
        scores = classifier.classify(result.crops)
        order = {int(cell): i for i, cell in enumerate(result.crop_cells)}
        whole = [cell for cell in truth.cells if cell.name == name and not cell.touches_edge]
        for cell in whole:
            drawn += 1
            index = nearest(cell, result)
            if index is None:
                continue
            found += 1
            right_kind += result.cells[index].kind is cell.kind
            if index in order:
                calls[CLASSES[int(scores.probabilities[order[index]].argmax())]] += 1
                unknown.append(float(scores.unknown[order[index]]))
        red.append(red_cell_recall(truth, result))
    best = ", ".join(f"{call} {count}" for call, count in calls.most_common(4))
    agree = calls[name] / max(1, drawn)
    outside = float(np.mean(np.array(unknown) > classifier.info.unknown_above)) if unknown else 0.0
    return (
        f"{name:21s} scale x{np.mean(scales):.3f}  red cells found {np.mean(red):.2f}  found {found}/{drawn}  "
        f"kind {right_kind / max(1, drawn):.2f}  agree {agree:.2f}  unknown {outside:.2f}  [{best}]"
    )


def nearest(cell: TrueCell, result: FieldResult, reach_um: float = 2.5) -> int | None:
    """Return the index of the found cell whose centre is closest, within ``reach_um``; the right kind goes first."""
    best, best_distance = None, np.inf
    for i, other in enumerate(result.cells):
        distance = np.hypot(other.row_px - cell.row_px, other.col_px - cell.col_px) * UM_PER_PX
        penalty = 0.0 if other.kind is cell.kind else 1.0
        if distance < reach_um and distance + penalty < best_distance:
            best, best_distance = i, distance + penalty
    return best


def red_cell_recall(truth: Truth, result: FieldResult) -> float:
    """Return red cells found over red cells drawn, edge included."""
    wanted = sum(cell.kind is CellKind.ERYTHROCYTE for cell in truth.cells)
    return sum(cell.kind is CellKind.ERYTHROCYTE for cell in result.cells) / max(1, wanted)


if __name__ == "__main__":
    main()
