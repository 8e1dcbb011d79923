"""How far the measures agree with what pathologists wrote about PBC's cells: ``python scripts/check_morphometry.py``.

Each row says how well one measure orders the cells of two descriptions (area under the ROC curve; 0.5 is chance). The
attributes are WBCAtt's (``pbc/images.csv``); frames of the test split are left out, since measures feed the blast flag.
"""

from __future__ import annotations

import argparse
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbctool.imaging.field import analyse_field
from cbctool.imaging.read import read_field
from cbctool.records import Cell, CellKind
from cbctool.run.score_crops import auroc

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CBCTOOL_DATA", ROOT.parent / "shared" / "data"))
_UM_PER_PX = 0.19


def main() -> None:
    """Measure a sample and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200, help="cells on either side")
    options = parser.parse_args()
    table = pd.read_csv(DATA / "pbc" / "images.csv")
    table = table[(table["split"] != "test") & table["nucleus_shape"].notna()]
    shape, ratio, size = table["nucleus_shape"], table["nuclear_cytoplasmic_ratio"], table["cell_size"]
    segmented, unsegmented = shape.str.startswith("segmented"), shape.str.startswith("unsegmented")
    # only where both sources agree: WBCAtt calls 662 of 1,646 segmented neutrophils "unsegmented-band"
    sne, bne = (table["subtype"] == "SNE") & segmented, (table["subtype"] == "BNE") & (shape == "unsegmented-band")
    granules, none = table["granularity"] == "yes", table["granularity"] == "no"
    rows = (
        ("nc_ratio", "high ratio", ratio == "high", "low ratio", ratio == "low"),
        ("nuclear_lobes", "segmented nucleus", segmented, "unsegmented", unsegmented),
        ("nuclear_lobes", "segmented neutrophil", sne, "band neutrophil", bne),
        ("nuclear_solidity", "band neutrophil", bne, "segmented neutrophil", sne),
        ("granularity", "granules", granules, "no granules", none),
        ("area_um2", "big cell", size == "big", "small cell", size == "small"),
    )
    print("| measure | more of it | less of it | cells | AUROC |\n|---|---|---|---|---|")
    for measure, more, is_more, less, is_less in rows:
        high, low = (_measured(table[chosen], measure, options.cells) for chosen in (is_more, is_less))
        print(f"| {measure} | {more} | {less} | {len(high)} + {len(low)} | {auroc(low, high):.3f} |")


def _measured(table: pd.DataFrame, measure: str, cells: int) -> NDArray[Any]:
    """A measure of so many cells, drawn at random."""
    drawn = table.sample(min(cells, len(table)), random_state=0)
    found = [_middle_cell(DATA / "pbc" / path) for path in drawn["path"]]
    values = np.array([getattr(cell, measure) for cell in found if cell], float)
    return values[np.isfinite(values)]


@cache
def _middle_cell(path: Path) -> Cell | None:
    field = read_field(path, path.stem, path.name)
    cells = [c for c in analyse_field(field, given_um_per_px=_UM_PER_PX).cells if c.kind is CellKind.NUCLEATED]
    height, width = field.rgb.shape[:2]
    near = [c for c in cells if np.hypot(c.row_px - height / 2, c.col_px - width / 2) * _UM_PER_PX < 6]
    return min(near, key=lambda c: np.hypot(c.row_px - height / 2, c.col_px - width / 2), default=None)


if __name__ == "__main__":
    main()
