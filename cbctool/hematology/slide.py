"""The room's one entry: all that haematology has to say of a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cbctool.hematology.blast import BlastOptions, find_blasts
from cbctool.hematology.differential import count_cells, differential
from cbctool.hematology.flags import Evidence, raise_flags
from cbctool.hematology.profile import Profile
from cbctool.records import CellStatus, Differential, FieldSummary, Flag, Observation, Slide, WeightsInfo


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

    Returns
    -------
    Interpretation
    """
    unfit = {field.name: field.quality.reason or "no reason given" for field in fields if not field.quality.fit}
    seen = [_exclude(o, unfit[o.field]) if o.field in unfit else o for o in observations]
    seen, blasts = find_blasts(seen, weights, blast_options or BlastOptions())
    counts = differential(slide, fields, count_cells(fields, seen), weights, profile)
    counted = [o for o in seen if o.field not in unfit]
    flags = raise_flags(Evidence(slide, fields, counted, counts, blasts, weights, profile))
    return Interpretation(tuple(seen), counts, flags)


def _exclude(observation: Observation, reason: str) -> Observation:
    prediction = observation.prediction
    if prediction is None or prediction.status is CellStatus.EXCLUDED:
        return observation
    prediction = replace(prediction, status=CellStatus.EXCLUDED, reason=f"field not fit: {reason}")
    return replace(observation, prediction=prediction)
