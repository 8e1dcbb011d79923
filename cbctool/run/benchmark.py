"""``cbctool benchmark``: slides per minute, and where the time goes.

Machines are shared and noisy, so that every timing stands beside the *floor* measured in the same run on the same
files: decoding them with ``cv2.imread`` at full size in as many processes and doing nothing else. Ratios to that floor
carry from one machine to another; seconds do not.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cbctool import __version__
from cbctool.run.discover import discover_slides
from cbctool.run.pipeline import Analyser, FieldsProgress, Settings, SlideDone, SlideFailed
from cbctool.run.pool import LocalPool

CHUNK = 5
"""Files per decode task: with fewer, handing out tasks would count as decoding."""

DISTINCT_FIELDS = 12
"""Rendered fields that differ in content; more files are copies of these that differ in a comment."""

SMEAR = {"red cell": 1.0, "platelet": 0.06, "neutrophil": 0.012, "lymphocyte": 0.006, "monocyte": 0.0015}
"""Cells drawn per red cell: some ten times the leukocytes of normal blood, since fields are chosen for them."""

RED_CELLS_PER_UM2 = 0.0065
"""Red cells per um^2 of field: cover 0.29 by 44 um^2 cells, a monolayer."""


JPEG_QUALITY = 97
"""With it and 4:2:2 sampling, a rendered field's grain and size are those of photographs as cameras write them.

Bytes per pixel 0.32 and grain 1.3 grey levels, where ALL-IDB1 (4:2:2) has 0.32 and 1.4;
at quality 92 and 4:2:0 it was 0.13 and 0.8, and such a file is decoded in little more than half the time.
"""


@dataclass(frozen=True)
class Timing:
    """One configuration, over its repeats. Seconds are medians; ``spread`` is (max - min) / median of the analysis.

    ``start_cpu_seconds`` is the processor time of all processes (network and workers loaded) until the first field is
    back, ``cpu_ms_per_field`` that of the other fields and all reports.
    """

    jobs: int
    device: str
    repeats: int
    seconds: float
    spread: float
    decode_seconds: float
    first_field_seconds: float
    stages: dict[str, float]
    peak_memory_bytes: int
    slides: int
    fields: int
    megapixels: float
    cells: int
    start_cpu_seconds: float
    cpu_ms_per_field: float

    @property
    def ratio(self) -> float:
        """Whole analysis over decode-only."""
        return self.seconds / self.decode_seconds

    @property
    def cores_at_work(self) -> float:
        """Processor time over time: above ``jobs`` where the network works beside the workers."""
        return (self.start_cpu_seconds + self.fields * self.cpu_ms_per_field / 1000) / self.seconds


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found: the machine, the input, a timing per configuration, and the network alone."""

    version: str
    machine: str
    source: str
    timings: tuple[Timing, ...]
    crops_per_second: dict[str, float] = field(default_factory=dict)


def benchmark(
    source: Path | None = None,
    slides: int = 3,
    fields: int = 20,
    size: tuple[int, int] = (1632, 1224),
    um_per_px: float = 0.12,
    jobs: Sequence[int] | None = None,
    devices: Sequence[str] = ("cpu",),
    repeats: int = 3,
    weights: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
    crops: int = 20_000,
) -> Benchmark:
    """Time the whole analysis beside its decode-only floor.

    Parameters
    ----------
    source : Path, optional
        A folder of slides; None renders ``slides`` slides of ``fields`` fields of ``size`` (width, height) pixels.
    um_per_px : float
        Scale of the rendered fields; 0.12 puts some 180 red cells into two megapixels.
    jobs : sequence of int, optional
        Numbers of worker processes; None is 1 to the number of cores.
    devices : sequence of str
        Where the network runs.
    repeats : int
        Timed runs of each configuration, after one warm-up of the page cache and the workers.
    crops : int
        For timing the network alone.
    """
    jobs = jobs or range(1, (os.cpu_count() or 1) + 1)
    with tempfile.TemporaryDirectory(prefix="cbctool-benchmark-") as scratch:
        if source is None:
            folder = Path(scratch) / "slides"
            tell(f"rendering {min(fields * slides, DISTINCT_FIELDS)} fields of {size[0]}x{size[1]}")
            render_slides(folder, slides, fields, size, um_per_px)
            shown = f"{slides} rendered slides of {fields} fields, {size[0]}x{size[1]} px at {um_per_px} um/px, JPEG"
        else:
            folder, shown = source, str(source)
        timings = []
        for device in devices:
            for width in jobs:
                tell(f"{width} job(s), {device}")
                timings.append(_time(folder, Path(scratch), width, device, repeats, weights))
        alone = {device: crops_per_second(device, weights, crops) for device in devices}
    return Benchmark(__version__, machine(), shown, tuple(timings), alone)


def render_slides(folder: Path, slides: int, fields: int, size: tuple[int, int], um_per_px: float) -> None:
    """Draw slides into ``folder``: a few distinct fields, and copies of them that differ to the byte."""
    import cv2

    from cbctool.synthetic.render import render_field

    width, height = size
    red_cells = RED_CELLS_PER_UM2 * width * height * um_per_px**2
    cells = {name: max(1, round(share * red_cells)) for name, share in SMEAR.items()}
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling]
    distinct = []
    for seed in range(min(slides * fields, DISTINCT_FIELDS)):
        rgb, _ = render_field(cells, (height, width), um_per_px=um_per_px, seed=seed)
        done, packed = cv2.imencode(".jpg", rgb[..., ::-1], options)
        if not done:
            raise RuntimeError("OpenCV could not write a JPEG")
        distinct.append(packed.tobytes())
    for s in range(slides):
        place = folder / f"slide_{s + 1:04d}"
        place.mkdir(parents=True, exist_ok=True)
        for f in range(fields):
            number = s * fields + f
            data = distinct[number % len(distinct)]
            comment = f"{number}".encode()
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (place / f"field_{f + 1:04d}.jpg").write_bytes(data[:2] + segment + data[2:])


def decode_files(paths: Sequence[Path]) -> int:
    """Decode pictures at full size as the floor does; returns the pixels decoded."""
    import cv2

    pixels = 0
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        pixels += 0 if picture is None else picture.shape[0] * picture.shape[1]
    return pixels


def decode_only(paths: Sequence[Path], pool: LocalPool) -> tuple[float, int]:
    """Seconds and pixels of decoding all of ``paths`` in the workers of a pool that is already running."""
    began = time.perf_counter()
    tasks = [pool.submit(decode_files, paths[i : i + CHUNK], timeout_s=600) for i in range(0, len(paths), CHUNK)]
    pixels = sum(task.result() for task in tasks)
    return time.perf_counter() - began, pixels


def _time(folder: Path, scratch: Path, jobs: int, device: str, repeats: int, weights: Path | None) -> Timing:
    slides = discover_slides(folder).slides
    paths = [path for slide in slides for path in slide.paths]
    decode_s, whole_s, first_s, start_cpu_s, field_cpu_s = [], [], [], [], []
    stages: dict[str, list[float]] = {}
    cells = pixels = 0
    peak = 0
    pool = LocalPool(jobs)
    try:
        decode_only(paths, pool)  # warms the page cache and the workers
        for _ in range(repeats):
            # Floor and analysis alternate, so that a neighbour's load falls on both.
            seconds, pixels = decode_only(paths, pool)
            decode_s.append(seconds)
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            began = time.perf_counter()
            first = 0.0
            cells = 0
            cpu = first_cpu = tree_cpu_seconds()
            found: dict[str, float] = {}
            with (
                peak_memory(exclude=children()) as memory,
                Analyser(Settings(out=out, jobs=jobs, device=device, weights=weights)) as analyser,
            ):
                for outcome in analyser.run(slides):
                    match outcome:
                        case FieldsProgress():
                            cells += outcome.cells
                            if outcome.fields and not first:
                                first, first_cpu = time.perf_counter() - began, tree_cpu_seconds()
                        case SlideDone():
                            for stage, spent in outcome.stages.items():
                                found[stage] = found.get(stage, 0.0) + spent
                        case SlideFailed():
                            raise RuntimeError(f"{outcome.slide.name} could not be analysed: {outcome.failures}")
                whole_s.append(time.perf_counter() - began)
                start_cpu_s.append(first_cpu - cpu)
                field_cpu_s.append((tree_cpu_seconds() - first_cpu) / max(len(paths) - 1, 1))
            first_s.append(first)
            peak = max(peak, memory[0])
            for stage, spent in found.items():
                stages.setdefault(stage, []).append(spent)
    finally:
        pool.close()
    middle = statistics.median(whole_s)
    return Timing(
        jobs=jobs,
        device=device,
        repeats=repeats,
        seconds=middle,
        spread=(max(whole_s) - min(whole_s)) / middle,
        decode_seconds=statistics.median(decode_s),
        first_field_seconds=statistics.median(first_s),
        stages={stage: statistics.median(values) for stage, values in stages.items()},
        peak_memory_bytes=peak,
        slides=len(slides),
        fields=len(paths),
        megapixels=pixels / 1e6,
        cells=cells,
        start_cpu_seconds=statistics.median(start_cpu_s),
        cpu_ms_per_field=1000 * statistics.median(field_cpu_s),
    )


def crops_per_second(device: str, weights: Path | None = None, crops: int = 20_000) -> float:
    """Cells per second through the network, from uint8 crops in host memory to probabilities; best of three."""
    import numpy as np
    import torch

    from cbctool.classifier import Classifier

    torch.set_num_threads(os.cpu_count() or 1)
    classifier = Classifier(weights, device=device)
    if classifier.device != "cpu":
        crops *= 50
    pictures = np.random.default_rng(0).integers(0, 256, (crops, 28, 28, 3), np.uint8)
    classifier.classify(pictures[: classifier.batch_size * 2])
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        classifier.classify(pictures)
        best = min(best, time.perf_counter() - began)
    return crops / best


def children() -> list[int]:
    """Process numbers of everything started from here that runs now."""
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True)]


@contextmanager
def peak_memory(exclude: Sequence[int] = ()) -> Iterator[list[int]]:
    """Watch the memory of this process and its children: proportional set size where Linux tells it, else resident.

    Yields a list whose one item is the peak in bytes.
    """
    peak = [0]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(1.0):  # a look at 1 GB takes 30 ms of the processor: more often would be seen in the timing
            peak[0] = max(peak[0], tree_memory(exclude))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def tree_memory(exclude: Sequence[int] = ()) -> int:
    """Bytes of this process and its children, without some: PSS where Linux tells it, else resident."""
    import psutil

    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        if process.pid not in exclude:
            with suppress(psutil.Error):  # ended since
                info = process.memory_full_info()
                total += int(getattr(info, "pss", 0) or info.rss)
    return total


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def tree_cpu_seconds() -> float:
    """Processor time of this process and its running children."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):  # ended since
            total += sum(process.cpu_times()[:2])
    return total


def machine() -> str:
    """This machine in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} x {name}, {platform.system()}, Python {platform.python_version()}"


def table(result: Benchmark) -> str:
    """The benchmark as a Markdown table."""
    head = (
        "| jobs | network on | slides/min | fields/s | MP/s | cells/s | time, s (spread) | decode only, s | ratio |"
        " first field, s | CPU ms/field | start, CPU s | peak memory, GB |"
    )
    lines = [result.machine, result.source, "", head, "|" + "---|" * 13]
    for one in result.timings:
        lines.append(
            f"| {one.jobs} | {one.device} | {60 * one.slides / one.seconds:.1f} | {one.fields / one.seconds:.1f} "
            f"| {one.megapixels / one.seconds:.1f} | {one.cells / one.seconds:.0f} "
            f"| {one.seconds:.1f} ({100 * one.spread:.0f} %) | {one.decode_seconds:.1f} | {one.ratio:.2f} "
            f"| {one.first_field_seconds:.1f} | {one.cpu_ms_per_field:.0f} | {one.start_cpu_seconds:.1f} "
            f"| {one.peak_memory_bytes / 1e9:.2f} |"
        )
    lines += ["", "| ms per field | " + " | ".join(result.timings[0].stages) + " |"]
    lines.append("|" + "---|" * (1 + len(result.timings[0].stages)))
    for one in result.timings:
        spent = " | ".join(f"{1000 * seconds / one.fields:.1f}" for seconds in one.stages.values())
        lines.append(f"| {one.jobs} jobs | {spent} |")
    by_jobs = {one.jobs: one for one in result.timings if one.device == result.timings[0].device}
    if len(by_jobs) > 1:
        least, most = by_jobs[min(by_jobs)], by_jobs[max(by_jobs)]
        lines += [
            "",
            f"From {least.jobs} to {most.jobs} jobs: analysis x{least.seconds / most.seconds:.2f}, "
            f"decode only x{least.decode_seconds / most.decode_seconds:.2f}. "
            f"Cores at work in the analysis: {least.cores_at_work:.2f}, then {most.cores_at_work:.2f}; "
            "the network has threads of its own, whatever the number of jobs.",
        ]
    lines += [
        f"The network alone on {device}: {rate:,.0f} cells/s." for device, rate in result.crops_per_second.items()
    ]
    return "\n".join(lines)


def to_json(result: Benchmark) -> str:
    """The same for machines."""
    timings = [asdict(one) | {"ratio": one.ratio} for one in result.timings]
    return json.dumps(asdict(result) | {"timings": timings}, indent=1)


def save_picture(result: Benchmark, path: Path) -> None:
    """Draw analysis beside decode-only for each configuration, and the stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{one.jobs} job(s)\n{one.device}" for one in result.timings]
    left.bar(names, [one.fields / one.decode_seconds for one in result.timings], color="0.8", label="decode only")
    left.bar(names, [one.fields / one.seconds for one in result.timings], width=0.5, label="whole analysis")
    left.set_ylabel("fields per second")
    left.legend()
    last = result.timings[-1]
    right.barh(list(last.stages), [1000 * seconds / last.fields for seconds in last.stages.values()])
    right.set_xlabel("ms per field, in a worker")
    right.invert_yaxis()
    figure.suptitle(result.source, fontsize=9)
    figure.savefig(path, dpi=120)
