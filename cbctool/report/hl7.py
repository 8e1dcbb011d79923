"""``result.hl7``: HL7 v2.5.1 ORU^R01 in ER7, one segment per line (CR), UTF-8.

Without a patient and a time of collection: a laboratory's interface engine adds the PID segment and OBR-7 for the
sample in SPM-2; OBX-19 is when the slide was analysed. Unreviewed results are preliminary (``P`` in OBR-25 and OBX-11),
reviewed ones final (``F``), those of a further review corrected (``C``: the final result before is replaced); what
cannot be given is ``X``.
"""

from __future__ import annotations

import hashlib
import math

from cbctool.records import SlideResult
from cbctool.report.lis import FLAGS, METHOD, PANEL, LisValue, flag_codes, lis_values, notes
from cbctool.report.style import ReportStyle, parse_time, written_at

_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"})


def escaped(text: str) -> str:
    """Text for a field: delimiters as HL7 escapes, control characters as spaces."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in text).translate(_ESCAPES)


def result_hl7(result: SlideResult, style: ReportStyle) -> str:
    """The message; the same input gives the same text."""
    written = f"{written_at(result, style):%Y%m%d%H%M%S}+0000"
    control = hashlib.sha256(f"{result.identity}{written}".encode()).hexdigest()[:20]
    status = "P" if result.review is None else "F" if result.review.number == 1 else "C"
    sample = escaped(result.slide.sample_id or result.slide.name)
    order = escaped(result.slide.name)[:199]
    panel = f"{PANEL[0]}^{escaped(PANEL[1])}^99CBC"
    segments = [
        _segment(
            "MSH",
            {
                2: "^~\\&",
                3: "cbctool",
                4: escaped(style.lab_name)[:180],
                7: written,
                9: "ORU^R01^ORU_R01",
                10: control,
                11: "P",
                12: "2.5.1",
                18: "UNICODE UTF-8",
            },
        ),
        _segment(
            "OBR",
            {
                1: "1",
                3: order,
                4: panel,
                22: written,
                25: status,
                32: f"&{escaped(result.review.reviewer)}" if result.review else "",
            },
        ),
    ]
    segments += [
        _segment("NTE", {1: str(i), 2: "L", 3: escaped(note)}) for i, note in enumerate(notes(result), start=1)
    ]
    values = lis_values(result)
    for i, value in enumerate(values, start=1):
        segments.append(_number(i, value, status, result))
        if value.note:
            segments.append(_segment("NTE", {1: "1", 2: "L", 3: escaped(value.note)}))
    # TX: ST ends at 199 characters, which a dozen codes exceed.
    codes = {2: "TX", 3: f"{FLAGS[0]}^{escaped(FLAGS[1])}^99CBC", 5: escaped(flag_codes(result)), 11: status}
    segments.append(_observation(len(values) + 1, codes, result))
    segments.append(_segment("SPM", {1: "1", 2: f"^{sample}", 4: "BLD^Whole blood^HL70487"}))
    return "\r".join(segments) + "\r"


def _number(i: int, value: LisValue, status: str, result: SlideResult) -> str:
    missing = math.isnan(value.value)
    fields = {
        2: "NM",
        3: f"{value.code}^{escaped(value.display)}^{'LN' if value.loinc else '99CBC'}",
        5: "" if missing else f"{value.value:g}",
        6: f"{escaped(value.unit)}^^UCUM",
        7: "" if math.isnan(value.low) else f"{value.low:g}-{value.high:g}",
        8: value.interpretation,
        11: "X" if missing else status,
    }
    return _observation(i, fields, result)


def _observation(i: int, fields: dict[int, str], result: SlideResult) -> str:
    """An OBX segment: what all of them bear, and ``fields``."""
    made_with = {
        17: f"{METHOD[0]}^{METHOD[1]}^99CBC",
        18: f"cbctool {escaped(result.version)}^{result.weights.sha256[:16]}",
        19: f"{parse_time(result.analysed_at):%Y%m%d%H%M%S}+0000",
    }
    return _segment("OBX", {1: str(i), **fields, **made_with})


def _segment(name: str, fields: dict[int, str]) -> str:
    """A segment from field numbers as HL7 counts them; MSH-1 is the separator itself."""
    first = 2 if name == "MSH" else 1
    return "|".join([name, *(fields.get(i, "") for i in range(first, max(fields) + 1))])
