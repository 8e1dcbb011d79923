"""``fhir.json``: FHIR R4 and R4B, a ``collection`` Bundle of DiagnosticReport, Observations, Specimen and Device.

Without a patient and a time of collection (``effective``): the laboratory's system adds both for the specimen.
Unreviewed results are ``preliminary``, reviewed ones ``final``, those of a further review ``corrected``; what cannot be
given has ``dataAbsentReason``. Identifiers are derived from the slide's identity, so that the same result is the same
resource.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

from cbctool.records import SlideResult
from cbctool.report.lis import FLAGS, LOCAL_SYSTEM, METHOD, PANEL, LisValue, flag_codes, lis_values, notes
from cbctool.report.style import ReportStyle, parse_time, written_at

_CATEGORY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_ANALYSED = "http://hl7.org/fhir/StructureDefinition/observation-analysis-date-time"


def result_fhir(result: SlideResult, style: ReportStyle) -> str:
    """The Bundle as JSON text; the same input gives the same text."""
    written = written_at(result, style).isoformat(timespec="seconds")
    status = "preliminary" if result.review is None else "final" if result.review.number == 1 else "corrected"
    specimen, device = _urn(result, "specimen"), _urn(result, "device")
    analysed = parse_time(result.analysed_at).isoformat(timespec="seconds")
    common = {
        "resourceType": "Observation",
        "extension": [{"url": _ANALYSED, "valueDateTime": analysed}],
        "status": status,
        "category": [_CATEGORY],
        "issued": written,
        "method": _local(*METHOD),
        "specimen": {"reference": specimen},
        "device": {"reference": device},
    }
    observations = {value.code: {**common, **_number(value)} for value in lis_values(result)}
    observations[FLAGS[0]] = {**common, "code": _local(*FLAGS), "valueString": flag_codes(result)}
    report = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": "urn:cbctool:result", "value": result.identity}],
        "status": status,
        "category": [
            {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "HM", "display": "Hematology"}
                ]
            },
        ],
        "code": _local(*PANEL),
        "issued": written,
        "specimen": [{"reference": specimen}],
        "result": [{"reference": _urn(result, code)} for code in observations],
        "conclusion": _text("\n".join(notes(result))),
    }
    if style.lab_name:
        report["performer"] = [{"display": _text(style.lab_name)}]
    if result.review:
        report["resultsInterpreter"] = [{"display": _text(result.review.reviewer)}]
    sample = {
        "resourceType": "Specimen",
        "identifier": [{"value": _text(result.slide.sample_id or result.slide.name)}],
        "type": {"text": "Blood smear"},
    }
    tool = {
        "resourceType": "Device",
        "deviceName": [{"name": "cbctool", "type": "model-name"}],
        "version": [
            {"value": result.version},
            {"type": {"text": "weights sha256"}, "value": result.weights.sha256 or "unknown"},
        ],
    }
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": written,
        "entry": [
            {"fullUrl": _urn(result, "report"), "resource": report},
            *({"fullUrl": _urn(result, code), "resource": made} for code, made in observations.items()),
            {"fullUrl": specimen, "resource": sample},
            {"fullUrl": device, "resource": tool},
        ],
    }
    return json.dumps(bundle, indent=1, allow_nan=False) + "\n"


def _number(value: LisValue) -> dict[str, Any]:
    """What is an observation's own: code, value or why there is none, interpretation, reference range."""
    coding = {"system": "http://loinc.org" if value.loinc else LOCAL_SYSTEM, "code": value.code}
    own: dict[str, Any] = {"code": {"coding": [{**coding, "display": value.display}]}}
    unit = {"unit": value.unit, "system": "http://unitsofmeasure.org", "code": value.unit}
    if math.isnan(value.value):
        own["dataAbsentReason"] = {"coding": [{"system": _ABSENT, "code": "not-performed"}], "text": value.absent}
    else:
        own["valueQuantity"] = {"value": value.value, **unit}
    if value.interpretation:
        own["interpretation"] = [{"coding": [{"system": _INTERPRETATION, "code": value.interpretation}]}]
    if not math.isnan(value.low):
        own["referenceRange"] = [{"low": {"value": value.low, **unit}, "high": {"value": value.high, **unit}}]
    if value.note:
        own["note"] = [{"text": value.note}]
    return own


def _local(code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": LOCAL_SYSTEM, "code": code, "display": display}]}


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8").strip() or "–"


def _urn(result: SlideResult, part: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:cbctool:{result.identity}:{part}')}"
