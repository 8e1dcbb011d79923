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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cbctool.run.discover import is_temporary, natural_key

logger = logging.getLogger(__name__)

DONE_MARKER = "done"
"""A file of this name in a folder of fields says that nobody is at the microscope any more."""

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
        self._refused: set[str] = set()

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
            entries = sorted(self._entries(), key=lambda one: natural_key(one[0]))
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
        for name, signature, patience in entries:
            present.add(name)
            seen = self._seen.get(name)
            if seen is None or seen.signature != signature:
                seen = self._seen[name] = _Seen(signature, now)
            if not seen.told and now - seen.since >= patience:
                seen.told = True
                settled.append(Settled(self.folder / name, signature))
        for name in set(self._seen) - present:
            del self._seen[name]
        return settled

    def forget(self, path: Path) -> None:
        """Have an entry told again, for instance to try it once more."""
        self._seen.pop(path.name, None)

    def next_due(self, now: float) -> float:
        """Seconds until something may settle; infinity if nothing is on the way."""
        waits = [seen.since + self._patience_of(seen.signature) - now for seen in self._seen.values() if not seen.told]
        return max(0.0, min(waits, default=float("inf")))

    def _patience_of(self, signature: Signature) -> float:
        if len(signature) == 1 and signature[0][0] == "":
            return self.settle_s
        return self.settle_s if any(name == DONE_MARKER for name, _, _ in signature) else self.settle_folder_s

    def _entries(self) -> Iterator[tuple[str, Signature, float]]:
        home = self.folder.resolve(strict=True)
        with os.scandir(self.folder) as listing:
            for entry in listing:
                if is_temporary(entry.name) or not self._inside(entry.path, home):
                    continue
                try:
                    signature = _signature(Path(entry.path))
                except OSError:
                    continue  # vanished between the listing and the look
                if signature:
                    yield entry.name, signature, self._patience_of(signature)

    def _inside(self, path: str, home: Path) -> bool:
        """Refuse links that lead out of the inbox."""
        if not Path(path).is_symlink():
            return True
        try:
            target = Path(path).resolve(strict=True)
        except (OSError, RuntimeError):
            return False
        if target.is_relative_to(home):
            return True
        if path not in self._refused:
            self._refused.add(path)
            logger.warning("%s is a link out of the inbox and is ignored", path)
        return False


def _signature(path: Path) -> Signature:
    """Names, sizes and modification times of a file, or of the files in a folder; empty if there is nothing yet."""
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        return (("", status.st_size, status.st_mtime_ns),)
    if not stat.S_ISDIR(status.st_mode):
        return ()
    found = []
    with os.scandir(path) as listing:
        for entry in listing:
            if entry.name != DONE_MARKER and is_temporary(entry.name):
                continue
            inner = entry.stat()
            if stat.S_ISREG(inner.st_mode):
                found.append((entry.name, inner.st_size, inner.st_mtime_ns))
    pictures = [one for one in found if one[0] != DONE_MARKER]
    return tuple(sorted(found)) if pictures else ()
