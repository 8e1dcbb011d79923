"""Default reference intervals, with their sources. A laboratory's own go into its profile."""

from __future__ import annotations

from cbctool.records import CellClass

PERCENT_SOURCE = "default: commonly quoted adult values, to be replaced by the laboratory's own"
ABSOLUTE_SOURCE = "default: typical of 15 UK laboratories' adult intervals"

ADULT_FROM_YEARS = 18.0
"""Age from which the default intervals hold: children's counts differ too much."""

ADULT_PERCENT: dict[CellClass, tuple[float, float]] = {
    CellClass.NEUTROPHIL: (40.0, 80.0),
    CellClass.LYMPHOCYTE: (20.0, 40.0),
    CellClass.MONOCYTE: (2.0, 10.0),
    CellClass.EOSINOPHIL: (1.0, 6.0),
    CellClass.BASOPHIL: (0.0, 2.0),
    CellClass.IMMATURE_GRANULOCYTE: (0.0, 1.0),
}
"""Percent of classified leukocytes."""

ADULT_ABSOLUTE: dict[CellClass, tuple[float, float]] = {
    CellClass.NEUTROPHIL: (2.0, 7.5),
    CellClass.LYMPHOCYTE: (1.0, 4.0),
    CellClass.MONOCYTE: (0.2, 1.0),
    CellClass.EOSINOPHIL: (0.0, 0.5),
    CellClass.BASOPHIL: (0.0, 0.1),
}
"""10^9 per litre. Immature granulocytes have none of their own here."""
