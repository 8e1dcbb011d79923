"""White point and illumination of a field.

The background (plasma and glass between the cells) is the white reference of every field: dividing each channel by it
puts the background at optical density 0 whatever lamp, camera and colour cast took the picture, and flattens
vignetting with the same step (retrospective flat-field correction, e.g. Smith et al. 2015, doi 10.1038/nmeth.3323).
Everything is estimated on a few thousand pixels and applied with 8-bit operations, so that it costs less than the
decoding of the JPEG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.imaging.flicker import find_bands
from cbctool.imaging.surround import border_of, cropped, find_surround

Array = NDArray[Any]


@dataclass(frozen=True)
class BackgroundOptions:
    """How the background is found. Densities are natural logarithms of level ratios.

    Attributes
    ----------
    sample_px : int
        Longer side of the sampled picture. Single pixels are taken, not averages: at 0.25 um/px the gaps between red
        cells are a few pixels wide and an average would darken them. 96 leaves about 7,000 pixels, a standard
        error of the level far below one grey level.
    grid : int
        Cells of the illumination map along the longer side.
    admit : float
        A tile whose light end lies within this density of the surface so far counts as background. Red cells lie
        0.15-0.4 below it on BCCD, PBC and ALL-IDB1 (green), a pale monocyte's cytoplasm 0.15.
    hue : float
        Background has one hue, or one that changes slowly over the field (lenses and lamps shade it): red and blue
        against green within this density of it. The faint cytoplasm of neutrophils differs by 0.1-0.2, red cells by
        0.2.
    ridge : float
        Pull of the curved terms towards 0, as a share of all samples; keeps a surface seen through few gaps flat.
    steep_px : int
        Smaller pictures get no fourth order: they are windows round single cells, which show too little ground for it
        and none of a lens's corners.
    label_share : float
        White that is found in no more than this share of the tiles was put into the picture: glass lies everywhere.
    local_sigma : float
        Width of the local correction on top of the polynomial, as a share of the longer side.
    blue_kept, stretched_share : float
        Dyes let blue through: the darkest thousandth of 74 fields of BCCD, PBC and ALL-IDB1 keeps 0.47 of the
        background's. Where more than this share of a field keeps less than ``blue_kept``, in shades and not in black
        alone as what is drawn, the camera may have put its black there ("auto levels"). So may haemoglobin, where
        eosin is weak: yellow and brown red cells keep 0.3 where they lie two deep.
    near_black, black_share : float
        What tells the two: a camera that stretches its levels has this share of each channel at black, but for what
        JPEG blurs.
    dark_end : tuple of float
        What the darkest ``stretched_share`` keeps of the background (R, G, B) where the camera left black alone:
        between the medians of BCCD (0.67, 0.46, 0.76) and PBC (0.24, 0.09, 0.56).
    """

    sample_px: int = 96
    grid: int = 40
    admit: float = 0.10
    hue: float = 0.08
    ridge: float = 0.0005
    steep_px: int = 48
    label_share: float = 0.3
    local_sigma: float = 0.10
    blue_kept: float = 0.3
    stretched_share: float = 0.005
    near_black: float = 12.0
    black_share: float = 0.0002
    dark_end: tuple[float, float, float] = (0.45, 0.28, 0.65)


_LIGHTNESS = np.array([0.25, 0.5, 0.25], np.float32)
"""Haemoglobin and nuclei both absorb green, so green weighs most; red and blue steady it under a cast."""

_FULL_SCALE = 254.0
"""Level from which a pixel is taken for clipped; JPEG moves white by one."""

_CLIPPED = 0.75
"""Share of the background at full scale from which a channel is clipped: 0.4 to 0.5 on BCCD, PBC and ALL-IDB1 where
their white is just at full scale, 0.7 to 0.9 at 1.03 times that, which moves no scale by more than 2 %."""


@dataclass(frozen=True, eq=False)
class Background:
    """The level of the empty background over a field, channel by channel.

    Attributes
    ----------
    height_px, width_px : int
        Size of the field it belongs to.
    levels : (gh, gw, 3) float32 array
        Background level (0-255) on a coarse grid of equal cells that tile the field.
    surround_small : (sh, sw) bool array
        What is not field (the black surround of an eyepiece) on the sampled picture.
    white_level : tuple of float
        Median background level of the field (R, G, B).
    cover : float
        Share of the field that is not background, i.e. that cells cover, 0-1.
    noise : float
        Scatter (sigma) of the background's density.
    black : tuple of float
        Share of the background's light (R, G, B) that the camera shows as black: 0 but where it stretched its levels.
    clipped : tuple of float
        Share of the background that is at full scale (R, G, B), where its true level is not known.
    """

    height_px: int
    width_px: int
    levels: Array
    surround_small: Array
    white_level: tuple[float, float, float]
    cover: float
    noise: float
    black: tuple[float, float, float] = (0.0, 0.0, 0.0)
    clipped: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @cached_property
    def has_surround(self) -> bool:
        """Whether part of the picture is not field."""
        return bool(self.surround_small.any())

    def is_clipped(self, channel: int) -> bool:
        """Whether the background is at full scale in a channel (0 red, 1 green, 2 blue)."""
        return self.clipped[channel] > _CLIPPED

    def surround(
        self, height: int, width: int, row0: float = 0.0, col0: float = 0.0, scale: float | None = None
    ) -> Array:
        """What is not field, (height, width) bool, in a resized copy of it or in a window, as in :meth:`apply`."""
        if not self.has_surround:
            return np.zeros((height, width), bool)
        mask = self.surround_small.astype(np.uint8)
        if scale is None:
            return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) > 0)
        return self._window(mask, row0, col0, scale, height, width) > 0

    def apply(self, rgb: Array, row0: float = 0.0, col0: float = 0.0, scale: float | None = None) -> Array:
        """Normalise the field, a resized copy of it, or a window cut from either.

        Parameters
        ----------
        rgb : (h, w, 3) uint8 array
        row0, col0 : float
            Field pixel at which the window's top left corner lies.
        scale : float, optional
            Window pixels per field pixel. None means that ``rgb`` is the whole field, at whatever size.

        Returns
        -------
        (h, w, 3) uint8 array
            Background at 255, surround at 255.
        """
        height, width = rgb.shape[:2]
        # 8-bit gains in steps of 1/unit: at most 0.4 % off, below the noise of any camera, and 3 times as fast as float
        gains, unit = self._gains
        if scale is None:
            gains = cv2.resize(gains, (width, height), interpolation=cv2.INTER_LINEAR)
        else:
            gains = self._window(gains, row0, col0, scale, height, width)
        flat = np.asarray(cv2.multiply(rgb, gains, scale=1.0 / unit))
        if any(self.black):
            flat = np.asarray(cv2.LUT(flat, self._lifted))
        if self.has_surround:
            flat[self.surround(height, width, row0, col0, scale)] = 255
        return flat

    @cached_property
    def _gains(self) -> tuple[Array, float]:
        """What brings the background to 255, in whole steps on the coarse grid, and the steps to one."""
        gain = 255.0 / self.levels
        unit = 255.0 / float(gain.max())
        return np.rint(gain * unit).astype(np.uint8), unit

    @cached_property
    def _lifted(self) -> Array:
        """What each level was before the camera took its black away, (1, 256, 3) uint8."""
        black, share = np.array(self.black), np.arange(256)[np.newaxis, :, np.newaxis] / 255.0
        return np.rint(255.0 * (black + (1.0 - black) * share)).astype(np.uint8)

    def _window(self, coarse: Array, row0: float, col0: float, scale: float, height: int, width: int) -> Array:
        """A coarse map (h, w) or (h, w, C) of the whole field, interpolated over one window of it.

        The part of it that the window meets is magnified and cut, to the nearest pixel: no coarse map changes within
        one.
        """
        rows, high, top = _magnified(height, row0, scale, coarse.shape[0], self.height_px)
        cols, wide, left = _magnified(width, col0, scale, coarse.shape[1], self.width_px)
        near = cv2.resize(coarse[rows, cols], (wide, high), interpolation=cv2.INTER_LINEAR)
        return np.asarray(near[top : top + height, left : left + width])


def _magnified(length: int, start: float, scale: float, cells: int, length_px: int) -> tuple[slice, int, int]:
    """Along one side: which of a field's coarse cells a window needs, how long they are there, and where it begins."""
    per_cell = length_px / cells
    # half a cell more at either end, since between two middles is where values are interpolated
    first = max(math.floor(start / per_cell - 0.5), 0)
    last = min(math.ceil((start + length / scale) / per_cell + 0.5), cells)
    begins = max(round((start - first * per_cell) * scale), 0)
    return slice(first, last), max(round((last - first) * per_cell * scale), begins + length), begins


@dataclass(frozen=True, eq=False)
class Normalised:
    """A field with its background at white.

    Attributes
    ----------
    rgb : (H, W, 3) uint8 array
        Background 255, illumination flattened; the surround is 255 too.
    surround : (H, W) bool array
        What is not field.
    white_level : tuple of float
        Background level (R, G, B) before.
    background : Background
    """

    rgb: Array
    surround: Array
    white_level: tuple[float, float, float]
    background: Background = field(repr=False)


def normalise(rgb: Array, options: BackgroundOptions | None = None) -> Normalised:
    """Put the background of a field at white and flatten its illumination.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
    options : BackgroundOptions, optional

    Returns
    -------
    Normalised
    """
    background = estimate_background(rgb, options)
    surround = background.surround(*rgb.shape[:2])
    return Normalised(background.apply(rgb), surround, background.white_level, background)


def estimate_background(rgb: Array, options: BackgroundOptions | None = None) -> Background:
    """Find the white point and the illumination of a field from its own background.

    Background is the lightest thing that is found all over the field: a smooth surface is grown from the lightest
    tiles over those that agree with it, so that tiles filled by a cell stay out, then fitted to the single pixels
    around the mode of their density. A cell that fills half of the field is darker than the surface and cannot pull
    on it. What surrounds the field and the bands of a flickering lamp are taken away first.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
    options : BackgroundOptions, optional

    Returns
    -------
    Background
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 picture, got {rgb.shape} {rgb.dtype}")
    options = options or BackgroundOptions()
    height, width = rgb.shape[:2]
    step = max(1.0, max(height, width) / options.sample_px)
    shape = (max(1, round(height / step)), max(1, round(width / step)))
    sample = cv2.resize(rgb, shape[::-1], interpolation=cv2.INTER_NEAREST)

    outside = find_surround(sample)
    around, longer = border_of(outside), max(shape)
    sample, outside_seen = (cropped(one, around) for one in (sample, outside))
    shape = sample.shape[:2]
    basis = _basis(*shape)
    ridge = options.ridge * np.array([0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0 if min(shape) >= options.steep_px else 1e6])
    cells = tuple(max(1, min(length, round(length * options.grid / longer))) for length in shape)

    log_levels = np.log(np.maximum(sample, 1).astype(np.float32)).reshape(-1, 3)
    lightness = log_levels @ _LIGHTNESS
    inside = (~outside_seen & ~_find_label(sample, options)).ravel()
    hues = _hue(log_levels).T
    surface, hue = (one @ basis for one in _fit_tiles(log_levels, lightness, inside, shape, ridge, options))
    bands = find_bands((lightness - surface).reshape(shape), (inside & _alike(hues, hue, options)).reshape(shape))
    if bands is not None:
        across = np.broadcast_to(bands, shape).ravel()
        log_levels, lightness = log_levels - across[:, np.newaxis], lightness - across
    spread = 0.0
    for at_least in (0.08, 0.04, 0.0):  # wide first: a clean background is narrower than what the surface still misses
        candidate = inside & _alike(hues, hue, options)
        residual = lightness - surface
        centre, spread = _light_mode(residual[candidate])
        is_background = candidate & (np.abs(residual - centre) < max(2.0 * spread, at_least))
        coefficients, local = _fit_smooth(log_levels, is_background, shape, cells, ridge, options)
        surface = (_LIGHTNESS @ coefficients) @ basis + cv2.resize(local @ _LIGHTNESS, shape[::-1]).ravel()
        hue = _hue(coefficients.T).T @ basis

    levels = np.exp((coefficients @ _basis(*cells)).T.reshape(*cells, 3) + local)
    if bands is not None:
        cells = (max(cells[0], bands.shape[0]), max(cells[1], bands.shape[1]))
        levels = cv2.resize(levels, cells[::-1]) * np.exp(cv2.resize(bands, cells[::-1]))[..., np.newaxis]
    levels = np.clip(levels, 1.0, 255.0)
    red, green, blue = _middle(levels.reshape(-1, 3)).tolist()
    darker = inside & (lightness - surface < -max(2.5 * spread, 0.04))
    cover = float(darker.sum()) / max(1, int(inside.sum()))
    black = _black(sample, cv2.resize(levels, shape[::-1]), ~outside_seen, options)
    full = cv2.threshold(sample, _FULL_SCALE - 1, 1, cv2.THRESH_BINARY)[1]
    clipped = cv2.mean(full, is_background.reshape(shape).view(np.uint8))[:3]
    if any(around):
        levels = cv2.copyMakeBorder(cv2.resize(levels, shape[::-1]), *around, cv2.BORDER_REPLICATE)
    return Background(height, width, levels, outside, (red, green, blue), cover, spread, black, clipped)


def _black(sample: Array, levels: Array, inside: Array, options: BackgroundOptions) -> tuple[float, float, float]:
    """Share of the background's light (R, G, B) that a camera which stretched its levels shows as black; else 0."""
    blue, kept = sample[..., 2], options.blue_kept * levels[..., 2]
    least = options.stretched_share * np.count_nonzero(inside)
    dark = (blue < kept) & inside
    if np.count_nonzero(dark) <= least or np.count_nonzero(dark & (3 * blue > kept)) <= 0.25 * np.count_nonzero(dark):
        return 0.0, 0.0, 0.0
    if (sample[inside] <= options.near_black).mean(axis=0).min() < options.black_share:
        return 0.0, 0.0, 0.0
    light = (sample / levels)[inside]
    end = np.partition(light, int(least), axis=0)[int(least)]
    # a channel that holds nothing darker than the background gives a share far below 0
    red, green, blue = ((np.array(options.dark_end) - end) / np.maximum(1.0 - end, 1e-3)).tolist()
    # grey pictures keep no more blue than green, and yellow ink spares red
    is_grey, is_ink = np.ptp(light, axis=1).max() < 0.05, min(red, green) <= 0.0
    return (0.0, 0.0, 0.0) if is_grey or is_ink else (red, green, blue)


def _find_label(sample: Array, options: BackgroundOptions) -> Array:
    """Where a picture is white in one place alone: a caption's ground, a glare; (h, w) bool."""
    white: Array = cv2.inRange(sample, (_FULL_SCALE - 2,) * 3, (255.0,) * 3)
    tiles = cv2.resize(white, (8, 8), interpolation=cv2.INTER_AREA) > 0.1 * 255
    if not tiles.any() or tiles.mean() > options.label_share:
        return np.zeros(white.shape, bool)
    return np.asarray(cv2.dilate(white, np.ones((3, 3), np.uint8)) > 0)


@lru_cache(maxsize=16)
def _basis(height: int, width: int) -> Array:
    """Terms of a surface over position (-1 to 1) at the centres of a grid of pixels, (7, height * width) float32.

    A second-order polynomial, and the fourth order of the radius, 0 in the middle and at the sides, for what falls off
    steeply in the corners.
    """
    row, col = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float32)
    y, x = (2 * row + 1) / height - 1, (2 * col + 1) / width - 1
    square = x * x + y * y
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, square * square - square])
    basis.flags.writeable = False
    return basis


def _fit(basis: Array, values: Array, weight: Array, ridge: Array) -> Array:
    """Weighted least-squares coefficients (C, 7) of values (N, C), each held to 0 by its ``ridge`` (7,)."""
    weighted = basis * weight  # (7, N)
    total = float(weight.sum())
    if total <= 0.0:
        return np.tile(_flat(math.log(255.0)), (values.shape[1], 1))
    penalty = ridge * weight.size + 1e-9
    # The constant takes the mean first, so that the penalty cannot pull on it.
    mean = (weight.astype(np.float32) @ values) / total
    moments = (weighted @ (values - mean)).astype(np.float64)
    products = (weighted @ basis.T).astype(np.float64)
    diagonal = np.einsum("ii->i", products)
    diagonal += penalty
    solution = np.asarray(cv2.solve(products, moments)[1])
    # Lamps and lenses darken outwards. A surface that is dark in the middle is a cell, not illumination: level it.
    bowl = np.zeros(len(basis), bool)
    bowl[3:6:2] = solution[3:6:2].sum(axis=1) > 0.0
    if bowl.any():
        diagonal[bowl] += 1e3 * weight.size
        solution = np.asarray(cv2.solve(products, moments)[1])
    solution[0] += mean
    return np.asarray(solution.T, np.float32)


def _flat(level: float) -> Array:
    """Coefficients (7,) of a surface that is the same everywhere."""
    return np.array([level, 0, 0, 0, 0, 0, 0], np.float32)


def _fit_smooth(
    values: Array,
    chosen: Array,
    shape: tuple[int, int],
    cells: tuple[int, int],
    ridge: Array,
    options: BackgroundOptions,
) -> tuple[Array, Array]:
    """Surface (C, 7) through the chosen samples of (N, C), and what it leaves, smoothed, (*cells, C)."""
    basis = _basis(*shape)
    coefficients = _fit(basis, values, chosen, ridge)
    weight = chosen.astype(np.float32)[:, np.newaxis]
    rest = np.concatenate([(values - (coefficients @ basis).T) * weight, weight], axis=1).reshape(*shape, -1)
    rest = cv2.resize(rest, cells[::-1], interpolation=cv2.INTER_AREA)
    rest = cv2.GaussianBlur(rest, (0, 0), options.local_sigma * max(cells)).reshape(*cells, -1)
    # A tenth of the weight is a prior of "no correction": under a big cell the surface alone stands.
    return coefficients, rest[..., :-1] / (rest[..., -1:] + 0.1)


def _hue(log_levels: Array) -> Array:
    """Densities of red and blue against green, (..., 2): free of brightness, and a cast only adds a constant."""
    return np.asarray(log_levels[..., ::2] - log_levels[..., 1:2])


def _alike(hues: Array, hue: Array, options: BackgroundOptions) -> Array:
    """Which of the hues (2, n) the background's may be, (n,) bool."""
    red, blue = np.abs(hues - hue) < options.hue
    return np.asarray(red & blue)


def _fit_tiles(
    log_levels: Array, lightness: Array, inside: Array, shape: tuple[int, int], ridge: Array, options: BackgroundOptions
) -> tuple[Array, Array]:
    """A first surface of lightness (7,) and of the background's hue (2, 7), from the light ends of tiles."""
    rows, cols = (min(size, 8 if max(shape) >= 64 else 4) for size in shape)
    high, wide = shape[0] // rows, shape[1] // cols

    def tiled(values: Array) -> Array:
        values = values.reshape(*shape, -1)[: rows * high, : cols * wide].reshape(rows, high, cols, wide, -1)
        return np.asarray(values.swapaxes(1, 2).reshape(rows * cols, high * wide, -1))

    tiles = tiled(np.where(inside, lightness, np.float32(-10.0)))[..., 0]
    light, middle = int(0.9 * (high * wide - 1)), int(0.7 * (high * wide - 1))
    ordered = np.partition(tiles, (middle, light), axis=1)
    value, usable = ordered[:, light], ordered[:, middle] > -10.0
    if not usable.any():
        return _flat(math.log(255.0)), np.stack([_flat(0.0)] * 2)
    lightest = (tiles >= ordered[:, middle, np.newaxis]).astype(np.float32)
    means = (lightest[:, np.newaxis] @ tiled(log_levels))[:, 0] / lightest.sum(axis=1, keepdims=True)
    hues = _hue(means).T  # (2, tiles)
    basis, both = _basis(rows, cols), np.column_stack([value, means])

    # Grown from the lightest tiles over those that agree: right when a cell fills many of them. Hue is a surface, too:
    # lenses shade it, and lamps that stand askew.
    lights = np.sort(value[usable])
    grown = _flat(lights[round(0.95 * (len(lights) - 1))])
    chosen = usable & (value > grown[0] - 0.5 * options.admit)
    hue = np.stack([_flat(one) for one in _middle(hues.T[chosen])])
    for _ in range(12):
        alike = usable & _alike(hues, hue @ basis, options)
        before, chosen = chosen, alike & (np.abs(value - grown @ basis) < options.admit)
        if chosen.sum() < 3 or np.array_equal(chosen, before):
            break
        grown, *colour = _fit(basis, both, chosen, ridge)
        hue = _hue(np.stack(colour, axis=1)).T
    if chosen.mean() > 0.8:
        return grown, hue
    # Shrunk from all tiles of that hue, forgetting the dark ones: right when vignetting is strong. The surface that
    # explains more tiles wins.
    weight = alike.astype(np.float32)
    shrunk = grown
    for _ in range(8):
        shrunk = _fit(basis, both[:, :1], weight, ridge)[0]
        lack = np.maximum(shrunk @ basis - value, 0.0) / (0.5 * options.admit)
        weight = alike / (1.0 + lack**2)
    explained = [int((alike & (np.abs(value - c @ basis) < options.admit)).sum()) for c in (grown, shrunk)]
    return (shrunk if explained[1] > explained[0] else grown), hue


def _middle(values: Array) -> Array:
    """The middle of (n, C) values, channel by channel, the upper one of two: several times as fast as a median."""
    return np.asarray(np.partition(values, len(values) // 2, axis=0)[len(values) // 2])


def _light_mode(residual: Array, reach: float = 0.12) -> tuple[float, float]:
    """Centre and scatter of the lightest well-filled peak of the density residuals around 0."""
    near = residual[np.abs(residual) < 2 * reach]
    if near.size < 10:
        return 0.0, reach
    bins = 96
    counts = np.bincount(((near / (4 * reach) + 0.5) * bins).astype(int), minlength=bins)[:bins]
    smooth = np.convolve(counts, [1, 2, 3, 2, 1], mode="same")
    # the light flank belongs to the background alone: climb down from it to the first peak
    place = int(np.flatnonzero(smooth >= 0.35 * smooth.max())[-1])
    while place > 0 and smooth[place - 1] >= smooth[place]:
        place -= 1
    centre = ((place + 0.5) / bins - 0.5) * 4 * reach
    light = near[near >= centre] - centre
    spread = math.sqrt(float((np.minimum(light, 0.5 * reach) ** 2).mean())) if light.size else reach
    return centre, min(max(spread, 0.008), 0.5 * reach)
