"""The unknown-score by hand."""

from __future__ import annotations

import numpy as np

from cbctool.classifier.unknown import unknown_score


def test_it_is_the_log_odds_of_none_against_all_classes() -> None:
    logits = np.zeros((1, 8))
    np.testing.assert_allclose(unknown_score(logits, np.array([np.log(8.0)])), [0.0], atol=1e-6)


def test_a_clear_class_is_less_unknown_and_a_clear_stranger_more() -> None:
    flat, clear = np.zeros((1, 8)), np.array([[9.0, 0, 0, 0, 0, 0, 0, 0]])
    none = np.array([0.0])
    assert unknown_score(clear, none) < unknown_score(flat, none) < unknown_score(flat, none + 2)


def test_no_cells_have_no_score() -> None:
    assert unknown_score(np.zeros((0, 8)), np.zeros(0)).shape == (0,)
