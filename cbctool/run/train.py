"""``cbctool train``: a laboratory's pictures, or BloodMNIST, to a weights file with its model card.

Everything that can be wrong with the data is said before training starts. What comes out lies in one folder: weights
with their hash, the card with its pictures, a log for TensorBoard, and the checkpoint from which a killed training goes
on.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from cbctool.classifier.metrics import evaluate, fit_abstention, fit_temperature, fit_unknown
from cbctool.classifier.predict import softmax
from cbctool.classifier.train import CHECKPOINT, RECIPES, Epoch, Pictures, Step, Trained, TrainOptions, fit, outputs
from cbctool.classifier.weights import load_weights, read_header, save_weights
from cbctool.errors import InputError, OutputError, UsageError, WeightsError
from cbctool.records import CLASSES, CROP_PX, CellClass, WeightsInfo
from cbctool.run.score_crops import normalise_crops, read_npz_split
from cbctool.run.training_card import write_card
from cbctool.run.training_data import (
    SPLITS,
    ClassFolder,
    check_classes,
    check_leaks,
    has_splits,
    read_class_folder,
    split_by_hash,
)

logger = logging.getLogger(__name__)

MEDMNIST_FILE = "bloodmnist.npz"

LOG = "log"
"""What an output folder holds before the first checkpoint."""

COVERAGE = 0.95
"""Share of held-out cells that keep a call: the least sure few percent are where most of the mistakes are."""

UNKNOWN_LET_THROUGH = 0.05
"""Share of a laboratory's ``unknown/`` pictures that may still get a call, as far as ``KNOWN_KEPT`` allows."""

KNOWN_KEPT = 0.9
"""Share of the known cells that no setting by unknown pictures takes the call from."""


@dataclass(frozen=True)
class TrainRequest:
    """What ``cbctool train`` was asked for.

    Attributes
    ----------
    out : Path
        Folder for everything that comes out; the weights file takes its name.
    data : Path or None
        One sub-folder of pictures per class, or such folders under ``train``, ``val`` and ``test``. None is BloodMNIST.
    root : Path or None
        Folder with ``bloodmnist.npz``; without it medmnist downloads the file to its own cache.
    um_per_px, already_cropped : float or None, bool
        Scale of the pictures, or that they are 19 um windows.
    recipe : str
        ``default`` or ``paper``.
    init : Path or None
        Weights to start from.
    epochs, seed, device : overrides of the recipe.
    patience : int
        Epochs without a better validation loss before stopping; 0 never stops early.
    allow_worse : bool
        Write the weights even if they are worse on held-out cells than what training started from.
    """

    out: Path
    data: Path | None = None
    root: Path | None = None
    um_per_px: float | None = None
    already_cropped: bool = False
    recipe: str = "default"
    init: Path | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    patience: int | None = None
    allow_worse: bool = False


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a training needs.

    ``train`` may have a margin around its windows; ``val`` and ``test`` are windows of 28 x 28. ``outliers`` are at the
    scale of ``train``; ``unknown`` are windows that set the threshold of the unknown-score.
    """

    train: Pictures
    val: Pictures
    test: Pictures
    source: str
    outliers: NDArray[np.uint8] | None = None
    unknown: NDArray[np.uint8] | None = None
    licence: str = ""

    @property
    def sha256(self) -> str:
        """Hash of all pixels and labels, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            digest.update(part.pictures.tobytes())
            digest.update(part.labels.tobytes())
        for extra in (self.outliers, self.unknown):
            if extra is not None:
                digest.update(extra.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class TrainReport:
    """What came out: the weights file, what it says, its figures on the test cells, and every file written."""

    weights: Path
    info: WeightsInfo
    test: dict[str, Any]
    history: tuple[Epoch, ...]
    files: tuple[Path, ...]


def train(
    request: TrainRequest,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_picture: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Prepare, train, calibrate, and write.

    Raises
    ------
    TrainingDataError
        If the pictures have a fault that would spoil the result; nothing is written.
    UsageError, InputError
        If options contradict each other, or BloodMNIST cannot be had.
    WeightsError
        If ``init`` is refused, or the result is worse than what it started from.
    OutputError
        If ``out`` cannot be written to, or already holds weights.
    """
    request = replace(request, out=request.out.resolve())  # the weights take its name, which "." has not
    options = _options(request)
    _check_output(request.out)
    data = _prepare(request, on_picture)
    return train_prepared(data, options, request, on_step, on_epoch)


def train_prepared(
    data: TrainingData,
    options: TrainOptions,
    request: TrainRequest,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainReport:
    """Train on prepared windows and write weights, card, pictures and log."""
    _check_output(request.out)
    start = load_weights(request.init) if request.init else None
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{request.out} cannot be made: {error.strerror}.", "Choose another --out.") from error
    before = _val_accuracy(start.network, data) if start else chance_accuracy(data)
    with _log(request.out / LOG, options) as log:

        def told(epoch: Epoch) -> None:
            log(epoch)
            if on_epoch is not None:
                on_epoch(epoch)

        trained = fit(
            data.train,
            data.val,
            options,
            request.out,
            data.outliers,
            start.network.state_dict() if start else None,
            on_step,
            told,
        )
    after = _val_accuracy(trained.network, data)
    if after < before and not request.allow_worse:
        raise WeightsError(
            f"The trained network gets {after:.1%} of the validation cells right, fewer than the {before:.1%} it "
            "started from: no weights were written.",
            "Give more or better pictures, train longer, or pass --allow-worse. The checkpoint is kept.",
        )
    return finish(data, trained, options, request)


def finish(data: TrainingData, trained: Trained, options: TrainOptions, request: TrainRequest) -> TrainReport:
    """Calibrate on the validation cells, score the test cells, write the files."""
    info = calibrate(trained, data, options, request.out.name)
    network = trained.network
    logits, unknown = outputs(network, data.test.pictures)
    probabilities = softmax(logits / info.temperature)
    called = (probabilities.max(axis=1) >= info.abstain_below) & (unknown <= info.unknown_above)
    test = evaluate(probabilities, data.test.labels, called)
    test["unknown_rate"] = class_rates(unknown > info.unknown_above, data.test.labels)
    kept = ("n", "accuracy", "balanced_accuracy", "macro_f1", "ece", "nll", "coverage", "selective_accuracy")
    info = replace(
        info,
        confusion=tuple(tuple(row) for row in test["confusion"]),
        unknown_rate=tuple(test["unknown_rate"]),
        metrics={name: float(test[name]) for name in kept},
    )
    extra = {
        "data_sha256": data.sha256,
        "licence": data.licence,
        "seed": options.seed,
        "epochs": len(trained.history),
        "started_from": read_header(request.init)["name"] if request.init else "",
        "split": {name: len(getattr(data, name).labels) for name in ("train", "val", "test")},
        "recipe": request.recipe,
    }
    path = request.out / f"{request.out.name}.safetensors"
    info = save_weights(path, network, info, options.arguments, extra)
    card = write_card(request.out, data, info, extra, test, probabilities, trained.history)
    hashed = path.with_name(path.name + ".sha256")
    return TrainReport(path, info, test, trained.history, (path, hashed, *card))


def calibrate(trained: Trained, data: TrainingData, options: TrainOptions, name: str) -> WeightsInfo:
    """Temperature and thresholds from the validation cells (and ``unknown``), stain range from the training cells."""
    logits, unknown = outputs(trained.network, data.val.pictures)
    temperature = fit_temperature(logits, data.val.labels)
    unknown_above = fit_unknown(unknown)
    if data.unknown is not None and len(data.unknown):
        _, strange = outputs(trained.network, data.unknown)
        lowest = float(np.quantile(unknown, KNOWN_KEPT))
        unknown_above = float(np.clip(np.quantile(strange, UNKNOWN_LET_THROUGH), lowest, unknown_above))
    confidence = softmax(logits / temperature).max(axis=1)
    abstain_below = fit_abstention(confidence, unknown <= unknown_above, COVERAGE)
    margin = int(data.train.pictures.shape[1] - data.train.window_px) // 2
    inner = slice(margin, data.train.pictures.shape[1] - margin)
    nucleated = data.train.labels != CLASSES.index(CellClass.PLATELET)
    stain = nuclear_density(data.train.pictures[nucleated][:, inner, inner])
    percentiles = np.nanpercentile(stain, [1, 50, 99], axis=0) if np.isfinite(stain).any() else np.empty((0, 3))
    return WeightsInfo(
        name=name,
        sha256="",
        architecture=options.architecture,
        validated=False,
        trained_on=data.source,
        date=datetime.date.today().isoformat(),
        temperature=temperature,
        abstain_below=abstain_below,
        unknown_above=unknown_above,
        confusion=(),
        unknown_percentiles=tuple(np.percentile(unknown, [1, 50, 99]).tolist()),
        stain_od=tuple(tuple(float(v) for v in row) for row in percentiles),
    )


def nuclear_density(windows: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean optical density (log10; R, G, B) of the nucleus in each window (N, S, S, 3); NaN rows where there is none.

    The nucleus is what Otsu's threshold on green density separates from cytoplasm, red cells and background in the
    middle 60 % of the window.
    """
    side = windows.shape[1]
    inner = slice(side // 5, side - side // 5)
    result = np.full((len(windows), 3), np.nan)
    for number, window in enumerate(windows[:, inner, inner]):
        density = -np.log10((window.astype(float) + 1) / 256)
        green = density[..., 1]
        if np.ptp(green) > 0:
            result[number] = density[green > threshold_otsu(green)].mean(axis=0)
    return result


def class_rates(events: NDArray[np.bool_], labels: NDArray[np.int64]) -> list[float]:
    """Share of events per class, 0 where a class does not occur."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    return (np.bincount(labels[events], minlength=len(CLASSES)) / np.maximum(counts, 1)).tolist()


def chance_accuracy(data: TrainingData) -> float:
    """What always calling the commonest class of the training cells would get right on the validation cells."""
    commonest = np.bincount(data.train.labels).argmax()
    return float((data.val.labels == commonest).mean())


def _val_accuracy(network: Any, data: TrainingData) -> float:
    logits, _ = outputs(network, data.val.pictures)
    return float((logits.argmax(axis=1) == data.val.labels).mean())


def _options(request: TrainRequest) -> TrainOptions:
    if request.recipe not in RECIPES:
        raise UsageError(f"There is no recipe {request.recipe!r}.", f"Use {' or '.join(RECIPES)}.")
    if request.data is not None and request.um_per_px and request.already_cropped:
        raise UsageError("--um-per-px and --already-cropped contradict each other.", "Windows need no scale.")
    options = replace(RECIPES[request.recipe], seed=request.seed, device=request.device)
    if request.epochs is not None:
        options = replace(options, epochs=request.epochs)
    if request.patience is not None:
        options = replace(options, patience=request.patience)
    if request.init is not None:
        header = read_header(request.init)
        if header.get("architecture") != options.architecture:
            raise UsageError(
                f"{request.init} is a {header.get('architecture')!r} network, not {options.architecture!r}.",
                "Use the recipe that these weights were trained with.",
            )
        # A tenth of the rate and little warm-up: a trained network would forget at the full rate.
        options = replace(options, arguments=header["arguments"], learning_rate=options.learning_rate / 10)
    return options


def _check_output(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file.", "Give a folder for --out.")
    if (out / f"{out.name}.safetensors").exists():
        raise OutputError(f"{out} already holds weights.", "Choose another --out, or move them away.")
    if not (out / CHECKPOINT).exists() and out.exists() and any(p.name != LOG for p in out.iterdir()):
        raise OutputError(f"{out} is not empty and holds no training.", "Choose another --out.")


def _prepare(request: TrainRequest, on_picture: Callable[[int, int], None] | None) -> TrainingData:
    if request.data is None:
        return prepare_bloodmnist(request.root, request.recipe != "paper", on_picture)
    return prepare_folder(request.data, request.um_per_px, request.already_cropped, request.seed, on_picture)


def prepare_bloodmnist(
    root: Path | None, normalise: bool, on_picture: Callable[[int, int], None] | None = None
) -> TrainingData:
    """BloodMNIST through medmnist; normalised to white background, or as it is (the study's way).

    Raises
    ------
    InputError
        If the file is not there and cannot be downloaded.
    """
    path = bloodmnist_file(root)
    parts = {}
    for split in SPLITS:
        crops, labels = read_npz_split(path, split)
        parts[split] = Pictures(normalise_crops(crops, on_picture) if normalise else crops, labels, float(CROP_PX))
    source = "BloodMNIST (28 x 28), train split"
    return TrainingData(parts["train"], parts["val"], parts["test"], source, licence="CC BY 4.0")


def bloodmnist_file(root: Path | None) -> Path:
    """Where medmnist has, or puts, ``bloodmnist.npz``."""
    from medmnist import INFO, BloodMNIST
    from medmnist.dataset import DEFAULT_ROOT

    folder = Path(root) if root is not None else Path(DEFAULT_ROOT)
    path = folder / MEDMNIST_FILE
    try:
        BloodMNIST("train", root=str(folder), download=not path.is_file())
    except Exception as error:  # medmnist raises bare RuntimeErrors and whatever the network does
        raise InputError(
            f"BloodMNIST cannot be had: {str(error).strip().rstrip('.') or type(error).__name__}.",
            f"Fetch {INFO['bloodmnist']['url']} (md5 {INFO['bloodmnist']['MD5']}) on a machine with a network, "
            f"put it at {path}, and pass --root {folder}.",
        ) from error
    return path


def prepare_folder(
    folder: Path,
    um_per_px: float | None,
    already_cropped: bool,
    seed: int,
    on_picture: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """A laboratory's pictures, checked, prepared and split (by the folder, where it has train, val and test).

    Raises
    ------
    TrainingDataError
    """
    parts: dict[str, Pictures] = {}
    if has_splits(folder):
        read = {s: read_class_folder(folder / s, um_per_px, already_cropped, progress=on_picture) for s in SPLITS}
        check_leaks({split: (part.crops, list(part.names)) for split, part in read.items()})
        for name, part in read.items():
            parts[name] = Pictures(part.crops, part.labels, float(CROP_PX))
        unknown = np.concatenate([part.unknown for part in read.values()])
        check_classes(parts["train"].labels)
    else:
        everything: ClassFolder = read_class_folder(folder, um_per_px, already_cropped, progress=on_picture)
        check_classes(everything.labels)
        split = split_by_hash(everything.labels, everything.hashes, everything.names, seed)
        parts = {s: Pictures(everything.crops[i], everything.labels[i], float(CROP_PX)) for s, i in split.items()}
        unknown = everything.unknown
    return TrainingData(
        parts["train"],
        parts["val"],
        parts["test"],
        f"pictures in {folder.name}",
        # Half of the unknown pictures teach what "none of these" looks like, the other half set the threshold.
        outliers=unknown[::2] if len(unknown) > 1 else None,
        unknown=unknown[1::2],
    )


@contextmanager
def _log(folder: Path, options: TrainOptions) -> Iterator[Callable[[Epoch], None]]:
    """Curves for TensorBoard: a function that writes one epoch."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    writer.add_text("options", str(options))

    def write(epoch: Epoch) -> None:
        writer.add_scalar("loss/train", epoch.loss, epoch.epoch)
        writer.add_scalar("loss/val", epoch.val_loss, epoch.epoch)
        writer.add_scalar("accuracy/train", epoch.accuracy, epoch.epoch)
        writer.add_scalar("accuracy/val", epoch.val_accuracy, epoch.epoch)

    try:
        yield write
    finally:
        writer.close()


class TrainingBar:
    """Progress on stderr: pictures while they are read, then the steps of each epoch with loss and accuracy."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def picture(self, done: int, total: int) -> None:
        """One more picture is read."""
        self._show("reading", "picture", done, total)

    def step(self, step: Step) -> None:
        """One more batch is learnt."""
        self._show(f"epoch {step.epoch}/{step.epochs}", "step", step.step, step.steps)
        self._bar.set_postfix(loss=f"{step.loss:.3f}", accuracy=f"{step.accuracy:.3f}", refresh=False)

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is over: its validation figures stay on the screen."""
        self._bar.set_postfix_str(
            f"loss={epoch.loss:.3f}, accuracy={epoch.accuracy:.3f}, val loss={epoch.val_loss:.3f}, "
            f"val accuracy={epoch.val_accuracy:.3f}"
        )
        self._close()

    def _show(self, what: str, unit: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None or done == 1:
            self._close()
            self._bar = tqdm(total=total, desc=what, unit=unit, disable=self._hidden or None)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def summary(report: TrainReport) -> str:
    """What a person wants to know at the end, in a few lines."""
    test = report.test
    rows = [
        f"  {name.replace('_', ' '):22}{row['recall']:6.1%} of {row['n']}" for name, row in test["per_class"].items()
    ]
    return "\n".join(
        [
            f"{report.weights}  (sha256 {report.info.sha256[:12]}...)",
            f"On {test['n']} held-out cells: accuracy {test['accuracy']:.2%}, macro F1 {test['macro_f1']:.3f}; "
            f"{test['coverage']:.1%} get a call, {test['selective_accuracy']:.2%} of them right.",
            *rows,
            f"Card and pictures: {report.files[2]}",
            "Local weights, not validated by the project: analyze --weights " + str(report.weights),
        ]
    )
