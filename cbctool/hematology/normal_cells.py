"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
    CellClass.BASOPHIL: (
        (0.3289, 0.7121, 0.8335),
        ((0.00916, 0.00316, 0.00186), (0.00316, 0.00839, 0.00713), (0.00186, 0.00713, 0.00771)),
    ),
    CellClass.EOSINOPHIL: (
        (0.1044, 0.4494, 0.7834),
        ((0.00444, 0.00227, 0.00024), (0.00227, 0.00787, 0.00176), (0.00024, 0.00176, 0.00906)),
    ),
    CellClass.ERYTHROBLAST: (
        (-0.2144, 0.4456, 0.9579),
        ((0.02402, 0.00704, -0.00197), (0.00704, 0.01314, -0.00113), (-0.00197, -0.00113, 0.00097)),
    ),
    CellClass.IMMATURE_GRANULOCYTE: (
        (0.2732, 0.5650, 0.8405),
        ((0.01355, 0.00241, -0.00615), (0.00241, 0.00639, 0.00087), (-0.00615, 0.00087, 0.01134)),
    ),
    CellClass.LYMPHOCYTE: (
        (0.1392, 0.7522, 0.9498),
        ((0.00572, -0.00168, -0.00061), (-0.00168, 0.00605, 0.00040), (-0.00061, 0.00040, 0.00082)),
    ),
    CellClass.MONOCYTE: (
        (0.3918, 0.5382, 0.8243),
        ((0.00407, -0.00081, -0.00099), (-0.00081, 0.00737, 0.00093), (-0.00099, 0.00093, 0.00773)),
    ),
    CellClass.NEUTROPHIL: (
        (0.0747, 0.4525, 0.8030),
        ((0.00413, 0.00122, 0.00016), (0.00122, 0.00726, 0.00151), (0.00016, 0.00151, 0.00673)),
    ),
}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""

RED_CELL_SEGMENTED_UM = 6.89
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
