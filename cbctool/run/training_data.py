"""A laboratory's own pictures for training and validation: a sub-folder per class, checked before anything is trained.

Every picture goes through :func:`cbctool.imaging.crop.prepare_picture`, which is the code that fields go through.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbctool.errors import CalibrationError, InputError, TrainingDataError
from cbctool.imaging.crop import prepare_picture
from cbctool.imaging.read import read_field
from cbctool.records import CLASSES, CROP_PX

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Sub-folder of pictures that are none of the classes: they teach and set the abstention."""

UNKNOWN_LABEL = len(CLASSES)
"""Label of the pictures of ``unknown/``."""

NAMES = (*map(str, CLASSES), UNKNOWN)
"""Sub-folders that a folder of single cells may have, by label."""

SPLITS = ("train", "val", "test")

HELD_OUT = 0.15
"""Share of every class for val, and as much for test."""

UNKNOWN_HELD_OUT = 0.25
"""The same of ``unknown/``: the threshold is a far quantile of what is often a few dozen pictures."""

_IGNORED = {"thumbs.db", "desktop.ini"}
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class ClassFolder:
    """Prepared windows of a folder.

    Attributes
    ----------
    crops : (N, 28, 28, 3) uint8 array
    labels : (N,) int array
        Positions in ``CLASSES``, or ``UNKNOWN_LABEL``.
    names : tuple of str
        Path of each relative to the folder.
    as_cut : (N, 28, 28, 3) uint8 array
        The same windows without normalisation; empty where they were not asked for.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    as_cut: NDArray[np.uint8]

    @property
    def hashes(self) -> tuple[str, ...]:
        """sha256 of the windows' pixels: the same window under two names has one hash."""
        return tuple(hashlib.sha256(crop.tobytes()).hexdigest() for crop in self.crops)


def read_class_folder(
    folder: Path,
    um_per_px: float | None = None,
    already_cropped: bool = False,
    progress: Callable[[int, int], None] | None = None,
    with_as_cut: bool = False,
) -> ClassFolder:
    """Read and prepare every picture of ``folder/<class>/``.

    Raises
    ------
    TrainingDataError
        If the folder is not there, a sub-folder is no class, a class is empty, or pictures cannot be read or prepared.
    """
    found = list_class_folder(folder)
    total = sum(map(len, found.values()))
    crops: list[NDArray[np.uint8]] = []
    as_cut: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names: list[str] = []
    faults: list[str] = []
    done = 0
    for name, paths in found.items():
        for path in paths:
            done += 1
            if progress is not None:
                progress(done, total)
            relative = path.relative_to(folder).as_posix()
            try:
                rgb = read_field(path, folder.name, relative).rgb
                crop = prepare_picture(rgb, um_per_px, already_cropped)
                if with_as_cut:
                    as_cut.append(prepare_picture(rgb, um_per_px, already_cropped, normalise=False))
            except CalibrationError as error:
                raise TrainingDataError(
                    f"{relative}: {error.message}", "Pass --um-per-px, or --already-cropped if these are 19 um windows."
                ) from error
            except InputError as error:
                faults.append(f"{relative} ({error.message})")
                continue
            crops.append(crop)
            labels.append(NAMES.index(name))
            names.append(relative)
    if faults:
        shown = f"{'; '.join(faults[:_SHOWN])}{_more(len(faults))}"
        raise TrainingDataError(
            f"{len(faults)} of {total} pictures in {folder} cannot be read: {shown}.",
            "Mend or remove them; nothing has been trained or written.",
        )
    return ClassFolder(_stack(crops), np.array(labels, np.int64), tuple(names), _stack(as_cut))


def has_splits(folder: Path) -> bool:
    """Whether the folder is divided into train, val and test by hand.

    Raises
    ------
    TrainingDataError
        If one of the three is missing, or other folders lie beside them.
    """
    if not any((folder / split).is_dir() for split in SPLITS):
        return False
    missing = [split for split in SPLITS if not (folder / split).is_dir()]
    if missing:
        raise TrainingDataError(
            f"{folder} is divided by hand, but has no {' and no '.join(missing)}.",
            "Give all of train, val and test, or the classes alone: they are divided at random then.",
        )
    beside = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in SPLITS and p.name[0] != ".")
    if beside:
        raise TrainingDataError(
            f"{folder} has sub-folders beside train, val and test: {', '.join(beside)}.",
            "Put their pictures into the three (unknown/ may lie in each of them), or move them away.",
        )
    return True


def list_class_folder(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class sub-folder, in a fixed order.

    Raises
    ------
    TrainingDataError
        As :func:`read_class_folder`, as far as names and numbers tell.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Check the path of the pictures.")
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not subfolders:
        raise TrainingDataError(
            f"{folder} has no sub-folders.", f"Put the pictures into one sub-folder per class: {', '.join(NAMES)}."
        )
    strangers = [p.name for p in subfolders if p.name not in NAMES]
    if strangers:
        raise TrainingDataError(
            f"{folder} has sub-folders that are no class: {', '.join(strangers)}.",
            f"Rename them to one of {', '.join(NAMES)}, or move them away.",
        )
    found = {
        p.name: sorted(q for q in p.iterdir() if q.is_file() and q.name.lower() not in _IGNORED and q.name[0] != ".")
        for p in subfolders
    }
    if deeper := [
        f"{p.name}/{q.name}" for p in subfolders for q in sorted(p.iterdir()) if q.is_dir() and q.name[0] != "."
    ]:
        logger.warning(
            "Folders within classes are not looked into: %s%s.", ", ".join(deeper[:_SHOWN]), _more(len(deeper))
        )
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise TrainingDataError(
            f"{folder} has empty classes: {', '.join(empty)}.", "Add pictures or remove the sub-folders."
        )
    return found


def check_classes(labels: NDArray[np.int64]) -> None:
    """Refuse classes (and unknown pictures) too few to be both learnt and checked.

    Raises
    ------
    TrainingDataError
        If there are fewer than two classes, or one has fewer than three pictures.
    """
    counts = Counter(labels.tolist())
    if len(counts.keys() - {UNKNOWN_LABEL}) < 2:
        raise TrainingDataError("There is only one class to learn.", "Give pictures of at least two classes.")
    small = [f"{NAMES[label]} ({n})" for label, n in sorted(counts.items()) if n < 3]
    if small:
        raise TrainingDataError(
            f"Too few pictures to train, choose and check with: {', '.join(small)}.",
            "Give at least three different pictures of each class (hundreds for a useful result), or remove the class.",
        )


def check_hand_split(labels: dict[str, NDArray[np.int64]]) -> None:
    """Refuse what is to be checked and was never taught; tell what is taught and not checked.

    Parameters
    ----------
    labels : mapping of split name to (N,) labels

    Raises
    ------
    TrainingDataError
    """
    taught = set(labels["train"].tolist())
    for split in SPLITS[1:]:
        there = set(labels[split].tolist())
        if untaught := sorted(there - taught - {UNKNOWN_LABEL}):
            raise TrainingDataError(
                f"{split}/ has classes that train/ lacks: {', '.join(NAMES[i] for i in untaught)}.",
                "Add pictures of them to train/, or remove them.",
            )
        if not there - {UNKNOWN_LABEL}:
            raise TrainingDataError(f"{split}/ has no pictures of a class.", "Add some, at best of every class.")
        if unchecked := sorted(taught - there):
            logger.warning(
                "%s/ has no %s: nothing will be known of them.", split, ", ".join(NAMES[i] for i in unchecked)
            )


def split_by_hash(
    labels: NDArray[np.int64], hashes: tuple[str, ...], names: tuple[str, ...], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Divide every class at random: 70 % train, 15 % val, 15 % test; of unknown pictures 50, 25 and 25 %.

    Identical windows stay together.

    Raises
    ------
    TrainingDataError
        If one window carries two classes.
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(hashes):
        groups.setdefault(digest, []).append(index)
    torn = [members for members in groups.values() if len({int(labels[i]) for i in members}) > 1]
    if torn:
        shown = "; ".join(" = ".join(names[i] for i in members) for members in torn[:_SHOWN])
        raise TrainingDataError(
            f"The same picture is in two classes: {shown}{_more(len(torn))}.", "Decide which class it is."
        )
    repeated = sum(len(members) - 1 for members in groups.values())
    if repeated:
        logger.warning("Pictures that repeat another: %d; each stays in one split with its twin.", repeated)
    rng = np.random.default_rng(seed)
    split: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels):
        mine = [members for members in groups.values() if labels[members[0]] == label]
        if len(mine) < 3:
            raise TrainingDataError(
                f"{NAMES[label]} has only {len(mine)} different pictures.", "Give at least three of each class."
            )
        held = max(1, round((UNKNOWN_HELD_OUT if label == UNKNOWN_LABEL else HELD_OUT) * len(mine)))
        for rank, position in enumerate(rng.permutation(len(mine))):
            part = "val" if rank < held else "test" if rank < 2 * held else "train"
            split[part] += mine[position]
    return {part: np.array(sorted(indices), np.int64) for part, indices in split.items()}


def check_leaks(splits: dict[str, tuple[NDArray[np.uint8], list[str]]]) -> None:
    """Refuse splits made by hand that share a window.

    Parameters
    ----------
    splits : mapping of split name to (windows, names with the split before them)

    Raises
    ------
    TrainingDataError
    """
    seen: dict[str, tuple[str, str]] = {}
    leaks = []
    for part, (crops, names) in splits.items():
        for crop, name in zip(crops, names, strict=True):
            digest = hashlib.sha256(crop.tobytes()).hexdigest()
            first = seen.setdefault(digest, (part, name))
            if first[0] != part:
                leaks.append(f"{first[1]} = {name}")
    if leaks:
        raise TrainingDataError(
            f"The same pictures are in two splits: {'; '.join(leaks[:_SHOWN])}{_more(len(leaks))}.",
            "Remove them from one: a network would be checked on what it has seen.",
        )


def _stack(crops: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack(crops) if crops else np.empty((0, CROP_PX, CROP_PX, 3), np.uint8)


def _more(count: int) -> str:
    """What follows a list of which only the first few are shown."""
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""
