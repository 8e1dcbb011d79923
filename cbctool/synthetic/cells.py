"""Drawing of single cells: how much of each dye a cell holds at each point, and where it and its nucleus are.

Sizes are those measured on PBC frames (boxes of TXL-PBC, medians: neutrophil 13.1, eosinophil 13.6, basophil 12.5,
monocyte 15.8, lymphocyte 10.3, platelet 2.9, red cell 7.5 um); forms follow any atlas of the blood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.records import RED_CELL_UM, CellClass, CellKind
from cbctool.synthetic.shape import (
    DRAWING_UM_PER_PX,
    Map,
    Paper,
    blob,
    dent,
    edge,
    ellipse,
    grains,
    join,
    noise,
    ramp,
    thread,
)

RED_CELL = "red cell"
BLAST = "blast"
SMUDGE = "smudge cell"
DEBRIS = "stain debris"

RED_CELL_EDGE_UM = RED_CELL_UM / 1.065
"""Mean diameter of a drawn red cell at its visible edge, micrometres.

The project's 7.5 um is the side of the boxes that people draw: 1.03 (PBC) to 1.10 (BCCD) times the visible edge.
"""


@dataclass(frozen=True, eq=False)
class Drawing:
    """One drawn cell.

    Attributes
    ----------
    dyes : (N, N, 4) float32 array
        Amount of each dye, channels in ``stain.DYES`` order.
    cell, nucleus : (N, N) bool array
        Where the cell and its nucleus are; a cell without a nucleus has an empty one.
    """

    dyes: NDArray[np.float32]
    cell: NDArray[np.bool_]
    nucleus: NDArray[np.bool_]

    @cached_property
    def reach_um(self) -> float:
        """Distance from the paper's centre within which 95 % of the cell lies, micrometres."""
        rows, cols = np.nonzero(self.cell)
        half = (self.cell.shape[0] - 1) / 2
        return float(np.percentile(np.hypot(rows - half, cols - half), 95)) * DRAWING_UM_PER_PX


def kind_of(name: str) -> CellKind:
    """Return what segmentation should call a drawn object."""
    if name == RED_CELL:
        return CellKind.ERYTHROCYTE
    if name == CellClass.PLATELET:
        return CellKind.PLATELET
    if name in (SMUDGE, DEBRIS):
        return CellKind.ARTEFACT
    return CellKind.NUCLEATED


@lru_cache(maxsize=4096)
def draw(name: str, seed: int) -> Drawing:
    """Draw one cell.

    Parameters
    ----------
    name : str
        A :class:`~cbctool.records.CellClass` value, or ``RED_CELL``, ``BLAST``, ``SMUDGE``, ``DEBRIS``.
    seed : int
        Which one: the same seed gives the same cell.

    Returns
    -------
    Drawing
        At ``DRAWING_UM_PER_PX``.

    Raises
    ------
    ValueError
        For a name that cannot be drawn.
    """
    if name not in ARTISTS:
        raise ValueError(f"cannot draw {name!r}; one of {', '.join(ARTISTS)}")
    order = list(ARTISTS).index(name)
    return _trimmed(ARTISTS[name](np.random.default_rng([order, seed])))


def _trimmed(drawing: Drawing) -> Drawing:
    """Cut the paper down to the cell, square and centred as it was, with a little air around it."""
    used = (drawing.dyes.max(axis=2) > 0.004) | drawing.cell
    size = used.shape[0]
    rows, cols = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    if rows.size == 0:
        return drawing
    low = max(0, min(rows[0], cols[0], size - 1 - rows[-1], size - 1 - cols[-1]) - 2)
    window = (slice(low, size - low),) * 2
    return Drawing(
        np.ascontiguousarray(drawing.dyes[window]), drawing.cell[window].copy(), drawing.nucleus[window].copy()
    )


def _stack(azure: Map, eosin: Map, blue: Map, haemoglobin: Map, cell: Map, nucleus: Map | None = None) -> Drawing:
    dyes = np.stack([azure, eosin, blue, haemoglobin], axis=2).astype(np.float32)
    none = np.zeros(cell.shape, bool)
    return Drawing(np.maximum(dyes, 0), cell > 0, none if nucleus is None else nucleus > 0)


@dataclass(frozen=True)
class _Chromatin:
    """Chromatin of one nucleus.

    ``amount`` of azure where it is condensed; ``open``, the share of the area that is pale between the clumps;
    ``grain_um``, the clumps' size; ``pale``, what is left in the pale parts, and ``uneven``, the scatter over the
    nucleus, both relative to ``amount``.
    """

    amount: float
    open: float
    grain_um: float
    pale: float = 0.45
    uneven: float = 0.07


def _nucleated(
    paper: Paper,
    rng: np.random.Generator,
    cell: Map,
    nucleus: Map,
    chromatin: _Chromatin,
    cytoplasm: tuple[Map | float, Map | float, Map | float, Map | float],
) -> Drawing:
    """Lay a nucleus with chromatin over cytoplasm that holds (azure, eosin, methylene blue, haemoglobin)."""
    shape = paper.row.shape
    body = edge(cell, 0.35)
    nucleus = np.minimum(nucleus, cell - 0.15)
    core = edge(nucleus, 0.3)
    clumps = noise(shape, rng, chromatin.grain_um) + 0.25 * noise(shape, rng, 2.5 * chromatin.grain_um)
    threshold = 1.03 * NormalDist().inv_cdf(1 - chromatin.open)
    pale = ramp(clumps, threshold - 0.7, threshold + 0.9)
    # The nuclear membrane carries a rim of condensed chromatin.
    pale = pale * ramp(nucleus, 0.15, 0.6)
    # A nucleus is not equally thick everywhere, and its clumps are themselves grained.
    uneven = 1 + chromatin.uneven * (noise(shape, rng, 1.0) - 0.85 * clumps)
    azure_in = chromatin.amount * (1 - (1 - chromatin.pale) * pale) * uneven
    rest = body * (1 - core)
    azure, eosin, blue, haemoglobin = cytoplasm
    return _stack(
        core * azure_in + rest * azure,
        core * 0.06 + core * pale * 0.12 + rest * eosin,
        core * 0.05 + rest * blue,
        rest * haemoglobin,
        cell,
        nucleus,
    )


def _radius(rng: np.random.Generator, diameter_um: float, cv: float = 0.07) -> float:
    return float(diameter_um / 2 * np.clip(rng.normal(1, cv), 1 - 2 * cv, 1 + 2 * cv))


def _segmented(paper: Paper, rng: np.random.Generator, lobes: int, lobe_um: float, ring_um: float) -> Map:
    """Lobes of about ``lobe_um`` radius along a bent line about ``ring_um`` from the middle, joined by threads."""
    turn = rng.uniform(0, 2 * np.pi)
    span = {1: 0.0, 2: rng.uniform(1.9, 2.9), 3: rng.uniform(3.2, 4.4), 4: rng.uniform(4.0, 5.0)}.get(lobes, 5.2)
    angles = turn + np.linspace(-span / 2, span / 2, lobes) + rng.normal(0, 0.12, lobes)
    rings = ring_um * np.clip(rng.normal(1, 0.18, lobes), 0.6, 1.3)
    points = np.stack([rings * np.cos(angles), rings * np.sin(angles)], axis=1)
    crumpled = paper.warped(rng, 0.22, 0.9)
    parts = [thread(crumpled, points, rng.uniform(0.25, 0.6))] if lobes > 1 else []
    for (row, col), angle in zip(points, angles, strict=True):
        size = lobe_um * np.clip(rng.normal(1, 0.15), 0.7, 1.35)
        stretch = rng.uniform(1.0, 1.5)
        tangent = angle + np.pi / 2 + rng.normal(0, 0.4)
        parts.append(ellipse(crumpled, row, col, size * stretch, size / stretch**0.5, tangent))
    return join(parts, 0.28)


def _band(paper: Paper, rng: np.random.Generator, ring_um: float, thickness_um: float) -> Map:
    """A C- or S-shaped nucleus of nearly even thickness."""
    t = np.linspace(-1, 1, 12)
    turn, span = rng.uniform(0, 2 * np.pi), rng.uniform(1.6, 2.4)
    angle = t * span
    row, col = ring_um * np.cos(angle), ring_um * np.sin(angle)
    if rng.random() < 0.3:  # an S
        row = np.where(t > 0, 2 * ring_um * 0.9 - row, row) - ring_um * 0.9
        col = col * 0.8
    points = np.stack([row * np.cos(turn) - col * np.sin(turn), row * np.sin(turn) + col * np.cos(turn)], axis=1)
    points -= points.mean(axis=0) * 0.6
    crumpled = paper.warped(rng, 0.3, 1.0)
    return thread(crumpled, points, thickness_um) + 0.25 * noise(paper.row.shape, rng, 1.2)


def _draw_neutrophil(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(20)
    radius = _radius(rng, 13.0, 0.06)
    cell = blob(paper, radius, rng, 0.03, rng.uniform(1, 1.15))
    if rng.random() < 0.25:
        nucleus = _band(paper, rng, radius * 0.52, rng.uniform(1.35, 1.6))
    else:
        lobes = int(rng.choice([2, 3, 4, 5], p=[0.2, 0.42, 0.3, 0.08]))
        lobe = {2: 2.6, 3: 2.15, 4: 1.9, 5: 1.7}[lobes]
        nucleus = _segmented(paper, rng, lobes, lobe, radius * rng.uniform(0.42, 0.5))
    body = edge(cell)
    fine = grains(body, rng, 1.6, 0.16)
    haze = 1 + 0.25 * noise(paper.row.shape, rng, 0.5)
    strength = rng.uniform(0.8, 1.2)
    return _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(rng.uniform(0.92, 1.10), 0.2, 0.26, 0.45),
        (strength * (0.085 * haze + 0.11 * fine), strength * (0.11 * haze + 0.09 * fine), 0.03, 0.12),
    )


def _draw_eosinophil(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(20)
    radius = _radius(rng, 13.4, 0.06)
    cell = blob(paper, radius, rng, 0.03, rng.uniform(1, 1.15))
    lobes = int(rng.choice([2, 3], p=[0.8, 0.2]))
    nucleus = _segmented(paper, rng, lobes, 2.75 if lobes == 2 else 2.3, radius * rng.uniform(0.45, 0.55))
    body = edge(cell)
    granules = np.maximum(grains(body, rng, 1.5, 0.36, 0.15), 0.65 * grains(body, rng, 2.0, 0.34, 0.2))
    strength = rng.uniform(0.85, 1.15)
    return _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(rng.uniform(0.84, 1.02), 0.25, 0.28, 0.42),
        (strength * (0.03 + 0.035 * granules), strength * (0.25 + 0.62 * granules), 0.03, 0.08),
    )


def _draw_basophil(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(20)
    radius = _radius(rng, 12.2, 0.07)
    cell = blob(paper, radius, rng, 0.05, rng.uniform(1, 1.2), 9)
    lobes = int(rng.choice([2, 3]))
    nucleus = _segmented(paper, rng, lobes, radius * 0.48, radius * 0.36)
    body = edge(cell)
    granules = grains(edge(cell - 0.5), rng, 1.5, 0.33, 0.3)
    granules = np.maximum(granules, grains(body * (cell < 1.6), rng, 0.5, 0.36, 0.25))
    strength = rng.uniform(0.85, 1.15)
    plain = _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(0.64 * strength, 0.36, 0.35, 0.5),
        (0.17 + 0.05 * noise(paper.row.shape, rng, 0.6), 0.16, 0.03, 0.0),
    )
    # Granules lie over the nucleus too and hide its outline.
    dyes = plain.dyes.copy()
    azure = dyes[..., 0]
    dyes[..., 0] = azure * (1 - 0.5 * granules) + granules * rng.uniform(0.68, 0.86) * strength
    dyes[..., 1] += 0.05 * granules
    return Drawing(dyes, plain.cell, plain.nucleus)


def _draw_monocyte(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(25)
    radius = _radius(rng, 15.2, 0.08)
    crumpled = paper.warped(rng, 0.7, 2.6)
    cell = blob(crumpled, radius, rng, 0.06, rng.uniform(1, 1.3))
    across = radius * rng.uniform(0.76, 0.86)
    away = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(0, 0.14) * radius
    home = crumpled.moved(shift * np.cos(away), shift * np.sin(away)).warped(rng, 0.25, 1.2)
    nucleus = blob(home, across, rng, 0.045, rng.uniform(1.05, 1.35), 4)
    for _ in range(int(rng.choice([1, 2], p=[0.75, 0.25]))):  # the bay of the kidney
        bay = away + np.pi + rng.normal(0, 0.5)
        depth = across * rng.uniform(0.85, 1.1)
        wide = across * rng.uniform(0.25, 0.5)
        nucleus = dent(nucleus, ellipse(home, depth * np.cos(bay), depth * np.sin(bay), across * 0.55, wide, bay), 0.5)
    body = edge(cell, 0.4)
    ground = 1 + 0.22 * noise(paper.row.shape, rng, 0.35) + 0.12 * noise(paper.row.shape, rng, 1.2)
    dust = grains(body, rng, 0.8, 0.13)
    holes = grains(body, rng, rng.choice([0.0, 0.05, 0.14]), rng.uniform(0.3, 0.5), 0.5)
    left = 1 - 0.6 * holes
    strength = rng.uniform(0.75, 1.2)
    return _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(rng.uniform(0.68, 0.88), 0.40, 0.18, 0.66),
        (
            strength * left * (0.06 * ground + 0.08 * dust),
            strength * left * 0.05 * ground,
            strength * left * 0.28 * ground,
            0.04 * left,
        ),
    )


def _draw_lymphocyte(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(20)
    large = rng.random() < 0.12
    radius = _radius(rng, 11.4 if large else 9.6, 0.06)
    cell = blob(paper.warped(rng, 0.12, 0.7), radius, rng, 0.035, rng.uniform(1, 1.2))
    share = rng.uniform(0.82, 0.88) if large else rng.uniform(0.87, 0.94)
    away = rng.uniform(0, 2 * np.pi)
    shift = radius * (1 - share) * rng.uniform(0, 0.9)
    home = paper.moved(shift * np.cos(away), shift * np.sin(away))
    nucleus = blob(home, radius * share, rng, 0.05, rng.uniform(1, 1.2))
    ground = 1 + 0.3 * noise(paper.row.shape, rng, 0.3)
    strength = rng.uniform(0.8, 1.2)
    return _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(rng.uniform(0.84, 1.0), 0.3, 0.16, 0.82, 0.03),
        (strength * 0.18 * ground, 0.03, strength * 0.40 * ground, 0.0),
    )


def _draw_immature_granulocyte(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(25)
    stage = rng.choice(["promyelocyte", "myelocyte", "metamyelocyte"], p=[0.25, 0.45, 0.3])
    radius = _radius(rng, {"promyelocyte": 15.2, "myelocyte": 14.0, "metamyelocyte": 13.4}[stage], 0.06)
    cell = blob(paper, radius, rng, 0.035, rng.uniform(1, 1.18))
    share = {"promyelocyte": rng.uniform(0.76, 0.84), "myelocyte": rng.uniform(0.66, 0.76)}.get(
        stage, rng.uniform(0.66, 0.74)
    )
    across = radius * share
    away = rng.uniform(0, 2 * np.pi)
    shift = (radius - across) * rng.uniform(0.4, 0.95)
    home = paper.moved(shift * np.cos(away), shift * np.sin(away)).warped(rng, 0.15, 1.2)
    nucleus = blob(home, across, rng, 0.04, rng.uniform(1.05, 1.3))
    if stage != "promyelocyte":
        depth = across * (rng.uniform(0.95, 1.1) if stage == "metamyelocyte" else rng.uniform(1.1, 1.3))
        bay = away + np.pi + rng.normal(0, 0.3)
        nucleus = dent(
            nucleus, ellipse(home, depth * np.cos(bay), depth * np.sin(bay), across * 0.38, across * 0.5, bay), 0.5
        )
    body = edge(cell)
    ground = 1 + 0.25 * noise(paper.row.shape, rng, 0.4)
    youth = {"promyelocyte": 1.0, "myelocyte": 0.55, "metamyelocyte": 0.25}[stage] * rng.uniform(0.7, 1.2)
    granules = grains(body, rng, 2.2 if stage != "metamyelocyte" else 1.8, 0.2)
    drawing = _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(rng.uniform(0.80, 0.98), 0.36, 0.20, 0.55),
        (0.10 * ground + 0.26 * granules, 0.10 * ground + 0.08 * granules, (0.05 + 0.22 * youth) * ground, 0.05),
    )
    if stage == "promyelocyte":  # its granules cover the nucleus as well
        drawing.dyes[..., 0] += 0.18 * grains(body, rng, 1.2, 0.22)
    return drawing


def _draw_erythroblast(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(18)
    ripe = rng.random()  # 0 is basophilic, 1 orthochromatic
    radius = _radius(rng, 10.6 - 2.4 * ripe, 0.06)
    cell = blob(paper.warped(rng, 0.12, 1.0), radius, rng, 0.04, rng.uniform(1, 1.18))
    across = radius * (0.76 - 0.22 * ripe) * rng.uniform(0.95, 1.05)
    away = rng.uniform(0, 2 * np.pi)
    shift = (radius - across) * rng.uniform(0.2, 0.8)
    home = paper.moved(shift * np.cos(away), shift * np.sin(away))
    nucleus = blob(home, across, rng, 0.025, rng.uniform(1, 1.1))
    if ripe > 0.7 and rng.random() < 0.2:
        bud = across * 1.05
        angle = rng.uniform(0, 2 * np.pi)
        nucleus = join([nucleus, ellipse(home, bud * np.cos(angle), bud * np.sin(angle), 0.7, 0.6, angle)])
    ground = 1 + 0.10 * noise(paper.row.shape, rng, 0.4)
    return _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(0.90 + 0.16 * ripe, 0.30 - 0.22 * ripe, 0.26, 0.48),
        (
            (0.12 - 0.07 * ripe) * ground,
            0.06 + 0.05 * ripe,
            (0.38 - 0.22 * ripe) * ground,
            (0.1 + 0.45 * ripe) * ground,
        ),
    )


def _draw_platelet(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(10)
    radius = float(np.clip(rng.normal(1.85, 0.36), 1.1, 2.8))
    cell = blob(paper.warped(rng, 0.10, 0.5), radius, rng, 0.05, rng.uniform(1, 1.3), 6)
    middle = ramp(cell, 0.1, 0.75 * radius)
    body = edge(cell, 0.5)
    granules = grains(body * (middle > 0.25), rng, 4.0, 0.22, 0.3)
    ground = 1 + 0.35 * noise(paper.row.shape, rng, 0.35)
    strength = rng.uniform(0.8, 1.2)
    azure = body * strength * ((0.12 + 0.36 * middle) * ground + 0.5 * granules * (0.4 + 0.6 * middle))
    eosin = body * strength * (0.04 + 0.10 * middle)
    blue = body * strength * (0.14 * ground)
    return _stack(azure, eosin, blue, np.zeros_like(body), cell)


def _draw_red_cell(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(14)
    radius = RED_CELL_EDGE_UM / 2 * float(np.clip(rng.normal(1, 0.055), 0.82, 1.18))
    crumpled = paper.warped(rng, 0.10, 1.6)
    if rng.random() < 0.03:  # crenated
        cell = blob(crumpled, radius, rng, 0.10, 1.0, 14)
    else:
        cell = blob(
            crumpled, radius, rng, 0.04, rng.uniform(1.0, 1.18) if rng.random() < 0.9 else rng.uniform(1.2, 1.5), 5
        )
    body = edge(cell, 0.5)
    # The biconcave disc: a thick rim and a thin middle whose width and depth differ from cell to cell.
    depth = float(np.clip(rng.normal(0.68, 0.25), 0.0, 0.92))
    width = radius * float(np.clip(rng.normal(0.52, 0.10), 0.25, 0.75))
    shift = rng.normal(0, 0.18, 2)
    middle = paper.moved(shift[0], shift[1]).warped(rng, 0.12, 1.0)
    inner = blob(middle, width, rng, 0.06, rng.uniform(1.0, 1.35))
    hollow = depth * ramp(inner, -0.55 * width, 0.55 * width)
    fall = 0.12 * ramp(-cell, -radius, 0)  # thickest near the edge
    strength = float(np.clip(rng.normal(1, 0.1), 0.7, 1.3))
    haemoglobin = body * strength * (0.92 + fall) * (1 - hollow) * (1 + 0.015 * noise(paper.row.shape, rng, 0.6))
    zero = np.zeros_like(body)
    return _stack(zero, zero, zero, haemoglobin, cell)


def _draw_blast(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(25)
    radius = _radius(rng, 14.6, 0.09)
    cell = blob(paper, radius, rng, 0.04, rng.uniform(1, 1.18))
    across = radius * rng.uniform(0.92, 0.96)
    away = rng.uniform(0, 2 * np.pi)
    shift = (radius - across) * rng.uniform(0.2, 0.9)
    home = paper.moved(shift * np.cos(away), shift * np.sin(away))
    nucleus = blob(home, across, rng, 0.045, rng.uniform(1, 1.15))
    if rng.random() < 0.35:  # a shallow cleft
        angle = rng.uniform(0, 2 * np.pi)
        rim = across * 1.02
        nucleus = dent(
            nucleus, ellipse(home, rim * np.cos(angle), rim * np.sin(angle), across * 0.35, across * 0.1, angle), 0.3
        )
    ground = 1 + 0.15 * noise(paper.row.shape, rng, 0.5)
    drawing = _nucleated(
        paper,
        rng,
        cell,
        nucleus,
        _Chromatin(rng.uniform(0.66, 0.80), 0.45, 0.16, 0.82),
        (0.12 * ground, 0.02, rng.uniform(0.4, 0.6) * ground, 0.0),
    )
    for _ in range(int(rng.integers(1, 4))):  # nucleoli: paler and bluer than the chromatin around them
        angle, distance = rng.uniform(0, 2 * np.pi), across * rng.uniform(0.1, 0.6)
        size = rng.uniform(0.6, 1.1)
        spot = ellipse(home, distance * np.cos(angle), distance * np.sin(angle), size, size * 0.85, angle)
        inside = ramp(spot, -0.2, 0.4)
        drawing.dyes[..., 0] *= 1 - 0.38 * inside
        drawing.dyes[..., 2] += 0.12 * inside
    return drawing


def _draw_smudge(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(30)
    radius = rng.uniform(5.5, 8.0)
    crumpled = paper.warped(rng, 1.0, 1.8).warped(rng, 0.5, 0.6)
    cell = blob(crumpled, radius, rng, 0.16, rng.uniform(1.1, 1.8))
    angle = rng.uniform(0, np.pi)
    # Strands pulled out along the spreading direction: noise that is long one way and short the other.
    strands = cv2.GaussianBlur(rng.standard_normal(paper.row.shape, dtype=np.float32), (0, 0), 2.0, sigmaY=14.0)
    turned = cv2.getRotationMatrix2D((paper.row.shape[1] / 2, paper.row.shape[0] / 2), float(np.degrees(angle)), 1)
    strands = cv2.warpAffine(strands / strands.std(), turned, paper.row.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    fibres = 0.7 * strands + 0.7 * noise(paper.row.shape, rng, 0.6) + 0.4 * noise(paper.row.shape, rng, 2.0)
    body = ramp(cell, -1.5, 2.5)
    amount = rng.uniform(0.5, 0.75) * body * (1 + 0.2 * fibres) * ramp(fibres + 4.5 * body, 0.6, 2.2)
    return _stack(amount, 0.25 * amount, 0.05 * amount, np.zeros_like(amount), np.where(amount > 0.08, cell + 1, -1.0))


def _draw_debris(rng: np.random.Generator) -> Drawing:
    paper = Paper.of_size(12)
    place = ramp(blob(paper, rng.uniform(0.6, 2.6), rng, 0.2, rng.uniform(1, 2.5)), -0.3, 0.3)
    dots = grains(place, rng, rng.uniform(0.8, 3.0), rng.uniform(0.2, 0.5), 0.5)
    if not dots.any():
        dots = edge(blob(paper, 0.4, rng))
    amount = dots * rng.uniform(0.9, 1.5)
    return _stack(amount, 0.1 * amount, 0.25 * amount, np.zeros_like(amount), dots - 0.4)


ARTISTS: dict[str, Callable[[np.random.Generator], Drawing]] = {
    CellClass.BASOPHIL.value: _draw_basophil,
    CellClass.EOSINOPHIL.value: _draw_eosinophil,
    CellClass.ERYTHROBLAST.value: _draw_erythroblast,
    CellClass.IMMATURE_GRANULOCYTE.value: _draw_immature_granulocyte,
    CellClass.LYMPHOCYTE.value: _draw_lymphocyte,
    CellClass.MONOCYTE.value: _draw_monocyte,
    CellClass.NEUTROPHIL.value: _draw_neutrophil,
    CellClass.PLATELET.value: _draw_platelet,
    RED_CELL: _draw_red_cell,
    BLAST: _draw_blast,
    SMUDGE: _draw_smudge,
    DEBRIS: _draw_debris,
}
"""Who draws what, by name."""
