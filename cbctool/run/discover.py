"""Find the slides in what the user points at, and say what was left out and why.

A slide is a picture directly in the folder; a sub-folder of field pictures (one level deep); or a whole-slide file. No
pixel is decoded here: a file with a picture's ending is taken at its word, and the reader has the last one.
"""

from __future__ import annotations

import hashlib
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cbctool.errors import InputError, UsageError
from cbctool.imaging.headers import EXTENSIONS, looks_like, sniff
from cbctool.imaging.read import open_regular, printable
from cbctool.imaging.whole_slide import WHOLE_SLIDE_EXTENSIONS, companions, is_whole_slide
from cbctool.records import Failure, Slide
from cbctool.run.sheet import SHEET_NAME, SheetRow, read_sheet

# fmt: off
SIDECARS = frozenset({
    ".csv", ".tsv", ".txt", ".md", ".rst", ".xml", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".ini", ".cfg",
    ".log", ".pdf", ".doc", ".docx", ".odt", ".rtf", ".xls", ".xlsx", ".ods", ".html", ".htm", ".css", ".js",
    ".py", ".ipynb", ".sha256", ".md5", ".npy", ".npz", ".zip", ".gz", ".tar", ".7z", ".rar", ".xmp", ".aae",
    ".db", ".sqlite", ".lnk", ".url", ".dat", ".idx", ".xmd", ".roi", ".hl7", ".done",
})
"""Endings of files that lie beside pictures and are none: ignored with a note."""

_TEMPORARY_ENDINGS = (
    ".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".swp", ".lock", "~",
)
_SYSTEM_NAMES = frozenset({
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "done", "__macosx", "$recycle.bin",
    "system volume information", "@eadir", "lost+found",
})
_RUN_FILES = frozenset({
    "summary.csv", "failures.csv", "index.html", "run.json", "journal.sqlite", "heartbeat.json", "failed",
})
# fmt: on
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³]) *(\..*)?", re.IGNORECASE)
_MAX_NAME_BYTES = 180  # of the 255 that file systems allow; the rest is room for suffixes of temporary names


@dataclass(frozen=True)
class Discovery:
    """What was found: ``slides`` in natural order, ``failures`` as rows of ``failures.csv``, ``notes`` as sentences."""

    slides: tuple[Slide, ...]
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def discover_slides(
    path: Path, one_slide: str | bool | None = None, out: Path | None = None, sheet: Path | None = None
) -> Discovery:
    """Find the slides at ``path``.

    Parameters
    ----------
    path : Path
        A folder, or one picture or whole-slide file.
    one_slide : str or bool, optional
        Take the pictures of a flat folder, or the one file, as one slide of this name (True: the folder's or file's).
    out : Path, optional
        Where the reports will go; refused inside the input, where the next run would read them as slides.
    sheet : Path, optional
        The slide sheet; without it ``slides.csv`` in the folder, if there is one.

    Returns
    -------
    Discovery

    Raises
    ------
    InputError
        Nothing is there, or nothing in it could be a slide.
    UsageError
        The slide sheet has a fault, or ``out`` lies inside the input.
    """
    shown = printable(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{shown} does not exist.", "Check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no valid path"
        raise InputError(
            f"{shown} cannot be opened: {reason.lower()}.", "Check the path and its permissions."
        ) from None
    if not stat.S_ISDIR(mode):
        found = _single_file(path, mode, shown)
        if isinstance(one_slide, str):
            found = replace(found, slides=(replace(found.slides[0], name=clean_name(one_slide)),))
    else:
        if out is not None and _inside(out, path):
            raise UsageError(
                f"The output folder {printable(out)} lies inside the input {shown}.",
                "Choose one outside it with --out.",
            )
        top = _list(path)
        if sheet is None and SHEET_NAME in top.ignored:
            sheet = path / SHEET_NAME
        top.ignored = [name for name in top.ignored if path / name != sheet]
        found = _one_slide(path, one_slide, top) if one_slide else _folder(path, top)
    if not found.slides and not found.failures:
        raise InputError(
            f"{shown} holds no picture.", " ".join(found.notes) or f"Pictures end in {', '.join(sorted(EXTENSIONS))}."
        )
    return _with_sheet(found, read_sheet(sheet), printable(sheet)) if sheet is not None else found


def field_name(slide: Slide, path: Path) -> str:
    """Name a field: its path relative to the slide, with ``/`` between parts and nothing unprintable."""
    return clean_name(path.relative_to(slide.root).as_posix())


def folder_name(name: str) -> str:
    """Turn a slide's name into one that every file system takes as a folder and that is no file of the run's own.

    Characters that Windows refuses become ``_``, and a name of more than 180 bytes is cut and marked with its own hash,
    so that different names stay different.
    """
    safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).rstrip(". ") or "_"
    if safe.startswith("."):
        safe = "_" + safe[1:]
    if safe.lower() in _RUN_FILES:
        safe += "_"
    if _WINDOWS_DEVICES.fullmatch(safe):
        safe = "_" + safe  # before it: nul.a_ would still be the device
    if safe != name or len(safe.encode()) > _MAX_NAME_BYTES:
        mark = "-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = safe.encode()[: _MAX_NAME_BYTES - len(mark)].decode(errors="ignore").rstrip(". ") + mark
    return safe


def slide_files(slide: Slide) -> tuple[Path, ...]:
    """List every file that a slide's pixels come from: its fields, or a whole-slide file and its companions."""
    if not slide.whole_slide:
        return slide.paths
    beside = [inner for one in sorted(companions(slide.paths[0])) for inner in _files_below(one)]
    return slide.paths + tuple(one for one in beside if one != slide.paths[0])


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key in which ``field 2`` comes before ``field 10``."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", unicodedata.normalize("NFC", name).casefold())
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts], name


def clean_name(name: str) -> str:
    """Replace what cannot be printed on one line (control characters, undecodable bytes) by U+FFFD."""
    return "".join(c if c.isprintable() else "�" for c in name)


def is_temporary(name: str) -> bool:
    """Tell whether a file is one of the operating system's, hidden, or still being written."""
    lower = name.lower()
    return lower.startswith((".", "~$")) or lower.endswith(_TEMPORARY_ENDINGS) or lower in _SYSTEM_NAMES


# ------------------------------------------------------------------------------------------------------------- places


@dataclass
class _Listing:
    """The entries of one folder, sorted by what they are."""

    pictures: list[Path]
    whole_slides: list[Path]
    folders: list[Path]
    ignored: list[str]
    failures: list[Failure]


def _list(folder: Path) -> _Listing:
    listing = _Listing([], [], [], [], [])
    try:
        entries = sorted(
            (one for one in folder.iterdir() if not is_temporary(one.name)), key=lambda p: natural_key(p.name)
        )
    except OSError as error:
        listing.failures.append(_failure(folder, f"cannot be listed: {_said(error)}", "Check its permissions."))
        return listing
    skipped: set[Path] = set()
    files: list[Path] = []
    for path in entries:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            listing.failures.append(_failure(path, f"cannot be opened: {_said(error)}", "Check the link or the file."))
            continue
        if stat.S_ISDIR(mode):
            listing.folders.append(path)
        else:
            files.append(path)
    for path in files:
        if path.suffix.lower() in WHOLE_SLIDE_EXTENSIONS and is_whole_slide(path):
            if path not in skipped:
                listing.whole_slides.append(path)
            skipped |= companions(path)
    for path in files:
        suffix = path.suffix.lower()
        if path in skipped or path in listing.whole_slides:
            continue
        if suffix in EXTENSIONS:
            listing.pictures.append(path)
        elif suffix in SIDECARS:
            listing.ignored.append(path.name)
        else:
            head = _head(path)
            if sniff(head):
                listing.pictures.append(path)
            elif not head and not suffix:
                listing.ignored.append(path.name)
            else:
                what = looks_like(head) if head else "empty"
                listing.failures.append(
                    _failure(path, f"is no picture that can be read: it is {what}", "Save it as PNG, JPEG or TIFF.")
                )
    listing.folders = [one for one in listing.folders if one not in skipped]
    return listing


def _fields(listing: _Listing) -> tuple[Path, ...]:
    """The pictures of a folder as fields of one slide; of two whose names are printed alike one is a failure.

    Cells, pictures and hashes go by the field's name.
    """
    fields: dict[str, Path] = {}
    for path in listing.pictures:
        if fields.setdefault(clean_name(path.name), path) is not path:
            what = "is printed like another picture of its folder, since its name is not valid text"
            listing.failures.append(_failure(path, what, "Rename it."))
    return tuple(fields.values())


def _folder(path: Path, top: _Listing) -> Discovery:
    slides = [(_file_slide(one), one.name) for one in top.pictures]
    slides += [(_file_slide(one, True), one.name) for one in top.whole_slides]
    failures, ignored, notes = top.failures, top.ignored, []
    for folder in top.folders:
        try:
            target = folder.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            failures.append(_failure(folder, f"cannot be followed: {_said(error)}", "Remove the link."))
            continue
        if path.resolve().is_relative_to(target):
            failures.append(_failure(folder, "is a link to a folder that holds it", "Remove the link."))
            continue
        inner = _list(folder)
        fields = _fields(inner)
        failures += [replace(one, slide=clean_name(folder.name)) for one in inner.failures]
        ignored += [f"{folder.name}/{one}" for one in inner.ignored]
        slides += [(_file_slide(one, True), f"{folder.name} {one.name}") for one in inner.whole_slides]
        if fields:
            slides.append((Slide(clean_name(folder.name), folder, fields), folder.name))
        for deeper in inner.folders:
            notes.append(
                f"{printable(deeper.relative_to(path))} lies deeper than one folder and was skipped; "
                f"to analyse it, give {printable(folder)} itself."
            )
        if not (inner.pictures or inner.whole_slides or inner.folders or inner.ignored or inner.failures):
            failures.append(_failure(folder, "is an empty folder", "Put the slide's pictures into it, or remove it."))
    return Discovery(_unique_names(slides), tuple(failures), tuple(notes + _ignored_note(ignored)))


def _one_slide(path: Path, one_slide: str | bool, top: _Listing) -> Discovery:
    name = one_slide if isinstance(one_slide, str) else path.resolve().name or "slide"
    notes = [f"{printable(one.name)} is a folder and was skipped; a slide is one flat folder." for one in top.folders]
    fields = _fields(top)
    failures = top.failures + [
        _failure(one, "is a whole-slide file among the fields of one slide", "Analyse it without --one-slide.")
        for one in top.whole_slides
    ]
    slides = (Slide(clean_name(name), path, fields),) if fields else ()
    return Discovery(slides, tuple(failures), tuple(notes + _ignored_note(top.ignored)))


def _single_file(path: Path, mode: int, shown: str) -> Discovery:
    if not stat.S_ISREG(mode):
        raise InputError(f"{shown} is neither a file nor a folder.", "Give a picture or a folder of pictures.")
    suffix = path.suffix.lower()
    whole = suffix in WHOLE_SLIDE_EXTENSIONS and is_whole_slide(path)
    if not whole and suffix not in EXTENSIONS:
        head = _head(path)
        if not sniff(head):
            what = f"it is {looks_like(head)}" if head else "it is empty"
            raise InputError(
                f"{shown} is no picture that can be read: {what}.", "Give a PNG, JPEG, TIFF or whole-slide file."
            )
    return Discovery((_file_slide(path, whole),))


def _file_slide(path: Path, whole_slide: bool = False) -> Slide:
    return Slide(clean_name(path.stem), path.parent, (path,), whole_slide)


def _unique_names(slides: Iterable[tuple[Slide, str]]) -> tuple[Slide, ...]:
    """Make names differ, also where case is ignored: one that clashes takes its longer name, then a number.

    ``slides`` come with that longer name: the file's with its ending.
    """

    def key(name: str) -> str:
        return folder_name(unicodedata.normalize("NFC", name)).casefold()

    ordered = sorted(slides, key=lambda one: natural_key(one[1]))
    counts = Counter(key(slide.name) for slide, _ in ordered)
    taken: set[str] = set()
    result = []
    for slide, longer in ordered:
        name = base = clean_name(longer) if counts[key(slide.name)] > 1 else slide.name
        number = 2
        while key(name) in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(key(name))
        result.append(replace(slide, name=name))
    return tuple(sorted(result, key=lambda one: natural_key(one.name)))


def with_row(slide: Slide, row: SheetRow) -> Slide:
    """The slide with what its row of the slide sheet says."""
    return replace(
        slide,
        um_per_px=row.um_per_px,
        wbc_10e9_per_l=row.wbc_10e9_per_l,
        wbc_uncorrected=row.wbc_uncorrected,
        age_years=row.age_years,
        sample_id=row.sample_id,
        comment=row.comment,
        consecutive=row.consecutive,
    )


def _with_sheet(found: Discovery, sheet: dict[str, SheetRow], shown: str) -> Discovery:
    slides = []
    rows = {unicodedata.normalize("NFC", name): row for name, row in sheet.items()}
    for slide in found.slides:
        row = rows.pop(unicodedata.normalize("NFC", slide.name), None)
        slides.append(slide if row is None else with_row(slide, row))
    absent = tuple(
        f"{shown}, row {row.row}: there is no slide {printable(name)!r} in the input." for name, row in rows.items()
    )
    return replace(found, slides=tuple(slides), notes=found.notes + absent)


def _inside(inner: Path, outer: Path) -> bool:
    try:
        return inner.resolve().is_relative_to(outer.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _ignored_note(names: list[str]) -> list[str]:
    if not names:
        return []
    some = ", ".join(printable(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"Ignored, being no pictures: {some}."]


def _failure(path: Path, what: str, advice: str) -> Failure:
    return Failure(clean_name(path.stem), printable(path), f"{printable(path.name)} {what}.", advice)


def _said(error: OSError | RuntimeError) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()


def _head(path: Path) -> bytes:
    """The first bytes of a regular file, empty where it is none or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(4096)
    except (OSError, InputError):
        return b""


def _files_below(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
