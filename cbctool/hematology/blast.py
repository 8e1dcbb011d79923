"""Blast-likeness: which cells look like blasts, and why. Never a percentage: the network knows no blast class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cbctool.records import RED_CELL_UM, Cell, CellClass, CellKind, CellStatus, Observation, WeightsInfo


@dataclass(frozen=True)
class BlastOptions:
    """Thresholds of blast-likeness, in red-cell diameters and ratios."""

    nucleus_red_cells: float = 1.35
    nc_ratio: float = 0.75
    solidity: float = 0.9


def red_cell_diameter_um(cells: Sequence[Cell]) -> float:
    """Median diameter of the slide's own single red cells, um; the constant 7.5 where there are fewer than 10."""
    diameters = [c.equivalent_diameter_um for c in cells if c.kind is CellKind.ERYTHROCYTE and not c.touches_edge]
    diameters = [d for d in diameters if not math.isnan(d)]
    return float(np.median(diameters)) if len(diameters) >= 10 else RED_CELL_UM


def blast_reasons(
    observation: Observation, red_cell_um: float, weights: WeightsInfo, options: BlastOptions
) -> tuple[str, ...]:
    """Why a cell looks like a blast; empty when it does not."""
    cell, prediction = observation.cell, observation.prediction
    if prediction is None or cell.kind is not CellKind.NUCLEATED or prediction.status is CellStatus.EXCLUDED:
        return ()
    nucleus = math.sqrt(4 * cell.nucleus_area_um2 / math.pi) / red_cell_um
    if (
        nucleus < options.nucleus_red_cells
        or not cell.nc_ratio >= options.nc_ratio
        or cell.nuclear_lobes > 1
        or cell.nuclear_solidity < options.solidity
    ):
        return ()
    reasons = [f"nucleus {nucleus:.1f} red-cell diameters", f"N:C {cell.nc_ratio:.1f}"]
    if prediction.unknown_score > weights.unknown_above:
        reasons.append("unlike any trained class")
    return tuple(reasons)


@dataclass(frozen=True)
class BlastFinding:
    """What a slide's blast-like cells amount to."""

    flagged: bool
    predominance: bool
    text: str
    predominance_text: str
    cells: tuple[tuple[str, int], ...]


def find_blasts(
    observations: Sequence[Observation], weights: WeightsInfo, options: BlastOptions
) -> tuple[list[Observation], BlastFinding]:
    """Mark the blast-like cells of a slide and judge whether they are more than normal cells would give."""
    red_cell_um = red_cell_diameter_um([o.cell for o in observations])
    marked: list[Observation] = []
    cells: list[tuple[str, int]] = []
    nucleated = neutrophils = 0
    for observation in observations:
        prediction = observation.prediction
        reasons = blast_reasons(observation, red_cell_um, weights, options)
        if prediction is not None and (reasons or prediction.blast_like):
            observation = replace(
                observation, prediction=replace(prediction, blast_like=bool(reasons), blast_reasons=reasons)
            )
        if reasons:
            cells.append((observation.field, observation.cell.cell))
        if prediction is not None and prediction.status is not CellStatus.EXCLUDED:
            nucleated += observation.cell.kind is CellKind.NUCLEATED
            neutrophils += prediction.cell_class is CellClass.NEUTROPHIL
        marked.append(observation)
    text = f"{len(cells)} of {nucleated} nucleated cells look like blasts."
    predominance = bool(cells) and len(cells) >= max(neutrophils, nucleated / 5)
    return marked, BlastFinding(bool(cells), predominance, text, text, tuple(cells))
