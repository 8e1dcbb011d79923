"""Rendering of smears whose truth is known to the pixel.

Cells are laid on the field in optical density, where they add; light, optics, sensor and JPEG come after, in the order
in which a microscope has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.records import CellClass, CellKind
from cbctool.synthetic.cells import draw, kind_of
from cbctool.synthetic.scene import Placed, place_cells
from cbctool.synthetic.shape import DRAWING_UM_PER_PX
from cbctool.synthetic.stain import LOOKS, Look

_Window = tuple[slice, slice]
_GRAIN_PX = 1024  # side of the tile of sensor noise, which repeats


@dataclass(frozen=True)
class TrueCell:
    """What was drawn, in pixels of the field (row down, half-open boxes clipped to the field).

    ``name`` is a class or what :mod:`cbctool.synthetic.cells` calls it; ``cell_class`` is None for what BloodMNIST
    has no class for. ``label`` is its number in the label masks.
    """

    label: int
    name: str
    kind: CellKind
    cell_class: CellClass | None
    row_px: float
    col_px: float
    ymin_px: int
    xmin_px: int
    ymax_px: int
    xmax_px: int
    touches_edge: bool
    nucleus_touches_edge: bool


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth of one field.

    Attributes
    ----------
    cells : tuple of TrueCell
        Everything of which a pixel lies in the field.
    um_per_px : float
    labels, nuclei : (H, W) int32 arrays or None
        Number of the uppermost cell, and of the nucleus, at each pixel; 0 is none. None unless asked for.
    """

    cells: tuple[TrueCell, ...]
    um_per_px: float
    labels: NDArray[np.int32] | None = None
    nuclei: NDArray[np.int32] | None = None


def render_field(
    cells: Mapping[str, int] | Sequence[Placed],
    shape: tuple[int, int],
    um_per_px: float = 0.2,
    seed: int = 0,
    look: Look | str = "peach",
    with_labels: bool = False,
    distinct: int = 200,
    clustered: float = 0.06,
) -> tuple[NDArray[np.uint8], Truth]:
    """Render one field of a smear.

    Parameters
    ----------
    cells : mapping of str to int, or sequence of Placed
        How many cells of each name to lay out (:func:`~cbctool.synthetic.scene.field_counts` makes one from a recipe),
        or the cells already laid out.
    shape : tuple of int
        Height and width, pixels.
    um_per_px : float
        Micrometres per pixel.
    seed : int
        The same arguments give the same picture.
    look : Look or str
        Stain, light and camera, or a name in ``LOOKS``.
    with_labels : bool
        Also paint label masks.
    distinct : int
        How many different drawings of each name there are; drawing one takes some 30 ms, using it again microseconds.
    clustered : float
        Share of nucleated cells that lie against another one.

    Returns
    -------
    rgb : (H, W, 3) uint8 array
    truth : Truth

    Raises
    ------
    ValueError
        For a name that cannot be drawn or a scale that is not positive.
    """
    if not um_per_px > 0:
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")
    look = LOOKS[look] if isinstance(look, str) else look
    rng = np.random.default_rng(seed)
    if isinstance(cells, Mapping):
        placed: Sequence[Placed] = place_cells(
            cells, shape[0] * um_per_px, shape[1] * um_per_px, rng, clustered, distinct
        )
    else:
        placed = cells
    grain_row, grain_col = (int(v) for v in rng.integers(_GRAIN_PX, size=2))
    density = lit_field(shape, look).copy()
    truth = compose(density, placed, shape, um_per_px, look, with_labels)
    rgb = expose(density, um_per_px, look, grain_row, grain_col)
    if look.jpeg_quality is not None:
        rgb = through_jpeg(rgb, look.jpeg_quality)
    return rgb, truth


def compose(
    density: NDArray[np.float32] | None,
    placed: Sequence[Placed],
    shape: tuple[int, int],
    um_per_px: float,
    look: Look,
    with_labels: bool = False,
    halo_px: int = 0,
) -> Truth:
    """Add the optical density of cells to a field, in place, and return the truth.

    Parameters
    ----------
    density : (H + 2 halo, W + 2 halo, 3) float32 array or None
        None: only the truth is wanted.
    placed : sequence of Placed
        Positions from the top left corner of the field (inside the halo).
    shape : tuple of int
        (H, W) of the field.
    um_per_px : float
    look : Look
    with_labels : bool
    halo_px : int
        Border that is painted too but is not part of the field.

    Returns
    -------
    Truth
    """
    height, width = shape
    labels = np.zeros(shape, np.int32) if with_labels else None
    nuclei = np.zeros(shape, np.int32) if with_labels else None
    vectors = look.vectors().tobytes()
    truth: list[TrueCell] = []
    for cell in placed:
        sprite = _sprite(cell.name, cell.drawing, cell.turn, um_per_px, vectors)
        size = sprite.density.shape[0]
        top = round(cell.row_um / um_per_px - size / 2)
        left = round(cell.col_um / um_per_px - size / 2)
        if density is not None:
            field, own = _overlap(top + halo_px, left + halo_px, size, density.shape)
            density[field] += sprite.density[own]
        box = sprite.box.moved(top, left)
        clipped = box.clipped(height, width)
        if clipped is None:
            continue
        number = len(truth) + 1
        truth.append(
            TrueCell(
                label=number,
                name=cell.name,
                kind=kind_of(cell.name),
                cell_class=CellClass(cell.name) if cell.name in _CLASS_NAMES else None,
                row_px=top + sprite.centre[0],
                col_px=left + sprite.centre[1],
                ymin_px=clipped.top,
                xmin_px=clipped.left,
                ymax_px=clipped.bottom,
                xmax_px=clipped.right,
                touches_edge=box.reaches(height, width),
                nucleus_touches_edge=sprite.nucleus_box is not None
                and sprite.nucleus_box.moved(top, left).reaches(height, width),
            )
        )
        if labels is not None and nuclei is not None:
            field, own = _overlap(top, left, size, shape)
            labels[field][sprite.cell[own]] = number
            nuclei[field][sprite.nucleus[own]] = number
    return Truth(tuple(truth), um_per_px, labels, nuclei)


def _overlap(top: int, left: int, size: int, shape: tuple[int, ...]) -> tuple[_Window, _Window]:
    """Return the window of a field that a sprite covers, and the window of the sprite that is in the field."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = max(y0, min(top + size, shape[0])), max(x0, min(left + size, shape[1]))
    own = (slice(max(y0 - top, 0), max(y1 - top, 0)), slice(max(x0 - left, 0), max(x1 - left, 0)))
    return (slice(y0, y1), slice(x0, x1)), own


def expose(
    density: NDArray[np.float32], um_per_px: float, look: Look, grain_row: int, grain_col: int
) -> NDArray[np.uint8]:
    """Turn optical density (light included) into the camera's picture; overwrites ``density``."""
    np.multiply(density, np.float32(-np.log(10)), out=density)
    cv2.exp(density, dst=density)
    # Eight bits from here on: filters are several times faster, and rounding is less than the sensor's noise.
    rgb = cv2.convertScaleAbs(density, alpha=255.0)
    sigma = look.blur_um / um_per_px
    if sigma > 0.25:
        rgb = cv2.GaussianBlur(rgb, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    if look.sharpen > 0:
        soft = cv2.GaussianBlur(rgb, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
        rgb = cv2.addWeighted(rgb, 1 + look.sharpen, soft, -look.sharpen, 0)
    if look.noise > 0:
        grain, (y, x) = _grain(look.noise), (grain_row % _GRAIN_PX, grain_col % _GRAIN_PX)
        for row in range(0, rgb.shape[0], _GRAIN_PX):
            for col in range(0, rgb.shape[1], _GRAIN_PX):
                block = rgb[row : row + _GRAIN_PX, col : col + _GRAIN_PX]
                block[:] = cv2.add(block, grain[y : y + block.shape[0], x : x + block.shape[1]], dtype=cv2.CV_8U)
    return np.asarray(rgb, np.uint8)


def through_jpeg(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return the picture after JPEG compression."""
    _, packed = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1])


_CLASS_NAMES = frozenset(c.value for c in CellClass)


@dataclass(frozen=True)
class _Box:
    top: int
    left: int
    bottom: int
    right: int

    def moved(self, rows: int, cols: int) -> _Box:
        return _Box(self.top + rows, self.left + cols, self.bottom + rows, self.right + cols)

    def clipped(self, height: int, width: int) -> _Box | None:
        box = _Box(max(self.top, 0), max(self.left, 0), min(self.bottom, height), min(self.right, width))
        return box if box.top < box.bottom and box.left < box.right else None

    def reaches(self, height: int, width: int) -> bool:
        return self.top <= 0 or self.left <= 0 or self.bottom >= height or self.right >= width

    @classmethod
    def around(cls, mask: NDArray[np.bool_]) -> _Box | None:
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return cls(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1) if rows.size else None


@dataclass(frozen=True, eq=False)
class _Sprite:
    """A drawing at the field's scale and in its stain."""

    density: NDArray[np.float32]
    cell: NDArray[np.bool_]
    nucleus: NDArray[np.bool_]
    box: _Box
    nucleus_box: _Box | None
    centre: tuple[float, float]


@lru_cache(maxsize=8192)
def _sprite(name: str, number: int, turn: int, um_per_px: float, vectors: bytes) -> _Sprite:
    if turn:
        base = _sprite(name, number, 0, um_per_px, vectors)
        density, cell, nucleus = (_turned(a, turn) for a in (base.density, base.cell, base.nucleus))
    else:
        drawing = draw(name, number)
        size = max(3, round(drawing.cell.shape[0] * DRAWING_UM_PER_PX / um_per_px))
        dyes = _resized(drawing.dyes, size)
        density = dyes @ np.frombuffer(vectors, np.float32).reshape(4, 3)
        cell = _resized(drawing.cell.astype(np.float32), size) > 0.5
        nucleus = _resized(drawing.nucleus.astype(np.float32), size) > 0.5
        if not cell.any():  # smaller than a pixel
            cell[size // 2, size // 2] = True
    box = _Box.around(cell)
    assert box is not None
    rows, cols = np.nonzero(cell)
    return _Sprite(
        density, cell, nucleus, box, _Box.around(nucleus), (float(rows.mean()) + 0.5, float(cols.mean()) + 0.5)
    )


def _resized(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    smaller = size < image.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.float32)


def _turned(image: NDArray, turn: int) -> NDArray:
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if turn >= 4 else image, turn % 4))


@lru_cache(maxsize=4)
def lit_field(shape: tuple[int, int], look: Look) -> NDArray[np.float32]:
    """Return the optical density of an empty field: background colour, light falling off to corners and one side."""
    row = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    col = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    light = (1 - look.vignette * (row**2 + col**2) / 2) * (1 + look.tilt * (0.6 * row + 0.8 * col) / 2)
    light = light / light.max()
    background = np.array(look.background, np.float32) / 255
    lit = (-np.log10(light[..., None] * background)).astype(np.float32)
    lit.setflags(write=False)
    return lit


@lru_cache(maxsize=4)
def _grain(sigma: float) -> NDArray[np.int16]:
    """Return a repeating (2048, 2048, 3) tile of sensor noise: luminance, and the colour that demosaicing leaves."""
    rng = np.random.default_rng(20)
    size = (_GRAIN_PX, _GRAIN_PX)
    luminance = rng.standard_normal((*size, 1), dtype=np.float32)
    colour = cv2.GaussianBlur(
        rng.standard_normal((*size, 3), dtype=np.float32), (0, 0), 0.8, borderType=cv2.BORDER_REFLECT
    )
    tile = np.float32(sigma) * (0.8 * luminance + 0.9 * colour)
    return np.rint(np.tile(tile, (2, 2, 1))).astype(np.int16)
