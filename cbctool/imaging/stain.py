"""Optical density and the stains of a field, judged against its own red cells.

Red cells absorb all three channels in a ratio of their own, which every field tells anew. Two densities vanish on red
cells, on single and on overlapping ones alike, whatever their depth:

*azure*: what red and green hold beyond the red cells' share of blue. The thiazine dyes of a Romanowsky stain absorb red
and green but hardly blue (Horobin & Walter 1987, doi 10.1007/BF00494802): nuclei, basophilic and granular cytoplasm,
platelets.

*eosin*: what green holds beyond the red cells' share of red. Eosin absorbs green alone: eosinophil granules.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

DENSITY_UNIT = 200.0
"""Grey levels per unit of optical density (log10) in the 8-bit density pictures: 255 is 1.275."""

_LEVELS = np.arange(256, dtype=float)
_DENSITY_OF_LEVEL = np.clip(np.rint(-np.log10((_LEVELS + 1) / 256) * DENSITY_UNIT), 0, 255).astype(np.uint8)


class RedCellColour(NamedTuple):
    """Absorption of the field's red cells.

    Attributes
    ----------
    level : float
        Median green density of what absorbs, levels of ``DENSITY_UNIT``.
    red_green_per_blue, green_per_red : float
        Ratios of densities, the commonest of the field.
    red_green_without_blue : float
        Red and green density that they have left where blue has none: 0 but for a clipped blue.
    """

    level: float
    red_green_per_blue: float
    green_per_red: float
    red_green_without_blue: float = 0.0

    @property
    def red_per_blue(self) -> float:
        """Red over blue density."""
        return self.red_green_per_blue / (1.0 + self.green_per_red)

    @property
    def blue_per_green(self) -> float:
        """Blue over green density: 0.4 to 1.2 where eosin is strong, more where haemoglobin's own colour shows."""
        return 1.0 / (self.green_per_red * self.red_per_blue)

    @property
    def red_tells(self) -> bool:
        """Whether red cells are seen in the red channel at all: not where it was exposed to full scale and clipped.

        Green over red is up to 5 on ALL-IDB1, and 9 to 29 on PBC once its red is clipped by 1.3.
        """
        return self.green_per_red < _MOST_GREEN_PER_RED


_MOST_GREEN_PER_RED = 6.5


def optical_density(rgb: NDArray[Any]) -> NDArray[Any]:
    """Optical density (log10) of a picture whose background is 255, in levels of ``DENSITY_UNIT``; (h, w, 3) uint8."""
    return np.asarray(cv2.LUT(rgb, _DENSITY_OF_LEVEL))


def align_channels(density: NDArray[Any]) -> NDArray[Any]:
    """Undo the lateral chromatic aberration of the lens: lay red and blue on green.

    On BCCD blue is displaced by 0.2 um, which paints an azure rim on every red cell; on ALL-IDB1 the magnification
    differs between channels. The displacement, a shift plus a difference in magnification, is the least-squares
    solution of the optical-flow equation (Lucas & Kanade 1981) over the edges of the red cells.

    Parameters
    ----------
    density : (h, w, 3) uint8 array

    Returns
    -------
    (h, w, 3) uint8 array
    """
    height, width = density.shape[:2]
    displaced = {
        channel: (shift_x, shift_y, grow / width)
        for channel, (shift_x, shift_y, grow) in _displacements(density).items()
        if max(abs(shift_x), abs(shift_y)) + abs(grow) / 2 >= _SEEN_PX
    }
    if not displaced:
        return density
    planes = list(cv2.split(density))
    for channel, (shift_x, shift_y, grow) in displaced.items():
        back = np.array([[1 - grow, 0, -shift_x + grow * width / 2], [0, 1 - grow, -shift_y + grow * height / 2]])
        planes[channel] = cv2.warpAffine(
            planes[channel],
            back,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return np.asarray(cv2.merge(planes))


_SEEN_PX = 0.03
"""A displacement below this moves no edge of ordinary steepness, 30 levels a pixel, by a level."""


_EDGE_PX = 5000
"""There are many times as many edge pixels, and 3000 tell a displacement to 0.01 px."""

_EDGES_IN_PX = 150_000
"""Edges are looked for in so many pixels of a larger field."""


def _displacements(density: NDArray[Any]) -> dict[int, tuple[float, float, float]]:
    """Shift in x and y, and growth over the width, of the channels that follow green; pixels."""
    height, width = density.shape[:2]
    plane = cv2.extractChannel(density, 1)
    slope_x, slope_y = cv2.Sobel(plane, cv2.CV_16S, 1, 0), cv2.Sobel(plane, cv2.CV_16S, 0, 1)
    every = max(1, height * width // _EDGES_IN_PX)  # of a large field, not every row is looked at
    steep_x, steep_y = cv2.convertScaleAbs(slope_x[::every]), cv2.convertScaleAbs(slope_y[::every])
    place = np.flatnonzero(cv2.add(steep_x, steep_y) > 16)
    place = place[:: max(1, len(place) // _EDGE_PX)]
    wide = cv2.blur(density[::every], (9, 2 * round(4 / every) + 1))  # 9 x 9 pixels of all rows
    local = np.take(wide.reshape(-1, 3), place, axis=0).astype(np.int16).T
    rows, cols = np.divmod(place, width)
    rows *= every
    place = rows * width + cols
    seen = np.flatnonzero(local[1] > 4)
    if len(seen) < 200:
        return {}
    azure = np.take(local[0] + local[1] - local[2], seen)
    middling = 6 * (len(azure) - 1) // 10
    chosen = seen[azure <= np.partition(azure, middling)[middling]]
    place, rows, cols, local = place[chosen], rows[chosen], cols[chosen], np.take(local, chosen, axis=1).astype(float)
    own = np.take(density.reshape(-1, 3), place, axis=0).T.astype(float)
    dx, dy = np.take(slope_x, place) / 8, np.take(slope_y, place) / 8
    y, x = (rows - height / 2) / width, (cols - width / 2) / width
    follows = np.stack([own[1], dx, dy, dx * x + dy * y])
    found = {}
    for channel in (0, 2):
        design = np.vstack([local[channel] / np.maximum(local[1], 1) * follows, np.ones(len(place))])
        target = own[channel]
        solution = _least_squares(design, target)
        residual = np.abs(target - solution @ design)
        kept = np.flatnonzero(residual <= 3 * _median(residual) + 1e-6)
        solution = _least_squares(np.take(design, kept, axis=1), target[kept])
        if solution[0] >= 0.3:  # below, the channel does not follow green, and there is nothing to align
            shift_x, shift_y, grow = np.clip(solution[1:4] / solution[0], -1.5, 1.5).tolist()
            found[channel] = (shift_x, shift_y, grow)
    return found


def _median(values: NDArray[Any]) -> float:
    """The middle value of (n,), the upper one of two; several times as fast as NumPy's, which also looks for NaN."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def _least_squares(design: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """Coefficients (k,) of the rows of (k, n) that come nearest to (n,); the pull to 0 decides only what is free."""
    pull = 1e-6 * design.shape[1] * np.eye(len(design))
    return np.asarray(cv2.solve(design @ design.T + pull, (design @ target)[:, np.newaxis])[1][:, 0])


def red_cell_colour(
    density: NDArray[Any], min_od: float, um: float, blue_clipped: bool = False, sample_px: int = 20_000
) -> RedCellColour:
    """Level and colour of the field's red cells: the commonest ratios of what absorbs.

    Where most of that lies at nuclei, as in a picture of one leukocyte, only what lies further away is looked at: its
    cytoplasm would pass for red cells. Where nothing does, the least azure of what is no nucleus tells their colour.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    min_od : float
        Green density below this is background.
    um : float
        Micrometres per pixel.
    blue_clipped : bool
        The background was at full scale in blue, so that a constant is lacking from every density in it.
    sample_px : int
        Pixels looked at, about; by default every third of a field of 640 x 480 pixels of 0.12 um.

    Returns
    -------
    RedCellColour
        With the medians over PBC and BCCD where the field has too few pixels to tell.
    """
    every = max(1, round((density.size / 3 / sample_px) ** 0.5))
    grid, um = density[::every, ::every], um * every
    absorbs = grid[..., 1] > min_od * DENSITY_UNIT
    nuclei = _nuclei(grid, absorbs, um)
    far = absorbs & ~_grown(nuclei, 2 * round(_CYTOPLASM_UM / um) + 1)
    if np.count_nonzero(far) < _FEW_RED_CELLS * np.count_nonzero(absorbs):
        if not _are_enough(int(np.count_nonzero(far)), um):
            return _least_azure(grid[absorbs & ~_grown(nuclei, 3)], um)
        absorbs = far
    sample = grid.reshape(-1, 3).astype(np.int16).T
    seen = np.flatnonzero(absorbs)
    if not _are_enough(len(seen), um):
        return _USUAL
    red, green, blue = np.take(sample, seen, axis=1)
    level = _median(green)
    both = red + green
    body = np.flatnonzero((green > 0.6 * level) & (blue >= 4) & (both < 110))
    if len(body) < 100:
        return _USUAL._replace(level=level)
    red, green, blue, both = red[body], green[body], blue[body], both[body]
    shares = np.bincount(10 * both // blue, minlength=80)[5:80]  # in steps of 0.1 from 0.5 to 8
    per_blue = (int(np.argmax(np.convolve(shares, np.ones(5), mode="same"))) + 5.5) / 10
    per_blue = min(per_blue, _MOST_RED_GREEN_PER_BLUE)
    alike = np.flatnonzero(np.abs(both - np.float32(per_blue) * blue) < np.float32(0.25) * both)
    green_per_red = _median(green[alike] / np.maximum(red[alike], 1)) if len(alike) > 50 else 1.5
    if blue_clipped and len(alike) > 50:
        per_blue, beyond = _line(both, blue, per_blue, _median(blue[alike]))
        return RedCellColour(level, per_blue, green_per_red, beyond)
    return RedCellColour(level, per_blue, green_per_red)


def _grown(mask: NDArray[Any], size: int) -> NDArray[Any]:
    """A mask (h, w) bool, grown by half a square of so many pixels."""
    return np.asarray(cv2.dilate(mask.view(np.uint8), np.ones((size, size), np.uint8)).view(bool))


def _are_enough(pixels: int, um: float) -> bool:
    """Whether so many pixels can tell a colour, and hold half a red cell."""
    return pixels >= 50 and pixels * um**2 >= _LEAST_RED_UM2


def _least_azure(pixels: NDArray[Any], um: float) -> RedCellColour:
    """Colour of the red cells of a picture that a leukocyte fills, from what absorbs and is no nucleus (n, 3).

    No cytoplasm is as poor in azure as a red cell, so that the poorest tenth is what is seen of them. How dense they
    are such slivers do not tell.
    """
    red, green, blue = pixels.astype(np.float32).T
    body = np.flatnonzero((green > 0.6 * _median(green)) & (blue >= 4)) if len(green) else np.empty(0, int)
    if not _are_enough(len(body), um):
        return _USUAL
    red, green, blue = red[body], green[body], blue[body]
    per_blue = (red + green) / blue
    least = float(np.partition(per_blue, len(body) // 10)[len(body) // 10])
    alike = per_blue < 1.15 * least
    green_per_red = _median(green[alike] / np.maximum(red[alike], 1))
    return RedCellColour(_USUAL.level, min(least, _MOST_RED_GREEN_PER_BLUE), green_per_red)


def _nuclei(density: NDArray[Any], absorbs: NDArray[Any], um: float) -> NDArray[Any]:
    """Which pixels (h, w) lie in a nucleus, bool.

    Nuclei absorb several times as much red light as anything else, red cells that overlap twice as much as single ones.
    Where it is more than one nucleus or two, of what they absorb more is red and less blue, too: dark red cells are
    told from bare ground by depth, as nuclei are from all else.
    """
    red = density[..., 0]
    values = red[absorbs]
    none = np.zeros(red.shape, bool)
    if len(values) < 50:
        return none
    level = cv2.threshold(values, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
    dark = values > level
    if not 0 < np.count_nonzero(dark) < len(values):
        return none
    if values[dark].mean() < max(_NUCLEAR_OD * DENSITY_UNIT, _NUCLEAR_CONTRAST * values[~dark].mean()):
        return none
    if np.count_nonzero(dark) * um**2 > _TWO_NUCLEI_UM2:
        blue = density[..., 2][absorbs]
        per_blue, usual = (values[part].mean() / max(float(blue[part].mean()), 0.5) for part in (dark, ~dark))
        if per_blue < _NUCLEAR_HUE * usual:
            return none
    return np.asarray(red > level)


_NUCLEAR_OD = 0.08
"""Red density of nuclei at least: they have 0.09 (BCCD) to 0.55 (PBC), single red cells 0.02 to 0.08."""

_NUCLEAR_CONTRAST = 2.5
"""Red density of nuclei over that of all else: 3 to 12 in fields of BCCD, PBC and ALL-IDB1."""

_NUCLEAR_HUE = 1.18
"""Red over blue density of nuclei over that of all else: 1.65 and more in the three sets, 1.2 to 1.5 where alkaline
buffers leave red cells blue, 1.0 to 1.3 where dark red cells pass for nuclei (fields stained otherwise by numbers)."""

_TWO_NUCLEI_UM2 = 300.0
"""Two large nuclei: of a monocyte and of a blast."""

_CYTOPLASM_UM = 4.0
"""A cytoplasm is seldom wider; what is left of it are few pixels."""

_FEW_RED_CELLS = 0.4
"""Share of what absorbs that lies away from nuclei, below which the rest is left out: few fields have less, pictures of
one leukocyte have. Between 0.2 and 0.4, VALIDATION.md's figures for those move by a hundredth."""

_LEAST_RED_UM2 = 20.0
"""Half a red cell."""


def _line(both: NDArray[Any], blue: NDArray[Any], per_blue: float, middle: float) -> tuple[float, float]:
    """Slope and offset of red and green over blue density through the medians at each blue; no offset below 0.

    Where blue is not clipped the ratio is the better measure: noise alone tilts the line.
    """
    levels, count = np.unique(blue, return_counts=True)
    chosen = (count > 0.005 * len(blue)) & (levels >= 0.5 * middle) & (levels <= 1.6 * middle)
    levels, count = levels[chosen], count[chosen]
    if len(levels) < 4:
        return per_blue, 0.0
    medians = np.array([np.median(both[blue == level]) for level in levels])
    slope, offset = np.polyfit(levels, medians, 1, w=np.sqrt(count)).tolist()
    return (slope, offset) if slope > 0 and offset > 0 else (per_blue, 0.0)


_MOST_RED_GREEN_PER_BLUE = 4.0
"""Haemoglobin absorbs blue: fields of BCCD, ALL-IDB1 and PBC have 1.15 to 3.25, 4.2 where a stain is a third richer in
azure. More is what leukocytes have, where a field shows little else."""

_USUAL = RedCellColour(18.0, 2.3, 1.8)
"""Medians over PBC and BCCD."""


def stain_densities(density: NDArray[Any], colour: RedCellColour) -> tuple[NDArray[Any], NDArray[Any]]:
    """Azure density, in red and green, and eosin density, in green: what red cells would not have.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
    colour : RedCellColour

    Returns
    -------
    azure : (h, w) uint8 array
        Beyond what red cells of that blue density have in red and green.
    eosin : (h, w) uint8 array
        Beyond what red cells of that red density have in green.
    """
    # a red channel that is clipped holds nothing of pale stain, so that green counts for both (as 1 to 0.7)
    gain = 1.0 if colour.red_tells else 1.7
    # the third row only fills up: three by three is the size that OpenCV does several times faster
    weights = [[1.0, gain, -gain * colour.red_green_per_blue], [-colour.green_per_red, 1.0, 0.0], [0.0, 0.0, 0.0]]
    azure, eosin, _ = cv2.split(cv2.transform(density, np.array(weights)))
    if colour.red_green_without_blue:
        azure = cv2.subtract(azure, np.full_like(azure, round(gain * colour.red_green_without_blue)))
    if not colour.red_tells:  # nor does it tell eosin, but for what is denser than any single red cell
        eosin = cv2.LUT(
            cv2.extractChannel(density, 1), np.maximum(np.arange(256) - round(0.9 * colour.level), 0).astype(np.uint8)
        )
    return np.asarray(azure), np.asarray(eosin)


def is_colourless(density: NDArray[Any]) -> bool:
    """Whether a picture is grey: no channel absorbs otherwise than another, but for rounding."""
    for part in (density[::16], density):  # a few rows show most colours
        red, green, blue = cv2.split(part)
        if max(cv2.norm(red, green, cv2.NORM_INF), cv2.norm(green, blue, cv2.NORM_INF)) > _GREY_PLAY:
            return False
    return True


_GREY_PLAY = 2  # levels; the white of a grey picture is the same in all channels but for rounding


def density_beyond_red_cells(density: NDArray[Any], colour: RedCellColour) -> NDArray[Any]:
    """Azure density's substitute in a grey picture, where depth is all that tells a nucleus; (h, w) uint8.

    What is beyond one and a half times the red cells' density counts, one and a half times: two overlapping red cells
    stay below the density of a nucleus (:class:`~cbctool.imaging.nucleated.NucleatedOptions`).
    """
    beyond = density[..., 1].astype(np.float32) - 1.5 * colour.level
    return np.asarray(np.clip(1.5 * beyond, 0, 255).astype(np.uint8))
