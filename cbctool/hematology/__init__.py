"""Haematology: differential, confidence intervals, reference intervals, flag rules, blast-likeness.

Pure functions on the records; neither torch nor OpenCV is needed.
"""

from cbctool.hematology.slide import Interpretation, interpret

__all__ = ["Interpretation", "interpret"]
