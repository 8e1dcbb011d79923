"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
    CellClass.BASOPHIL: (
        (0.3312, 0.7164, 0.8351),
        ((0.00921, 0.00301, 0.00165), (0.00301, 0.00847, 0.00735), (0.00165, 0.00735, 0.00775)),
    ),
    CellClass.EOSINOPHIL: (
        (0.1051, 0.4027, 0.7787),
        ((0.00449, 0.00067, 0.00012), (0.00067, 0.00148, 0.00080), (0.00012, 0.00080, 0.00891)),
    ),
    CellClass.ERYTHROBLAST: (
        (-0.2176, 0.4448, 0.9598),
        ((0.02292, 0.00564, -0.00137), (0.00564, 0.01406, -0.00097), (-0.00137, -0.00097, 0.00077)),
    ),
    CellClass.IMMATURE_GRANULOCYTE: (
        (0.2738, 0.5680, 0.8413),
        ((0.01389, 0.00271, -0.00587), (0.00271, 0.00668, 0.00119), (-0.00587, 0.00119, 0.01107)),
    ),
    CellClass.LYMPHOCYTE: (
        (0.1368, 0.7550, 0.9510),
        ((0.00558, -0.00155, -0.00049), (-0.00155, 0.00586, 0.00026), (-0.00049, 0.00026, 0.00071)),
    ),
    CellClass.MONOCYTE: (
        (0.3907, 0.5405, 0.8251),
        ((0.00384, -0.00090, -0.00081), (-0.00090, 0.00688, 0.00071), (-0.00081, 0.00071, 0.00763)),
    ),
    CellClass.NEUTROPHIL: (
        (0.0742, 0.4660, 0.8063),
        ((0.00401, 0.00125, 0.00030), (0.00125, 0.00903, 0.00108), (0.00030, 0.00108, 0.00608)),
    ),
}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""

RED_CELL_SEGMENTED_UM = 6.94
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
