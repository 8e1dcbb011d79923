"""``cbctool watch``: an inbox, the journal and the pipeline, for months.

The loop is: look into the inbox, queue what has settled, analyse a batch of what is queued, write the tables, beat.
Results are kept by the slides' own folders (:mod:`cbctool.run.manifest`), tries by the journal, and the file system's
events only shorten the wait for the next look: a look every ``poll_s`` seconds finds whatever they missed (network
shares, full queues, inotify limits).
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import logging
import os
import shutil
import signal
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cbctool import __version__
from cbctool.errors import CbctoolError, InputError, OutputError, UsageError
from cbctool.imaging.read import printable
from cbctool.imaging.whole_slide import companions
from cbctool.records import Failure, Slide
from cbctool.run import manifest
from cbctool.run.analyse import with_twins_named, write_tables
from cbctool.run.discover import clean_name, discover_slides, folder_name, with_row
from cbctool.run.inbox import Inbox, Settled
from cbctool.run.journal import Entry, Journal, State
from cbctool.run.pipeline import Analyser, Outcome, Settings, SlideDone, SlideFailed, hash_inputs
from cbctool.run.sheet import SHEET_NAME, SheetRow, read_sheet

logger = logging.getLogger(__name__)

LOCK = ".watch.lock"
HEARTBEAT = "heartbeat.json"
SET_ASIDE = "failed"

BATCH = 32
"""Slides analysed between two looks: a minute's work, so that the tables are fresh and a new slide waits no longer. The
workers idle for about one slide at the end of each."""

SHORTEST_PAUSE_S = 0.5
"""Between two looks: a large copy into the inbox sends events without end."""

REST_S = 30.0
"""After a report could not be written: a disk that is full is not tried with a batch of slides every few seconds."""


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Attributes
    ----------
    settle_s, settle_folder_s : float
        Seconds for which a file, and a folder of fields, has to be quiet.
    poll_s : float
        Longest time between two looks.
    events : bool
        Whether the file system's events shorten it; a network share sends none.
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
    inbox = inbox.absolute()
    if not inbox.is_dir():
        raise InputError(f"{inbox} is not a folder.", "Make it, or give another.")
    for folder in (settings.out, options.move_done, options.move_failed):
        if folder is not None and folder.resolve().is_relative_to(inbox.resolve()):
            raise UsageError(f"{folder} lies inside the inbox {inbox}.", "Choose a folder outside it.")
    with (
        suppress(StopWatching),
        _only_one(settings.out),
        _stoppable(),
        Journal(settings.out) as journal,
        Analyser(settings) as analyser,
        _events(inbox, options.events) as wake,
    ):
        watcher = _Watcher(inbox, journal, analyser, options, on_outcome)
        try:
            with _metrics(options.metrics_port, watcher):
                while True:
                    wake.clear()
                    if not watcher.turn():
                        wake.wait(min(options.poll_s, watcher.inbox.next_due(time.monotonic())))
                        time.sleep(min(options.poll_s, SHORTEST_PAUSE_S))
        except (StopWatching, KeyboardInterrupt):
            journal.hand_back()
            watcher.beat("stopped")
            raise
        except BaseException:  # what is in hand counts as tried: it may be the cause
            watcher.beat("ended by an error")
            raise


class _Watcher:
    """The loop's state: what is in the inbox, when failed slides are due, what the tables still lack."""

    def __init__(
        self,
        inbox: Path,
        journal: Journal,
        analyser: Analyser,
        options: WatchOptions,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self.inbox = Inbox(inbox, options.settle_s, options.settle_folder_s)
        self.sheet = _Sheet(inbox / SHEET_NAME)
        self.journal = journal
        self.analyser = analyser
        self.out = analyser.settings.out
        self.options = options
        self.on_outcome = on_outcome
        self.due: dict[str, float] = {}  # slide -> monotonic time of its next try
        self.news: dict[
            str, tuple[Failure, ...]
        ] = {}  # slides that the tables lack in their last state; their failures
        self.tables_due = True  # a crash may have come before the tables
        self.counts: Mapping[str, int] = {}
        self.last_beat = 0.0
        self.beating = True
        self.paused = ""
        self.rest_until = 0.0
        journal.recover()
        self.names = {_key(entry.slide): entry.slide for entry in journal.entries()}

    def turn(self) -> bool:
        """One look, and at most one batch of work; True where more is queued.

        An output folder that fails or cannot be reached, a locked journal, a full disk and a slide sheet with a fault
        are waited for: nothing is lost, tried or given up meanwhile.
        """
        try:
            if self.paused:
                self.journal.hand_back()  # what could not be, when the fault came
            busy = self._turn()
        except (CbctoolError, OSError) as error:
            reason = error.message if isinstance(error, CbctoolError) else str(error)
            if not self.paused:
                logger.warning("waiting: %s", reason)
            self.paused = reason
            self.beat(f"waiting: {reason}")
            return False
        if self.paused:
            logger.warning("going on")
            self.paused = ""
        return busy

    def _turn(self) -> bool:
        now = time.monotonic()
        arrived = self.inbox.scan(now)
        if not self.inbox.reachable:
            self.beat("inbox unreachable")
            return False
        if any(settled.path.name == SHEET_NAME for settled in arrived) and self.sheet.look():
            self.inbox.tell_again()  # a slide whose row has changed has another signature now
        try:
            for settled in arrived:
                self._queue(settled)
        except (CbctoolError, OSError):
            for settled in arrived:  # nothing that could not be written down is forgotten
                self.inbox.forget(settled.path)
            raise
        if self.sheet.fault:
            raise UsageError(self.sheet.fault)
        for slide in [slide for slide, at in self.due.items() if at <= now]:
            entry = self.journal.named(slide)
            if entry is not None and entry.state == State.FAILED and self.inbox.holds(Path(entry.path)):
                self.journal.requeue(slide)
            del self.due[slide]
        if now < self.rest_until:
            raise OutputError(self.paused)
        batch = self._batch()
        self.beat("analysing" if batch else "watching")
        if batch:
            if short := self._short_of_space():
                raise OutputError(short, "Free some space.")
            self._analyse(batch)
        if self.tables_due or self.news:
            self._write_tables()
        return bool(batch)

    # ---------------------------------------------------------------------------------------------------- what to do

    def _queue(self, settled: Settled) -> None:
        path = settled.path
        if path.name == SHEET_NAME:
            return
        before = self.journal.at(path)
        name = before.slide if before is not None else self._name(path)
        signature = self._signature(settled, name)
        if before is not None and before.signature == signature:
            if before.state == State.FAILED:
                if self._given_up(before):
                    self._move(before, self.options.move_failed)
                elif before.attempts:  # after a restart, or back with its share: not sooner than otherwise
                    self.due.setdefault(name, self._next_try(before.attempts))
                else:
                    self.journal.requeue(name)
                return
            if before.state == State.QUEUED:
                return
            if manifest.read_manifest(self.out / folder_name(name)) is not None:
                self._move(before, self.options.move_done)
                return
        self.journal.queue(name, path, signature)
        self.names[_key(name)] = name
        self.due.pop(name, None)
        logger.info("%s: queued", name)

    def _signature(self, settled: Settled, name: str) -> str:
        """What a slide is redone for: its files, and what the slide sheet says of it."""
        return json.dumps([settled.signature, self.sheet.words(name)])

    def _name(self, path: Path) -> str:
        """The name of a slide that comes from a place unknown so far.

        It is the stem or folder name, with the extension, then a number, where another slide has it. A report of the
        same content under that name is its own (the inbox has moved, the same file comes once more), and a slide that
        never had a report gives its name to what comes instead.
        """
        stem = clean_name(path.name if path.is_dir() else path.stem)
        names = itertools.chain([stem, clean_name(path.name)], (f"{stem}-{number}" for number in itertools.count(2)))
        for name in names:
            entry = self.journal.named(self.names.get(_key(name), ""))
            if entry is not None and self.inbox.holds(Path(entry.path)):
                continue
            done = manifest.read_manifest(self.out / folder_name(name))
            if done is None or done.content_sha256 == self._content(path):
                return entry.slide if entry is not None else name
        raise AssertionError("numbers do not end")

    def _content(self, path: Path) -> str | None:
        try:
            return manifest.content_sha256(hash_inputs(self._discovered(path, path.name)[0]))
        except CbctoolError:
            return None

    def _batch(self) -> list[Entry]:
        """What is analysed next, in the order of coming.

        A slide that was begun before goes alone, so that one that ends the whole program takes no other with it; after
        as many ends as tries it is set aside.
        """
        batch: list[Entry] = []
        for entry in self.journal.entries(State.QUEUED):
            if not self.inbox.holds(Path(entry.path)):
                self.journal.fail(entry.slide, "no longer in the inbox")
            elif self._given_up(entry):
                reason = f"the program ended {entry.attempts} times while it was analysed"
                self._failed(entry, (Failure(entry.slide, entry.path, reason, "Open it by hand."),), entry.attempts)
            elif entry.attempts:
                return batch or [entry]
            else:
                batch.append(entry)
                if len(batch) == BATCH:
                    break
        return batch

    def _short_of_space(self) -> str:
        try:
            free = shutil.disk_usage(self.out).free
        except OSError as error:
            return f"{self.out} cannot be reached ({error.strerror})."
        if free < self.options.min_free_bytes:
            return f"{free / 1e9:.2f} GB free in {self.out}, {self.options.min_free_bytes / 1e9:g} GB needed."
        return ""

    def _given_up(self, entry: Entry) -> bool:
        return entry.attempts > len(self.options.retry_waits_s)

    # ------------------------------------------------------------------------------------------------------ analysis

    def _analyse(self, batch: list[Entry]) -> None:
        entries = {entry.slide: entry for entry in batch}
        beside: dict[str, tuple[Failure, ...]] = {}  # files of a slide's folder that are no fields, and should be
        slides = []
        for entry in batch:
            try:
                slide, beside[entry.slide] = self._discovered(Path(entry.path), entry.slide)
            except CbctoolError as error:
                self.journal.start(entry.slide)
                self._failed(entry, (Failure(entry.slide, entry.path, error.message, error.advice),))
            else:
                slides.append(slide)

        def in_hand() -> Iterator[Slide]:
            for slide in with_twins_named(slides, self.out):
                if self._short_of_space():
                    return
                self.journal.start(slide.name)
                yield slide

        try:
            for outcome in self.analyser.run(in_hand()):
                match outcome:
                    case SlideDone(slide) | SlideFailed(slide) if outcome.failures and not _all_there(slide):
                        self.journal.give_back(slide.name)  # the share dropped out under it
                    case SlideDone(slide):
                        self._done(entries[slide.name], (*beside[slide.name], *outcome.failures))
                    case SlideFailed(slide):
                        self._failed(entries[slide.name], (*beside[slide.name], *outcome.failures))
                self.on_outcome(outcome)
                if time.monotonic() - self.last_beat > 5.0:
                    self.beat("analysing")
        except (OutputError, OSError):  # disk full, rights lost
            self.rest_until = time.monotonic() + REST_S
            self.journal.hand_back()
            raise

    def _discovered(self, path: Path, name: str) -> tuple[Slide, tuple[Failure, ...]]:
        """A path of the inbox as a slide of that name, with its row of the sheet, and what in it is no field.

        Raises
        ------
        InputError
            If it cannot be one.
        """
        folder = path.is_dir()
        found = discover_slides(path, one_slide=name if folder else None)
        slides, failures = found.slides, found.failures
        if folder and not slides:  # perhaps whole-slide files
            whole = [slide for slide in discover_slides(path).slides if slide.whole_slide]
            if len(whole) > 1:
                raise InputError(
                    f"{printable(path)} holds {len(whole)} whole-slide files.", "Put each into the inbox itself."
                )
            slides, failures = tuple(whole), () if whole else failures
        if not slides:
            raise InputError(" ".join(one.error for one in failures), " ".join(one.advice for one in failures))
        slide = slides[0]
        inside = tuple(one for one in slide.paths if not one.is_symlink() or self.inbox.inside(one))
        if not inside:
            raise InputError(f"{printable(path)} holds only links out of the inbox.", "Copy the pictures into it.")
        for note in found.notes:
            logger.info("%s: %s", name, note)
        slide = dataclasses.replace(slide, name=name, paths=inside)
        row = self.sheet.row(name)
        return (slide if row is None else with_row(slide, row)), tuple(
            dataclasses.replace(one, slide=name) for one in failures
        )

    def _done(self, entry: Entry, failures: tuple[Failure, ...]) -> None:
        self.journal.finish(entry.slide, "; ".join(failure.error for failure in failures))
        self._note(entry.slide).unlink(missing_ok=True)
        self.news[entry.slide] = failures
        self._move(entry, self.options.move_done)

    def _failed(self, entry: Entry, failures: tuple[Failure, ...], tries: int | None = None) -> None:
        tries = tries or entry.attempts + 1
        reason = "; ".join(f"{failure.error} {failure.advice}" for failure in failures) or "nothing to analyse"
        self.news[entry.slide] = failures
        if tries <= len(self.options.retry_waits_s):
            logger.warning("%s: try %d failed: %s", entry.slide, tries, reason)
            self.journal.fail(entry.slide, reason)
            self.due[entry.slide] = self._next_try(tries)
            return
        logger.error("%s: set aside after %d tries: %s", entry.slide, tries, reason)
        note = self._note(entry.slide)
        note.parent.mkdir(exist_ok=True)
        advice = "Change or touch the file to have it tried again."
        manifest.write_atomically(note, f"{printable(entry.path)}\n{reason}\nTried {tries} times. {advice}\n")
        self.journal.fail(entry.slide, reason)
        self._move(entry, self.options.move_failed)

    def _next_try(self, tries: int) -> float:
        return time.monotonic() + self.options.retry_waits_s[tries - 1]

    def _note(self, slide: str) -> Path:
        """Where the reason stands for which a slide was set aside."""
        return self.out / SET_ASIDE / f"{folder_name(slide)}.txt"

    def _write_tables(self) -> None:
        """The tables over all slides; what cannot be written now (open in a spreadsheet, disk full) is next time."""
        failed = [
            {"slide": entry.slide, "status": "failed", "fields": 0}
            for entry in self.journal.entries(State.FAILED)
            if entry.attempts
        ]
        failures = list(itertools.chain.from_iterable(self.news.values()))
        write_tables(self.out, failed, failures, list(self.news), self.analyser)
        self.news, self.tables_due = {}, False

    def _move(self, entry: Entry, folder: Path | None) -> None:
        """Put a slide's original where it was asked to go, unless it has changed since it was analysed."""
        source = Path(entry.path)
        if folder is None or not self.inbox.holds(source):
            return
        settled = Settled(source, tuple(tuple(one) for one in json.loads(entry.signature)[0]))
        if self.inbox.changed(settled):
            return
        target = free_place(source, folder, self._taken)
        # Written down first: what is not moved after all comes again, and is known by its content. The other way round,
        # what comes next to its place would be taken for it.
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

    # --------------------------------------------------------------------------------------------------------- health

    def beat(self, state: str) -> None:
        """Write ``heartbeat.json``: time, state, counts. A heartbeat that cannot be written is only logged, once."""
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
            if self.beating:
                logger.warning("%s", error)
            self.beating = False
        else:
            self.beating = True


class _Sheet:
    """The inbox's slide sheet as it was when it last came to rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp: tuple[int, int] | None = None
        self.rows: Mapping[str, SheetRow] = {}
        self.fault = ""
        self.look()

    def look(self) -> bool:
        """Read it if it is another than before, and tell whether it was; a fault is kept until it is mended."""
        try:
            status = self.path.stat()
        except OSError:  # there is none, or the share is away: what was known holds until a restart
            return False
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self.stamp:
            return False
        self.stamp, self.fault = stamp, ""
        try:
            self.rows = {unicodedata.normalize("NFC", name): row for name, row in read_sheet(self.path).items()}
        except CbctoolError as error:
            self.fault = str(error)
        return True

    def row(self, slide: str) -> SheetRow | None:
        """What the sheet says of a slide."""
        return self.rows.get(unicodedata.normalize("NFC", slide))

    def words(self, slide: str) -> list[object]:
        """The same, as what can be compared over restarts."""
        row = self.row(slide)
        # Not the row's number: a row put in above changes nothing for those below.
        return [] if row is None else list(dataclasses.asdict(dataclasses.replace(row, row=0)).values())


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
    _remove(hidden)
    try:
        if source.is_dir():
            shutil.copytree(source, hidden, symlinks=True)
        else:
            shutil.copy2(source, hidden, follow_symlinks=False)
        hidden.rename(target)
    except BaseException:
        _remove(hidden)
        raise
    gone = free_place(source.with_name(f".moved-{folder_name(source.name)}"), source.parent)
    try:
        source.rename(gone)
    except OSError:
        _remove(target)
        raise
    with suppress(OSError):
        _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _key(name: str) -> str:
    """By what two names are the same folder on every file system."""
    return folder_name(unicodedata.normalize("NFC", name)).casefold()


def _all_there(slide: Slide) -> bool:
    """Whether all files of a slide can be looked at."""
    with suppress(OSError):
        return all(path.stat() is not None for path in slide.paths)
    return False


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
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the watch; on Windows, Ctrl-Break as well."""

    def stop(*_: object) -> None:
        raise StopWatching

    numbers = [signal.SIGTERM, *([signal.SIGBREAK] if hasattr(signal, "SIGBREAK") else [])]
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _LostEvents(logging.Handler):
    """Says in our own log what the event library complains of, such as a full queue."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.warning("file events: %s; the next look finds what they missed", record.getMessage())


@contextmanager
def _events(inbox: Path, wanted: bool) -> Iterator[threading.Event]:
    """An event that wakes the loop when the file system tells of a change; where it does not, nothing ever sets it.

    Only the inbox itself is observed, not the folders in it: one watch of the system's limited number, however many
    slides there are. What changes in a folder is found at the next look.
    """
    wake = threading.Event()
    if not wanted:
        yield wake
        return
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Wake(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type not in ("opened", "closed_no_write"):
                wake.set()

    told = _LostEvents(logging.WARNING)
    library = logging.getLogger("watchdog")
    try:
        observer = Observer()
        observer.schedule(Wake(), str(inbox), recursive=False)
        observer.start()
    except OSError as error:  # inotify's limits, or a file system without events
        logger.warning("no file events from %s (%s); looking at intervals instead", inbox, error)
        yield wake
        return
    library.addHandler(told)
    try:
        yield wake
    finally:
        library.removeHandler(told)
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
        timeout = 10  # a client that says nothing holds no thread for ever

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
