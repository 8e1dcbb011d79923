"""Red cells: found by the circle that their edges vote for, outlined by the best closed path around it.

Red cells touch, overlap and lie in piles, so that no threshold parts them; but each is a disc of known size, and where
two overlap both outlines are seen. Every edge pixel votes for the centres that lie a red-cell radius up its density
gradient (gradient-directed circle Hough transform; Kimme, Ballard & Sklansky 1975). Around each peak of votes the
outline is the closed path, one radius per ray, with the largest total drop of density outwards, by dynamic programming
(star-convex outlines: cf. Schmidt et al. 2018). Candidates that claim the same cell are settled by
the share of their outline that shows an edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cbctool.imaging.split import connected_parts, disk, fill_holes
from cbctool.records import RED_CELL_UM

_STEP_COST = np.float32(0.02)


@dataclass(frozen=True)
class RedCellOptions:
    """How red cells are told and taken apart.

    Drops of density are in units of the field's red-cell density. What is a length follows from a red cell of 7.5 um,
    6 to 9 um across on a smear. The other values were chosen together, among about 40 settings scored on 50
    re-annotated fields of BCCD and 50 of PBC with both in view: figures of these two sets are not independent of them.
    On 45 frames of PBC drawn at random, moving any of them by a quarter changes F1 at IoU 0.5 by less than 0.006, but
    for ``min_depth``, which is geometry.

    Attributes
    ----------
    min_um2 : float
        Smaller bodies are not counted.
    hole_um2 : float
        Holes up to this size are central pallor: 5.6 um across, three quarters of a cell.
    pallor_um, ring : float
        Where edges vote for a centre on bare ground, the pallor of a cell whose ring is open, or too wide to be filled,
        is filled to this radius if more than this share of the ground twice as far around it absorbs.
    vote_um_per_px : float
        Scale of the votes: a cell's radius is 7.5 px.
    vote_um : tuple of float
        Radii that edges vote for, around 3.75.
    edge_share : float
        Edges steeper than this per vote pixel vote.
    peak_um : float
        Centres are at least this far apart.
    min_votes : float
        Share of an ideal disc's votes that makes a candidate.
    ray_um : tuple of float
        Radii that outlines may take.
    rays : int
        Points of an outline.
    size_pull, size_play_um : float
        Loss per um that a radius differs from 3.75 um by more than the play: where no edge shows, the usual size.
    strongest_edge : float
        Steeper drops count no more than this, so that the pile's dark rim does not outbid a cell's own outline.
    edge_of_field : float
        Gain of a ray that leaves the field, between no edge and a good one.
    visible_edge : float
        Drop that supports an outline.
    min_support : float
        Share of the outline that must show such a drop.
    same_cell : float
        Two boxes that share more than this of the smaller are one cell.
    own : float
        Share of a cell that no better supported one covers.
    min_depth : float
        Depth over width from which a cell at the edge has its centre in the field: 0.5 for a disc, less the outline's
        own error.
    """

    min_um2: float = 8.0
    hole_um2: float = 25.0
    pallor_um: float = 2.5
    ring: float = 0.2
    vote_um_per_px: float = 0.5
    vote_um: tuple[float, float] = (2.8, 3.8)
    edge_share: float = 0.12
    peak_um: float = 1.5
    min_votes: float = 0.5
    ray_um: tuple[float, float] = (1.5, 6.0)
    rays: int = 32
    size_pull: float = 0.3
    size_play_um: float = 0.75
    strongest_edge: float = 0.7
    edge_of_field: float = 0.15
    visible_edge: float = 0.12
    min_support: float = 0.55
    same_cell: float = 0.65
    own: float = 0.4
    min_depth: float = 0.48


def find_red_cells(
    density: NDArray[Any],
    foreground: NDArray[Any],
    cell_labels: NDArray[Any],
    red_level: float,
    um: float,
    options: RedCellOptions,
) -> NDArray[Any]:
    """Outline the red cells of a field.

    Parameters
    ----------
    density : (h, w, 3) uint8 array
        Optical density.
    foreground : (h, w) uint8 array
        1 where anything absorbs.
    cell_labels : (h, w) array
        Non-zero in nucleated cells and artefacts.
    red_level : float
        Green density of the red cells, levels.
    um : float
        Micrometres per pixel.
    options : RedCellOptions

    Returns
    -------
    (N, rays, 2) float32 array
        Row and column of each outline's points, going round.
    """
    free = foreground * (cell_labels == 0).astype(np.uint8)
    mask: NDArray[Any] = cv2.morphologyEx(fill_holes(free, options.hole_um2 / um**2), cv2.MORPH_OPEN, disk(0.5 / um))
    # green and blue: haemoglobin absorbs both, platelets and stain hardly blue
    _, green, blue = cv2.split(density)
    absorbance = np.asarray(cv2.addWeighted(green, 0.5, blue, 0.5, 0)) * mask
    seeds = _seeds(absorbance, mask, red_level, um, options)
    if len(seeds) == 0:
        return np.zeros((0, options.rays, 2), np.float32)
    radii, support = _outlines(absorbance, mask, seeds, red_level, um, options)
    kept = _settle(seeds, radii, support, um, options)
    outlines = seeds[kept, np.newaxis] + radii[kept, :, np.newaxis] / um * _directions(options.rays)
    whole = _centre_in_field(outlines, mask.shape, options.min_depth)
    return np.asarray(outlines[whole], dtype=np.float32)


def _seeds(
    absorbance: NDArray[Any], mask: NDArray[Any], red_level: float, um: float, options: RedCellOptions
) -> NDArray[Any]:
    """Centres (n, 2) that the edges vote for, and one per body that has none; open pallor is filled in ``mask``."""
    zoom = um / options.vote_um_per_px
    height, width = max(1, round(mask.shape[0] * zoom)), max(1, round(mask.shape[1] * zoom))
    small = cv2.resize(absorbance, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    dx = cv2.Sobel(small, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(small, cv2.CV_32F, 0, 1, scale=1 / 8)
    steep = cv2.magnitude(dx, dy)
    place = np.flatnonzero(steep > options.edge_share * red_level)
    rows, cols = np.divmod(place, width)
    slope = np.take(steep, place)
    weight = np.minimum(slope / (0.3 * red_level), 1.0)
    low, high = (radius / options.vote_um_per_px for radius in options.vote_um)
    reach = np.arange(low, high + 0.5, 1.0)
    to_row = np.rint(rows + reach[:, np.newaxis] * (dy[rows, cols] / slope)).astype(np.int64)
    to_col = np.rint(cols + reach[:, np.newaxis] * (dx[rows, cols] / slope)).astype(np.int64)
    inside = (to_row >= 0) & (to_row < height) & (to_col >= 0) & (to_col < width)
    weights = np.broadcast_to(weight, to_row.shape)[inside]
    votes: NDArray[Any] = np.bincount(to_row[inside] * width + to_col[inside], weights, height * width)
    votes = cv2.GaussianBlur(votes.reshape(height, width).astype(np.float32), (0, 0), 1.5)
    # an ideal disc: its whole perimeter, edges about two pixels wide, spread over the blur
    ideal = 2 * np.pi * 0.5 * (low + high) * 2 / (2 * np.pi * (1.5**2 + 0.6))
    size = 2 * max(1, round(options.peak_um / options.vote_um_per_px / 2)) + 1
    peaks = (votes == cv2.dilate(votes, np.ones((size, size), np.uint8))) & (votes > options.min_votes * ideal)
    found = (np.argwhere(peaks) + 0.5) / zoom - 0.5

    # bodies without a vote: cut by the edge, or of another shape
    labels, area = connected_parts(mask)
    has_seed = np.zeros(len(area), bool)
    if len(found):
        place = np.clip(np.rint(found).astype(int), 0, np.array(mask.shape) - 1)
        pallor = round(options.pallor_um / um)
        kept = np.ones(len(found), bool)
        for index in np.flatnonzero(mask[place[:, 0], place[:, 1]] == 0):
            row, col = place[index].tolist()
            window = mask[
                max(row - 2 * pallor, 0) : row + 2 * pallor + 1, max(col - 2 * pallor, 0) : col + 2 * pallor + 1
            ]
            kept[index] = window.mean() > options.ring
            if kept[index]:
                cv2.circle(mask, (col, row), pallor, (1,), -1)
        has_seed[labels[place[:, 0], place[:, 1]]] = True
        found = found[kept]
    has_seed[0] = True
    alone = ~has_seed & (area * um**2 >= options.min_um2)
    place = np.flatnonzero(mask)
    place = place[alone[labels.ravel()[place]]]
    number = np.cumsum(alone)[labels.ravel()[place]] - 1
    count = np.count_nonzero(alone)
    middles = [np.bincount(number, line, count) / area[alone] for line in np.divmod(place, mask.shape[1])]
    return np.concatenate([found.reshape(-1, 2), np.stack(middles, axis=1)])


def _outlines(
    absorbance: NDArray[Any],
    mask: NDArray[Any],
    seeds: NDArray[Any],
    red_level: float,
    um: float,
    options: RedCellOptions,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Best closed outline around each seed: radii (n, rays), um, and the share of it that shows an edge (n,)."""
    radius = np.arange(options.ray_um[0], options.ray_um[1] + 1e-6, um)
    reach = np.concatenate([[radius[0] - um], radius, [radius[-1] + um]]) / um
    direction = _directions(options.rays)
    offset = (reach[:, np.newaxis] * direction[:, np.newaxis]).astype(np.float32)  # (rays, r, 2)
    # One gather for everything: 0 is background, 255 beyond the field, in between the cells' own density.
    margin = int(np.ceil(reach[-1])) + 1
    framed = cv2.copyMakeBorder(
        np.minimum(np.maximum(absorbance, mask), 254), margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=255
    )
    start = (seeds + margin + 0.5).astype(np.float32)[:, np.newaxis, np.newaxis]
    row = (start[..., 0] + offset[..., 0]).astype(np.int32)  # all positive: the fraction is cut off, not rounded
    col = (start[..., 1] + offset[..., 1]).astype(np.int32)
    level = framed.ravel()[row * np.int32(framed.shape[1]) + col]
    beyond, empty = level == 255, level == 0
    density = np.where(beyond, np.uint8(0), level).astype(np.float32)
    # drop of density outwards across each radius
    drop = (density[..., :-2] - density[..., 2:]) / np.float32(red_level)
    # once the ray has left the foreground, there is no cell any more
    left = np.cumsum(empty[..., 1:-1], axis=-1, dtype=np.int8) > 1
    # at the border of the field there is no edge to see: neither for nor against
    cut = beyond[..., 1:-1]
    gain = np.where(cut, np.float32(options.edge_of_field), np.clip(drop, -0.5, options.strongest_edge))
    pull = options.size_pull * np.clip(np.abs(radius - RED_CELL_UM / 2) - options.size_play_um, 0, None)
    gain -= pull.astype(np.float32)
    gain[left & ~cut] -= 2.0
    path = _closed_paths(gain)
    chosen = np.take_along_axis(np.where(cut, np.nan, drop), path[..., np.newaxis], -1)[..., 0]
    visible = ~np.isnan(chosen)
    edges = (chosen > options.visible_edge) & visible
    support = edges.sum(axis=1) / np.maximum(visible.sum(axis=1), 1)
    support = np.where(visible.sum(axis=1) < options.rays / 4, 0.0, support)
    radii = radius[path]
    return radii, support


def _centre_in_field(outlines: NDArray[Any], shape: tuple[int, ...], min_depth: float) -> NDArray[Any]:
    """Which outlines (n,) reach so deep into the field that the centre of the whole cell lies in it.

    Counting the cells whose centre is in the field is the unbiased rule (associated point rule; Miles 1978).
    """
    clipped = np.clip(outlines, 0, np.array(shape) - 1)
    extent = clipped.max(axis=1) - clipped.min(axis=1)  # (n, 2)
    cut = (outlines.min(axis=1) < 0.5) | (outlines.max(axis=1) > np.array(shape) - 1.5)
    other = extent[:, ::-1]
    return np.asarray(~(cut & (extent < min_depth * other)).any(axis=1))


def _closed_paths(gain: NDArray[Any]) -> NDArray[Any]:
    """Path of largest gain round each (n, rays, r) array, one step of radius per ray at most; (n, rays) indices.

    Viterbi's algorithm run twice round, so that the end meets the beginning.
    """
    count, rays, steps = gain.shape
    total = np.full((count, steps + 2), -1e9, np.float32)  # framed by impossible radii
    total[:, 1:-1] = 0
    back = np.empty((2 * rays, count, steps), np.int8)
    for turn in range(2 * rays):
        shorter, longer = total[:, :-2] - _STEP_COST, total[:, 2:] - _STEP_COST
        best = np.maximum(np.maximum(shorter, longer), total[:, 1:-1])
        back[turn] = (longer == best).astype(np.int8) - (shorter == best)
        back[turn][total[:, 1:-1] == best] = 0
        total[:, 1:-1] = best + gain[:, turn % rays]
    path = np.empty((count, rays), np.int64)
    here = total[:, 1:-1].argmax(axis=1)
    everyone = np.arange(count)
    for turn in range(2 * rays - 1, rays // 2 - 1, -1):
        if turn < rays + rays // 2:
            path[:, turn % rays] = here
        here = np.clip(here + back[turn, everyone, here], 0, steps - 1)
    return path


def _settle(
    seeds: NDArray[Any], radii: NDArray[Any], support: NDArray[Any], um: float, options: RedCellOptions
) -> NDArray[Any]:
    """Indices of the candidates kept: best supported first, none that shares too much of its box with a better one."""
    direction = _directions(options.rays)
    points = seeds[:, np.newaxis] * um + radii[..., np.newaxis] * direction
    low, high = points.min(axis=1), points.max(axis=1)
    area = (high - low).prod(axis=1)
    polygon = 0.5 * np.sin(2 * np.pi / options.rays) * (radii * np.roll(radii, 1, axis=1)).sum(axis=1)
    order = np.argsort(-support, kind="stable")
    order = order[(support[order] >= options.min_support) & (polygon[order] >= options.min_um2)]
    # only what lies within two outlines' reach can meet
    pairs = cKDTree(seeds * um).query_pairs(2 * float(radii.max()), p=np.inf, output_type="ndarray")
    first, second = pairs[np.isin(pairs, order).all(axis=1)].T
    overlap = np.minimum(high[first], high[second]) - np.maximum(low[first], low[second])
    shared = np.clip(overlap, 0, None).prod(axis=1)
    crowded = np.zeros(len(seeds), bool)
    crowded[first[shared > 0]] = crowded[second[shared > 0]] = True
    rivals: dict[int, list[int]] = {}
    alike = shared > options.same_cell * np.minimum(area[first], area[second])
    for one, other in zip(first[alike].tolist(), second[alike].tolist(), strict=True):
        rivals.setdefault(one, []).append(other)
        rivals.setdefault(other, []).append(one)
    corners = np.rint(points[..., ::-1] / options.vote_um_per_px).astype(np.int32)
    boxes = np.concatenate([np.maximum(corners.min(axis=1), 0), corners.max(axis=1) + 1], axis=1).tolist()
    taken = np.zeros(np.maximum(corners.max(axis=(0, 1))[::-1] + 1, 1), np.uint8)
    blocked = np.zeros(len(seeds), bool)
    kept: list[int] = []
    for candidate in order.tolist():
        if blocked[candidate]:
            continue
        if crowded[candidate]:
            x0, y0, x1, y1 = boxes[candidate]
            window = taken[y0:y1, x0:x1]
            body = cv2.fillPoly(np.zeros(window.shape, np.uint8), [corners[candidate]], 1, offset=(-x0, -y0))
            if body.size == 0 or cv2.countNonZero(cv2.subtract(body, window)) < options.own * cv2.countNonZero(body):
                continue
            window |= body
        if candidate in rivals:
            blocked[rivals[candidate]] = True
        kept.append(candidate)
    return np.array(sorted(kept), dtype=np.int64)


def _directions(rays: int) -> NDArray[Any]:
    """Unit vectors (rays, 2), row and column, going round."""
    angles = 2 * np.pi * np.arange(rays) / rays
    return np.stack([np.sin(angles), np.cos(angles)], axis=1)
