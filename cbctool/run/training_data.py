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
"""Sub-folder of pictures that are none of the classes: they set the abstention threshold."""

SPLITS = ("train", "val", "test")

_IGNORED = {"thumbs.db", "desktop.ini"}
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class ClassFolder:
    """Prepared windows of a folder.

    Attributes
    ----------
    crops : (N, 28, 28, 3) uint8 array
    labels : (N,) int array
        Positions in ``CLASSES``.
    names : tuple of str
        Path of each relative to the folder.
    hashes : tuple of str
        sha256 of the windows' pixels: the same window under two names has one hash.
    unknown : (M, 28, 28, 3) uint8 array
        Windows of ``unknown/``.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    unknown: NDArray[np.uint8]


def read_class_folder(
    folder: Path,
    um_per_px: float | None = None,
    already_cropped: bool = False,
    normalise: bool = True,
    progress: Callable[[int, int], None] | None = None,
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
    unknown: list[NDArray[np.uint8]] = []
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
                crop = prepare_picture(rgb, um_per_px, already_cropped, normalise)
            except CalibrationError as error:
                raise TrainingDataError(
                    f"{relative}: {error.message}", "Pass --um-per-px, or --already-cropped if these are 19 um windows."
                ) from error
            except InputError as error:
                faults.append(f"{relative} ({error.message})")
                continue
            if name == UNKNOWN:
                unknown.append(crop)
                continue
            crops.append(crop)
            labels.append([str(c) for c in CLASSES].index(name))
            names.append(relative)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise TrainingDataError(
            f"{len(faults)} of {total} pictures in {folder} cannot be read: {'; '.join(faults[:_SHOWN])}{more}.",
            "Mend or remove them; nothing has been trained or written.",
        )
    stacked = _stack(crops)
    hashes = tuple(hashlib.sha256(crop.tobytes()).hexdigest() for crop in stacked)
    return ClassFolder(stacked, np.array(labels, np.int64), tuple(names), hashes, _stack(unknown))


def has_splits(folder: Path) -> bool:
    """Whether the folder is divided into train, val and test by hand."""
    return all((folder / split).is_dir() for split in SPLITS)


def list_class_folder(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class sub-folder, in a fixed order.

    Raises
    ------
    TrainingDataError
        As :func:`read_class_folder`, as far as names and numbers tell.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Check the path of the pictures.")
    known = [str(name) for name in CLASSES] + [UNKNOWN]
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not subfolders:
        raise TrainingDataError(
            f"{folder} has no sub-folders.", f"Put the pictures into one sub-folder per class: {', '.join(known)}."
        )
    strangers = [p.name for p in subfolders if p.name not in known]
    if strangers:
        raise TrainingDataError(
            f"{folder} has sub-folders that are no class: {', '.join(strangers)}.",
            f"Rename them to one of {', '.join(known)}, or move them away.",
        )
    found = {
        p.name: sorted(q for q in p.iterdir() if q.is_file() and q.name.lower() not in _IGNORED and q.name[0] != ".")
        for p in subfolders
    }
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise TrainingDataError(
            f"{folder} has empty classes: {', '.join(empty)}.", "Add pictures or remove the sub-folders."
        )
    return found


def check_classes(labels: NDArray[np.int64]) -> None:
    """Refuse classes too small to be both learnt and checked.

    Raises
    ------
    TrainingDataError
        If there are fewer than two classes, or a class has fewer than three pictures.
    """
    counts = Counter(labels.tolist())
    if len(counts) < 2:
        raise TrainingDataError("There is only one class to learn.", "Give pictures of at least two classes.")
    small = [f"{CLASSES[label]} ({n})" for label, n in sorted(counts.items()) if n < 3]
    if small:
        raise TrainingDataError(
            f"Too few pictures to train, choose and check with: {', '.join(small)}.",
            "Give at least three different pictures of each class (hundreds for a useful result), or remove the class.",
        )


def split_by_hash(
    labels: NDArray[np.int64], hashes: tuple[str, ...], names: tuple[str, ...], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Divide pictures into train (70 %), val (15 %) and test (15 %) of every class; identical windows stay together.

    Raises
    ------
    TrainingDataError
        If one window carries two classes.
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(hashes):
        groups.setdefault(digest, []).append(index)
    for members in groups.values():
        if len({int(labels[i]) for i in members}) > 1:
            shown = ", ".join(names[i] for i in members[:_SHOWN])
            raise TrainingDataError(f"The same picture is in two classes: {shown}.", "Decide which class it is.")
    repeated = sum(len(members) - 1 for members in groups.values())
    if repeated:
        logger.warning("%d pictures are repeats of others; each stays in one split with its twin.", repeated)
    rng = np.random.default_rng(seed)
    split: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels):
        mine = [members for members in groups.values() if labels[members[0]] == label]
        if len(mine) < 3:
            raise TrainingDataError(
                f"{CLASSES[label]} has only {len(mine)} different pictures.", "Give at least three of each class."
            )
        held = max(1, round(0.15 * len(mine)))
        for rank, position in enumerate(rng.permutation(len(mine))):
            part = "val" if rank < held else "test" if rank < 2 * held else "train"
            split[part] += mine[position]
    return {part: np.array(sorted(indices), np.int64) for part, indices in split.items()}


def check_leaks(splits: dict[str, tuple[NDArray[np.uint8], list[str]]]) -> None:
    """Refuse splits made by hand that share a window.

    Parameters
    ----------
    splits : mapping of split name to (windows, names)

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
                leaks.append(f"{first[0]}/{first[1]} = {part}/{name}")
    if leaks:
        more = f" and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
        raise TrainingDataError(
            f"The same pictures are in two splits: {'; '.join(leaks[:_SHOWN])}{more}.",
            "Remove them from one: a network would be checked on what it has seen.",
        )


def _stack(crops: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack(crops) if crops else np.empty((0, CROP_PX, CROP_PX, 3), np.uint8)
