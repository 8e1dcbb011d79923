"""Processor time of imaging by stage, and of ``cv2.imread`` of the same files: ``python scripts/time_imaging.py``.

Without files, fields are rendered as ``cbctool benchmark`` renders them, 1632 x 1224 and 640 x 480 pixels of 0.12 um.
One thread; of every field and stage the best of the repeats, then the mean over the fields, so that what else the
machine does hardly shows.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

# as in a worker: read by BLAS when numpy is imported
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import cv2
import numpy as np

from cbctool.errors import CalibrationError
from cbctool.imaging import field as imaging
from cbctool.imaging.read import read_field
from cbctool.run import pool
from cbctool.run.benchmark import render_slides

SIZES = ((1632, 1224), (640, 480))
UM_PER_PX = 0.12


def cpu_ms(action: Callable[[], object]) -> float:
    """Processor time of one call, ms."""
    began = time.process_time()
    action()
    return 1e3 * (time.process_time() - began)


def time_file(path: Path, repeats: int, um_per_px: float | None) -> dict[str, float]:
    """Processor time of a field's stages, ms, the best of the repeats."""
    runs = []
    for _ in range(repeats):
        run = {"imread": cpu_ms(lambda: cv2.imread(str(path), cv2.IMREAD_COLOR))}
        run["read"] = cpu_ms(lambda: read_field(path, "slide", path.name))
        seconds = imaging.analyse_field(read_field(path, "slide", path.name), given_um_per_px=um_per_px).seconds
        runs.append(run | {stage: 1e3 * value for stage, value in seconds.items()})
    return {stage: min(run[stage] for run in runs) for stage in runs[0]}


def time_files(name: str, paths: Sequence[Path], repeats: int, um_per_px: float | None) -> None:
    """Print the mean over some files, one line of the table per stage."""
    timed = []
    for path in paths:
        try:
            timed.append(time_file(path, repeats, um_per_px))
        except CalibrationError as error:
            print(f"left out: {error}")
    means = {stage: float(np.mean([one[stage] for one in timed])) for stage in timed[0]}
    decode = means.pop("imread")
    stages = {stage: value for stage, value in means.items() if stage != "read"}
    beside = sum(stages.values())
    print(f"{name} ({len(timed)} fields): imread {decode:.1f} ms, read_field {means['read']:.1f} ms")
    print("  " + ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items()))
    print(f"  imaging {beside:.1f} ms, {beside / decode:.2f} times imread", flush=True)


def main() -> None:
    """Time rendered fields, or the files that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fields", type=int, default=6, help="rendered fields of either size")
    parser.add_argument("--um-per-px", type=float, help="scale of the files; their own red cells tell it otherwise")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    # as in a worker
    gc.set_threshold(100_000, 50, 50)
    pool._keep_freed_memory()
    # the stages' own clock, but of this process alone
    imaging.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    if options.files:
        time_files("files", options.files, options.repeats, options.um_per_px)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            folder = Path(scratch) / f"{size[0]}"
            render_slides(folder, 1, options.fields, size, UM_PER_PX)
            time_files(f"{size[0]} x {size[1]}", sorted(folder.rglob("*.jpg")), options.repeats, None)


if __name__ == "__main__":
    main()
