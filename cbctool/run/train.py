"""``cbctool train``: a laboratory's pictures, or BloodMNIST, to a weights file with its model card.

Everything that can be wrong with the data is said before training starts. What comes out lies in one folder: weights
with their hash, the card with its pictures, a table of all pictures with their split and the calls on test, a log for
TensorBoard, and the checkpoint from which a killed training goes on.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from cbctool.classifier.metrics import WRONG_SHARE, evaluate, fit_abstention, fit_temperature, fit_trust, fit_unknown
from cbctool.classifier.predict import Classifier, softmax
from cbctool.classifier.train import CHECKPOINT, RECIPES, Epoch, Pictures, Step, Trained, TrainOptions, fit, outputs
from cbctool.classifier.weights import load_weights, read_header, save_weights, write_whole
from cbctool.errors import InputError, OutputError, UsageError, WeightsError
from cbctool.records import CLASSES, CROP_PX, CellClass, Scores, WeightsInfo
from cbctool.run.agreement import sign_test
from cbctool.run.score_crops import (
    CALL_COLUMNS,
    auroc,
    call_rows,
    calls_made,
    normalise_crops,
    read_npz_split,
    with_intervals,
)
from cbctool.run.training_card import before_text, blast_notes, called_text, trust_notes, write_card
from cbctool.run.training_data import (
    NAMES,
    SPLITS,
    UNKNOWN_LABEL,
    ClassFolder,
    check_classes,
    check_hand_split,
    check_leaks,
    has_splits,
    read_class_folder,
    split_by_hash,
)

logger = logging.getLogger(__name__)

MEDMNIST_FILE = "bloodmnist.npz"

LOG = "log"
"""What an output folder holds before the first checkpoint."""

PICTURES = "pictures.csv"
"""Every picture of a laboratory's folder, its split, and the calls on test."""

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
    scale of ``train``; ``unknown`` are windows that set the threshold of the unknown-score, ``unknown_test`` those that
    it is judged on. ``listing`` has (picture, label, split) of a laboratory's pictures, those of test in their order;
    ``at_random`` says that they were divided without regard to slide or patient; ``white_balanced`` that the background
    of all is at white.
    """

    train: Pictures
    val: Pictures
    test: Pictures
    source: str
    outliers: NDArray[np.uint8] | None = None
    unknown: NDArray[np.uint8] | None = None
    licence: str = ""
    unknown_test: NDArray[np.uint8] | None = None
    listing: tuple[tuple[str, int, str], ...] = ()
    at_random: bool = False
    white_balanced: bool = True

    @property
    def sha256(self) -> str:
        """Hash of all pixels and labels, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            digest.update(part.pictures.tobytes())
            digest.update(part.labels.tobytes())
        for extra in (self.outliers, self.unknown, self.unknown_test):
            if extra is not None:
                digest.update(extra.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class TrainReport:
    """What came out: the weights file, what it says, its figures on the test cells, and every file written.

    ``notes`` are what has to be known before the weights are used, a sentence each.
    """

    weights: Path
    info: WeightsInfo
    test: dict[str, Any]
    history: tuple[Epoch, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


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
            f"The trained network gets {after:.1%} of the {len(data.val.labels)} validation cells right, fewer than "
            f"the {before:.1%} it started from: no weights were written.",
            "Give more or better pictures, or train longer. The same command with --allow-worse writes them all the "
            "same, without training again: the checkpoint is kept.",
        )
    return finish(data, trained, options, request)


def finish(data: TrainingData, trained: Trained, options: TrainOptions, request: TrainRequest) -> TrainReport:
    """Calibrate on the validation cells, score the test cells, write the files."""
    info = calibrate(trained, data, options, request.out.name)
    network = trained.network
    scores = _scores(network, data.test.pictures, info)
    called = calls_made(scores, info)
    test = with_intervals(evaluate(scores.probabilities, data.test.labels, called))
    test["unknown_rate"] = class_rates(scores.unknown > info.unknown_above, data.test.labels)
    test["threshold"] = judge_threshold(_scores(network, data.val.pictures, info), data.val.labels, info)
    strange = None
    if data.unknown_test is not None and len(data.unknown_test):
        strange = _scores(network, data.unknown_test, info)
        test["unknown_n"] = len(strange.unknown)
        test["unknown_auroc"] = auroc(scores.unknown, strange.unknown)
        test["unknown_abstained"] = float((~calls_made(strange, info)).mean())
    if request.init is not None or request.data is not None:
        test["before"] = compare_before(request.init, data, scores.probabilities)
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
        "taught": [str(name) for number, name in enumerate(CLASSES) if (data.train.labels == number).any()],
        "at_random": data.at_random,
        "taught_unknown": 0 if data.outliers is None else len(data.outliers),
        "recipe": request.recipe,
    }
    path = request.out / f"{request.out.name}.safetensors"
    info = save_weights(path, network, info, options.arguments, extra)
    card = write_card(request.out, data, info, extra, test, scores.probabilities, trained.history)
    if data.listing:
        card.append(_write_listing(request.out / PICTURES, data, scores, strange, info))
    hashed = path.with_name(path.name + ".sha256")
    notes = (*trust_notes(test), *blast_notes(extra))
    return TrainReport(path, info, test, trained.history, (path, hashed, *card), notes)


def compare_before(init: Path | None, data: TrainingData, probabilities: NDArray[Any]) -> dict[str, Any]:
    """What the weights that training started from, or else the shipped ones, make of the same test cells.

    ``chance`` is the probability (sign test, exact) of so unequal numbers of cells that only one of the two gets right.
    """
    classifier = Classifier(init, "cpu")
    scores = classifier.classify(data.test.pictures)
    figures = evaluate(scores.probabilities, data.test.labels, calls_made(scores, classifier.info))
    now = probabilities.argmax(axis=1) == data.test.labels
    before = scores.probabilities.argmax(axis=1) == data.test.labels
    only_now, only_before = int((now & ~before).sum()), int((before & ~now).sum())
    kept = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "nll", "coverage", "selective_accuracy")
    return {
        "name": classifier.info.name,
        **{name: figures[name] for name in kept},
        "only_now_right": only_now,
        "only_before_right": only_before,
        "chance": sign_test(only_now, only_before),
    }


def _scores(network: Any, pictures: NDArray[np.uint8], info: WeightsInfo) -> Scores:
    logits, unknown = outputs(network, pictures)
    return Scores(softmax(logits / info.temperature), unknown)


def _write_listing(path: Path, data: TrainingData, test: Scores, unknown: Scores | None, info: WeightsInfo) -> Path:
    """Every picture with its split; for those of test also the call and the probabilities behind it."""
    calls = call_rows(test, info) + (call_rows(unknown, info) if unknown is not None else [])
    known = iter(calls[: len(data.test.labels)])
    strange = iter(calls[len(data.test.labels) :])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "class", "split", *CALL_COLUMNS])
    for name, label, split in data.listing:
        call = [] if split != "test" else next(strange if label == UNKNOWN_LABEL else known)
        writer.writerow([name, NAMES[label], split, *call])
    write_whole(path, text.getvalue().encode())
    return path


def calibrate(trained: Trained, data: TrainingData, options: TrainOptions, name: str) -> WeightsInfo:
    """Temperature and thresholds from the validation cells (and ``unknown``), stain range from the training cells."""
    logits, unknown = outputs(trained.network, data.val.pictures)
    temperature = fit_temperature(logits, data.val.labels)
    unknown_above = fit_unknown(unknown)
    # Before unknown pictures tighten that: where they take a tenth of the cells, unsure calls are as wrong as ever.
    confidence = softmax(logits / temperature).max(axis=1)
    known, right = unknown <= unknown_above, logits.argmax(axis=1) == data.val.labels
    abstain_below = max(fit_abstention(confidence, known), fit_trust(confidence, right, known))
    if data.unknown is not None and len(data.unknown):
        _, strange = outputs(trained.network, data.unknown)
        lowest = float(np.quantile(unknown, KNOWN_KEPT))
        unknown_above = float(np.clip(np.quantile(strange, UNKNOWN_LET_THROUGH), lowest, unknown_above))
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
        abstain_below=math.floor(abstain_below * 1e6) / 1e6,  # a file keeps six digits: not above the cell that set it
        unknown_above=unknown_above,
        confusion=(),
        unknown_percentiles=tuple(np.percentile(unknown, [1, 50, 99]).tolist()),
        stain_od=tuple(tuple(float(v) for v in row) for row in percentiles),
        white_balanced=data.white_balanced,
    )


def judge_threshold(scores: Scores, labels: NDArray[Any], info: WeightsInfo) -> dict[str, Any]:
    """What the thresholds make of the validation cells that they were fixed on.

    Returns
    -------
    dict
        ``n``, ``coverage``, ``selective_accuracy``; ``raised``: whether the threshold is higher than ``COVERAGE`` asks
        for, ``accuracy_at_coverage`` what would be right there; ``shown``: whether the calls are enough, and right
        often enough, for ``WRONG_SHARE``.
    """
    confidence, known = scores.probabilities.max(axis=1), scores.unknown <= fit_unknown(scores.unknown)
    right = scores.probabilities.argmax(axis=1) == labels
    called = calls_made(scores, info)
    by_coverage = fit_abstention(confidence, known)
    wrong = int((called & ~right).sum())
    return {
        "n": len(labels),
        "raised": by_coverage < info.abstain_below,
        "accuracy_at_coverage": _share(right, known & (confidence >= by_coverage)),
        "coverage": float(called.mean()),
        "selective_accuracy": _share(right, called),
        "shown": (wrong + 1) / (int(called.sum()) + 1) <= WRONG_SHARE,
    }


def _share(right: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    return float(right[called].mean()) if called.any() else math.nan


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
        options = replace(options, epochs=request.epochs, least_steps=0)
    if request.patience is not None:
        options = replace(options, patience=request.patience)
    if request.init is not None:
        header = read_header(request.init)
        if header.get("architecture") != options.architecture:
            fitting = [name for name, recipe in RECIPES.items() if recipe.architecture == header.get("architecture")]
            raise UsageError(
                f"{request.init} is a {header.get('architecture')!r} network, not {options.architecture!r}.",
                f"Pass --recipe {' or '.join(fitting)}." if fitting else "No recipe is for such a network.",
            )
        # A tenth of the rate: a trained network would forget at the full one.
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
    of_all = (parts["train"], parts["val"], parts["test"])
    return TrainingData(*of_all, source, licence="CC BY 4.0", white_balanced=normalise)


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
    read: dict[str, ClassFolder] = {}
    by_hand = has_splits(folder)
    if by_hand:
        for name in SPLITS:
            part = read_class_folder(folder / name, um_per_px, already_cropped, progress=on_picture)
            names = tuple(f"{name}/{picture}" for picture in part.names)
            read[name] = replace(part, names=names)
        check_leaks({name: (part.crops, list(part.names)) for name, part in read.items()})
        check_classes(read["train"].labels)
        check_hand_split({name: part.labels for name, part in read.items()})
    else:
        everything = read_class_folder(folder, um_per_px, already_cropped, progress=on_picture)
        check_classes(everything.labels)
        for name, chosen in split_by_hash(everything.labels, everything.hashes, everything.names, seed).items():
            names = tuple(everything.names[i] for i in chosen)
            read[name] = ClassFolder(everything.crops[chosen], everything.labels[chosen], names, everything.as_cut)
    parts: dict[str, Pictures] = {}
    unknown: dict[str, NDArray[np.uint8]] = {}
    for name, part in read.items():
        known = part.labels != UNKNOWN_LABEL
        parts[name] = Pictures(part.crops[known], part.labels[known], float(CROP_PX))
        unknown[name] = part.crops[~known]
    if not len(unknown["train"]):
        logger.warning(
            "There is no %s/: how far to trust the unknown-score, on which blast-like cells are flagged, is not known.",
            "train/unknown" if by_hand else "unknown",
        )
    return TrainingData(
        parts["train"],
        parts["val"],
        parts["test"],
        f"pictures in {folder.name}",
        outliers=unknown["train"] if len(unknown["train"]) else None,
        unknown=unknown["val"],
        unknown_test=unknown["test"],
        at_random=not by_hand,
        listing=tuple(
            (picture, int(label), name)
            for name, part in read.items()
            for picture, label in zip(part.names, part.labels, strict=True)
        ),
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
    low, high = test["accuracy_interval"]
    lines = [
        f"{report.weights}  (sha256 {report.info.sha256[:12]}...)",
        f"On {test['n']} held-out cells: accuracy {test['accuracy']:.1%} ({low:.1%} to {high:.1%}), macro F1 "
        f"{test['macro_f1']:.3f}; {called_text(test)}.",
    ]
    for name, row in test["per_class"].items():
        low, high = row["recall_interval"]
        lines.append(f"  {name.replace('_', ' '):22}{row['recall']:6.1%} of {row['n']} ({low:.1%} to {high:.1%})")
    if "unknown_abstained" in test:
        lines.append(f"  {'unknown: no call':22}{test['unknown_abstained']:6.1%} of {test['unknown_n']}")
    if before := test.get("before"):
        lines.append(before_text(before))
    lines += report.notes
    return "\n".join(
        [
            *lines,
            f"Card and pictures: {report.files[2]}",
            "Local weights, not validated by the project: analyze --weights " + str(report.weights),
        ]
    )
