"""Training on toy cells: it learns, resumes, stops early, and draws the same twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cbctool.classifier.model import SmearNet
from cbctool.classifier.muon import Muon, orthogonal
from cbctool.classifier.train import CHECKPOINT, Pictures, TrainOptions, _read, fit, outputs

TINY = TrainOptions(
    arguments={"widths": (8, 8), "blocks": (0, 0)},
    epochs=3,
    batch=16,
    learning_rate=0.05,
    average=0.5,
    outliers=4,
    augment=None,
    device="cpu",
)


def _toy(count: int, side: int = 28, seed: int = 0) -> Pictures:
    """Large dark cells (basophil) and small pale ones (platelet) on white."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count) * 7
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    pictures = np.full((count, side, side, 3), 255, np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[np.hypot(rows, cols) < (3 if label else 9)] = (140, 90, 170) if label else (60, 30, 100)
    noise = rng.integers(-8, 9, pictures.shape)
    return Pictures(np.clip(pictures + noise, 0, 255).astype(np.uint8), labels, 28.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_it_learns_two_kinds_of_cell() -> None:
    trained = fit(_toy(128), _toy(40, seed=1), TINY)
    assert len(trained.history) == 3
    assert trained.history[-1].val_accuracy > 0.9
    assert trained.history[-1].loss < trained.history[0].loss


def test_what_is_kept_is_what_was_validated() -> None:
    val = _toy(40, seed=1)
    trained = fit(_toy(64), val, TINY)
    logits, unlike = outputs(trained.network, val.pictures)
    assert (logits.argmax(1) == val.labels).mean() == pytest.approx(trained.history[-1].val_accuracy)
    assert unlike.shape == (40,)


def test_outliers_teach_the_unknown_score() -> None:
    outliers = np.full((50, 28, 28, 3), (240, 230, 120), np.uint8)
    trained = fit(_toy(128), _toy(20, seed=1), replace(TINY, epochs=8), outliers=outliers)
    _, known = outputs(trained.network, _toy(20, seed=2).pictures)
    _, strange = outputs(trained.network, outliers)
    assert strange.min() > known.max()


def test_a_killed_training_goes_on_to_the_same_end(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill_after_two(epoch: object) -> None:
        if len(seen := [*kill_after_two.seen, epoch]) == 2:  # type: ignore[attr-defined]
            raise KilledError
        kill_after_two.seen = seen  # type: ignore[attr-defined]

    kill_after_two.seen = []  # type: ignore[attr-defined]
    train, val = _toy(64), _toy(16, seed=1)
    whole = fit(train, val, TINY)
    with pytest.raises(KilledError):
        fit(train, val, TINY, tmp_path, on_epoch=kill_after_two)
    resumed = fit(train, val, TINY, tmp_path)
    assert [e.epoch for e in resumed.history] == [1, 2, 3]
    for one, two in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_checkpoint_of_other_options_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, val = _toy(32), _toy(16, seed=1)
    fit(train, val, replace(TINY, epochs=1), tmp_path)
    assert (tmp_path / CHECKPOINT).is_file()
    assert len(fit(train, val, replace(TINY, epochs=2), tmp_path).history) == 2
    assert "starting anew" in caplog.text


def test_a_checkpoint_of_relabelled_cells_or_other_weights_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, val, one = _toy(32), _toy(16, seed=1), replace(TINY, epochs=1)
    first = fit(train, val, one, tmp_path)
    relabelled = replace(train, labels=np.where(train.labels == 7, 4, train.labels))
    fit(relabelled, val, one, tmp_path)
    assert caplog.text.count("starting anew") == 1
    fit(relabelled, val, one, tmp_path, start=first.network.state_dict())
    assert caplog.text.count("starting anew") == 2


def test_a_damaged_checkpoint_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a checkpoint")
    assert len(fit(_toy(32), _toy(16, seed=1), replace(TINY, epochs=1), tmp_path).history) == 1
    assert "is damaged" in caplog.text


def test_few_pictures_get_enough_steps() -> None:
    # 32 pictures in batches of 16 are 2 steps an epoch
    assert len(fit(_toy(32), _toy(16, seed=1), replace(TINY, epochs=1, least_steps=5)).history) == 3
    assert len(fit(_toy(32), _toy(16, seed=1), replace(TINY, epochs=2, least_steps=3)).history) == 2


def test_patience_stops_before_the_end() -> None:
    options = replace(TINY, epochs=30, patience=1, learning_rate=0.0, average=0.0, architecture="paper")
    options = replace(options, arguments={"widths": (4,) * 5, "hidden": 4}, schedule=False)
    assert len(fit(_toy(32), _toy(16, seed=1), options).history) < 30


def test_augmented_pictures_with_a_margin_are_learnt_from() -> None:
    from cbctool.classifier.augment import AugmentOptions

    train = _toy(64, side=42)
    trained = fit(train, _toy(16, seed=1), replace(TINY, epochs=1, augment=AugmentOptions()))
    assert np.isfinite(trained.history[0].loss)


def test_fine_tuning_starts_from_the_weights_given() -> None:
    train, val = _toy(64), _toy(16, seed=1)
    first = fit(train, val, TINY)
    frozen = replace(TINY, epochs=1, learning_rate=0.0, average=0.0, warm_up=0.0)
    again = fit(train, val, frozen, start=first.network.state_dict())
    torch.testing.assert_close(again.network.own.weight, first.network.own.weight)


def test_muon_moves_all_directions_of_a_matrix_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    lopsided = torch.diag(torch.tensor([100.0, 1.0, 0.1])) @ torch.randn(3, 8, generator=generator)
    for matrix in (lopsided, lopsided.T):
        values = torch.linalg.svdvals(orthogonal(matrix, steps=8))
        assert 0.6 < values.min() <= values.max() < 1.3
    filters = torch.nn.Parameter(torch.zeros(4, 2, 3, 3))
    filters.grad = torch.randn(4, 2, 3, 3, generator=generator)
    Muon([filters], lr=0.1, weight_decay=0.0).step()
    moved = filters.detach()
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * 0.1, rel=0.3)
    assert float((moved * filters.grad).sum()) < 0


def test_cells_in_drawn_colours_do_not_teach_the_own_readout() -> None:
    network = SmearNet(widths=(8, 8), blocks=(0, 0))
    crops = torch.from_numpy(_toy(16).pictures)
    for own, untouched in ((True, network.foreign), (False, network.own)):
        network.zero_grad()
        logits, unlike, gate = _read(network, crops, torch.full((16,), own))
        assert gate is not None
        (logits.sum() + unlike.sum()).backward()
        assert not untouched.weight.grad.any()
