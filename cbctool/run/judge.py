"""What was found against what is annotated: the figures, field by field and in total, and every mistake by name."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.errors import UnreadableImageError
from cbctool.records import CLASSES, LEUKOCYTES, Cell, CellClass, CellKind, CellStatus
from cbctool.run import agreement
from cbctool.run.findings import Findings
from cbctool.run.truth import FieldTruth, Truth, TruthObject, clip_to_field, scale_truth
from cbctool.run.truth_formats import TruthFault, TruthFormat

JUDGED_KINDS = (CellKind.NUCLEATED, CellKind.ERYTHROCYTE, CellKind.PLATELET)

UNCLASSIFIED = "unclassified"


@dataclass(frozen=True)
class Mistake:
    """A missed cell, a false detection, or a detection whose box is off ("loose"), in pixels of the file.

    ``found_as`` says what lies at a missed cell's place ("artefact (smudge cell)", "nothing"), for a false detection
    what the annotation has there, for a loose one the overlap. ``detection`` is the box of what was found at a missed
    or loosely fitting cell's place (ymin, xmin, ymax, xmax), None if nothing was.
    """

    path: Path
    field: str
    kind: CellKind
    what: str  # "missed", "false" or "loose"
    ymin_px: float
    xmin_px: float
    ymax_px: float
    xmax_px: float
    um_per_px: float
    found_as: str = ""
    detection: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class FieldCounts:
    """One row of ``fields.csv``: a field, a kind, and its counts."""

    field: str
    kind: CellKind
    annotated: int
    found: int
    by_iou: agreement.DetectionCounts | None
    by_centre: agreement.DetectionCounts
    um_per_px: float
    truth_um_per_px: float


@dataclass(frozen=True)
class Judgement:
    """The figures, ready for JSON, and the tables behind them."""

    figures: Mapping[str, Any]
    counts: tuple[FieldCounts, ...]
    mistakes: tuple[Mistake, ...]
    faults: tuple[TruthFault, ...]


@dataclass
class _Tally:
    """What the loop over the fields adds up."""

    counts: list[FieldCounts] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    faults: list[TruthFault] = field(default_factory=list)
    far: list[dict[str, Any]] = field(default_factory=list)
    nucleated_beside_points: int = 0
    names: Counter[str] = field(default_factory=Counter)
    names_hit: Counter[str] = field(default_factory=Counter)
    truth_classes: list[int] = field(default_factory=list)
    called: list[int] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)
    class_not_judged: Counter[str] = field(default_factory=Counter)
    scales: list[tuple[float, float, int]] = field(default_factory=list)
    dice: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)


def judge(findings: Sequence[Findings], truth: Truth) -> Judgement:
    """Compare what was found in the annotated fields with the annotation.

    A field that could not be analysed counts with everything in it missed. Cells at the edge count like all others.
    Objects of unknown kind are neither right nor wrong. Kinds that the annotation names nowhere are not judged.

    Parameters
    ----------
    findings : sequence of Findings
        Of the annotated fields at least; others are left aside.
    truth : Truth

    Returns
    -------
    Judgement
    """
    by_path = {f.path: f for f in findings}
    kinds = [k for k in JUDGED_KINDS if k in truth.kinds]
    tally = _Tally(faults=list(truth.faults))
    judged = [(by_path[t.path], t) for t in truth.fields if t.path in by_path]
    by_points = truth.format is TruthFormat.POINTS
    for found, annotated in judged:
        _judge_field(found, annotated, kinds, by_points, tally)
    figures: dict[str, Any] = {
        "fields": {
            "judged": len(judged),
            "failed": [{"field": f.name, "error": f.error, "advice": f.advice} for f, _ in judged if f.error],
            "unfit": [{"field": f.name, "reason": f.reason} for f, _ in judged if not f.error and not f.fit],
        },
        "matching": "one-to-one, optimal within a field (linear_sum_assignment): by IoU >= "
        f"{agreement.IOU_THRESHOLD:g}; by centre of the detection in the annotated box, or within "
        f"{agreement.POINT_RADIUS_UM:g} um of an annotated point",
        "kinds": {k.value: _kind_figures(k, tally.counts) for k in kinds},
        "seconds_per_field": _median([f.seconds for f, _ in judged if not f.error]),
    }
    if by_points:
        figures["points"] = _point_figures(tally)
    if tally.dice:
        figures["dice"] = {part: _dice_figures(values) for part, values in tally.dice.items()}
    if tally.scales:
        figures["scale"] = _scale_figures(tally.scales)
    if tally.truth_classes or tally.class_not_judged:
        figures["classes"] = _class_figures(tally)
    return Judgement(figures, tuple(tally.counts), tuple(tally.mistakes), tuple(tally.faults))


def differential_counts(findings: Sequence[Findings]) -> dict[CellClass, int]:
    """Classified leukocytes of each class in all these fields together."""
    counts = Counter(
        p.cell_class for f in findings for p in f.predictions if p is not None and p.status is CellStatus.CLASSIFIED
    )
    return {cls: counts[cls] for cls in LEUKOCYTES}


def differential_change(before: Mapping[CellClass, int], after: Mapping[CellClass, int]) -> dict[str, Any]:
    """Whether a differential stays within the sampling interval of another one of the same cells.

    Returns
    -------
    dict
        Per class percent before with its exact 95 % interval, percent after and whether it lies within;
        ``unchanged`` when all do.
    """
    total, total_after = sum(before.values()), sum(after.values())
    rows: dict[str, Any] = {}
    for cls in LEUKOCYTES:
        low, high = agreement.exact_interval(before[cls], total)
        share = after[cls] / total_after if total_after else math.nan
        rows[cls.value] = {
            "percent": 100 * before[cls] / total if total else math.nan,
            "interval": [100 * low, 100 * high],
            "percent_after": 100 * share,
            "within": bool(low <= share <= high),
        }
    unchanged = all(r["within"] for r in rows.values()) if total and total_after else None
    return {"leukocytes": total, "leukocytes_after": total_after, "unchanged": unchanged, "classes": rows}


# ----------------------------------------------------------------------------------------------------------- per field


def _judge_field(
    found: Findings, annotated: FieldTruth, kinds: Sequence[CellKind], by_points: bool, tally: _Tally
) -> None:
    if found.height_px:
        annotated = scale_truth(annotated, found.factor_row, found.factor_col)
        annotated, faults = clip_to_field(annotated, found.height_px, found.width_px)
        tally.faults.extend(faults)
    scale = _truth_scale(found, annotated)
    if math.isfinite(scale[0]):
        tally.scales.append((scale[0], found.red_cell_um_per_px, scale[1]))
    for kind in kinds:
        _judge_kind(found, annotated, kind, by_points, scale[0], tally)
    if by_points:
        _note_far_detections(found, annotated, tally)
    _judge_classes(found, annotated, tally)
    if annotated.mask is not None:
        _judge_mask(found, annotated, tally)


def _truth_scale(found: Findings, annotated: FieldTruth) -> tuple[float, int]:
    red = [o for o in annotated.objects if o.kind is CellKind.ERYTHROCYTE and not o.is_point]
    if not found.height_px:
        return math.nan, 0
    return agreement.red_cell_scale(_boxes(red), found.height_px, found.width_px)


def _judge_kind(
    found: Findings, annotated: FieldTruth, kind: CellKind, by_points: bool, truth_scale: float, tally: _Tally
) -> None:
    wanted = [o for o in annotated.objects if o.kind is kind]
    aside = [o for o in annotated.objects if o.kind is None]
    cells = [c for c in found.cells if c.kind is kind]
    radius = _radius(found)
    hits = _match(wanted, cells, radius)
    missed = sorted(set(range(len(wanted))) - {i for i, _ in hits})
    false = sorted(set(range(len(cells))) - {j for _, j in hits})
    ignored = [j for j in false if any(_is_at(o, cells[j], radius) for o in aside)]
    false = [j for j in false if j not in ignored]
    by_centre = agreement.DetectionCounts(len(hits), len(missed), len(false), len(ignored))
    by_iou = None
    if not by_points:
        pairs = agreement.match_by_iou(_boxes(wanted), _cell_boxes(cells))
        left = set(range(len(cells))) - {int(j) for _, j in pairs}
        apart = sum(any(_is_at(o, cells[j], radius) for o in aside) for j in left)
        by_iou = agreement.DetectionCounts(len(pairs), len(wanted) - len(pairs), len(left) - apart, apart)
    tally.counts.append(
        FieldCounts(
            found.name,
            kind,
            len(wanted),
            len(cells) - len(ignored),
            by_iou,
            by_centre,
            found.um_per_px,
            truth_scale,
        )
    )
    tally.names.update(o.name for o in wanted)
    tally.names_hit.update(wanted[i].name for i, _ in hits)
    for i in missed:
        o = wanted[i]
        there, how = _what_is_at(o, found.cells, radius)
        half = radius if o.is_point and math.isfinite(radius) else 0.0
        box = (o.ymin_px - half, o.xmin_px - half, o.ymax_px + half, o.xmax_px + half)
        tally.mistakes.append(_mistake(found, kind, "missed", box, found.error or how, there))
    for j in false:
        c = cells[j]
        there_is = next((o for o in annotated.objects if _is_at(o, c, radius)), None)
        box = (c.ymin_px, c.xmin_px, c.ymax_px, c.xmax_px)
        tally.mistakes.append(_mistake(found, kind, "false", box, there_is.name if there_is else "nothing"))
    if by_iou is not None:
        overlap = agreement.iou_matrix(_boxes(wanted), _cell_boxes(cells))
        for i, j in hits:
            if overlap[i, j] < agreement.IOU_THRESHOLD:
                o = wanted[i]
                box = (o.ymin_px, o.xmin_px, o.ymax_px, o.xmax_px)
                tally.mistakes.append(_mistake(found, kind, "loose", box, f"IoU {overlap[i, j]:.2f}", cells[j]))


def _match(wanted: Sequence[TruthObject], cells: Sequence[Cell], radius: float) -> list[tuple[int, int]]:
    centres = _centres(cells)
    if any(o.is_point for o in wanted):
        pairs = agreement.match_by_distance([(o.ymin_px, o.xmin_px) for o in wanted], centres, radius)
    else:
        pairs = agreement.match_by_centre(_boxes(wanted), centres)
    return [(int(i), int(j)) for i, j in pairs]


def _is_at(o: TruthObject, c: Cell, radius: float) -> bool:
    if o.is_point:
        return math.hypot(o.ymin_px - c.row_px, o.xmin_px - c.col_px) <= radius
    return o.ymin_px <= c.row_px < o.ymax_px and o.xmin_px <= c.col_px < o.xmax_px


def _what_is_at(o: TruthObject, cells: Sequence[Cell], radius: float) -> tuple[Cell | None, str]:
    """What was made of an annotated object that was missed: another kind of cell, or a part of a larger one."""
    row, col = (o.ymin_px + o.ymax_px) / 2, (o.xmin_px + o.xmax_px) / 2
    for cell in cells:
        if _is_at(o, cell, radius):
            return cell, f"{cell.kind} ({cell.reason})" if cell.reason else cell.kind.value
    around = [c for c in cells if c.ymin_px <= row < c.ymax_px and c.xmin_px <= col < c.xmax_px]
    if not around:
        return None, "nothing"
    largest = max(around, key=lambda c: c.area_um2)
    return largest, f"part of {largest.kind}" + (f" ({largest.reason})" if largest.reason else "")


def _mistake(
    found: Findings,
    kind: CellKind,
    what: str,
    box: tuple[float, float, float, float],
    found_as: str,
    detection: Cell | None = None,
) -> Mistake:
    row, col = found.factor_row, found.factor_col
    ymin, xmin, ymax, xmax = box
    there = None
    if detection is not None:
        d = detection
        there = (d.ymin_px / row, d.xmin_px / col, d.ymax_px / row, d.xmax_px / col)
    return Mistake(
        found.path,
        found.name,
        kind,
        what,
        ymin / row,
        xmin / col,
        ymax / row,
        xmax / col,
        found.um_per_px * col,
        found_as,
        there,
    )


def _note_far_detections(found: Findings, annotated: FieldTruth, tally: _Tally) -> None:
    """Nucleated detections that lie further than the radius from every annotated point, whatever it is of."""
    cells = [c for c in found.cells if c.kind is CellKind.NUCLEATED]
    tally.nucleated_beside_points += len(cells)
    points = [(o.ymin_px, o.xmin_px) for o in annotated.objects if o.is_point]
    for cell in cells:
        px = min((math.hypot(r - cell.row_px, c - cell.col_px) for r, c in points), default=math.inf)
        um = px * found.um_per_px
        if um > agreement.POINT_RADIUS_UM:
            place = {"row_px": cell.row_px / found.factor_row, "col_px": cell.col_px / found.factor_col}
            tally.far.append({"field": found.name, "cell": cell.cell, **place, "nearest_um": um})


def _judge_classes(found: Findings, annotated: FieldTruth, tally: _Tally) -> None:
    """Calls on cells that someone has named, by position or (where the whole field has one name) by field."""
    nucleated = [i for i, c in enumerate(found.cells) if c.kind is CellKind.NUCLEATED]
    named: list[tuple[CellClass, int]] = []
    if annotated.classes:
        distinct = set(annotated.classes)
        if len(distinct) == 1 and len(nucleated) == len(annotated.classes):
            named = [(annotated.classes[0], i) for i in nucleated]
        else:
            tally.class_not_judged["field whose cells and names cannot be paired"] += len(annotated.classes)
    wanted = [o for o in annotated.objects if o.cell_class is not None]
    if wanted:
        radius = _radius(found)
        pairs = _match(wanted, [found.cells[i] for i in nucleated], radius)
        tally.class_not_judged["not found"] += len(wanted) - len(pairs)
        named += [(cls, nucleated[j]) for i, j in pairs if (cls := wanted[i].cell_class) is not None]
    for cls, index in named:
        prediction = found.predictions[index] if found.predictions else None
        if prediction is None:
            tally.class_not_judged["not classified"] += 1
        elif prediction.status is CellStatus.EXCLUDED:
            tally.class_not_judged[prediction.reason or "excluded"] += 1
        else:
            best = CLASSES.index(prediction.cell_class) if prediction.cell_class is not None else len(CLASSES)
            tally.truth_classes.append(CLASSES.index(cls))
            tally.guessed.append(best)
            tally.called.append(best if prediction.status is CellStatus.CLASSIFIED else len(CLASSES))


def _judge_mask(found: Findings, annotated: FieldTruth, tally: _Tally) -> None:
    if annotated.mask is None or found.cell_mask is None or found.nucleus_mask is None:
        if not found.error:
            raise ValueError("masks are to be judged, but find_cells was not asked for them")
        return
    cells, nuclei = _read_mask(annotated.mask, found.height_px, found.width_px)
    pairs = [("cell", cells, found.cell_mask)]
    if nuclei is not None:
        pairs.append(("nucleus", nuclei, found.nucleus_mask))
    for part, wanted, packed in pairs:
        got = np.unpackbits(packed, axis=1, count=found.width_px).astype(bool)
        counts = (int((wanted & got).sum()), int(wanted.sum()), int(got.sum()))
        tally.dice.setdefault(part, []).append(counts)


def _read_mask(path: Path, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Whole cells and nuclei of a mask file, at the size of the picture that was judged."""
    # imdecode and not imread: a file name of any letters can then be read on every system.
    mask = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise UnreadableImageError(f"{path.name}: the mask cannot be read.", "Save it as PNG.")
    mask = np.asarray(mask if mask.ndim == 2 else mask[..., :3].max(axis=2))
    if mask.shape != (height, width):
        mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST))
    three_levels = bool(np.isin(mask, (0, 128, 255)).all()) and bool((mask == 128).any())
    return mask > 0, (mask == 255) if three_levels else None


def _radius(found: Findings) -> float:
    return agreement.POINT_RADIUS_UM / found.um_per_px if math.isfinite(found.um_per_px) else math.nan


def _boxes(objects: Sequence[TruthObject]) -> NDArray[np.float64]:
    return np.array([(o.ymin_px, o.xmin_px, o.ymax_px, o.xmax_px) for o in objects], float).reshape(-1, 4)


def _cell_boxes(cells: Sequence[Cell]) -> NDArray[np.float64]:
    return np.array([(c.ymin_px, c.xmin_px, c.ymax_px, c.xmax_px) for c in cells], float).reshape(-1, 4)


def _centres(cells: Sequence[Cell]) -> NDArray[np.float64]:
    return np.array([(c.row_px, c.col_px) for c in cells], float).reshape(-1, 2)


# ------------------------------------------------------------------------------------------------------------- figures


def _kind_figures(kind: CellKind, counts: Sequence[FieldCounts]) -> dict[str, Any]:
    rows = [c for c in counts if c.kind is kind]
    error = agreement.count_error([c.annotated for c in rows], [c.found for c in rows])
    centre = sum((c.by_centre for c in rows), agreement.DetectionCounts(0, 0, 0))
    iou = [c.by_iou for c in rows if c.by_iou is not None]
    return {
        "annotated": error.annotated,
        "found": error.found,
        "centre": _detection_figures(centre),
        "iou": _detection_figures(sum(iou, agreement.DetectionCounts(0, 0, 0))) if iou else None,
        "count_error": {
            "total": error.total,
            "mean_absolute_per_field": error.mean_absolute_per_field,
            "bias_per_field": error.bias_per_field,
            "limits_per_field": list(error.limits_per_field),
        },
    }


def _detection_figures(counts: agreement.DetectionCounts) -> dict[str, Any]:
    tp, fn, fp = counts.true_positives, counts.false_negatives, counts.false_positives
    return {
        "recall": counts.recall,
        "recall_interval": list(agreement.exact_interval(tp, tp + fn)),
        "precision": counts.precision,
        "precision_interval": list(agreement.exact_interval(tp, tp + fp)),
        "f1": counts.f1,
        **asdict(counts),
    }


def _point_figures(tally: _Tally) -> dict[str, Any]:
    total = tally.nucleated_beside_points
    return {
        "recall_by_name": {
            name: {
                "annotated": n,
                "found": tally.names_hit[name],
                "recall": tally.names_hit[name] / n,
                "recall_interval": list(agreement.exact_interval(tally.names_hit[name], n)),
            }
            for name, n in sorted(tally.names.items())
        },
        "nucleated_detections": total,
        "far_from_any_point": len(tally.far),
        "far_share": len(tally.far) / total if total else math.nan,
        "far": tally.far,
    }


def _dice_figures(values: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Pooled over all pixels, and the median over fields that hold anything."""

    def coefficient(common: int, wanted: int, got: int) -> float:
        return 2 * common / (wanted + got)

    per_field = [coefficient(*v) for v in values if v[1] + v[2]]
    pooled = [sum(column) for column in zip(*values, strict=True)]
    return {
        "pooled": coefficient(*pooled) if pooled[1] + pooled[2] else math.nan,
        "median_field": _median(per_field),
        "mean_field": statistics.fmean(per_field) if per_field else math.nan,
        "fields": len(per_field),
    }


def _scale_figures(scales: Sequence[tuple[float, float, int]]) -> dict[str, Any]:
    """The scale from the field's own red cells against 7.5 um over the annotated red cells' median side."""
    both = [(t, f, n) for t, f, n in scales if math.isfinite(f)]
    errors = [f / t - 1 for t, f, _ in both]
    return {
        "fields_with_annotated_red_cells": len(scales),
        "fields_with_own_estimate": len(both),
        "truth_median_um_per_px": _median([t for t, _, _ in scales]),
        "found_median_um_per_px": _median([f for _, f, _ in both]),
        "median_error": _median(errors),
        "median_absolute_error": _median([abs(e) for e in errors]),
        "share_within_5_percent": sum(abs(e) <= 0.05 for e in errors) / len(errors) if errors else math.nan,
        "error_of_medians": _median([f for _, f, _ in both]) / _median([t for t, _, _ in both]) - 1,
    }


def _class_figures(tally: _Tally) -> dict[str, Any]:
    k = len(CLASSES)
    confusion = agreement.confusion_matrix(tally.truth_classes, tally.called, k, k + 1)
    guesses = agreement.confusion_matrix(tally.truth_classes, tally.guessed, k, k + 1)
    judged = int(confusion.sum())
    classified = int(confusion[:, :k].sum())
    present = [i for i in range(k) if confusion[i].sum()]
    rates = agreement.class_rates(confusion)
    return {
        "judged": judged,
        "not_judged": dict(tally.class_not_judged),
        "accuracy_before_abstention": _ratio(int(np.trace(guesses[:, :k])), judged),
        "balanced_accuracy_before_abstention": (
            statistics.fmean(guesses[i, i] / guesses[i].sum() for i in present) if present else math.nan
        ),
        "coverage": _ratio(classified, judged),
        "selective_accuracy": _ratio(int(np.trace(confusion[:, :k])), classified),
        "kappa": asdict(agreement.cohen_kappa(confusion[:, :k])),
        "columns": [*CLASSES, UNCLASSIFIED],
        "confusion": confusion.tolist(),
        "per_class": {CLASSES[i].value: asdict(rates[i]) for i in present},
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
