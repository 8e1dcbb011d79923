"""Manual differentials against this tool's, slide by slide: Bland-Altman, Passing-Bablok and kappa for every class."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbctool import __version__, report
from cbctool.classifier.weights import read_registry
from cbctool.errors import InputError, UsageError
from cbctool.hematology.reference import ADULT_PERCENT, PERCENT_SOURCE
from cbctool.records import LEUKOCYTES, Adequacy, CellClass
from cbctool.run import agreement
from cbctool.run.truth import ManualDifferential, read_differentials
from cbctool.run.truth_formats import TruthFault, TruthFormat

if TYPE_CHECKING:
    from cbctool.run.validate import ValidateOptions, Validation


Pair = tuple[str, str, float, float, int | None, int | None]
"""Slide, class, manual percent, this tool's percent, and of how many cells either is (None: not stated)."""

MANY_SLIDES = 40
"""Slides that a laboratory's comparison of two methods should have at least (CLSI EP09)."""


def validate_differentials(source: Path, truth_path: Path, options: ValidateOptions) -> Validation:
    """Compare manual differentials with those of a reports folder, or of slides that are analysed now.

    Parameters
    ----------
    source : Path
        A folder with ``summary.csv``, or slides.
    truth_path : Path
        CSV with a ``slide`` column and a count or percentage per class.
    options : ValidateOptions

    Raises
    ------
    InputError, UsageError
        When a file is missing, or no slide has both.
    """
    from cbctool.run.validate import Validation

    manual, faults = read_differentials(truth_path)
    rows = _summary_rows(source, options)
    figures, pairs, missing = compare_differentials(manual, rows)
    if not pairs:
        raise UsageError(
            f"Truth {truth_path}: none of its slides is in {source}.", "Use the slide names of summary.csv in both."
        )
    faults += tuple(TruthFault(truth_path.name, f"slide {name!r}: {why}, left out") for name, why in missing)
    return Validation(
        {
            "version": __version__,
            "validated": "differentials",
            "input": source.name,
            "truth": truth_path.name,
            "truth_format": TruthFormat.DIFFERENTIALS.value,
            **figures,
            "truth_faults": [dataclasses.asdict(f) for f in faults],
        },
        pairs=pairs,
    )


def compare_differentials(
    manual: Sequence[ManualDifferential], rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], tuple[Pair, ...], list[tuple[str, str]]]:
    """Agreement of every class over the slides that both counted.

    Parameters
    ----------
    manual : sequence of ManualDifferential
    rows : sequence of mapping
        Rows of ``summary.csv``.

    Returns
    -------
    figures : dict
        ``differentials`` by class: Bland-Altman and Passing-Bablok in percent points; kappa of low, within and high
        against the default reference interval (linear weights); the share of slides whose percentage lies in the exact
        95 % interval of the manual count (``within_manual_interval``), and the share of those where the two counts
        differ by no more than chance allows both of them (``within_both_counts``; Fisher's exact test, p >= 0.05), as
        far as the counts are stated. ``median_cells`` says how many those were: few may differ by chance; ``made_by``
        with which version and weights the reports were made, and how many with each.
    pairs : tuple of Pair
    missing : list of (slide, why)
    """
    by_slide = {str(row["slide"]): row for row in rows}
    pairs: list[Pair] = []
    within: dict[CellClass, list[bool]] = {cls: [] for cls in LEUKOCYTES}
    same: dict[CellClass, list[bool]] = {cls: [] for cls in LEUKOCYTES}
    missing = []
    counted: list[tuple[float, float]] = []
    made_by: Counter[tuple[str, str]] = Counter()
    compared = 0
    for m in manual:
        row = by_slide.get(m.slide)
        if row is None:
            missing.append((m.slide, "not analysed"))
            continue
        percent = {cls: _number(row.get(f"{cls}_percent")) for cls in m.percent}
        if row.get("adequacy") == Adequacy.NONE or any(math.isnan(p) for p in percent.values()):
            missing.append((m.slide, "has no differential"))
            continue
        compared += 1
        made_by[str(row.get("version") or ""), str(row.get("weights_sha256") or "")] += 1
        leukocytes = _number(row.get("leukocytes"))
        cells = int(leukocytes) if leukocytes > 0 else None
        counted.append((m.cells or math.nan, cells or math.nan))
        for cls, p in percent.items():
            pairs.append((m.slide, cls.value, m.percent[cls], p, m.cells, cells))
            if m.cells:
                count = round(m.percent[cls] * m.cells / 100)
                low, high = agreement.exact_interval(count, m.cells)
                within[cls].append(low <= p / 100 <= high)
                if cells:
                    chance = agreement.same_share((count, m.cells), (round(p * cells / 100), cells))
                    same[cls].append(chance >= 1 - agreement.CONFIDENCE)
    figures: dict[str, Any] = {}
    for cls in LEUKOCYTES:
        of_class = [(first, second) for _, name, first, second, *_ in pairs if name == cls.value]
        if not of_class:
            continue
        first, second = zip(*of_class, strict=True)
        steps = agreement.confusion_matrix(_steps(cls, first), _steps(cls, second), 3)
        figures[cls.value] = {
            "bland_altman": dataclasses.asdict(agreement.bland_altman(first, second)),
            "passing_bablok": dataclasses.asdict(agreement.passing_bablok(first, second)),
            "kappa": dataclasses.asdict(agreement.cohen_kappa(steps, "linear")),
            "within_manual_interval": sum(within[cls]) / len(within[cls]) if within[cls] else math.nan,
            "within_both_counts": sum(same[cls]) / len(same[cls]) if same[cls] else math.nan,
        }
    head = {
        "slides": {"compared": compared, "manual": len(manual), "without_manual": len(by_slide) - compared},
        "median_cells": dict(zip(("manual", "found"), _medians(counted), strict=True)),
        "made_by": [
            {"version": version, "weights": _shipped_name(sha256), "weights_sha256": sha256, "slides": count}
            for (version, sha256), count in made_by.most_common()
        ],
        "reference": PERCENT_SOURCE,
        "differentials": figures,
    }
    return head, tuple(pairs), missing


def _shipped_name(sha256: str) -> str:
    """Name of the shipped weights with this hash; empty for others, of which a table of reports has the hash alone."""
    files = {digest: name for name, digest in read_registry()["sha256"].items()}
    return Path(files.get(sha256, "")).stem


def _medians(counted: Sequence[tuple[float, float]]) -> list[float]:
    """Of manual and own cells per slide, as far as they are stated."""
    columns = zip(*counted, strict=True) if counted else ((), ())
    stated = ([cells for cells in column if math.isfinite(cells)] for column in columns)
    return [statistics.median(cells) if cells else math.nan for cells in stated]


def _summary_rows(source: Path, options: ValidateOptions) -> list[Mapping[str, Any]]:
    if not source.exists():
        raise InputError(f"{source} does not exist.", "Give a reports folder or slides.")
    summary = source / "summary.csv"
    if summary.is_file():
        return list(report.read_table(summary))
    from cbctool.run.analyse import analyse
    from cbctool.run.pipeline import Settings

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            Path(folder), options.weights, device=options.device, jobs=options.jobs, um_per_px=options.um_per_px
        )
        return list(analyse(source, settings).rows)


def _steps(cls: CellClass, percents: Sequence[float]) -> list[int]:
    """0 below the reference interval, 1 within, 2 above."""
    low, high = ADULT_PERCENT[cls]
    return [0 if p < low else 2 if p > high else 1 for p in percents]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
