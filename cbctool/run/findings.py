"""What the program finds in annotated pictures: reading and imaging over processes, then the network's calls."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.errors import CalibrationError, CbctoolError, InputError
from cbctool.hematology.calls import call_cells
from cbctool.imaging.background import normalise
from cbctool.imaging.field import ImagingOptions, analyse_field
from cbctool.imaging.headers import EXTENSIONS
from cbctool.imaging.read import read_field
from cbctool.imaging.scale_choice import scales_by_slide
from cbctool.imaging.segment import Segmentation, segment
from cbctool.records import CROP_PX, Cell, CellKind, Field, Prediction, Scale, ScaleSource, Scores
from cbctool.run.insult import Insult, InsultKind, apply_insult
from cbctool.run.pool import LocalPool, WorkerLostError

logger = logging.getLogger(__name__)

FIELD_SECONDS = 120.0
"""Time limit for one picture; a 2-megapixel field takes well under one second."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found in one picture.

    Attributes
    ----------
    path : Path
    name : str
        Relative to the folder that was given.
    height_px, width_px : int
        Of the picture that was judged (an insult may have resized it); 0 when it could not be read.
    factor_row, factor_col : float
        Pixels of that picture per pixel of the file.
    um_per_px : float
        Of that picture; NaN when there is none.
    red_cell_um_per_px : float
        What the picture's own red cells say, NaN where they were not asked or too few.
    scale : Scale or None
        What the picture was judged with, in its pixels.
    cells : tuple of Cell
        Positions in pixels of that picture.
    crops, crop_cells : arrays
        As in :class:`~cbctool.records.FieldResult`.
    fit, reason : bool, str
        Whether the field's quality allows a count.
    cell_mask, nucleus_mask : (height_px, width_px / 8) uint8 arrays or None
        Nucleated cells and nuclei, rows packed with ``numpy.packbits``, where masks are to be compared: all fields
        of a data set are held at once.
    insult : str
    seconds : float
    error, advice : str
        Why there is nothing; "" otherwise.
    no_scale : bool
        True when the error was that there is no scale.
    predictions : tuple of Prediction or None
        One per cell once the network has been asked; empty before.
    """

    path: Path
    name: str
    height_px: int = 0
    width_px: int = 0
    factor_row: float = 1.0
    factor_col: float = 1.0
    um_per_px: float = math.nan
    red_cell_um_per_px: float = math.nan
    scale: Scale | None = None
    cells: tuple[Cell, ...] = ()
    crops: NDArray[Any] = field(default_factory=lambda: np.zeros((0, CROP_PX, CROP_PX, 3), np.uint8))
    crop_cells: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.intp))
    fit: bool = True
    reason: str = ""
    cell_mask: NDArray[Any] | None = None
    nucleus_mask: NDArray[Any] | None = None
    insult: str = ""
    seconds: float = 0.0
    error: str = ""
    advice: str = ""
    no_scale: bool = False
    predictions: tuple[Prediction | None, ...] = ()

    @property
    def scale_source(self) -> str:
        """Where the scale came from, "" where there is none."""
        return self.scale.source.value if self.scale else ""


@dataclass(frozen=True)
class _Task:
    path: Path
    name: str
    options: ImagingOptions
    given_um_per_px: float | None
    slide_scale: Scale | None
    insult: InsultKind | None
    setting: tuple[float, ...]
    clean_um_per_px: float
    masks: bool


def list_pictures(path: Path, leave_out: Path | None = None) -> list[Path]:
    """Picture files at or below ``path``, without hidden ones and those of a folder in it, ``leave_out`` (the truth's).

    Raises
    ------
    InputError
        When there are none.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path of the fields.")
    if path.is_file():
        return [path]
    root, apart = path.resolve(), leave_out.resolve() if leave_out is not None and leave_out.is_dir() else None
    left_out = path / apart.relative_to(root) if apart is not None and root in apart.parents else None
    found = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
        and left_out not in p.parents
    )
    if not found:
        raise InputError(f"{path} holds no pictures.", f"Endings that are read: {', '.join(EXTENSIONS)}.")
    return found


def find_cells(
    pictures: Sequence[Path],
    root: Path,
    *,
    um_per_px: float | None = None,
    options: ImagingOptions | None = None,
    insult: Insult | None = None,
    clean_um_per_px: Mapping[Path, float] | None = None,
    masks: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[Findings, ...]:
    """Read, calibrate, segment and measure pictures.

    A picture without enough single red cells takes the scale of the others in its folder, as ``analyze`` does within a
    slide.

    Parameters
    ----------
    pictures : sequence of Path
    root : Path
        Names are relative to it.
    um_per_px : float, optional
        Scale of the pictures as they lie in their files; it overrides everything.
    options : ImagingOptions, optional
    insult : Insult, optional
        Done to every picture before it is judged; its settings in turn.
    clean_um_per_px : mapping of Path to float, optional
        Scales of the pictures before the insult; a blur is in pixels of the working scale and needs them.
    masks : bool
        Keep the masks of nucleated cells and nuclei.
    jobs : int
        Worker processes; 1 works in this one.
    progress : callable, optional
        Called with (done, total).

    Returns
    -------
    tuple of Findings
        In the order of ``pictures``; a picture that failed has ``error``.
    """
    options = options or ImagingOptions()
    tasks = [
        _Task(
            path,
            path.relative_to(root).as_posix() if path != root else path.name,
            options,
            um_per_px,
            None,
            insult.kind if insult else None,
            insult.setting(position) if insult else (),
            (clean_um_per_px or {}).get(path, math.nan),
            masks,
        )
        for position, path in enumerate(pictures)
    ]
    found: list[Findings] = []
    for result in _each(tasks, jobs):
        found.append(result)
        if progress:
            progress(len(found), len(tasks))
    scales = _scales_by_folder(found)
    if scales:
        logger.info("%d pictures take the scale of their folder", len(scales))
        again = [replace(tasks[i], slide_scale=_in_pixels_of(scale, tasks[i])) for i, scale in scales.items()]
        for i, result in zip(scales, _each(again, jobs), strict=True):
            if not result.error or found[i].error:
                found[i] = result
    return tuple(found)


def call_findings(findings: Sequence[Findings], classifier: Any) -> tuple[Findings, ...]:
    """Ask the network about every nucleated cell and platelet.

    Parameters
    ----------
    findings : sequence of Findings
    classifier : cbctool.classifier.Classifier
    """
    if not sum(len(f.crops) for f in findings):
        return tuple(findings)
    scores = classifier.classify(np.concatenate([f.crops for f in findings]))
    called = []
    start = 0
    for f in findings:
        stop = start + len(f.crops)
        part = Scores(scores.probabilities[start:stop], scores.unknown[start:stop])
        called.append(replace(f, predictions=call_cells(f.cells, f.crop_cells, part, classifier.info)))
        start = stop
    return tuple(called)


def _each(tasks: Sequence[_Task], jobs: int) -> Iterator[Findings]:
    """Findings in the order of the tasks; a worker that dies or hangs costs its own picture only."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(_look, tasks)
        return
    pool = LocalPool(min(jobs, len(tasks)))
    try:
        futures = [pool.submit(_look, task, timeout_s=FIELD_SECONDS) for task in tasks]
        for task, future in zip(tasks, futures, strict=True):
            try:
                yield future.result()
            except TimeoutError:
                error = f"{task.name}: took longer than {FIELD_SECONDS:.0f} s."
                yield Findings(task.path, task.name, error=error, advice="Report the picture.")
            except WorkerLostError as lost:
                error = f"{task.name}: the process that read it died ({lost})."
                yield Findings(task.path, task.name, error=error, advice="Report the picture.")
    finally:
        pool.close()


def _look(task: _Task) -> Findings:
    """Everything about one picture, in a worker."""
    try:
        picture = read_field(task.path, task.path.parent.name, task.name)
        original = picture.rgb.shape
        picture, label = _insulted(picture, task)
        height, width = picture.rgb.shape[:2]
        factor_row, factor_col = height / original[0], width / original[1]
        given = task.given_um_per_px / factor_col if task.given_um_per_px is not None else None
        result = analyse_field(picture, task.options, given, task.slide_scale)
    except CbctoolError as error:
        no_scale = isinstance(error, CalibrationError)
        return Findings(task.path, task.name, error=error.message, advice=error.advice, no_scale=no_scale)
    scale = result.summary.scale
    cell_mask, nucleus_mask = _masks(picture.rgb, scale.um_per_px, task.options) if task.masks else (None, None)
    return Findings(
        task.path,
        task.name,
        height,
        width,
        factor_row,
        factor_col,
        scale.um_per_px,
        scale.um_per_px if scale.source is ScaleSource.RED_CELLS else scale.red_cell_um_per_px,
        scale,
        result.cells,
        result.crops,
        result.crop_cells,
        result.summary.quality.fit,
        result.summary.quality.reason,
        cell_mask,
        nucleus_mask,
        label,
        sum(result.seconds.values()),
    )


def _insulted(picture: Field, task: _Task) -> tuple[Field, str]:
    if task.insult is None:
        return picture, ""
    working_px = 1.0
    if task.insult in (InsultKind.BLUR, InsultKind.RESTAIN):
        if not math.isfinite(task.clean_um_per_px):
            raise CalibrationError(
                f"{picture.name}: has no scale, so that a {task.insult} at the working scale means nothing.",
                "Pass --um-per-px.",
            )
        working_px = task.options.segment.working_um_per_px / task.clean_um_per_px
    rgb = apply_insult(picture.rgb, task.insult, task.setting, working_px)
    factor = rgb.shape[1] / picture.rgb.shape[1]
    um_per_px = picture.um_per_px / factor if picture.um_per_px is not None else None
    return replace(picture, rgb=rgb, um_per_px=um_per_px), f"{task.insult}:{','.join(f'{v:g}' for v in task.setting)}"


def _masks(rgb: NDArray[Any], um_per_px: float, options: ImagingOptions) -> tuple[NDArray[Any], NDArray[Any]]:
    """Packed masks of nucleated cells and nuclei at the size of the picture: segmentation again, kept this time."""
    normalised = normalise(rgb)
    found: Segmentation = segment(normalised.rgb, um_per_px, options.segment, normalised.background.is_clipped(2))
    nucleated = np.array([False, *(kind is CellKind.NUCLEATED for kind in found.kinds)])
    cells = nucleated[found.cell_labels]
    return _enlarged_and_packed(cells, rgb.shape), _enlarged_and_packed(found.nuclei & cells, rgb.shape)


def _enlarged_and_packed(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    grown = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.packbits(grown >= 0.5, axis=1)


def _scales_by_folder(found: Sequence[Findings]) -> dict[int, Scale]:
    """Which pictures take a scale of their folder, and which, in pixels of their files: a resize goes by factors."""
    folders: dict[Path, dict[int, tuple[Scale | None, tuple[int, int]]]] = defaultdict(dict)
    for i, f in enumerate(found):
        if f.scale is not None:
            size = round(f.height_px / f.factor_row), round(f.width_px / f.factor_col)
            folders[f.path.parent][i] = replace(f.scale, um_per_px=f.scale.um_per_px * f.factor_col), size
        elif f.no_scale:
            folders[f.path.parent][i] = None, (0, 0)
    return {i: scale for folder in folders.values() for i, scale in scales_by_slide(folder).items()}


def _in_pixels_of(scale: Scale, task: _Task) -> Scale:
    factor = task.setting[0] if task.insult is InsultKind.RESIZE else 1.0
    return replace(scale, um_per_px=scale.um_per_px / factor)
