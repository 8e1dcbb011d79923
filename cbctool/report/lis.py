"""What a laboratory system is told of a slide, as codes and values: shared by the HL7 and FHIR exports.

LOINC codes are the method-less ones (percent of leukocytes), never those of an analyser's automated count or of a
manual count, with which an image preclassification must not be mixed up. What has no such code goes under our own.

Neither export names a patient or the time of collection: nobody has told the program, and the laboratory's system knows
both from the order. What is given is when the slide was analysed and when the result was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cbctool.records import Adequacy, CellClass, Differential, DifferentialRow, SlideResult
from cbctool.report.style import LIMITS, confirmation

LOINC: Mapping[CellClass, tuple[str, str]] = {
    CellClass.NEUTROPHIL: ("26511-6", "Neutrophils/100 leukocytes in Blood"),
    CellClass.LYMPHOCYTE: ("26478-8", "Lymphocytes/100 leukocytes in Blood"),
    CellClass.MONOCYTE: ("26485-3", "Monocytes/100 leukocytes in Blood"),
    CellClass.EOSINOPHIL: ("26450-7", "Eosinophils/100 leukocytes in Blood"),
    CellClass.BASOPHIL: ("30180-4", "Basophils/100 leukocytes in Blood"),
    CellClass.IMMATURE_GRANULOCYTE: ("38518-7", "Immature granulocytes/100 leukocytes in Blood"),
    CellClass.ERYTHROBLAST: ("19048-8", "Nucleated erythrocytes/100 leukocytes [Ratio] in Blood"),
}
"""26450-7, 30180-4 and 38518-7 were read from LOINC's own pages; the others are commonly quoted: a laboratory checks
them against its own table before use."""

LOCAL_SYSTEM = "urn:cbctool:codes"
PANEL = ("WBC-DIFF-IMAGE", "Leukocyte differential on a blood smear, image preclassification")
METHOD = ("IMAGE-PRECLASS", "Image preclassification (cbctool)")
FLAGS = ("SMEAR-FLAGS", "Flags of the smear")


@dataclass(frozen=True)
class LisValue:
    """One observation: code, value (NaN where it cannot be given, and why), unit (UCUM) and reference interval.

    ``outside`` is as in :class:`~cbctool.records.DifferentialRow`, so that a value on the edge, rounded here, is called
    what the other outputs call it. ``note`` says how many cells a percentage comes from, and how sure it is.
    """

    code: str
    display: str
    loinc: bool
    value: float
    unit: str
    low: float = math.nan
    high: float = math.nan
    outside: str = ""
    absent: str = ""
    note: str = ""

    @property
    def interpretation(self) -> str:
        """ "H", "L" or "N" against the reference interval; "" where there is none."""
        if math.isnan(self.low) or math.isnan(self.value):
            return ""
        return "H" if self.outside.endswith("high") else "L" if self.outside.endswith("low") else "N"


def lis_values(result: SlideResult) -> list[LisValue]:
    """The values of a slide in the order in which haematology prints them.

    Below the least number of leukocytes there is no differential: percentages are NaN, and exports say that they cannot
    be given.
    """
    d = result.differential
    counted = d.adequacy is not Adequacy.NONE
    too_few = "" if counted else f"too few leukocytes for a differential: {d.leukocytes} classified"
    values = []
    for row in d.rows:
        percent = round(row.percent, 1) if counted else math.nan
        code, display = LOINC[row.cell_class]
        interval = (row.reference_low, row.reference_high)
        values.append(LisValue(code, display, True, percent, "%", *interval, row.outside, too_few, _sure(row, d)))
    nrbc = round(d.nrbc_per_100_wbc, 1) if counted else math.nan
    # None in an adult's blood; where no interval holds for the age (newborns have some), none is given here either.
    none = 0.0 if any(row.reference_high == row.reference_high for row in d.rows) else math.nan
    high = "high" if nrbc > 0 else ""
    values.append(LisValue(*LOINC[CellClass.ERYTHROBLAST], True, nrbc, "/100{WBCs}", none, none, high, too_few))
    values.append(LisValue("WBC-COUNTED", "Leukocytes classified", False, float(d.leukocytes), "{cells}"))
    values.append(LisValue("WBC-UNCLASSIFIED", "Nucleated cells unclassified", False, float(d.unclassified), "{cells}"))
    per_1000 = round(d.platelets_per_1000_red_cells, 1)
    ratio = ("PLT-PER-1000-RBC", "Platelets per 1000 red cells", False, per_1000, "/1000{RBCs}")
    values.append(LisValue(*ratio, absent="" if d.erythrocytes else "no red cells counted"))
    return values


def _sure(row: DifferentialRow, differential: Differential) -> str:
    """The count behind a percentage and its 95 % intervals."""
    counted = f"{row.count} of {differential.leukocytes} leukocytes"
    if differential.adequacy is Adequacy.NONE:
        return counted
    sampling, total = ((row.ci_low, row.ci_high), (row.total_low, row.total_high))
    both = "" if sampling == total else f"; {_between(total)} with the classifier's own error"
    return f"{counted}; 95 % interval {_between(sampling)} for the number of cells{both}"


def _between(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f}-{interval[1]:.1f} %"


def flag_codes(result: SlideResult) -> str:
    """The flags' codes as ``summary.csv`` joins them; "none" without any."""
    return ";".join(flag.code for flag in result.flags) or "none"


def notes(result: SlideResult) -> list[str]:
    """What must be read with the values, a sentence or two each: who confirmed them, flags, intervals, limits."""
    status = confirmation(result)
    intervals = result.differential.reference
    return [
        f"{status[:1].upper()}{status[1:]}.",
        *([f"{f.severity.value}: {f.short}. {f.text}" for f in result.flags] or ["No flag was raised."]),
        *([f"Reference intervals: {intervals}."] if intervals else []),
        *LIMITS,
    ]
