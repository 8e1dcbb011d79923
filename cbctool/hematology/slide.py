"""The room's one entry: all that haematology has to say of a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cbctool.hematology.blast import BlastOptions, find_blasts
from cbctool.hematology.differential import count_cells, differential
from cbctool.hematology.flags import Evidence, raise_flags
from cbctool.hematology.inclusions import find_inclusions
from cbctool.hematology.profile import Profile
from cbctool.records import CLASSES, CellStatus, Differential, FieldSummary, Flag, Observation, Slide, WeightsInfo

HELD_OUT = 1_000_000
"""Cells per class of the confusion matrix that stands for a person: no error that any rule would discount."""


@dataclass(frozen=True)
class Interpretation:
    """What :func:`interpret` returns; the observations have their blast-likeness and unfit fields marked."""

    observations: tuple[Observation, ...]
    differential: Differential
    flags: tuple[Flag, ...]


def interpret(
    slide: Slide,
    fields: Sequence[FieldSummary],
    observations: Sequence[Observation],
    weights: WeightsInfo,
    profile: Profile,
    blast_options: BlastOptions | None = None,
    confirmed: bool = False,
) -> Interpretation:
    """Differential, blast-likeness and flags of one slide.

    Parameters
    ----------
    slide : Slide
    fields : sequence of FieldSummary
        All of them; cells in fields that are not fit are excluded, with that reason.
    observations : sequence of Observation
        Every cell with the call on it. Where a reviewer has changed the call (``called`` is set), the person's word is
        last and the cell is never blast-like.
    weights : WeightsInfo
    profile : Profile
    blast_options : BlastOptions, optional
    confirmed : bool
        A person vouches for every call: its error is that of sampling alone. The outer interval falls together with the
        inner one, and a rare cell is not discounted as one of the classifier's mistakes. What the weights call unknown
        is unchanged, since a reviewer names classes.

    Returns
    -------
    Interpretation
    """
    unfit = {field.name: field.quality.reason or "no reason given" for field in fields if not field.quality.fit}
    seen = [_exclude(o, unfit[o.field]) if o.field in unfit else o for o in observations]
    if confirmed:
        weights = _without_error(weights)
    seen, blasts = find_blasts(seen, weights, blast_options or BlastOptions())
    counts = differential(slide, fields, count_cells(fields, seen), weights, profile)
    if confirmed:
        rows = tuple(replace(row, total_low=row.ci_low, total_high=row.ci_high) for row in counts.rows)
        counts = replace(counts, rows=rows)
    # No rule looks at single red cells, and each goes through all observations.
    counted = [o for o in seen if o.prediction is not None and o.field not in unfit]
    inclusions = find_inclusions(fields, seen)
    flags = raise_flags(Evidence(slide, fields, counted, counts, blasts, inclusions, weights, profile, confirmed))
    return Interpretation(tuple(seen), counts, flags)


def _without_error(weights: WeightsInfo) -> WeightsInfo:
    """The weights with the confusion matrix of somebody who errs never."""
    size = range(len(CLASSES))
    return replace(weights, confusion=tuple(tuple(HELD_OUT if i == j else 0 for j in size) for i in size))


def _exclude(observation: Observation, reason: str) -> Observation:
    prediction = observation.prediction
    if prediction is None or prediction.status is CellStatus.EXCLUDED:
        return observation
    prediction = replace(prediction, status=CellStatus.EXCLUDED, reason=f"field not fit: {reason}")
    return replace(observation, prediction=prediction)
