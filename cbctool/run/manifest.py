"""What was done before: a slide's identity, the manifest beside its report, and writing without half-written files.

A slide is identified by the hash of its content, the weights and the options that change numbers. ``manifest.json`` is
part of the slide's folder, which appears whole by one rename: where it stands, the slide is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cbctool.errors import OutputError, ReportInUseError
from cbctool.imaging.read import printable
from cbctool.records import Slide

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PARTIAL_PREFIX = ".partial-"
"""Folders of this name are work in progress, of the process whose number they end in; without it they are removed."""
REPLACED_PREFIX = ".replaced-"

OWN_FILES = ("report.pdf", "report.html", "result.hl7", "fhir.json", MANIFEST)
"""Files of a report folder that are not carried over where the new report no longer has them."""

RENAME_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) if os.name == "nt" else ()
"""Before a rename is tried again: on Windows whoever looks at fresh files (virus scanners, the search) stops it."""

LONGEST_WRITING_S = 3600.0
"""A partial folder older than this is nobody's, whoever has its process number by now; a report has 600 s."""


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` holds: the slide's identity, its content's hash alone, and its row of ``summary.csv``."""

    slide: str
    identity: str
    content_sha256: str
    sizes: Sequence[int]  # of its files in bytes, sorted: equal content has equal sizes
    inputs: Mapping[str, str]  # field -> sha256 of the file
    row: Mapping[str, Any]

    @property
    def lacking(self) -> bool:
        """Whether fields are missing from the report, and no person has signed it as it is."""
        return self.row.get("status") == "partial" and not self.row.get("reviewer")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(inputs: Mapping[str, str]) -> str:
    """Hash of a slide's content whatever its files are called: over the sorted hashes of its fields."""
    return hashlib.sha256("\n".join(sorted(inputs.values())).encode()).hexdigest()


def identity(slide: Slide, inputs: Mapping[str, str], weights_sha256: str, options: Mapping[str, Any]) -> str:
    """Hash of everything that can change a slide's numbers: content, field names, slide sheet, weights, options."""
    sheet = {k: v for k, v in asdict(slide).items() if k not in ("root", "paths")}
    text = json.dumps(
        {"slide": sheet, "inputs": dict(sorted(inputs.items())), "weights": weights_sha256, "options": dict(options)},
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a slide's report folder; None where there is none that can be read (then the slide is redone)."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        row = {name: math.nan if value is None else value for name, value in data["row"].items()}
        return Manifest(**{**data, "row": row})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def manifest_text(manifest: Manifest) -> str:
    """``manifest.json`` as text, NaN as null; the same manifest gives the same bytes."""
    row = {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in manifest.row.items()
    }
    return json.dumps(asdict(manifest) | {"row": row}, indent=1, sort_keys=True, default=str, allow_nan=False) + "\n"


def finished_slides(out: Path) -> Iterator[Manifest]:
    """The manifests of all slides in an output folder, by name.

    Raises
    ------
    OutputError
        Where it cannot be listed.
    """
    try:
        folders = sorted(p for p in out.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be read ({error.strerror}).", "Check that the folder is there, then run again."
        ) from error
    for folder in folders:
        manifest = read_manifest(folder)
        if manifest is not None:
            yield manifest


def prepare_output(out: Path, clear: bool = True) -> None:
    """Make the output folder, check that it can be written to, and ``clear`` up after a run that was killed.

    Raises
    ------
    OutputError
        Where it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f"{PARTIAL_PREFIX}probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written to ({error.strerror}).",
            "Give another --out, or ask for the right to write there.",
        ) from error
    if not clear:
        return
    for folder in out.glob(f"{REPLACED_PREFIX}*"):
        place = out / folder.name.removeprefix(REPLACED_PREFIX)
        if place.exists():
            discard(folder)
        else:  # killed between the two renames of `put_in_place`
            folder.rename(place)
    discard_partial(out)


def discard_partial(out: Path) -> None:
    """Remove what a process that has ended was making, as far as that can be done."""
    with contextlib.suppress(OSError):
        for folder in out.glob(f"{PARTIAL_PREFIX}*"):
            if not _at_work(folder):
                discard(folder)


def _at_work(partial: Path) -> bool:
    """Whether the process that makes a partial folder lives: `report` or another run may share the output folder."""
    import psutil

    number = partial.name.rpartition("-")[2]
    try:
        young = time.time() - partial.stat().st_mtime < LONGEST_WRITING_S
    except OSError:
        return False
    if not (young and number.isdigit()):
        return False
    try:
        return psutil.Process(int(number)).status() != psutil.STATUS_ZOMBIE  # killed, and its parent has not looked yet
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def partial_folder(out: Path, name: str) -> Path:
    """A fresh folder to write a slide's files into, invisible to whoever lists reports."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    folder = out / f"{PARTIAL_PREFIX}{digest}-{os.getpid()}"
    discard(folder)
    folder.mkdir()
    return folder


def check_place(place: Path) -> None:
    """Refuse a place where something else lies than an earlier report: the pictures themselves, perhaps.

    Raises
    ------
    ReportInUseError
    """
    if not os.path.lexists(place) or _is_report(place):
        return
    raise ReportInUseError(
        f"{printable(place)} is in the way and is no report of cbctool; it is left as it is.", "Give another --out."
    )


def _is_report(folder: Path) -> bool:
    """Whether a folder is a report, of which files may be missing or damaged, or is empty."""
    with contextlib.suppress(OSError):
        return folder.is_dir() and (
            read_manifest(folder) is not None or (folder / "result.json").is_file() or not any(folder.iterdir())
        )
    return False


def put_in_place(folder: Path, place: Path) -> None:
    """Rename a finished folder to where it belongs; an earlier one goes only once the new one stands.

    What somebody has put beside the earlier report is carried over. The files reach the disk before the rename does, so
    that a power cut leaves no report of empty files.

    Raises
    ------
    ReportInUseError
        Where the earlier one cannot be taken away: on Windows, while a file of it is open. Where it is no report, or
        what somebody has put beside it may not be read.
    """
    check_place(place)
    if place.exists():
        try:
            _carry_over(place, folder)
        except (PermissionError, shutil.Error) as error:  # shutil.Error: the same, of files in a folder
            raise ReportInUseError(
                f"{printable(place)}: what was put beside the earlier report cannot be read.",
                "Give the right to read it, or take it away.",
            ) from error
    flush(folder)
    old = place.with_name(f"{REPLACED_PREFIX}{place.name}"[:255])
    if place.exists():
        discard(old)
        try:
            _rename(place, old)
        except OSError as error:
            raise ReportInUseError(
                f"{place}: the earlier report cannot be replaced ({error.strerror}).", "Close it where it is open."
            ) from error
    try:
        _rename(folder, place)
    except OSError:
        if old.exists() and not place.exists():
            _rename(old, place)
        raise
    discard(old)


def _rename(source: Path, target: Path) -> None:
    """Rename, over a file that is there, as soon as nobody looks at it any more."""
    for wait in RENAME_WAITS_S:
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(wait)
    source.replace(target)


def _carry_over(old: Path, new: Path) -> None:
    """Copy what in an earlier report's folder is not ours."""
    for path in old.iterdir():
        ours = path.name in OWN_FILES or (path.name.startswith("overlay_") and path.suffix == ".jpg")
        if ours or os.path.lexists(new / path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def flush(path: Path) -> None:
    """Have a file, or all files in a folder, reach the disk; what may not be opened is left to the system."""
    if path.is_dir():
        # The disk takes them together: 120 files take 0.4 s one after the other, 0.06 s from threads.
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(_flush, (inner for inner in path.rglob("*") if inner.is_file())))
    elif path.is_file():
        _flush(path)


def _flush(path: Path) -> None:
    # Windows flushes only what is open for writing; what was carried over may be for reading alone.
    with contextlib.suppress(PermissionError), path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Have the names in a folder reach the disk, where the system has a way to ask for it."""
    with contextlib.suppress(OSError):  # Windows, some network shares
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, even if it is for reading alone; what is not there is no matter.

    Linux keeps what lies in a folder for reading alone, and Windows a file that is.

    Raises
    ------
    OSError
    """
    try:
        _remove(path)
    except PermissionError:
        _make_writable(path)
        _remove(path)


def discard(path: Path) -> None:
    """The same, as far as it can be done."""
    with contextlib.suppress(OSError):
        remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _make_writable(path: Path) -> None:
    if path.is_symlink():
        return
    if path.is_dir():
        path.chmod(0o700)
        for inner in path.iterdir():
            _make_writable(inner)
    elif os.name == "nt":
        path.chmod(0o600)


def write_atomically(path: Path, text: str) -> None:
    """Write beside the place and rename, so that nobody ever reads half a file.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        _rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}).",
            "Free some space or check the folder's rights, then run again.",
        ) from error
