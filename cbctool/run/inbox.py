"""Watching a folder, without knowing what for: which entries have come to rest since the last look.

``Inbox.scan(now)`` is called again and again, at every event of the file system and at least every few seconds (network
shares send no events). An entry is a picture, a whole-slide file or a folder of fields; it is *settled* when its
signature (names, sizes, modification times) has not changed for long enough on the caller's own clock, so that neither
a clock that jumps nor a copy that keeps old modification times can make a half-copied file look finished.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cbctool.imaging.whole_slide import companions
from cbctool.run.discover import SIDECARS, is_temporary, natural_key
from cbctool.run.sheet import SHEET_NAME

logger = logging.getLogger(__name__)

DONE_MARKERS = frozenset({"done", "done.txt"})
"""A file of such a name in a folder of fields says that nobody is at the microscope any more; the second is what the
first becomes where Windows hides endings."""

MANY_FILED = (".mrxs", ".vms", ".vmu", ".dcm")
"""Whole-slide formats of several files or folders; they settle together and are one slide."""

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Settled:
    """An entry that has come to rest: its path, and the signature by which a later change is noticed."""

    path: Path
    signature: Signature


@dataclass
class _Seen:
    signature: Signature
    since: float
    told: bool = False


class Inbox:
    """The state of one watched folder.

    Parameters
    ----------
    folder : Path
    settle_s : float
        Seconds for which a file has to be quiet.
    settle_folder_s : float
        The same for a folder of fields without a file ``done`` in it.
    """

    def __init__(self, folder: Path, settle_s: float = 5.0, settle_folder_s: float = 300.0) -> None:
        self.folder = folder
        self.settle_s = settle_s
        self.settle_folder_s = settle_folder_s
        self.reachable = True
        self._seen: dict[str, _Seen] = {}
        self._refused: set[Path] = set()
        self._wholes: tuple[tuple[str, int], ...] = ()
        self._parts: dict[str, str] = {}

    def scan(self, now: float) -> list[Settled]:
        """Look once.

        Parameters
        ----------
        now : float
            Seconds on a clock that never goes back (``time.monotonic``).

        Returns
        -------
        list of Settled
            Entries that have come to rest since they were last told, each once per signature, in natural order. Empty
            while the folder cannot be reached (a share that dropped out); what was known stays known.
        """
        try:
            entries = list(self._entries())
        except OSError as error:
            if self.reachable:
                logger.warning("%s cannot be reached (%s); waiting for it to come back", self.folder, error.strerror)
            self.reachable = False
            return []
        if not self.reachable:
            logger.warning("%s is back", self.folder)
        self.reachable = True
        settled = []
        present = set()
        for name, signature in entries:
            present.add(name)
            seen = self._seen.get(name)
            if seen is None or seen.signature != signature:
                seen = self._seen[name] = _Seen(signature, now)
            if not seen.told and now - seen.since >= self._patience_of(signature):
                seen.told = True
                settled.append(Settled(self.folder / name, signature))
        for name in set(self._seen) - present:
            del self._seen[name]
        return sorted(settled, key=lambda one: natural_key(one.path.name))

    def holds(self, path: Path) -> bool:
        """Whether an entry was there at the last look."""
        return path.parent == self.folder and path.name in self._seen

    def inside(self, path: Path) -> bool:
        """Whether a path ends inside the inbox, wherever links lead it."""
        try:
            return path.resolve(strict=True).is_relative_to(self.folder.resolve(strict=True))
        except (OSError, RuntimeError):
            return False

    def changed(self, settled: Settled) -> bool:
        """Whether an entry is no longer what it was when it was told."""
        try:
            return self._whole_signature(settled.path, self.folder.resolve(strict=True)) != settled.signature
        except OSError:
            return True

    def tell_again(self) -> None:
        """Have everything told again that has come to rest."""
        for seen in self._seen.values():
            seen.told = False

    def forget(self, path: Path) -> None:
        """Have an entry told again, for instance to try it once more."""
        self._seen.pop(path.name, None)

    def next_due(self, now: float) -> float:
        """Seconds until something may settle; infinity if nothing is on the way."""
        waits = [seen.since + self._patience_of(seen.signature) - now for seen in self._seen.values() if not seen.told]
        return max(0.0, min(waits, default=float("inf")))

    def _patience_of(self, signature: Signature) -> float:
        one_file = signature[0][0] == ""
        done = any(name.lower() in DONE_MARKERS for name, _, _ in signature)
        return self.settle_s if one_file or done else self.settle_folder_s

    def _entries(self) -> Iterator[tuple[str, Signature]]:
        home = self.folder.resolve(strict=True)
        with os.scandir(self.folder) as listing:
            entries = {entry.name: entry for entry in listing if not is_temporary(entry.name)}
        self._find_parts(entries)
        for name, entry in entries.items():
            if name in self._parts or (entry.is_symlink() and not self._followed(Path(entry.path), home)):
                continue
            try:
                if _is_sidecar(name) and entry.is_file():
                    continue
                signature = self._whole_signature(entry, home)
            except OSError:
                continue  # vanished between the listing and the look
            if signature:
                yield name, signature

    def _find_parts(self, entries: Mapping[str, os.DirEntry[str]]) -> None:
        """Map each file or folder that is a part of a whole-slide file of many files to that file."""
        wholes = sorted((name for name in entries if name.lower().endswith(MANY_FILED)), key=natural_key)
        stamp = tuple((name, _modified(entries[name])) for name in wholes)
        if stamp != self._wholes:  # companions are read from the files: only when these changed
            found: dict[str, str] = {}
            for name in wholes:
                if name not in found:
                    found |= {path.name: name for path in companions(self.folder / name)}
            self._wholes, self._parts = stamp, found

    def _followed(self, link: Path, home: Path) -> bool:
        """Follow links within the inbox; refuse, saying so once, those that leave it, go round or lead nowhere."""
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError):
            return self._refuse(link, "leads nowhere")
        if home.is_relative_to(target):
            return self._refuse(link, "is a link to a folder that holds it")
        return target.is_relative_to(home) or self._refuse(link, "is a link out of the inbox")

    def _refuse(self, path: Path, why: str) -> bool:
        if path not in self._refused:
            self._refused.add(path)
            logger.warning("%s %s and is ignored", path, why)
        return False

    def _whole_signature(self, entry: os.DirEntry[str] | Path, home: Path) -> Signature:
        """Signature of an entry with those of the other files of a whole-slide file."""
        signature = self._signature(entry, home)
        for part in sorted(part for part, whole in self._parts.items() if whole == entry.name):
            with suppress(OSError):  # not there yet
                signature += self._signature(self.folder / part, home, part)
        return signature

    def _signature(self, entry: os.DirEntry[str] | Path, home: Path, prefix: str = "") -> Signature:
        """Names, sizes and modification times of a file, or of the files in a folder; empty if there is nothing yet.

        What is neither, a folder that may not be looked into, and one of folders alone has one too: whoever analyses it
        says why it fails.
        """
        # Not entry.stat(): Windows brings a folder's word on a file that grows up to date when that is closed.
        status = os.stat(entry)  # noqa: PTH116 - Path takes twice the time
        own = ((prefix, status.st_size, status.st_mtime_ns),)
        if not stat.S_ISDIR(status.st_mode):
            return own
        try:
            with os.scandir(entry) as listing:
                inner = list(listing)
        except PermissionError:
            return own
        found, deeper = [], []
        for one in inner:
            marker = one.name.lower() in DONE_MARKERS
            if (is_temporary(one.name) and not marker) or (
                one.is_symlink() and not self._followed(Path(one.path), home)
            ):
                continue
            name = f"{prefix}/{one.name}" if prefix else one.name
            try:
                status = os.stat(one)  # noqa: PTH116
            except PermissionError:  # it is there, and whoever analyses it says why it fails
                found.append((name, 0, 0))
                continue
            except OSError:
                continue  # vanished between the listing and the look
            if stat.S_ISDIR(status.st_mode):
                deeper.append((f"{name}/", 0, 0))
            else:
                found.append((name, status.st_size, status.st_mtime_ns))
        waiting = not prefix and all(_is_sidecar(name) and name.lower() not in DONE_MARKERS for name, _, _ in found)
        return tuple(sorted(deeper if waiting else found))


def _modified(entry: os.DirEntry[str]) -> int:
    try:
        return os.stat(entry).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _is_sidecar(name: str) -> bool:
    """Tell whether a file lies beside pictures and is none; the slide sheet is one that matters."""
    _, dot, ending = name.rpartition(".")
    return f"{dot}{ending}".lower() in SIDECARS and name != SHEET_NAME
