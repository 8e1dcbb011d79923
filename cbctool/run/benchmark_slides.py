"""Benchmarks of scale: a gigapixel slide, long runs, and the crops of a thousand slides through one network.

Each runs the pipeline as it is. What must not grow with the input (cost per field, memory) is measured early and late
in the same run, so that a neighbour's load falls on both.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from cbctool.records import CellKind, Slide
from cbctool.run.benchmark import cpu_seconds, peak_memory, render_slides, tree_cpu_seconds, tree_memory
from cbctool.run.discover import discover_slides
from cbctool.run.parcel import Parcel
from cbctool.run.pipeline import Analyser, FieldsProgress, Settings, SlideDone, SlideFailed
from cbctool.run.pool import LocalPool
from cbctool.run.tasks import FieldTask, analyse_field_task
from cbctool.synthetic.cells import SMUDGE
from cbctool.synthetic.whole_slide import WholeSmear, write_pyramid

FOUND_WITHIN_UM = 4.0
"""A drawn nucleated cell is found where one that was counted has its centre this near: half a small lymphocyte."""


@dataclass(frozen=True)
class WholeSlideTiming:
    """One whole slide; ``write_seconds`` is None where the file was there already.

    ``once``, ``missed`` and ``twice`` are of the ``drawn`` nucleated cells in counted tiles.
    """

    side_px: int
    jobs: int
    file_bytes: int
    write_seconds: float | None
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    tiles: dict[str, int]
    drawn: int
    once: int
    missed: int
    twice: int
    found: int
    red_cells_drawn: int
    red_cells_found: int


def benchmark_whole_slide(side_px: int, jobs: Sequence[int] | None = None) -> list[WholeSlideTiming]:
    """Write one rendered slide of ``side_px`` squared and analyse it with each number of jobs (default: the cores)."""
    with TemporaryDirectory(prefix="cbctool-benchmark-") as scratch:
        return [time_whole_slide(side_px, width, Path(scratch)) for width in jobs or [os.cpu_count() or 1]]


def time_whole_slide(side_px: int, jobs: int, folder: Path, seed: int = 1) -> WholeSlideTiming:
    """Write a slide of ``side_px`` squared at 0.25 um/px into ``folder``, analyse it and compare with the truth.

    Writing and analysing have a process each, so that the renderer's memory is not taken for the analysis'.
    """
    smear = WholeSmear((side_px, side_px), seed=seed)
    path = folder / f"scan_{side_px}.tif"
    written = None if path.exists() else _apart(_write, path, smear)
    return _apart(_analyse, path, smear, jobs, written)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _write(path: Path, smear: WholeSmear) -> float:
    began = time.process_time()
    write_pyramid(path, smear)
    return time.process_time() - began


def _analyse(path: Path, smear: WholeSmear, jobs: int, written: float | None) -> WholeSlideTiming:
    out = path.with_name(f"out_{path.stem}_{jobs}")
    shutil.rmtree(out, ignore_errors=True)
    cpu, began = cpu_seconds(), time.perf_counter()
    with peak_memory() as memory, Analyser(Settings(out=out, jobs=jobs)) as analyser:
        slides = discover_slides(path).slides
        done = [outcome for outcome in analyser.run(slides) if isinstance(outcome, SlideDone | SlideFailed)]
        took = time.perf_counter() - began
    cpu = cpu_seconds() - cpu
    if len(done) != 1 or not isinstance(done[0], SlideDone):
        raise RuntimeError(f"the slide could not be analysed: {done}")
    result = json.loads((out / slides[0].name / "result.json").read_text(encoding="utf-8"))
    drawn, red_cells = _truth(smear, result)
    fit = {field["name"] for field in result["fields"] if field["quality"]["fit"]}
    found = np.array([(c["row_px"], c["col_px"]) for c in result["cells"] if c["field"] in fit]).reshape(-1, 2)
    near = cKDTree(found).query_ball_point(drawn, FOUND_WITHIN_UM / smear.um_per_px, return_length=True)
    return WholeSlideTiming(
        side_px=smear.shape[0],
        jobs=jobs,
        file_bytes=path.stat().st_size,
        write_seconds=written,
        seconds=took,
        cpu_seconds=cpu,
        peak_memory_bytes=memory[0],
        tiles=result["tiles"]["counts"],
        drawn=len(drawn),
        once=int((near == 1).sum()),
        missed=int((near == 0).sum()),
        twice=int((near > 1).sum()),
        found=len(found),
        red_cells_drawn=red_cells,
        red_cells_found=result["differential"]["erythrocytes"],
    )


def _truth(smear: WholeSmear, result: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Centres (N, 2) of the nucleated cells drawn in the tiles that were counted, and the red cells there."""
    tiles = result["tiles"]
    edges = [
        [round(i * side / parts) for i in range(parts + 1)]
        for side, parts in ((tiles["height_px"], tiles["rows"]), (tiles["width_px"], tiles["columns"]))
    ]
    centres: list[tuple[float, float]] = []
    red_cells = 0
    for i, row in enumerate(tiles["uses"]):
        for j, use in enumerate(row):
            if use != "counted":
                continue
            top, left, bottom, right = edges[0][i], edges[1][j], edges[0][i + 1], edges[1][j + 1]
            for cell in smear.truth(top, left, (bottom - top, right - left)).cells:
                inside = 0 <= cell.row_px < bottom - top and 0 <= cell.col_px < right - left
                if inside and cell.kind is CellKind.NUCLEATED and cell.name != SMUDGE:
                    centres.append((top + cell.row_px, left + cell.col_px))
                red_cells += inside and cell.kind is CellKind.ERYTHROCYTE
    return np.array(centres).reshape(-1, 2), red_cells


@dataclass(frozen=True)
class Flatness:
    """A long run, its first fifth (after the start) beside its last: milliseconds per field and bytes in memory."""

    slides: int
    fields: int
    first_ms: float
    last_ms: float
    first_cpu_ms: float
    last_cpu_ms: float
    first_bytes: int
    last_bytes: int


def time_long_run(slides: int, fields: int, jobs: int, size: tuple[int, int] = (320, 240)) -> Flatness:
    """Analyse ``slides`` rendered slides of ``fields`` small fields each and look at both ends of the run."""
    total = slides * fields
    marks: list[tuple[int, float, float, int]] = []

    def mark(done: int) -> None:
        marks.append((done, time.perf_counter(), tree_cpu_seconds(), tree_memory()))

    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "slides"
        render_slides(folder, slides, fields, size, 0.25)
        done = 0
        with Analyser(Settings(out=Path(scratch) / "out", jobs=jobs)) as analyser:
            for outcome in analyser.run(discover_slides(folder).slides):
                match outcome:
                    case FieldsProgress():
                        done += outcome.fields
                    case SlideFailed():
                        raise RuntimeError(f"{outcome.slide.name}: {outcome.failures}")
                while len(marks) < 11 and done >= len(marks) * total / 10 and done > 0:
                    mark(done)
    (a, wall_a, cpu_a, bytes_a), (b, wall_b, cpu_b, _) = marks[1], marks[3]  # the first tenth warms up
    (c, wall_c, cpu_c, _), (d, wall_d, cpu_d, bytes_d) = marks[-3], marks[-1]
    return Flatness(
        slides=slides,
        fields=fields,
        first_ms=1000 * (wall_b - wall_a) / max(b - a, 1),
        last_ms=1000 * (wall_d - wall_c) / max(d - c, 1),
        first_cpu_ms=1000 * (cpu_b - cpu_a) / max(b - a, 1),
        last_cpu_ms=1000 * (cpu_d - cpu_c) / max(d - c, 1),
        first_bytes=bytes_a,
        last_bytes=bytes_d,
    )


@dataclass(frozen=True)
class Night:
    """Crops of many slides through the batcher. ``network_share`` is the part of the time that the network worked."""

    slides: int
    cells: int
    device: str
    seconds: float
    network_seconds: float

    @property
    def network_share(self) -> float:
        return self.network_seconds / self.seconds


def time_night(slides: int = 1000, jobs: int = 2, device: str = "cpu", cells: int = 100) -> Night:
    """Send the crops of ``slides`` slides through the pipeline's batcher to the network, reports of tables included.

    Each slide has one field of ``cells`` nucleated cells, rendered and analysed once in each worker and then handed out
    anew for every slide: what is left is what the network's surroundings cost.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        profile = folder / "lab.toml"
        profile.write_text("[report]\noutputs = []\n", encoding="utf-8")
        settings = Settings(out=folder / "out", jobs=jobs, device=device, profile=profile)
        names = [f"night_{i:04d}" for i in range(slides)]
        inputs = []
        for i, name in enumerate(names):
            path = folder / f"{name}.jpg"
            path.write_bytes(i.to_bytes(4, "big"))  # never decoded; it tells the slides apart
            inputs.append(Slide(name, folder, (path,)))
        with Analyser(settings) as analyser:
            analyser._pool.close()
            analyser._pool = analyser._report_pool = pool = _ReplayPool(jobs, cells)
            classifier = analyser.classifier
            ready = [pool.submit(_warm, cells, timeout_s=600) for _ in range(2 * jobs)]
            for future in ready:
                future.result()
            classify, spent, seen = classifier.classify, [0.0], [0]

            def timed(crops: Any) -> Any:
                began = time.perf_counter()
                scores = classify(crops)
                spent[0] += time.perf_counter() - began
                seen[0] += len(crops)
                return scores

            classifier.classify = timed  # type: ignore[method-assign]
            began = time.perf_counter()
            done = sum(isinstance(outcome, SlideDone) for outcome in analyser.run(inputs))
            took = time.perf_counter() - began
            if done != slides:
                raise RuntimeError(f"{slides - done} of {slides} slides have no report")
            return Night(slides, seen[0], classifier.device, took, spent[0])


class _ReplayPool(LocalPool):
    """Workers that hand out one field again and again instead of analysing another."""

    def __init__(self, jobs: int, cells: int) -> None:
        super().__init__(jobs)
        self._cells = cells

    def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        if function is analyse_field_task:
            return super().submit(_replay, *arguments, self._cells, timeout_s=timeout_s)
        return super().submit(function, *arguments, timeout_s=timeout_s)


def _warm(cells: int) -> None:
    _template(cells)


def _replay(task: FieldTask, cells: int) -> Parcel:
    parcel = _template(cells)
    return dataclasses.replace(
        parcel,
        result=dataclasses.replace(parcel.result, summary=dataclasses.replace(parcel.result.summary, name=task.name)),
    )


@lru_cache(maxsize=1)
def _template(cells: int) -> Parcel:
    import cv2

    from cbctool.synthetic.render import render_field

    drawn = {"neutrophil": 0.6, "lymphocyte": 0.3, "monocyte": 0.08, "eosinophil": 0.02}
    rgb, _ = render_field({name: round(share * cells) for name, share in drawn.items()}, (2000, 2000), 0.12, seed=1)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "field.png"
        cv2.imwrite(str(path), rgb[..., ::-1])
        return analyse_field_task(FieldTask("night", "field.png", path, 0.12))


def whole_slide_table(timings: Sequence[WholeSlideTiming]) -> list[str]:
    """Rows of Markdown."""
    head = (
        *("pixels", "file, MB", "written in, CPU s", "analysed in, s", "CPU s", "peak memory, GB"),
        *("tiles counted / read / all", "nucleated cells drawn there", "found once", "missed", "twice", "found in all"),
        "red cells, found / drawn",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in timings:
        every = sum(one.tiles.values())
        row = (
            f"{one.side_px:,}²",
            f"{one.file_bytes / 1e6:.0f}",
            "kept" if one.write_seconds is None else f"{one.write_seconds:.0f}",
            f"{one.seconds:.0f}",
            f"{one.cpu_seconds:.0f}",
            f"{one.peak_memory_bytes / 1e9:.2f}",
            f"{one.tiles['counted']} / {every - one.tiles['background']} / {every}",
            f"{one.drawn:,}",
            f"{100 * one.once / max(one.drawn, 1):.1f} %",
            f"{one.missed:,}",
            f"{one.twice:,}",
            f"{one.found:,}",
            f"{one.red_cells_found:,} / {one.red_cells_drawn:,}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return lines


def to_json(timings: Sequence[WholeSlideTiming]) -> str:
    """The same for machines."""
    return json.dumps([dataclasses.asdict(one) for one in timings], indent=1)


def flatness_table(runs: Sequence[Flatness]) -> list[str]:
    """Rows of Markdown."""
    lines = [
        "| slides | fields each | ms per field early, late | CPU ms per field early, late | memory early, late, GB |",
        "|" + "---|" * 5,
    ]
    for one in runs:
        growth = 100 * (one.last_cpu_ms / one.first_cpu_ms - 1)
        lines.append(
            f"| {one.slides:,} | {one.fields:,} | {one.first_ms:.1f}, {one.last_ms:.1f} "
            f"| {one.first_cpu_ms:.1f}, {one.last_cpu_ms:.1f} ({growth:+.0f} %) "
            f"| {one.first_bytes / 1e9:.2f}, {one.last_bytes / 1e9:.2f} |"
        )
    return lines
