"""Which cells a report shows, in which order, and what stands below them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from slides import cell, prediction, slide_result, thumbnail

from cbctool.records import CellClass, Observation, Prediction, SlideResult
from cbctool.report.evidence import REASONS, doubts, gallery_groups


def unclassified(name: str, probability: float, evidence: float = math.nan) -> Prediction:
    """A cell without a call; blast-like where there is evidence for it."""
    blast_like = not math.isnan(evidence)
    return prediction(name, probability, "unclassified", "", blast_like=blast_like, blast_evidence=evidence)


def slide(predictions: Sequence[Prediction]) -> SlideResult:
    """A slide of one field with these cells, numbered from 1."""
    picture = thumbnail("lymphocyte")
    cells = tuple(Observation("field_01.png", cell(i), made, picture) for i, made in enumerate(predictions, start=1))
    return dataclasses.replace(slide_result({}), observations=cells)


def test_blast_like_cells_go_by_their_evidence_and_come_before_the_least_probable() -> None:
    group = gallery_groups(
        slide(
            [
                unclassified("monocyte", 0.31),
                unclassified("basophil", 0.40, evidence=2.5),
                unclassified("lymphocyte", 0.97, evidence=9.0),
                unclassified("monocyte", 0.60, evidence=4.0),
                unclassified("monocyte", 0.25),
                unclassified("monocyte", 0.99),
            ]
        ),
        most=100,
    )[0]
    assert [shown.number for shown in group.cells] == ["1.3", "1.4", "1.2", "1.5", "1.1", "1.6"]
    assert group.note == "6; 3 blast-like, the most blast-like first"


def test_no_probability_stands_beside_blast_like() -> None:
    group = gallery_groups(slide([unclassified("basophil", 0.92, evidence=3.0), unclassified("monocyte", 0.5)]), 10)[0]
    assert [(shown.call, shown.note) for shown in group.cells] == [("? blast-like", "BAS?"), ("? 0.50", "MON?")]


def test_many_blasts_do_not_crowd_out_the_other_reasons() -> None:
    blasts = [
        dataclasses.replace(unclassified("lymphocyte", 0.5, evidence=9.0 - i), blast_reasons=(f"N:C 0.{i}",))
        for i in range(9)
    ] * 2
    blasts += [
        dataclasses.replace(unclassified("monocyte", 0.5, evidence=3.0), blast_reasons=(f"nucleus 1.{i}",))
        for i in range(9)
    ]
    doubtful = dataclasses.replace(unclassified("monocyte", 0.5), reason="low probability")
    lines = doubts(gallery_groups(slide([*blasts, doubtful]), 100)[0])
    assert len(lines) == REASONS + 1
    assert lines[0] == "1.1, 1.10: blast-like: N:C 0.0"
    assert lines[-2:] == ["and 7 more reasons, in cells.csv", "1.28: low probability"]


def test_evidence_that_is_not_known_sorts_last_among_the_blast_like() -> None:
    unknown = dataclasses.replace(unclassified("monocyte", 0.5, evidence=1.0), blast_evidence=math.nan)
    group = gallery_groups(slide([unknown, unclassified("monocyte", 0.5, evidence=2.0)]), 10)[0]
    assert [shown.number for shown in group.cells] == ["1.2", "1.1"]


def test_a_reviewers_artefact_is_still_shown_and_a_cell_without_a_picture_is_named() -> None:
    taken_out = prediction("neutrophil", 0.9, "excluded", "named by the reviewer")
    out = Observation("field_01.png", cell(1, "artefact"), taken_out, thumbnail("lymphocyte"), CellClass.NEUTROPHIL)
    found = Observation("field_01.png", cell(2), prediction("lymphocyte"), b"", CellClass.PLATELET)
    seen = Observation("field_01.png", cell(3), prediction("lymphocyte"), thumbnail("lymphocyte"))
    groups = gallery_groups(dataclasses.replace(slide_result({}), observations=(out, found, seen)), 10)
    assert [(g.key, g.note, len(g.cells)) for g in groups] == [
        ("lymphocyte", "1, 1 more without a picture", 1),
        ("excluded", "1", 1),
    ]
    assert groups[1].cells[0].note == "was NEU"
