"""``cbctool validate``: what a laboratory must do before it trusts a tool, and how a change is seen to have helped."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbctool import __version__
from cbctool.classifier.weights import weights_info
from cbctool.errors import OutputError, UsageError, WeightsError
from cbctool.imaging.field import ImagingOptions
from cbctool.records import CLASSES, WeightsInfo
from cbctool.run.findings import Findings, Progress, call_findings, find_cells, list_pictures
from cbctool.run.insult import Insult
from cbctool.run.judge import FieldCounts, Judgement, Mistake, differential_change, differential_counts, judge
from cbctool.run.truth import Meaning, Truth, read_fields_list, read_truth, select_pictures
from cbctool.run.truth_formats import TruthFault, TruthFormat, detect_format

if TYPE_CHECKING:
    from cbctool.run.score_crops import JudgedCrops

logger = logging.getLogger(__name__)

RESULT = "validation.json"

FAULTS_SHOWN = 20
"""Faults of an annotation listed on the terminal; a data set of thousands of fields may have as many."""


@dataclass(frozen=True)
class ValidateOptions:
    """How fields are judged.

    Attributes
    ----------
    truth_format : TruthFormat or None
        Told by endings and columns where None.
    name_map : mapping of str to Meaning
        What names in the annotation mean, beside those that are known.
    um_per_px, already_cropped : float or None, bool
        Scale of all the fields, or of single-cell pictures; or that the latter are 19 um windows.
    fields_list, splits : Path or None, tuple of str
        Only the fields that this list names, of these splits.
    insult : Insult or None
        Judge the fields after this, too, and say what it costs.
    weights, device : Path or None, str
        For the calls; the network is asked only where classes are annotated or a differential is compared.
    jobs : int or None
        Worker processes; None is one per core.
    """

    truth_format: TruthFormat | None = None
    name_map: Mapping[str, Meaning] = dataclasses.field(default_factory=dict)
    um_per_px: float | None = None
    already_cropped: bool = False
    fields_list: Path | None = None
    splits: tuple[str, ...] = ()
    insult: Insult | None = None
    weights: Path | None = None
    device: str = "auto"
    jobs: int | None = None


@dataclass(frozen=True)
class Validation:
    """Figures ready for JSON, with the tables and pictures' places behind them."""

    figures: Mapping[str, Any]
    counts: tuple[FieldCounts, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    truth: Truth | None = None
    pairs: tuple[tuple[Any, ...], ...] = ()
    """Of a comparison of differentials: see :data:`cbctool.run.compare.Pair`."""
    crops: JudgedCrops | None = None


def validate(
    fields: Path | None,
    truth: Path | None,
    *,
    bloodmnist: Path | None = None,
    crops: Path | None = None,
    options: ValidateOptions | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Whatever the arguments ask for: fields, slides or single-cell pictures.

    Raises
    ------
    UsageError
        When they ask for none or for several of these.
    """
    options = options or ValidateOptions()
    asked = [name for name, given in (("FIELDS", fields), ("--bloodmnist", bloodmnist), ("--crops", crops)) if given]
    if len(asked) != 1:
        raise UsageError(
            f"validate takes one of FIELDS, --bloodmnist and --crops, not {' and '.join(asked) or 'none'}.",
            "Give FIELDS with --truth, or --bloodmnist FILE.npz, or --crops FOLDER.",
        )
    if source := bloodmnist or crops:
        if len(options.splits) > 1:
            raise UsageError("--split: one split of a file at a time.", "Give --split test.")
        split = options.splits[0] if options.splits else None
        return validate_crops(
            source,
            split=split,
            um_per_px=options.um_per_px,
            already_cropped=options.already_cropped,
            weights=options.weights,
            device=options.device,
            progress=progress,
        )
    if options.already_cropped:
        raise UsageError("--already-cropped is for single-cell pictures.", "Leave it out, or give --crops FOLDER.")
    assert fields is not None
    if truth is None:
        raise UsageError("validate FIELDS needs the annotation to compare with.", "Give it with --truth.")
    if (options.truth_format or detect_format(truth)) is TruthFormat.DIFFERENTIALS:
        from cbctool.run.compare import validate_differentials

        return validate_differentials(fields, truth, options)
    return validate_fields(fields, truth, options, progress)


def validate_fields(
    fields: Path, truth_path: Path, options: ValidateOptions | None = None, progress: Progress | None = None
) -> Validation:
    """Find cells in annotated fields and compare them with the annotation.

    Pictures without annotation are left out and counted.

    Parameters
    ----------
    fields : Path
        Folder of pictures (at any depth), or one picture.
    truth_path : Path
        The annotation; see :mod:`cbctool.run.truth`.
    options : ValidateOptions, optional
    progress : callable, optional
        Called with (done, total) pictures.

    Raises
    ------
    InputError, UsageError, WeightsError
    """
    options = options or ValidateOptions()
    pictures = list_pictures(fields, leave_out=truth_path)
    truth = read_truth(truth_path, pictures, options.truth_format, options.name_map)
    chosen, faults = _chosen(pictures, options)
    truth = dataclasses.replace(
        truth, fields=tuple(t for t in truth.fields if t.path in chosen), faults=(*truth.faults, *faults)
    )
    if not truth.fields:
        raise UsageError(
            f"None of the annotated fields in {fields} is in the list of fields.", "Check --fields-list and --split."
        )
    classes_wanted = any(t.classes or any(o.cell_class for o in t.objects) for t in truth.fields)
    findings = find_in(fields, truth, options, progress=progress)
    weights = None
    if classes_wanted or options.insult is not None:
        findings, weights = _called(findings, options, required=classes_wanted)
    judgement = judge(findings, truth)
    figures = _headed(fields, truth_path, truth, len(chosen), judgement)
    if weights is not None:
        figures["weights"] = {name: getattr(weights, name) for name in ("name", "sha256", "validated")}
    if options.insult is not None:
        scales = {f.path: f.um_per_px for f in findings}
        hurt = find_in(fields, truth, options, insult=options.insult, clean_um_per_px=scales, progress=progress)
        hurt, _ = _called(hurt, options, required=classes_wanted)
        figures["insult"] = insult_figures(findings, judgement, hurt, judge(hurt, truth), options.insult)
    return Validation(figures, judgement.counts, judgement.mistakes, truth)


def find_in(
    fields: Path,
    truth: Truth,
    options: ValidateOptions,
    insult: Insult | None = None,
    clean_um_per_px: Mapping[Path, float] | None = None,
    progress: Progress | None = None,
) -> tuple[Findings, ...]:
    """What is found in the annotated fields, with such crops as the weights were taught."""
    balanced = options.weights is None or weights_info(options.weights).white_balanced
    return find_cells(
        [t.path for t in truth.fields],
        fields,
        options=ImagingOptions(white_balanced=balanced),
        um_per_px=options.um_per_px,
        insult=insult,
        clean_um_per_px=clean_um_per_px,
        masks=any(t.mask is not None for t in truth.fields),
        jobs=options.jobs or os.cpu_count() or 1,
        progress=progress,
    )


def insult_figures(
    clean: Sequence[Findings], judged: Judgement, hurt: Sequence[Findings], judged_hurt: Judgement, insult: Insult
) -> dict[str, Any]:
    """Figures of the insulted fields, and what they lose against the clean ones."""
    losses: dict[str, Any] = {}
    for kind, before in judged.figures["kinds"].items():
        after = judged_hurt.figures["kinds"][kind]
        for way in ("centre", "iou"):
            if before[way] is not None:
                losses.setdefault(kind, {})[way] = {
                    name: before[way][name] - after[way][name] for name in ("recall", "precision", "f1")
                }
    has_calls = any(f.predictions for f in clean)
    change = differential_change(differential_counts(clean), differential_counts(hurt)) if has_calls else None
    return {
        "insult": insult.kind.value,
        "settings": [list(s) for s in insult.settings],
        "loss": losses,
        "differential": change,
        "figures": dict(judged_hurt.figures),
    }


def validate_crops(
    source: Path,
    *,
    split: str | None = None,
    um_per_px: float | None = None,
    already_cropped: bool = False,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Validation:
    """Classify single-cell pictures with known classes: an ``.npz`` in MedMNIST's layout, or a folder per class.

    Raises
    ------
    UsageError, InputError, WeightsError
    """
    from cbctool.run.score_crops import score_bloodmnist, score_crop_folder

    judged = None
    if source.suffix.lower() == ".npz":
        figures = score_bloodmnist(source, split or "test", weights, device, progress)
    else:
        if um_per_px and already_cropped:
            raise UsageError("--um-per-px and --already-cropped contradict each other.", "Windows need no scale.")
        figures, judged = score_crop_folder(
            source / (split or ""), um_per_px, already_cropped, weights=weights, device=device, progress=progress
        )
        figures |= {"source": source.name, "split": split or ""}
    return Validation({"version": __version__, "validated": "crops", **figures}, crops=judged)


def to_json(figures: Mapping[str, Any]) -> str:
    """JSON of figures; what is not a number is null, as JSON has no NaN."""
    return json.dumps(_plain(figures), indent=2, ensure_ascii=False, allow_nan=False)


def check_folder(folder: Path) -> None:
    """Refuse, before anything is analysed, a folder that holds another's files: a ``fields.csv``, perhaps.

    Raises
    ------
    OutputError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = any(folder.iterdir()) and not (folder / RESULT).is_file()
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written to ({error.strerror}).", "Give another folder with --out."
        ) from error
    if foreign:
        raise OutputError(f"{folder} is not empty and holds no validation.", "Give a new folder with --out.")


def write_validation(result: Validation, folder: Path) -> list[Path]:
    """Write ``validation.json``, the tables as CSV, and ``validation.pdf`` with pictures of the mistakes.

    Raises
    ------
    OutputError
        When the folder cannot be written to.
    """
    from cbctool.run.validate_page import write_page

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / RESULT)
        written[-1].write_text(to_json(result.figures) + "\n", encoding="utf-8")
        for name, header, rows in _tables(result):
            written.append(folder / name)
            with written[-1].open("w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle)
                writer.writerow(header)
                writer.writerows(rows)
        written.append(write_page(result, folder))
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written to ({error.strerror or error}).", "Give another folder with --out."
        ) from error
    return written


def headline(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures that a person looks at first, as (name, value) lines."""
    lines: list[tuple[str, str]] = []

    def detection(name: str, f: Mapping[str, Any]) -> None:
        low, high = f["recall_interval"]
        lines.append(
            (
                name,
                f"recall {_number(f['recall'])} ({_number(low)}-{_number(high)}), precision {_number(f['precision'])}, "
                f"F1 {_number(f['f1'])}; {f['false_negatives']} missed, {f['false_positives']} false",
            )
        )

    for kind, f in figures.get("kinds", {}).items():
        detection(f"{kind}, by centre", f["centre"])
        if f["iou"] is not None:
            detection(f"{kind}, IoU 0.5", f["iou"])
        error = f["count_error"]
        lines.append(
            (
                f"{kind}, count",
                f"{f['found']} found, {f['annotated']} annotated, error {_number(100 * error['total'], 1)} % in total, "
                f"{_number(error['mean_absolute_per_field'], 2)} cells per field",
            )
        )
    if points := figures.get("points"):
        for name, f in points["recall_by_name"].items():
            lines.append(
                (f"points named {name}", f"{f['found']} of {f['annotated']} found, recall {_number(f['recall'])}")
            )
        far, total = points["far_from_any_point"], points["nucleated_detections"]
        share = _number(100 * points["far_share"], 1)
        lines.append(("nucleated, > 5 um from any point", f"{far} of {total} ({share} %)"))
    for part, f in figures.get("dice", {}).items():
        lines.append(
            (f"Dice, {part}", f"{_number(f['pooled'])} of all pixels, median field {_number(f['median_field'])}")
        )
    if scale := figures.get("scale"):
        lines.append(
            (
                "um/px from red cells",
                f"{_number(scale['found_median_um_per_px'], 4)} against {_number(scale['truth_median_um_per_px'], 4)} "
                f"from annotated cells; median error {_number(100 * scale['median_error'], 1)} %, "
                f"{_number(100 * scale['share_within_5_percent'], 0)} % of fields within 5 %",
            )
        )
    if classes := figures.get("classes"):
        lines.append(
            (
                "classes",
                f"accuracy {_number(classes['accuracy_before_abstention'])} before abstention; coverage "
                f"{_number(classes['coverage'])}, accuracy on the classified {_number(classes['selective_accuracy'])}, "
                f"kappa {_number(classes['kappa']['kappa'])}; {classes['judged']} cells",
            )
        )
    if insult := figures.get("insult"):
        for kind, ways in insult["loss"].items():
            for way, loss in ways.items():
                lines.append(
                    (
                        f"after {insult['insult']}: {kind}, {way}",
                        f"recall loses {_number(loss['recall'])}, precision {_number(loss['precision'])}",
                    )
                )
        if insult["differential"] is not None:
            unchanged = {True: "unchanged", False: "changed", None: "no leukocytes"}[
                insult["differential"]["unchanged"]
            ]
            lines.append((f"after {insult['insult']}: differential", f"{unchanged} within its 95 % interval"))
    if figures.get("validated") == "crops":
        lines += _crop_lines(figures)
    if differentials := figures.get("differentials"):
        lines += _differential_lines(differentials, figures)
    return lines


def _differential_lines(classes: Mapping[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    from cbctool.run.compare import MANY_SLIDES

    def span(interval: Sequence[float], digits: int) -> str:
        low, high = (_number(value, digits) for value in interval)
        return f" ({low} to {high})" if math.isfinite(sum(interval)) else ""

    slides, cells = figures["slides"]["compared"], figures["median_cells"]
    few = f"; a comparison of methods asks for {MANY_SLIDES} or more (CLSI EP09)" if slides < MANY_SLIDES else ""
    medians = f"median of {_number(cells['manual'], 0)} cells by hand, {_number(cells['found'], 0)} here"
    lines = [("slides", f"{slides} compared, {medians}{few}")]
    for maker in figures["made_by"]:
        sha256 = f"sha256 {maker['weights_sha256'][:12]}…" if maker["weights_sha256"] else "not stated"
        value = f"version {maker['version'] or 'not stated'}, weights {maker['weights']} ({sha256})".replace("  ", " ")
        lines.append((f"{maker['slides']} made by", value))
    for name, f in classes.items():
        b, p, kappa = f["bland_altman"], f["passing_bablok"], f["kappa"]
        parts = [
            f"bias {_number(b['bias'], 1)}{span(b['bias_interval'], 1)} percent points, limits of agreement "
            f"{_number(b['lower'], 1)} to {_number(b['upper'], 1)}",
            f"slope {_number(p['slope'], 2)}{span(p['slope_interval'], 2)}, "
            f"intercept {_number(p['intercept'], 1)}{span(p['intercept_interval'], 1)}",
            f"kappa {_number(kappa['kappa'], 2)}{span(kappa['interval'], 2)}",
        ]
        if math.isfinite(f["within_both_counts"]):
            parts.append(f"{f['within_both_counts']:.0%} of slides within the chance of both counts")
        lines.append((name, "; ".join(parts)))
    return lines


def _crop_lines(f: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Figures of single cells; names are those of the JSON."""

    def span(interval: Sequence[float]) -> str:
        return f"({_number(interval[0], 4)}-{_number(interval[1], 4)})"

    lines = [
        ("cells", str(f["n"])),
        ("accuracy", f"{_number(f['accuracy'], 4)} {span(f['accuracy_interval'])}"),
        *((name, _number(f[name], 4)) for name in ("balanced_accuracy", "macro_f1")),
        ("ece", f"{_number(f['ece'], 4)} (by chance up to {_number(f['ece_chance_95'], 4)})"),
        *((name, _number(f[name], 4)) for name in ("nll", "coverage")),
        ("selective_accuracy", f"{_number(f['selective_accuracy'], 4)} {span(f['selective_accuracy_interval'])}"),
    ]
    as_cut = f["as_cut"]
    value = f"accuracy {_number(as_cut['accuracy'], 4)}, coverage {_number(as_cut['coverage'], 4)}, selective_accuracy "
    lines.append(("without white balance", value + _number(as_cut["selective_accuracy"], 4)))
    for name, row in f["per_class"].items():
        value = f"{_number(row['recall'])} {span(row['recall_interval'])} of {row['n']}, precision "
        lines.append((f"{name}, recall", value + _number(row["precision"])))
    if "unknown_abstained" in f:
        value = f"{_number(f['unknown_abstained'])} of {f['unknown_n']}; AUROC {_number(f['unknown_auroc'])}"
        lines.append(("unknown, no call", value))
    return lines


def summary(figures: Mapping[str, Any]) -> str:
    """The headline figures as text for a terminal."""
    lines = [f"{name:<34} {value}" for name, value in headline(figures)]
    if fields := figures.get("fields"):
        counts = f"{fields['judged']} judged of {fields['pictures']}, {fields['without_annotation']} without annotation"
        out_of = f"{len(fields['failed'])} failed, {len(fields['unfit'])} unfit to count"
        lines.insert(0, f"{'fields':<34} {counts}, {out_of}")
        lines += [f"failed: {f['error']} {f['advice']}" for f in fields["failed"]]
    if faults := figures.get("truth_faults"):
        lines.append(f"{len(faults)} fault{'' if len(faults) == 1 else 's'} of the annotation:")
        lines += [f"  {f['source']}: {f['what']}" for f in faults[:FAULTS_SHOWN]]
        if len(faults) > FAULTS_SHOWN:
            lines.append(f"  … and {len(faults) - FAULTS_SHOWN} more, all of them with --json or --out")
    return "\n".join(lines)


class ProgressBar:
    """A bar on stderr; a new one for every pass over the fields."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None or done == 1:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(total=total, unit="field", disable=self._hidden or None)
        self._bar.update(done - self._bar.n)


# ------------------------------------------------------------------------------------------------------------ plumbing


def _chosen(pictures: Sequence[Path], options: ValidateOptions) -> tuple[set[Path], list[TruthFault]]:
    if options.fields_list is None:
        if options.splits:
            raise UsageError("--split needs a list of fields with a split column.", "Give it with --fields-list.")
        return set(pictures), []
    names = read_fields_list(options.fields_list, options.splits)
    chosen, missing = select_pictures(pictures, names)
    what = f"{len(missing)} listed fields have no picture here: {', '.join(missing[:5])}"
    return set(chosen), [TruthFault(options.fields_list.name, what)] if missing else []


def _called(
    findings: tuple[Findings, ...], options: ValidateOptions, required: bool
) -> tuple[tuple[Findings, ...], WeightsInfo | None]:
    """The findings with their calls, and whose calls they are."""
    from cbctool.classifier import Classifier

    try:
        classifier = Classifier(options.weights, options.device)
    except WeightsError as error:
        if required or options.weights is not None:
            raise
        logger.warning("the differential is not compared: %s", error)
        return findings, None
    return call_findings(findings, classifier), classifier.info


def _headed(fields: Path, truth_path: Path, truth: Truth, pictures: int, judgement: Judgement) -> dict[str, Any]:
    counted = {"pictures": pictures, "annotated": len(truth.fields), "without_annotation": pictures - len(truth.fields)}
    return {
        "version": __version__,
        "validated": "fields",
        "input": fields.name,
        "truth": truth_path.name,
        "truth_format": truth.format.value,
        **judgement.figures,
        "fields": {**counted, **judgement.figures["fields"]},
        "truth_faults": [dataclasses.asdict(f) for f in judgement.faults],
    }


def _tables(result: Validation) -> list[tuple[str, list[str], list[list[Any]]]]:
    tables: list[tuple[str, list[str], list[list[Any]]]] = []
    if result.counts:
        header = ["field", "kind", "annotated", "found"]
        rows: list[list[Any]] = []
        for c in result.counts:
            iou = c.by_iou
            rows.append(
                [
                    c.field,
                    c.kind.value,
                    c.annotated,
                    c.found,
                    c.by_centre.true_positives,
                    c.by_centre.false_negatives,
                    c.by_centre.false_positives,
                    *((iou.true_positives, iou.false_negatives, iou.false_positives) if iou else ("", "", "")),
                    _number(c.um_per_px, 5),
                    _number(c.truth_um_per_px, 5),
                ]
            )
        header += [f"{what}_{way}" for way in ("centre", "iou") for what in ("hit", "missed", "false")]
        tables.append(("fields.csv", [*header, "um_per_px", "truth_um_per_px"], rows))
        header = ["field", "kind", "what", "ymin_px", "xmin_px", "ymax_px", "xmax_px", "there"]
        mistakes = [
            [
                m.field,
                m.kind.value,
                m.what,
                *(round(v, 1) for v in (m.ymin_px, m.xmin_px, m.ymax_px, m.xmax_px)),
                m.found_as,
            ]
            for m in result.mistakes
        ]
        tables.append(("mistakes.csv", header, mistakes))
    if classes := result.figures.get("classes"):
        rows = [[name, *row] for name, row in zip(classes["columns"], classes["confusion"], strict=False)]
        tables.append(("confusion.csv", ["truth", *classes["columns"]], rows))
    if confusion := result.figures.get("confusion"):
        rows = [[name, *row] for name, row in zip(CLASSES, confusion, strict=True)]
        tables.append(("confusion.csv", ["truth", *CLASSES], rows))
    if crops := result.crops:
        from cbctool.run.score_crops import CALL_COLUMNS
        from cbctool.run.training_data import NAMES

        rows = [
            [name, NAMES[label], *call]
            for name, label, call in zip(crops.data.names, crops.data.labels, crops.calls, strict=True)
        ]
        tables.append(("cells.csv", ["picture", "class", *CALL_COLUMNS], rows))
    if result.pairs:
        header = ["slide", "class", "manual_percent", "percent", "manual_cells", "cells"]
        tables.append(("differentials.csv", header, [list(p) for p in result.pairs]))
    if faults := result.figures.get("truth_faults"):
        tables.append(("truth_faults.csv", ["source", "what"], [[f["source"], f["what"]] for f in faults]))
    return tables


def _number(value: float, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:z.{digits}f}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
