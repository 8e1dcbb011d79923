"""Score the classifier on single cells whose class is known, prepared by the code that ``analyze`` uses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbctool.classifier.metrics import evaluate
from cbctool.classifier.predict import Classifier
from cbctool.errors import UsageError
from cbctool.imaging.crop import prepare_picture
from cbctool.records import CLASSES, CROP_PX, Scores, WeightsInfo
from cbctool.run.agreement import exact_interval
from cbctool.run.training_data import UNKNOWN_LABEL, ClassFolder, read_class_folder

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")

CALL_COLUMNS = ("call", "status", "probability", "unknown_score", *(f"p_{name}" for name in CLASSES))
"""What a table says of a single cell: its likeliest class, whether that is called, and why."""


@dataclass(frozen=True, eq=False)
class JudgedCrops:
    """Single cells with what was said of them: ``calls`` has a row of :data:`CALL_COLUMNS` for each of ``data``."""

    data: ClassFolder
    scores: Scores
    called: NDArray[np.bool_]
    calls: list[list[Any]]


def score_bloodmnist(
    path: Path,
    split: str = "test",
    weights: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Figures on one split of a ``bloodmnist.npz`` (MedMNIST's layout, 28 x 28).

    Returns
    -------
    dict
        The figures of :func:`cbctool.classifier.metrics.evaluate` for crops as ``analyze`` makes them for these
        weights, normalised unless they were taught others; under ``as_cut`` the same without; which weights made them.

    Raises
    ------
    UsageError
        If the file is not of that layout.
    """
    classifier = Classifier(weights, device)
    crops, labels = read_npz_split(path, split)
    scores = classifier.classify(normalise_crops(crops, progress) if classifier.info.white_balanced else crops)
    return _figures(classifier, scores, crops, labels) | {"source": path.name, "split": split}


def score_crop_folder(
    folder: Path,
    um_per_px: float | None = None,
    already_cropped: bool = False,
    weights: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], JudgedCrops]:
    """Figures on a folder with one sub-folder of single-cell pictures per class (``unknown/`` is scored apart).

    Returns
    -------
    figures : dict
        As :func:`score_bloodmnist`; with an ``unknown`` folder also ``unknown_auroc`` (how well the unknown-score tells
        those pictures from the others) and ``unknown_abstained``, the share of them without a call.
    judged : JudgedCrops
        The cells behind the figures.
    """
    classifier = Classifier(weights, device)  # refused weights are told before thousands of pictures are read
    data = read_class_folder(folder, um_per_px, already_cropped, progress, with_as_cut=True)
    known = data.labels != UNKNOWN_LABEL
    if not known.any():
        raise UsageError(f"{folder} has no pictures of a known class.", "Give one sub-folder per class.")
    scores = classifier.classify(data.crops if classifier.info.white_balanced else data.as_cut)
    of_known = Scores(scores.probabilities[known], scores.unknown[known])
    figures = _figures(classifier, of_known, data.as_cut[known], data.labels[known])
    called = calls_made(scores, classifier.info)
    if not known.all():
        figures["unknown_n"] = int((~known).sum())
        figures["unknown_auroc"] = auroc(of_known.unknown, scores.unknown[~known])
        figures["unknown_abstained"] = float((~called[~known]).mean())
    judged = JudgedCrops(data, scores, called, call_rows(scores, classifier.info))
    return figures | {"source": folder.name, "split": ""}, judged


def with_intervals(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures of :func:`evaluate` with exact 95 % intervals of accuracy, accuracy of what is called, and recalls."""
    called = round(figures["coverage"] * figures["n"])
    per_class = {
        name: {**row, "recall_interval": exact_interval(round(row["recall"] * row["n"]), row["n"])}
        for name, row in figures["per_class"].items()
    }
    right = round(figures["selective_accuracy"] * called) if called else 0
    return {
        **figures,
        "accuracy_interval": exact_interval(round(figures["accuracy"] * figures["n"]), figures["n"]),
        "selective_accuracy_interval": exact_interval(right, called),
        "per_class": per_class,
    }


def call_rows(scores: Scores, info: WeightsInfo) -> list[list[Any]]:
    """Per cell what :data:`CALL_COLUMNS` names."""
    called = calls_made(scores, info)
    best = scores.probabilities.argmax(axis=1)
    return [
        [
            str(CLASSES[call]),
            "classified" if is_called else "unclassified",
            round(float(row[call]), 4),
            round(float(unknown), 3),
            *(round(float(p), 4) for p in row),
        ]
        for call, is_called, row, unknown in zip(best, called, scores.probabilities, scores.unknown, strict=True)
    ]


def calls_made(scores: Scores, info: WeightsInfo) -> NDArray[np.bool_]:
    """(N,) True where a cell gets a class: sure enough, and not unlike everything trained on."""
    sure = scores.probabilities.max(axis=1, initial=0.0) >= info.abstain_below
    return np.asarray(sure & (scores.unknown <= info.unknown_above))


def auroc(low: NDArray[Any], high: NDArray[Any]) -> float:
    """Chance that a score of ``high`` is above one of ``low``; ties count half."""
    if not len(low) or not len(high):
        return math.nan
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / 2 / len(low))


def read_npz_split(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 28, 28, 3) and labels (N,) of one split of a file in MedMNIST's layout."""
    if split not in _SPLITS:
        raise UsageError(f"There is no split {split!r} in a BloodMNIST file.", f"Use {', '.join(_SPLITS)}.")
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "Check the path given with --bloodmnist.")
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file[f"{split}_images"], file[f"{split}_labels"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{path} is not in MedMNIST's layout: {error}.", f"It needs {split}_images and {split}_labels."
        ) from error
    if images.shape[1:] != (CROP_PX, CROP_PX, 3) or images.dtype != np.uint8 or len(images) != len(labels):
        raise UsageError(
            f"{path} holds images {images.shape} {images.dtype}.", "The classifier takes 28x28 RGB: use the 28 px file."
        )
    return images, labels.reshape(-1).astype(np.int64)


def normalise_crops(crops: NDArray[np.uint8], progress: Callable[[int, int], None] | None = None) -> NDArray[np.uint8]:
    """Put each crop's own background at white, for crops that come without a field."""
    out = np.empty_like(crops)
    for number, crop in enumerate(crops):
        out[number] = prepare_picture(crop, already_cropped=True)
        if progress is not None:
            progress(number + 1, len(crops))
    return out


def _figures(
    classifier: Classifier, scores: Scores, as_cut: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Figures of cells scored already, beside those of the same cells ``as_cut``."""
    parts = [
        with_intervals(evaluate(of.probabilities, labels, calls_made(of, classifier.info)))
        for of in (scores, classifier.classify(as_cut))
    ]
    info = asdict(classifier.info)
    kept = {
        name: info[name] for name in ("name", "sha256", "architecture", "validated", "temperature", "abstain_below")
    }
    return {**parts[0], "as_cut": parts[1], "weights": kept, "device": classifier.device}
