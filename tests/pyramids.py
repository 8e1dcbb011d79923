"""Pictures of smears written as pyramidal TIFF."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile


def smear(height: int = 1500, width: int = 2000) -> np.ndarray:
    """Draw red cells on white in all but the left third, and a dark disc here and there."""
    rng = np.random.default_rng(3)
    rgb = np.full((height, width, 3), 245, np.uint8)
    for row, col in rng.uniform((15, width / 3 + 60), (height - 15, width - 15), (900, 2)):
        cv2.circle(rgb, (int(col), int(row)), 14, (215, 150, 160), -1, cv2.LINE_AA)
    for row, col in rng.uniform((40, width / 3 + 80), (height - 40, width - 40), (12, 2)):
        cv2.circle(rgb, (int(col), int(row)), 26, (100, 60, 150), -1, cv2.LINE_AA)
    return rgb


def write_pyramid(
    path: Path,
    rgb: np.ndarray,
    um_per_px: float | None = 0.25,
    steps: tuple[int, ...] = (2, 4, 8),
    subifds: bool = False,
    compression: str | None = "deflate",
    **options: object,
) -> Path:
    density = {} if um_per_px is None else {"resolution": (1e4 / um_per_px, 1e4 / um_per_px), "resolutionunit": 3}
    common = {"tile": (128, 128), "photometric": "rgb", "compression": compression}
    with tifffile.TiffWriter(path) as writer:
        writer.write(rgb, subifds=len(steps) if subifds else None, **common, **density, **options)
        for step in steps:
            level = cv2.resize(rgb, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
            writer.write(level, subfiletype=1, **common)
    return path
