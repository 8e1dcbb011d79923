"""Realistic SlideResult records from hand-made tables of counts, for tests of report, review and haematology.

    result = slide_result({"neutrophil": 120, "lymphocyte": 60}, flags=[...], red_cells=500)

Cells stand on a grid over the fields, so that each has a place; pictures are small drawings; nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import beta

from cbctool.records import (
    CLASSES,
    LEUKOCYTES,
    RED_CELL_UM,
    THUMBNAIL_PX,
    Adequacy,
    Cell,
    CellClass,
    CellKind,
    CellStatus,
    Differential,
    DifferentialRow,
    FieldQuality,
    FieldSummary,
    Flag,
    FlagRule,
    Observation,
    Prediction,
    Scale,
    ScaleSource,
    Severity,
    Slide,
    SlideResult,
    TileMap,
    TileUse,
    WeightsInfo,
)

UM_PER_PX = 0.1
FIELD_PX = (480, 640)

REFERENCE: Mapping[str, tuple[float, float]] = {
    "neutrophil": (40, 80),
    "lymphocyte": (20, 40),
    "monocyte": (2, 10),
    "eosinophil": (1, 6),
    "basophil": (0, 2),
    "immature_granulocyte": (0, 1),
}

RULES: tuple[FlagRule, ...] = (
    FlagRule(
        "blast_like",
        Severity.CRITICAL,
        "Blast-like cells",
        "Cells unlike anything the classifier was trained on.",
        "count above the expected false calls at 95 %",
        "ISLH 2005",
    ),
    FlagRule(
        "immature_granulocytes",
        Severity.WARNING,
        "Immature granulocytes",
        "Myelocytes, metamyelocytes or promyelocytes present.",
        ">= 1 beyond expectation",
        "ISLH 2005",
    ),
    FlagRule(
        "scale_disagrees",
        Severity.NOTE,
        "Scale disagrees",
        "Metadata and red cells give different scales.",
        "more than 10 % apart",
        "this project",
    ),
)


def weights_info(errors: int = 2) -> WeightsInfo:
    """A network that calls 100 of each class, ``errors`` of them as the next class."""
    confusion = np.eye(8, dtype=int) * (100 - errors) + np.roll(np.eye(8, dtype=int), 1, axis=1) * errors
    return WeightsInfo(
        name="test-net",
        sha256="0123456789abcdef" * 4,
        architecture="test",
        validated=True,
        trained_on="hand-made tables",
        date="2026-01-01",
        temperature=1.0,
        abstain_below=0.6,
        unknown_above=3.0,
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        unknown_rate=(0.01,) * 8,
        stain_od=((0.2, 0.4, 0.1), (0.5, 0.8, 0.3), (0.9, 1.3, 0.6)),
        metrics={"balanced_accuracy": 0.9},
    )


def cell(
    number: int, kind: str = "nucleated", centre: tuple[float, float] = (100.0, 100.0), **measures: object
) -> Cell:
    """A cell of a believable size at ``centre`` (row, col) pixels."""
    diameter = {"nucleated": 12.0, "platelet": 2.5, "erythrocyte": RED_CELL_UM, "artefact": 10.0}[kind]
    half = diameter / UM_PER_PX / 2
    row, col = centre
    values: dict[str, object] = {
        "area_um2": math.pi * diameter**2 / 4,
        "touches_edge": False,
        "equivalent_diameter_um": diameter,
        "circularity": 0.9,
        "eccentricity": 0.3,
    }
    if kind == "nucleated":
        values |= {
            "nucleus_area_um2": 55.0,
            "nc_ratio": 0.49,
            "nuclear_lobes": 1.0,
            "nuclear_solidity": 0.95,
            "chromatin_texture": 0.2,
            "nucleus_od": 0.8,
            "cytoplasm_od": 0.2,
            "haematoxylin_od": 0.9,
            "eosin_od": 0.2,
            "granularity": 0.1,
        }
    return Cell(
        cell=number,
        kind=CellKind(kind),
        row_px=row,
        col_px=col,
        ymin_px=int(row - half),
        xmin_px=int(col - half),
        ymax_px=int(row + half),
        xmax_px=int(col + half),
        **{**values, **measures},  # type: ignore[arg-type]
    )


def prediction(
    name: str, probability: float = 0.97, status: str = "classified", reason: str = "", **more: object
) -> Prediction:
    """A call with ``probability`` on ``name`` and the rest spread evenly."""
    called = CellClass(name)
    rest = (1 - probability) / (len(CLASSES) - 1)
    return Prediction(
        cell_class=called,
        probability=probability,
        probabilities=tuple(probability if c is called else rest for c in CLASSES),
        unknown_score=float(more.pop("unknown_score", 0.5)),  # type: ignore[arg-type]
        status=CellStatus(status),
        reason=reason,
        **more,  # type: ignore[arg-type]
    )


@lru_cache(maxsize=32)
def thumbnail(name: str) -> bytes:
    """A drawing of a cell, JPEG 96 x 96, a shade per class."""
    picture = np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 235, np.uint8)
    shade = 60 + 12 * list(CLASSES).index(CellClass(name))
    cv2.circle(picture, (48, 48), 30, (210, 180, 200), -1, cv2.LINE_AA)
    cv2.circle(picture, (46, 48), 18, (shade, 40, 110), -1, cv2.LINE_AA)
    return bytes(cv2.imencode(".jpg", picture)[1])


@lru_cache(maxsize=4)
def preview(height: int = FIELD_PX[0], width: int = FIELD_PX[1]) -> bytes:
    """A drawing of a field of red cells, JPEG."""
    picture = np.full((height, width, 3), 240, np.uint8)
    for row in range(40, height, 80):
        for col in range(40, width, 80):
            cv2.circle(picture, (col, row), 36, (190, 180, 225), -1, cv2.LINE_AA)
    return bytes(cv2.imencode(".jpg", picture)[1])


def field_summary(name: str, **more: object) -> FieldSummary:
    """A field of 640 x 480 px, sharp and evenly lit."""
    values: dict[str, object] = {
        "height_px": FIELD_PX[0],
        "width_px": FIELD_PX[1],
        "scale": Scale(UM_PER_PX, ScaleSource.RED_CELLS, 0.01, 40, UM_PER_PX),
        "quality": FieldQuality(True, "", 0.3, 0.9, 0.001, 0.4, 0.1, (0.5, 0.8, 0.3)),
        "area_mm2": FIELD_PX[0] * FIELD_PX[1] * UM_PER_PX**2 / 1e6,
        "preview_jpeg": preview(),
    }
    return FieldSummary(name, **{**values, **more})  # type: ignore[arg-type]


def observations(
    counts: Mapping[str, int],
    fields: Sequence[str],
    *,
    unclassified: int = 0,
    red_cells: int = 0,
    artefacts: int = 0,
    cut_by_edge: int = 0,
    blast_like: int = 0,
) -> tuple[Observation, ...]:
    """Cells by table: ``counts`` per class (platelets and erythroblasts too), dealt over the fields in turn."""
    kinds = [(name, "platelet" if name == "platelet" else "nucleated", "classified") for name in counts]
    deals: list[tuple[str, str, str, int]] = [(*k, counts[k[0]]) for k in kinds]
    deals += [
        ("lymphocyte", "nucleated", "unclassified", unclassified),
        ("lymphocyte", "nucleated", "blast_like", blast_like),
        ("neutrophil", "nucleated", "edge", cut_by_edge),
        ("", "artefact", "excluded", artefacts),
        ("", "erythrocyte", "", red_cells),
    ]
    numbers = dict.fromkeys(fields, 0)
    made: list[Observation] = []
    for name, kind, status, count in deals:
        for i in range(count):
            field = fields[len(made) % len(fields)]
            numbers[field] += 1
            n = numbers[field]
            place = (60.0 + 37.0 * n % 360, 60.0 + 83.0 * n % 520)
            if kind == "erythrocyte":
                made.append(Observation(field, cell(n, kind, place), None))
            elif kind == "artefact":
                call = Prediction(None, math.nan, (), math.nan, CellStatus.EXCLUDED, "smudge cell")
                made.append(Observation(field, cell(n, kind, place, reason="smudge cell"), call))
            elif status == "unclassified":
                call = prediction(name, 0.4, status, "probability 0.40 below 0.60")
                made.append(Observation(field, cell(n, kind, place), call, thumbnail(name)))
            elif status == "blast_like":
                reasons = ("nucleus 1.6 red-cell diameters", "N:C 0.90", "unlike any trained class")
                call = prediction(
                    name,
                    0.5,
                    "unclassified",
                    "unlike any trained class",
                    unknown_score=9.0,
                    blast_like=True,
                    blast_reasons=reasons,
                )
                big = cell(n, kind, place, nc_ratio=0.9, nucleus_area_um2=113.0)
                made.append(Observation(field, big, call, thumbnail(name)))
            elif status == "edge":
                call = prediction(name, 0.9, "excluded", "nucleus cut by the edge of the field")
                cut = cell(n, kind, place, touches_edge=True, nucleus_touches_edge=True)
                made.append(Observation(field, cut, call, thumbnail(name)))
            else:
                call = prediction(name, 0.70 + 0.29 * ((i * 7) % 11) / 10)
                made.append(
                    Observation(field, cell(n, kind, place), call, b"" if kind == "platelet" else thumbnail(name))
                )
    return tuple(sorted(made, key=lambda o: (fields.index(o.field), o.cell.cell)))


def differential(counts: Mapping[str, int], *, area_mm2: float, wbc: float = math.nan, **more: int) -> Differential:
    """The table for these counts: Clopper-Pearson intervals, the outer one three points wider."""
    leukocytes = sum(counts.get(name, 0) for name in LEUKOCYTES)
    rows = []
    for name in LEUKOCYTES:
        k, n = counts.get(name, 0), leukocytes
        low = 100 * float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
        high = 100 * float(beta.ppf(0.975, k + 1, n - k)) if k < n else 100.0
        percent = 100 * k / n if n else math.nan
        reference = REFERENCE[name]
        outside = ""
        if percent < reference[0]:
            outside = "low" if high < reference[0] else "borderline low"
        elif percent > reference[1]:
            outside = "high" if low > reference[1] else "borderline high"
        rows.append(
            DifferentialRow(
                name,
                k,
                percent,
                low,
                high,
                max(0.0, low - 3),
                min(100.0, high + 3),
                *reference,
                outside,
                wbc * percent / 100,
                *((0.0, 7.5) if wbc == wbc else (math.nan, math.nan)),
            )
        )
    tiers = ((200, Adequacy.PREFERRED), (100, Adequacy.REPORTABLE), (50, Adequacy.LIMITED), (0, Adequacy.NONE))
    red_cells, platelets = more.get("red_cells", 0), counts.get("platelet", 0)
    nrbc = counts.get("erythroblast", 0)
    return Differential(
        rows=tuple(rows),
        adequacy=next(tier for least, tier in tiers if leukocytes >= least),
        leukocytes=leukocytes,
        unclassified=more.get("unclassified", 0) + more.get("blast_like", 0),
        erythroblasts=nrbc,
        nrbc_per_100_wbc=100 * nrbc / leukocytes if leukocytes else math.nan,
        platelets=platelets,
        erythrocytes=red_cells,
        platelets_per_1000_red_cells=1000 * platelets / red_cells if red_cells else math.nan,
        platelets_per_mm2=platelets / area_mm2,
        area_mm2=area_mm2,
        cut_by_edge=more.get("cut_by_edge", 0),
        smudge_cells=more.get("artefacts", 0),
        artefacts=more.get("artefacts", 0),
        blast_like=more.get("blast_like", 0),
        wbc_10e9_per_l=wbc,
    )


def tile_map() -> TileMap:
    """Three rows of four tiles: two counted, one of each other use, the rest background; with a picture."""
    blank = [TileUse.BACKGROUND] * 4
    middle = [TileUse.TOO_THICK, TileUse.COUNTED, TileUse.COUNTED, TileUse.TOO_THIN]
    rows = (blank, middle, [TileUse.UNFIT, TileUse.FAILED, *blank[:2]])
    return TileMap(tuple(map(tuple, rows)), 3000, 4000, preview(60, 80))


def slide_result(
    counts: Mapping[str, int] | None = None,
    *,
    name: str = "slide-1",
    fields: int = 4,
    flags: Sequence[Flag] = (),
    wbc: float = math.nan,
    comment: str = "",
    field_names: Sequence[str] | None = None,
    whole_slide: bool = False,
    **more: int,
) -> SlideResult:
    """One slide with these counts; ``more`` as for :func:`observations` (unclassified, red_cells, artefacts, ...)."""
    counts = counts if counts is not None else {"neutrophil": 12, "lymphocyte": 6, "platelet": 4}
    names = list(field_names or [f"field_{i + 1:02d}.png" for i in range(fields)])
    summaries = tuple(field_summary(n) for n in names)
    root = Path("slides") / "one"
    return SlideResult(
        slide=Slide(
            name,
            root,
            tuple(root / n for n in names),
            whole_slide,
            wbc_10e9_per_l=None if math.isnan(wbc) else wbc,
            comment=comment,
            sample_id="S-001",
        ),
        status="done",
        fields=summaries,
        observations=observations(counts, names, **more),
        differential=differential(counts, area_mm2=sum(s.area_mm2 for s in summaries), wbc=wbc, **more),
        flags=tuple(flags),
        weights=weights_info(),
        um_per_px=UM_PER_PX,
        analysed_at="2026-03-01T12:00:00+00:00",
        version="0.1.0",
        identity="f" * 64,
        device="cpu",
        seconds=1.25,
        options={"profile": {"flags": {"off": []}}},
    )
