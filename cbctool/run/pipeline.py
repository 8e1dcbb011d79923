"""The stages meet here: slides in, reports out, over a pool of workers, with one network that sees every crop.

    Analyser.run(slides):  fields -> workers (read ... crop) -> crops of all slides in full batches -> workers (report)

Queues are bounded: at most a few fields per worker are under way, whatever the number of slides. One bad field is a row
in ``failures.csv``; the slide goes on without it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cbctool import __version__
from cbctool.errors import CalibrationError, CbctoolError, OutputError, WeightsError
from cbctool.imaging.scale_choice import scales_by_slide
from cbctool.records import Failure, Scores, Slide, TileMap
from cbctool.run import manifest
from cbctool.run.discover import field_name, folder_name, slide_files
from cbctool.run.parcel import Parcel, Shelf
from cbctool.run.pool import Pool, WorkerLostError, open_pool
from cbctool.run.tasks import (
    FieldTask,
    RunContext,
    SlideEvidence,
    analyse_field_task,
    failure_of,
    report_slide_task,
)

if TYPE_CHECKING:
    from cbctool.classifier import Classifier
    from cbctool.hematology.profile import Profile
    from cbctool.report import ReportStyle

logger = logging.getLogger(__name__)

FIELDS_PER_WORKER = 4
"""Fields under way per worker: enough that none waits for the next, few enough that memory stays flat."""

CROPS_DUE = 256
"""Crops that are sent through the network together, at least: the CPU's batches of 16 are for all its threads, and the
last one is padded, by 8 of 264 on average."""

FIELDS_IN_MEMORY = 200
"""Slides of more fields, and whole-slide files, have what waits for their report on the disk: 0.1 MB and more each."""

SLIDES_WAITING = 16
"""Finished slides that may wait for a full batch before it is sent as it is."""

ATTEMPTS_AFTER_LOSS = 2
"""A field or report whose worker died is tried once more: it may have been killed for another's memory."""


@dataclass(frozen=True)
class Settings:
    """What the command line says about a run.

    Attributes
    ----------
    out : Path
        The output folder.
    weights : Path or None
        A lab's own weights file; None is the shipped default.
    device, batch_size
        As for :class:`cbctool.classifier.Classifier`.
    jobs : int or None
        Worker processes; None is the number of cores.
    um_per_px : float or None
        Scale of every slide that the sheet gives none for.
    wbc_10e9_per_l : float or None
        The analyser's leukocyte count, for every slide that the sheet gives none for.
    field_timeout_s : float
        A field that takes longer is marked, and its worker replaced.
    """

    out: Path
    weights: Path | None = None
    profile: Path | None = None
    device: str = "auto"
    batch_size: int | str = "auto"
    jobs: int | None = None
    um_per_px: float | None = None
    wbc_10e9_per_l: float | None = None
    overwrite: bool = False
    cluster: str | None = None
    field_timeout_s: float = 120.0
    report_timeout_s: float = 600.0


@dataclass(frozen=True)
class SlideDone:
    """A slide whose report stands; ``skipped`` when it already stood, unchanged."""

    slide: Slide
    row: Mapping[str, Any]
    failures: tuple[Failure, ...] = ()
    fields: int = 0
    cells: int = 0
    skipped: bool = False
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class SlideFailed:
    """A slide without a single field that could be analysed."""

    slide: Slide
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class FieldsProgress:
    """Fields finished since the last report, for a progress bar."""

    fields: int
    cells: int


Outcome = SlideDone | SlideFailed | FieldsProgress


class _SlideInHand:
    """A slide between its first field and its report."""

    def __init__(
        self,
        slide: Slide,
        tasks: list[FieldTask],
        identity: str,
        inputs: Mapping[str, str],
        tiles: TileMap | None = None,
    ) -> None:
        self.slide = slide
        self.tiles = tiles
        self.identity = identity
        self.inputs = inputs
        self.tasks = tasks
        self.parcels: dict[int, Parcel] = {}
        self.scores: dict[int, Scores] = {}
        self.failures: dict[int, Failure] = {}
        self.without_scale: dict[int, CalibrationError] = {}
        self.before: dict[int, tuple[Parcel, Scores | None]] = {}  # of fields that are analysed again
        self.scaled_again = False
        self.stages: dict[str, float] = {}
        self.shelf: Shelf | None = None
        self.began = time.monotonic()

    @property
    def large(self) -> bool:
        return self.slide.whole_slide or len(self.tasks) > FIELDS_IN_MEMORY

    @property
    def analysed(self) -> bool:
        """Whether every field has come back, one way or the other."""
        return len(self.parcels) + len(self.failures) + len(self.without_scale) == len(self.tasks)

    def set_aside(self, index: int) -> None:
        """Have a field come back once more; what is known of it stands where that fails."""
        if index in self.parcels:
            self.before[index] = self.parcels.pop(index), self.scores.pop(index, None)

    @property
    def scored(self) -> bool:
        return self.analysed and not self.without_scale and len(self.scores) == len(self.parcels)


class Analyser:
    """Holds the workers and the network; a context manager.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    OutputError, WeightsError, UsageError
        At once, before the first slide.
    """

    def __init__(self, settings: Settings) -> None:
        from cbctool.classifier.weights import weights_info
        from cbctool.hematology.profile import load_profile

        self.settings = settings
        self.jobs = settings.jobs or os.cpu_count() or 1
        manifest.prepare_output(settings.out)
        self.profile = load_profile(settings.profile)
        self.style = report_style(self.profile)
        self.weights = weights_info(settings.weights)  # reads the header only; the network loads while workers start
        self.options = _options(settings, self.profile)
        self._pool: Pool = open_pool(self.jobs, settings.cluster)
        # Reports are written on this machine, which owns the output folder.
        self._report_pool: Pool = open_pool(self.jobs) if settings.cluster else self._pool
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load-network")
        self._classifier: Future[Classifier] = self._loader.submit(self._load_classifier)

    def __enter__(self) -> Analyser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the workers. What they have in hand is dropped; finished slides stay. Closing twice does no harm."""
        self._pool.close()
        if self._report_pool is not self._pool:
            self._report_pool.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        manifest.discard_partial(self.settings.out)  # of reports that a worker was ended over

    def _load_classifier(self) -> Classifier:
        from cbctool.classifier import Classifier

        return Classifier(self.settings.weights, device=self.settings.device, batch_size=self.settings.batch_size)

    @property
    def classifier(self) -> Classifier:
        """The network, once it is loaded.

        Raises
        ------
        WeightsError
            If the file was replaced between the look at its header and the loading.
        """
        classifier = self._classifier.result()
        if classifier.info.sha256 != self.weights.sha256:
            raise WeightsError("The weights file was replaced while the run began.", "Run the same command again.")
        return classifier

    def run(self, slides: Iterable[Slide]) -> Iterator[Outcome]:
        """Analyse slides; outcomes come as they are reached, slides not always in order.

        Raises
        ------
        OutputError
            Where the output folder can no longer be written to; slides finished before it stand, and no worker has
            anything of this pass in hand any more.
        """
        return _Run(self).outcomes(slides)

    def context(self) -> RunContext:
        """What every report of this run shares."""
        return RunContext(
            out=self.settings.out.absolute(),
            weights=self.classifier.info,
            profile=self.profile,
            style=self.style,
            device=self.classifier.device,
            options=self.options,
            version=__version__,
        )


class _Run:
    """One pass over slides. All state of the pass is here, and only the calling thread touches it."""

    def __init__(self, analyser: Analyser) -> None:
        self.analyser = analyser
        self.settings = analyser.settings
        self.pool = analyser._pool
        self.fields: dict[Future[Any], tuple[_SlideInHand, int, int]] = {}
        self.reports: dict[Future[Any], tuple[_SlideInHand, SlideEvidence, int]] = {}
        self.ready: deque[tuple[_SlideInHand, int]] = deque()  # submitted next, before new slides
        self.unscored: list[tuple[_SlideInHand, int]] = []
        self.waiting: set[int] = set()  # id of slides that only wait for scores
        self.shelves: list[Shelf] = []
        self.context: RunContext | None = None

    def outcomes(self, slides: Iterable[Slide]) -> Iterator[Outcome]:
        try:
            yield from self._outcomes(slides)
        except CbctoolError:  # the output folder, or the weights
            yield from self._what_is_begun()
            raise
        finally:
            for shelf in self.shelves:
                shelf.clear()

    def _outcomes(self, slides: Iterable[Slide]) -> Iterator[Outcome]:
        source = iter(slides)
        exhausted = False
        room = FIELDS_PER_WORKER * self.pool.width
        while True:
            while not exhausted and len(self.ready) == 0 and len(self.fields) < room and len(self.reports) <= room:
                slide = next(source, None)
                if slide is None:
                    exhausted = True
                else:
                    yield from self._begin(slide)
            while self.ready and len(self.fields) < room:
                self._submit(*self.ready.popleft())
            if not self.fields and not self.reports:
                if not self.unscored and not self.ready and exhausted:
                    return
                yield from self._score()
                continue
            done, _ = concurrent.futures.wait(
                {*self.fields, *self.reports}, timeout=1.0, return_when=concurrent.futures.FIRST_COMPLETED
            )
            if not done:
                yield FieldsProgress(0, 0)  # a sign of life for whoever keeps a heartbeat
            for future in done:
                if future in self.fields:
                    yield from self._field_done(future)
                else:
                    yield self._report_done(future)
            if self._batch_is_due(exhausted):
                yield from self._score()

    def _what_is_begun(self) -> Iterator[Outcome]:
        """Let the workers finish what they have been given: left to it, they would write reports behind the next pass.

        Reports that can still be written count; fields have nothing to go on to.
        """
        while self.fields or self.reports:
            done, _ = concurrent.futures.wait(
                {*self.fields, *self.reports}, timeout=1.0, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                if self.fields.pop(future, None) is None:
                    with contextlib.suppress(OutputError):
                        yield self._report_done(future)
            yield FieldsProgress(0, 0)

    # ------------------------------------------------------------------------------------------------------- a slide

    def _begin(self, slide: Slide) -> Iterator[Outcome]:
        settings = self.settings
        slide = dataclasses.replace(
            slide,
            um_per_px=slide.um_per_px or settings.um_per_px,
            wbc_10e9_per_l=slide.wbc_10e9_per_l if slide.wbc_10e9_per_l is not None else settings.wbc_10e9_per_l,
        )
        inputs = hash_inputs(slide)
        identity = manifest.identity(slide, inputs, self.analyser.weights.sha256, self.analyser.options)
        place = settings.out / folder_name(slide.name)
        before = manifest.read_manifest(place)
        if before is not None and before.identity == identity and not settings.overwrite and not before.lacking:
            logger.info("%s: unchanged, skipped", slide.name)
            yield SlideDone(slide, before.row, skipped=True)
            return
        try:
            manifest.check_place(place)
            tasks, tiles = self._plan(slide)
        except (CbctoolError, TimeoutError, WorkerLostError) as error:
            yield _failed(slide, failure_of(slide.name, str(slide.paths[0]), error))
            return
        if not tasks:
            yield _failed(slide, Failure(slide.name, str(slide.root), "no field with tissue in it", "Look at it."))
            return
        in_hand = _SlideInHand(slide, tasks, identity, inputs, tiles)
        logger.info("%s: %d field(s)", slide.name, len(tasks))
        self.ready.extend((in_hand, i) for i in range(len(tasks)))

    def _plan(self, slide: Slide) -> tuple[list[FieldTask], TileMap | None]:
        """The slide's fields; a whole-slide file is opened in a worker, which may crash or hang over it."""
        if not slide.whole_slide:
            return field_tasks(slide)
        return self.pool.submit(field_tasks, slide, timeout_s=self.settings.field_timeout_s).result()

    def _submit(self, in_hand: _SlideInHand, index: int, attempt: int = 1) -> None:
        task = dataclasses.replace(in_hand.tasks[index], white_balanced=self.analyser.weights.white_balanced)
        future = self.pool.submit(analyse_field_task, task, timeout_s=self.settings.field_timeout_s)
        self.fields[future] = (in_hand, index, attempt)

    def _field_done(self, future: Future[Parcel]) -> Iterator[Outcome]:
        in_hand, index, attempt = self.fields.pop(future)
        task = in_hand.tasks[index]
        try:
            parcel = future.result()
        except CalibrationError as error:
            if task.slide_scale is None:
                in_hand.without_scale[index] = error
            else:
                in_hand.failures[index] = failure_of(task.slide, task.name, error)
        except WorkerLostError as error:
            if attempt < ATTEMPTS_AFTER_LOSS:
                self._submit(in_hand, index, attempt + 1)
                return
            in_hand.failures[index] = failure_of(task.slide, task.name, error)
        except Exception as error:  # whatever one field does, the others go on
            if not isinstance(error, CbctoolError | TimeoutError):
                logger.exception("%s/%s: unexpected error", task.slide, task.name)
            in_hand.failures[index] = failure_of(task.slide, task.name, error)
        else:
            in_hand.parcels[index] = parcel
            for stage, seconds in parcel.result.seconds.items():
                in_hand.stages[stage] = in_hand.stages.get(stage, 0.0) + seconds
            self.unscored.append((in_hand, index))
            yield FieldsProgress(*((0, 0) if in_hand.before.pop(index, None) else (1, parcel.count)))
        if index in in_hand.before:
            logger.info("%s/%s: stays with its own scale", task.slide, task.name)
            del in_hand.failures[index]
            in_hand.parcels[index], scores = in_hand.before.pop(index)
            if scores is None:
                self.unscored.append((in_hand, index))
            else:
                in_hand.scores[index] = scores
        if index in in_hand.failures:
            failure = in_hand.failures[index]
            logger.warning("%s/%s: %s. %s", failure.slide, failure.path, failure.error.rstrip("."), failure.advice)
            yield FieldsProgress(1, 0)
        if in_hand.analysed:
            yield from self._all_fields_back(in_hand)

    def _all_fields_back(self, in_hand: _SlideInHand) -> Iterator[Outcome]:
        if not in_hand.scaled_again:
            in_hand.scaled_again = True
            yield from self._scale_by_slide(in_hand)
            if not in_hand.analysed:
                return
        if not in_hand.parcels:
            yield SlideFailed(in_hand.slide, _in_order(in_hand.failures))
        elif in_hand.scored:
            self._report(in_hand)
        else:
            self.waiting.add(id(in_hand))

    def _scale_by_slide(self, in_hand: _SlideInHand) -> Iterator[Outcome]:
        """Have fields that have no scale, or a poorer one than their slide, analysed again with the slide's."""
        summaries = {index: parcel.result.summary for index, parcel in in_hand.parcels.items()}
        scales = scales_by_slide(
            {
                **{index: (one.scale, (one.height_px, one.width_px)) for index, one in summaries.items()},
                **dict.fromkeys(in_hand.without_scale, (None, (0, 0))),
            }
        )
        for index, error in sorted(in_hand.without_scale.items()):
            if index not in scales:
                task = in_hand.tasks[index]
                in_hand.failures[index] = failure_of(task.slide, task.name, error)
                logger.warning("%s/%s: %s", task.slide, task.name, error)
                yield FieldsProgress(1, 0)
        in_hand.without_scale.clear()
        for index, scale in sorted(scales.items()):
            in_hand.set_aside(index)
            in_hand.tasks[index] = dataclasses.replace(in_hand.tasks[index], slide_scale=scale)
            self.ready.append((in_hand, index))
        self.unscored = [(one, index) for one, index in self.unscored if one is not in_hand or index not in scales]
        if scales:
            logger.info("%s: %d field(s) again, with the slide's scale", in_hand.slide.name, len(scales))

    # -------------------------------------------------------------------------------------------------------- scoring

    def _batch_is_due(self, exhausted: bool) -> bool:
        if not self.unscored:
            return False
        crops = sum(len(in_hand.parcels[i].result.crops) for in_hand, i in self.unscored)
        idle = exhausted and not self.fields and not self.ready
        return (
            idle or len(self.waiting) >= SLIDES_WAITING or crops >= max(CROPS_DUE, self.analyser.classifier.batch_size)
        )

    def _score(self) -> Iterator[Outcome]:
        """Send everything that waits through the network as one array, and hand finished slides to their reports."""
        batch, self.unscored = self.unscored, []
        if not batch:
            return
        began = time.perf_counter()
        crops = np.concatenate([in_hand.parcels[i].result.crops for in_hand, i in batch])
        scores = self.analyser.classifier.classify(crops)
        each = (time.perf_counter() - began) / len(batch)
        at = 0
        for in_hand, index in batch:
            parcel = in_hand.parcels[index]
            result = parcel.result
            end = at + len(result.crops)
            in_hand.scores[index] = Scores(scores.probabilities[at:end].copy(), scores.unknown[at:end].copy())
            # The crops have served; only measurements and thumbnails go on.
            served = dataclasses.replace(result, crops=np.empty((0, *result.crops.shape[1:]), np.uint8))
            in_hand.parcels[index] = self._laid_down(in_hand, dataclasses.replace(parcel, result=served))
            in_hand.stages["classify"] = in_hand.stages.get("classify", 0.0) + each
            at = end
        for in_hand in {id(i): i for i, _ in batch}.values():
            if in_hand.scored:
                self.waiting.discard(id(in_hand))
                self._report(in_hand)
        yield FieldsProgress(0, 0)

    def _laid_down(self, in_hand: _SlideInHand, parcel: Parcel) -> Parcel:
        """A parcel as it waits for the report: on the disk where there are many."""
        if not in_hand.large:
            return parcel
        if in_hand.shelf is None:
            try:
                in_hand.shelf = Shelf(self.settings.out, in_hand.slide.name)
            except OSError:  # the report will say what is wrong with the output folder
                return parcel
            self.shelves.append(in_hand.shelf)
        return in_hand.shelf.put(parcel)

    def _clear(self, in_hand: _SlideInHand) -> None:
        if in_hand.shelf is not None:
            in_hand.shelf.clear()
            self.shelves.remove(in_hand.shelf)

    # -------------------------------------------------------------------------------------------------------- reports

    def _report(self, in_hand: _SlideInHand) -> None:
        if self.context is None:
            self.context = self.analyser.context()
        order = sorted(in_hand.parcels)
        evidence = SlideEvidence(
            slide=in_hand.slide,
            parcels=tuple(in_hand.parcels[i] for i in order),
            scores=tuple(in_hand.scores[i] for i in order),
            failures=_in_order(in_hand.failures),
            inputs=in_hand.inputs,
            sizes=file_sizes(in_hand.slide),
            identity=in_hand.identity,
            seconds=time.monotonic() - in_hand.began,
            tiles=in_hand.tiles,
            places={task.name: (task.tile.row, task.tile.col) for task in in_hand.tasks if task.tile is not None},
        )
        self._submit_report(in_hand, evidence)

    def _submit_report(self, in_hand: _SlideInHand, evidence: SlideEvidence, attempt: int = 1) -> None:
        future = self.analyser._report_pool.submit(
            report_slide_task, evidence, self.context, timeout_s=self.settings.report_timeout_s
        )
        self.reports[future] = (in_hand, evidence, attempt)

    def _report_done(self, future: Future[dict[str, Any]]) -> Outcome:
        in_hand, evidence, attempt = self.reports.pop(future)
        cells = sum(parcel.count for parcel in in_hand.parcels.values())
        try:
            row = future.result()
        except OutputError:
            raise
        except Exception as error:
            if isinstance(error, WorkerLostError) and attempt < ATTEMPTS_AFTER_LOSS:
                self._submit_report(in_hand, evidence, attempt + 1)
                return FieldsProgress(0, 0)
            unexpected = None if isinstance(error, CbctoolError) else error
            logger.error("%s: the report could not be written: %s", in_hand.slide.name, error, exc_info=unexpected)
            self._clear(in_hand)
            failure = failure_of(in_hand.slide.name, in_hand.slide.name, error)
            return SlideFailed(in_hand.slide, (*_in_order(in_hand.failures), failure))
        self._clear(in_hand)
        return SlideDone(
            in_hand.slide, row, _in_order(in_hand.failures), len(in_hand.parcels), cells, stages=in_hand.stages
        )


def _failed(slide: Slide, failure: Failure) -> SlideFailed:
    """A slide that is not even begun."""
    logger.warning("%s: %s. %s", slide.name, failure.error.rstrip("."), failure.advice)
    return SlideFailed(slide, (failure,))


def _in_order(failures: Mapping[int, Failure]) -> tuple[Failure, ...]:
    return tuple(failures[i] for i in sorted(failures))


def _options(settings: Settings, profile: Profile) -> dict[str, Any]:
    """The options that change numbers; they are part of a slide's identity and stand in its report."""
    return {"um_per_px": settings.um_per_px, "profile": profile.model_dump(mode="json"), "version": __version__}


def report_style(profile: Profile) -> ReportStyle:
    """The looks that a profile asks for."""
    from cbctool.report import ReportStyle

    return ReportStyle(
        lab_name=profile.lab.name,
        logo=profile.lab.logo,
        page_size=profile.report.page_size,
        outputs=frozenset(profile.report.outputs),
    )


def hash_inputs(slide: Slide) -> dict[str, str]:
    """SHA-256 of each of a slide's files, by field name; "" for one that cannot be read (its field will say why)."""
    hashes = {}
    for path in slide_files(slide):
        try:
            hashes[field_name(slide, path)] = manifest.hash_file(path) if path.is_file() else ""
        except OSError:
            hashes[field_name(slide, path)] = ""
    return hashes


def file_sizes(slide: Slide) -> tuple[int, ...]:
    """Sizes of a slide's files in bytes, sorted; 0 for one that cannot be looked at."""
    sizes = []
    for path in slide_files(slide):
        try:
            sizes.append(path.stat().st_size)
        except OSError:
            sizes.append(0)
    return tuple(sorted(sizes))


def field_tasks(slide: Slide) -> tuple[list[FieldTask], TileMap | None]:
    """The fields of a slide in order; for a whole-slide file, its tiles with tissue, and the map of all tiles.

    Raises
    ------
    UnreadableImageError
        If a whole-slide file cannot be opened.
    """
    if not slide.whole_slide:
        return [FieldTask(slide.name, field_name(slide, p), p, slide.um_per_px) for p in slide.paths], None
    from cbctool.imaging.tiles import plan_tiles, tile_map
    from cbctool.imaging.whole_slide import open_whole_slide

    path = slide.paths[0]
    opened = open_whole_slide(path)
    try:
        tiles = plan_tiles(opened, um_per_px=slide.um_per_px)
        drawn = tile_map(opened, slide.um_per_px)
    finally:
        opened.close()
    return [FieldTask(slide.name, tile.name, path, slide.um_per_px, tile=tile) for tile in tiles], drawn
