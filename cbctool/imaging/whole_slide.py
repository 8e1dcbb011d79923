"""Read a gigapixel slide tile by tile, each cell counted once, in memory that does not grow with the slide.

Scanners' own formats are read by OpenSlide; generic pyramidal TIFF (also with SubIFDs, as OME-TIFF has them) and large
tiled TIFF without a pyramid by tifffile, which is five times as fast there. Label and macro pictures carry patients'
names and are never opened.

    open_whole_slide -> plan_tiles (background left out) -> read_tile per worker -> set_aside, or
    analyse_field -> keep_owned

A slide is cut into *cores* that touch without overlap; a tile is a core and a margin wider than a cell around it. A
cell belongs to the tile whose core holds its centre, and there it is seen whole.
"""

from __future__ import annotations

import configparser
import functools
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cbctool.errors import UnreadableImageError
from cbctool.imaging.calibrate import estimate_background
from cbctool.imaging.headers import credible_um_per_px
from cbctool.imaging.quality import assess_field
from cbctool.imaging.read import open_regular, printable, tiff_um_per_px
from cbctool.imaging.segment import working_copy
from cbctool.imaging.stain import DENSITY_UNIT, optical_density
from cbctool.records import (
    CROP_PX,
    Cell,
    Field,
    FieldResult,
    FieldSummary,
    Scale,
    ScaleSource,
    TileMap,
    TileUse,
)

WHOLE_SLIDE_EXTENSIONS = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm", ".tif", ".tiff", ".btf"}
)
"""Endings under which whole-slide files come, lower case."""

PLAIN_TILED_PIXELS = 100_000_000
"""A tiled TIFF without a pyramid is read in tiles from this size on; below it is a photo (cameras end near 65 MP)."""


_MAX_SIDE_PX = 1 << 20  # 76 mm, a whole glass slide, at 0.07 um/px

_MAX_LEVELS = 32  # a pyramid of halves needs 20

_MAX_TILE_BYTES = 1 << 28  # of one compressed tile; 4096 x 4096 RGB uncompressed is 50 MB


@dataclass(frozen=True)
class TileOptions:
    """How a slide is cut.

    Attributes
    ----------
    tile_px : int
        Side of a tile with its margins, pixels of the level read: 13 MB as RGB, and 1.28x the area of its core at 0.25.
    margin_um : float
        Overlap on each side. A cell is seen whole where its centre lies in the core and its radius is less than this.
        The largest leukocytes (monocytes, 20 um) have a radius of 10, the classifier's window one of 9.5; the rest is
        for clumps that are split.
    margin_px : int
        The same where no scale is known: 30 um at 0.1 um/px, the finest that scanners give.
    finest_needed_um_per_px : float
        The coarsest level at or below this is read; 0.3 is a 40x scanner's 0.25 with room for rounding.
    thumbnail_um_per_px : float
        Background is judged on the coarsest level at or below this; at 16 a leukocyte is still a pixel.
    max_thumbnail_pixels : int
        A level larger than this is no thumbnail, and every tile is then read.
    background_od : float
        Optical density above the slide's white that counts as stained: half of what a monolayer averages (0.1, green).
    background_share : float
        A tile is background where fewer of its thumbnail pixels are stained (3 pixels of a 450 um tile at 8 um/px).
    background_spread : float
        ... and their standard deviation (green, of 255) is no more than a scanner's noise after averaging.
    overview_px : int
        Longer side of the picture beside the map of the tiles: half a page at 150 dpi.
    """

    tile_px: int = 2048
    margin_um: float = 30.0
    margin_px: int = 300
    finest_needed_um_per_px: float = 0.3
    thumbnail_um_per_px: float = 16.0
    max_thumbnail_pixels: int = 40_000_000
    background_od: float = 0.05
    background_share: float = 0.001
    background_spread: float = 2.0
    overview_px: int = 560


@dataclass(frozen=True)
class Tile:
    """One tile of a slide. Everything in level 0 pixels, half-open, except ``level``.

    ``row``, ``col`` count cores from the top left; ``(ymin_px, xmin_px, ymax_px, xmax_px)`` is what is read, and
    ``core`` the part, in the same order, whose cells are this tile's own.
    """

    row: int
    col: int
    level: int
    downsample: float
    ymin_px: int
    xmin_px: int
    ymax_px: int
    xmax_px: int
    core: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Name of the tile as a field: where its core begins, level 0 pixels."""
        return f"tile_y{self.core[0]:06d}_x{self.core[1]:06d}"


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

    def thumbnail(self, options: TileOptions | None = None) -> tuple[NDArray[Any], float] | None:
        """Return a small picture of the slide and its downsample; None where the file holds no small level."""
        options = options or TileOptions()
        level = len(self.shapes) - 1
        if self.um_per_px is not None:
            fine = [
                i for i, down in enumerate(self.downsamples) if down * self.um_per_px <= options.thumbnail_um_per_px
            ]
            level = fine[-1] if fine else 0
        height, width = self.shapes[level]
        if height * width > options.max_thumbnail_pixels:
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


# -------------------------------------------------------------------------------------------------------------- tiles


def plan_tiles(
    slide: WholeSlide, options: TileOptions | None = None, um_per_px: float | None = None
) -> tuple[Tile, ...]:
    """Cut a slide into tiles, top to bottom, without those that the thumbnail shows empty.

    ``um_per_px`` is the level 0 scale given by the user, instead of the file's own. A tile that is left out holds no
    monolayer: at most a lone cell between cells too far apart to be counted.
    """
    options = options or TileOptions()
    tiles = cut(slide.shapes[0], slide.downsamples, um_per_px or slide.um_per_px, options)
    small = slide.thumbnail(options)
    if small is None:
        return tiles
    return tuple(tile for tile, there in zip(tiles, occupied(small[0], small[1], tiles, options), strict=True) if there)


def cut(
    shape: tuple[int, int], downsamples: Sequence[float], um_per_px: float | None, options: TileOptions | None = None
) -> tuple[Tile, ...]:
    """Cut a level 0 of ``shape`` into tiles whose cores cover it once; all of them, in reading order."""
    options = options or TileOptions()
    level = 0
    if um_per_px is not None:
        fine = [i for i, down in enumerate(downsamples) if down * um_per_px <= options.finest_needed_um_per_px]
        level = fine[-1] if fine else 0
    down = downsamples[level]
    margin = options.margin_px * down if um_per_px is None else options.margin_um / um_per_px
    # At scales so fine that the margins would fill the tile, the tile grows.
    core_side = max(options.tile_px * down - 2 * margin, options.tile_px * down / 2)
    rows, cols = _edges(shape[0], core_side), _edges(shape[1], core_side)

    def before(edge: int) -> int:  # on the pixel grid of the level read, so that no cell moves by a fraction of it
        return round(max(0, math.floor((edge - margin) / down)) * down)

    def after(edge: int, length: int) -> int:
        return min(length, round(math.ceil((edge + margin) / down) * down))

    return tuple(
        Tile(
            row=i,
            col=j,
            level=level,
            downsample=down,
            ymin_px=before(rows[i]),
            xmin_px=before(cols[j]),
            ymax_px=after(rows[i + 1], shape[0]),
            xmax_px=after(cols[j + 1], shape[1]),
            core=(rows[i], cols[j], rows[i + 1], cols[j + 1]),
        )
        for i in range(len(rows) - 1)
        for j in range(len(cols) - 1)
    )


def _edges(length: int, core: float) -> list[int]:
    """Cut ``length`` into equal parts of at most ``core`` pixels."""
    parts = max(1, math.ceil(length / core))
    return [round(i * length / parts) for i in range(parts + 1)]


def occupied(
    thumbnail: NDArray[Any], downsample: float, tiles: Sequence[Tile], options: TileOptions | None = None
) -> tuple[bool, ...]:
    """Tell for each tile whether the thumbnail, (H, W, 3) uint8, shows anything in its core.

    White is the thumbnail's own 99th percentile. Where nothing stands out anywhere, the slide may be covered evenly,
    and all tiles are kept.
    """
    options = options or TileOptions()
    green = thumbnail[..., 1]
    white = max(float(np.percentile(green, 99)), 1.0)
    stained = green < white * 10**-options.background_od
    result = []
    for tile in tiles:
        ymin, xmin, ymax, xmax = tile.core
        rows = slice(int(ymin / downsample), max(int(ymin / downsample) + 1, math.ceil(ymax / downsample)))
        cols = slice(int(xmin / downsample), max(int(xmin / downsample) + 1, math.ceil(xmax / downsample)))
        here = stained[rows, cols]
        result.append(
            here.size == 0
            or float(here.mean()) > options.background_share
            or float(green[rows, cols].std()) > options.background_spread
        )
    return tuple(result) if any(result) else (True,) * len(result)


def read_tile(path: Path, tile: Tile, slide: str, um_per_px: float | None = None) -> Field:
    """Read one tile as a field; the file stays open for the next tile of the same process.

    Parameters
    ----------
    path : Path
    tile : Tile
    slide : str
        The slide's name.
    um_per_px : float, optional
        Level 0 scale given by the user, instead of the file's own.

    Returns
    -------
    Field
        ``um_per_px`` is that of the level read; ``row_px``, ``col_px`` are level 0.

    Raises
    ------
    UnreadableImageError
    """
    open_regular(path).close()
    status = path.stat()
    try:
        opened = _opened(path, status.st_size, status.st_mtime_ns)
        height, width = opened.shapes[tile.level]
        row, col = round(tile.ymin_px / tile.downsample), round(tile.xmin_px / tile.downsample)
        bottom, right = round(tile.ymax_px / tile.downsample), round(tile.xmax_px / tile.downsample)
        rgb = opened.read(tile.level, row, col, min(bottom, height) - row, min(right, width) - col)
    except UnreadableImageError:
        _opened.cache_clear()  # OpenSlide answers nothing more once it has failed
        raise
    level_0 = um_per_px if um_per_px is not None else opened.um_per_px
    warnings: tuple[str, ...] = ()
    if level_0 is not None and level_0 > TileOptions.finest_needed_um_per_px:
        warnings = (f"scanned at {level_0:.2g} um/px, coarser than the {TileOptions.finest_needed_um_per_px} needed",)
    return Field(
        slide,
        tile.name,
        rgb,
        level_0 * tile.downsample if level_0 is not None else None,
        row_px=tile.ymin_px,
        col_px=tile.xmin_px,
        warnings=warnings,
    )


def slide_white(path: Path) -> float | None:
    """Level of a slide's white (green, 0-255), as its small level shows it; None where there is none."""
    status = path.stat()
    return _white(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _white(path: Path, size: int, mtime_ns: int) -> float | None:
    small = _opened(path, size, mtime_ns).thumbnail()
    return None if small is None else float(np.percentile(small[0][..., 1], 99))


@functools.lru_cache(maxsize=1)
def _opened(path: Path, size: int, mtime_ns: int) -> WholeSlide:
    return open_whole_slide(path)


SEAM_UM = 1.5
"""How far two tiles may disagree about the centre of one cell. On rendered smears they differ by up to 0.5 um, where a
clump is cut differently by the tiles' edges; two cells with centres this close would lie one on the other."""


def owns(tile: Tile, row_px: float, col_px: float, slack_px: float = 0.0) -> bool:
    """Tell whether a point, level 0 pixels, lies in the tile's core or at most ``slack_px`` outside."""
    ymin, xmin, ymax, xmax = tile.core
    return ymin - slack_px <= row_px < ymax + slack_px and xmin - slack_px <= col_px < xmax + slack_px


def seam_twins(cells: Sequence[Cell], tiles: Sequence[str], within_px: float) -> set[int]:
    """Find cells that two tiles both took as their own, since each saw the centre a little on its side of the seam.

    Parameters
    ----------
    cells : sequence of Cell, length N
        Of all tiles, in level 0 pixels.
    tiles : sequence of str, length N
        The tile of each.
    within_px : float
        Cells of one kind from different tiles whose centres are nearer than this are one.

    Returns
    -------
    set of int
        Index of each cell to leave out: of two twins the later one.
    """
    twins: set[int] = set()
    for kind in {cell.kind for cell in cells}:
        chosen = [i for i, cell in enumerate(cells) if cell.kind is kind]
        tree = cKDTree([(cells[i].row_px, cells[i].col_px) for i in chosen])
        for a, b in sorted(tree.query_pairs(within_px)):
            first, second = chosen[a], chosen[b]
            if tiles[first] != tiles[second] and first not in twins:
                twins.add(second)
    return twins


def to_level_0(tile: Tile, cell: Cell) -> Cell:
    """Move a cell from pixels of the tile's picture to level 0 pixels of the slide."""
    down = tile.downsample
    return replace(
        cell,
        row_px=tile.ymin_px + (cell.row_px + 0.5) * down - 0.5,
        col_px=tile.xmin_px + (cell.col_px + 0.5) * down - 0.5,
        ymin_px=tile.ymin_px + math.floor(cell.ymin_px * down),
        xmin_px=tile.xmin_px + math.floor(cell.xmin_px * down),
        ymax_px=tile.ymin_px + math.ceil(cell.ymax_px * down),
        xmax_px=tile.xmin_px + math.ceil(cell.xmax_px * down),
    )


def keep_owned(tile: Tile, result: FieldResult) -> FieldResult:
    """Keep of a tile's result what is its own, in level 0 pixels: cells with their centre in the core, and its area.

    What lies up to ``SEAM_UM`` outside the core is kept too, so that no cell is lost between two tiles that see its
    centre on the other's side; :func:`seam_twins` finds what both kept. Cells are numbered anew from 1; crops and
    thumbnails follow their cells. The other cells are the neighbours', which see them whole.
    """
    moved = [to_level_0(tile, cell) for cell in result.cells]
    slack_px = SEAM_UM * tile.downsample / result.summary.scale.um_per_px
    kept = [i for i, cell in enumerate(moved) if owns(tile, cell.row_px, cell.col_px, slack_px)]
    new_index = {old: new for new, old in enumerate(kept)}
    crops = [k for k, old in enumerate(result.crop_cells) if int(old) in new_index]
    ymin, xmin, ymax, xmax = tile.core
    height, width = tile.ymax_px - tile.ymin_px, tile.xmax_px - tile.xmin_px
    seen, down = result.summary, tile.downsample
    summary = replace(
        seen,
        height_px=height,
        width_px=width,
        scale=replace(
            seen.scale,
            um_per_px=seen.scale.um_per_px / down,
            red_cell_um_per_px=seen.scale.red_cell_um_per_px / down,
        ),
        area_mm2=seen.area_mm2 * (ymax - ymin) * (xmax - xmin) / (height * width),
        preview_scale=seen.preview_scale / down,
    )
    return replace(
        result,
        summary=summary,
        cells=tuple(replace(moved[old], cell=new + 1) for new, old in enumerate(kept)),
        crops=result.crops[crops],
        crop_cells=np.array([new_index[int(result.crop_cells[k])] for k in crops], dtype=int),
        thumbnails=tuple(result.thumbnails[k] for k in crops),
    )


# ---------------------------------------------------------------------------------------------------------- monolayer


@dataclass(frozen=True)
class MonolayerOptions:
    """Where cells lie side by side.

    Attributes
    ----------
    min_cover, max_cover : float
        Share of the tile under cells. Discs laid down at random without overlap jam at 0.547 (Feder, J Theor Biol 1980,
        87, 237) and a perfect hexagonal layer has 0.907; halfway cells must lie on one another. Below a quarter of the
        jamming limit, in the feathered edge, red cells lose their pallor and leukocytes are dragged and broken.
        Checked, not fitted: 64 real fields chosen by people lie between 0.29 and 0.65.
    max_overlap : float
        Largest share of red-cell area in clumps. Cells that merely touch are a clump too, and fields that people chose
        reach 1 (median 0.77 of 25 BCCD fields), so that by default cover alone decides.
    glance_um_per_px : float
        Scale of the copy on which a tile is looked at before it is analysed: 0.09 s where analysis takes 1.2-2.7.
    glance_margin : float
        What lies this far outside ``min_cover`` and ``max_cover`` there is not analysed. Cover at 0.5 um/px was 0.000
        to 0.014 above that at 0.25 on 15 rendered tiles from feathered edge to thick.
    darkest_background_od : float
        Where a tile's background is darker than the slide's by this optical density, it is none: cells cover it all. A
        monolayer averages as much, cells included; scanners' light is even within 0.02 or so.
    blank_um : float
        A place with next to nothing within a square of this side, five red cells, is blank. ``max_cover`` is held
        against the rest of the tile, so that half a tile of thick smear beside half of bare glass is no monolayer.
    blank_od : float
        Optical density (green) of what is there, that of the faintest cell bodies in a field's quality.
    """

    min_cover: float = 0.14
    max_cover: float = 0.72
    max_overlap: float = 1.0
    glance_um_per_px: float = 0.5
    glance_margin: float = 0.02
    darkest_background_od: float = 0.1
    blank_um: float = 40.0
    blank_od: float = 0.025


def set_aside(
    field: Field,
    given_um_per_px: float | None = None,
    white: float | None = None,
    options: MonolayerOptions | None = None,
) -> FieldResult | None:
    """Tell at a glance, by its cover, that a tile lies outside the monolayer: its result without cells.

    None where it may lie inside or has no scale, and has to be analysed. In the thick part of a smear there are more
    cells than in all of its monolayer, and none of them is counted.

    Parameters
    ----------
    field : Field
        A tile as :func:`read_tile` gives it.
    given_um_per_px : float, optional
        Scale of the level read, as given by the user.
    white : float, optional
        Level of the slide's own white (green, 0-255), see :func:`slide_white`.
    options : MonolayerOptions, optional

    Returns
    -------
    FieldResult or None
    """
    options = options or MonolayerOptions()
    um_per_px = given_um_per_px or field.um_per_px
    if um_per_px is None:
        return None
    began = time.perf_counter()
    background = estimate_background(field.rgb)
    small = working_copy(field.rgb, um_per_px, options.glance_um_per_px)
    density = optical_density(background.apply(small))
    outside = background.surround_small
    quality = assess_field(field.rgb, background.white_level, density, options.glance_um_per_px, surround=outside)
    if white and background.white_level[1] < white * 10**-options.darkest_background_od:
        quality = replace(quality, fit=False, reason="too thick: no background can be seen", cell_cover=1.0)
    own = min(1.0, quality.cell_cover / max(1e-6, 1.0 - _blank_share(density[..., 1], options)))
    if own > options.max_cover + options.glance_margin:
        quality = replace(quality, cell_cover=own)
    low, high = options.min_cover - options.glance_margin, options.max_cover + options.glance_margin
    if low <= quality.cell_cover <= high:
        return None
    (use,) = choose_monolayer(np.array([quality.cell_cover]), np.array([0.0]), np.array([True]), options)
    height, width = field.rgb.shape[:2]
    summary = FieldSummary(
        name=field.name,
        height_px=height,
        width_px=width,
        scale=Scale(um_per_px, ScaleSource.GIVEN if given_um_per_px else ScaleSource.METADATA),
        quality=replace(quality, fit=False, reason=quality.reason or use.value),
        area_mm2=height * width * float(1.0 - outside.mean()) * um_per_px**2 / 1e6,
        row_px=field.row_px,
        col_px=field.col_px,
        warnings=field.warnings,
    )
    none = np.empty((0, CROP_PX, CROP_PX, 3), np.uint8)
    return FieldResult(summary, (), none, np.empty(0, np.int64), (), {"glance": time.perf_counter() - began})


def _blank_share(green: NDArray[Any], options: MonolayerOptions) -> float:
    """Share of a tile (density at ``glance_um_per_px``) that is bare glass."""
    there = (green > DENSITY_UNIT * options.blank_od).astype(np.float32)
    side = max(1, round(options.blank_um / options.glance_um_per_px))
    local = cv2.blur(there, (side, side))
    return float(np.mean(local < options.min_cover / 2))


def choose_monolayer(
    cover: NDArray[Any], overlap: NDArray[Any], fit: NDArray[Any], options: MonolayerOptions | None = None
) -> tuple[TileUse, ...]:
    """Decide which tiles count, from what analysis measured in each.

    Parameters
    ----------
    cover, overlap : (N,) float arrays
        ``FieldQuality.cell_cover`` and ``overlap`` of each tile; a cover that is NaN makes it unfit.
    fit : (N,) bool array
    options : MonolayerOptions, optional

    Returns
    -------
    tuple of TileUse
        One per tile; only ``COUNTED`` ones go into the differential.
    """
    options = options or MonolayerOptions()
    uses = []
    for here, clumped, usable in zip(cover.tolist(), overlap.tolist(), fit.tolist(), strict=True):
        if math.isfinite(here) and here < options.min_cover:
            uses.append(TileUse.TOO_THIN)
        elif here > options.max_cover or clumped > options.max_overlap:
            uses.append(TileUse.TOO_THICK)
        elif not usable or math.isnan(here):
            uses.append(TileUse.UNFIT)
        else:
            uses.append(TileUse.COUNTED)
    return tuple(uses)


def tile_map(slide: WholeSlide, um_per_px: float | None = None, options: TileOptions | None = None) -> TileMap:
    """Map a slide on which nothing is counted yet: every tile ``BACKGROUND``, and the slide as a small picture."""
    options = options or TileOptions()
    height, width = slide.shapes[0]
    last = cut((height, width), slide.downsamples, um_per_px or slide.um_per_px, options)[-1]
    small = slide.thumbnail(options)
    overview = b"" if small is None else _overview_jpeg(small[0], options.overview_px)
    return TileMap(((TileUse.BACKGROUND,) * (last.col + 1),) * (last.row + 1), height, width, overview)


def _overview_jpeg(thumbnail: NDArray[Any], side: int) -> bytes:
    zoom = side / max(thumbnail.shape[:2])
    if zoom < 1:
        size = (max(1, round(zoom * thumbnail.shape[1])), max(1, round(zoom * thumbnail.shape[0])))
        thumbnail = np.asarray(cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA))
    _, packed = cv2.imencode(".jpg", thumbnail[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(packed)


def fill_map(empty: TileMap, uses: Mapping[tuple[int, int], TileUse]) -> TileMap:
    """Enter into a map what became of the tiles, by row and column."""
    drawn = [list(row) for row in empty.uses]
    for (row, col), use in uses.items():
        drawn[row][col] = use
    return replace(empty, uses=tuple(map(tuple, drawn)))


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
