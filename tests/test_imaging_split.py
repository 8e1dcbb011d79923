"""Parts of a mask, their windows, and the holes that are filled: checked against SciPy's labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cbctool.imaging.split import connected_parts, fill_holes, part_windows

masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1))


def holes_up_to(mask, max_px):
    """What ``fill_holes`` must give, by labelling the background."""
    labels, count = ndimage.label(mask == 0)
    small = [label for label in range(1, count + 1) if (labels == label).sum() <= max_px]
    return mask | np.isin(labels, small).astype(np.uint8)


@given(masks, st.integers(0, 12))
def test_holes_up_to_a_size_are_filled_and_no_others(mask, max_px):
    np.testing.assert_array_equal(fill_holes(mask, max_px), holes_up_to(mask, max_px))


def test_islands_and_their_holes_are_no_part_of_a_hole():
    mask = np.ones((9, 9), np.uint8)
    mask[2:7, 2:7] = 0
    mask[3:6, 3:6] = 1
    mask[4, 4] = 0
    assert fill_holes(mask, 15).sum() == 81 - 16
    assert fill_holes(mask, 16).all()


def test_a_larger_hole_is_filled_where_most_of_it_is_likely():
    mask = np.zeros((12, 24), np.uint8)
    mask[2:10, 2:10] = mask[2:10, 14:22] = 1
    mask[4:8, 4:8] = mask[4:8, 16:20] = 0
    likely = np.zeros_like(mask)
    likely[4:7, 4:8] = 1  # 12 of 16 pixels
    likely[4:6, 16:20] = 1  # 8 of 16

    filled = fill_holes(mask, 5, likely, 16)

    assert filled[4:8, 4:8].all()
    assert not filled[4:8, 16:20].any()
    np.testing.assert_array_equal(fill_holes(mask, 5, likely, 15), mask)


@given(masks, st.sampled_from([4, 8]))
def test_parts_and_their_sizes_are_those_of_the_definition(mask, connectivity):
    labels, area = connected_parts(mask, connectivity)

    expected, count = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    assert len(area) == count + 1
    np.testing.assert_array_equal(area, np.bincount(labels.ravel(), minlength=count + 1))
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({label for label, _ in pairs}) == len({label for _, label in pairs})


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 3, 70_000])))
def test_windows_are_the_smallest_around_each_label(labels):
    windows = part_windows(labels)

    assert set(windows) == set(np.unique(labels).tolist()) - {0}
    for label, (rows, cols) in windows.items():
        where = np.argwhere(labels == label)
        assert (rows.start, cols.start) == tuple(where.min(axis=0))
        assert (rows.stop, cols.stop) == tuple(where.max(axis=0) + 1)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7)])
def test_an_empty_mask_has_no_parts(shape):
    labels, area = connected_parts(np.zeros(shape, np.uint8))
    assert not labels.any()
    assert area.tolist() == [shape[0] * shape[1]]
    assert part_windows(labels) == {}
