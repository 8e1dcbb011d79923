"""``cbctool train`` from folders: bad data is said first, results come with a card, nothing is lost."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pypdf import PdfReader
from typer.testing import CliRunner

from cbctool.classifier import train as room
from cbctool.classifier.predict import softmax
from cbctool.classifier.weights import load_weights
from cbctool.cli import app
from cbctool.errors import InputError, OutputError, TrainingDataError, UsageError, WeightsError
from cbctool.run import train as run
from cbctool.run.score_crops import auroc, score_bloodmnist, score_crop_folder
from cbctool.run.training_card import spread, trust_notes
from cbctool.run.training_data import SPLITS

TINY = replace(
    room.RECIPES["default"],
    arguments={"widths": (8, 8), "blocks": (0, 0)},
    epochs=4,
    batch=8,
    learning_rate=0.05,
    average=0.5,
    augment=None,
    least_steps=0,
    device="cpu",
)


def _picture(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:28, :28] - 13.5
    rgb = np.full((28, 28, 3), 245, np.uint8)
    radius, colour = {"lymphocyte": (7, (90, 40, 140)), "platelet": (3, (150, 90, 170)), "unknown": (12, (30, 90, 30))}[
        kind
    ]
    rgb[np.hypot(rows, cols) < radius] = colour
    return np.clip(rgb + rng.integers(-6, 7, rgb.shape), 0, 255).astype(np.uint8)


def _write(folder: Path, kinds: tuple[str, ...] = ("lymphocyte", "platelet"), count: int = 20, first: int = 0) -> Path:
    for number, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = _picture(kind, first + 1000 * number + i)
            cv2.imwrite(str(folder / kind / f"{i}.png"), picture[..., ::-1])
    return folder


def _request(tmp_path: Path, data: Path | None, **changes: object) -> run.TrainRequest:
    return replace(run.TrainRequest(tmp_path / "mine", data, already_cropped=True, device="cpu"), **changes)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(room.RECIPES, "default", TINY)


def test_a_lab_trains_checks_and_uses_its_own_weights(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells", ("lymphocyte", "platelet", "unknown"))
    report = run.train(_request(tmp_path, data))
    assert report.test["accuracy"] > 0.8
    assert report.test["n"] == 6
    for path in report.files:
        assert path.stat().st_size > 0
    card = (tmp_path / "mine" / "model_card.md").read_text()
    assert report.info.sha256 in card
    assert "28 train, 6 val, 6 test" in card
    assert any((tmp_path / "mine" / "log").iterdir())
    assert not load_weights(report.weights).info.validated
    figures, judged = score_crop_folder(data, already_cropped=True, weights=report.weights, device="cpu")
    assert len(judged.calls) == 60
    assert figures["accuracy"] > 0.8
    assert figures["unknown_abstained"] > 0.5
    assert set(figures["as_cut"]) >= {"accuracy", "confusion"}
    assert str(report.weights) in run.summary(report)


def test_every_picture_is_listed_with_its_split_and_those_of_test_with_their_call(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells", ("lymphocyte", "platelet", "unknown"))
    report = run.train(_request(tmp_path, data))
    rows = list(csv.DictReader((tmp_path / "mine" / "pictures.csv").read_text().splitlines()))
    assert sorted(row["picture"] for row in rows) == sorted(p.relative_to(data).as_posix() for p in data.glob("*/*"))
    assert Counter((row["class"], row["split"]) for row in rows) == {
        (name, split): count
        for name, counts in {"lymphocyte": (14, 3, 3), "platelet": (14, 3, 3), "unknown": (10, 5, 5)}.items()
        for split, count in zip(SPLITS, counts, strict=True)
    }
    tested = [row for row in rows if row["split"] == "test" and row["class"] != "unknown"]
    assert sum(row["call"] == row["class"] for row in tested) == round(report.test["accuracy"] * 6)
    assert not any(row["call"] for row in rows if row["split"] != "test")
    unknown = [row["status"] == "unclassified" for row in rows if row["split"] == "test" and row["class"] == "unknown"]
    assert report.test["unknown_abstained"] == pytest.approx(sum(unknown) / 5)


def test_the_weights_before_are_scored_on_the_same_test_cells(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells")
    report = run.train(_request(tmp_path, data))
    before = report.test["before"]
    assert before["name"] == "default"
    right = round(report.test["accuracy"] * 6)
    assert right - round(before["accuracy"] * 6) == before["only_now_right"] - before["only_before_right"]
    assert "the weights 'default' get" in run.summary(report)
    low, high = report.test["accuracy_interval"]
    assert low <= report.test["accuracy"] <= high
    card = (tmp_path / "mine" / "model_card.md").read_text()
    assert "divided at random" in card
    assert "Not taught: basophil, eosinophil" in card
    assert "Not shown what is none of the classes" in card
    assert "the unknown-score then says nothing" in run.summary(report)
    refit = run.train(_request(tmp_path, data, out=tmp_path / "refit", init=report.weights, allow_worse=True))
    assert "Blasts stand out less after a refit" in run.summary(refit)
    assert "Blasts stand out less after a refit" in (tmp_path / "refit" / "model_card.md").read_text()


def test_strict_unknown_pictures_leave_the_threshold_of_probability_as_it_is(tmp_path: Path) -> None:
    data = run.prepare_folder(_write(tmp_path / "cells", count=100), None, True, seed=0)
    trained = room.fit(data.train, data.val, TINY)
    plain = run.calibrate(trained, data, TINY, "plain")
    strict = run.calibrate(trained, replace(data, unknown=data.val.pictures), TINY, "strict")
    assert strict.unknown_above < plain.unknown_above
    assert strict.abstain_below == plain.abstain_below > 0


@pytest.mark.parametrize("mislabelled", ["none", "the least sure", "any"])
def test_few_calls_are_wrong_however_few_calls_that_leaves(tmp_path: Path, mislabelled: str) -> None:
    data = run.prepare_folder(_write(tmp_path / "cells", count=200), None, True, seed=0)
    trained = room.fit(data.train, data.val, TINY)
    logits, _ = room.outputs(trained.network, data.val.pictures)
    order = np.argsort(softmax(logits).max(axis=1))
    wrong = {"none": order[:0], "the least sure": order[:12], "any": order[::4]}[mislabelled]
    labels = data.val.labels.copy()
    labels[wrong] = 11 - labels[wrong]  # lymphocytes are 4, platelets 7
    data = replace(data, val=replace(data.val, labels=labels))
    info = run.calibrate(trained, data, TINY, "mine")
    val = run.judge_threshold(run._scores(trained.network, data.val.pictures, info), labels, info)
    assert val["n"] == 60
    assert val["raised"] == (mislabelled != "none")
    assert val["shown"] == (mislabelled != "any")
    notes = trust_notes({"threshold": val, "selective_accuracy_interval": (0.96, 1.0)})
    if mislabelled == "none":
        assert val["coverage"] > 0.9
        assert notes == []
    elif mislabelled == "the least sure":
        assert 0.95 <= val["selective_accuracy"] < 1
        assert 45 / 60 <= val["coverage"] < 0.9
        assert "of the calls would be right. The threshold is raised until they show 95%: " in notes[0]
    else:
        assert info.abstain_below == pytest.approx(0.95, abs=1e-6)
        assert val["coverage"] < 0.5
        assert "no threshold at which 95% are, so that a call needs a probability of 95%" in notes[0]


def test_what_the_calls_on_test_show_is_said() -> None:
    def said(low: float, high: float) -> str:
        return " ".join(
            trust_notes({"threshold": {"raised": False, "n": 9}, "selective_accuracy_interval": (low, high)})
        )

    assert "Fewer than 95% of the calls" in said(0.8, 0.93)
    assert "too few" in said(0.8, 0.99)
    assert "too few" in said(np.nan, np.nan)
    assert said(0.951, 0.99) == ""


def test_pictures_of_the_card_show_each_class_in_turn() -> None:
    assert spread(np.array([0, 0, 0, 4, 4, 7]), 5).tolist() == [0, 3, 5, 1, 4]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells")
    run.train(_request(tmp_path, data, epochs=1, allow_worse=True))
    with pytest.raises(OutputError, match="already holds weights"):
        run.train(_request(tmp_path, data))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        run.train(_request(tmp_path, data, out=tmp_path / "full"))


def test_a_training_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells")

    def killed(_: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run.train(_request(tmp_path, data, epochs=1, allow_worse=True), on_step=killed)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["log"]
    assert run.train(_request(tmp_path, data, epochs=1, allow_worse=True)).weights.is_file()


def test_the_folder_one_stands_in_gives_the_weights_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _write(tmp_path / "cells")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    run.train(_request(tmp_path, data, out=Path(), epochs=1, allow_worse=True))
    assert (tmp_path / "mine" / "mine.safetensors").is_file()


def test_fine_tuning_that_makes_it_worse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _write(tmp_path / "cells")
    first = run.train(_request(tmp_path, data))
    monkeypatch.setitem(room.RECIPES, "default", replace(TINY, learning_rate=3e3))
    request = _request(tmp_path, data, out=tmp_path / "second", init=first.weights, epochs=2)
    with pytest.raises(WeightsError, match="no weights were written"):
        run.train(request)
    assert not (tmp_path / "second" / "second.safetensors").exists()
    (tmp_path / "second" / room.CHECKPOINT).unlink()
    (tmp_path / "second" / "log").rename(tmp_path / "log")
    assert run.train(replace(request, allow_worse=True)).weights.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "blast").mkdir(), "no class: blast"),
        (lambda d: (d / "monocyte").mkdir(), "empty classes: monocyte"),
        (lambda d: _write(d, ("unknown",), 1).joinpath("platelet", "x.png").write_bytes(b"no image"), "cannot be read"),
        (lambda d: [p.unlink() for p in sorted((d / "platelet").iterdir())[1:]], r"platelet \(1\)"),
        (lambda d: (d / "platelet" / "twin.png").write_bytes((d / "lymphocyte" / "0.png").read_bytes()), "two classes"),
        (
            lambda d: (
                _write(d, ("unknown",))
                .joinpath("platelet", "x.png")
                .write_bytes((d / "unknown" / "3.png").read_bytes())
            ),
            r"two classes: platelet/x\.png = unknown/3\.png",
        ),
        (lambda d: _write(d, ("unknown",), 1), r"unknown \(1\)"),
        (lambda d: _write(d / "train"), "divided by hand, but has no val and no test"),
    ],
)
def test_bad_data_is_said_before_anything_is_written(tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    data = _write(tmp_path / "cells")
    spoil(data)
    with pytest.raises(TrainingDataError, match=message):
        run.train(_request(tmp_path, data))
    assert not (tmp_path / "mine").exists()


def test_twins_stay_in_one_split(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells")
    for i in range(10):
        (data / "platelet" / f"copy{i}.png").write_bytes((data / "platelet" / "0.png").read_bytes())
    prepared = run.prepare_folder(data, None, True, seed=0)
    parts = [{c.tobytes() for c in getattr(prepared, name).pictures} for name in ("train", "val", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(len(getattr(prepared, name).labels) for name in ("train", "val", "test")) == 50


def test_folders_within_a_class_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = _write(tmp_path / "cells")
    _write(data / "platelet", ("lymphocyte",))
    run.prepare_folder(data, None, True, seed=0)
    assert "not looked into: platelet/lymphocyte" in caplog.text


def test_a_leak_between_splits_made_by_hand_is_refused(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        _write(tmp_path / "cells" / split, count=4, first=10000 * number)
    leak = tmp_path / "cells" / "train" / "platelet" / "0.png"
    (tmp_path / "cells" / "test" / "platelet" / "leak.png").write_bytes(leak.read_bytes())
    with pytest.raises(TrainingDataError, match=r"in two splits: train/platelet/0\.png = test/platelet/leak\.png"):
        run.train(_request(tmp_path, tmp_path / "cells"))


def _hand_split(folder: Path) -> Path:
    for number, split in enumerate(SPLITS):
        _write(folder / split, count=4, first=10000 * number)
    return folder


def test_what_is_checked_must_have_been_taught(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = _hand_split(tmp_path / "cells")
    shutil.copytree(data / "test" / "platelet", data / "test" / "monocyte")
    shutil.rmtree(data / "test" / "platelet")
    with pytest.raises(TrainingDataError, match="test/ has classes that train/ lacks: monocyte"):
        run.train(_request(tmp_path, data))
    shutil.rmtree(data / "test" / "monocyte")
    assert not run.prepare_folder(data, None, True, seed=0).at_random
    assert "test/ has no platelet" in caplog.text


def test_unknown_pictures_keep_to_the_split_they_were_put_in(tmp_path: Path) -> None:
    data = _hand_split(tmp_path / "cells")
    for number, split in enumerate(SPLITS):
        _write(data / split, ("unknown",), count=3 + number, first=90000 + 100 * number)
    prepared = run.prepare_folder(data, None, True, seed=0)
    parts = (prepared.outliers, prepared.unknown, prepared.unknown_test)
    assert [0 if part is None else len(part) for part in parts] == [3, 4, 5]
    _write(data, ("unknown",))
    with pytest.raises(TrainingDataError, match="beside train, val and test: unknown"):
        run.prepare_folder(data, None, True, seed=0)


def test_without_a_scale_it_asks_for_one(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells")
    with pytest.raises(TrainingDataError) as caught:
        run.train(_request(tmp_path, data, already_cropped=False))
    assert "--um-per-px" in caught.value.advice


def test_options_that_cannot_be(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells")
    with pytest.raises(UsageError, match="no recipe"):
        run.train(_request(tmp_path, data, recipe="best"))
    with pytest.raises(UsageError, match="contradict"):
        run.train(_request(tmp_path, data, um_per_px=0.1))
    with pytest.raises(UsageError, match="is a 'smear' network") as caught:
        run.train(_request(tmp_path, data, recipe="paper", init=Path("default")))
    assert caught.value.advice == "Pass --recipe default."


def _npz(path: Path, count: int = 12) -> Path:
    arrays = {}
    for number, split in enumerate(("train", "val", "test")):
        kinds = ["lymphocyte", "platelet"] * (count // 2)
        arrays[f"{split}_images"] = np.stack([_picture(k, 100 * number + i) for i, k in enumerate(kinds)])
        arrays[f"{split}_labels"] = np.array([[4], [7]] * (count // 2), np.uint8)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def test_the_study_runs_through_medmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = replace(room.RECIPES["paper"], arguments={"widths": (4,) * 5, "hidden": 8}, epochs=1, batch=4, device="cpu")
    monkeypatch.setitem(room.RECIPES, "paper", paper)
    root = _npz(tmp_path / "root" / "bloodmnist.npz").parent
    report = run.train(_request(tmp_path, None, recipe="paper", root=root, allow_worse=True))
    assert report.info.architecture == "paper"
    assert not report.info.white_balanced  # the study's crops are as photographed
    assert np.isfinite(report.info.unknown_above)
    assert len(report.info.unknown_percentiles) == 3


def test_without_a_network_it_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medmnist

    def no_network(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(medmnist.BloodMNIST, "download", no_network)
    with pytest.raises(InputError, match="no route to host") as caught:
        run.bloodmnist_file(tmp_path)
    assert "bloodmnist.npz" in caught.value.advice
    assert "--root" in caught.value.advice


def test_bloodmnist_is_scored(tmp_path: Path) -> None:
    figures = score_bloodmnist(_npz(tmp_path / "b" / "bloodmnist.npz"), "val", device="cpu")
    contract = {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "ece",
        "nll",
        "coverage",
        "selective_accuracy",
        "confusion",
    }
    assert contract <= set(figures)
    assert figures["n"] == 12
    with pytest.raises(UsageError, match="no split"):
        score_bloodmnist(tmp_path / "b" / "bloodmnist.npz", "all")
    with pytest.raises(UsageError, match="no file"):
        score_bloodmnist(tmp_path / "none.npz")


def test_single_cells_are_judged_with_a_table_of_calls_and_pictures_of_the_mistakes(tmp_path: Path) -> None:
    data = _write(tmp_path / "cells", ("lymphocyte", "platelet", "unknown"), count=4)
    swapped = data / "test"
    swapped.mkdir()
    (data / "lymphocyte").rename(swapped / "platelet")
    (data / "platelet").rename(swapped / "lymphocyte")
    (data / "unknown").rename(swapped / "unknown")
    options = ["--crops", str(data), "--split", "test", "--already-cropped", "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(app, ["validate", *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "lymphocyte, recall" in result.stdout
    assert "without white balance" in result.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "cells.csv").read_text().splitlines()))
    assert Counter(row["class"] for row in rows) == {"lymphocyte": 4, "platelet": 4, "unknown": 4}
    figures = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert (figures["source"], figures["split"], figures["unknown_n"]) == ("cells", "test", 4)
    wrong = sum(row["call"] != row["class"] for row in rows if row["class"] != "unknown")
    assert wrong == 8 - round(figures["accuracy"] * 8)
    wrong += sum(row["status"] == "classified" for row in rows if row["class"] == "unknown")
    pages = PdfReader(tmp_path / "out" / "validation.pdf").pages
    assert f"cells called another class ({wrong})" in pages[1].extract_text()
    assert "weights default" in pages[0].extract_text()
    with (tmp_path / "out" / "confusion.csv").open() as file:
        assert [[int(n) for n in row[1:]] for row in csv.reader(file) if row[0] != "truth"] == figures["confusion"]


def test_refused_weights_are_told_before_pictures_are_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        score_crop_folder(tmp_path / "nowhere", weights=tmp_path / "none.safetensors")


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == 0.875
    assert auroc(np.array([0.0]), np.array([1.0])) == 1.0


def test_nuclear_density_is_that_of_the_dark_part() -> None:
    window = np.full((1, 28, 28, 3), 255, np.uint8)
    window[0, 10:18, 10:18] = 25
    np.testing.assert_allclose(run.nuclear_density(window), np.log10(256 / 26), atol=1e-6)
    assert np.isnan(run.nuclear_density(np.full((1, 28, 28, 3), 255, np.uint8))).all()
