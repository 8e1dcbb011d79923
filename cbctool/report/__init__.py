"""Everything that leaves the program: CSV, PDF, JSON, HTML, HL7, FHIR, pictures. Each is written from a SlideResult alone."""

from cbctool.report.style import OUTPUTS, ReportStyle
from cbctool.report.tables import read_table, summary_row
from cbctool.report.write import write_run, write_slide

__all__ = ["OUTPUTS", "ReportStyle", "read_table", "summary_row", "write_run", "write_slide"]
