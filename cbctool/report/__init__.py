"""What leaves the program: CSV, PDF, JSON, HTML, HL7, FHIR, pictures, each from a SlideResult alone."""

from cbctool.report.read import read_slide
from cbctool.report.style import OUTPUTS, ReportStyle
from cbctool.report.tables import parse_table, read_table, summary_row
from cbctool.report.write import write_run, write_slide

__all__ = [
    "OUTPUTS",
    "ReportStyle",
    "parse_table",
    "read_slide",
    "read_table",
    "summary_row",
    "write_run",
    "write_slide",
]
