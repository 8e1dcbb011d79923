"""The model card of a training: what went in, what came out, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbctool.classifier.metrics import ECE_BINS
from cbctool.classifier.train import Epoch
from cbctool.classifier.weights import write_whole
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
    figures = {
        "samples.png": draw_samples(data.train.pictures[:10, inner, inner], data.train.labels[:10]),
        "confusion.png": draw_confusion(np.array(test["confusion"])),
        "predictions.png": draw_samples(data.test.pictures[:10], data.test.labels[:10], probabilities[:10]),
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
        f"| {name.replace('_', ' ')} | {row['n']} | {row['recall']:.3f} | {row['precision']:.3f} | {row['f1']:.3f} |"
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

| figure | test |
|---|---|
| accuracy | {test["accuracy"]:.4f} |
| balanced accuracy | {test["balanced_accuracy"]:.4f} |
| macro F1 | {test["macro_f1"]:.4f} |
| negative log likelihood | {test["nll"]:.4f} |
| calibration error ({ECE_BINS} equal-mass bins) | {test["ece"]:.4f} (by chance up to {test["ece_chance_95"]:.4f}) |
| coverage | {test["coverage"]:.4f} |
| accuracy of what is called | {test["selective_accuracy"]:.4f} |

Temperature {info.temperature:.3f}; no call below a probability of {info.abstain_below:.3f} or above an unknown-score of
{info.unknown_above:.3f}.

| class | cells | recall | precision | F1 |
|---|---|---|---|---|
{chr(10).join(rows)}

![First ten training samples](samples.png)
![Confusion matrix](confusion.png)
![Example predictions](predictions.png)
![Training curves](curves.png)
![Calibration](calibration.png)
"""


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
    """Accuracy against confidence in bins of equal size."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(ECE_BINS, len(labels)))
    figure = _figure(4.5, 4.2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axis.plot([confidence[b].mean() for b in bins], [right[b].mean() for b in bins], marker="o", markersize=4)
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
