"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
    CellClass.BASOPHIL: (
        (0.3310, 0.7165, 0.8358),
        ((0.00918, 0.00301, 0.00172), (0.00301, 0.00842, 0.00728), (0.00172, 0.00728, 0.00765)),
    ),
    CellClass.EOSINOPHIL: (
        (0.1051, 0.4027, 0.7787),
        ((0.00449, 0.00067, 0.00012), (0.00067, 0.00149, 0.00080), (0.00012, 0.00080, 0.00891)),
    ),
    CellClass.ERYTHROBLAST: (
        (-0.2187, 0.4444, 0.9602),
        ((0.02270, 0.00555, -0.00125), (0.00555, 0.01405, -0.00093), (-0.00125, -0.00093, 0.00073)),
    ),
    CellClass.IMMATURE_GRANULOCYTE: (
        (0.2737, 0.5674, 0.8404),
        ((0.01379, 0.00257, -0.00595), (0.00257, 0.00647, 0.00107), (-0.00595, 0.00107, 0.01124)),
    ),
    CellClass.LYMPHOCYTE: (
        (0.1367, 0.7549, 0.9510),
        ((0.00558, -0.00155, -0.00049), (-0.00155, 0.00586, 0.00026), (-0.00049, 0.00026, 0.00071)),
    ),
    CellClass.MONOCYTE: (
        (0.3911, 0.5403, 0.8257),
        ((0.00393, -0.00095, -0.00080), (-0.00095, 0.00686, 0.00078), (-0.00080, 0.00078, 0.00761)),
    ),
    CellClass.NEUTROPHIL: (
        (0.0740, 0.4673, 0.8064),
        ((0.00400, 0.00119, 0.00030), (0.00119, 0.00922, 0.00104), (0.00030, 0.00104, 0.00608)),
    ),
}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""

RED_CELL_SEGMENTED_UM = 6.94
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
