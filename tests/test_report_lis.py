"""HL7 and FHIR, read by independent libraries."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from slides import slide_result

from cbctool.records import Adequacy, Flag, Review, Severity, SlideResult
from cbctool.report import ReportStyle
from cbctool.report.fhir import result_fhir
from cbctool.report.hl7 import escaped, result_hl7
from cbctool.report.lis import lis_values

COUNTS = {"neutrophil": 90, "lymphocyte": 30, "immature_granulocyte": 6, "erythroblast": 3, "platelet": 20}
STYLE = ReportStyle(lab_name="A|B & C^D")


def adequate() -> SlideResult:
    flags = (Flag("immature_granulocytes", Severity.WARNING, "Immature granulocytes", "6 | found.", ()),)
    return slide_result(COUNTS, red_cells=400, flags=flags, name="x|y^z~\\")


def reviewed() -> SlideResult:
    return dataclasses.replace(adequate(), review=Review("Dr. O'Neil & Co", "2026-03-02T10:00:00+00:00", 2))


def reviewed_again() -> SlideResult:
    return dataclasses.replace(adequate(), review=Review("B", "2026-03-02T11:00:00+00:00", 3, number=2))


CASES = {
    "adequate": adequate(),
    "reviewed": reviewed(),
    "reviewed again": reviewed_again(),
    "too few": slide_result(),
    "empty": slide_result({}),
}


@pytest.mark.parametrize("name", CASES)
def test_hl7_is_valid(name: str) -> None:
    message = parse_message(result_hl7(CASES[name], STYLE), validation_level=VALIDATION_LEVEL.STRICT)
    assert message.validate()
    assert message.msh.msh_9.value == "ORU^R01^ORU_R01"
    assert message.msh.msh_12.value == "2.5.1"


def observations(result: SlideResult) -> dict[str, list[str]]:
    segments = [line.split("|") for line in result_hl7(result, STYLE).split("\r")]
    return {fields[3].split("^")[0]: fields for fields in segments if fields[0] == "OBX"}


def test_hl7_values_codes_and_status() -> None:
    found = observations(adequate())
    neutrophils = found["26511-6"]
    assert neutrophils[2:9] == [
        "NM",
        "26511-6^Neutrophils/100 leukocytes in Blood^LN",
        "",
        "71.4",
        "%^^UCUM",
        "40-80",
        "N",
    ]
    assert neutrophils[11] == "P"
    assert neutrophils[17].startswith("IMAGE-PRECLASS^")
    assert found["38518-7"][5:9] == ["4.8", "%^^UCUM", "0-1", "H"]
    assert found["19048-8"][5] == "2.4"
    assert found["SMEAR-FLAGS"][2] == "TX", "ST holds 199 characters: too few for a dozen flags"
    assert found["SMEAR-FLAGS"][5] == "immature_granulocytes"
    assert {fields[11] for fields in observations(reviewed()).values()} == {"F"}
    assert {fields[11] for fields in observations(reviewed_again()).values()} == {"C"}
    analyser = {"770-8", "736-9", "5905-5", "713-8", "706-2"}
    assert not analyser & set(found), "codes of the analyser's automated count"


def test_hl7_without_a_differential_gives_no_percentages() -> None:
    found = observations(slide_result())
    assert (found["26511-6"][5], found["26511-6"][11]) == ("", "X")
    assert (found["WBC-COUNTED"][5], found["WBC-COUNTED"][11]) == ("18", "P")


def test_hl7_escapes_delimiters() -> None:
    assert escaped("a|b^c&d~e\\f\rg") == "a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f g"
    message = parse_message(result_hl7(adequate(), STYLE))
    assert message.msh.msh_4.value == "A\\F\\B \\T\\ C\\S\\D"
    assert result_hl7(adequate(), STYLE) == result_hl7(adequate(), STYLE)


@pytest.mark.parametrize("name", CASES)
def test_fhir_is_valid(name: str) -> None:
    result = CASES[name]
    bundle = Bundle.model_validate_json(result_fhir(result, STYLE))
    report = bundle.entry[0].resource
    assert report.status == {"reviewed": "final", "reviewed again": "corrected"}.get(name, "preliminary")
    urls = {entry.fullUrl for entry in bundle.entry}
    assert len(urls) == len(bundle.entry)
    assert {reference.reference for reference in report.result} <= urls
    assert len(report.result) == len(lis_values(result)) + 1, "the flags"
    assert {entry.resource.status for entry in bundle.entry[1:-2]} == {report.status}


def test_fhir_values() -> None:
    entries = json.loads(result_fhir(adequate(), STYLE))["entry"]
    found = {e["resource"]["code"]["coding"][0]["code"]: e["resource"] for e in entries[1:-2]}
    assert found["26478-8"]["valueQuantity"]["value"] == 23.8
    assert found["26478-8"]["valueQuantity"]["code"] == "%"
    assert found["38518-7"]["interpretation"][0]["coding"][0]["code"] == "H"
    too_few = json.loads(result_fhir(slide_result(), STYLE))["entry"][1]["resource"]
    assert "valueQuantity" not in too_few
    assert too_few["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert too_few["dataAbsentReason"]["text"] == "too few leukocytes for a differential: 18 classified"
    assert found["SMEAR-FLAGS"]["valueString"] == observations(adequate())["SMEAR-FLAGS"][5] == "immature_granulocytes"
    assert found["26478-8"]["referenceRange"][0]["low"] == {
        "value": 20.0,
        "unit": "%",
        "system": "http://unitsofmeasure.org",
        "code": "%",
    }
    assert "blast" not in " ".join(found)


def test_without_reference_intervals_for_the_age_nrbc_have_none_either() -> None:
    assert (lis_values(adequate())[6].high, lis_values(adequate())[6].interpretation) == (0.0, "H")
    counts = adequate().differential
    rows = tuple(dataclasses.replace(row, reference_low=math.nan, reference_high=math.nan) for row in counts.rows)
    newborn = dataclasses.replace(adequate(), differential=dataclasses.replace(counts, rows=rows))
    assert math.isnan(lis_values(newborn)[6].high)
    assert lis_values(newborn)[6].interpretation == ""
    assert observations(newborn)["19048-8"][7:9] == ["", ""]


def test_no_time_of_collection_is_made_up() -> None:
    result = dataclasses.replace(reviewed(), analysed_at="2026-03-01T09:00:00+01:00")
    order = next(line for line in result_hl7(result, STYLE).split("\r") if line.startswith("OBR")).split("|")
    assert (order[7], order[22]) == ("", "20260302100000+0000")
    assert {(fields[14], fields[19]) for fields in observations(result).values()} == {("", "20260301080000+0000")}
    resources = [entry["resource"] for entry in json.loads(result_fhir(result, STYLE))["entry"]]
    assert not any("effectiveDateTime" in resource for resource in resources)
    assert {r["issued"] for r in resources if "issued" in r} == {"2026-03-02T10:00:00+00:00"}
    analysed = {r["extension"][0]["valueDateTime"] for r in resources if r["resourceType"] == "Observation"}
    assert analysed == {"2026-03-01T08:00:00+00:00"}


def test_a_value_that_rounding_puts_on_the_edge_is_called_as_in_the_other_outputs() -> None:
    counts = adequate().differential
    row = dataclasses.replace(counts.rows[0], percent=80.04, outside="borderline high")
    edge = dataclasses.replace(adequate(), differential=dataclasses.replace(counts, rows=(row, *counts.rows[1:])))
    assert (lis_values(edge)[0].value, lis_values(edge)[0].interpretation) == (80.0, "H")


def test_both_exports_say_the_same_beside_the_values() -> None:
    for result in CASES.values():
        segments = parse_message(result_hl7(result, STYLE)).value.split("\r")
        before_values = segments[: next(i for i, segment in enumerate(segments) if segment.startswith("OBX"))]
        told = [segment.split("|")[3] for segment in before_values if segment.startswith("NTE")]
        conclusion = json.loads(result_fhir(result, STYLE))["entry"][0]["resource"]["conclusion"].split("\n")
        assert told == [escaped(line) for line in conclusion]
        assert conclusion[0].endswith(".")


def test_a_percentage_says_how_many_cells_it_comes_from_and_how_sure_it_is() -> None:
    result = adequate()
    row = result.differential.rows[0]
    lines = result_hl7(result, STYLE).split("\r")
    at = next(i for i, line in enumerate(lines) if "|26511-6^" in line)
    note = lines[at + 1].split("|")
    assert note[:3] == ["NTE", "1", "L"]
    assert note[3] == (
        f"{row.count} of {result.differential.leukocytes} leukocytes; 95 % interval {row.ci_low:.1f}-{row.ci_high:.1f} "
        f"% for the number of cells; {row.total_low:.1f}-{row.total_high:.1f} % with the classifier's own error"
    )
    resources = [entry["resource"] for entry in json.loads(result_fhir(result, STYLE))["entry"]]
    neutrophils = next(r for r in resources if r["resourceType"] == "Observation" and "26511-6" in str(r["code"]))
    assert neutrophils["note"] == [{"text": note[3]}]


def test_a_count_that_carries_no_differential_has_no_interval() -> None:
    few = dataclasses.replace(adequate().differential, adequacy=Adequacy.NONE)
    values = lis_values(dataclasses.replace(adequate(), differential=few))
    assert values[0].note == f"{few.rows[0].count} of {few.leukocytes} leukocytes"
