"""What became of every slide of a watched folder, in a small SQLite file that survives a power cut.

One row per slide: queued, running, done or failed, with reason, attempts and times. The journal says what was tried;
that a slide is *done* is said by its report folder alone (its manifest), so that the two cannot disagree about results.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cbctool.errors import InputError, OutputError
from cbctool.imaging.read import printable

logger = logging.getLogger(__name__)

NAME = "journal.sqlite"

SILENCE_S = 600.0
"""Age of a heartbeat from which ``status`` doubts that the watch is alive: a beat comes every few seconds, but for the
time that a large file takes over a slow share."""

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
CREATE INDEX IF NOT EXISTS slides_by_state ON slides (state);
"""

_USELESS = ("malformed", "not a database")
"""What SQLite says of a file that no waiting will mend."""


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
                # Only read, but opened to be written, which can undo what a kill left half-written. SQLite's "mode=ro"
                # could not, and takes no path of a Windows share.
                self._existing()
                self._db = sqlite3.connect(self.path, timeout=timeout_s)
            else:
                self._db = self._open(timeout_s)
        self._db.row_factory = sqlite3.Row
        self._timeout_s = timeout_s
        self._file = self.path.stat()

    def reopen(self) -> bool:
        """Open the file anew after a fault, and tell whether it is another: what was written down is then forgotten.

        A share that was away may have taken the open file with it. A file that is not there is not made: below the
        place of a share that is still away nothing is to be begun.
        """
        with self._explained():
            self._existing()
            database = self._open(self._timeout_s)
        database.row_factory = sqlite3.Row
        self._db.close()
        self._db = database
        before, self._file = self._file, self.path.stat()
        return not os.path.samestat(before, self._file)

    def _existing(self) -> None:
        if not self.path.is_file():
            raise sqlite3.OperationalError("it is not there")

    def _open(self, timeout_s: float) -> sqlite3.Connection:
        """Open or make the file; a damaged one is put beside, since the reports say by themselves what is done."""
        for _ in range(2):
            database = sqlite3.connect(self.path, timeout=timeout_s, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous=FULL")
                database.executescript(_SCHEMA)
                if database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                    return database
            except sqlite3.DatabaseError as error:
                if not any(words in str(error) for words in _USELESS):
                    database.close()
                    raise
            database.close()
            broken = self.path.with_name(f"journal-broken-{datetime.now(UTC):%Y%m%dT%H%M%S}.sqlite")
            self.path.replace(broken)
            self.path.with_name(f"{NAME}-journal").unlink(missing_ok=True)  # it would be rolled back into the new file
            logger.error("%s was damaged and is now %s; what is not done yet is tried anew", self.path, broken.name)
        return database

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:  # OSError: a damaged file that another program has open on Windows
            raise OutputError(
                f"{self.path}: the journal cannot be used ({error}).",
                "Check the folder's rights and free space, and that nothing else holds the file.",
            ) from error

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Write everything inside by one wait for the disk; an error inside takes all of it back."""
        if self._db.in_transaction:
            yield
            return
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._explained():
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()

    def queue(self, slide: str, path: Path, signature: str) -> None:
        """A new or changed slide is waiting; its attempts start anew."""
        with self.at_once(), self._explained():
            self._db.execute("DELETE FROM slides WHERE path = ? OR slide = ?", (_stored(path), slide))
            self._db.execute(
                "INSERT INTO slides (slide, path, signature, state, queued_at) VALUES (?, ?, ?, ?, ?)",
                (slide, _stored(path), signature, State.QUEUED, _now()),
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

    def moved(self, slide: str, path: Path) -> None:
        """A slide's original now lies elsewhere; what comes to its old place is another slide."""
        self._set(slide, "path = ?", _stored(path))

    def give_back(self, slide: str) -> None:
        """A slide in hand goes back to the queue, its broken-off attempt uncounted."""
        self._set(slide, "state = ?, attempts = max(attempts - 1, 0)", State.QUEUED)

    def hand_back(self) -> None:
        """Everything in hand goes back to the queue, the broken-off attempts uncounted."""
        with self._explained():
            self._db.execute(
                "UPDATE slides SET state = ?, attempts = max(attempts - 1, 0) WHERE state = ?",
                (State.QUEUED, State.RUNNING),
            )

    def recover(self) -> None:
        """What a crash left in hand goes back to the queue; the attempt counts, lest it crash for ever."""
        with self._explained():
            self._db.execute("UPDATE slides SET state = ? WHERE state = ?", (State.QUEUED, State.RUNNING))

    def entries(self, state: State | None = None) -> list[Entry]:
        """All slides, or those of one state, in the order in which they came."""
        where, values = ("", ()) if state is None else ("WHERE state = ?", (state,))
        with self._explained():
            rows = self._db.execute(f"SELECT * FROM slides {where} ORDER BY rowid", values).fetchall()
        return [_entry(row) for row in rows]

    def at(self, path: Path) -> Entry | None:
        """The slide whose original lies there."""
        return self._one("path", _stored(path))

    def named(self, slide: str) -> Entry | None:
        """The slide of that name."""
        return self._one("slide", slide)

    def _one(self, column: str, value: str | bytes) -> Entry | None:
        with self._explained():
            row = self._db.execute(f"SELECT * FROM slides WHERE {column} = ?", (value,)).fetchone()
        return None if row is None else _entry(row)

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
    InputError
        If there is no journal in the folder.
    """
    if not (folder / NAME).is_file():
        raise InputError(f"{folder}: no journal is there.", "Give the --out folder of a `cbctool watch`.")
    with Journal(folder, read_only=True) as journal:
        entries, counts = journal.entries(), journal.counts()
    try:
        heartbeat = json.loads((folder / "heartbeat.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        heartbeat = None
    if as_json:
        slides = [asdict(entry) | {"path": printable(entry.path)} for entry in entries]
        return json.dumps({"counts": counts, "heartbeat": heartbeat, "slides": slides}, indent=1, ensure_ascii=False)
    lines = [", ".join(f"{number} {state}" for state, number in counts.items())]
    if heartbeat:
        lines.append(_sign_of_life(heartbeat))
    for entry in entries:
        when = entry.finished_at or entry.started_at or entry.queued_at
        tries = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
        lines.append(f"{entry.state:8} {when}  {entry.slide}{tries}{f': {entry.reason}' if entry.reason else ''}")
    return "\n".join(lines)


def _sign_of_life(heartbeat: Mapping[str, str]) -> str:
    """The heartbeat in words, with a doubt where it is old."""
    text = f"heartbeat {heartbeat['time']}, {heartbeat['state']}"
    with suppress(ValueError):
        age = (datetime.now(UTC) - datetime.fromisoformat(heartbeat["time"])).total_seconds()
        if heartbeat["state"] != "stopped" and age > SILENCE_S:
            text += f"; no sign of life for {age / 60:.0f} minutes, is `cbctool watch` still running?"
    return text


def _stored(path: Path) -> str | bytes:
    """A path as SQLite can hold it: text, or bytes where a name is no valid UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return str(path)


def _entry(row: sqlite3.Row) -> Entry:
    columns = dict(row)
    return Entry(**{**columns, "path": os.fsdecode(columns["path"])})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
