"""``cbctool analyze``: a folder in, a folder of reports out, with the tables over the whole output folder."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cbctool import __version__
from cbctool.errors import ExitCode
from cbctool.records import Failure, Slide
from cbctool.run import manifest
from cbctool.run.discover import Discovery, discover_slides, folder_name
from cbctool.run.pipeline import (
    Analyser,
    FieldsProgress,
    Outcome,
    Settings,
    SlideDone,
    SlideFailed,
    file_sizes,
    hash_inputs,
)

logger = logging.getLogger(__name__)

TWINS_NAMED = 5
"""Slides of the same content that a warning names: 2,500 empty pictures would make 44 MB of warnings."""


@dataclass(frozen=True)
class RunReport:
    """What a run did. ``rows`` are rows of ``summary.csv`` of this run's slides, skipped ones included."""

    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    slides_done: int
    slides_skipped: int
    slides_failed: int
    fields: int
    cells: int
    seconds: float
    stages: Mapping[str, float]

    @property
    def exit_code(self) -> ExitCode:
        """0 all slides done, 3 some failed (a slide that lost a field counts), 4 all failed."""
        if not self.slides_done + self.slides_skipped:
            return ExitCode.ALL_FAILED
        return ExitCode.PARTIAL if self.failures else ExitCode.OK


def analyse(
    source: Path,
    settings: Settings,
    one_slide: str | bool | None = None,
    sheet: Path | None = None,
    on_start: Callable[[Discovery], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> RunReport:
    """Analyse every slide at ``source`` and write the reports.

    Parameters
    ----------
    source : Path
        A folder of slides, or one file.
    settings : Settings
    one_slide, sheet
        As for :func:`cbctool.run.discover.discover_slides`.
    on_start, on_outcome : callable, optional
        Told what was found, and everything that happens; for a progress bar.

    Returns
    -------
    RunReport

    Raises
    ------
    InputError, UsageError, OutputError, WeightsError
        What stops the whole run. Slides finished before it stand, and the tables are written.
    """
    began = time.monotonic()
    started_at = datetime.now(UTC)
    found = discover_slides(source, one_slide, settings.out, sheet)
    for note in found.notes:
        logger.warning("%s", note)
    for failure in found.failures:
        logger.warning("%s %s", failure.error, failure.advice)
    done: list[SlideDone] = []
    failed: list[SlideFailed] = []
    fields = cells = 0
    stages: dict[str, float] = defaultdict(float)
    with Analyser(settings) as analyser:
        slides = with_twins_named(found.slides, settings.out)
        if on_start:
            on_start(dataclasses.replace(found, slides=tuple(slides)))
        try:
            for outcome in analyser.run(slides):
                match outcome:
                    case SlideDone():
                        done.append(outcome)
                        for stage, seconds in outcome.stages.items():
                            stages[stage] += seconds
                    case SlideFailed():
                        failed.append(outcome)
                    case FieldsProgress():
                        fields += outcome.fields
                        cells += outcome.cells
                if on_outcome:
                    on_outcome(outcome)
        finally:
            # Also after Ctrl-C or a full disk: what is finished is in the tables. The workers go first, so that none
            # finishes a slide behind their back.
            analyser.close()
            failures = [
                *found.failures,
                *(failure for one in done for failure in one.failures),
                *(failure for one in failed for failure in one.failures),
            ]
            report = RunReport(
                rows=tuple(_in_order(slides, done, failed)),
                failures=tuple(failures),
                notes=found.notes,
                slides_done=sum(not one.skipped for one in done),
                slides_skipped=sum(one.skipped for one in done),
                slides_failed=len(failed),
                fields=fields,
                cells=cells,
                seconds=time.monotonic() - began,
                stages=dict(stages),
            )
            # Of a slide that was skipped, or not reached before Ctrl-C, nothing new is known.
            tried = [one.slide.name for one in done if not one.skipped] + [one.slide.name for one in failed]
            write_tables(settings.out, report.rows, report.failures, tried, analyser)
            manifest.write_atomically(settings.out / "run.json", _run_json(report, analyser, source, started_at))
    return report


def write_tables(
    out: Path, rows: Iterable[Mapping[str, Any]], failures: Sequence[Failure], slides: Iterable[str], analyser: Analyser
) -> None:
    """Write ``summary.csv``, ``failures.csv`` and ``index.html`` over the whole output folder.

    What this run did replaces what was known of the same slides; slides and failures of earlier runs stay.
    """
    from cbctool import report

    seen = {*slides, *(failure.slide for failure in failures)}
    old_failures = [failure for failure in failures_before(out) if failure.slide not in seen]
    known: dict[str, Mapping[str, Any]] = {
        row["slide"]: row
        for row in rows_before(out / "summary.csv", ("slide", "status"))
        if row["status"] == "failed" and row["slide"] not in seen  # those with a report have it in their folder
    }
    known |= {one.slide: one.row for one in manifest.finished_slides(out)}
    for row in rows:
        known[row["slide"]] = row
    rows = [known[name] for name in sorted(known)]
    report.write_run(out, rows, [*old_failures, *failures], analyser.style, folder_of=folder_name)


def failures_before(out: Path) -> list[Failure]:
    """What ``failures.csv`` of an output folder says."""
    columns = ("slide", "path", "error", "advice")
    return [Failure(*(row[name] for name in columns)) for row in rows_before(out / "failures.csv", columns)]


def rows_before(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table that an earlier run wrote; none, with a warning, where somebody has spoilt it."""
    from cbctool import report

    if not table.is_file():
        return []
    try:
        rows = report.read_table(table)
        if rows and (missing := set(columns) - rows[0].keys()):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
    except (OSError, ValueError, csv.Error) as error:
        logger.warning("%s: cannot be read any more (%s) and is written anew", table, error)
        return []
    return rows


def with_twins_named(slides: Sequence[Slide], out: Path) -> list[Slide]:
    """Warn both of two slides that have the same content under different names: a possible mix-up of samples.

    Content can only be equal where the sizes of the files are, so that only those are hashed ahead. Slides that an
    earlier run left in the output folder are compared too; the warning then stands in the new slide's report.
    """
    names = {slide.name for slide in slides}
    same_sizes: dict[tuple[int, ...], list[Slide | manifest.Manifest]] = defaultdict(list)
    for slide in slides:
        same_sizes[file_sizes(slide)].append(slide)
    for one in manifest.finished_slides(out):
        if one.slide not in names:
            same_sizes[tuple(one.sizes)].append(one)
    same_content: dict[str, set[str]] = defaultdict(set)
    for group in same_sizes.values():
        for member in group if len(group) > 1 and any(isinstance(one, Slide) for one in group) else ():
            if isinstance(member, manifest.Manifest):
                name, inputs = member.slide, member.inputs
            else:
                name, inputs = member.name, hash_inputs(member)
            if all(inputs.values()):  # two files that cannot be read are not alike for that
                same_content[manifest.content_sha256(inputs)].add(name)
    alike: dict[str, list[str]] = {}
    for twins in same_content.values():
        if len(twins) > 1:
            alike |= dict.fromkeys(twins & names, sorted(twins))
    result = []
    for slide in slides:
        if slide.name in alike:
            more = len(alike[slide.name]) - 1 - TWINS_NAMED
            others = [name for name in alike[slide.name][: TWINS_NAMED + 1] if name != slide.name][:TWINS_NAMED]
            and_more = f" and {more} more" if more > 0 else ""
            warning = f"Same content as slide {', '.join(others)}{and_more}: a possible mix-up of samples."
            logger.warning("%s: %s", slide.name, warning)
            slide = dataclasses.replace(slide, warnings=(*slide.warnings, warning))
        result.append(slide)
    return result


def _in_order(
    slides: Sequence[Slide], done: Sequence[SlideDone], failed: Sequence[SlideFailed]
) -> Iterable[Mapping[str, Any]]:
    rows: dict[str, Mapping[str, Any]] = {one.slide.name: one.row for one in done}
    for one in failed:
        rows[one.slide.name] = {
            "slide": one.slide.name,
            "status": "failed",
            "fields": 0,
            "fields_failed": len(one.failures),
            "sample_id": one.slide.sample_id,
            "comment": one.slide.comment,
        }
    return [rows[slide.name] for slide in slides if slide.name in rows]


def _run_json(report: RunReport, analyser: Analyser, source: Path, started_at: datetime) -> str:
    info = analyser.weights
    inputs = {one.slide: dict(one.inputs) for one in manifest.finished_slides(analyser.settings.out)}
    run = {
        "version": __version__,
        "started_at": started_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": str(source),
        "weights": {"name": info.name, "sha256": info.sha256, "validated": info.validated},
        "device": analyser.settings.device,
        "jobs": analyser.jobs,
        "options": analyser.options,
        "counts": {
            "slides_done": report.slides_done,
            "slides_skipped": report.slides_skipped,
            "slides_failed": report.slides_failed,
            "fields": report.fields,
            "cells": report.cells,
            "failures": len(report.failures),
        },
        "seconds": round(report.seconds, 3),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in report.stages.items()},
        "inputs": inputs,
        "notes": list(report.notes),
    }
    return json.dumps(run, indent=1, ensure_ascii=False) + "\n"
