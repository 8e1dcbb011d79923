"""Read a gigapixel slide tile by tile."""

from __future__ import annotations

from pathlib import Path

import openslide
import tifffile

WHOLE_SLIDE_EXTENSIONS = frozenset(
    ".svs .ndpi .mrxs .scn .bif .vms .vmu .svslide .czi .dcm .tif .tiff .btf .tf8 .tf2".split()
)
"""Endings under which whole-slide files come, lower case."""

PLAIN_TILED_PIXELS = 100_000_000
"""A tiled TIFF without a pyramid is read in tiles from this size on; below it is a photo (cameras end near 65 MP)."""


def is_whole_slide(path: Path) -> bool:
    """Tell whether ``path`` is a whole-slide file: a scanner's format or a pyramidal or very large tiled TIFF."""
    try:
        vendor = openslide.OpenSlide.detect_format(str(path))
    except Exception:  # noqa: BLE001
        vendor = None
    if vendor not in (None, "generic-tiff"):
        return True
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            if not page.is_tiled:
                return False
            return len(tif.series[0].levels) > 1 or page.imagelength * page.imagewidth > PLAIN_TILED_PIXELS
    except Exception:  # noqa: BLE001
        return False


def companions(path: Path) -> set[Path]:
    """List the files and folders that belong to a whole-slide file and are no slides of their own."""
    beside: set[Path] = set()
    if path.suffix.lower() == ".mrxs":
        beside.add(path.with_suffix(""))
    return beside
