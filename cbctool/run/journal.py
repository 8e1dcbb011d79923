"""What became of every slide of a watched folder, in a small SQLite file that survives a power cut.

One row per slide: queued, running, done or failed, with reason, attempts and times. The journal says what was tried;
that a slide is *done* is said by its report folder alone (its manifest), so that the two cannot disagree about results.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cbctool.errors import OutputError

NAME = "journal.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS slides (
  slide TEXT PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,
  signature TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  attempts INTEGER NOT NULL DEFAULT 0,
  queued_at TEXT NOT NULL,
  started_at TEXT NOT NULL DEFAULT '',
  finished_at TEXT NOT NULL DEFAULT ''
);
"""


class State(StrEnum):
    """Where a slide stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """One slide of the journal; times are ISO 8601 UTC, empty where not reached."""

    slide: str
    path: str
    signature: str
    state: str
    reason: str
    attempts: int
    queued_at: str
    started_at: str
    finished_at: str


class Journal:
    """The journal in an output folder; a context manager.

    Raises
    ------
    OutputError
        If the file cannot be opened, written or is locked for longer than ``timeout_s``.
    """

    def __init__(self, folder: Path, read_only: bool = False, timeout_s: float = 30.0) -> None:
        self.path = folder / NAME
        with self._explained():
            if read_only:
                uri = f"{self.path.absolute().as_uri()}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True, timeout=timeout_s)
            else:
                self._db = sqlite3.connect(self.path, timeout=timeout_s, isolation_level=None)
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
        self._db.row_factory = sqlite3.Row

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.path}: the journal cannot be used ({error}).",
                "Check the folder's rights and free space, and that nothing else holds the file.",
            ) from error

    def queue(self, slide: str, path: Path, signature: str) -> None:
        """A new or changed slide is waiting; its attempts start anew."""
        with self._explained():
            self._db.execute("DELETE FROM slides WHERE path = ? OR slide = ?", (str(path), slide))
            self._db.execute(
                "INSERT INTO slides (slide, path, signature, state, queued_at) VALUES (?, ?, ?, ?, ?)",
                (slide, str(path), signature, State.QUEUED, _now()),
            )

    def start(self, slide: str) -> None:
        """A slide is in hand."""
        self._set(slide, "state = ?, started_at = ?, attempts = attempts + 1", State.RUNNING, _now())

    def finish(self, slide: str, reason: str = "") -> None:
        """A slide's report stands; ``reason`` names fields that failed."""
        self._set(slide, "state = ?, finished_at = ?, reason = ?", State.DONE, _now(), reason)

    def fail(self, slide: str, reason: str) -> None:
        """A slide could not be analysed this time."""
        self._set(slide, "state = ?, finished_at = ?, reason = ?", State.FAILED, _now(), reason)

    def requeue(self, slide: str) -> None:
        """Try a failed slide again; its attempts go on counting."""
        self._set(slide, "state = ?", State.QUEUED)

    def hand_back(self) -> None:
        """What was in hand when a run ended goes back to the queue, its broken-off attempt uncounted."""
        with self._explained():
            self._db.execute(
                "UPDATE slides SET state = ?, attempts = max(attempts - 1, 0) WHERE state = ?",
                (State.QUEUED, State.RUNNING),
            )

    def entries(self) -> list[Entry]:
        """All slides in the order in which they were queued."""
        with self._explained():
            rows = self._db.execute("SELECT * FROM slides ORDER BY queued_at, rowid").fetchall()
        return [Entry(**dict(row)) for row in rows]

    def counts(self) -> Mapping[str, int]:
        """Slides per state."""
        with self._explained():
            rows = self._db.execute("SELECT state, count(*) FROM slides GROUP BY state").fetchall()
        return {state.value: dict(map(tuple, rows)).get(state.value, 0) for state in State}

    def _set(self, slide: str, what: str, *values: object) -> None:
        with self._explained():
            self._db.execute(f"UPDATE slides SET {what} WHERE slide = ?", (*values, slide))


def status_text(folder: Path, as_json: bool = False) -> str:
    """What ``cbctool status`` prints: the slides of a watched output folder, and the heartbeat.

    Raises
    ------
    OutputError
        If there is no journal in the folder.
    """
    if not (folder / NAME).is_file():
        raise OutputError(f"{folder}: no journal is there.", "Give the --out folder of a `cbctool watch`.")
    with Journal(folder, read_only=True) as journal:
        entries, counts = journal.entries(), journal.counts()
    try:
        heartbeat = json.loads((folder / "heartbeat.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        heartbeat = None
    if as_json:
        slides = [asdict(entry) for entry in entries]
        return json.dumps({"counts": counts, "heartbeat": heartbeat, "slides": slides}, indent=1, ensure_ascii=False)
    lines = [", ".join(f"{number} {state}" for state, number in counts.items())]
    if heartbeat:
        lines.append(f"heartbeat {heartbeat['time']}, {heartbeat['state']}")
    for entry in entries:
        when = entry.finished_at or entry.started_at or entry.queued_at
        tries = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
        lines.append(f"{entry.state:8} {when}  {entry.slide}{tries}{f': {entry.reason}' if entry.reason else ''}")
    return "\n".join(lines)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
