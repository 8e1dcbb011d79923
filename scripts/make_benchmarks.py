"""Write BENCHMARKS.md from runs of `cbctool benchmark`: python scripts/make_benchmarks.py [--quick].

Everything is rendered here and timed in one go. Machines are shared: read the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from cbctool.run.benchmark import benchmark, machine, render_slides, table

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
    for name, count in ways:
        count(drawn[0][0])
        began = time.process_time()
        found = sum(count(rgb) for rgb, _ in drawn)
        spent = 1000 * (time.process_time() - began) / fields
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer slides and repeats")
    quick = parser.parse_args().quick
    cv2.setNumThreads(1)
    repeats = 1 if quick else 3
    large = benchmark(slides=2 if quick else 10, fields=30 if quick else 100, repeats=repeats, tell=print)
    small = benchmark(
        slides=2 if quick else 10, fields=50 if quick else 100, size=(640, 480), jobs=[2], repeats=repeats, tell=print
    )
    flat = []
    for slides, fields in ((1, 10), (1, 100), (20, 1)) if quick else ((1, 10), (1, 2000), (1000, 1)):
        with TemporaryDirectory() as scratch:
            render_slides(Path(scratch), slides, fields, (640, 480), 0.12)
            one = benchmark(Path(scratch), jobs=[2], repeats=1, tell=print).timings[0]
        busy = sum(one.stages.values())
        flat.append(f"| {slides} | {fields} | {1000 * one.seconds / one.fields:.0f} | {1000 * busy / one.fields:.1f} |")
    lines = [
        "# Throughput",
        "",
        f"Written by `python scripts/make_benchmarks.py{' --quick' if quick else ''}` on {machine()}.",
        "The machine is shared: ratios to the decode-only floor, measured in the same run on the same files, carry;",
        "seconds do not. Nothing here was measured on a GPU.",
        "",
        "## Two-megapixel fields, reports included",
        "",
        table(large),
        "",
        "## 640 x 480 fields",
        "",
        table(small),
        "",
        "## Cost per field against the length of the run (640 x 480, 2 jobs)",
        "",
        "| slides | fields each | ms per field, wall, start included | ms per field in the workers |",
        "|---|---|---|---|",
        *flat,
        "",
        "## Beside what a user would write instead",
        "",
        *peers(4 if quick else 12),
        "",
        "## Networks, cells per second on the CPU",
        "",
        "| network | cells/s |",
        "|---|---|",
        *networks(),
    ]
    (CHECKOUT / "BENCHMARKS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
