"""Other laboratories, made from one: random geometry, optics, stain and camera for training crops.

A network trained on one camera and one stain learns them: 97 % at home became 10 % on another laboratory's cells.
Everything here is drawn per crop, at random, in the order in which it happens to light: the cell lies anyhow on the
glass (geometry), the lens blurs it (resolution), dyes absorb (optical density, after Tellez et al. 2019, arXiv
1902.06543, who found stain augmentation the best single measure), the sensor clips, adds noise and compresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbctool.records import CROP_PX, CROP_UM

_GRID = (
    2 * CROP_PX
)  # geometry is resampled at twice the crop's resolution, then reduced by the crop's own bicubic filter
_BANK = 24  # reduction filters of different sharpness to draw from
_AS_IS = 5  # the one of them that neither sharpens nor blurs


@dataclass(frozen=True)
class AugmentOptions:
    """How far the drawn laboratory may lie from the training one.

    Spreads are chosen to cover the colours seen in atlases (nuclei from light blue-violet to almost black), not fitted
    to any test set. ``plain`` is the share of crops that keep their own colours, sharpness and (but for ``own_scale``)
    size, so that home, and whoever works as carefully, is not forgotten.
    """

    shrink: float = 1.5  # up to this factor smaller, with all around it: scales are measured to 5-10 %
    grow: float = 1.2  # or larger: red cells are 7.2-7.5 um
    platelet_grow: float = 1.0  # the same for platelets, which are told from leukocytes by their size
    dried: float = 0.5  # share of cells that spread otherwise on the glass than the red cells around them
    dried_small: float = 1.2  # up to this factor smaller: where the film is thick or dries slowly
    dried_large: float = 1.3  # or larger, near the feathered edge
    swollen_least: float = 1.4  # lymphocytes (8 to 11 um) this much larger are no lymphocytes any more,
    swollen_most: float = 1.9  # but round, large-nucleated and of scant cytoplasm at the size of blasts (11 to 20 um)
    crowded: float = 0.25  # share of crops that get red cells laid around the one in the middle
    stretch: float = 1.08
    shift_px: float = 2.0  # of the 28: the window is centred on a segmented cell, which is good to about 1 um
    plain: float = 0.4
    near: float = 0.4  # share of the others whose colours are drawn only part of the way
    own_scale: float = 1.1
    strength_low: float = 0.3  # overall optical density
    strength_high: float = 1.2
    channel_spread: float = 0.25  # log-normal gain per colour channel
    mixing_spread: float = 0.12  # off-diagonal terms of the colour matrix
    restained: float = 0.5  # share of crops whose red cells and nuclei get new colours, each their own
    gamma: float = 1.35
    chroma: float = 0.4
    cast_od: float = 0.06  # what is left after white balance; one in five keeps a cast of up to four times that
    overexposure: float = 0.08
    blur_px: float = 0.8  # gaussian sigma, of the 28
    sharpen: float = 0.6  # unsharp masking, as cameras do: the share of what a blur of 1 px would take that is added
    noise: float = 0.02  # of full scale
    jpeg: float = 0.1
    vivid: float = 0.3  # share of crops whose camera changes the saturation of colours,
    saturation: float = 1.8  # up to by this factor
    edge: float = 0.08  # share of crops cut by a white edge, as at the border of a field


def geometry(
    canvases: NDArray[np.uint8],
    platelets: NDArray[np.bool_],
    plain: NDArray[np.bool_],
    window_px: float,
    rng: np.random.Generator,
    options: AugmentOptions,
    spread: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """Turn, mirror, scale, stretch and shift: (B, S, S, 3) with the window's side in px -> (B, 56, 56, 3).

    ``platelets`` (B,) says which canvases show one, ``plain`` (B,) which nearly keep their scale, ``spread`` (B,) by
    what factor the cell in the middle is smaller than it was, its surroundings being as they were.
    """
    count, height, width = canvases.shape[:3]
    out = np.empty((count, _GRID, _GRID, 3), np.uint8)
    angle = 2 * np.pi * rng.random((count,))
    grow = np.where(platelets, options.platelet_grow, options.grow)
    grow = np.log(np.where(plain, np.minimum(grow, options.own_scale), grow))
    shrink = np.log(np.where(plain, min(options.shrink, options.own_scale), options.shrink))
    scale = window_px / _GRID * np.exp(rng.uniform(-grow, shrink))
    stretch = np.exp(rng.uniform(-1, 1, (count, 2)) * np.log(options.stretch))
    stretch[:, 0] *= rng.choice([-1.0, 1.0], count)
    shift = rng.uniform(-1, 1, (count, 2)) * options.shift_px * window_px / CROP_PX
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    lossy = (rng.random(count) < options.jpeg) & ~plain
    for i in range(count):
        c, s = np.cos(angle[i]), np.sin(angle[i])
        matrix = scale[i] * np.array([[c, -s], [s, c]]) * stretch[i]
        offset = centre + shift[i]
        if spread is None or spread[i] == 1.0:
            offset = offset - matrix @ np.full(2, (_GRID - 1) / 2)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            out[i] = cv2.warpAffine(
                canvases[i], np.column_stack([matrix, offset]), (_GRID, _GRID), flags=flags, borderMode=_MIRRORED
            )
        else:
            x, y = matrix.astype(np.float32) @ _radial(spread[i]) + offset[:, np.newaxis].astype(np.float32)
            maps = x.reshape(_GRID, _GRID), y.reshape(_GRID, _GRID)
            out[i] = cv2.remap(canvases[i], *maps, cv2.INTER_LINEAR, borderMode=_MIRRORED)
        if lossy[i]:
            out[i] = _compress(out[i], int(rng.integers(30, 90)))
    return out


def draw_spread(
    platelets: NDArray[np.bool_], plain: NDArray[np.bool_], rng: np.random.Generator, options: AugmentOptions
) -> NDArray[np.float64]:
    """(B,) how much smaller than it was each cell has dried; 1 for platelets and ``plain`` crops."""
    factor = np.exp(rng.uniform(-np.log(options.dried_large), np.log(options.dried_small), len(plain)))
    return np.where((rng.random(len(plain)) < options.dried) & ~plain & ~platelets, factor, 1.0)


def draw_swelling(count: int, rng: np.random.Generator, options: AugmentOptions) -> NDArray[np.float64]:
    """(B,) factors below 1 by which lymphocytes become as large, for what they are, as blasts."""
    return np.exp(-rng.uniform(np.log(options.swollen_least), np.log(options.swollen_most), count))


def _radial(factor: float) -> NDArray[np.float32]:
    """(2, 56 * 56) where each pixel (x, y from the middle) comes from when the cell becomes ``factor`` smaller.

    Within the cell distances are multiplied, from there on they catch up: what lies beyond ``_CAUGHT_UP`` stays.
    """
    edge = _CELL_RADIUS * min(1.0, 1.0 / factor)
    inner = _RADIUS * factor
    outer = edge * factor + (_RADIUS - edge) * (_CAUGHT_UP - edge * factor) / (_CAUGHT_UP - edge)
    came_from = np.where(edge > _RADIUS, inner, np.where(_CAUGHT_UP > _RADIUS, outer, _RADIUS))
    return _PLACE * (came_from / _RADIUS).astype(np.float32)


_MIRRORED = cv2.BORDER_REFLECT_101
_CELL_RADIUS = 7.5 * _GRID / CROP_UM  # a leukocyte of 15 um
_CAUGHT_UP = 12.0 * _GRID / CROP_UM
_PLACE = np.stack(np.meshgrid(*2 * [np.arange(_GRID, dtype=np.float32) - (_GRID - 1) / 2])).reshape(2, -1)
_RADIUS = np.hypot(*_PLACE)


_PALER_THAN_NUCLEI = 140
"""Green level above which a pixel of the training frames is no nucleus (natural optical density 0.6; red cells have
0.35, nuclei 1 and more)."""


def crowd(
    canvases: NDArray[np.uint8],
    others: NDArray[np.uint8],
    window_px: float,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Lay the red cells of other canvases (B, S, S, 3) around the cells in the middle, the darker of two showing."""
    side = canvases.shape[1]
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    beyond = np.hypot(rows, cols)
    out = canvases.copy()
    for i, other in enumerate(others):
        moved = np.roll(other, rng.integers(side, size=2), axis=(0, 1))
        # from 4.5 to 8 um from the middle: next to a lymphocyte, or half over a monocyte's cytoplasm
        shows = (beyond > window_px / CROP_UM * rng.uniform(4.5, 8.0)) & (moved[..., 1] > _PALER_THAN_NUCLEI)
        np.minimum(out[i], moved, out=out[i], where=shows[..., np.newaxis])
    return out


def _compress(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def light(pictures: Tensor, plain: NDArray[np.bool_], rng: np.random.Generator, options: AugmentOptions) -> Tensor:
    """Optics, stain and camera: (B, 56, 56, 3) uint8 -> (B, 28, 28, 3) uint8; ``plain`` ones keep optics and stain."""
    count = len(pictures)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape)).astype(np.float32))

    def normal(spread: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(0, spread, (count, *shape)).astype(np.float32))

    sharpness = np.where(plain, _AS_IS, rng.integers(0, _BANK, count))
    reduction = _reductions(options.blur_px, options.sharpen)[torch.from_numpy(sharpness)]  # (B, 28, 56)
    x = pictures.float().permute(0, 3, 1, 2)  # (B, 3, 56, 56)
    x = reduction[:, None] @ x @ reduction[:, None].transpose(2, 3)
    x = x.permute(0, 2, 3, 1).clamp(0, 255)  # (B, 28, 28, 3)

    density = torch.log(256.0 / (x + 1.0))
    restained = torch.from_numpy(rng.random(count) < options.restained)[:, None, None, None]
    mixed = _apply(density, _colour_matrix(rng, count, options))
    stained = torch.where(restained, _restain(density, rng), mixed).clamp_min(0)
    gamma = torch.exp(uniform(-1, 1, 1, 1, 1) * np.log(options.gamma))
    stained = stained.clamp_min(1e-4) ** gamma
    strength = torch.exp(uniform(np.log(options.strength_low), np.log(options.strength_high), 1, 1, 1))
    grey = stained.mean(3, keepdim=True)
    stained = (grey + (stained - grey) * uniform(1 - options.chroma, 1 + options.chroma, 1, 1, 1)) * strength
    cast = uniform(-0.5, 1, 1, 1, 3) * options.cast_od
    strong = torch.from_numpy(rng.random(count) < 0.2)[:, None, None, None]
    cast = torch.where(strong, uniform(0, 4, 1, 1, 3) * options.cast_od, cast)
    # some only part of the way from the own colours to the drawn ones: there the gate learns where the own ones end
    between = rng.random(count) < options.near
    share = np.where(plain, 0.0, np.where(between, rng.uniform(0.15, 1.0, count), 1.0)).astype(np.float32)
    density = density + torch.from_numpy(share)[:, None, None, None] * (stained - density) + cast

    x = torch.exp(-density) * (1 + uniform(0, options.overexposure, 1, 1, 1))
    brightest = x.amax(3, keepdim=True)
    vivid = torch.from_numpy((rng.random(count) < options.vivid) & ~plain)[:, None, None, None]
    saturation = torch.exp(uniform(-0.5, 1, 1, 1, 1) * np.log(options.saturation))
    x = torch.where(vivid, brightest - saturation * (brightest - x), x).clamp_min(0)
    x = x + normal(1.0, CROP_PX, CROP_PX, 3) * uniform(0, 1, 1, 1, 1) ** 2 * options.noise
    x = _cut(x, rng, options.edge)
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


_STAINS = np.array([[0.21, 0.30, 0.18], [0.88, 1.40, 0.35]])
"""Natural optical density (R, G, B) of red cells and of leukocytes' nuclei in the training frames, white-balanced: the
upper quartile at the middle of red cells and empty ground, and about the median of the leukocytes' darkest 30 %."""


def _restain(density: Tensor, rng: np.random.Generator) -> Tensor:
    """Take crops (B, 28, 28, 3) apart into what red cells and what nuclei absorb, and stain each anew.

    After Ruifrok & Johnston (2001); of what is neither, some part is left. Hues are drawn as wide as haemoglobin, eosin
    and azures go: red cells from orange over brown and olive to the grey-blue of an alkaline buffer, nuclei from blue
    to red-violet, green always being what they absorb most.
    """
    count = len(density)
    stains = torch.from_numpy(_STAINS.astype(np.float32))
    amounts = density @ torch.linalg.pinv(stains)
    for one, other in ((0, 1), (1, 0)):
        none = amounts[..., one] < 0  # no stain gives light: what is left is the other's
        alone = density @ stains[other] / stains[other].square().sum()
        amounts[..., other] = torch.where(none, alone, amounts[..., other])
        amounts[..., one].clamp_min_(0)
    rest = density - amounts @ stains
    red_cells = rng.uniform(0.12, 0.55, (count, 1)) * _ratios(rng, count, (0.12, 1.3), (0.5, 2.2))
    nuclei = rng.uniform(0.6, 2.1, (count, 1)) * _ratios(rng, count, (0.5, 1.15), (0.15, 0.65))
    new = torch.from_numpy(np.stack([red_cells, nuclei], axis=1).astype(np.float32))  # (B, 2, 3)
    left = torch.from_numpy(rng.uniform(0, 1, (count, 1, 1, 1)).astype(np.float32))
    return torch.einsum("bijs,bsc->bijc", amounts, new) + left * rest


def _ratios(
    rng: np.random.Generator, count: int, red: tuple[float, float], blue: tuple[float, float]
) -> NDArray[np.float64]:
    """(B, 3) densities over that in green, drawn evenly in their logarithm."""
    low, high = np.log([[red[0], 1.0, blue[0]], [red[1], 1.0, blue[1]]])
    return np.exp(rng.uniform(low, high, (count, 3)))


def _colour_matrix(rng: np.random.Generator, count: int, options: AugmentOptions) -> Tensor:
    """(B, 3, 3) mixing of the channels' densities, near the identity; rows are scaled by a gain each."""
    mixing = np.eye(3) + rng.normal(0, options.mixing_spread, (count, 3, 3))
    gain = np.exp(rng.normal(0, options.channel_spread, (count, 3, 1)))
    # Violet nuclei of many Giemsa stains let blue through almost whole: the blue gain reaches down to nothing.
    gain[:, 2] *= np.where(rng.random((count, 1)) < 0.35, rng.uniform(0.0, 1.0, (count, 1)), 1.0)
    return torch.from_numpy((mixing * gain).astype(np.float32))


def _apply(density: Tensor, matrix: Tensor) -> Tensor:
    count = len(density)
    return torch.bmm(density.reshape(count, -1, 3), matrix.transpose(1, 2)).reshape(density.shape)


def _cut(x: Tensor, rng: np.random.Generator, share: float) -> Tensor:
    """White beyond a straight edge on one side of some crops, nowhere near the middle."""
    for i in np.flatnonzero(rng.random(len(x)) < share):
        depth = int(rng.integers(1, CROP_PX // 3))
        side = int(rng.integers(4))
        region = x[i].transpose(0, 1) if side % 2 else x[i]
        if side < 2:
            region[:depth] = 1.0
        else:
            region[-depth:] = 1.0
    return x


_cache: dict[tuple[float, float], Tensor] = {}


def _reductions(blur_px: float, sharpen: float) -> Tensor:
    """(24, 28, 56) rows of weights: Pillow's antialiased bicubic by two, from sharpened over ``_AS_IS`` to blurred."""
    if (blur_px, sharpen) not in _cache:
        position = (np.arange(CROP_PX)[:, None] + 0.5) * 2 - 0.5 - np.arange(_GRID)  # (28, 56), in grid px
        bicubic = _bicubic(position / 2)
        banks = []
        for number in range(_BANK):
            if number < _AS_IS:
                amount = sharpen * (_AS_IS - number) / _AS_IS
                weights = bicubic @ ((1 + amount) * np.eye(_GRID) - amount * _gaussian(2.0))
            else:
                # as many again stay as they are
                weights = bicubic @ _gaussian(2 * blur_px * max(0.0, (number - 2 * _AS_IS) / (_BANK - 1 - 2 * _AS_IS)))
            banks.append(weights / weights.sum(1, keepdims=True))
        _cache[blur_px, sharpen] = torch.from_numpy(np.stack(banks).astype(np.float32))
    return _cache[blur_px, sharpen]


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """(56, 56) matrix of a gaussian blur along one axis."""
    spread = np.exp(-0.5 * ((np.arange(_GRID)[:, None] - np.arange(_GRID)) / (sigma + 1e-3)) ** 2)
    return np.asarray(spread / spread.sum(1, keepdims=True))


def _bicubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -0.5, as in Pillow."""
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
