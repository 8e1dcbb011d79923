"""The sample slides that the project draws itself: a handful of patients, their fields and the truth of both."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.errors import OutputError
from cbctool.synthetic.render import Truth, render_field
from cbctool.synthetic.scene import RECIPES, field_counts
from cbctool.synthetic.stain import LOOKS, vary_look

TRUTH_COLUMNS: tuple[str, ...] = (
    "path",
    "name",
    "kind",
    "class",
    "xmin",
    "ymin",
    "xmax",
    "ymax",
    "row_px",
    "col_px",
    "touches_edge",
    "nucleus_touches_edge",
)
"""Columns of ``truth.csv``; ``validate --truth`` reads path, name and box."""


@dataclass(frozen=True)
class Sample:
    """One sample slide: a recipe in a look, ``fields`` pictures of ``nucleated`` cells each."""

    name: str
    recipe: str
    look: str
    seed: int
    fields: int = 6
    nucleated: int = 26
    shape: tuple[int, int] = (768, 1024)
    um_per_px: float = 0.19


SAMPLES: tuple[Sample, ...] = (
    Sample("normal", "normal", "peach", seed=11, fields=8),
    Sample("eosinophilia", "eosinophilia", "peach", seed=22),
    Sample("immature-granulocytes-nrbc", "immature", "cool", seed=33),
    Sample("blast-like", "blasts", "peach", seed=44, nucleated=28),
)
"""The slides in ``samples/``."""


def render_sample(sample: Sample) -> Iterator[tuple[str, NDArray[np.uint8], Truth]]:
    """Yield (file name, (H, W, 3) uint8 picture, truth) of each field of a sample slide."""
    rng = np.random.default_rng(sample.seed)
    look = vary_look(LOOKS[sample.look], rng)
    recipe = RECIPES[sample.recipe]
    height_um, width_um = (side * sample.um_per_px for side in sample.shape)
    for number in range(1, sample.fields + 1):
        counts = field_counts(recipe, sample.nucleated, height_um, width_um, rng)
        seed = int(rng.integers(2**31))
        rgb, truth = render_field(
            counts, sample.shape, sample.um_per_px, seed, look, clustered=recipe.clustered, distinct=400
        )
        yield f"field_{number:02d}.jpg", rgb, truth


def write_samples(folder: Path, samples: tuple[Sample, ...] = SAMPLES, quality: int = 90) -> list[Path]:
    """Write sample slides and their truth.

    Parameters
    ----------
    folder : Path
        Gets one sub-folder of JPEG fields per slide.
    samples : tuple of Sample
    quality : int
        JPEG quality.

    Returns
    -------
    list of Path
        The pictures written.

    Raises
    ------
    OutputError
        When a file cannot be written.
    """
    written: list[Path] = []
    try:
        for sample in samples:
            place = folder / sample.name
            place.mkdir(parents=True, exist_ok=True)
            for name, rgb, _ in render_sample(sample):
                _, packed = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
                (place / name).write_bytes(packed.tobytes())
                written.append(place / name)
    except OSError as error:
        raise OutputError(
            f"{folder}: sample slides cannot be written ({error.strerror}).", "Give a folder that can be written to."
        ) from error
    return written


def truth_csv(samples: tuple[Sample, ...] = SAMPLES) -> str:
    """Return the truth of sample slides as CSV: every drawn object, one row each."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(TRUTH_COLUMNS)
    for sample in samples:
        for name, _, truth in render_sample(sample):
            for cell in truth.cells:
                table.writerow(
                    [
                        f"{sample.name}/{name}",
                        cell.name,
                        cell.kind,
                        cell.cell_class or "",
                        cell.xmin_px,
                        cell.ymin_px,
                        cell.xmax_px,
                        cell.ymax_px,
                        f"{cell.row_px:.1f}",
                        f"{cell.col_px:.1f}",
                        str(cell.touches_edge).lower(),
                        str(cell.nucleus_touches_edge).lower(),
                    ]
                )
    return text.getvalue()
