"""Red cells: found by the circle that their edges vote for, outlined by the best closed path around it.

Red cells touch, overlap and lie in piles, so that no threshold parts them; but each is a disc of known size, and where
two overlap both outlines are seen. Every edge pixel votes for the centres that lie a red-cell radius up its density
gradient (gradient-directed circle Hough transform; Kimme, Ballard & Sklansky 1975). Around each peak of votes the
outline is the closed path, one radius per ray, with the largest total drop of density outwards, by dynamic programming
(star-convex outlines: cf. Schmidt et al. 2018). Candidates that claim the same cell are settled by
the share of their outline that shows an edge.
"""

from __future__ import annotations

import math
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
    min_alone_um2 : float
        Nor are bodies smaller than this, 4.1 um across, for which no edges vote: of those, most are not annotated as
        red cells (PBC, BCCD annotated again).
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
    min_alone_um2: float = 13.0
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
    free = foreground & (cell_labels == 0)
    mask: NDArray[Any] = cv2.morphologyEx(fill_holes(free, options.hole_um2 / um**2), cv2.MORPH_OPEN, disk(0.5 / um))
    # green and blue: haemoglobin absorbs both, platelets and stain hardly blue
    _, green, blue = cv2.split(density)
    absorbance = np.asarray(cv2.multiply(cv2.addWeighted(green, 0.5, blue, 0.5, 0), mask))
    seeds = _seeds(absorbance, mask, red_level, um, options)
    if len(seeds) == 0:
        return np.zeros((0, options.rays, 2), np.float32)
    radii, support = _outlines(absorbance, mask, seeds, red_level, um, options)
    kept = _settle(seeds, radii, support, um, options)
    outlines = _points(seeds[kept], radii[:, kept] / np.float32(um))
    whole = _centre_in_field(outlines, mask.shape, options.min_depth)
    return np.ascontiguousarray(outlines[..., whole].T)


def _seeds(
    absorbance: NDArray[Any], mask: NDArray[Any], red_level: float, um: float, options: RedCellOptions
) -> NDArray[Any]:
    """Centres (n, 2) that the edges vote for, and one per body that has none; open pallor is filled in ``mask``.

    All lie where four pixels meet, so that the same pixels lie around each.
    """
    zoom = um / options.vote_um_per_px
    height, width = max(1, round(mask.shape[0] * zoom)), max(1, round(mask.shape[1] * zoom))
    whole = absorbance
    if abs(zoom - 0.5) < 1e-3:  # an odd last row or column would make the mean of 2 x 2 pixels ten times as slow
        height, width = max(1, mask.shape[0] // 2), max(1, mask.shape[1] // 2)
        whole = absorbance[: 2 * height, : 2 * width]
    votes = _votes(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), red_level, options)
    low, high = (radius / options.vote_um_per_px for radius in options.vote_um)
    # an ideal disc: its whole perimeter, edges about two pixels wide, spread over the blur
    ideal = 2 * np.pi * 0.5 * (low + high) * 2 / (2 * np.pi * (1.5**2 + 0.6))
    size = 2 * max(1, round(options.peak_um / options.vote_um_per_px / 2)) + 1
    highest = cv2.dilate(np.maximum(votes, np.float32(options.min_votes * ideal)), np.ones((size, size), np.uint8))
    found = np.stack(np.divmod(np.flatnonzero(votes == highest), width), axis=1)

    # bodies without a vote: cut by the edge, or of another shape
    labels, area = connected_parts(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), connectivity=8)
    alone = area * options.vote_um_per_px**2 >= options.min_alone_um2
    alone[labels[found[:, 0], found[:, 1]]] = False
    alone[0] = False
    place = np.flatnonzero(np.take(alone, labels))
    number = np.cumsum(alone)[labels.ravel()[place]] - 1
    middles = [np.bincount(number, line, np.count_nonzero(alone)) / area[alone] for line in np.divmod(place, width)]

    found = np.floor((found + 0.5) / zoom)
    rows, cols = np.minimum(found.astype(int), np.array(mask.shape) - 1).T
    pallor = round(options.pallor_um / um)
    kept = np.ones(len(found), bool)
    for index in np.flatnonzero(mask[rows, cols] == 0).tolist():
        row, col = int(rows[index]), int(cols[index])
        window = mask[max(row - 2 * pallor, 0) : row + 2 * pallor + 1, max(col - 2 * pallor, 0) : col + 2 * pallor + 1]
        kept[index] = window.mean() > options.ring
        if kept[index]:
            cv2.circle(mask, (col, row), pallor, (1,), -1)
    centres = np.concatenate([found[kept], np.floor((np.stack(middles, axis=1) + 0.5) / zoom)])
    return np.asarray(np.minimum(centres, np.array(mask.shape) - 1) - 0.5)


def _votes(small: NDArray[Any], red_level: float, options: RedCellOptions) -> NDArray[Any]:
    """Votes of edges for the centres of red cells, (h, w) float32, from absorbance (h, w) uint8 at the votes' scale."""
    height, width = small.shape
    dx = cv2.Sobel(small, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(small, cv2.CV_32F, 0, 1, scale=1 / 8)
    steep = cv2.magnitude(dx, dy)
    place = np.flatnonzero(steep > options.edge_share * red_level)
    slope = np.take(steep, place)
    weight = np.minimum(slope / np.float32(0.3 * red_level), np.float32(1.0))
    right, down = np.take(dx, place) / slope, np.take(dy, place) / slope
    low, high = (radius / options.vote_um_per_px for radius in options.vote_um)
    reach = np.arange(low, high + 0.5, 1.0, dtype=np.float32)
    margin = math.ceil(reach[-1]) + 1  # a frame for the votes that leave the picture
    wide = width + 2 * margin
    rows, cols = np.divmod(place, width)
    start = (rows + margin) * wide + cols + margin
    to = [start + np.rint(r * down).astype(np.int64) * wide + np.rint(r * right).astype(np.int64) for r in reach]
    weights = np.broadcast_to(weight, (len(reach), len(weight))).ravel()
    votes = np.bincount(np.concatenate(to), weights, (height + 2 * margin) * wide).reshape(-1, wide)
    inside = votes[margin:-margin, margin:-margin].astype(np.float32)
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), 1.5))


def _outlines(
    absorbance: NDArray[Any],
    mask: NDArray[Any],
    seeds: NDArray[Any],
    red_level: float,
    um: float,
    options: RedCellOptions,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Best closed outline around each seed: radii (rays, n), um, and the share of it that shows an edge (n,)."""
    radius = np.arange(options.ray_um[0], options.ray_um[1] + 1e-6, um)
    reach = np.concatenate([[radius[0] - um], radius, [radius[-1] + um]]) / um
    # One gather for everything: 0 is background, 255 beyond the field, in between the cells' own density.
    margin = int(np.ceil(reach[-1])) + 2
    level = np.minimum(cv2.max(absorbance, mask), np.uint8(254))
    framed = cv2.copyMakeBorder(level, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=255)
    to_row, to_col = np.floor(_directions(options.rays)[..., np.newaxis] * reach).astype(np.int64) + 1
    row, col = np.floor(seeds).astype(np.int64).T + margin
    level = np.take(framed, (to_row * framed.shape[1] + to_col)[..., np.newaxis] + (row * framed.shape[1] + col))
    cut, empty = level[:, 1:-1] == 255, level[:, 1:-1] == 0  # (rays, r, n)
    level = cv2.LUT(level.reshape(options.rays, -1), _NONE_BEYOND).reshape(level.shape)
    # drop of density outwards across each radius, levels
    drop = level[:, :-2].astype(np.int16) - level[:, 2:]
    gain = np.minimum(np.maximum(drop, round(-0.5 * red_level)), round(options.strongest_edge * red_level))
    gain = gain.astype(np.float32)
    gain /= np.float32(red_level)
    # at the border of the field there is no edge to see: neither for nor against
    np.copyto(gain, np.float32(options.edge_of_field), where=cut)
    # once the ray has left the foreground, there is no cell any more
    met = np.zeros(empty[:, 0].shape, np.uint8)
    for step in range(empty.shape[1]):
        met += empty[:, step]
        gain[:, step] -= np.float32(2.0) * ((met > 1) & ~cut[:, step])
    pull = options.size_pull * np.clip(np.abs(radius - RED_CELL_UM / 2) - options.size_play_um, 0, None)
    gain -= pull.astype(np.float32)[:, np.newaxis]
    path = _closed_paths(gain)
    visible = ~np.take_along_axis(cut, path[:, np.newaxis], 1)[:, 0]
    chosen = np.take_along_axis(drop, path[:, np.newaxis], 1)[:, 0]
    edges = (chosen > options.visible_edge * red_level) & visible
    seen = visible.sum(axis=0)
    support = np.where(seen < options.rays / 4, 0.0, edges.sum(axis=0) / np.maximum(seen, 1))
    return np.take(radius.astype(np.float32), path), support


_NONE_BEYOND = np.append(np.arange(255), 0).astype(np.uint8)


def _centre_in_field(outlines: NDArray[Any], shape: tuple[int, ...], min_depth: float) -> NDArray[Any]:
    """Which outlines (2, rays, n) reach so deep into the field that the centre of the whole cell lies in it; (n,).

    Counting the cells whose centre is in the field is the unbiased rule (associated point rule; Miles 1978).
    """
    low, high, end = outlines.min(axis=1), outlines.max(axis=1), np.array(shape)[:, np.newaxis] - 1
    extent = np.minimum(high, end) - np.maximum(low, 0)  # (2, n)
    cut = (low < 0.5) | (high > end - 0.5)
    return np.asarray(~(cut & (extent < min_depth * extent[::-1])).any(axis=0))


def _closed_paths(gain: NDArray[Any]) -> NDArray[Any]:
    """Path of largest gain round each (rays, r, n) array, one step of radius per ray at most; (rays, n) indices.

    Viterbi's algorithm run once round and a quarter, so that the end meets the beginning: an eighth at either end is
    enough for what comes before it to be forgotten.
    """
    rays, steps, count = gain.shape
    lead = rays // 8
    turns = rays + 2 * lead
    total = np.full((steps + 2, count), -1e9, np.float32)  # framed by impossible radii
    shorter, here, longer = total[:-2], total[1:-1], total[2:]
    here[:] = 0
    moves, grows = np.empty((2, turns, steps, count), bool)
    for turn in range(turns):
        moved = np.maximum(shorter, longer)
        moved -= _STEP_COST
        np.greater(longer, shorter, out=grows[turn])
        np.greater(moved, here, out=moves[turn])
        np.maximum(moved, here, out=moved)
        np.add(moved, gain[turn % rays], out=here)
    step = grows.view(np.int8) * np.int8(2) - np.int8(1)
    step *= moves.view(np.int8)
    step = step.reshape(turns, -1) * np.int64(count)
    path = np.empty((rays, count), np.int64)
    at = here.argmax(axis=0) * count + np.arange(count)
    for turn in range(turns - 1, lead - 1, -1):
        if turn < rays + lead:
            path[turn % rays] = at
        at = at + step[turn].take(at)
    return path // count


def _settle(
    seeds: NDArray[Any], radii: NDArray[Any], support: NDArray[Any], um: float, options: RedCellOptions
) -> NDArray[Any]:
    """Indices of the candidates kept: best supported first, none that shares too much of its box with a better one."""
    points = _points(seeds * um, radii)  # (2, rays, n)
    low, high = points.min(axis=1), points.max(axis=1)
    area = (high - low).prod(axis=0)
    polygon = 0.5 * np.sin(2 * np.pi / options.rays) * (radii * np.roll(radii, 1, axis=0)).sum(axis=0)
    fit = np.flatnonzero((support >= options.min_support) & (polygon >= options.min_um2))
    order = fit[np.argsort(-support[fit], kind="stable")]
    # only what lies within two outlines' reach can meet
    pairs = cKDTree(seeds[fit] * um).query_pairs(2 * float(radii.max()), p=np.inf, output_type="ndarray")
    first, second = fit[pairs].T
    overlap = np.minimum(high[:, first], high[:, second]) - np.maximum(low[:, first], low[:, second])
    shared = np.maximum(overlap, 0).prod(axis=0)
    crowded = np.zeros(len(seeds), bool)
    crowded[first[shared > 0]] = crowded[second[shared > 0]] = True
    rivals: dict[int, list[int]] = {}
    alike = shared > options.same_cell * np.minimum(area[first], area[second])
    for one, other in zip(first[alike].tolist(), second[alike].tolist(), strict=True):
        rivals.setdefault(one, []).append(other)
        rivals.setdefault(other, []).append(one)
    corners = np.ascontiguousarray(np.rint(points[::-1] / np.float32(options.vote_um_per_px)).T.astype(np.int32))
    ends = np.rint(np.stack([low, high])[:, ::-1] / np.float32(options.vote_um_per_px)).astype(int)
    boxes = np.concatenate([np.maximum(ends[0], 0), ends[1] + 1]).T.tolist()
    taken = np.zeros(np.maximum(ends[1].max(axis=1)[::-1] + 1, 1), np.uint8)
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


def _points(centres: NDArray[Any], radii: NDArray[Any]) -> NDArray[Any]:
    """Row and column (2, rays, n) float32 of the points of outlines round centres (n, 2), by radii (rays, n)."""
    return np.asarray(centres.T[:, np.newaxis].astype(np.float32) + _directions(len(radii))[..., np.newaxis] * radii)


def _directions(rays: int) -> NDArray[Any]:
    """Unit vectors (2, rays) float32, row and column, going round."""
    angles = 2 * np.pi * np.arange(rays) / rays
    return np.stack([np.sin(angles), np.cos(angles)]).astype(np.float32)
