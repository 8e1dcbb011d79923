"""A whole smear on a slide: thick part, monolayer and feathered edge, any region of which can be rendered by itself.

The smear is made of square blocks, each laid out from its own seed, so that a region needs only the blocks that it
meets and two regions agree where they overlap. That is what makes a file of any size out of bounded memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from cbctool.errors import OutputError
from cbctool.synthetic.render import Truth, compose, expose, lit_field
from cbctool.synthetic.scene import RECIPES, Placed, field_counts, place_cells
from cbctool.synthetic.stain import LOOKS, Look

BLOCK_UM = 200.0
"""Side of a block."""

_REACH_UM = 15.0  # no drawing reaches farther from its centre (the largest paper is 30 um wide)
_LAYOUTS = 12  # different layouts per thickness; one takes some 0.3 s, so that blocks share them, turned and mirrored
_TILE_PX = 512
_CHUNK_PX = 2048
_MONOLAYER_COVER = 0.36


@dataclass(frozen=True)
class WholeSmear:
    """A smear on a slide.

    Attributes
    ----------
    shape : tuple of int
        Height and width, pixels. The blood runs from left (thick) to right (feathered edge), with blank margins.
    um_per_px : float
    seed : int
    recipe : str
        Name in ``RECIPES``.
    look : str
        Name in ``LOOKS``; a scanner's light is even, so its unevenness is left out.
    nucleated_per_mm2 : float
        Nucleated cells per mm2 of monolayer.
    distinct : int
        How many different drawings of each name there are.
    """

    shape: tuple[int, int]
    um_per_px: float = 0.25
    seed: int = 0
    recipe: str = "normal"
    look: str = "peach"
    nucleated_per_mm2: float = 200.0
    distinct: int = 64

    def cover(self, row_um: float, col_um: float) -> float:
        """Return the share of the glass under red cells at a place, were none to overlap; above 0.5 is thick."""
        v = row_um / (self.shape[0] * self.um_per_px) - 0.5
        u = col_um / (self.shape[1] * self.um_per_px)
        end = 0.94 - 0.8 * v * v  # the feathered edge is a tongue
        s = (u - 0.06) / (end - 0.06)
        if abs(v) > 0.43 or not 0 <= s <= 1:
            return 0.0
        return float(np.interp(s, [0, 0.25, 0.45, 0.8, 0.9, 1.0], [1.1, 1.0, 0.45, 0.33, 0.15, 0.04]))

    def region(
        self, row_px: int, col_px: int, shape: tuple[int, int], with_labels: bool = False
    ) -> tuple[NDArray[np.uint8], Truth]:
        """Render a region as one field.

        Parameters
        ----------
        row_px, col_px : int
            Its top left corner.
        shape : tuple of int
            Its height and width, pixels.
        with_labels : bool

        Returns
        -------
        rgb : (H, W, 3) uint8 array
        truth : Truth
            In pixels of the region.
        """
        look = _even(self.look)
        halo = int(np.ceil(4 * look.blur_um / self.um_per_px)) + 5
        density = lit_field((shape[0] + 2 * halo, shape[1] + 2 * halo), look).copy()
        truth = compose(density, self._placed(row_px, col_px, shape), shape, self.um_per_px, look, with_labels, halo)
        rgb = expose(density, self.um_per_px, look, row_px - halo, col_px - halo)
        return np.ascontiguousarray(rgb[halo : halo + shape[0], halo : halo + shape[1]]), truth

    def truth(self, row_px: int, col_px: int, shape: tuple[int, int]) -> Truth:
        """Return the truth of a region without rendering it."""
        return compose(None, self._placed(row_px, col_px, shape), shape, self.um_per_px, _even(self.look))

    def _placed(self, row_px: int, col_px: int, shape: tuple[int, int]) -> list[Placed]:
        """Return the cells that reach into a region, placed from its corner; always in the same order."""
        top, left = row_px * self.um_per_px, col_px * self.um_per_px
        bottom, right = top + shape[0] * self.um_per_px, left + shape[1] * self.um_per_px
        found: list[Placed] = []
        for block_row in range(max(0, int((top - _REACH_UM) // BLOCK_UM)), int((bottom + _REACH_UM) // BLOCK_UM) + 1):
            for block_col in range(
                max(0, int((left - _REACH_UM) // BLOCK_UM)), int((right + _REACH_UM) // BLOCK_UM) + 1
            ):
                for cell in _block(self, block_row, block_col):
                    row, col = cell.row_um - top, cell.col_um - left
                    if -_REACH_UM < row < bottom - top + _REACH_UM and -_REACH_UM < col < right - left + _REACH_UM:
                        found.append(Placed(cell.name, cell.drawing, row, col, cell.turn))
        return found


def write_pyramid(path: Path, smear: WholeSmear, quality: int = 85) -> None:
    """Write a smear as a pyramidal tiled TIFF (levels 1, 4, 16 ...), tile by tile.

    Memory stays at some strips of one tile's height, whatever the size; the first reduced level is kept in a temporary
    file. The scale is in the resolution tags, where OpenSlide finds it.

    Parameters
    ----------
    path : Path
    smear : WholeSmear
    quality : int
        JPEG quality.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    height, width = smear.shape
    small_shape = (-(-height // 4), -(-width // 4), 3)
    per_cm = 1e4 / smear.um_per_px
    try:
        with (
            tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part") as scratch,
            tifffile.TiffWriter(path, bigtiff=True) as tiff,
        ):
            small = np.memmap(scratch.name, np.uint8, "w+", shape=small_shape)
            tiff.write(
                _tiles(smear, small),
                shape=(height, width, 3),
                resolution=(per_cm, per_cm),
                **_format(quality),
            )
            level, factor = np.asarray(small), 4
            while True:
                tiff.write(level, subfiletype=1, resolution=(per_cm / factor, per_cm / factor), **_format(quality))
                if max(level.shape[:2]) <= 2 * _TILE_PX:
                    break
                size = (-(-level.shape[1] // 4), -(-level.shape[0] // 4))
                level, factor = np.asarray(cv2.resize(level, size, interpolation=cv2.INTER_AREA)), factor * 4
    except OSError as error:
        raise OutputError(
            f"{path}: the whole-slide file cannot be written ({error.strerror}).",
            "Check the folder and the free space.",
        ) from error


def _format(quality: int) -> dict[str, Any]:
    return {
        "dtype": np.uint8,
        "tile": (_TILE_PX, _TILE_PX),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": quality},
        "resolutionunit": "CENTIMETER",
        "metadata": None,
        "maxworkers": 1,
    }


def _tiles(smear: WholeSmear, small: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of level 0 in row-major order and fill ``small`` with every strip at a quarter of the scale."""
    height, width = smear.shape
    for row in range(0, height, _TILE_PX):
        rows = min(_TILE_PX, height - row)
        strip = np.empty((rows, width, 3), np.uint8)
        for col in range(0, width, _CHUNK_PX):
            cols = min(_CHUNK_PX, width - col)
            strip[:, col : col + cols] = smear.region(row, col, (rows, cols))[0]
        target = small[row // 4 : -(-(row + rows) // 4)]
        target[:] = cv2.resize(strip, (target.shape[1], target.shape[0]), interpolation=cv2.INTER_AREA)
        for col in range(0, width, _TILE_PX):
            tile = strip[:, col : col + _TILE_PX]
            missing = (_TILE_PX - tile.shape[0], _TILE_PX - tile.shape[1])
            yield np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else tile


@lru_cache(maxsize=1024)
def _block(smear: WholeSmear, block_row: int, block_col: int) -> tuple[Placed, ...]:
    """Return the cells of one block, placed from the smear's corner, thinned to what its thickness is at each cell."""
    row_um, col_um = block_row * BLOCK_UM, block_col * BLOCK_UM
    corners = [smear.cover(row_um + i * BLOCK_UM / 2, col_um + j * BLOCK_UM / 2) for i in range(3) for j in range(3)]
    cover = -(-max(corners) // 0.06) * 0.06
    if cover <= 0:
        return ()
    rng = np.random.default_rng([smear.seed, block_row + 1, block_col + 1])
    cells = _layout(replace(smear, shape=(0, 0)), round(cover, 2), int(rng.integers(_LAYOUTS)))
    swapped, upside_down, mirrored = rng.integers(2, size=3)
    turns = rng.integers(8, size=len(cells)).tolist()
    kept = rng.random(len(cells))
    moved = []
    for cell, turn in zip(cells, turns, strict=True):
        row, col = (cell.col_um, cell.row_um) if swapped else (cell.row_um, cell.col_um)
        row, col = BLOCK_UM - row if upside_down else row, BLOCK_UM - col if mirrored else col
        moved.append(Placed(cell.name, cell.drawing, row_um + row, col_um + col, turn))
    return tuple(c for c, chance in zip(moved, kept, strict=True) if chance * cover < smear.cover(c.row_um, c.col_um))


@lru_cache(maxsize=4096)
def _layout(smear: WholeSmear, cover: float, number: int) -> tuple[Placed, ...]:
    rng = np.random.default_rng([smear.seed, round(cover * 100), number])
    density = smear.nucleated_per_mm2 * min(cover / _MONOLAYER_COVER, 2.0)
    nucleated = int(rng.poisson(density * (BLOCK_UM / 1000) ** 2))
    mixture = RECIPES[smear.recipe]
    counts = field_counts(mixture, nucleated, BLOCK_UM, BLOCK_UM, rng, cover)
    # Nucleated cells keep clear of the block's border, so that those of two blocks never lie on each other.
    return tuple(place_cells(counts, BLOCK_UM, BLOCK_UM, rng, mixture.clustered, smear.distinct, 12.0, 0.0))


@lru_cache(maxsize=16)
def _even(name: str) -> Look:
    return replace(LOOKS[name], vignette=0.0, tilt=0.0)
