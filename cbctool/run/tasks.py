"""What runs in a worker: one field from file to crops, and one slide from scores to its report.

Nothing here holds state. Arguments and results are records, so that it is the same on this machine and on a cluster.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbctool.errors import CbctoolError, OutputError, UnreadableImageError
from cbctool.records import (
    CLASSES,
    Failure,
    FieldSummary,
    Observation,
    Scale,
    Scores,
    Slide,
    SlideResult,
    TileMap,
    TileUse,
    WeightsInfo,
)
from cbctool.run.parcel import Parcel, pack, unpack
from cbctool.run.pool import WorkerLostError, give_back_freed_memory

if TYPE_CHECKING:
    from cbctool.hematology.profile import Profile
    from cbctool.imaging.tiles import Tile
    from cbctool.report import ReportStyle


UNFIT_NAMED = 20
"""Fields that are not counted and named one by one in the warnings; the field table of the report has them all."""


MANY_CELLS = 50_000
"""Cells from which a report gives a worker's free memory back first: 0.2 GB, which the next fields fetch in 50 ms."""


@dataclass(frozen=True)
class FieldTask:
    """One field to analyse: a picture, or a tile of a whole-slide file; with such crops as the weights were taught."""

    slide: str
    name: str
    path: Path
    given_um_per_px: float | None = None
    slide_scale: Scale | None = None
    tile: Tile | None = None
    white_balanced: bool = True


@dataclass(frozen=True, eq=False)
class SlideEvidence:
    """Everything about a slide once its cells are scored; ``parcels`` and ``scores`` run in parallel.

    Of a whole-slide file, ``tiles`` is its map with nothing entered and ``places`` the row and column there of each
    tile that was read, by name.
    """

    slide: Slide
    parcels: tuple[Parcel, ...]
    scores: tuple[Scores, ...]
    failures: tuple[Failure, ...]
    inputs: Mapping[str, str]
    sizes: tuple[int, ...]
    identity: str
    seconds: float
    tiles: TileMap | None = None
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunContext:
    """What is the same for every slide of a run."""

    out: Path
    weights: WeightsInfo
    profile: Profile
    style: ReportStyle
    device: str
    options: Mapping[str, Any]
    version: str


def analyse_field_task(task: FieldTask) -> Parcel:
    """Read, calibrate, segment, measure, crop and pack one field.

    Raises
    ------
    UnreadableImageError, CalibrationError
        What the user can mend; the slide's other fields go on.
    """
    from cbctool.imaging.field import ImagingOptions, analyse_field
    from cbctool.imaging.monolayer import set_aside
    from cbctool.imaging.read import read_field
    from cbctool.imaging.tiles import keep_owned, read_tile, slide_white

    began = time.perf_counter()
    try:
        if task.tile is None:
            picture = read_field(task.path, task.slide, task.name)
        else:
            picture = read_tile(task.path, task.tile, task.slide, task.given_um_per_px)
        decoded = time.perf_counter() - began
        # What is given is the scale of level 0; a tile's picture has that of the level read.
        given = task.given_um_per_px and picture.um_per_px if task.tile else task.given_um_per_px
        result = None
        if task.tile is not None:
            result = set_aside(picture, given, slide_white(task.path))
        if result is None:
            options = ImagingOptions(white_balanced=task.white_balanced)
            result = analyse_field(picture, options, given_um_per_px=given, slide_scale=task.slide_scale)
    except MemoryError:
        raise UnreadableImageError(
            f"{task.name}: not enough memory to decode it.", "Save it smaller, or use fewer --jobs."
        ) from None
    if task.tile is not None:
        result = keep_owned(task.tile, result)
    return pack(dataclasses.replace(result, seconds={"decode": decoded, **result.seconds}))


def report_slide_task(evidence: SlideEvidence, context: RunContext) -> dict[str, Any]:
    """Call the cells, count, flag, write every output of the slide and put it in place by one rename.

    Returns
    -------
    dict
        The slide's row of ``summary.csv``.

    Raises
    ------
    OutputError
        Where the output folder cannot be written to; nothing half-written is left visible.
    """
    from cbctool import report
    from cbctool.hematology import flags
    from cbctool.run import manifest
    from cbctool.run.discover import folder_name

    if sum(parcel.count for parcel in evidence.parcels) > MANY_CELLS:
        give_back_freed_memory()
    result = slide_result(evidence, context)
    name = evidence.slide.name
    before = manifest.read_manifest(context.out / folder_name(name))
    if before is not None and (before.identity, before.row.get("status")) != (evidence.identity, result.status):
        when = before.row.get("analysed_at", "an unknown time")
        signed = f", signed by {before.row['reviewer']}" if before.row.get("reviewer") else ""
        result = dataclasses.replace(result, supersedes=f"the report of {when}, result {before.identity[:12]}{signed}")
    folder: Path | None = None
    try:
        folder = manifest.partial_folder(context.out, name)
        report.write_slide(result, folder, context.style, flags.RULES)
        row = report.summary_row(result)
        done = manifest.Manifest(
            slide=name,
            identity=evidence.identity,
            content_sha256=manifest.content_sha256(evidence.inputs),
            sizes=evidence.sizes,
            inputs=evidence.inputs,
            row=row,
        )
        (folder / manifest.MANIFEST).write_text(manifest.manifest_text(done), encoding="utf-8")
        manifest.put_in_place(folder, context.out / folder_name(name))
    except OutputError as error:
        raise OutputError(f"{context.out}: slide {name}: {error.message}", error.advice) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"{context.out}: {'the disk is full' if full else f'cannot be written to ({error.strerror})'}; "
            f"slide {name} is not written.",
            "Free some space and run the same command again." if full else "Check the folder's rights, then run again.",
        ) from error
    finally:
        if folder is not None:
            manifest.discard(folder)
    return row


def slide_result(evidence: SlideEvidence, context: RunContext) -> SlideResult:
    """Interpret a slide's scored fields: from evidence to the one record that every output is written from."""
    from cbctool import hematology
    from cbctool.hematology.calls import call_cells

    observations: list[Observation] = []
    fields: list[FieldSummary] = []
    warnings = [*evidence.slide.warnings, *untaught(context.weights)]
    tiles: TileMap | None = None
    mapped: set[str] = set()
    for parcel, scores in zip(evidence.parcels, evidence.scores, strict=True):
        result = unpack(parcel)
        fields.append(result.summary)
        predictions = call_cells(result.cells, result.crop_cells, scores, context.weights)
        pictures = dict(zip(result.crop_cells.tolist(), result.thumbnails, strict=True))
        observations += [
            Observation(result.summary.name, cell, prediction, pictures.get(i, b""))
            for i, (cell, prediction) in enumerate(zip(result.cells, predictions, strict=True))
        ]
    um_per_px = statistics.median(summary.scale.um_per_px for summary in fields)
    if evidence.slide.whole_slide:
        from cbctool.imaging.tiles import SEAM_UM, fill_map, seam_twins

        fields, uses = _monolayer_only(fields)
        if evidence.tiles is not None:
            came_to = dict.fromkeys(evidence.places, TileUse.FAILED) | uses
            tiles = fill_map(evidence.tiles, {evidence.places[name]: use for name, use in came_to.items()})
            mapped = {name for name, use in uses.items() if use in (TileUse.TOO_THICK, TileUse.TOO_THIN)}
        out = {summary.name for summary in fields if not summary.quality.fit}
        twins = seam_twins([o.cell for o in observations], [o.field for o in observations], SEAM_UM / um_per_px, out)
        observations = [o for i, o in enumerate(observations) if i not in twins]
    # The map of a slide shows where its monolayer ends; that is nothing to be warned of.
    unfit = [summary for summary in fields if not summary.quality.fit and summary.name not in mapped]
    warnings += [f"{summary.name} is not counted: {summary.quality.reason}." for summary in unfit[:UNFIT_NAMED]]
    if len(unfit) > UNFIT_NAMED:
        warnings.append(f"{len(unfit) - UNFIT_NAMED} more fields are not counted.")
    interpretation = hematology.interpret(evidence.slide, fields, observations, context.weights, context.profile)
    return SlideResult(
        slide=evidence.slide,
        status="partial" if evidence.failures else "done",
        fields=tuple(fields),
        observations=tuple(interpretation.observations),
        differential=interpretation.differential,
        flags=tuple(interpretation.flags),
        weights=context.weights,
        um_per_px=um_per_px,
        analysed_at=_now().isoformat(timespec="seconds"),
        version=context.version,
        identity=evidence.identity,
        device=context.device,
        seconds=round(evidence.seconds, 3),
        options=context.options,
        warnings=tuple(dict.fromkeys(warnings)),
        failures=evidence.failures,
        tiles=tiles,
    )


def untaught(weights: WeightsInfo) -> list[str]:
    """A warning where a laboratory's weights know fewer classes: their percentage of 0 says nothing.

    A class that no held-out cell had (a row of zeros in the confusion) was not taught, or never checked.
    """
    missing = [str(name) for name, row in zip(CLASSES, weights.confusion, strict=False) if not any(row)]
    if not missing:
        return []
    names = ", ".join(missing).replace("_", " ")
    return [f"The weights {weights.name} do not know, or were not checked on: {names}. Such cells count as others."]


def _now() -> datetime:
    """The time that results carry; ``SOURCE_DATE_EPOCH`` sets it, so that a run can be repeated to the byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch), tz=UTC) if epoch.isdigit() else datetime.now(UTC)


def _monolayer_only(tiles: list[FieldSummary]) -> tuple[list[FieldSummary], dict[str, TileUse]]:
    """Tiles of a whole-slide file with those outside the monolayer marked as unfit, and what became of each by name."""
    import numpy as np

    from cbctool.imaging.monolayer import choose_monolayer

    uses = choose_monolayer(
        np.array([tile.quality.cell_cover for tile in tiles]),
        np.array([tile.quality.overlap for tile in tiles]),
        np.array([tile.quality.fit for tile in tiles]),
    )
    marked = [
        tile
        if use is TileUse.COUNTED or not tile.quality.fit
        else dataclasses.replace(tile, quality=dataclasses.replace(tile.quality, fit=False, reason=use.value))
        for tile, use in zip(tiles, uses, strict=True)
    ]
    return marked, {tile.name: use for tile, use in zip(tiles, uses, strict=True)}


_PASSING = (
    "took too long",
    "the worker died",
    "enough memory",
    "machine's memory",
    "cannot be opened",
    "cannot be read",
)


def may_pass(errors: str) -> bool:
    """Whether one of the errors of failures is of the moment (time, memory, rights, a share) and not of the file."""
    return any(words in errors for words in _PASSING)


def failure_of(slide: str, path: str, error: BaseException) -> Failure:
    """An error as a row of ``failures.csv``."""
    if isinstance(error, CbctoolError):
        return Failure(slide, path, error.message, error.advice)
    if isinstance(error, TimeoutError):
        return Failure(
            slide, path, "took too long and was stopped", "Open it by hand; raise --field-timeout if it is large."
        )
    if isinstance(error, WorkerLostError):
        return Failure(
            slide,
            path,
            "the worker died over it (out of memory, or a broken file)",
            "Open it by hand; use fewer --jobs if memory is short.",
        )
    return Failure(
        slide, path, f"unexpected {type(error).__name__}: {error}", "Report it with the log (--log-file, --verbose)."
    )
