"""The model card of a training: what went in, what came out, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbctool.classifier.metrics import COVERAGE, ECE_BINS, WRONG_SHARE
from cbctool.classifier.train import Epoch
from cbctool.classifier.weights import write_whole
from cbctool.hematology.intervals import clopper_pearson
from cbctool.records import CLASSES, WeightsInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cbctool.run.train import TrainingData

_LABELS = [str(name).replace("_", " ") for name in CLASSES]


def write_card(
    folder: Path,
    data: TrainingData,
    info: WeightsInfo,
    extra: Mapping[str, Any],
    test: Mapping[str, Any],
    probabilities: NDArray[Any],
    history: Sequence[Epoch],
) -> list[Path]:
    """Write ``model_card.md`` and its pictures into ``folder``; the paths written.

    ``test`` are the figures of :func:`cbctool.classifier.metrics.evaluate` on ``data.test``, ``probabilities`` (N, 8)
    the calls behind them.
    """
    margin = int(data.train.pictures.shape[1] - data.train.window_px) // 2
    inner = slice(margin, data.train.pictures.shape[1] - margin)
    taught, tested = spread(data.train.labels), spread(data.test.labels)
    figures = {
        "samples.png": draw_samples(data.train.pictures[taught][:, inner, inner], data.train.labels[taught]),
        "confusion.png": draw_confusion(np.array(test["confusion"])),
        "predictions.png": draw_samples(data.test.pictures[tested], data.test.labels[tested], probabilities[tested]),
        "curves.png": draw_curves(history),
        "calibration.png": draw_calibration(probabilities, data.test.labels),
    }
    written = []
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
        written.append(folder / name)
    path = folder / "model_card.md"
    write_whole(path, card_text(info, extra, test).encode())
    return [path, *written]


def card_text(info: WeightsInfo, extra: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    split = extra["split"]
    rows = [
        f"| {name.replace('_', ' ')} | {row['n']} | {row['recall']:.3f} ({_span(row['recall_interval'])}) "
        f"| {row['precision']:.3f} | {row['f1']:.3f} |"
        for name, row in test["per_class"].items()
    ]
    started = f", started from {extra['started_from']}" if extra["started_from"] else ""
    licence = f" ({extra['licence']})" if extra["licence"] else ""
    return f"""# {info.name}

For research use and preliminary counts. Trained {info.date} on {info.trained_on}{licence}; recipe
`{extra["recipe"]}`, architecture `{info.architecture}`, {extra["epochs"]} epochs, seed {extra["seed"]}{started}.

- Weights sha256 `{info.sha256}`
- Data sha256 `{extra["data_sha256"]}`
- Cells: {split["train"]} train, {split["val"]} val, {split["test"]} test. Temperature and thresholds were fixed on val;
  the figures below are on test, which nothing was chosen on.
{"".join(f"- {note}{chr(10)}" for note in _notes(extra, test))}
| figure | test (exact 95 % interval, as if every cell were of another patient) |
|---|---|
| accuracy | {test["accuracy"]:.4f} ({_span(test["accuracy_interval"])}) |
| balanced accuracy | {test["balanced_accuracy"]:.4f} |
| macro F1 | {test["macro_f1"]:.4f} |
| negative log likelihood | {test["nll"]:.4f} |
| calibration error ({ECE_BINS} equal-mass bins) | {test["ece"]:.4f} (by chance up to {test["ece_chance_95"]:.4f}) |
| coverage | {test["coverage"]:.4f} |
| accuracy of what is called | {test["selective_accuracy"]:.4f} ({_span(test["selective_accuracy_interval"])}) |

Temperature {info.temperature:.3f}; no call below a probability of {info.abstain_below:.3f} or above an unknown-score of
{info.unknown_above:.3f}.

| class | cells | recall | precision | F1 |
|---|---|---|---|---|
{chr(10).join(rows)}

![Ten training samples](samples.png)
![Confusion matrix](confusion.png)
![Example predictions](predictions.png)
![Training curves](curves.png)
![Calibration](calibration.png)
"""


def before_text(before: Mapping[str, Any]) -> str:
    """One sentence on the weights before training, on the same test cells."""
    name = f"{before['name']!r}"
    return (
        f"On these cells the weights {name} get {before['accuracy']:.1%} right; {called_text(before)}. "
        f"Right with the new ones alone: {before['only_now_right']} "
        f"cells, with {name} alone: {before['only_before_right']} (sign test, p = {before['chance']:.2g})."
    )


def _notes(extra: Mapping[str, Any], test: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures has to know."""
    notes = []
    if extra["at_random"]:
        notes.append(
            "The pictures were divided at random. Where several are of one slide or patient, these figures are better "
            "than those on the next patient will be: divide by patient, into train/, val/ and test/."
        )
    if missing := [name for name in _LABELS if name not in {t.replace("_", " ") for t in extra["taught"]}]:
        notes.append(f"Not taught: {', '.join(missing)}. Such a cell gets another class's name, or no call.")
    notes += blast_notes(extra)
    if "unknown_abstained" in test:
        notes.append(
            f"Of {test['unknown_n']} unknown pictures held out {test['unknown_abstained']:.1%} get no call; AUROC of "
            f"the unknown-score against the test cells {test['unknown_auroc']:.3f}."
        )
    if "before" in test:
        notes.append(before_text(test["before"]))
    return notes + trust_notes(test)


def called_text(figures: Mapping[str, Any]) -> str:
    """How many cells get a call, and how many of those are right (with the interval, where it was made)."""
    text = f"{figures['coverage']:.1%} get a call"
    if figures["coverage"]:
        text += f", {figures['selective_accuracy']:.1%} of them right"
        if interval := figures.get("selective_accuracy_interval"):
            text += " ({:.1%} to {:.1%})".format(*interval)
    return text


def blast_notes(extra: Mapping[str, Any]) -> list[str]:
    """How far the unknown-score is still to be trusted."""
    notes = []
    if not extra["taught_unknown"]:
        notes.append(
            "Not shown what is none of the classes (unknown/): how far to trust the unknown-score is not known."
        )
    if extra["started_from"]:
        notes.append(
            "Blasts stand out less after a refit than with the weights that it started from: judge it on known ones."
        )
    elif not extra["taught_unknown"]:
        notes.append(
            "Without --init the unknown-score then says nothing: blasts and red cells may pass for usual cells."
        )
    return notes


def trust_notes(test: Mapping[str, Any]) -> list[str]:
    """Why fewer cells than usual get a call, and whether those calls are right as often as they should; a line each."""
    val, wanted = test["threshold"], f"{1 - WRONG_SHARE:.0%}"
    notes = []
    if val["raised"]:
        right = f"{val['accuracy_at_coverage']:.1%}"
        why = f"Were {COVERAGE:.0%} of the {val['n']} val cells called, {right} of the calls would be right. "
        if val["shown"]:
            why += f"The threshold is raised until they show {wanted}"
        else:
            why += f"They show no threshold at which {wanted} are, so that a call needs a probability of {wanted}"
        notes.append(f"{why}: {called_text(val)}.")
    low, high = test["selective_accuracy_interval"]
    if high < 1 - WRONG_SHARE:
        notes.append(f"Fewer than {wanted} of the calls on test are right: check every call, or teach more cells.")
    elif not low >= 1 - WRONG_SHARE:
        notes.append(
            f"The test cells are too few to show that {wanted} of the calls are right: judge the weights on more."
        )
    return notes


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f}-{interval[1]:.3f}"


def spread(labels: NDArray[Any], count: int = 10) -> NDArray[np.intp]:
    """Positions of up to ``count`` cells, the first of each class, then the second of each ...: files lie sorted."""
    rank = np.zeros(len(labels), np.intp)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return np.lexsort((labels, rank))[:count]


def draw_samples(
    pictures: NDArray[np.uint8], labels: NDArray[Any], probabilities: NDArray[Any] | None = None
) -> Figure:
    """Up to ten cells with their class; with ``probabilities`` (N, 8) also the call, red where it is wrong."""
    figure = _figure(10, 4.6)
    axes = np.ravel(figure.subplots(2, 5))
    for axis in axes:
        axis.axis("off")
    for number, (axis, picture, label) in enumerate(zip(axes, pictures, labels, strict=False)):
        axis.imshow(picture)
        title, colour = _LABELS[label], "black"
        if probabilities is not None:
            call = int(probabilities[number].argmax())
            title += f"\ncalled {_LABELS[call]} {probabilities[number, call]:.2f}"
            colour = "black" if call == label else "firebrick"
        axis.set_title(title, fontsize=9, color=colour)
    return figure


def draw_confusion(table: NDArray[Any]) -> Figure:
    """Counts (8, 8), row = truth, shaded by the share of the row."""
    figure = _figure(7.5, 6.5)
    axis = figure.subplots()
    axis.imshow(table / np.maximum(table.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for row, col in np.argwhere(table):
        share = table[row, col] / table[row].sum()
        axis.text(col, row, str(table[row, col]), ha="center", va="center", color="white" if share > 0.5 else "black")
    axis.set_xticks(range(len(_LABELS)), _LABELS, rotation=45, ha="right")
    axis.set_yticks(range(len(_LABELS)), _LABELS)
    axis.set_xlabel("called")
    axis.set_ylabel("truth")
    return figure


def draw_curves(history: Sequence[Epoch]) -> Figure:
    """Loss and accuracy of training batches and validation cells by epoch."""
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = [e.epoch for e in history]
    left.plot(epochs, [e.loss for e in history], label="train (augmented)")
    left.plot(epochs, [e.val_loss for e in history], label="val")
    right.plot(epochs, [e.accuracy for e in history])
    right.plot(epochs, [e.val_accuracy for e in history])
    left.set_ylabel("cross-entropy")
    right.set_ylabel("accuracy")
    for axis in (left, right):
        axis.set_xlabel("epoch")
    left.legend()
    return figure


def draw_calibration(probabilities: NDArray[Any], labels: NDArray[Any]) -> Figure:
    """Accuracy, with its exact 95 % interval, against confidence in bins of equal size."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(ECE_BINS, len(labels)))
    figure = _figure(4.5, 4.2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    middle, share = [confidence[b].mean() for b in bins], np.array([right[b].mean() for b in bins])
    low, high = clopper_pearson([right[b].sum() for b in bins], [len(b) for b in bins])
    axis.errorbar(middle, share, [share - low, high - share], marker="o", markersize=4, elinewidth=0.8)
    axis.set_xlabel("probability of the call")
    axis.set_ylabel("share that is right")
    return figure


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
