"""Simulate the differential's intervals on slides that were called with another laboratory's errors.

Run: ``python scripts/simulate_intervals.py [--weights FILE] [--other FILE.json] [--bccd] [--json]``

The intervals are made with the confusion that the weights carry (home); the calls are drawn with other confusions:

- ``published shift``: every class is recalled at 74.4 % (the figure published for a discriminative model under domain
  shift), its errors spread at random over the other seven classes, drawn anew for every slide;
- ``one class lost``: as at home, but one class after the other is recalled at 75 % only, all its errors going to the
  class that home confuses it with most;
- ``BCCD`` (``--bccd``): the confusion of these weights on BCCD's named leukocytes, through the program's own stages,
  home's row where BCCD has fewer than 10 cells of a class;
- ``--other``: an 8x8 table of counts from anywhere.

Slides have random mixes of classes, from healthy to badly deranged. Coverage is the share of slides whose interval
holds the true share of a class in the blood; at least 94 % is asked of every class.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from cbctool.hematology.intervals import clopper_pearson, total_interval
from cbctool.records import CLASSES, LEUKOCYTES, CellClass, CellKind

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
COLUMNS = [CLASSES.index(c) for c in LEUKOCYTES]
HEALTHY = np.array([0.60, 0.28, 0.07, 0.035, 0.008, 0.007])
HOME = np.array(  # without weights: 97 % right, errors between neighbours in maturation and size
    [
        [238, 1, 0, 3, 0, 1, 1, 0],
        [1, 618, 0, 2, 0, 0, 3, 0],
        [0, 0, 303, 2, 4, 1, 1, 0],
        [4, 1, 2, 548, 2, 13, 9, 0],
        [0, 0, 4, 1, 236, 2, 0, 0],
        [1, 0, 0, 9, 2, 272, 0, 0],
        [0, 3, 1, 10, 1, 1, 650, 0],
        [0, 0, 1, 0, 0, 0, 0, 469],
    ]
)


def simulate(
    home: np.ndarray[Any, Any], rates: np.ndarray[Any, Any], leukocytes: int, slides: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Coverage and width per class over many slides; ``rates`` (slides, 6, 8) or (6, 8) shares of calls per class."""
    rates = np.broadcast_to(rates, (slides, 6, 8))
    deranged = rng.dirichlet(np.full(6, 0.8), len(rates))
    share = rng.uniform(0, 1, (len(rates), 1)) ** 2  # most slides near healthy
    truth = (1 - share) * rng.dirichlet(80 * HEALTHY, len(rates)) + share * deranged
    cells = rng.multinomial(leukocytes, truth)
    calls = rng.multinomial(cells, rates).sum(axis=1)[:, COLUMNS]  # (slides, 6): calls outside are no leukocytes
    found = {}
    for name, (low, high) in {
        "sampling": clopper_pearson(calls, calls.sum(axis=1, keepdims=True)),
        "total": total_interval(calls, home),
    }.items():
        holds = (low <= truth) & (truth <= high)
        found[f"{name}_coverage"] = [round(100 * float(v), 1) for v in holds.mean(axis=0)]
        found[f"{name}_width"] = [round(100 * float(v), 1) for v in (high - low).mean(axis=0)]
    return found


def published_shift(slides: int, rng: np.random.Generator, recall: float = 0.744) -> np.ndarray[Any, Any]:
    """(slides, 6, 8) rates with this recall in every class and random errors."""
    rates = np.zeros((slides, 6, 8))
    for row, column in enumerate(COLUMNS):
        others = [c for c in range(8) if c != column]
        rates[:, row, others] = (1 - recall) * rng.dirichlet(np.ones(7), slides)
        rates[:, row, column] = recall
    return rates


def one_class_lost(home: np.ndarray[Any, Any], lost: int, recall: float = 0.75) -> np.ndarray[Any, Any]:
    """(6, 8) home's rates, one class being taken for its nearest neighbour."""
    rates = home[COLUMNS] / home[COLUMNS].sum(axis=1, keepdims=True)
    neighbours = rates[lost].copy()
    neighbours[COLUMNS[lost]] = -1
    rates[lost] = 0
    rates[lost, COLUMNS[lost]], rates[lost, int(np.argmax(neighbours))] = recall, 1 - recall
    return np.asarray(rates)


def bccd_confusion(classifier: Any) -> np.ndarray[Any, Any]:
    """(8, 8) counts on the fields of BCCD with one named leukocyte and one nucleated cell found."""
    from cbctool.errors import CbctoolError
    from cbctool.imaging.field import analyse_field
    from cbctool.imaging.read import read_field
    from cbctool.records import Scale, ScaleSource

    counts = np.zeros((8, 8), dtype=int)
    with (DATA / "bccd" / "fields.csv").open(newline="", encoding="utf-8") as file:
        named = {row["id"]: row["wbc_classes"].strip().lower() for row in csv.DictReader(file)}
    for name, cell_class in named.items():
        if cell_class not in list(CellClass):
            continue
        field = read_field(DATA / "bccd" / "images" / f"{name}.jpg", "bccd", name)
        try:
            # 7.5 um over the 103 px of BCCD's boxes, for the fields with too few single red cells
            result = analyse_field(field, slide_scale=Scale(7.5 / 103, ScaleSource.SLIDE))
        except CbctoolError:
            continue
        index = [i for i, c in enumerate(result.crop_cells) if result.cells[c].kind is CellKind.NUCLEATED]
        if len(index) == 1:
            call = classifier.classify(result.crops[index]).probabilities.argmax(axis=1)[0]
            counts[CLASSES.index(CellClass(cell_class)), call] += 1
    return counts


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="home confusion from this weights file; 'default' for the shipped")
    parser.add_argument("--other", type=Path, help="JSON file with an 8x8 table of counts, row = truth")
    parser.add_argument("--bccd", action="store_true", help="measure the confusion on BCCD (needs --weights)")
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    home, classifier = HOME, None
    if arguments.weights:
        from cbctool.classifier.predict import Classifier

        classifier = Classifier(None if str(arguments.weights) == "default" else arguments.weights, device="cpu")
        home = np.array(classifier.info.confusion)
    rng = np.random.default_rng(20)
    home_rates = home[COLUMNS] / home[COLUMNS].sum(axis=1, keepdims=True)
    laboratories = {"home": home_rates, "published shift": published_shift(arguments.slides, rng)}
    for lost, cell_class in enumerate(LEUKOCYTES):
        laboratories[f"{cell_class} lost"] = one_class_lost(home, lost)
    elsewhere = {}
    if arguments.other:
        elsewhere["other"] = np.array(json.loads(arguments.other.read_text(encoding="utf-8")))
    if arguments.bccd and classifier is not None:
        elsewhere["BCCD"] = bccd_confusion(classifier)
    for name, counts in elsewhere.items():
        enough = counts[COLUMNS].sum(axis=1) >= 10
        rows = np.where(enough[:, None], counts[COLUMNS], home[COLUMNS])
        laboratories[name] = rows / rows.sum(axis=1, keepdims=True)
        print(f"{name}, calls of {', '.join(LEUKOCYTES)}:\n{counts[COLUMNS]}")
    report = {
        name: {str(n): simulate(home, rates, n, arguments.slides, rng) for n in (100, 200, 400)}
        for name, rates in laboratories.items()
    }
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"classes: {', '.join(LEUKOCYTES)}; coverage and mean width in percent, sampling alone | with own error")
    for name, sizes in report.items():
        for n, found in sizes.items():
            print(f"{name:26s} n={n:4s} coverage {found['sampling_coverage']} | {found['total_coverage']}")
            print(f"{'':33s} width    {found['sampling_width']} | {found['total_width']}")
    least = min(min(found["total_coverage"]) for sizes in report.values() for found in sizes.values())
    print(f"least coverage with own error: {least} %")


if __name__ == "__main__":
    main()
