"""Bodies within red cells: where they lie, and what chance would do."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from counted import SLIDE, WEIGHTS, cell, field, prediction

from cbctool.hematology import interpret
from cbctool.hematology.inclusions import WELL_WITHIN, find_inclusions
from cbctool.hematology.profile import Profile
from cbctool.records import CellClass, CellKind, CellStatus, FieldQuality, Observation

RED_UM = 7.5
ROWS = range(50, 1000, 100)  # a hundred red cells in a field of 1000 x 1000 px, 0.1 um/px


def red_cell(row: float, col: float, name: str = "f1.png") -> Observation:
    place: dict[str, Any] = {"row_px": row, "col_px": col, "equivalent_diameter_um": RED_UM}
    return Observation(name, cell(1, CellKind.ERYTHROCYTE, **place), None)


def body(number: int, row: float, col: float, name: str = "f1.png") -> Observation:
    place: dict[str, Any] = {"row_px": row, "col_px": col, "area_um2": 4.0}
    return Observation(name, cell(number, CellKind.PLATELET, **place), prediction(CellClass.PLATELET))


def smear(inside: int, between: int) -> list[Observation]:
    seen = [red_cell(row, col) for row in ROWS for col in ROWS]
    seen += [body(i, 50, 50 + 100 * (i % 10) + 10) for i in range(inside)]
    return seen + [body(1000 + i, 100, 100 * (1 + i % 9)) for i in range(between)]


def flags(seen: list[Observation]) -> dict[str, str]:
    said = interpret(SLIDE, [field()], seen, WEIGHTS, Profile())
    return {flag.code: flag.text for flag in said.flags}


def test_counts_what_lies_well_within_and_what_chance_would_put_there() -> None:
    found = find_inclusions([field()], smear(inside=3, between=7))
    assert found.cells == (("f1.png", 0), ("f1.png", 1), ("f1.png", 2))
    covered = 100 * math.pi * (WELL_WITHIN * RED_UM / 2) ** 2 / 10_000
    assert (found.bodies, found.by_chance) == (10, pytest.approx(10 * covered))


def test_a_platelet_beside_a_red_cell_is_not_within_it() -> None:
    reach_px = WELL_WITHIN * RED_UM / 2 / 0.1
    seen = [red_cell(500, 500), body(1, 500, 500 + reach_px - 1), body(2, 500, 500 + reach_px + 1)]
    assert find_inclusions([field()], seen).cells == (("f1.png", 1),)


def test_each_field_has_its_own_red_cells_and_unfit_ones_do_not_count() -> None:
    fields = [field("a"), field("b"), field("c", quality=FieldQuality(fit=False, reason="blurred"))]
    seen = [red_cell(500, 500, "a"), body(1, 500, 500, "b"), red_cell(500, 500, "c"), body(2, 500, 500, "c")]
    found = find_inclusions(fields, seen)
    assert (found.cells, found.bodies, found.by_chance) == ((), 0, 0.0)


def test_a_body_that_a_reviewer_took_out_is_none() -> None:
    taken_out = prediction(None, status=CellStatus.EXCLUDED, reason="artefact")
    seen = [red_cell(500, 500), body(1, 500, 500), dataclasses.replace(body(2, 500, 500), prediction=taken_out)]
    assert find_inclusions([field()], seen).cells == (("f1.png", 1),)


def test_flag_compares_with_what_platelets_do() -> None:
    assert "bodies_in_red_cells" not in flags(smear(inside=10, between=90)), "as in BCCD, the most of any collection"
    text = flags(smear(inside=40, between=60))["bodies_in_red_cells"]
    assert text.startswith("40 of 100 platelet objects lie within red cells")
