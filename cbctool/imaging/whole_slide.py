"""Open a gigapixel slide and read any part of any level.

Scanners' own formats are read by OpenSlide; generic pyramidal TIFF (also with SubIFDs, as OME-TIFF has them) and large
tiled TIFF without a pyramid by tifffile, which is five times as fast there. Label and macro pictures carry patients'
names and are never opened. :mod:`cbctool.imaging.tiles` cuts what is opened here into fields.
"""

from __future__ import annotations

import configparser
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray

from cbctool.errors import UnreadableImageError
from cbctool.imaging.headers import credible_um_per_px
from cbctool.imaging.read import open_regular, printable, tiff_um_per_px

WHOLE_SLIDE_EXTENSIONS = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm", ".tif", ".tiff", ".btf"}
)
"""Endings under which whole-slide files come, lower case."""

PLAIN_TILED_PIXELS = 100_000_000
"""A tiled TIFF without a pyramid is read in tiles from this size on; below it is a photo (cameras end near 65 MP)."""


_MAX_SIDE_PX = 1 << 20  # 76 mm, a whole glass slide, at 0.07 um/px

_MAX_LEVELS = 32  # a pyramid of halves needs 20

_MAX_TILE_BYTES = 1 << 28  # of one compressed tile; 4096 x 4096 RGB uncompressed is 50 MB


class _Levels(Protocol):
    """What both readers offer. Shapes are (height, width), level 0 first; a region is (H, W, 3) uint8."""

    shapes: tuple[tuple[int, int], ...]
    um_per_px: float | None

    def read(self, level: int, row: int, col: int, height: int, width: int) -> NDArray[Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class WholeSlide:
    """An open whole-slide file.

    Attributes
    ----------
    path : Path
    shapes : tuple of (int, int)
        Height and width of each level, pixels.
    downsamples : tuple of float
        Level 0 pixels per pixel of each level.
    um_per_px : float or None
        Of level 0, where the file states a credible one.
    reader : str
        ``openslide`` or ``tifffile``.
    """

    path: Path
    shapes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    um_per_px: float | None
    reader: str
    levels: _Levels

    def read(self, level: int, row: int, col: int, height: int, width: int) -> NDArray[Any]:
        """Read a region of one level, in that level's pixels, (H, W, 3) uint8; white where the scanner saw nothing.

        Raises
        ------
        UnreadableImageError
        """
        try:
            return self.levels.read(level, row, col, height, width)
        except Exception as error:  # the decoders raise anything on a damaged file
            said = printable(" ".join(str(error).split()))[:200] or type(error).__name__
            raise UnreadableImageError(
                f"{printable(self.path)} is damaged at row {row}, column {col} of level {level}: {said}.",
                "Copy or scan the slide again.",
            ) from None

    def thumbnail(self, um_per_px: float = 16.0, max_pixels: int = 40_000_000) -> tuple[NDArray[Any], float] | None:
        """Return a small picture of the slide and its downsample.

        It is the coarsest level at or below ``um_per_px``: at 16 a leukocyte is still a pixel. None where that level
        has more than ``max_pixels``.
        """
        level = len(self.shapes) - 1
        if self.um_per_px is not None:
            fine = [i for i, down in enumerate(self.downsamples) if down * self.um_per_px <= um_per_px]
            level = fine[-1] if fine else 0
        height, width = self.shapes[level]
        if height * width > max_pixels:
            return None
        return self.read(level, 0, 0, height, width), self.downsamples[level]

    def close(self) -> None:
        """Close the file."""
        self.levels.close()


def is_whole_slide(path: Path) -> bool:
    """Tell whether ``path`` is a whole-slide file: a scanner's format, a pyramidal TIFF or a very large tiled one."""
    try:
        with open_regular(path) as file:
            if _vendor(path) not in (None, "generic-tiff"):
                return True
            with tifffile.TiffFile(file) as tif:
                page = tif.pages.first
                if not page.is_tiled:
                    return False
                return len(_level_pages(tif)) > 1 or page.imagelength * page.imagewidth > PLAIN_TILED_PIXELS
    except Exception:  # whatever a stranger's file provokes, it is then no whole slide
        return False


def open_whole_slide(path: Path) -> WholeSlide:
    """Open a whole-slide file.

    Raises
    ------
    UnreadableImageError
    """
    open_regular(path).close()
    try:
        reader, levels = _open_levels(path)
    except Exception as error:
        said = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UnreadableImageError(
            f"{printable(path)} is no whole-slide file that can be read: {said}.", "Copy or export the slide again."
        ) from None
    full_height, full_width = levels.shapes[0]
    if min(min(shape) for shape in levels.shapes) < 1 or max(full_height, full_width) > _MAX_SIDE_PX:
        levels.close()
        raise UnreadableImageError(
            f"{printable(path)} states levels of {full_width} x {full_height} pixels and down.", "Scan the slide again."
        )
    downsamples = tuple((full_height / height + full_width / width) / 2 for height, width in levels.shapes)
    return WholeSlide(path, levels.shapes, downsamples, levels.um_per_px, reader, levels)


def _open_levels(path: Path) -> tuple[str, _Levels]:
    vendor = _vendor(path)
    if vendor in (None, "generic-tiff"):
        # 0.05 s for 2048 x 2048 px of JPEG tiles where OpenSlide takes 0.3; it also reads pyramids in SubIFDs.
        return "tifffile", _TiffLevels(path)
    return "openslide", _OpenSlideLevels(path)


def companions(path: Path) -> set[Path]:
    """List the files and folders that belong to a whole-slide file and are no slides or fields of their own."""
    suffix, beside = path.suffix.lower(), set()
    if suffix == ".mrxs":
        beside.add(path.with_suffix(""))
    elif suffix in (".vms", ".vmu"):  # Hamamatsu: an INI file naming the JPEG or NGR files beside it
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            with open_regular(path) as file:
                parser.read_string(file.read(1 << 20).decode("latin-1"))
        except (configparser.Error, UnreadableImageError, OSError):
            return beside
        for section in parser.sections():
            for key, value in parser.items(section):
                if value and ("file" in key or "image" in key) and Path(value).name == value:
                    beside.add(path.parent / value)
    elif suffix == ".dcm":  # one series is many files; OpenSlide finds them from any one
        series = _dicom_series(path)
        if series:
            beside |= {one for one in path.parent.glob("*.dcm") if one != path and _dicom_series(one) == series}
    return beside


# ------------------------------------------------------------------------------------------------------------ readers


def _vendor(path: Path) -> str | None:
    try:
        return openslide.OpenSlide.detect_format(str(path))
    except Exception:  # a broken file is no vendor's
        return None


def _dicom_series(path: Path) -> str | None:
    """Series Instance UID (0020,000E) by its explicit-VR little-endian bytes; the first 64 KiB hold it."""
    try:
        with open_regular(path) as file:
            head = file.read(1 << 16)
    except (UnreadableImageError, OSError):
        return None
    at = head.find(b"\x20\x00\x0e\x00UI")
    if head[128:132] != b"DICM" or at < 0:
        return None
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


class _OpenSlideLevels:
    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(str(path))
        self.shapes = tuple((height, width) for width, height in self._slide.level_dimensions)
        self._downsamples = self._slide.level_downsamples
        stated = self._slide.properties
        try:
            x, y = float(stated[openslide.PROPERTY_NAME_MPP_X]), float(stated[openslide.PROPERTY_NAME_MPP_Y])
            self.um_per_px = credible_um_per_px(1 / x, 1 / y)
        except (KeyError, ValueError, ZeroDivisionError):
            self.um_per_px = None

    def read(self, level: int, row: int, col: int, height: int, width: int) -> NDArray[Any]:
        down = self._downsamples[level]
        at = (round(col * down), round(row * down))  # OpenSlide wants level 0, x first
        rgba = np.asarray(self._slide.read_region(at, level, (width, height)))
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        return np.where(alpha < 128, np.uint8(255), rgba[..., :3])  # never scanned: white

    def close(self) -> None:
        self._slide.close()


def _level_pages(tif: Any) -> list[Any]:
    """Find the pages of a pyramid: the first, then those in its SubIFDs or after it that show the same smaller.

    Done here and not by ``tif.series``, which follows a circular chain of pages for ever.
    """
    first = tif.pages.first
    if first.subifds:
        candidates = [first.pages.get(i, aspage=True) for i in range(min(len(first.subifds), _MAX_LEVELS))]
    else:
        later = (tif.pages.get(i, aspage=True) for i in range(1, min(len(tif.pages), _MAX_LEVELS)))
        candidates = [page for page in later if page.is_tiled and page.subfiletype & 1]
    levels = [first]
    for page in candidates:
        off = abs(page.imagelength * first.imagewidth / first.imagelength - page.imagewidth)
        smaller = page.imagelength * 1.2 < levels[-1].imagelength or page.imagewidth * 1.2 < levels[-1].imagewidth
        if smaller and off <= max(2.0, 0.02 * page.imagewidth):
            levels.append(page)
    return levels


class _TiffLevels:
    """The levels of a tiled TIFF's pyramid, tile by tile."""

    def __init__(self, path: Path) -> None:
        self._tif = tifffile.TiffFile(path)
        weakref.finalize(self, self._tif.close)  # closes also what read_tile keeps open
        try:
            self._pages = _level_pages(self._tif)
            for page in self._pages:
                jpeg = page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
                colour = page.photometric == tifffile.PHOTOMETRIC.RGB or jpeg
                if not colour or page.imagedepth != 1 or page.dtype != np.uint8 or page.axes != "YXS":
                    raise ValueError("it is not 8-bit RGB in one plane")
                if page.is_tiled:
                    expected = -(-page.imagelength // page.tilelength) * -(-page.imagewidth // page.tilewidth)
                    if page.tilelength * page.tilewidth > 1 << 24 or len(page.dataoffsets) != expected:
                        raise ValueError(
                            f"it states {len(page.dataoffsets)} tiles for a level that would have {expected}"
                        )
                elif page.imagelength * page.imagewidth > PLAIN_TILED_PIXELS:
                    raise ValueError("a large level of it is not tiled")
            if not self._pages[0].is_tiled:
                raise ValueError("it is not tiled")
            self.shapes = tuple((page.imagelength, page.imagewidth) for page in self._pages)
            self.um_per_px = tiff_um_per_px(self._tif, self._pages[0])
        except BaseException:
            self._tif.close()
            raise

    def read(self, level: int, row: int, col: int, height: int, width: int) -> NDArray[Any]:
        page = self._pages[level]
        if not page.is_tiled:
            return page.asarray()[row : row + height, col : col + width, :3]
        out = np.full((height, width, 3), 255, np.uint8)
        across = -(-page.imagewidth // page.tilewidth)
        file = self._tif.filehandle
        for i in range(row // page.tilelength, -(-(row + height) // page.tilelength)):
            for j in range(col // page.tilewidth, -(-(col + width) // page.tilewidth)):
                index = i * across + j
                offset, count = page.dataoffsets[index], page.databytecounts[index]
                if not count:
                    continue  # never scanned: white
                if count > _MAX_TILE_BYTES:
                    raise ValueError(f"a tile of it would have {count} bytes")
                file.seek(offset)
                data = file.read(count)
                if len(data) != count:
                    raise ValueError("the file ends before this tile")
                decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
                pixels = np.asarray(decoded)[0, : shape[1], : shape[2], :3]
                top, left = i * page.tilelength - row, j * page.tilewidth - col
                ymin, xmin = max(0, top), max(0, left)
                part = pixels[ymin - top : height - top, xmin - left : width - left]
                out[ymin : ymin + part.shape[0], xmin : xmin + part.shape[1]] = part
        return out

    def close(self) -> None:
        self._tif.close()
