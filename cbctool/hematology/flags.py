"""The flag registry: every rule by which a slide asks for a person's eyes, and the functions that apply them.

Each rule is one frozen :class:`~cbctool.records.FlagRule`; the report's legend and ``docs/flags.md`` are generated from
:data:`RULES`. A rule's function looks at the :class:`Evidence` of a slide and returns what it found, or None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cbctool.hematology.blast import BlastFinding
from cbctool.hematology.calls import cell_name
from cbctool.hematology.inclusions import OF_CHANCE, Inclusions
from cbctool.hematology.intervals import clopper_pearson, false_positive_limit
from cbctool.hematology.normal_cells import RED_CELL_SEGMENTED_UM
from cbctool.hematology.profile import Profile
from cbctool.records import (
    CLASSES,
    LEUKOCYTES,
    SMUDGE_CELL,
    Adequacy,
    CellClass,
    CellKind,
    CellStatus,
    Differential,
    DifferentialRow,
    FieldSummary,
    Flag,
    FlagRule,
    Observation,
    ScaleSource,
    Severity,
    Slide,
    Unfit,
    WeightsInfo,
)


@dataclass(frozen=True)
class Evidence:
    """All that a rule may look at; observations are those of fields fit to be counted, without red cells.

    ``confirmed`` says that a person vouches for every call.
    """

    slide: Slide
    fields: Sequence[FieldSummary]
    observations: Sequence[Observation]
    differential: Differential
    blasts: BlastFinding
    inclusions: Inclusions
    weights: WeightsInfo
    profile: Profile
    confirmed: bool = False

    @property
    def nucleated(self) -> int:
        """Nucleated cells in the count, with a call or without."""
        return self.differential.leukocytes + self.differential.erythroblasts + self.differential.unclassified

    def row(self, cell_class: CellClass) -> DifferentialRow:
        """The differential's row of a class."""
        return self.differential.rows[LEUKOCYTES.index(cell_class)]

    def cells_called(self, cell_class: CellClass) -> Cells:
        """(field, cell) of all cells counted as a class."""
        return tuple(
            (o.field, o.cell.cell)
            for o in self.observations
            if o.prediction is not None
            and o.prediction.status is CellStatus.CLASSIFIED
            and o.prediction.cell_class is cell_class
        )


Cells = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Finding:
    """What a rule found: one sentence with the numbers, and the cells that show it."""

    text: str
    cells: Cells = ()


Rule = Callable[[Evidence], Finding | None]
_REGISTRY: list[tuple[FlagRule, Rule]] = []


def _rule(code: str, severity: Severity, short: str, long: str, rule: str, source: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _REGISTRY.append((FlagRule(code, severity, short, long, rule, source), function))
        return function

    return register


def raise_flags(evidence: Evidence) -> tuple[Flag, ...]:
    """Apply every rule that the profile has not switched off; the most urgent flags come first."""
    flags = []
    for rule, function in _REGISTRY:
        if rule.code in evidence.profile.flags.off:
            continue
        finding = function(evidence)
        if finding is not None:
            flags.append(Flag(rule.code, rule.severity, rule.short, finding.text, finding.cells))
    urgency = list(Severity)
    return tuple(sorted(flags, key=lambda flag: urgency.index(flag.severity)))


# ----------------------------------------------------------------------------------------------------------- blast-like

_BLAST_SOURCE = (
    "Morphology of blasts (large, high N:C, fine chromatin, round to indented nucleus, scant agranular cytoplasm): "
    "StatPearls NBK611988; thresholds and their measurement: cbctool.hematology.blast"
)


@_rule(
    "blast_like_predominance",
    Severity.CRITICAL,
    "blast-like predominance",
    "Cells that look like blasts are as many as mature neutrophils, or more. Look at the film now.",
    "The flag for blast-like cells is raised, and blast-like cells are at least as many as mature neutrophils and at "
    "least a fifth of all nucleated cells. It does not wait for an adequate count.",
    "Acute leukaemia on the differential: predominance of blasts with fewer mature neutrophils (StatPearls NBK611988)",
)
def _blast_like_predominance(evidence: Evidence) -> Finding | None:
    if not evidence.blasts.predominance:
        return None
    return Finding(evidence.blasts.beside, evidence.blasts.cells)


@_rule(
    "blast_like_cells",
    Severity.CRITICAL,
    "blast-like cells",
    "Cells that look like blasts, each with its reasons in the gallery. Not a blast count: a person must name them.",
    "Some share of blasts explains the slide's nuclei better than normal cells do, by a log likelihood ratio that at "
    "most 2 % of healthy slides reach; or at least two cells are blast-like, and more than normal cells give at 95 % "
    "on a slide of this size. It does not wait for an adequate count.",
    "ISLH 2005 consensus: review any smear with one blast or more; " + _BLAST_SOURCE,
)
def _blast_like_cells(evidence: Evidence) -> Finding | None:
    return Finding(evidence.blasts.text, evidence.blasts.cells) if evidence.blasts.flagged else None


@_rule(
    "blast_like_possible",
    Severity.NOTE,
    "few blast-like cells",
    "Single cells have signs of blasts, but no more than a slide of this size may show without any.",
    "Blast-like cells are present without the flag for blast-like cells.",
    _BLAST_SOURCE,
)
def _blast_like_possible(evidence: Evidence) -> Finding | None:
    blasts = evidence.blasts
    if blasts.flagged or not blasts.cells:
        return None
    return Finding(blasts.text, blasts.cells)


# ----------------------------------------------------------------------------------------------------------- rare cells

_RARE_SOURCE = "ISLH 2005 consensus smear-review rules; false positives from the weights' confusion on held-out cells"


def _rare_limit(evidence: Evidence, rare: CellClass) -> int:
    """The most cells that the classifier's own mistakes would put into a rare class on a slide like this one."""
    confusion = np.asarray(evidence.weights.confusion)
    others = [c for c in (*LEUKOCYTES, CellClass.ERYTHROBLAST) if c is not rare]
    index = [CLASSES.index(c) for c in others]
    seen = [len(evidence.cells_called(c)) for c in others]
    return false_positive_limit(seen, confusion[index, CLASSES.index(rare)], confusion[index].sum(axis=1))


def _rare(evidence: Evidence, rare: CellClass, name: str, present: bool) -> Finding | None:
    cells = evidence.cells_called(rare)
    limit = _rare_limit(evidence, rare)
    if not cells or (len(cells) > limit) is not present:
        return None
    found = f"{len(cells)} {name}{'' if len(cells) == 1 else 's'}"
    if evidence.confirmed:
        return Finding(f"{found} in {evidence.nucleated} nucleated cells, confirmed by the reviewer.", cells)
    nucleated = evidence.differential.leukocytes + evidence.differential.erythroblasts
    by_mistake = f"the classifier's own mistakes give up to {limit} in {nucleated} cells (95 %)"
    return Finding(f"{found if present else f'{len(cells)} possible, see gallery'}: {by_mistake}.", cells)


@_rule(
    "immature_granulocytes",
    Severity.WARNING,
    "immature granulocytes present",
    "Myelocytes, metamyelocytes or promyelocytes. Bands are not separated, so this says nothing of a left shift.",
    "More than the classifier's own mistakes would give at 95 % on a slide of this size.",
    _RARE_SOURCE,
)
def _immature_granulocytes(evidence: Evidence) -> Finding | None:
    return _rare(evidence, CellClass.IMMATURE_GRANULOCYTE, "immature granulocyte", present=True)


@_rule(
    "immature_granulocytes_possible",
    Severity.NOTE,
    "possible immature granulocytes",
    "Cells called immature granulocytes, but no more than the classifier gets wrong.",
    "At least one, and not more than the classifier's own mistakes would give at 95 %.",
    _RARE_SOURCE,
)
def _immature_granulocytes_possible(evidence: Evidence) -> Finding | None:
    return _rare(evidence, CellClass.IMMATURE_GRANULOCYTE, "immature granulocyte", present=False)


@_rule(
    "nrbc",
    Severity.WARNING,
    "nucleated red cells present",
    "Erythroblasts in the blood, reported per 100 leukocytes and outside the differential.",
    "More than the classifier's own mistakes would give at 95 % on a slide of this size.",
    _RARE_SOURCE,
)
def _nrbc(evidence: Evidence) -> Finding | None:
    finding = _rare(evidence, CellClass.ERYTHROBLAST, "nucleated red cell", present=True)
    counts = evidence.differential
    if finding is None or math.isnan(counts.wbc_corrected_10e9_per_l):
        return finding
    corrected = f"WBC {counts.wbc_10e9_per_l:g} is corrected to {counts.wbc_corrected_10e9_per_l:.3g} x10^9/L."
    return Finding(f"{finding.text} {corrected}", finding.cells)


@_rule(
    "nrbc_possible",
    Severity.NOTE,
    "possible nucleated red cells",
    "Cells called erythroblasts, but no more than the classifier gets wrong.",
    "At least one, and not more than the classifier's own mistakes would give at 95 %.",
    _RARE_SOURCE,
)
def _nrbc_possible(evidence: Evidence) -> Finding | None:
    return _rare(evidence, CellClass.ERYTHROBLAST, "nucleated red cell", present=False)


# ----------------------------------------------------------------------------------------------------- the count itself


@_rule(
    "too_few_leukocytes",
    Severity.WARNING,
    "too few leukocytes",
    "Too few leukocytes for a differential, or for more than a limited one. Photograph more fields.",
    "Fewer classified leukocytes than the profile's tier for a reportable count (default 100; below 50 none at all).",
    "Exact binomial limits (Ruemke's table); CLSI H20 counts 200 or 400",
)
def _too_few_leukocytes(evidence: Evidence) -> Finding | None:
    counts, tiers = evidence.differential, evidence.profile.adequacy
    if counts.adequacy not in (Adequacy.NONE, Adequacy.LIMITED):
        return None
    cells = "leukocyte" if counts.leukocytes == 1 else "leukocytes"
    text = f"{counts.leukocytes} {cells} counted, {tiers.reportable} needed: {counts.adequacy}"
    if counts.unclassified:
        text += f"; {counts.unclassified} more {'cell has' if counts.unclassified == 1 else 'cells have'} no call"
    return Finding(f"{text}.")


@_rule(
    "many_unclassified",
    Severity.WARNING,
    "many unclassified cells",
    "Many nucleated cells have no call. They may be what matters: look at their gallery first.",
    "The exact 95 % interval of their share of all nucleated cells lies above the profile's limit.",
    "Three times the share that the weights leave open on held-out cells (3 %)",
)
def _many_unclassified(evidence: Evidence) -> Finding | None:
    unclassified, limit = evidence.differential.unclassified, evidence.profile.flags.unclassified_percent
    low, _ = clopper_pearson(unclassified, evidence.nucleated)
    if 100 * low <= limit:
        return None
    share = 100.0 * unclassified / evidence.nucleated
    return Finding(
        f"{unclassified} of {evidence.nucleated} nucleated cells ({share:.0f} %) have no call, limit {limit:g} %.",
        _cells_with_status(evidence, CellStatus.UNCLASSIFIED),
    )


@_rule(
    "unclassified_decisive",
    Severity.NOTE,
    "unclassified cells could change the differential",
    "Whether the main classes lie inside their reference intervals depends on what the unclassified cells are.",
    "Neutrophils or lymphocytes inside their reference interval would lie outside, their own interval too, with all "
    "unclassified cells among them or none. (A handful lifts any rare class: that would be said of every slide.)",
    "Bounds of a proportion under any placing of the missing calls",
)
def _unclassified_decisive(evidence: Evidence) -> Finding | None:
    if evidence.differential.adequacy is Adequacy.NONE:
        return None
    decided = [
        f"{cell_name(row.cell_class)}s {' or '.join(sides)}"
        for row in map(evidence.row, (CellClass.NEUTROPHIL, CellClass.LYMPHOCYTE))
        if not row.outside and (sides := _reachable(row, evidence.differential))
    ]
    if not decided:
        return None
    n = evidence.differential.unclassified
    return Finding(
        f"Depending on what the {n} unclassified cells are: {', '.join(decided)} the reference interval.",
        _cells_with_status(evidence, CellStatus.UNCLASSIFIED),
    )


def _cells_with_status(evidence: Evidence, status: CellStatus) -> Cells:
    return tuple(
        (o.field, o.cell.cell)
        for o in evidence.observations
        if o.cell.kind is CellKind.NUCLEATED and o.prediction is not None and o.prediction.status is status
    )


def _extremes(row: DifferentialRow, counts: Differential) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % limits, percent, with none of the unclassified cells in the class, and with all of them."""
    total = counts.leukocytes + counts.unclassified
    low, high = clopper_pearson([row.count, row.count + counts.unclassified], total)
    return (100 * float(low[0]), 100 * float(high[0])), (100 * float(low[1]), 100 * float(high[1]))


def _reachable(row: DifferentialRow, counts: Differential) -> list[str]:
    none, every = _extremes(row, counts)
    sides = ["below"] if none[1] < row.reference_low else []
    return sides + (["above"] if every[0] > row.reference_high else [])


# ------------------------------------------------------------------------------------------ against reference intervals

_PERCENT_SOURCE = "Reference intervals of the profile (defaults: see docs/profile.example.toml)"
_WITH_UNCLASSIFIED = " This would change with where the {} unclassified cells are put."


def _percent_rule(cell_class: CellClass, side: str) -> Rule:
    def function(evidence: Evidence) -> Finding | None:
        row, counts = evidence.row(cell_class), evidence.differential
        if counts.adequacy is Adequacy.NONE or row.outside != side:
            return None
        text = f"{_percent_text(row)}.{_with_own_error(row, side)}"
        none, every = _extremes(row, counts)
        if (side == "high" and none[0] <= row.reference_high) or (side == "low" and every[1] >= row.reference_low):
            text += _WITH_UNCLASSIFIED.format(counts.unclassified)
        return Finding(text, evidence.cells_called(cell_class) if side == "high" else ())

    return function


def _with_own_error(row: DifferentialRow, side: str) -> str:
    """Whether the finding survives the allowance for the classifier's mistakes in another laboratory."""
    survives = row.total_low > row.reference_high if side == "high" else row.total_high < row.reference_low
    if survives:
        return ""
    return f" With the classifier's own error it could be {row.total_low:.1f}-{row.total_high:.1f} %."


def _percent_text(row: DifferentialRow) -> str:
    return (
        f"{cell_name(row.cell_class).capitalize()}s {row.percent:.1f} % ({row.ci_low:.1f}-{row.ci_high:.1f}), "
        f"expected {row.reference_low:g}-{row.reference_high:g} %"
    )


def _borderline_rule(cell_class: CellClass) -> Rule:
    def function(evidence: Evidence) -> Finding | None:
        row, counts = evidence.row(cell_class), evidence.differential
        if counts.adequacy is Adequacy.NONE or not row.outside.startswith("borderline"):
            return None
        if row.outside == "borderline low" and counts.leukocytes * row.reference_low / 100 < _EXPECTED_CELLS:
            return None
        return Finding(f"{_percent_text(row)}: {row.outside}, the interval reaches into the expected range.")

    return function


_EXPECTED_CELLS = 5
"""A lower limit of fewer cells is missed by chance: of 2 % eosinophils, 9 % of 200-cell counts show under 1 %."""

# Immature granulocytes have rules of their own: their upper limit is the classifier's false positives, not 1 percent.
_PERCENT_CLASSES = tuple(c for c in LEUKOCYTES if c is not CellClass.IMMATURE_GRANULOCYTE)

for _class in _PERCENT_CLASSES:
    for _side, _word in (("high", "above"), ("low", "below")):
        _rule(
            f"{_class}_{_side}",
            Severity.WARNING,
            f"{cell_name(_class)}s {_word} reference",
            f"The share of {cell_name(_class)}s lies {_word} its reference interval, and so does its 95 % interval.",
            f"Percent and its exact 95 % interval both {_word} the profile's interval, from a limited count up.",
            _PERCENT_SOURCE,
        )(_percent_rule(_class, _side))
    _rule(
        f"{_class}_borderline",
        Severity.NOTE,
        f"{cell_name(_class)}s borderline",
        f"The share of {cell_name(_class)}s lies outside its reference interval, but its 95 % interval does not.",
        "Percent outside the profile's interval, its exact 95 % interval reaching into it, from a limited count up; "
        "below it only where the lower limit is at least five cells.",
        _PERCENT_SOURCE,
    )(_borderline_rule(_class))

_ABSOLUTE_NAMES = {
    (CellClass.NEUTROPHIL, "low"): "neutropenia",
    (CellClass.NEUTROPHIL, "high"): "neutrophilia",
    (CellClass.LYMPHOCYTE, "low"): "lymphopenia",
    (CellClass.LYMPHOCYTE, "high"): "lymphocytosis",
    (CellClass.MONOCYTE, "high"): "monocytosis",
    (CellClass.EOSINOPHIL, "high"): "eosinophilia",
    (CellClass.BASOPHIL, "high"): "basophilia",
}


def _absolute_rule(cell_class: CellClass, side: str) -> Rule:
    def function(evidence: Evidence) -> Finding | None:
        row, counts = evidence.row(cell_class), evidence.differential
        if counts.adequacy is Adequacy.NONE or row.absolute_outside != side:
            return None
        wbc = counts.wbc_10e9_per_l if math.isnan(counts.wbc_corrected_10e9_per_l) else counts.wbc_corrected_10e9_per_l
        text = (
            f"{cell_name(cell_class).capitalize()}s {row.absolute_10e9_per_l:.2f} x10^9/L "
            f"({wbc * row.ci_low / 100:.2f}-{wbc * row.ci_high / 100:.2f}), expected "
            f"{row.absolute_reference_low:g}-{row.absolute_reference_high:g}, from WBC {wbc:.3g}."
        )
        none, every = _extremes(row, counts)
        if (side == "high" and wbc * none[0] / 100 <= row.absolute_reference_high) or (
            side == "low" and wbc * every[1] / 100 >= row.absolute_reference_low
        ):
            text += _WITH_UNCLASSIFIED.format(counts.unclassified)
        return Finding(text, evidence.cells_called(cell_class) if side == "high" else ())

    return function


for (_counted, _side), _name in _ABSOLUTE_NAMES.items():
    _rule(
        f"{_name}_like",
        Severity.WARNING,
        f"{_name}-like",
        f"The absolute number of {cell_name(_counted)}s, from the analyser's leukocyte count, is {_side}.",
        "Share times the analyser's WBC (corrected for nucleated red cells where due) and its exact 95 % interval both "
        "outside the profile's absolute interval.",
        "Absolute reference intervals of the profile (defaults: see docs/profile.example.toml)",
    )(_absolute_rule(_counted, _side))


@_rule(
    "no_reference_for_age",
    Severity.WARNING,
    "no reference interval for this age",
    "The profile has no reference intervals for the age given, so nothing is called high or low.",
    "The slide sheet gives an age that no age band of the profile covers.",
    "Adult intervals do not hold for children",
)
def _no_reference_for_age(evidence: Evidence) -> Finding | None:
    age = evidence.slide.age_years
    if age is None or evidence.profile.band(age) is not None:
        return None
    return Finding(f"Nothing is called high or low at {age:g} years: compare by hand, or give the profile an age band.")


# ---------------------------------------------------------------------------------------- red cells, platelets, smudges


@_rule(
    "leukocytosis_like_density",
    Severity.WARNING,
    "leukocytosis-like density",
    "Far more leukocytes per red cell than normal blood has. Compare the analyser's count.",
    "Leukocytes and unclassified cells per 1,000 red cells above the profile's limit, 95 % interval too; only on whole "
    "slides and consecutive fields, since hand-picked fields mean nothing here.",
    "WBC 4-11 x10^9/L over red cells 4.0-5.5 x10^12/L: 0.7-2.8 per 1,000",
)
def _leukocytosis_like_density(evidence: Evidence) -> Finding | None:
    counts, limit = evidence.differential, evidence.profile.flags.wbc_per_1000_red_cells
    if not (evidence.slide.whole_slide or evidence.slide.consecutive) or not counts.erythrocytes:
        return None
    white = counts.leukocytes + counts.unclassified
    low, _ = _per_1000(white, counts.erythrocytes)
    if low <= limit:
        return None
    ratio = 1000.0 * white / counts.erythrocytes
    return Finding(f"{ratio:.1f} leukocytes per 1,000 red cells (95 % from {low:.1f}); the limit is {limit:g}.")


def _per_1000(count: int, red_cells: int) -> tuple[float, float]:
    """Exact 95 % interval of a count per 1,000 red cells, both being counted."""
    low, high = clopper_pearson(count, count + red_cells)
    return 1000 * float(low / (1 - low)), 1000 * float(high / (1 - high))


def _platelet_rule(few: bool) -> Rule:
    def function(evidence: Evidence) -> Finding | None:
        counts = evidence.differential
        expected_low, expected_high = evidence.profile.platelets.per_1000_red_cells
        if not counts.erythrocytes:
            return None
        low, high = _per_1000(counts.platelets, counts.erythrocytes)
        if not (high < expected_low if few else low > expected_high):
            return None
        return Finding(
            f"{counts.platelets_per_1000_red_cells:.0f} platelets per 1,000 red cells ({low:.0f}-{high:.0f}), "
            f"expected {expected_low:g}-{expected_high:g}."
        )

    return function


for _few in (True, False):
    _rule(
        "platelets_few" if _few else "platelets_many",
        Severity.WARNING,
        "few platelets" if _few else "many platelets",
        f"{'Fewer' if _few else 'More'} platelets per red cell than normal blood has. Clumps and film edges mislead.",
        f"Platelets per 1,000 red cells and their exact 95 % interval {'below' if _few else 'above'} the profile's "
        "interval.",
        "150-450 x10^9/L over red cells 4.0-5.5 x10^12/L; an image has no eyepiece field, so none is assumed",
    )(_platelet_rule(_few))


@_rule(
    "platelet_clumps",
    Severity.WARNING,
    "platelet clumps or giant platelets",
    "Platelet objects as large as a red cell. An analyser's platelet count may be too low where platelets clump, and "
    "where giant ones are taken for red cells.",
    "At least the profile's number of platelet objects with the area of a red cell or more, both as segmentation draws "
    "them, and the exact 95 % interval of their share of all platelet objects above the profile's limit.",
    "ISLH 2005: platelet clumps and giant platelets call for review; ICSH 2015 (Palmer et al., Int J Lab Hem 37:287): "
    "a giant platelet is as large as a red cell or larger",
)
def _platelet_clumps(evidence: Evidence) -> Finding | None:
    red_cell_um2 = math.pi / 4 * RED_CELL_SEGMENTED_UM**2
    platelets = [o for o in evidence.observations if o.cell.kind is CellKind.PLATELET]
    cells = tuple((o.field, o.cell.cell) for o in platelets if o.cell.area_um2 >= red_cell_um2)
    limits = evidence.profile.flags
    if len(cells) < limits.large_platelets:
        return None
    low, _ = clopper_pearson(len(cells), len(platelets))
    if 100 * low <= limits.large_platelets_percent:
        return None
    share = 100.0 * len(cells) / len(platelets)
    return Finding(
        f"{len(cells)} of {len(platelets)} platelet objects ({share:.1f} %) are as large as a red cell, clumps or "
        "giant platelets: an analyser's platelet count may be too low.",
        cells,
    )


@_rule(
    "bodies_in_red_cells",
    Severity.WARNING,
    "bodies in red cells",
    "Small dark bodies lie within red cells, more than platelets do: parasites (malaria) or other inclusions, or "
    "platelets on top. They are counted as platelets. A few among many platelets raise no flag.",
    "At least the profile's number of platelet objects with their centre well within a red cell, and the exact 95 % "
    "interval of their share of all platelet objects above half the share of the ground that lies well within red "
    "cells.",
    "ISLH 2005: parasites call for review; where platelets lie: cbctool.hematology.inclusions",
)
def _bodies_in_red_cells(evidence: Evidence) -> Finding | None:
    found = evidence.inclusions
    if len(found.cells) < evidence.profile.flags.bodies_in_red_cells:
        return None
    low, _ = clopper_pearson(len(found.cells), found.bodies)
    if low <= OF_CHANCE * found.by_chance / found.bodies:
        return None
    return Finding(
        f"{len(found.cells)} of {found.bodies} platelet objects lie within red cells, many for platelets, which keep "
        f"off them ({found.by_chance:.0f} would by chance): parasites, other inclusions or platelets on top.",
        found.cells,
    )


@_rule(
    "smudge_cells",
    Severity.WARNING,
    "many smudge cells",
    "Many burst cells. They are in no count; in lymphoproliferative disease they belong to the lymphocytes.",
    "Smudge cells per 100 leukocytes above the profile's limit, exact 95 % interval too.",
    "ISLH 2005 calls for review of smudge cells; the number is a commonly quoted one",
)
def _smudge_cells(evidence: Evidence) -> Finding | None:
    smudge, limit = evidence.differential.smudge_cells, evidence.profile.flags.smudge_per_100_wbc
    white = evidence.differential.leukocytes + evidence.differential.unclassified
    low, _ = clopper_pearson(smudge, smudge + white)
    if low >= 1 or 100 * low / (1 - low) <= limit:
        return None
    cells = tuple((o.field, o.cell.cell) for o in evidence.observations if o.cell.reason == SMUDGE_CELL)
    return Finding(f"{smudge} smudge cells beside {white} leukocytes; the limit is {limit:g} per 100.", cells)


# ---------------------------------------------------------------------------------------------------- quality of images


@_rule(
    "poor_quality",
    Severity.WARNING,
    "poor image quality",
    "Many fields were not fit to be counted.",
    "Share of unfit fields (blurred, badly exposed, too crowded, empty) above the profile's limit; of a whole slide, "
    "whose film has a thick and a thin end, among the tiles of its monolayer.",
    "cbctool.imaging.quality",
)
def _poor_quality(evidence: Evidence) -> Finding | None:
    fields = evidence.fields
    if evidence.slide.whole_slide:
        fields = [field for field in fields if field.quality.unfit not in _FILM_ENDS]
    unfit = [field for field in fields if not field.quality.fit]
    limit = evidence.profile.flags.unfit_fields_percent
    if not unfit or 100 * len(unfit) / len(fields) <= limit:
        return None
    kinds = Counter(str(field.quality.unfit or field.quality.reason or "no reason given") for field in unfit)
    reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return Finding(f"{len(unfit)} of {len(fields)} fields are not fit to be counted: {reasons}.")


_FILM_ENDS = frozenset({Unfit.TOO_THICK, Unfit.TOO_THIN, Unfit.BLANK})
"""Reasons for which tiles of a whole slide are no part of its monolayer, however good the picture."""


@_rule(
    "scale_doubtful",
    Severity.WARNING,
    "scale doubtful or outside training",
    "Sizes and crops depend on the scale. Check the microscope's um per pixel.",
    "A given scale or the file's own differs from the one of the slide's red cells by more than the profile's limit, "
    "or the picture is coarser than the classifier's window needs, or a field's red cells give it another scale than "
    "the rest of the slide.",
    "Red cells are 7.5 um across; the classifier's 28 pixels cover 19 um",
)
def _scale_doubtful(evidence: Evidence) -> Finding | None:
    limits, scales = evidence.profile.flags, [field.scale for field in evidence.fields if field.quality.fit]
    if not scales:
        return None
    um_per_px = float(np.median([scale.um_per_px for scale in scales]))
    if um_per_px > limits.coarsest_um_per_px:
        return Finding(f"{um_per_px:.2f} um/px is coarser than {limits.coarsest_um_per_px:g}: detail is missing.")
    ratios = [
        scale.um_per_px / scale.red_cell_um_per_px - 1
        for scale in scales
        if scale.source in (ScaleSource.GIVEN, ScaleSource.METADATA) and not math.isnan(scale.red_cell_um_per_px)
    ]
    difference = 100 * float(np.median(ratios)) if ratios else 0.0
    if abs(difference) > limits.scale_disagreement_percent:
        return Finding(
            f"The scale in force, {um_per_px:.3f} um/px, is {difference:+.0f} % off the slide's own red cells."
        )
    apart = [
        field
        for field in evidence.fields
        if field.quality.fit
        and field.scale.source is ScaleSource.RED_CELLS
        and abs(field.scale.um_per_px / um_per_px - 1) > _FIELDS_APART
    ]
    if not apart:
        return None
    first = apart[0]
    return Finding(
        f"{len(apart)} of {len(scales)} fields at another scale than the rest, {first.name} at "
        f"{first.scale.um_per_px:.3f} against {um_per_px:.3f} um/px: another objective, or its red cells mislead."
    )


_FIELDS_APART = 0.25
"""The scale of one field of BCCD in 281 is 0.24 off the median of all; one of ALL-IDB1, by another objective, 0.53."""


@_rule(
    "stain_outside_training",
    Severity.WARNING,
    "stain outside training",
    "The nuclei are stained unlike those that the weights were trained on. Calls are less certain than they look.",
    "Median over the fields of the nuclei's mean optical density outside the 1st to 99th percentile of the training "
    "cells in red, green or blue.",
    "Percentiles carried by the weights file",
)
def _stain_outside_training(evidence: Evidence) -> Finding | None:
    stains = np.array([field.quality.stain_od for field in evidence.fields if field.quality.fit], dtype=float)
    stains = stains[~np.isnan(stains).any(axis=1)] if len(stains) else stains
    if not len(stains) or len(evidence.weights.stain_od) != 3:
        return None
    stain = np.median(stains, axis=0)
    low, high = (np.asarray(evidence.weights.stain_od[row]) for row in (0, 2))
    channels = [
        f"{name} {value:.2f} (trained on {least:.2f}-{most:.2f})"
        for name, value, least, most in zip(("red", "green", "blue"), stain, low, high, strict=True)
        if not least <= value <= most
    ]
    return Finding(f"Optical density of nuclei: {', '.join(channels)}.") if channels else None


RULES: tuple[FlagRule, ...] = tuple(rule for rule, _ in _REGISTRY)
"""Every rule, in the order in which the legend prints them."""

CODES: frozenset[str] = frozenset(rule.code for rule in RULES)
