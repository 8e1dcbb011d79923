"""Measure nuclei of normal cells on the PBC frames: the table in ``cbctool/hematology/normal_cells.py``.

Run: ``python scripts/measure_normal_cells.py [--per-class N] [--write]``

PBC's donors had no infection, haematologic or oncologic disease, so their cells say what normal looks like under the
project's own segmentation; run it again when that changes. The test split stays untouched. Location and covariance per
class are robust (minimum covariance determinant over 85 % of the cells), since a few nuclei are segmented badly and
those must not widen what counts as normal. ``--write`` replaces the table.

It also builds healthy slides out of these cells, each in another imagined laboratory (log diameter, N:C and solidity
shifted at random by 0.03, 0.04 and 0.02), the network knowing nothing, and prints how many the blast flag would
call: at most 2 % of slides of any size are wanted.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import cv2
import numpy as np
from sklearn.covariance import MinCovDet

from cbctool.hematology.blast import BlastOptions, cell_evidence, is_flagged, is_single_red_cell, nucleus_measures
from cbctool.imaging.field import analyse_field
from cbctool.imaging.read import read_field
from cbctool.records import RED_CELL_UM, Cell, CellClass, CellKind

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CBCTOOL_DATA", HERE.parents[1] / "shared" / "data"))
TABLE = HERE.parent / "cbctool" / "hematology" / "normal_cells.py"
UM_PER_PX = 0.19  # of PBC at half resolution, from the boxes of its red cells
CLASSES = {
    "basophil": CellClass.BASOPHIL,
    "eosinophil": CellClass.EOSINOPHIL,
    "erythroblast": CellClass.ERYTHROBLAST,
    "ig": CellClass.IMMATURE_GRANULOCYTE,
    "lymphocyte": CellClass.LYMPHOCYTE,
    "monocyte": CellClass.MONOCYTE,
    "neutrophil": CellClass.NEUTROPHIL,
}
HEAD = '''"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
'''
TAIL = '''}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""
'''
RED = '''
RED_CELL_SEGMENTED_UM = {:.2f}
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
'''


def measure(folder: Path, per_class: int, seed: int = 0) -> tuple[dict[str, list[Cell]], float]:
    """Centre cells of ``per_class`` random frames of each class, where one was found whole; a red cell's diameter."""
    rng = np.random.default_rng(seed)
    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "test"]
    cells: dict[str, list[Cell]] = {}
    red_cells: list[float] = []
    for name in CLASSES:
        paths = [row["path"] for row in rows if row["class"] == name]
        for path in rng.permutation(paths)[:per_class]:
            result = analyse_field(read_field(folder / path, "pbc", path), given_um_per_px=UM_PER_PX)
            centre = result.summary.height_px / 2, result.summary.width_px / 2
            red_cells += [cell.equivalent_diameter_um for cell in result.cells if is_single_red_cell(cell)]
            found = [cell for cell in result.cells if cell.kind is CellKind.NUCLEATED]
            if not found:
                continue
            cell = min(found, key=lambda c: (c.row_px - centre[0]) ** 2 + (c.col_px - centre[1]) ** 2)
            if not cell.nucleus_touches_edge:
                cells.setdefault(name, []).append(cell)
    return cells, float(np.median(red_cells))


def false_flags(normal: dict[str, list[Cell]], laboratories: int = 300, seed: int = 1) -> dict[int, float]:
    """Share of healthy slides that the blast flag calls, per number of cells on the slide."""
    rng, options = np.random.default_rng(seed), BlastOptions()
    names = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
    measures = {name: nucleus_measures(normal[name], RED_CELL_UM) for name in names}
    lobes = {name: np.array([cell.nuclear_lobes for cell in normal[name]]) for name in names}
    flagged: dict[int, list[bool]] = {}
    for _ in range(laboratories):
        shift = rng.normal(0, (0.03, 0.04, 0.02))
        evidence = {}
        for name in names:
            even, known = np.full((len(lobes[name]), 8), 1 / 8), np.zeros(len(lobes[name]), bool)
            evidence[name] = cell_evidence(measures[name] + shift, lobes[name], even, known, options)
        for size in (1, 2, 5, 15, 50, 200):
            for mix in rng.dirichlet((60, 30, 6, 3, 0.7), 4):
                drawn = [
                    rng.choice(evidence[name], n) for name, n in zip(names, rng.multinomial(size, mix), strict=True)
                ]
                flagged.setdefault(size, []).append(is_flagged(np.concatenate(drawn), options))
    return {size: float(np.mean(values)) for size, values in flagged.items()}


def main() -> None:
    """Measure, print, and write the table when asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="replace the table")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    lines = []
    normal, red_cell_um = measure(DATA / "pbc", arguments.per_class)
    print(f"red cells as segmented: {red_cell_um:.2f} um")
    for name, cells in normal.items():
        values = nucleus_measures(cells, RED_CELL_UM)
        fit = MinCovDet(support_fraction=0.85, random_state=0).fit(values)
        location = ", ".join(f"{value:.4f}" for value in fit.location_)
        spread = ", ".join("(" + ", ".join(f"{value:.5f}" for value in row) + ")" for row in fit.covariance_)
        lines.append(f"    CellClass.{CLASSES[name].name}: (({location}), ({spread})),\n")
        diameter = np.exp(np.percentile(values[:, 0], [5, 50, 95]))
        texture = np.nanpercentile([cell.chromatin_texture for cell in cells], [5, 50, 95])
        print(f"{name:12s} {len(cells):4d} cells  nucleus {diameter.round(2)} red cells ", end="")
        print(f"N:C {np.percentile(values[:, 1], [5, 50, 95]).round(2)}  texture {texture.round(3)}")
    for size, share in false_flags(normal).items():
        print(f"healthy slides of {size:3d} cells flagged: {100 * share:.1f} %")
    if arguments.write:
        red = RED.format(red_cell_um)
        TABLE.write_text(HEAD + "".join(lines) + TAIL + red, encoding="utf-8")
        print(f"wrote {TABLE.name}; run ruff format")


if __name__ == "__main__":
    main()
