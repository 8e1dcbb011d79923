"""Figures and thresholds on tables small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbctool.classifier import metrics


def _sure(calls: list[int], confidence: float = 0.9) -> np.ndarray:
    table = np.full((len(calls), 8), (1 - confidence) / 7)
    table[np.arange(len(calls)), calls] = confidence
    return table


def test_figures_of_four_cells() -> None:
    labels = np.array([0, 0, 6, 6])
    figures = metrics.evaluate(_sure([0, 6, 6, 6]), labels, np.array([True, False, True, True]))
    assert figures["accuracy"] == 0.75
    assert figures["balanced_accuracy"] == 0.75
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert figures["coverage"] == 0.75
    assert figures["selective_accuracy"] == 1.0
    assert figures["confusion"][0][6] == 1
    assert figures["nll"] == pytest.approx(-(3 * np.log(0.9) + np.log(0.1 / 7)) / 4)
    assert set(figures["per_class"]) == {"basophil", "neutrophil"}


def test_calibration_error_is_the_gap() -> None:
    assert metrics.expected_calibration_error(np.full(30, 0.8), np.arange(30) % 2 == 0) == pytest.approx(0.3, abs=0.21)
    assert metrics.expected_calibration_error(np.ones(10), np.ones(10, bool)) == 0


def test_a_perfect_calibration_is_within_chance() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 3000)
    right = rng.random(3000) < confidence
    limit = metrics.chance_calibration_error(confidence)
    assert metrics.expected_calibration_error(confidence, right) < 1.3 * limit
    assert metrics.expected_calibration_error(confidence, right & (rng.random(3000) < 0.8)) > limit


@given(st.floats(0.5, 3.0))
def test_temperature_is_found_again(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 8))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) > rng.random((4000, 1))).argmax(1)
    assert metrics.fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.08)


def test_abstention_keeps_the_wanted_share() -> None:
    confidence = np.linspace(0, 1, 1000)
    threshold = metrics.fit_abstention(confidence, np.ones(1000, bool), 0.95)
    assert (confidence >= threshold).mean() == pytest.approx(0.95)
    known = confidence < 0.99  # the strange ones count as abstained already
    threshold = metrics.fit_abstention(confidence, known, 0.95)
    assert ((confidence >= threshold) & known).mean() == pytest.approx(0.95)


def test_calls_are_withheld_until_few_enough_are_wrong() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    right = np.array([True, True, True, False, True, False])
    everything = np.ones(6, bool)
    # one mistake more than seen: 1/2, 1/3, 1/4, 2/5, 2/6, 3/7 wrong from each cell up
    assert metrics.fit_trust(confidence, right, everything, 0.25) == 0.7
    assert metrics.fit_trust(confidence, right, everything, 0.34) == 0.5
    assert metrics.fit_trust(confidence, right, everything, 0.1) == 0.9, "too few to show it: as the probability says"
    assert metrics.fit_trust(confidence, right, confidence < 0.85, 0.34) == 0.7, "the strange one gets no call anyway"
    assert metrics.fit_trust(np.empty(0), np.empty(0, bool), np.empty(0, bool), 0.05) == 0.95


def test_cells_as_sure_as_each_other_are_called_together() -> None:
    confidence = np.array([0.9] * 20 + [0.8] * 4)
    right = np.array([True] * 22 + [False] * 2)
    assert metrics.fit_trust(confidence, right, np.ones(24, bool)) == 0.9


def test_no_cells_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no cells"):
        metrics.evaluate(np.zeros((0, 8)), np.zeros(0, int), np.zeros(0, bool))
