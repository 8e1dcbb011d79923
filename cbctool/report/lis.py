"""What a laboratory system is told of a slide, as codes and values: shared by the HL7 and FHIR exports.

LOINC codes are the method-less ones (percent of leukocytes), never those of an analyser's automated count or of a
manual count, with which an image preclassification must not be mixed up. What has no such code goes under our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cbctool.records import Adequacy, CellClass, SlideResult

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


@dataclass(frozen=True)
class LisValue:
    """One observation: code, value (NaN where it cannot be given), unit (UCUM) and reference interval."""

    code: str
    display: str
    loinc: bool
    value: float
    unit: str
    low: float = math.nan
    high: float = math.nan

    @property
    def interpretation(self) -> str:
        """ "H", "L" or "N" against the reference interval; "" where there is none."""
        if math.isnan(self.low) or math.isnan(self.value):
            return ""
        return "H" if self.value > self.high else "L" if self.value < self.low else "N"


def lis_values(result: SlideResult) -> list[LisValue]:
    """The values of a slide in the order in which haematology prints them.

    Below the least number of leukocytes there is no differential: percentages are NaN, and exports say that they cannot
    be given.
    """
    d = result.differential
    counted = d.adequacy is not Adequacy.NONE
    values = []
    for row in d.rows:
        percent = round(row.percent, 1) if counted else math.nan
        code, display = LOINC[row.cell_class]
        values.append(LisValue(code, display, True, percent, "%", row.reference_low, row.reference_high))
    nrbc = round(d.nrbc_per_100_wbc, 1) if counted else math.nan
    # None in an adult's blood; where no interval holds for the age (newborns have some), none is given here either.
    none = 0.0 if any(row.reference_high == row.reference_high for row in d.rows) else math.nan
    values.append(LisValue(*LOINC[CellClass.ERYTHROBLAST], True, nrbc, "/100{WBCs}", none, none))
    values.append(LisValue("WBC-COUNTED", "Leukocytes classified", False, float(d.leukocytes), "{cells}"))
    values.append(LisValue("WBC-UNCLASSIFIED", "Nucleated cells unclassified", False, float(d.unclassified), "{cells}"))
    per_1000 = round(d.platelets_per_1000_red_cells, 1)
    values.append(LisValue("PLT-PER-1000-RBC", "Platelets per 1000 red cells", False, per_1000, "/1000{RBCs}"))
    return values
