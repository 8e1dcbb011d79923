"""Nuclei of normal cells, measured on PBC (train and val). Written by ``scripts/measure_normal_cells.py``."""

from __future__ import annotations

from cbctool.records import CellClass

Triple = tuple[float, float, float]

NORMAL_CELLS: dict[CellClass, tuple[Triple, tuple[Triple, Triple, Triple]]] = {
    CellClass.BASOPHIL: (
        (0.3304, 0.7166, 0.8350),
        ((0.00921, 0.00303, 0.00169), (0.00303, 0.00851, 0.00736), (0.00169, 0.00736, 0.00762)),
    ),
    CellClass.EOSINOPHIL: (
        (0.1051, 0.4030, 0.7787),
        ((0.00449, 0.00068, 0.00012), (0.00068, 0.00149, 0.00081), (0.00012, 0.00081, 0.00890)),
    ),
    CellClass.ERYTHROBLAST: (
        (-0.2194, 0.4478, 0.9600),
        ((0.02174, 0.00482, -0.00126), (0.00482, 0.01318, -0.00085), (-0.00126, -0.00085, 0.00077)),
    ),
    CellClass.IMMATURE_GRANULOCYTE: (
        (0.2736, 0.5675, 0.8403),
        ((0.01376, 0.00257, -0.00595), (0.00257, 0.00646, 0.00107), (-0.00595, 0.00107, 0.01127)),
    ),
    CellClass.LYMPHOCYTE: (
        (0.1367, 0.7550, 0.9510),
        ((0.00558, -0.00155, -0.00050), (-0.00155, 0.00586, 0.00026), (-0.00050, 0.00026, 0.00071)),
    ),
    CellClass.MONOCYTE: (
        (0.3912, 0.5413, 0.8256),
        ((0.00393, -0.00089, -0.00079), (-0.00089, 0.00704, 0.00077), (-0.00079, 0.00077, 0.00759)),
    ),
    CellClass.NEUTROPHIL: (
        (0.0738, 0.4688, 0.8059),
        ((0.00397, 0.00116, 0.00025), (0.00116, 0.00941, 0.00102), (0.00025, 0.00102, 0.00600)),
    ),
}
"""Per class: location and covariance of log(nucleus diameter / red-cell diameter), N:C ratio and nuclear solidity."""

RED_CELL_SEGMENTED_UM = 6.93
"""Median diameter of single red cells as segmentation draws them, where the scale says 7.5 um (boxes)."""
