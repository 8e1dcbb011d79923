"""``cbctool watch``: an inbox, the journal and the pipeline, for months.

The loop is: look into the inbox, queue what has settled, analyse what is queued, beat. Results are kept by the slides'
own folders (:mod:`cbctool.run.manifest`), tries by the journal, and the file system's events only shorten the wait for
the next look: a look every ``poll_s`` seconds finds whatever they missed (network shares, full queues, inotify limits).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cbctool import __version__
from cbctool.errors import CbctoolError, InputError, OutputError, UsageError
from cbctool.records import Failure, Slide
from cbctool.run import manifest
from cbctool.run.analyse import with_twins_named, write_tables
from cbctool.run.discover import discover_slides, folder_name
from cbctool.run.inbox import Inbox, Settled
from cbctool.run.journal import Entry, Journal, State
from cbctool.run.pipeline import Analyser, Outcome, Settings, SlideDone, SlideFailed
from cbctool.run.sheet import SHEET_NAME

logger = logging.getLogger(__name__)

LOCK = ".watch.lock"
HEARTBEAT = "heartbeat.json"
SET_ASIDE = "failed"


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Attributes
    ----------
    settle_s, settle_folder_s : float
        Seconds for which a file, and a folder of fields, has to be quiet.
    poll_s : float
        Longest time between two looks.
    retry_waits_s : tuple of float
        Waits before the tries after the first; after the last one a slide is set aside. A share or a microscope PC that
        is busy comes back within minutes, a full disk within hours.
    min_free_bytes : int
        Nothing is begun while less is free in the output folder; 1 GB is about 300 slides' reports.
    metrics_port : int or None
        Prometheus text on 127.0.0.1, if given.
    move_done, move_failed : Path or None
        Where originals go after analysis; None leaves them.
    """

    settle_s: float = 5.0
    settle_folder_s: float = 300.0
    poll_s: float = 5.0
    events: bool = True
    retry_waits_s: tuple[float, ...] = (30.0, 300.0, 3600.0)
    min_free_bytes: int = 1_000_000_000
    metrics_port: int | None = None
    move_done: Path | None = None
    move_failed: Path | None = None


class StopWatching(BaseException):
    """SIGTERM: leave the loop wherever it is; not an error, so that nothing that handles errors swallows it."""


def watch(
    inbox: Path,
    settings: Settings,
    options: WatchOptions | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> None:
    """Analyse whatever arrives in ``inbox`` until SIGTERM or Ctrl-C.

    Raises
    ------
    InputError, UsageError, OutputError, WeightsError
        At the start, for what is wrong with the options. Later faults are written down and waited out.
    """
    options = options or WatchOptions()
    if not inbox.is_dir():
        raise InputError(f"{inbox} is not a folder.", "Make it, or give another.")
    for folder in (settings.out, options.move_done, options.move_failed):
        if folder is not None and folder.resolve().is_relative_to(inbox.resolve()):
            raise UsageError(f"{folder} lies inside the inbox {inbox}.", "Choose a folder outside it.")
    with (
        _only_one(settings.out),
        _stoppable() as stop,
        Journal(settings.out) as journal,
        Analyser(settings) as analyser,
        _events(inbox, stop, options.events),
        suppress(StopWatching),
    ):
        watcher = _Watcher(inbox, journal, analyser, options, on_outcome)
        try:
            with _metrics(options.metrics_port, watcher):
                while True:
                    watcher.turn()
                    stop.wait(min(options.poll_s, max(0.05, watcher.inbox.next_due(time.monotonic()))))
                    stop.clear()
        finally:
            journal.hand_back()
            watcher.beat("stopped")


class _Watcher:
    """The loop's state: what is in the inbox, when failed slides are due, how the last look went."""

    def __init__(
        self,
        inbox: Path,
        journal: Journal,
        analyser: Analyser,
        options: WatchOptions,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self.inbox = Inbox(inbox, options.settle_s, options.settle_folder_s)
        self.journal = journal
        self.analyser = analyser
        self.out = analyser.settings.out
        self.options = options
        self.on_outcome = on_outcome
        self.due: dict[str, float] = {}  # slide -> monotonic time of its next try
        self.counts: Mapping[str, int] = {}
        self.last_beat = 0.0
        self.paused = ""
        journal.hand_back()  # what a crash left running
        for entry in journal.entries():
            if entry.state == State.FAILED and not self._given_up(entry):
                self.due[entry.slide] = time.monotonic()

    def turn(self) -> None:
        """One look, and all the work that it brings; an output folder that fails is waited for."""
        try:
            self._turn()
        except OutputError as error:  # the journal is locked or the disk is full: nothing is lost, try again later
            self._pause(str(error))

    def _turn(self) -> None:
        now = time.monotonic()
        arrived = self.inbox.scan(now)
        try:
            for settled in arrived:
                self._queue(settled)
        except OutputError:
            for settled in arrived:  # nothing that could not be written down is forgotten
                self.inbox.forget(settled.path)
            raise
        for slide in [slide for slide, at in self.due.items() if at <= now]:
            self.journal.requeue(slide)
            del self.due[slide]
        self.beat("watching" if self.inbox.reachable else "inbox unreachable")
        queued = [entry for entry in self.journal.entries() if entry.state == State.QUEUED]
        if queued and self._room():
            self._analyse(queued)
            self.beat("watching")

    def _queue(self, settled: Settled) -> None:
        signature = json.dumps(settled.signature)
        known = {entry.path: entry for entry in self.journal.entries()}
        before = known.get(str(settled.path))
        if before is not None and before.signature == signature:
            stands = manifest.read_manifest(self.out / folder_name(before.slide)) is not None
            if before.state == State.FAILED or (before.state == State.DONE and stands):
                return
        name = before.slide if before is not None else self._name(settled.path, {e.slide for e in known.values()})
        if settled.path.name == SHEET_NAME:
            return
        self.journal.queue(name, settled.path, signature)
        logger.info("%s: queued", name)

    def _name(self, path: Path, taken: set[str]) -> str:
        """The slide's name: stem or folder name; the extension is kept where another slide has the stem."""
        stem = path.name if path.is_dir() else path.stem
        return path.name if stem in taken else stem

    def _room(self) -> bool:
        try:
            free = shutil.disk_usage(self.out).free
        except OSError as error:
            return self._pause(f"{self.out} cannot be reached ({error.strerror})")
        if free < self.options.min_free_bytes:
            return self._pause(
                f"{free / 1e9:.2f} GB free in {self.out}, {self.options.min_free_bytes / 1e9:g} GB needed"
            )
        if self.paused:
            logger.warning("going on")
        self.paused = ""
        return True

    def _pause(self, reason: str) -> bool:
        if not self.paused:
            logger.warning("waiting: %s", reason)
        self.paused = reason
        self.beat(f"waiting: {reason}")
        return False

    def _analyse(self, queued: list[Entry]) -> None:
        entries = {entry.slide: entry for entry in queued}
        done: list[SlideDone] = []
        failures: list[Failure] = []
        slides = with_twins_named([slide for entry in queued if (slide := self._slide(entry, failures))], self.out)

        def in_hand() -> Iterator[Slide]:
            for slide in slides:
                self.journal.start(slide.name)
                yield slide

        try:
            for outcome in self.analyser.run(in_hand()):
                match outcome:
                    case SlideDone():
                        done.append(outcome)
                        self.journal.finish(outcome.slide.name, "; ".join(f.error for f in outcome.failures))
                        (self.out / SET_ASIDE / f"{folder_name(outcome.slide.name)}.txt").unlink(missing_ok=True)
                        self._move(entries[outcome.slide.name], self.options.move_done)
                    case SlideFailed():
                        failures += outcome.failures
                        self._failed(entries[outcome.slide.name], outcome.failures)
                self.on_outcome(outcome)
                if time.monotonic() - self.last_beat > 5.0:
                    self.beat("analysing")
        except OutputError as error:  # disk full, rights lost: wait for a person, lose nothing
            self.journal.hand_back()
            self._pause(str(error))
        rows = [outcome.row for outcome in done]
        failures += [failure for outcome in done for failure in outcome.failures]
        try:
            write_tables(self.out, rows, failures, list(entries), self.analyser)
        except OutputError as error:
            self._pause(str(error))

    def _slide(self, entry: Entry, failures: list[Failure]) -> Slide | None:
        """The entry as a slide under its journal name, with its row of the slide sheet; None if it cannot be one."""
        path = Path(entry.path)
        sheet = self.inbox.folder / SHEET_NAME
        try:
            found = discover_slides(
                path, one_slide=entry.slide if path.is_dir() else None, sheet=sheet if sheet.is_file() else None
            )
        except CbctoolError as error:
            found_failures = [Failure(entry.slide, str(path), error.message, error.advice)]
        else:
            for note in found.notes:
                logger.info("%s: %s", entry.slide, note)
            found_failures = list(found.failures)
            if found.slides:
                failures += found_failures
                return dataclasses.replace(found.slides[0], name=entry.slide)
        failures += found_failures
        self.journal.start(entry.slide)
        self._failed(entry, tuple(found_failures))
        return None

    def _failed(self, entry: Entry, failures: tuple[Failure, ...]) -> None:
        reason = "; ".join(f"{failure.error} {failure.advice}" for failure in failures) or "nothing to analyse"
        self.journal.fail(entry.slide, reason)
        tries = entry.attempts + 1
        if tries <= len(self.options.retry_waits_s):
            self.due[entry.slide] = time.monotonic() + self.options.retry_waits_s[tries - 1]
            logger.warning("%s: try %d failed: %s", entry.slide, tries, reason)
            return
        logger.error("%s: set aside after %d tries: %s", entry.slide, tries, reason)
        note = self.out / SET_ASIDE / f"{folder_name(entry.slide)}.txt"
        note.parent.mkdir(exist_ok=True)
        manifest.write_atomically(
            note, f"{entry.path}\n{reason}\nTried {tries} times. Change the file to have it tried again.\n"
        )
        self._move(entry, self.options.move_failed)

    def _given_up(self, entry: Entry) -> bool:
        return entry.attempts > len(self.options.retry_waits_s)

    def _move(self, entry: Entry, folder: Path | None) -> None:
        if folder is None:
            return
        source = Path(entry.path)
        target = folder / source.name
        number = 2
        while target.exists():
            target = folder / f"{source.stem}-{number}{source.suffix}"
            number += 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)
        except OSError as error:
            logger.warning("%s: cannot be moved to %s: %s", source, folder, error)

    def beat(self, state: str) -> None:
        """Write ``heartbeat.json``: time, state, counts. A heartbeat that cannot be written is only logged."""
        self.last_beat = time.monotonic()
        with suppress(OutputError):
            self.counts = self.journal.counts()
        beat = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": state,
            "counts": dict(self.counts),
            "inbox": str(self.inbox.folder),
            "version": __version__,
        }
        try:
            manifest.write_atomically(self.out / HEARTBEAT, json.dumps(beat) + "\n")
        except OutputError as error:
            logger.warning("%s", error)


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """A lock of the operating system, which a crash does not leave behind."""
    from filelock import FileLock, Timeout

    manifest.prepare_output(out, clear=False)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{out}: another `cbctool watch` writes there.", "Stop it first, or choose another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that wakes the loop; SIGTERM ends it."""

    def stop(*_: object) -> None:
        raise StopWatching

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield threading.Event()
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _events(inbox: Path, wake: threading.Event, wanted: bool) -> Iterator[None]:
    """Wake the loop at the file system's events, where it tells; without them it looks every ``poll_s`` seconds."""
    if not wanted:
        yield
        return
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Wake(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type not in ("opened", "closed_no_write"):
                wake.set()

    observer = Observer()
    try:
        observer.schedule(Wake(), str(inbox), recursive=True)
        observer.start()
    except OSError as error:  # inotify's limits, or a file system without events
        logger.warning("no file events from %s (%s); looking at intervals instead", inbox, error)
        yield
        return
    try:
        yield
    finally:
        observer.stop()
        observer.join()


@contextmanager
def _metrics(port: int | None, watcher: _Watcher) -> Iterator[None]:
    """Serve counts as Prometheus text on the loopback interface."""
    if port is None:
        yield
        return
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = metrics_text(watcher.counts, time.monotonic() - watcher.last_beat, bool(watcher.paused)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            logger.debug(format, *args)

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UsageError(f"--metrics-port {port}: cannot be used ({error.strerror}).", "Choose another.") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def metrics_text(counts: Mapping[str, int], beat_age_s: float, paused: bool) -> str:
    """Prometheus' text format."""
    lines = ["# HELP cbctool_slides Slides of the journal by state.", "# TYPE cbctool_slides gauge"]
    lines += [f'cbctool_slides{{state="{state}"}} {number}' for state, number in counts.items()]
    lines += ["# HELP cbctool_heartbeat_age_seconds Time since the last heartbeat."]
    lines += ["# TYPE cbctool_heartbeat_age_seconds gauge", f"cbctool_heartbeat_age_seconds {beat_age_s:.1f}"]
    lines += ["# HELP cbctool_paused Whether the watch waits for space or rights.", "# TYPE cbctool_paused gauge"]
    lines += [f"cbctool_paused {int(paused)}"]
    return "\n".join(lines) + "\n"
