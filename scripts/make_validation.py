"""Regenerate ``VALIDATION.md``: every promised figure, the command that gives it, and where the truth is at fault.

    python scripts/make_validation.py [--jobs 2] [--insults-on 4] [--out VALIDATION.md]

Needs the real data (``CBCTOOL_DATA``, or ``../shared/data`` beside the checkout). Each figure is what the command
beside it prints: the same functions are called, and only the clean pass that insults are compared with is not repeated.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cut_leukocytes import BOXES, cut

from cbctool import __version__
from cbctool.errors import CbctoolError
from cbctool.records import CellKind
from cbctool.run.findings import call_findings, list_pictures
from cbctool.run.insult import EXTREMES, InsultKind, parse_insult
from cbctool.run.judge import Mistake, judge
from cbctool.run.truth import read_truth
from cbctool.run.validate import ValidateOptions, find_in, insult_figures, validate_crops, validate_fields

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CBCTOOL_DATA", ROOT.parent / "shared" / "data"))
NEAR_PX = 20.0
"""A detection is the one that was looked at when it lies within this distance of the place noted below."""


@dataclass(frozen=True)
class Source:
    """Fields and one annotation of them, relative to the data folder."""

    fields: str
    truth: str

    def command(self, more: str = "") -> str:
        return f"cbctool validate $CBCTOOL_DATA/{self.fields} --truth $CBCTOOL_DATA/{self.truth}{more}"


SOURCES = {
    "BCCD": Source("bccd/images", "bccd/annotations"),
    "BCCD re-annotated": Source("bccd/images", "bccd/boxes_txl.csv"),
    "BCCD masks": Source("bccd/images", "bccd/masks"),
    "PBC": Source("pbc", "pbc/boxes.csv"),
    "ALL-IDB1": Source("all_idb1/images", "all_idb1/points.csv"),
}


@dataclass(frozen=True)
class Goal:
    """One figure that must be reached: where it is in the JSON of a source, and the bound."""

    source: str
    what: str
    at: str
    bound: float
    at_most: bool = False

    def reached(self, value: float) -> bool:
        return abs(value) <= self.bound if self.at_most else value >= self.bound


GOALS = (
    Goal("BCCD", "leukocyte recall, by centre", "kinds.nucleated.centre.recall", 0.995),
    Goal("BCCD", "leukocyte precision, by centre", "kinds.nucleated.centre.precision", 0.985),
    Goal("BCCD", "leukocyte F1, IoU 0.5", "kinds.nucleated.iou.f1", 0.97),
    Goal("BCCD", "red cell recall of the original boxes, IoU 0.5", "kinds.erythrocyte.iou.recall", 0.95),
    Goal("BCCD re-annotated", "red cell F1, IoU 0.5", "kinds.erythrocyte.iou.f1", 0.90),
    Goal("BCCD re-annotated", "red cell total count error", "kinds.erythrocyte.count_error.total", 0.04, True),
    Goal("BCCD re-annotated", "platelet F1, by centre", "kinds.platelet.centre.f1", 0.90),
    Goal("BCCD masks", "whole-cell Dice", "dice.cell.pooled", 0.93),
    Goal("BCCD masks", "nucleus Dice", "dice.nucleus.pooled", 0.92),
    Goal("PBC", "leukocyte recall, by centre", "kinds.nucleated.centre.recall", 0.99),
    Goal("PBC", "leukocyte precision, by centre", "kinds.nucleated.centre.precision", 0.98),
    Goal("PBC", "leukocyte F1, IoU 0.5", "kinds.nucleated.iou.f1", 0.97),
    Goal("PBC", "red cell F1, IoU 0.5", "kinds.erythrocyte.iou.f1", 0.90),
    Goal("PBC", "platelet F1, by centre", "kinds.platelet.centre.f1", 0.85),
    Goal("ALL-IDB1", "recall of blasts", "points.recall_by_name.blast.recall", 0.98),
    Goal("ALL-IDB1", "nucleated detections > 5 um from any point", "points.far_share", 0.02, True),
)

INSULTED = ("BCCD", "PBC", "ALL-IDB1")
MOST_LOST = 0.02
CAMERA = (
    "Light is told by what it loses in a corner, the share of tint, and amplitude and number of a flickering lamp's "
    "bands. A camera is told by the share of pixels clipped at either end (auto levels), the factor on the "
    "saturation, the amount of sharpening, the sigma of the noise in grey levels, and the quality of the JPEG."
)

CAVEATS = (
    "BCCD's original boxes miss about 40 % of the red cells and a quarter of the platelets. Precision and counts "
    "of both are therefore judged on the 132 fields that TXL-PBC annotated again, and only recall on the original "
    "boxes.",
    "BCCD `BloodImage_00133` and `BloodImage_00228` show leukocytes that nobody boxed: finding them counts as "
    "false. `BloodImage_00113` has a platelet-like blob boxed as WBC: not taking it for a leukocyte counts as a "
    "miss.",
    "BCCD `BloodImage_00338` and `BloodImage_00343` have a degenerate red-cell box each (0 x 0 px); both are left "
    "out and named in every run. Three PBC frames (`BNE_12343`, `LY_10361`, `EO_1007`) have their boxes written "
    "down twice; they are counted once and named.",
    "30 % of BCCD's leukocytes touch the edge of the field (they count here, and are left out of a differential), "
    "and the health of its patients is unknown: a quarter of the named cells are eosinophils.",
    "ALL-IDB1's `other` points mark leukocytes, platelets, edge and smudge cells alike, so a detection near one "
    "is neither right nor wrong. Camera goes with disease there (the 856 x 684 fields are all of patients), and "
    "seven fields of patients have only one or two blasts: its figures say nothing about telling patients from "
    "healthy people.",
)

Seen = Mapping[str, Mapping[str, tuple[tuple[int, int], ...]]]
"""What was seen, in which fields, at which rows and columns in pixels of the file."""

FAR_FROM_POINTS: Seen = {
    "smudge cell": {
        "Im001_1.jpg": ((54, 143), (164, 424), (523, 267), (536, 580), (544, 537), (541, 562), (611, 443)),
        "Im003_1.jpg": ((269, 577), (340, 179)),
        "Im005_1.jpg": ((44, 646), (270, 764), (379, 278)),
        "Im007_1.jpg": ((355, 293), (367, 730)),
        "Im009_1.jpg": ((74, 169), (282, 653), (618, 263)),
        "Im011_1.jpg": ((73, 301), (185, 761), (231, 51), (467, 549)),
        "Im013_1.jpg": ((86, 793),),
        "Im015_1.jpg": ((372, 449), (551, 341), (600, 359)),
        "Im019_1.jpg": ((125, 355), (281, 444), (283, 784), (430, 791), (433, 241), (556, 492)),
        "Im049_1.jpg": ((301, 895), (324, 607), (854, 210)),
        "Im059_1.jpg": ((619, 454),),
        "Im061_1.jpg": ((251, 117),),
    },
    "smudge cell cut by the edge": {
        "Im001_1.jpg": ((80, 840), (291, 832)),
        "Im005_1.jpg": ((29, 397),),
        "Im009_1.jpg": ((575, 816),),
        "Im015_1.jpg": ((152, 846),),
        "Im019_1.jpg": ((244, 827), (547, 801), (635, 708), (662, 687)),
        "Im059_1.jpg": ((23, 1049),),
    },
    "leukocyte cut by the edge, without a point": {
        "Im001_1.jpg": ((672, 33),),
        "Im005_1.jpg": ((58, 10),),
        "Im013_1.jpg": ((124, 12),),
        "Im019_1.jpg": ((5, 126),),
        "Im049_1.jpg": ((874, 1273),),
        "Im051_1.jpg": ((21, 791), (943, 373)),
        "Im053_1.jpg": ((959, 1121),),
        "Im057_1.jpg": ((742, 6),),
        "Im059_1.jpg": ((349, 1284),),
    },
    "whole leukocyte without a point": {
        "Im055_1.jpg": ((745, 679),),
        "Im059_1.jpg": ((332, 1177), (733, 390)),
        "Im105_0.jpg": ((276, 894),),
    },
    "two leukocytes taken for one": {
        "Im007_1.jpg": ((395, 26),),
    },
}
"""ALL-IDB1's detections far from any point. The pictures are in the PDF that the command writes with ``--out``; they
may not be shown here."""

NOT_LOOKED_AT = "not looked at"
PLATELET = "platelet that nobody boxed"
DUST = "dust of the camera, at the same place in several fields"
PLATELETS: Seen = {
    PLATELET: {
        "BloodImage_00168.jpg": ((472, 536),),
        "BloodImage_00176.jpg": ((47, 344), (386, 204)),
        "BloodImage_00187.jpg": ((454, 356),),
        "BloodImage_00216.jpg": ((390, 506),),
        "BloodImage_00232.jpg": ((150, 260),),
        "BloodImage_00245.jpg": ((475, 374),),
        "BloodImage_00246.jpg": ((264, 275),),
        "BloodImage_00288.jpg": ((66, 87),),
        "BloodImage_00298.jpg": ((100, 632),),
        "BloodImage_00302.jpg": ((7, 224),),
        "BloodImage_00312.jpg": ((7, 362),),
        "BloodImage_00325.jpg": ((209, 34),),
        "BloodImage_00340.jpg": ((426, 27),),
        "BloodImage_00348.jpg": ((8, 44),),
        "BloodImage_00354.jpg": ((331, 86),),
        "BloodImage_00359.jpg": ((11, 323),),
    },
    "platelet or precipitate, not to be told": {
        "BloodImage_00275.jpg": ((252, 6),),
        "BloodImage_00301.jpg": ((318, 158),),
        "BloodImage_00335.jpg": ((246, 210),),
        "BloodImage_00347.jpg": ((414, 318),),
    },
    "rim of a red cell": {
        "BloodImage_00216.jpg": ((397, 532),),
        "BloodImage_00302.jpg": ((58, 8),),
        "BloodImage_00326.jpg": ((454, 608),),
        "BloodImage_00330.jpg": ((476, 236),),
        "BloodImage_00398.jpg": ((474, 8),),
    },
    "precipitate": {
        "BloodImage_00378.jpg": ((276, 162), (344, 144)),
    },
    DUST: {
        "BloodImage_00095.jpg": ((78, 562),),
        "BloodImage_00170.jpg": ((80, 562),),
        "BloodImage_00174.jpg": ((80, 564),),
        "BloodImage_00187.jpg": ((82, 562),),
    },
    "platelet": {
        "BloodImage_00259.jpg": ((358, 532),),
        "BloodImage_00262.jpg": ((284, 306),),
        "BloodImage_00297.jpg": ((264, 232),),
        "BloodImage_00314.jpg": ((66, 122),),
        "BloodImage_00317.jpg": ((226, 134),),
        "BloodImage_00326.jpg": ((426, 114),),
    },
}
"""BCCD's platelets, annotated again, that count as false or missed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=ROOT / "VALIDATION.md")
    parser.add_argument("--without-insults", action="store_true", help="leave the insult table out: a quick look")
    parser.add_argument("--insults-on", type=int, default=1, metavar="N", help="insult every Nth field (1: all)")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"no real data at {DATA}: set CBCTOOL_DATA", file=sys.stderr)
        return 5
    options = ValidateOptions(jobs=arguments.jobs)
    figures, mistakes = {}, {}
    for name, source in SOURCES.items():
        began = time.monotonic()
        validation = validate_fields(DATA / source.fields, DATA / source.truth, options)
        figures[name], mistakes[name] = validation.figures, validation.mistakes
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    insults = [] if arguments.without_insults else list(insult_rows(options, arguments.insults_on))
    text = "\n".join(
        [
            *head(),
            *goal_lines(figures),
            *insult_lines(insults, arguments.insults_on),
            *close_lines(options),
            *scale_lines(figures),
            *far_lines(figures),
            *platelet_lines(figures["BCCD re-annotated"], mistakes["BCCD re-annotated"]),
        ]
    )
    text += "\n".join(["", *class_lines(options), *caveat_lines(figures)]) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    return 0


def head() -> list[str]:
    text = f"""Written by `python scripts/make_validation.py` with cbctool {__version__}; do not edit.
    `$CBCTOOL_DATA` is the folder of real data (BCCD: MIT; PBC: CC BY 4.0; ALL-IDB1: research use, never shown).
    No weight of the classifier was trained on BCCD or ALL-IDB1, but the imaging room's constants were chosen while
    looking at all three sets: these are development figures, which another laboratory's fields should be expected to
    fall short of. Matching is one-to-one and optimal within a field, cells at the edge included; a
    detection is right by centre when its centre lies in the annotated box, or within 5 um of an annotated point. A
    field that could not be analysed counts with everything in it missed. For research use."""
    return ["# Validation", "", prose(text), ""]


def prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 110)


def goal_lines(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["## What must be reached", "", "| data | figure | must reach | reached | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        value = at(figures[goal.source], goal.at)
        bound = f"{'at most ' if goal.at_most else ''}{goal.bound:g}"
        verdict = "yes" if goal.reached(value) else "**no**"
        lines.append(f"| {goal.source} | {goal.what} | {bound} | {value:.3f} | {verdict} |")
    lines += ["", "| data | fields | failed | unfit | command |", "|---|---|---|---|---|"]
    for name, source in SOURCES.items():
        f = figures[name]["fields"]
        counts = f"{f['judged']} | {len(f['failed'])} | {len(f['unfit'])}"
        lines.append(f"| {name} | {counts} | `{source.command()}` |")
    return [*lines, ""]


def at(figures: Mapping[str, Any], path: str) -> float:
    value: Any = figures
    for key in path.split("."):
        value = value[key]
    return float(value)


def insult_rows(options: ValidateOptions, every: int) -> Iterator[tuple[str, InsultKind, dict[str, Any]]]:
    """What each insult costs each source, from one clean pass per source."""
    for name in INSULTED:
        source = SOURCES[name]
        fields, truth_path = DATA / source.fields, DATA / source.truth
        truth = read_truth(truth_path, list_pictures(fields, leave_out=truth_path))
        truth = replace(truth, fields=truth.fields[::every])
        clean = with_calls(find_in(fields, truth, options))
        scales = {f.path: f.um_per_px for f in clean}
        for kind in EXTREMES:
            began = time.monotonic()
            insult = parse_insult(kind.value)
            hurt = with_calls(find_in(fields, truth, options, insult=insult, clean_um_per_px=scales))
            yield name, kind, insult_figures(clean, judge(clean, truth), hurt, judge(hurt, truth), insult)
            print(f"{name}, {kind}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def close_lines(options: ValidateOptions) -> list[str]:
    """Leukocytes in pictures that show little else."""
    text = """Windows around each leukocyte, as collections of single cells have them, with the scale given: half of an
    18 um window is leukocyte. Neighbours count if half of them is seen. The commands are
    `python scripts/cut_leukocytes.py COLLECTION --side-um SIDE --out CUT` and
    `cbctool validate CUT --truth CUT/boxes.csv --um-per-px SCALE`."""
    lines = ["## Pictures of one leukocyte", "", prose(text), ""]
    lines += [
        "| collection | side (um) | um/px | pictures | recall | precision | F1, IoU 0.5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for collection, (_, um_per_px) in BOXES.items():
        for side_um in SIDES_UM:
            with tempfile.TemporaryDirectory() as folder:
                count = cut(collection, side_um, Path(folder))
                scaled = replace(options, um_per_px=um_per_px)
                figures = validate_fields(Path(folder), Path(folder) / "boxes.csv", scaled).figures
            of = figures["kinds"]["nucleated"]
            found = f"{of['centre']['recall']:.3f} | {of['centre']['precision']:.3f} | {of['iou']['f1']:.3f}"
            lines.append(f"| {collection} | {side_um:g} | {um_per_px:g} | {count} | {found} |")
    return [*lines, ""]


SIDES_UM = (18.0, 25.0)


def with_calls(findings: tuple[Any, ...]) -> tuple[Any, ...]:
    from cbctool.classifier import Classifier

    try:
        return call_findings(findings, Classifier())
    except CbctoolError as error:
        print(f"no calls: {error}", file=sys.stderr)
        return findings


def insult_lines(rows: list[tuple[str, InsultKind, dict[str, Any]]], every: int) -> list[str]:
    if not rows:
        return ["## Under insult", "", "Left out of this run (`--without-insults`).", ""]
    which = "The same pictures" if every == 1 else f"Every {every}th of the same pictures"
    lines = [
        "## Under insult",
        "",
        prose(
            f"""{which} after a digital insult, each field taking one of the settings in turn; what leukocyte
            recall and precision by centre lose (at most {MOST_LOST:g}), and whether the differential of all fields
            together stays within its 95 % interval. Of ALL-IDB1, precision is over detections at no point of unknown
            kind."""
        ),
        "",
        "| data | insult | settings | recall lost | precision lost | | differential |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kind, figures in rows:
        lost = figures["loss"]["nucleated"]["centre"]
        kept = max(lost["recall"], lost["precision"]) <= MOST_LOST
        change = figures["differential"]
        told = (
            "not compared"
            if change is None
            else {True: "unchanged", False: "**changed**"}.get(change["unchanged"], "-")
        )
        settings = "; ".join(" ".join(f"{v:g}" for v in s) for s in figures["settings"])
        if kind is InsultKind.RESTAIN:
            settings = f"{len(figures['settings'])} stains, below"
        cells = f"{lost['recall']:+.3f} | {lost['precision']:+.3f} | {'yes' if kept else '**no**'} | {told}"
        lines.append(f"| {name} | {kind} | {settings} | {cells} |")
    kinds = ", ".join(f"`{kind}`" for kind in list(EXTREMES)[1:])
    lines += ["", prose(f"Command: the one above with ` --insult gains` ({kinds}). {CAMERA}"), "", restain_lines(), ""]
    return lines


def restain_lines() -> str:
    stains = "; ".join(
        "/".join(" ".join(f"{v:g}" for v in colour) for colour in (setting[:3], setting[3:]))
        for setting in EXTREMES[InsultKind.RESTAIN]
    )
    return prose(
        f"""Restained fields have red cells and nuclei of the colours {stains} (R G B of each, on white; grey, brown,
        olive, pink, blue and faded red cells). The hue by which smudge cells are told from nuclei is lost with it, so
        that ALL-IDB1's count as cells."""
    )


def scale_lines(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Scale",
        "",
        "um/px from a field's own red cells against 7.5 um over the annotated red cells' median side (same commands).",
        "",
        "| data | annotated | found | error of medians | median error | fields within 5 % | fields with an estimate |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("BCCD", "BCCD re-annotated", "PBC"):
        s = figures[name]["scale"]
        lines.append(
            f"| {name} | {s['truth_median_um_per_px']:.4f} | {s['found_median_um_per_px']:.4f} | "
            f"{100 * s['error_of_medians']:+.1f} % | {100 * s['median_error']:+.1f} % | "
            f"{100 * s['share_within_5_percent']:.0f} % | "
            f"{s['fields_with_own_estimate']} of {s['fields_with_annotated_red_cells']} |"
        )
    return [*lines, ""]


def far_lines(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    points = figures["ALL-IDB1"]["points"]
    seen_counts = Counter(what_was_seen(FAR_FROM_POINTS, f["field"], f["row_px"], f["col_px"]) for f in points["far"])
    counted = "; ".join(f"{n} {what}" for what, n in seen_counts.most_common())
    lines = [
        "## ALL-IDB1: nucleated detections further than 5 um from any point",
        "",
        f"{points['far_from_any_point']} of {points['nucleated_detections']}, by what was seen there: {counted}.",
        "",
        "| field | row, column (px) | nearest point (um) | seen |",
        "|---|---|---|---|",
    ]
    for far in points["far"]:
        seen = what_was_seen(FAR_FROM_POINTS, far["field"], far["row_px"], far["col_px"])
        place = f"{far['row_px']:.0f}, {far['col_px']:.0f}"
        lines.append(f"| {far['field']} | {place} | {far['nearest_um']:.1f} | {seen} |")
    return [*lines, ""]


def platelet_lines(figures: Mapping[str, Any], mistakes: Sequence[Mistake]) -> list[str]:
    """Each platelet that counts as false or missed, by what was seen, and F1 if the annotation had it."""
    counted = figures["kinds"]["platelet"]["centre"]
    seen = []
    for m in mistakes:
        if m.kind is CellKind.PLATELET and m.what in ("false", "missed"):
            row, col = (m.ymin_px + m.ymax_px) / 2, (m.xmin_px + m.xmax_px) / 2
            seen.append((m.what, m.field, row, col, what_was_seen(PLATELETS, Path(m.field).name, row, col)))
    unboxed = sum(what == "false" and is_what == PLATELET for what, *_, is_what in seen)
    never = sum(what == "missed" and is_what not in ("platelet", NOT_LOOKED_AT) for what, *_, is_what in seen)
    right = counted["true_positives"] + unboxed
    of_all = 2 * right + counted["false_positives"] - unboxed + counted["false_negatives"] - never
    text = f"""Of {counted["false_positives"]} false ones {unboxed} are platelets that nobody boxed, most of them on
    red cells or cut by the edge, and of {counted["false_negatives"]} missed ones {never} are boxes round what is none,
    to one reader's eye. With those set right, F1 would be at most {2 * right / of_all:.3f}: platelets that neither has
    are not known."""
    lines = [
        "## BCCD annotated again: platelets that count as false or missed",
        "",
        prose(text),
        "",
        "| field | row, column (px) | counts as | seen |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {Path(field).name} | {row:.0f}, {col:.0f} | {what} | {is_what} |" for what, field, row, col, is_what in seen
    ]
    return [*lines, ""]


def what_was_seen(seen: Seen, field: str, row: float, col: float) -> str:
    for what, fields in seen.items():
        if any(max(abs(row - y), abs(col - x)) <= NEAR_PX for y, x in fields.get(field, ())):
            return what
    return NOT_LOOKED_AT


def class_lines(options: ValidateOptions) -> list[str]:
    """The classifier on single cells and on another laboratory's fields; says so where there are no weights."""
    lines = ["## Classes", ""]
    classes = Source("bccd/images", "bccd/fields.csv")
    try:
        home = validate_crops(DATA / "bloodmnist" / "bloodmnist.npz", split="test").figures
        away = validate_fields(DATA / classes.fields, DATA / classes.truth, options).figures["classes"]
    except CbctoolError as error:
        return [*lines, f"Not judged: {error}", ""]
    lines += ["| data | accuracy | coverage | accuracy on the classified | command |", "|---|---|---|---|---|"]
    command = "cbctool validate --bloodmnist $CBCTOOL_DATA/bloodmnist/bloodmnist.npz --split test"
    lines.append(
        f"| rebuilt BloodMNIST, test | {home['accuracy']:.3f} | {home['coverage']:.3f} | "
        f"{home['selective_accuracy']:.3f} | `{command}` |"
    )
    lines.append(
        f"| BCCD, {away['judged']} named leukocytes, end to end | {away['accuracy_before_abstention']:.3f} | "
        f"{away['coverage']:.3f} | {away['selective_accuracy']:.3f} | `{classes.command()}` |"
    )
    return [*lines, ""]


def caveat_lines(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["## Where the annotation is at fault", ""]
    lines += [f"{i}. {text}" for i, text in enumerate(CAVEATS, start=1)]
    named = {(f["source"], f["what"]) for x in figures.values() for f in x["truth_faults"]}
    lines += ["", "Faults that the commands name themselves:", ""]
    return [*lines, *(f"- {source}: {what}" for source, what in sorted(named))]


if __name__ == "__main__":
    raise SystemExit(main())
