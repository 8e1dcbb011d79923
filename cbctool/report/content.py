"""What a report says, whatever it is written to: facts, panels, tables and sentences shared by PDF and HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from cbctool.records import (
    CLASSES,
    LEUKOCYTES,
    RED_CELL_UM,
    THUMBNAIL_UM,
    Adequacy,
    CellKind,
    CellStatus,
    Failure,
    FieldSummary,
    Flag,
    FlagRule,
    SlideResult,
    TileMap,
    TileUse,
)
from cbctool.report.style import MARKS, TILE_MARKS, Mark, ReportStyle, number, scale_text, written_at

ADEQUACY_WORDS: Mapping[Adequacy, str] = {
    Adequacy.NONE: "too few: no differential",
    Adequacy.LIMITED: "limited: intervals are wide",
    Adequacy.REPORTABLE: "reportable",
    Adequacy.PREFERRED: "reportable, preferred size",
}

TOO_FEW = "Too few leukocytes: counts only, no percentages."

CHART_KEY = (
    "Chart: square-root scale, percent. Grey band: reference interval. Thick whisker: 95 % sampling interval "
    "(printed); thin whisker: with the classifier's own error. ▲▼ interval outside too, △▽ only the value."
)

METHOD = (
    "Fields are brought to a common white point and scale (a red cell is 7.5 µm across), nucleated cells, platelets "
    "and red cells are told apart by stain and size, and a 19 µm window around each nucleated cell and platelet is "
    "classified by a convolutional network. Cells whose nucleus touches the edge of a field, and artefacts, are left "
    "out. Percentages are of classified leukocytes; unclassified cells are reported beside them and never spread over "
    "the classes. Sampling intervals are exact (Clopper-Pearson, 95 %); the outer interval adds the classifier's own "
    "error, its mistakes on held-out cells with an allowance for a laboratory that it has never seen; after a review "
    "by a person the two are the same."
)

FIELD_HEADINGS = ("no.", "field", "WBC", "unclass.", "µm/px", "scale", "blur µm", "cover", "overlap", "clipped")

FIELD_KEY = (
    "Scale: where it comes from, and the single red cells that were measured. Blur: width of an edge (sigma). Cover: "
    "share of the field under cells. Overlap: share of the red cells' area in clumps. Clipped: share of pixels at full "
    "black or white."
)

GALLERY_KEY = (
    f"Most doubtful first. Pictures are {THUMBNAIL_UM:.0f} µm wide, a red cell is {RED_CELL_UM:g} µm. Below each: code "
    "and probability of the call, the cell's number (field.cell), and in grey the second guess, or with a question "
    "mark the class that a cell without a call would have. Blast-like cells come first, the most blast-like at the "
    "head: by size and outline of the nucleus, N:C and what the network says, whichever class it would give them. A "
    "heavy frame: the cell raised a flag."
)

FIELDS_KEY = (
    "those with flagged cells first, the most urgent flags before others, then those with most nucleated cells. Solid "
    "box: counted; dashed box: unclassified or not counted, smudge cells (×) among them; ring: platelet, unless it "
    "raised a flag. The number is the cell's in its field."
)

TILES_KEY = "Tiles overlap: a cell near the edge of one without a box is counted in the next."

Rows = list[tuple[str, ...]]


def head_facts(result: SlideResult, style: ReportStyle) -> list[tuple[str, str]]:
    """Name and value of what identifies the slide."""
    facts = [
        ("Reported", f"{written_at(result, style):%Y-%m-%d %H:%M} UTC"),
        ("Sample", result.slide.sample_id or "–"),
        ("Fields", _fields_text(result)),
        ("Scale", scale_text(result)),
    ]
    if result.slide.age_years is not None:
        facts.append(("Age", f"{result.slide.age_years:g} years"))
    if result.slide.wbc_10e9_per_l is not None:
        facts.append(("WBC", _wbc_text(result)))
    if result.slide.comment:
        facts.append(("Comment", result.slide.comment))
    return facts


def _wbc_text(result: SlideResult) -> str:
    corrected = result.differential.wbc_corrected_10e9_per_l
    text = f"{result.slide.wbc_10e9_per_l:g} ×10⁹/L from the analyser"
    if corrected == corrected:
        return f"{text}, corrected for NRBC to {corrected:.3g}"
    if result.slide.wbc_uncorrected:
        return f"{text}, not corrected for NRBC"
    return f"{text}, taken as corrected for NRBC" if result.differential.erythroblasts else text


def chart_key(result: SlideResult) -> str:
    """How to read the chart, and which reference intervals are drawn in it."""
    intervals = result.differential.reference
    return f"{CHART_KEY} Reference intervals: {intervals}." if intervals else CHART_KEY


def flag_text(flag: Flag) -> str:
    """A flag's sentence as people write it; other outputs keep to ASCII."""
    return flag.text.replace("x10^9/L", "×10⁹/L")


def _profile(result: SlideResult, section: str) -> Mapping[str, Any]:
    """A section of the laboratory's profile, as the options carry it."""
    found: Mapping[str, Any] = result.options.get("profile", {}).get(section, {})
    return found


def legend(result: SlideResult, rules: Sequence[FlagRule]) -> tuple[list[FlagRule], list[FlagRule], list[FlagRule]]:
    """The rules that were raised, those that were not, and those that the laboratory has switched off."""
    raised = {flag.code for flag in result.flags}
    off = set(_profile(result, "flags").get("off", ()))
    return (
        [rule for rule in rules if rule.code in raised],
        [rule for rule in rules if rule.code not in raised | off],
        [rule for rule in rules if rule.code in off - raised],
    )


MAP_HEADING = "The slide, and which parts of it were counted"


def map_text(result: SlideResult, tiles: TileMap) -> str:
    """What became of the tiles of a whole-slide file, in a sentence."""
    counts = tile_counts(tiles)
    other = ", ".join(
        f"{counts[use]:,} {mark.label}"
        for use, mark in TILE_MARKS.items()
        if use is not TileUse.COUNTED and counts[use]
    )
    return (
        f"Of {sum(counts.values()):,} tiles {counts[TileUse.COUNTED]:,} were counted, "
        f"{number(result.differential.area_mm2)} mm² of monolayer" + (f"; {other}." if other else ".")
    )


def tile_counts(tiles: TileMap) -> Mapping[TileUse, int]:
    """Tiles of each use, unused ones too."""
    found = Counter(use for row in tiles.uses for use in row)
    return {use: found[use] for use in TileUse}


def map_legend(tiles: TileMap) -> list[tuple[Mark, int]]:
    """Marks on the map and how many tiles bear each."""
    counts = tile_counts(tiles)
    return [(mark, counts[use]) for use, mark in TILE_MARKS.items() if counts[use]]


def _fields_text(result: SlideResult) -> str:
    unfit = sum(not summary.quality.fit for summary in result.fields)
    text = f"{len(result.fields)}, {number(result.differential.area_mm2, 3)} mm²"
    if unfit:
        text += f"; {unfit} not fit to count"
    if result.failures:
        text += f"; {len(result.failures)} failed"
    return text


def failure_text(failure: Failure) -> str:
    """A field that could not be analysed, in a sentence or two."""
    text = f"{failure.error} {failure.advice}".strip()
    return text if text.startswith(failure.path) else f"{failure.path}: {text}"


def classified_text(result: SlideResult) -> str:
    """How many leukocytes were classified."""
    return f"{_plural(result.differential.leukocytes, 'leukocyte')} classified"


def unclassified_text(result: SlideResult) -> str:
    """How many nucleated cells have no call; "" if all have."""
    d = result.differential
    nucleated = d.leukocytes + d.erythroblasts + d.unclassified
    return f"{d.unclassified:,} of {nucleated:,} nucleated cells unclassified" if d.unclassified else ""


def panels(result: SlideResult) -> list[tuple[str, str, str]]:
    """Title, value and note of what is counted beside the differential."""
    d = result.differential
    estimate = d.platelet_estimate_10e9_per_l
    counted = d.adequacy is not Adequacy.NONE
    expected = _profile(result, "platelets").get("per_1000_red_cells")
    return [
        (
            "Nucleated red cells",
            f"{number(d.nrbc_per_100_wbc)} per 100 WBC" if counted else f"{d.erythroblasts:,}",
            f"{d.erythroblasts:,} counted" if counted else "too few leukocytes for a ratio",
        ),
        (
            "Platelets",
            f"{number(d.platelets_per_1000_red_cells, 0)} per 1,000 red cells",
            (f"expected {expected[0]:g} – {expected[1]:g}; " if expected else "")
            + f"{d.platelets:,} counted\n{number(d.platelets_per_mm2, 0)} per mm²"
            + (f", about {estimate:.0f} ×10⁹/L" if estimate == estimate else ""),
        ),
        ("Red cells", f"{d.erythrocytes:,}", "morphology not assessed"),
        (
            "Not in the differential",
            f"{d.unclassified:,} unclassified",
            f"{d.cut_by_edge:,} at the edge, {_plural(d.artefacts - d.smudge_cells, 'artefact')}\n"
            + _plural(d.smudge_cells, "smudge cell"),
        ),
    ]


def _plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def fields_text(result: SlideResult, shown: int) -> str:
    """What stands above the annotated fields."""
    tiles = f" {TILES_KEY}" if result.slide.whole_slide else ""
    return f"{shown} of {_plural(len(result.fields), 'field')}: {FIELDS_KEY}{tiles}"


def field_rows(result: SlideResult, most: int) -> list[tuple[tuple[str, ...], list[str]]]:
    """Rows of ``FIELD_HEADINGS``, each with notes, for at most ``most`` fields; unfit ones are kept first."""
    white, unclear = _nucleated_per_field(result)
    kept = sorted(enumerate(result.fields, start=1), key=lambda pair: pair[1].quality.fit)[:most]
    return [(_field_row(i, summary, white, unclear), _field_notes(summary)) for i, summary in sorted(kept, key=_first)]


def _first(pair: tuple[int, FieldSummary]) -> int:
    return pair[0]


def _field_row(i: int, summary: FieldSummary, white: Mapping[str, int], unclear: Mapping[str, int]) -> tuple[str, ...]:
    quality, scale = summary.quality, summary.scale
    return (
        *(str(i), summary.name, str(white.get(summary.name, 0)), str(unclear.get(summary.name, 0))),
        f"{scale.um_per_px:.4f}" + (f" ±{100 * scale.uncertainty:.0f} %" if scale.uncertainty else ""),
        scale.source.value.replace("_", " ") + (f" ({scale.red_cells})" if scale.red_cells else ""),
        *(number(quality.blur_um, 2), _share(quality.cell_cover), _share(quality.overlap), _share(quality.clipped)),
    )


def _field_notes(summary: FieldSummary) -> list[str]:
    notes = [] if summary.quality.fit else [f"not counted: {summary.quality.reason}"]
    return [*notes, *summary.warnings]


def _nucleated_per_field(result: SlideResult) -> tuple[dict[str, int], dict[str, int]]:
    """Classified leukocytes and unclassified nucleated cells of each field."""
    white: dict[str, int] = {}
    unclear: dict[str, int] = {}
    for observation in result.observations:
        prediction = observation.prediction
        if observation.cell.kind is not CellKind.NUCLEATED or prediction is None:
            continue
        if prediction.status is CellStatus.UNCLASSIFIED:
            unclear[observation.field] = unclear.get(observation.field, 0) + 1
        elif prediction.status is CellStatus.CLASSIFIED and prediction.cell_class in LEUKOCYTES:
            white[observation.field] = white.get(observation.field, 0) + 1
    return white, unclear


def _share(value: float) -> str:
    return "–" if value != value else f"{100 * value:.0f} %"


def stain_rows(result: SlideResult) -> Rows:
    """Channel, nuclear optical density (median of fields), that of the training cells, verdict; [] without nuclei."""
    stains = [s.quality.stain_od for s in result.fields if s.quality.stain_od[0] == s.quality.stain_od[0]]
    rows: Rows = []
    for i, channel in enumerate(("red", "green", "blue") if stains else ()):
        value = median(stain[i] for stain in stains)
        trained, verdict = "not stated", ""
        if len(result.weights.stain_od) == 3:
            low, _, high = (row[i] for row in result.weights.stain_od)
            trained = f"{low:.2f} – {high:.2f}"
            verdict = "within" if low <= value <= high else "outside"
        rows.append((channel, f"{value:.2f}", trained, verdict))
    return rows


def method_facts(result: SlideResult) -> list[tuple[str, str]]:
    """Name and value of what the result was made with. No times: the same slide gives the same report."""
    weights = result.weights
    options = [
        f"{k} = {v}"
        for k, v in sorted(result.options.items())
        if k != "version" and v is not None and not isinstance(v, Mapping)
    ]
    return [
        ("Software", f"cbctool {result.version}, on {result.device}"),
        ("Weights", ", ".join(filter(None, (weights.name, weights.architecture, weights.date)))),
        ("Weights sha256", weights.sha256),
        ("Trained on", weights.trained_on),
        ("Validated", "in the project's registry" if weights.validated else "local, not validated by the project"),
        ("Held-out figures", ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in weights.metrics.items()) or "–"),
        (
            "Abstains",
            f"below probability {weights.abstain_below:.3g}, or unknown-score above {weights.unknown_above:.3g}",
        ),
        ("Result", result.identity + (f", supersedes {result.supersedes}" if result.supersedes else "")),
        ("Options", "; ".join([*options, "the laboratory's profile is in result.json"])),
    ]


ERROR_TITLE = "The classifier on held-out cells of the laboratory that it was trained in, before abstention"

ERROR_HEADINGS = ("class", "cells", "found (sensitivity)", "calls that are right (precision)")


def error_rows(result: SlideResult) -> Rows:
    """Per class, what the classifier gets right on held-out cells: how far a single call carries."""
    confusion = result.weights.confusion
    rows: Rows = []
    for i, name in enumerate(CLASSES if confusion else ()):
        right, true, called = confusion[i][i], sum(confusion[i]), sum(row[i] for row in confusion)
        rows.append(
            (
                *(MARKS[name].label, f"{true:,}"),
                f"{100 * right / true:.1f} %" if true else "–",
                f"{100 * right / called:.1f} %" if called else "–",
            )
        )
    return rows
