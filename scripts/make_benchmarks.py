"""Write BENCHMARKS.md from runs of `cbctool benchmark`: python scripts/make_benchmarks.py [--quick] [--only NAME ...].

Everything is rendered here. With --only, the other sections stay as they are. Machines are shared: read the ratios, not
the seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from cbctool.run.benchmark import benchmark, machine, table
from cbctool.run.benchmark_slides import (
    flatness_table,
    time_long_run,
    time_night,
    time_whole_slide,
    whole_slide_table,
)
from cbctool.run.pool import LocalPool

CHECKOUT = Path(__file__).parents[1]


def otsu_and_watershed(rgb: np.ndarray) -> int:
    """Nucleated cells as a plain script counts them: Otsu on saturation, distance transform, watershed."""
    saturation = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1], (0, 0), 2)
    _, mask = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    _, sure = cv2.threshold(distance, 0.5 * distance.max(), 255, 0)
    _, markers = cv2.connectedComponents(sure.astype(np.uint8))
    markers = markers + 1
    markers[(mask > 0) & (sure == 0)] = 0
    return int(cv2.watershed(rgb[..., ::-1].copy(), markers).max() - 1)


def stain_separation_and_watershed(rgb: np.ndarray) -> int:
    """Nucleated cells by scikit-image: colour deconvolution, Otsu, watershed on the distance."""
    from scipy import ndimage
    from skimage import color, feature, filters, morphology, segmentation

    haematoxylin = filters.gaussian(color.rgb2hed(rgb)[..., 0], 2)
    mask = morphology.remove_small_objects(haematoxylin > filters.threshold_otsu(haematoxylin), max_size=400)
    distance = ndimage.distance_transform_edt(mask)
    peaks = feature.peak_local_max(distance, min_distance=20, labels=ndimage.label(mask)[0])
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return int(segmentation.watershed(-distance, markers, mask=mask).max())


def ours(rgb: np.ndarray) -> int:
    """Nucleated cells as cbctool counts them; finds every red cell and platelet too, and measures all of them."""
    from cbctool.imaging.field import analyse_field
    from cbctool.records import CellKind, Field

    result = analyse_field(Field("benchmark", "field", rgb))
    return sum(cell.kind is CellKind.NUCLEATED for cell in result.cells)


def alone(count: Callable[[np.ndarray], int], pictures: list[np.ndarray]) -> tuple[int, float]:
    """What a way counts in all pictures, and its CPU seconds, in a worker as the pipeline has them.

    There BLAS has one thread. With two, they spin while they wait, and that is counted.
    """
    pool = LocalPool(1)
    try:
        found: tuple[int, float] = pool.submit(_alone, count, pictures, timeout_s=600).result()
        return found
    finally:
        pool.close()


def _alone(count: Callable[[np.ndarray], int], pictures: list[np.ndarray]) -> tuple[int, float]:
    count(pictures[0])
    began = time.process_time()
    return sum(map(count, pictures)), time.process_time() - began


def peers(fields: int) -> list[str]:
    """Rows of the comparison: time per field and error of the leukocyte count, on the same rendered fields."""
    from cbctool.synthetic.render import render_field

    cells = {"red cell": 180, "platelet": 11, "neutrophil": 6, "lymphocyte": 3, "monocyte": 2}
    drawn = [render_field(cells, (1224, 1632), um_per_px=0.12, seed=100 + i) for i in range(fields)]
    truth = sum(sum(cell.kind.value == "nucleated" for cell in t.cells) for _, t in drawn)
    rows = []
    ways: list[tuple[str, Callable[[Any], int]]] = [
        ("cbctool, imaging (all kinds of cells, measured)", ours),
        ("OpenCV: Otsu + watershed (leukocytes only)", otsu_and_watershed),
        ("scikit-image: stain separation + watershed (leukocytes only)", stain_separation_and_watershed),
    ]
    pictures = [rgb for rgb, _ in drawn]
    for name, count in ways:
        found, seconds = alone(count, pictures)
        spent = 1000 * seconds / fields
        rows.append(f"| {name} | {spent:.0f} | {found} | {100 * (found - truth) / truth:+.0f} % |")
    head = ["| way | CPU ms per field | leukocytes | error |", "|---|---|---|---|"]
    return [f"Truth: {truth} leukocytes in {fields} fields of two megapixels.", "", *head, *rows]


def networks(crops: int = 2048) -> list[str]:
    """Cells per second of the default network, the study's, and a ResNet-18, on the CPU."""
    import torch
    from torchvision.models import resnet18

    from cbctool.classifier import Classifier

    pictures = np.random.default_rng(0).integers(0, 256, (crops, 28, 28, 3), np.uint8)
    rows = []
    for name, weights in (("default", None), ("paper", Path("paper"))):
        classifier = Classifier(weights, device="cpu")
        classifier.classify(pictures[:256])
        began = time.perf_counter()
        classifier.classify(pictures)
        rows.append(f"| {name} | {crops / (time.perf_counter() - began):,.0f} |")
    network = resnet18(num_classes=8).eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        began = time.perf_counter()
        for i in range(0, crops, 64):
            network(torch.from_numpy(pictures[i : i + 64]).permute(0, 3, 1, 2).float() / 255)
        rows.append(f"| torchvision ResNet-18, untrained, 28x28 | {crops / (time.perf_counter() - began):,.0f} |")
    return rows


def large(quick: bool) -> list[str]:
    """Two-megapixel fields."""
    slides, fields = (2, 30) if quick else (10, 100)
    return [table(benchmark(slides=slides, fields=fields, repeats=1, tell=print))]


def small(quick: bool) -> list[str]:
    """Small fields."""
    slides, fields = (2, 50) if quick else (10, 100)
    return [table(benchmark(slides=slides, fields=fields, size=(640, 480), jobs=[2], repeats=1, tell=print))]


def flat(quick: bool) -> list[str]:
    """Cost per field and memory at both ends of long runs."""
    runs = [(1, 100), (50, 1)] if quick else [(1, 100), (1, 2000), (1000, 1)]
    timed = []
    for slides, fields in runs:
        print(f"{slides} slides of {fields} fields")
        timed.append(time_long_run(slides, fields, jobs=2))
    return [
        "Fields of 320 x 240 px, 2 jobs. Early: from the first tenth to the third; late: the last fifth.",
        "",
        *flatness_table(timed),
    ]


def whole(quick: bool) -> list[str]:
    """Rendered pyramidal TIFFs, kept in the folder that CBCTOOL_BENCHMARK_SLIDES names."""
    timed = []
    with TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("CBCTOOL_BENCHMARK_SLIDES", scratch))
        for side in (3_000, 6_000) if quick else (10_000, 20_000, 30_000):
            print(f"whole slide of {side} px")
            timed.append(time_whole_slide(side, 2, folder))
    return [
        "Rendered from thick end to feathered edge at 0.25 um/px, pyramidal TIFF of JPEG tiles; 2 jobs, with reports.",
        "Drawn, found once, missed and twice are of nucleated cells whose centres lie in the tiles that were counted;",
        "found in all has the smudge cells too, which are drawn but not among those.",
        "",
        *whole_slide_table(timed),
    ]


def night(quick: bool) -> list[str]:
    """The crops of a thousand slides."""
    one = time_night(100 if quick else 1000, jobs=2)
    return [
        "The crops of one rendered field, handed out anew for each slide, through the pipeline's batches and the",
        "network, with tables and evidence written and no imaging: the network's surroundings alone.",
        "",
        "| slides | cells | network on | s | cells/s | share of the time that the network works |",
        "|---|---|---|---|---|---|",
        f"| {one.slides:,} | {one.cells:,} | {one.device} | {one.seconds:.0f} | {one.cells / one.seconds:,.0f} "
        f"| {100 * one.network_share:.0f} % |",
    ]


SECTIONS: dict[str, tuple[str, Callable[[bool], list[str]]]] = {
    "large": ("Two-megapixel fields, reports included", large),
    "small": ("640 x 480 fields", small),
    "flat": ("Cost per field and memory in long runs", flat),
    "whole": ("Whole slides", whole),
    "night": ("100,000 cells of a thousand slides", night),
    "peers": ("Beside what a user would write instead", lambda quick: peers(4 if quick else 12)),
    "networks": (
        "Networks, cells per second on the CPU",
        lambda quick: ["| network | cells/s |", "|---|---|", *networks()],
    ),
}
NOTES = "Notes"
"""A section that people write; it is kept."""


def sections_of(text: str) -> dict[str, list[str]]:
    """Lines below each heading of the second rank, blank ends taken off."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("## "):
            lines = found.setdefault(line[3:], [])
        else:
            lines.append(line)
    return {heading: "\n".join(body).strip().splitlines() for heading, body in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    path = CHECKOUT / "BENCHMARKS.md"
    kept = sections_of(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in options.only:
        title, make = SECTIONS[name]
        command = f"python scripts/make_benchmarks.py --only {name}{' --quick' if options.quick else ''}"
        kept[title] = [f"`{command}`", "", *make(options.quick)]
        lines = [
            "# Throughput",
            "",
            f"On {machine()}. The machine is shared with other work: ratios to the decode-only floor,",
            "measured in the same run on the same files, carry; seconds do not. Each section says what wrote it.",
        ]
        for title in (*(title for title, _ in SECTIONS.values()), NOTES):
            if title in kept:
                lines += ["", f"## {title}", "", *kept[title]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
