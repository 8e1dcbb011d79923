"""Prediction: shapes, sums, independence of batching, devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cbctool.classifier import Classifier
from cbctool.classifier.model import PaperNet, SmearNet, colour_moments, optical_density
from cbctool.classifier.predict import find_device, fold_batch_norm, softmax
from cbctool.errors import UsageError


def _crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(device="cpu")


def test_probabilities_sum_to_one(classifier: Classifier) -> None:
    scores = classifier.classify(_crops(70))
    assert scores.probabilities.shape == (70, 8)
    assert scores.probabilities.dtype == np.float32
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, atol=1e-6)
    assert scores.unknown.shape == (70,)
    assert np.isfinite(scores.unknown).all()


def test_no_crops_give_no_scores(classifier: Classifier) -> None:
    scores = classifier.classify(_crops(0))
    assert scores.probabilities.shape == (0, 8)
    assert scores.unknown.shape == (0,)


def test_company_does_not_move_a_cell(classifier: Classifier) -> None:
    crops = _crops(130)
    together = classifier.classify(crops)
    alone = classifier.classify(crops[101:102])
    np.testing.assert_array_equal(alone.probabilities[0], together.probabilities[101])
    np.testing.assert_array_equal(alone.unknown[0], together.unknown[101])


def test_batch_size_does_not_move_the_fourth_decimal(classifier: Classifier) -> None:
    crops = _crops(20)
    other = Classifier(device="cpu", batch_size=7).classify(crops)
    np.testing.assert_allclose(classifier.classify(crops).probabilities, other.probabilities, atol=2e-5)


@pytest.mark.parametrize("crops", [np.zeros((2, 28, 28), np.uint8), np.zeros((2, 28, 28, 3), np.float32)])
def test_other_arrays_are_a_mistake(classifier: Classifier, crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        classifier.classify(crops)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x", ""])
def test_an_unknown_device_is_a_sentence(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_device(device)
    assert "auto" in caught.value.advice


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(UsageError):
        Classifier(device="cpu", batch_size=0)


@pytest.mark.parametrize("network", [PaperNet((4, 4, 4, 4, 4), 8), SmearNet((8, 8), (1, 1))])
def test_folding_batch_norm_changes_nothing(network: torch.nn.Module) -> None:
    torch.manual_seed(0)
    crops = torch.from_numpy(_crops(16))
    network.train()
    network(crops)  # moves the running statistics away from their start
    network.eval()
    with torch.inference_mode():
        expected, got = network(crops), fold_batch_norm(network)(crops)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_how_strong_the_stain_is_is_taken_out_and_told() -> None:
    density = optical_density(torch.from_numpy(_crops(3)).float())
    (colours, strength), (weak_colours, weak_strength) = colour_moments(density), colour_moments(0.5 * density)
    torch.testing.assert_close(0.5 * density / weak_strength, density / strength)
    torch.testing.assert_close(weak_colours, colours + np.log(0.5))


def test_the_gate_chooses_the_readout() -> None:
    network = SmearNet(widths=(8, 8), blocks=(0, 0)).eval()
    crops = torch.from_numpy(_crops(3))
    for bias, index in ((50.0, 1), (-50.0, 2)):
        torch.nn.init.constant_(network.gate[-1].bias, bias)
        read = network.readouts(crops)[index]
        logits, unlike = network(crops)
        torch.testing.assert_close(logits, read[:, :8])
        torch.testing.assert_close(unlike, read[:, 8])


def test_white_is_no_density() -> None:
    assert optical_density(torch.tensor([255.0, 0.0])).tolist() == pytest.approx([0.0, np.log(256)])


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 0.0], [0.0, 0.0]])), [[1, 0], [0.5, 0.5]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees_with_the_cpu(classifier: Classifier) -> None:
    crops = _crops(5000)
    one, two = classifier.classify(crops), Classifier(device="cuda").classify(crops)
    assert np.abs(one.probabilities - two.probabilities).max() < 1e-2
    assert (one.probabilities.argmax(1) == two.probabilities.argmax(1)).mean() > 0.999


@pytest.mark.real
def test_shipped_weights_know_most_of_val(data: Path, classifier: Classifier) -> None:
    with np.load(data / "bloodmnist" / "bloodmnist.npz") as file:
        crops, labels = file["val_images"][:600], file["val_labels"][:600, 0]
    assert (classifier.classify(crops).probabilities.argmax(axis=1) == labels).mean() > 0.85


def test_class_frequencies_elsewhere() -> None:
    """Bayes: odds of the foreign readout move by the ratio of frequencies; own readout and unknown logit stay."""
    network = SmearNet(widths=(8, 8), blocks=(0, 0)).eval()
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8))
    trained = torch.tensor([1.0, 3, 1, 3, 1, 1, 3, 2])
    expected = torch.tensor([1.0, 3, 1, 1, 5, 1, 3, 2])
    with torch.inference_mode():
        _, own, foreign = network.readouts(crops)
        network.expect_elsewhere(trained, expected)
        _, own_after, moved = network.readouts(crops)
    odds = (moved - foreign)[:, :-1].exp()
    torch.testing.assert_close(odds / odds[:, :1], (expected / trained).expand(4, 8), rtol=1e-4, atol=0)
    torch.testing.assert_close(moved[:, -1], foreign[:, -1])
    torch.testing.assert_close(own_after, own)
