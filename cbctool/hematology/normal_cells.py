"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
    CellClass.BASOPHIL: (
        (0.3313, 0.7167, 0.8362),
        ((0.00932, 0.00308, 0.00174), (0.00308, 0.00838, 0.00716), (0.00174, 0.00716, 0.00744)),
    ),
    CellClass.EOSINOPHIL: (
        (0.1052, 0.4025, 0.7794),
        ((0.00449, 0.00069, 0.00005), (0.00069, 0.00151, 0.00079), (0.00005, 0.00079, 0.00870)),
    ),
    CellClass.ERYTHROBLAST: (
        (-0.2207, 0.4445, 0.9603),
        ((0.02286, 0.00559, -0.00113), (0.00559, 0.01389, -0.00082), (-0.00113, -0.00082, 0.00072)),
    ),
    CellClass.IMMATURE_GRANULOCYTE: (
        (0.2758, 0.5694, 0.8421),
        ((0.01451, 0.00291, -0.00611), (0.00291, 0.00672, 0.00086), (-0.00611, 0.00086, 0.01053)),
    ),
    CellClass.LYMPHOCYTE: (
        (0.1365, 0.7550, 0.9508),
        ((0.00556, -0.00154, -0.00047), (-0.00154, 0.00584, 0.00026), (-0.00047, 0.00026, 0.00072)),
    ),
    CellClass.MONOCYTE: (
        (0.3911, 0.5403, 0.8239),
        ((0.00395, -0.00095, -0.00094), (-0.00095, 0.00685, 0.00080), (-0.00094, 0.00080, 0.00769)),
    ),
    CellClass.NEUTROPHIL: (
        (0.0750, 0.4735, 0.8062),
        ((0.00407, 0.00146, 0.00021), (0.00146, 0.01049, 0.00085), (0.00021, 0.00085, 0.00592)),
    ),
}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""

RED_CELL_SEGMENTED_UM = 6.94
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
