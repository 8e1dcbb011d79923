"""Bodies within red cells: more than platelets that happened to settle there?

Malaria parasites and other inclusions are as dark and as large as platelets and are found as such; what tells them is
where they are. Platelets lie between red cells, and fewer on them than scattered ones would: of those found, 4 % lie
well within a red cell in ALL-IDB1's fields, 10 % in BCCD's and 1 % in PBC's, whose red cells cover 20 to 29 % of the
ground (``scripts/check_inclusions.py``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cbctool.hematology.normal_cells import RED_CELL_SEGMENTED_UM
from cbctool.records import CellKind, CellStatus, FieldSummary, Observation

WELL_WITHIN = 0.75
"""Share of a red cell's radius: farther out a platelet beside the cell may overlap it."""


@dataclass(frozen=True)
class Inclusions:
    """Platelet objects well within red cells, as (field, cell); of how many; how many would be there by chance."""

    cells: tuple[tuple[str, int], ...]
    bodies: int
    by_chance: float


OF_CHANCE = 0.5
"""More than this share of what chance would put into red cells is no longer what platelets do: they keep 0.07 to 0.45
of it in the three collections."""


def find_inclusions(fields: Sequence[FieldSummary], observations: Iterable[Observation]) -> Inclusions:
    """Platelet objects of the fit fields whose centre lies well within a red cell; none that a reviewer took out."""
    areas_um2 = {f.name: 1e6 * f.area_mm2 for f in fields if f.quality.fit}
    um_per_px = {f.name: f.scale.um_per_px for f in fields}
    red_cells, bodies = defaultdict(list), defaultdict(list)
    for observation in observations:
        cell = observation.cell
        if cell.kind is CellKind.ERYTHROCYTE:
            red_cells[observation.field].append((cell.row_px, cell.col_px, cell.equivalent_diameter_um / 2))
        elif cell.kind is CellKind.PLATELET and not _excluded(observation):
            bodies[observation.field].append((cell.row_px, cell.col_px, cell.cell))
    inside: list[tuple[str, int]] = []
    by_chance, total = 0.0, 0
    for name, found in bodies.items():
        if name not in areas_um2 or not red_cells[name] or areas_um2[name] <= 0:
            continue
        red = np.array(red_cells[name])
        reach_um = WELL_WITHIN * red[:, 2]
        by_chance += len(found) * min(1.0, math.pi * float(reach_um @ reach_um) / areas_um2[name])
        total += len(found)
        tree = cKDTree(red[:, :2] * um_per_px[name])
        places = np.array(found)[:, :2] * um_per_px[name]
        # the cell around a body is among the nearest centres, even where neighbours overlap
        distance, which = tree.query(places, k=min(3, len(red)), distance_upper_bound=2 * RED_CELL_SEGMENTED_UM)
        reach = np.append(reach_um, 0.0)[which]  # none in reach has the number after the last
        within = (distance < reach).reshape(len(found), -1).any(axis=1)
        inside += [(name, int(number)) for (_, _, number), is_in in zip(found, within, strict=True) if is_in]
    return Inclusions(tuple(inside), total, by_chance)


def _excluded(observation: Observation) -> bool:
    return observation.prediction is not None and observation.prediction.status is CellStatus.EXCLUDED
