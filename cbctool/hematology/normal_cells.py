"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
    CellClass.BASOPHIL: (
        (0.3313, 0.7162, 0.8352),
        ((0.00919, 0.00299, 0.00167), (0.00299, 0.00843, 0.00732), (0.00167, 0.00732, 0.00777)),
    ),
    CellClass.EOSINOPHIL: (
        (0.1051, 0.4027, 0.7787),
        ((0.00449, 0.00067, 0.00012), (0.00067, 0.00149, 0.00080), (0.00012, 0.00080, 0.00891)),
    ),
    CellClass.ERYTHROBLAST: (
        (-0.2176, 0.4448, 0.9598),
        ((0.02292, 0.00564, -0.00137), (0.00564, 0.01406, -0.00097), (-0.00137, -0.00097, 0.00077)),
    ),
    CellClass.IMMATURE_GRANULOCYTE: (
        (0.2737, 0.5674, 0.8397),
        ((0.01380, 0.00257, -0.00603), (0.00257, 0.00647, 0.00114), (-0.00603, 0.00114, 0.01133)),
    ),
    CellClass.LYMPHOCYTE: (
        (0.1368, 0.7550, 0.9510),
        ((0.00558, -0.00155, -0.00049), (-0.00155, 0.00586, 0.00026), (-0.00049, 0.00026, 0.00071)),
    ),
    CellClass.MONOCYTE: (
        (0.3912, 0.5404, 0.8255),
        ((0.00394, -0.00094, -0.00077), (-0.00094, 0.00686, 0.00077), (-0.00077, 0.00077, 0.00767)),
    ),
    CellClass.NEUTROPHIL: (
        (0.0742, 0.4661, 0.8063),
        ((0.00401, 0.00125, 0.00030), (0.00125, 0.00904, 0.00108), (0.00030, 0.00108, 0.00608)),
    ),
}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""

RED_CELL_SEGMENTED_UM = 6.94
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
