"""Counting: from the calls on all cells of a slide to its differential."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cbctool.hematology.calls import CUT_BY_EDGE
from cbctool.hematology.intervals import clopper_pearson, total_interval
from cbctool.hematology.profile import Adequacy as AdequacyTiers
from cbctool.hematology.profile import Interval, Profile, ReferenceBand
from cbctool.records import (
    LEUKOCYTES,
    SMUDGE_CELL,
    Adequacy,
    Cell,
    CellClass,
    CellKind,
    CellStatus,
    Differential,
    DifferentialRow,
    FieldSummary,
    Observation,
    Slide,
    WeightsInfo,
)

NRBC_CORRECTION_FROM = 5.0
"""NRBC per 100 WBC from which an uncorrected leukocyte count is corrected."""

_NO_INTERVAL = (math.nan, math.nan)


@dataclass(frozen=True)
class Counts:
    """Plain counts of one slide, over the fields that are fit to be counted."""

    classified: Counter[CellClass]
    unclassified: int
    erythrocytes: int
    cut_by_edge: int
    smudge_cells: int
    artefacts: int
    blast_like: int

    @property
    def leukocytes(self) -> int:
        """Classified leukocytes: the denominator."""
        return sum(self.classified[cell_class] for cell_class in LEUKOCYTES)


def count_cells(fields: Iterable[FieldSummary], observations: Iterable[Observation]) -> Counts:
    """Count what was found in the fields that are fit.

    What passes an edge is counted once, so that counts per area and per red cell do not favour small things.
    Of red cells, imaging finds those whose centre is in the field; platelets are found wherever they are cut, and those
    that pass the right or lower edge are left to the field beyond (the forbidden lines of Gundersen, J Microsc 111
    (1977) 219).
    """
    frames = {field.name: field for field in fields if field.quality.fit}
    classified: Counter[CellClass] = Counter()
    unclassified = erythrocytes = cut_by_edge = smudge_cells = artefacts = blast_like = 0
    for observation in observations:
        field = frames.get(observation.field)
        if field is None:
            continue
        cell, prediction = observation.cell, observation.prediction
        if prediction is None:
            erythrocytes += 1
            continue
        blast_like += prediction.blast_like
        if prediction.status is CellStatus.CLASSIFIED and prediction.cell_class is not None:
            classified[prediction.cell_class] += prediction.cell_class is not CellClass.PLATELET or _in_frame(
                cell, field
            )
        elif prediction.status is CellStatus.UNCLASSIFIED:
            unclassified += cell.kind is CellKind.NUCLEATED
        elif prediction.reason == CUT_BY_EDGE:
            cut_by_edge += 1
        else:
            artefacts += 1
            smudge_cells += prediction.reason == SMUDGE_CELL
    return Counts(classified, unclassified, erythrocytes, cut_by_edge, smudge_cells, artefacts, blast_like)


def _in_frame(cell: Cell, field: FieldSummary) -> bool:
    if not cell.touches_edge:
        return True
    right, bottom = field.col_px + field.width_px, field.row_px + field.height_px
    return cell.xmax_px < right - 1 and cell.ymax_px < bottom - 1  # a box may end a pixel short of the edge


def differential(
    slide: Slide, fields: Sequence[FieldSummary], counts: Counts, weights: WeightsInfo, profile: Profile
) -> Differential:
    """The differential of a slide with its intervals, see :class:`cbctool.records.Differential`.

    NRBC are given per 100 classified leukocytes. The analyser's leukocyte count is corrected for them (x 100 / (100 +
    NRBC)) only where it is said to be uncorrected, there are at least 5 per 100, and the count carries a differential:
    one NRBC beside 18 leukocytes corrects nothing.
    """
    n = counts.leukocytes
    carries = adequacy(n, profile.adequacy)
    nrbc = counts.classified[CellClass.ERYTHROBLAST]
    nrbc_per_100 = 100.0 * nrbc / n if n else math.nan
    wbc = math.nan if slide.wbc_10e9_per_l is None else slide.wbc_10e9_per_l
    corrected = math.nan
    if slide.wbc_uncorrected and nrbc_per_100 >= NRBC_CORRECTION_FROM and carries is not Adequacy.NONE:
        corrected = wbc * 100.0 / (100.0 + nrbc_per_100)
    platelets = counts.classified[CellClass.PLATELET]
    per_1000 = 1000.0 * platelets / counts.erythrocytes if counts.erythrocytes else math.nan
    area_mm2 = sum(field.area_mm2 for field in fields if field.quality.fit)
    band = profile.band(slide.age_years)
    return Differential(
        rows=_rows(counts, wbc if math.isnan(corrected) else corrected, weights, band, carries is not Adequacy.NONE),
        adequacy=carries,
        leukocytes=n,
        unclassified=counts.unclassified,
        erythroblasts=nrbc,
        nrbc_per_100_wbc=nrbc_per_100,
        platelets=platelets,
        erythrocytes=counts.erythrocytes,
        platelets_per_1000_red_cells=per_1000,
        platelets_per_mm2=platelets / area_mm2 if area_mm2 > 0 else math.nan,
        area_mm2=area_mm2,
        cut_by_edge=counts.cut_by_edge,
        smudge_cells=counts.smudge_cells,
        artefacts=counts.artefacts,
        blast_like=counts.blast_like,
        wbc_10e9_per_l=wbc,
        wbc_corrected_10e9_per_l=corrected,
        platelet_estimate_10e9_per_l=per_1000 * (profile.platelets.estimate_factor or math.nan),
        reference=_reference_text(slide.age_years, band),
    )


def _reference_text(age_years: float | None, band: ReferenceBand | None) -> str:
    """Which reference intervals hold, and where they come from."""
    if band is None:
        return "none for this age"
    ages = f"{band.ages}, no age being given" if age_years is None else band.ages
    return f"{ages}; {band.source or 'the laboratory'}"


def adequacy(leukocytes: int, tiers: AdequacyTiers) -> Adequacy:
    """How far a count of this many leukocytes carries."""
    if leukocytes < tiers.limited:
        return Adequacy.NONE
    if leukocytes < tiers.reportable:
        return Adequacy.LIMITED
    return Adequacy.REPORTABLE if leukocytes < tiers.preferred else Adequacy.PREFERRED


def _rows(
    counts: Counts, wbc: float, weights: WeightsInfo, band: ReferenceBand | None, judged: bool
) -> tuple[DifferentialRow, ...]:
    """A row per class. Where the count carries no differential (not ``judged``) nothing is called high or low."""
    n = counts.leukocytes
    per_class = [counts.classified[cell_class] for cell_class in LEUKOCYTES]
    sampling = zip(*clopper_pearson(per_class, n), strict=True)
    total = zip(*total_interval(per_class, weights.confusion), strict=True)
    rows = []
    for cell_class, count, ci, both in zip(LEUKOCYTES, per_class, sampling, total, strict=True):
        percent = 100.0 * count / n if n else math.nan
        ci_low, ci_high = (100.0 * float(limit) for limit in ci) if n else _NO_INTERVAL
        total_low, total_high = (100.0 * float(limit) for limit in both) if n else _NO_INTERVAL
        expected = band.percent.get(cell_class, _NO_INTERVAL) if band else _NO_INTERVAL
        expected_absolute = band.absolute_10e9_per_l.get(cell_class, _NO_INTERVAL) if band else _NO_INTERVAL
        absolute = wbc * percent / 100.0
        rows.append(
            DifferentialRow(
                cell_class,
                count,
                percent,
                ci_low,
                ci_high,
                total_low,
                total_high,
                *expected,
                outside=outside(percent, ci_low, ci_high, expected) if judged else "",
                absolute_10e9_per_l=absolute,
                absolute_reference_low=expected_absolute[0],
                absolute_reference_high=expected_absolute[1],
                absolute_outside=outside(absolute, wbc * ci_low / 100, wbc * ci_high / 100, expected_absolute)
                if judged
                else "",
            )
        )
    return tuple(rows)


def outside(value: float, low: float, high: float, expected: Interval) -> str:
    """Where a value lies to its reference interval: "", "low", "high", "borderline ..." if its own interval reaches in.

    NaN anywhere gives "": what is not known is not outside.
    """
    if value > expected[1]:
        return "high" if low > expected[1] else "borderline high"
    if value < expected[0]:
        return "low" if high < expected[0] else "borderline low"
    return ""
