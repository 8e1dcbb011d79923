"""Mean and spread of the classifier over trainings that differ in their seed, as a Markdown table.

``python scripts/score_seeds.py --data DATA SEED0.safetensors ...`` scores each weights file on a split of rebuilt
BloodMNIST, as ``cbctool validate --bloodmnist`` does: on val to choose one, on test once that is done. With ``--cells
CROPS.npz``, cut by ``scripts/check_classifier.py --split train --cache CROPS.npz``, also on those
cells of BCCD and ALL-IDB1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import check_classifier
import numpy as np

from cbctool.classifier import Classifier
from cbctool.run.score_crops import score_bloodmnist

_HOME = ("accuracy", "macro_f1", "nll", "ece", "ece_chance_95", "coverage", "selective_accuracy")
_ABROAD = (
    ("bccd", "accuracy"),
    ("bccd", "balanced_accuracy"),
    ("bccd", "red_cells_auroc"),
    ("all_idb1", "red_cells_auroc"),
    ("all_idb1", "blasts_auroc"),
)


def main() -> None:
    """Print a row per weights file, then the mean and the standard deviation (n - 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder with bloodmnist/")
    parser.add_argument("--split", default="test", help="of BloodMNIST")
    parser.add_argument("--cells", type=Path, help="crops of other laboratories (.npz)")
    options = parser.parse_args()
    columns = list(_HOME)
    if options.cells is not None:
        columns += [f"{data} {name}" for data, name in _ABROAD]
        with np.load(options.cells) as file:
            cut = dict(file)
    print(f"| weights | {' | '.join(name.replace('_', ' ') for name in columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    rows = []
    for path in options.weights:
        home = score_bloodmnist(options.data / "bloodmnist" / "bloodmnist.npz", options.split, path, "cpu")
        row = [float(home[name]) for name in _HOME]
        if options.cells is not None:
            abroad = check_classifier.figures(Classifier(path, "cpu"), cut)
            row += [float(abroad[data][name]) for data, name in _ABROAD]
        rows.append(row)
        _print(home["weights"]["sha256"][:8], row)
    _print("mean", np.mean(rows, axis=0).tolist())
    if len(rows) > 1:
        _print("standard deviation", np.std(rows, axis=0, ddof=1).tolist())


def _print(name: str, row: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{value:.4f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main()
