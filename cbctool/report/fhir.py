"""``fhir.json``: FHIR R4B, a ``collection`` Bundle of DiagnosticReport, Observations, Specimen and Device.

Without a patient: the laboratory's system adds the subject of the specimen. Unreviewed results are ``preliminary``,
reviewed ones ``final``, those of a further review ``corrected``; what cannot be given has ``dataAbsentReason``.
Identifiers are derived from the slide's identity, so that the same result is the same resource.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

from cbctool.records import SlideResult
from cbctool.report.lis import LOCAL_SYSTEM, METHOD, PANEL, LisValue, lis_values
from cbctool.report.style import LIMITS, ReportStyle, confirmation, parse_time, written_at

_CATEGORY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"


def result_fhir(result: SlideResult, style: ReportStyle) -> str:
    """The Bundle as JSON text; the same input gives the same text."""
    written = written_at(result, style).isoformat(timespec="seconds")
    observed = parse_time(result.analysed_at).isoformat(timespec="seconds")
    status = "preliminary" if result.review is None else "final" if result.review.number == 1 else "corrected"
    device = _urn(result, "device")
    specimen = _urn(result, "specimen")
    entries: list[dict[str, Any]] = []
    references = []
    for value in lis_values(result):
        url = _urn(result, value.code)
        references.append({"reference": url})
        entries.append({"fullUrl": url, "resource": _observation(value, status, observed, specimen, device)})
    flags = [f"{flag.severity.value}: {flag.short}. {flag.text}" for flag in result.flags]
    report = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": "urn:cbctool:result", "value": result.identity}],
        "status": status,
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "HM"}]},
        ],
        "code": _local(*PANEL),
        "effectiveDateTime": observed,
        "issued": written,
        "specimen": [{"reference": specimen}],
        "result": references,
        "conclusion": _text("\n".join([confirmation(result), *(flags or ["No flag was raised."]), *LIMITS])),
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
            *entries,
            {"fullUrl": specimen, "resource": sample},
            {"fullUrl": device, "resource": tool},
        ],
    }
    return json.dumps(bundle, indent=1, allow_nan=False) + "\n"


def _observation(value: LisValue, status: str, observed: str, specimen: str, device: str) -> dict[str, Any]:
    coding = {"system": "http://loinc.org" if value.loinc else LOCAL_SYSTEM, "code": value.code}
    resource: dict[str, Any] = {
        "resourceType": "Observation",
        "status": status,
        "category": [_CATEGORY],
        "code": {"coding": [{**coding, "display": value.display}]},
        "effectiveDateTime": observed,
        "method": _local(*METHOD),
        "specimen": {"reference": specimen},
        "device": {"reference": device},
    }
    unit = {"unit": value.unit, "system": "http://unitsofmeasure.org", "code": value.unit}
    if math.isnan(value.value):
        reason = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
        resource["dataAbsentReason"] = {"coding": [{"system": reason, "code": "not-performed"}]}
    else:
        resource["valueQuantity"] = {"value": value.value, **unit}
    if value.interpretation:
        resource["interpretation"] = [{"coding": [{"system": _INTERPRETATION, "code": value.interpretation}]}]
    if not math.isnan(value.low):
        resource["referenceRange"] = [{"low": {"value": value.low, **unit}, "high": {"value": value.high, **unit}}]
    return resource


def _local(code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": LOCAL_SYSTEM, "code": code, "display": display}]}


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8").strip() or "–"


def _urn(result: SlideResult, part: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:cbctool:{result.identity}:{part}')}"
