"""Hand-made slides for the tests of haematology: so many cells of each class, in fields of one size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cbctool.records import (
    CLASSES,
    Cell,
    CellClass,
    CellKind,
    CellStatus,
    FieldQuality,
    FieldSummary,
    Observation,
    Prediction,
    Scale,
    ScaleSource,
    Slide,
    WeightsInfo,
)

SLIDE = Slide("S1", Path("slides"), (Path("slides/S1.png"),))

# 1,000 held-out cells a class, 990 right; all mistakes of a class go to one other, in ``CLASSES`` order: neutrophils
# are taken for immature granulocytes, lymphocytes for erythroblasts.
_TAKEN_FOR = (3, 6, 4, 6, 2, 4, 3, 0)
CONFUSION = tuple(
    tuple(990 if column == row else 10 if column == _TAKEN_FOR[row] else 0 for column in range(8)) for row in range(8)
)

WEIGHTS = WeightsInfo(
    name="test",
    sha256="0" * 64,
    architecture="none",
    validated=False,
    trained_on="nothing",
    date="2026-01-01",
    temperature=1.0,
    abstain_below=0.6,
    unknown_above=0.5,
    confusion=CONFUSION,
    stain_od=((0.2, 0.3, 0.1), (0.4, 0.5, 0.2), (0.6, 0.7, 0.4)),
)

# Diameter of the nucleus (um), N:C, solidity, lobes: about the middle of each class on PBC.
NUCLEI: dict[CellClass, tuple[float, float, float, float]] = {
    CellClass.NEUTROPHIL: (8.0, 0.45, 0.80, 3.0),
    CellClass.LYMPHOCYTE: (8.6, 0.75, 0.95, 1.0),
    CellClass.MONOCYTE: (11.1, 0.54, 0.82, 1.0),
    CellClass.EOSINOPHIL: (8.3, 0.45, 0.78, 2.0),
    CellClass.BASOPHIL: (10.4, 0.71, 0.83, 1.0),
    CellClass.IMMATURE_GRANULOCYTE: (9.8, 0.56, 0.84, 1.0),
    CellClass.ERYTHROBLAST: (6.0, 0.45, 0.96, 1.0),
}
BLAST = (12.0, 0.85, 0.96, 1.0)


def field(name: str = "f1.png", **changes: Any) -> FieldSummary:
    """A fit field of 1000 x 1000 px at 0.1 um/px."""
    plain: dict[str, Any] = {
        "name": name,
        "height_px": 1000,
        "width_px": 1000,
        "scale": Scale(0.1, ScaleSource.GIVEN, red_cells=100, red_cell_um_per_px=0.1),
        "quality": FieldQuality(fit=True, stain_od=(0.4, 0.5, 0.2)),
        "area_mm2": 0.01,
    }
    return FieldSummary(**plain | changes)


def cell(number: int = 1, kind: CellKind = CellKind.NUCLEATED, **changes: Any) -> Cell:
    """A cell in the middle of its field."""
    plain: dict[str, Any] = {
        "cell": number,
        "kind": kind,
        "row_px": 500.0,
        "col_px": 500.0,
        "ymin_px": 450,
        "xmin_px": 450,
        "ymax_px": 550,
        "xmax_px": 550,
        "area_um2": 100.0,
        "touches_edge": False,
    }
    return Cell(**plain | changes)


def nucleus(diameter_um: float, nc_ratio: float, solidity: float, lobes: float) -> dict[str, float]:
    """The measures of a nucleus as a cell carries them."""
    return {
        "nucleus_area_um2": math.pi / 4 * diameter_um**2,
        "nc_ratio": nc_ratio,
        "nuclear_solidity": solidity,
        "nuclear_lobes": lobes,
        "chromatin_texture": 0.1,
    }


def prediction(cell_class: CellClass | None, **changes: Any) -> Prediction:
    """A sure call."""
    probabilities = tuple(0.93 if c is cell_class else 0.01 for c in CLASSES)
    plain: dict[str, Any] = {
        "cell_class": cell_class,
        "probability": 0.93,
        "probabilities": probabilities,
        "unknown_score": 0.1,
        "status": CellStatus.CLASSIFIED,
    }
    return Prediction(**plain | changes)


def blood(
    *,
    unclassified: int = 0,
    blasts: int = 0,
    red_cells: int = 0,
    platelets: int = 0,
    large_platelets: int = 0,
    inclusions: int = 0,
    smudges: int = 0,
    name: str = "f1.png",
    **classes: int,
) -> list[Observation]:
    """Observations of one field: ``blood(neutrophil=60, lymphocyte=30)``. Red cells and inclusions lie in one place.

    Unclassified cells have a lymphocyte's nucleus; blasts are unclassified, unlike anything trained on, with a blast's.
    """
    seen: list[tuple[dict[str, Any], Prediction | None]] = []
    for value, count in classes.items():
        cell_class = CellClass(value)
        seen += [(nucleus(*NUCLEI[cell_class]), prediction(cell_class))] * count
    doubtful = prediction(CellClass.LYMPHOCYTE, status=CellStatus.UNCLASSIFIED, reason="low probability")
    seen += [(nucleus(*NUCLEI[CellClass.LYMPHOCYTE]), doubtful)] * unclassified
    unlike = prediction(
        CellClass.LYMPHOCYTE, status=CellStatus.UNCLASSIFIED, reason="unlike any trained class", unknown_score=0.9
    )
    seen += [(nucleus(*BLAST), unlike)] * blasts
    apart = {"row_px": 100.0, "col_px": 100.0}
    round_cell = {"kind": CellKind.ERYTHROCYTE, "equivalent_diameter_um": 7.5, "circularity": 0.9}
    seen += [(apart | round_cell, None)] * red_cells
    platelet = prediction(CellClass.PLATELET)
    seen += [({"kind": CellKind.PLATELET, "area_um2": 5.0}, platelet)] * platelets
    seen += [({"kind": CellKind.PLATELET, "area_um2": 50.0}, platelet)] * large_platelets
    seen += [(apart | {"kind": CellKind.PLATELET, "area_um2": 4.0}, platelet)] * inclusions
    smudge = prediction(None, status=CellStatus.EXCLUDED, reason="smudge cell")
    seen += [({"kind": CellKind.ARTEFACT, "reason": "smudge cell"}, smudge)] * smudges
    return [Observation(name, cell(number, **measures), call) for number, (measures, call) in enumerate(seen, start=1)]
