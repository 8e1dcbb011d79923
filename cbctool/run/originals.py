"""Where originals go once their slide is done or given up: under a name that is free, whole or not at all.

Two things then say where an original lies, the folders and the journal. They are kept in step by one rule: the journal
is told first. What is not moved after all comes out of the inbox again and is known by its content; the other way
round, what comes next to its place would be taken for it.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cbctool.imaging.read import printable
from cbctool.imaging.whole_slide import companions
from cbctool.run import manifest
from cbctool.run.discover import folder_name
from cbctool.run.inbox import Inbox, Settled
from cbctool.run.journal import Entry, Journal

logger = logging.getLogger(__name__)


class Originals:
    """Moves originals out of an inbox, and keeps the journal's word on where they lie."""

    def __init__(self, inbox: Inbox, journal: Journal) -> None:
        self.inbox = inbox
        self.journal = journal

    def put_away(self, entry: Entry, folder: Path | None) -> None:
        """Put a slide's original where it was asked to go, unless it has changed since it was queued.

        What cannot be moved is logged, stays, and is moved when the inbox tells it again.
        """
        source = Path(entry.path)
        if folder is None or not self.inbox.holds(source):
            return
        settled = Settled(source, tuple(tuple(one) for one in json.loads(entry.signature)[0]))
        if self.inbox.changed(settled):
            return
        target = free_place(source, folder, self._taken)
        self.journal.moved(entry.slide, target.absolute())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            move(source, target)
        except OSError as error:
            self.journal.moved(entry.slide, source)
            if target.parent != folder:
                with suppress(OSError):
                    target.parent.rmdir()
            logger.warning("%s: cannot be moved to %s: %s", printable(source), folder, error)

    def _taken(self, place: Path) -> bool:
        """Whether something lies at a place, or lay there: the journal has one slide to a path."""
        return os.path.lexists(place) or self.journal.at(place.absolute()) is not None


def free_place(source: Path, folder: Path, taken: Callable[[Path], bool] = os.path.lexists) -> Path:
    """Where a slide's original goes in a folder: under its own name or a numbered one that is not ``taken``.

    A whole-slide file of many files, which name one another, keeps its name in a folder of its own.
    """
    if _parts(source):
        places = (folder / name / source.name for name in _numbered(source.stem, ""))
        return next(place for place in places if not (os.path.lexists(place.parent) or taken(place)))
    return next(place for name in _numbered(source.stem, source.suffix) if not taken(place := folder / name))


def _parts(source: Path) -> list[Path]:
    """The other files of a whole-slide file that are there."""
    return sorted(path for path in companions(source) if path.exists())


def _numbered(stem: str, suffix: str) -> Iterator[str]:
    """A name, and what it is called where others have it."""
    yield f"{stem}{suffix}"
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(2))


def move(source: Path, target: Path) -> None:
    """Move a slide's original, with the other files of a whole-slide file, to a place that is free.

    Over file systems it is copied and removed under a hidden name, so that nothing half-copied or half-removed is ever
    taken for the whole.

    Raises
    ------
    OSError
        If it cannot be moved; the original then still lies where it was.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for part in (*_parts(source), source):
            place = target if part == source else target.parent / part.name
            _rename(part, place)
            moved.append((part, place))
    except OSError:
        for part, place in moved:
            with suppress(OSError):
                _rename(place, part)
        raise


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    hidden = target.with_name(f".moving-{folder_name(target.name)}")
    manifest.remove(hidden)
    try:
        if source.is_dir():
            shutil.copytree(source, hidden, symlinks=True)
        else:
            shutil.copy2(source, hidden, follow_symlinks=False)
        manifest.flush(hidden)  # a power cut must not find the original gone and the copy empty, or still hidden
        hidden.rename(target)
        manifest.flush_names(target.parent)
    except BaseException:
        manifest.remove(hidden)
        raise
    gone = free_place(source.with_name(f".moved-{folder_name(source.name)}"), source.parent)
    try:
        source.rename(gone)
    except OSError:
        manifest.remove(target)
        raise
    with suppress(OSError):
        manifest.remove(gone)
