"""Blast-likeness: which cells look like blasts, and why. Never a percentage: the network knows no blast class.

The evidence of one cell is a log likelihood ratio. Its numerator says what a blast's nucleus is by morphology: large,
as dominant in its cell as a lymphocyte's, round to indented. Its denominator says what normal nuclei are, class by
class, as measured on healthy donors (:mod:`cbctool.hematology.normal_cells`). Three measures carry it, all of them free
of stain and camera: nucleus diameter in red-cell diameters, nuclear-to-cytoplasmic area ratio, solidity of the nucleus.
What the network says comes on top: which normal class it would be, and whether the cell is unlike all of them.

The evidence of a slide is the log likelihood ratio between the best mixture of blasts and normal cells and one that
holds no more blast-like cells than normal blood does. It works for a single cell (which must then be unmistakable) as
for a thousand, where a small share of odd-looking normal cells is expected and says nothing. Beside it stands a plain
count: at least two blast-like cells, and more than that small share of normal cells would give at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from cbctool.hematology.intervals import poisson_limit
from cbctool.hematology.normal_cells import NORMAL_CELLS, RED_CELL_SEGMENTED_UM
from cbctool.records import (
    CLASSES,
    RED_CELL_UM,
    Cell,
    CellClass,
    CellKind,
    CellStatus,
    Observation,
    WeightsInfo,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEALTHY_MIX: dict[CellClass, float] = {
    CellClass.NEUTROPHIL: 0.55,
    CellClass.LYMPHOCYTE: 0.30,
    CellClass.MONOCYTE: 0.07,
    CellClass.EOSINOPHIL: 0.03,
    CellClass.BASOPHIL: 0.01,
    CellClass.IMMATURE_GRANULOCYTE: 0.02,
    CellClass.ERYTHROBLAST: 0.02,
}
"""Shares of the normal classes before a cell is seen: inside the adult reference intervals, rare ones made likelier."""


@dataclass(frozen=True)
class BlastOptions:
    """Thresholds of blast-likeness. None was fitted on pictures of leukaemia.

    Attributes
    ----------
    nucleus_red_cells, nucleus_spread : float
        A blast's nucleus in red-cell diameters, and the relative spread (sd of the log). 1.5 and 0.18: blasts are 10-20
        um cells with a high N:C, so nuclei of 8-16 um; a small lymphocyte's is one red cell or slightly more.
    least_nucleus : float
        A nucleus smaller than this, in red-cell diameters, is no blast's, however unlike a normal one it is: 6 um,
        where blasts have 8 and more. What is so small is a pyknotic nucleus, a platelet or dye.
    nc_ratio, nc_spread : float
        N:C as area ratio. "High" in the field's words: as of a normal lymphocyte under this segmentation, 0.75 +- 0.08
        on PBC. What is higher still counts as this much: it is no less a blast.
    solidity, solidity_spread : float
        From round, as PBC's lymphocytes (0.95), to indented, as PBC's monocytes (0.82), at two spreads. What is rounder
        still counts as 0.95.
    laboratory_spread : tuple of float
        Added to the spread of normal cells for log diameter, N:C and solidity: another stain, segmentation at its
        limits. 0.06 is twice the 3 % by which a scale from red cells may be off.
    degrees : float
        Of the Student densities: normal cells have heavier tails than Gauss's (badly cut nuclei, reactive cells).
    most_lobes : float
        A nucleus in more bodies than this is no blast's.
    network_trust : float
        How much of the prior over normal classes comes from the network's probabilities; the rest is
        ``HEALTHY_MIX``. Half, since a network confronted with what it never saw is sure of something all the same.
    granulocyte_odds : float
        Factor on the odds when the network is certain of a segmented granulocyte (neutrophil, eosinophil).
    unknown_odds : float
        Factor on the odds of a cell that the network finds unlike anything trained on. Small, because in another
        laboratory normal cells get there too.
    cell_evidence : float
        Log likelihood ratio from which a single cell is marked. 2.0: at least seven times likelier a blast; under 1 %
        of PBC's lymphocytes get there.
    normal_share : float
        Share of normal leukocytes that may look like blasts in another laboratory: PBC's healthy mix gives 0.9 %.
    slide_evidence : float
        Log likelihood ratio from which a slide is flagged. 0.5: at most 2 % of slides of 1 to 200 normal cells get
        there, stain and segmentation shifted at random (``scripts/measure_normal_cells.py``).
    predominance_share : float
        Share of blast-like among all nucleated cells from which they predominate, if neutrophils are not more. 0.2: the
        share that generally defines acute leukaemia.
    smooth_texture : float
        Chromatin texture below which it is called smooth in the reasons; 95 % of PBC's lymphocytes lie below 0.14.
    """

    nucleus_red_cells: float = 1.5
    nucleus_spread: float = 0.18
    least_nucleus: float = 0.8
    nc_ratio: float = 0.75
    nc_spread: float = 0.08
    solidity: float = 0.95
    solidity_spread: float = 0.06
    laboratory_spread: tuple[float, float, float] = (0.06, 0.05, 0.03)
    degrees: float = 6.0
    most_lobes: float = 2.0
    network_trust: float = 0.5
    granulocyte_odds: float = 0.1
    unknown_odds: float = 2.0
    cell_evidence: float = 2.0
    normal_share: float = 0.02
    slide_evidence: float = 0.5
    predominance_share: float = 0.2
    smooth_texture: float = 0.14


@dataclass(frozen=True)
class BlastFinding:
    """What a slide's blast-like cells amount to.

    ``evidence`` is the slide's log likelihood ratio; ``cells`` are the (field, cell) marked, most blast-like first.
    ``text`` says how many there are and how many normal blood would give, ``beside`` how many neutrophils there are.
    """

    flagged: bool
    predominance: bool
    evidence: float
    text: str
    beside: str
    cells: tuple[tuple[str, int], ...]


def is_single_red_cell(cell: Cell) -> bool:
    """Whether a cell is a red cell to measure by: whole, and round enough (circularity 0.85) to be no clump."""
    return (
        cell.kind is CellKind.ERYTHROCYTE
        and not cell.touches_edge
        and not cell.circularity < 0.85
        and not math.isnan(cell.equivalent_diameter_um)
    )


def red_cell_diameter_um(cells: Sequence[Cell]) -> float:
    """Diameter of the slide's own round red cells, um on its scale; the constant 7.5 where there are fewer than 10.

    Segmentation draws a red cell somewhat smaller than it is; the median is put right by what it draws on PBC, where
    the scale is known, so that a nucleus is measured with the same ruler here and there.
    """
    diameters = [cell.equivalent_diameter_um for cell in cells if is_single_red_cell(cell)]
    if len(diameters) < 10:
        return RED_CELL_UM
    return float(np.median(diameters)) * RED_CELL_UM / RED_CELL_SEGMENTED_UM


def nucleus_measures(cells: Sequence[Cell], red_cell_um: float) -> NDArray[Any]:
    """(N, 3) log(nucleus diameter / red-cell diameter), N:C ratio, solidity; NaN where there is no nucleus."""
    area = np.array([cell.nucleus_area_um2 for cell in cells], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = 0.5 * np.log(4 * area / np.pi) - math.log(red_cell_um)
    ratio = [cell.nc_ratio for cell in cells]
    solidity = [cell.nuclear_solidity for cell in cells]
    return np.column_stack([size, ratio, solidity]).astype(float).reshape(-1, 3)


def cell_evidence(
    measures: NDArray[Any],
    lobes: NDArray[Any],
    probabilities: NDArray[Any],
    unknown: NDArray[Any],
    options: BlastOptions,
) -> NDArray[Any]:
    """Log likelihood ratio, blast to normal, of N nucleated cells.

    Parameters
    ----------
    measures : (N, 3) array
        Of :func:`nucleus_measures`.
    lobes : (N,) array
    probabilities : (N, 8) array
        Of the network, in ``CLASSES`` order.
    unknown : (N,) bool array
        Whether the cell is unlike anything trained on.

    Returns
    -------
    (N,) array
        -inf where a measure is missing, or the nucleus is too small or has too many lobes.
    """
    normal = np.array(list(HEALTHY_MIX.values()))
    seen = probabilities[:, [CLASSES.index(c) for c in HEALTHY_MIX]]
    prior = (1 - options.network_trust) * normal / normal.sum() + options.network_trust * seen
    allowance = np.diag(np.square(options.laboratory_spread))
    large = measures[:, 0] >= math.log(options.least_nucleus)
    measures = np.minimum(measures, [np.inf, options.nc_ratio, options.solidity])
    densities = np.column_stack(
        [
            _log_student(measures, np.array(centre), np.array(covariance) + allowance, options.degrees)
            for centre, covariance in (NORMAL_CELLS[c] for c in HEALTHY_MIX)
        ]
    )
    centre = np.array([math.log(options.nucleus_red_cells), options.nc_ratio, options.solidity])
    spread = np.diag(np.square([options.nucleus_spread, options.nc_spread, options.solidity_spread]))
    evidence = _log_student(measures, centre, spread, options.degrees) - special.logsumexp(densities, b=prior, axis=1)
    granulocyte = probabilities[:, [CLASSES.index(CellClass.NEUTROPHIL), CLASSES.index(CellClass.EOSINOPHIL)]].sum(
        axis=1
    )
    evidence += np.log(1 - (1 - options.granulocyte_odds) * np.clip(granulocyte, 0, 1))
    evidence += np.where(unknown, math.log(options.unknown_odds), 0.0)
    return np.where(np.isnan(evidence) | ~large | (lobes > options.most_lobes), -np.inf, evidence)


def _log_student(values: NDArray[Any], centre: NDArray[Any], covariance: NDArray[Any], degrees: float) -> NDArray[Any]:
    """Log density of a multivariate Student t with that covariance, (N, d) values."""
    d = len(centre)
    shape = covariance * (degrees - 2) / degrees
    deviation = values - centre
    distance = np.einsum("ni,ij,nj->n", deviation, np.linalg.inv(shape), deviation)
    constant = special.gammaln((degrees + d) / 2) - special.gammaln(degrees / 2)
    constant -= 0.5 * (d * math.log(degrees * math.pi) + np.linalg.slogdet(shape)[1])
    return np.asarray(constant - 0.5 * (degrees + d) * np.log1p(distance / degrees))


def slide_evidence(evidence: NDArray[Any], normal_share: float) -> tuple[float, float]:
    """Log likelihood ratio of the best share of blasts over ``normal_share``, and that share.

    Parameters
    ----------
    evidence : (N,) array
        Of all cells that may be blasts.
    normal_share : float

    Returns
    -------
    evidence : float
        Never negative; 0 without cells.
    share : float
        The best one; ``normal_share`` or more. Never printed: it is no count of blasts.
    """
    share = np.linspace(normal_share, 1.0, 197)[:, None]
    # log(1 - s + s exp(e)), from logarithms so that strong evidence does not overflow
    with np.errstate(divide="ignore"):
        mixture = np.logaddexp(np.log1p(-share), np.log(share) + evidence).sum(axis=1)
    best = int(np.argmax(mixture))
    return float(mixture[best] - mixture[0]), float(share[best, 0])


def normal_limit(cells: int, options: BlastOptions) -> int:
    """The most blast-like cells that this many normal ones would give at 95 %; one proves nothing by its number."""
    return max(poisson_limit(options.normal_share * cells), 1)


def is_flagged(evidence: NDArray[Any], options: BlastOptions) -> bool:
    """Whether a slide whose cells have this evidence, (N,), shows more than normal cells would.

    Some cell must be blast-like, and either the slide's evidence suffices or there are at least two such cells and more
    than the normal share would give at 95 %.
    """
    found = int((evidence >= options.cell_evidence).sum())
    if not found:
        return False
    enough = slide_evidence(evidence, options.normal_share)[0] >= options.slide_evidence
    return enough or found > normal_limit(len(evidence), options)


def weigh_cells(
    observations: Sequence[Observation], weights: WeightsInfo, options: BlastOptions, red_cell_um: float | None = None
) -> tuple[list[int], NDArray[Any]]:
    """Which observations can be blasts at all, and the evidence of each, see :func:`cell_evidence`.

    Excluded cells and those that a reviewer has named count as what they are and are not among them. ``red_cell_um`` is
    measured where it is not given.
    """
    red_cell_um = red_cell_um or red_cell_diameter_um([o.cell for o in observations])
    index = [i for i, o in enumerate(observations) if _counts(o) and o.called is None]
    cells = [observations[i].cell for i in index]
    predictions = [p for i in index if (p := observations[i].prediction) is not None]
    probabilities = np.array([p.probabilities for p in predictions], dtype=float).reshape(-1, len(CLASSES))
    return index, cell_evidence(
        nucleus_measures(cells, red_cell_um),
        np.array([cell.nuclear_lobes for cell in cells], dtype=float),
        np.nan_to_num(probabilities),
        np.array([p.unknown_score > weights.unknown_above for p in predictions], dtype=bool),
        options,
    )


def find_blasts(
    observations: Sequence[Observation], weights: WeightsInfo, options: BlastOptions | None = None
) -> tuple[list[Observation], BlastFinding]:
    """Mark a slide's blast-like cells with their reasons, and weigh them together.

    Parameters
    ----------
    observations : sequence of Observation
    weights : WeightsInfo
        Gives ``unknown_above``.
    options : BlastOptions, optional

    Returns
    -------
    observations : list of Observation
        The same, ``blast_like`` and ``blast_reasons`` filled in.
    finding : BlastFinding
    """
    options = options or BlastOptions()
    red_cell_um = red_cell_diameter_um([o.cell for o in observations])
    index, evidence = weigh_cells(observations, weights, options, red_cell_um)
    reasons = {
        index[i]: _reasons(observations[index[i]], red_cell_um, weights, options)
        for i in np.argsort(-evidence, kind="stable")
        if evidence[i] >= options.cell_evidence
    }
    total, share = slide_evidence(evidence, options.normal_share)
    # What a slide full of blasts says of its doubtful cells; at most 19 to 1, for there are always some normal ones.
    company = special.logit(min(share, 0.95)) - special.logit(options.normal_share)
    weighed = dict(zip(index, (evidence + company).tolist(), strict=True))
    marked = [_mark(o, reasons.get(i, ()), weighed.get(i, math.nan)) for i, o in enumerate(observations)]
    counted = [o.prediction for o in observations if _counts(o) and o.prediction is not None]
    neutrophils = [p for p in counted if p.cell_class is CellClass.NEUTROPHIL]
    flagged = is_flagged(evidence, options)
    predominance = flagged and len(reasons) >= max(len(neutrophils), options.predominance_share * len(counted))
    looks = "looks like a blast" if len(reasons) == 1 else "look like blasts"
    found = f"{len(reasons)} of {len(counted)} nucleated cells {looks}"
    limit = normal_limit(len(evidence), options)
    if not flagged:
        few = "has some signs of a blast" if len(reasons) == 1 else "have some signs of blasts"
        text = (
            f"{len(reasons)} of {len(counted)} nucleated cells {few}, no more than normal blood gives (up to {limit})"
        )
    elif len(reasons) <= limit:
        text = f"{found}; the nuclei together are unlike normal ones (log likelihood ratio {total:.1f}, "
        text += f"limit {options.slide_evidence:g})"
    else:
        text = f"{found}, normal blood gives up to {limit}"
    if reasons:
        text += (
            f"; {'the most blast-like' if len(reasons) > 1 else 'its signs'}: {', '.join(next(iter(reasons.values())))}"
        )
    uncalled = sum(p.status is CellStatus.UNCLASSIFIED for p in neutrophils)
    beside = f"{found}, beside {len(neutrophils)} neutrophil{'' if len(neutrophils) == 1 else 's'}"
    beside += f" ({uncalled} of them without a call)" if uncalled else ""
    cells = tuple((observations[i].field, observations[i].cell.cell) for i in reasons)
    return marked, BlastFinding(flagged, predominance, total, f"{text}.", f"{beside}.", cells)


def _counts(observation: Observation) -> bool:
    prediction = observation.prediction
    return (
        prediction is not None
        and observation.cell.kind is CellKind.NUCLEATED
        and prediction.status is not CellStatus.EXCLUDED
    )


def _mark(observation: Observation, reasons: tuple[str, ...], evidence: float) -> Observation:
    prediction = observation.prediction
    if prediction is None or (math.isnan(evidence) and not prediction.blast_like):
        return observation
    prediction = replace(prediction, blast_like=bool(reasons), blast_reasons=reasons, blast_evidence=evidence)
    return replace(observation, prediction=prediction)


def _reasons(
    observation: Observation, red_cell_um: float, weights: WeightsInfo, options: BlastOptions
) -> tuple[str, ...]:
    cell, prediction = observation.cell, observation.prediction
    size, ratio, _ = nucleus_measures([cell], red_cell_um)[0]
    reasons = [f"nucleus {math.exp(size):.1f} red-cell diameters", f"N:C {ratio:.1f}"]
    if cell.nuclear_lobes <= 1:
        reasons.append("nucleus without lobes")
    if cell.chromatin_texture <= options.smooth_texture:
        reasons.append("smooth chromatin")
    if prediction is not None and prediction.unknown_score > weights.unknown_above:
        reasons.append("unlike any trained class")
    return tuple(reasons)
