"""Cut a gigapixel slide into fields, each cell counted once, in memory that does not grow with the slide.

    open_whole_slide -> plan_tiles (background left out) -> read_tile per worker -> set_aside, or
    analyse_field -> keep_owned

A slide is cut into *cores* that touch without overlap; a tile is a core and a margin wider than a cell around it. A
cell belongs to the tile whose core holds its centre, and there it is seen whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cbctool.errors import UnreadableImageError
from cbctool.imaging.read import open_regular
from cbctool.imaging.whole_slide import WholeSlide, open_whole_slide
from cbctool.records import Cell, CellKind, Field, FieldResult, TileMap, TileUse


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


def plan_tiles(
    slide: WholeSlide, options: TileOptions | None = None, um_per_px: float | None = None
) -> tuple[Tile, ...]:
    """Cut a slide into tiles, top to bottom, without those that the thumbnail shows empty.

    ``um_per_px`` is the level 0 scale given by the user, instead of the file's own. A tile that is left out holds no
    monolayer: at most a lone cell between cells too far apart to be counted. Without a small level all are read.
    """
    options = options or TileOptions()
    tiles = cut(slide.shapes[0], slide.downsamples, um_per_px or slide.um_per_px, options)
    small = slide.thumbnail()
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


_WORTH = (CellKind.NUCLEATED, CellKind.PLATELET, CellKind.ERYTHROCYTE, CellKind.ARTEFACT)
"""Which of two tiles is believed that call one cell by different kinds: the one that would have it counted, and a
leukocyte first. The network may still disagree; what is left out here nobody sees again."""


def seam_twins(
    cells: Sequence[Cell], tiles: Sequence[str], within_px: float, unfit: Collection[str] = frozenset()
) -> set[int]:
    """Find cells that two tiles both took as their own, since each saw the centre a little on its side of the seam.

    Parameters
    ----------
    cells : sequence of Cell, length N
        Of all tiles, in level 0 pixels.
    tiles : sequence of str, length N
        The tile of each.
    within_px : float
        Cells from different tiles whose centres are nearer than this are one; of different kinds, where neither tile
        has what the other calls it as well (a platelet may lie on a red cell).
    unfit : collection of str
        Tiles whose cells are not counted.

    Returns
    -------
    set of int
        Index of each cell to leave out: of two twins the one in an unfit tile, or of less worth, or the later one.
    """
    if not cells:
        return set()
    near = cKDTree([(cell.row_px, cell.col_px) for cell in cells]).query_pairs(within_px, output_type="ndarray")
    pairs = [(a, b) for a, b in near.tolist() if tiles[a] != tiles[b]]
    alike = [(a, b) for a, b in pairs if cells[a].kind is cells[b].kind]
    known = {i for pair in alike for i in pair}
    unlike = [(a, b) for a, b in pairs if a not in known and b not in known]
    twins: set[int] = set()

    def rank(i: int) -> tuple[bool, int, int]:
        return tiles[i] in unfit, _WORTH.index(cells[i].kind), i

    ranked = (sorted(pair, key=rank) for pair in (*alike, *unlike))
    for better, worse in sorted(ranked, key=lambda pair: [rank(i) for i in pair]):
        if better not in twins:
            twins.add(worse)
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


def tile_map(slide: WholeSlide, um_per_px: float | None = None, options: TileOptions | None = None) -> TileMap:
    """Map a slide on which nothing is counted yet: every tile ``BACKGROUND``, and the slide as a small picture."""
    options = options or TileOptions()
    height, width = slide.shapes[0]
    last = cut((height, width), slide.downsamples, um_per_px or slide.um_per_px, options)[-1]
    small = slide.thumbnail()
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
