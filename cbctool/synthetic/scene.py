"""Where cells lie on a smear: how many of each kind, and how they touch, overlap and leave room for each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from cbctool.records import CellClass
from cbctool.synthetic.cells import BLAST, DEBRIS, RED_CELL, SMUDGE, draw

RED_CELL_AREA_UM2 = 39.0
"""Mean area of a drawn red cell (``RED_CELL_EDGE_UM`` across)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One cell on the smear.

    Attributes
    ----------
    name, drawing : str, int
        What :func:`cbctool.synthetic.cells.draw` is asked for.
    row_um, col_um : float
        Centre, micrometres from the field's top left corner.
    turn : int
        0 to 7: quarter turns, plus 4 for a mirrored cell.
    """

    name: str
    drawing: int
    row_um: float
    col_um: float
    turn: int = 0


@dataclass(frozen=True)
class Recipe:
    """What a patient's smear holds.

    Attributes
    ----------
    shares : mapping of str to float
        Nucleated cells by name (leukocytes, erythroblasts, blasts); any scale, only the ratios count.
    red_cell_cover : float
        Share of the field under red cells if none overlapped; 0.3-0.5 is the monolayer where one counts.
    platelets_per_1000_red_cells : float
        250 x10^9/L beside 5 x10^12/L is 50.
    smudges_per_100, debris_per_100 : float
        Smudge cells and stain precipitates per 100 nucleated cells.
    clustered : float
        Share of nucleated cells that lie against another one.
    """

    shares: Mapping[str, float]
    red_cell_cover: float = 0.36
    platelets_per_1000_red_cells: float = 50.0
    smudges_per_100: float = 2.0
    debris_per_100: float = 4.0
    clustered: float = 0.06


_C = CellClass
RECIPES: dict[str, Recipe] = {
    # Middle of the adult reference intervals.
    "normal": Recipe({_C.NEUTROPHIL: 58, _C.LYMPHOCYTE: 30, _C.MONOCYTE: 8, _C.EOSINOPHIL: 3, _C.BASOPHIL: 1}),
    "eosinophilia": Recipe({_C.NEUTROPHIL: 42, _C.LYMPHOCYTE: 24, _C.MONOCYTE: 7, _C.EOSINOPHIL: 26, _C.BASOPHIL: 1}),
    # A leuko-erythroblastic picture.
    "immature": Recipe(
        {
            _C.NEUTROPHIL: 56,
            _C.LYMPHOCYTE: 14,
            _C.MONOCYTE: 6,
            _C.EOSINOPHIL: 2,
            _C.BASOPHIL: 2,
            _C.IMMATURE_GRANULOCYTE: 20,
            _C.ERYTHROBLAST: 12,
        },
        platelets_per_1000_red_cells=30,
    ),
    # Acute leukaemia: blasts predominate, few mature leukocytes and platelets, thinner blood.
    "blasts": Recipe(
        {BLAST: 78, _C.NEUTROPHIL: 7, _C.LYMPHOCYTE: 13, _C.MONOCYTE: 1, _C.ERYTHROBLAST: 1},
        red_cell_cover=0.27,
        platelets_per_1000_red_cells=10,
        smudges_per_100=6,
        clustered=0.3,
    ),
}
"""Recipes by name."""


def field_counts(
    recipe: Recipe,
    nucleated: int,
    height_um: float,
    width_um: float,
    rng: np.random.Generator,
    red_cell_cover: float | None = None,
) -> dict[str, int]:
    """Draw how many cells of each name one field holds.

    Parameters
    ----------
    recipe : Recipe
    nucleated : int
        Nucleated cells in the field.
    height_um, width_um : float
        Size of the field.
    rng : numpy.random.Generator
    red_cell_cover : float, optional
        In place of the recipe's.

    Returns
    -------
    dict of str to int
        Counts by name, as :func:`place_cells` takes them.
    """
    names = list(recipe.shares)
    shares = np.array([recipe.shares[name] for name in names], float)
    counts = {
        str(name): int(n) for name, n in zip(names, rng.multinomial(nucleated, shares / shares.sum()), strict=True) if n
    }
    cover = recipe.red_cell_cover if red_cell_cover is None else red_cell_cover
    red_cells = cover * height_um * width_um / RED_CELL_AREA_UM2
    counts[RED_CELL] = round(red_cells)
    counts[CellClass.PLATELET.value] = int(rng.poisson(recipe.platelets_per_1000_red_cells * red_cells / 1000))
    counts[SMUDGE] = int(rng.poisson(recipe.smudges_per_100 * nucleated / 100))
    counts[DEBRIS] = int(rng.poisson(recipe.debris_per_100 * nucleated / 100))
    return counts


@dataclass
class _Ground:
    """The smear while cells are laid on it: centres and reaches of what lies there already."""

    height_um: float
    width_um: float
    rng: np.random.Generator
    centres: list[tuple[float, float]] = field(default_factory=list)
    reaches: list[float] = field(default_factory=list)

    def free_place(self, gap_um: float, extra_um: float, tries: int = 60) -> tuple[float, float] | None:
        """Return a random place at least ``gap_um`` from the rim of every cell so far; None if there is none.

        Centres may lie up to ``extra_um`` outside the field.
        """
        if not self.centres:
            return self._anywhere(1, extra_um)[0]
        candidates = np.array(self._anywhere(tries, extra_um))
        distance = np.hypot(
            candidates[:, None, 0] - np.array([c[0] for c in self.centres]),
            candidates[:, None, 1] - np.array([c[1] for c in self.centres]),
        )
        good = np.flatnonzero(((distance - np.array(self.reaches)) >= gap_um).all(axis=1))
        return (float(candidates[good[0], 0]), float(candidates[good[0], 1])) if good.size else None

    def beside(self, reach_um: float, tries: int = 20) -> tuple[float, float] | None:
        """Return a place that touches a cell already there and lies on no other."""
        for _ in range(tries):
            i = int(self.rng.integers(len(self.centres)))
            angle = self.rng.uniform(0, 2 * np.pi)
            distance = (self.reaches[i] + reach_um) * self.rng.uniform(0.93, 1.02)
            row = self.centres[i][0] + distance * np.cos(angle)
            col = self.centres[i][1] + distance * np.sin(angle)
            others = np.hypot(
                row - np.array([c[0] for c in self.centres]), col - np.array([c[1] for c in self.centres])
            )
            clear = (others - np.array(self.reaches) >= 0.90 * reach_um).all()
            if clear and 0 <= row < self.height_um and 0 <= col < self.width_um:
                return float(row), float(col)
        return None

    def lay(self, place: tuple[float, float], reach_um: float) -> None:
        self.centres.append(place)
        self.reaches.append(reach_um)

    def _anywhere(self, count: int, extra_um: float) -> list[tuple[float, float]]:
        rows = self.rng.uniform(-extra_um, self.height_um + extra_um, count)
        cols = self.rng.uniform(-extra_um, self.width_um + extra_um, count)
        return list(zip(rows.tolist(), cols.tolist(), strict=True))


def place_cells(
    counts: Mapping[str, int],
    height_um: float,
    width_um: float,
    rng: np.random.Generator,
    clustered: float = 0.06,
    distinct: int = 200,
    margin_um: float = 0.0,
    overhang_um: float = 4.0,
) -> list[Placed]:
    """Lay cells on a field.

    Nucleated cells come first and touch each other only by design; red cells then fill the room that is left: most of
    them single, some touching, some on top of each other; platelets and debris fall into the gaps.

    Parameters
    ----------
    counts : mapping of str to int
        Cells by name; red cells that find no room are left out.
    height_um, width_um : float
        The field; centres lie in it.
    rng : numpy.random.Generator
    clustered : float
        Share of nucleated cells that lie against another one.
    distinct : int
        How many different drawings of each name there are.
    margin_um : float
        Width of the border that nucleated cells keep away from.
    overhang_um : float
        Red cells may be centred this far outside, as a camera cuts them.

    Returns
    -------
    list of Placed
        In the order in which they lie: red cells below.
    """
    small = (RED_CELL, CellClass.PLATELET.value, DEBRIS)
    inner = _Ground(height_um, width_um, rng)
    large: list[Placed] = []
    names = [name for name, count in counts.items() if name not in small for _ in range(count)]
    for i in rng.permutation(len(names)):
        number = int(rng.integers(distinct))
        reach = draw(names[i], number).reach_um
        place = inner.beside(reach) if inner.centres and rng.random() < clustered else None
        place = place or inner.free_place(reach + 1.0, -margin_um) or inner.free_place(0.9 * reach, -margin_um, 400)
        if place is None:
            continue
        inner.lay(place, reach)
        large.append(Placed(names[i], number, place[0], place[1], int(rng.integers(8))))
    red = _place_red_cells(counts.get(RED_CELL, 0), inner, rng, distinct, overhang_um)
    loose: list[Placed] = []
    for name in small[1:]:
        for _ in range(counts.get(name, 0)):
            number = int(rng.integers(distinct))
            reach = draw(name, number).reach_um
            place = inner.free_place(reach + 0.4, 0.0, 40) or inner.free_place(-1.5, 0.0, 40)
            if place is not None:
                inner.lay(place, reach)
                loose.append(Placed(name, number, place[0], place[1], int(rng.integers(8))))
    return red + loose + large


def _place_red_cells(
    count: int, ground: _Ground, rng: np.random.Generator, distinct: int, extra: float
) -> list[Placed]:
    """Lay red cells on what is left of the ground.

    In a monolayer 76 % keep clear, 14 % touch, 10 % overlap (BCCD by eye); thicker blood overlaps more.
    """
    area = ground.height_um * ground.width_um
    height, width = ground.height_um + 2 * extra, ground.width_um + 2 * extra
    wanted = round(count * height * width / area)
    overlapping = 0.10 + float(np.clip(count * RED_CELL_AREA_UM2 / area - 0.4, 0.0, 0.75))
    shares = [0.85 * (1 - overlapping), 0.15 * (1 - overlapping), overlapping]
    # Random sequential adsorption: candidates come in turn, and one that lies too near to an accepted one is dropped.
    tries = 8 * wanted
    candidates = rng.uniform(-extra, [height - extra, width - extra], (tries, 2))
    least = rng.choice([7.6, 6.8, 3.9], tries, p=shares)
    blocked = np.zeros(tries, bool)
    for centre, reach in zip(ground.centres, ground.reaches, strict=True):
        blocked |= np.hypot(*(candidates - centre).T) - reach < 3.1
    candidates, least = candidates[~blocked], least[~blocked]
    near: list[list[int]] = [[] for _ in candidates]
    for first, second in cKDTree(candidates).query_pairs(7.6, output_type="ndarray") if len(candidates) else ():
        near[max(first, second)].append(min(first, second))
    accepted = np.zeros(len(candidates), bool)
    for i, others in enumerate(near):
        taken = [j for j in others if accepted[j]]
        if not taken or np.hypot(*(candidates[taken] - candidates[i]).T).min() >= least[i]:
            accepted[i] = True
            wanted -= 1
            if wanted <= 0:
                break
    chosen = candidates[accepted].tolist()
    drawings, turns = rng.integers(distinct, size=len(chosen)).tolist(), rng.integers(8, size=len(chosen)).tolist()
    placed = [Placed(RED_CELL, d, row, col, t) for (row, col), d, t in zip(chosen, drawings, turns, strict=True)]
    for cell in placed:
        ground.lay((cell.row_um, cell.col_um), 3.55)
    return placed
