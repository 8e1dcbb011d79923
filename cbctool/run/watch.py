"""``cbctool watch``: an inbox, the journal and the pipeline, for months.

The loop is: look into the inbox, queue what has settled, analyse a batch of what is queued, write the tables, beat. The
file system's events only shorten the wait for the next look: a look every ``poll_s`` seconds finds whatever they missed
(network shares, full queues, inotify limits).

Each thing that is known of a slide is known in one place:

    inbox           what lies there and has come to rest    :mod:`cbctool.run.inbox`
    report folder   that it is done, and from what          :mod:`cbctool.run.manifest`
    journal         what was tried, where the original is   :mod:`cbctool.run.journal`
    the loop        when a failed one is due, what the      in memory, so that it may be lost: a restart has everything
                    tables lack                             told again, and writes the tables

They are kept in step by the order of writing: the journal has a slide in hand before work on it begins, its report
stands before the journal calls it done, and the journal knows its new place before the original is moved
(:mod:`cbctool.run.originals`). A fault between any two is mended by the next look, since :func:`next_step` asks all of
them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from cbctool.errors import CbctoolError, InputError, OutputError, UsageError
from cbctool.imaging.read import printable
from cbctool.records import Failure, Slide
from cbctool.run import manifest
from cbctool.run.analyse import with_twins_named, write_tables
from cbctool.run.discover import clean_name, discover_slides, folder_name, with_row
from cbctool.run.heartbeat import Heartbeat, served
from cbctool.run.inbox import Inbox, Settled
from cbctool.run.journal import Entry, Journal, State
from cbctool.run.manifest import Manifest
from cbctool.run.originals import Originals
from cbctool.run.pipeline import Analyser, Outcome, Settings, SlideDone, SlideFailed, hash_inputs
from cbctool.run.service import StopWatching, file_events, only_one, stoppable
from cbctool.run.sheet import SHEET_NAME, SheetRow, read_sheet
from cbctool.run.tasks import may_pass

logger = logging.getLogger(__name__)

SET_ASIDE = "failed"

BATCH = 32
"""Slides analysed between two looks: a minute's work, so that the tables are fresh and a new slide waits no longer. The
workers idle for about one slide at the end of each."""

SHORTEST_PAUSE_S, REST_PER_LOOK = 0.5, 4.0
"""Between two looks, seconds and in terms of the last one: a large copy into the inbox sends events without end, and a
look at 100,000 files takes a second."""

TABLES_SHARE, TABLES_QUICK_S = 0.05, 1.0
"""Share of the time that the tables may take, once they take longer than so many seconds: of 100,000 reports, 16."""

TAKEN_AT_ONCE = 500
"""Slides that the journal takes up by one write to the disk: of 10,000 that come together, each waits 1-20 ms for its
own."""

BEAT_S = 5.0
"""Between two beats in the midst of work."""

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
        only_one(settings.out),
        stoppable(),
        Journal(settings.out) as journal,
        Analyser(settings) as analyser,
        file_events(inbox, options.events) as wake,
    ):
        watcher = _Watcher(inbox, journal, analyser, options, on_outcome)
        try:
            watcher.beat("loading the network")
            _ = analyser.classifier  # no waiting mends a device or a network that is not there
            with served(options.metrics_port, watcher.heart):
                while True:
                    wake.clear()
                    if not watcher.turn():
                        wake.wait(min(options.poll_s, watcher.inbox.next_due(time.monotonic())))
                        time.sleep(max(min(options.poll_s, SHORTEST_PAUSE_S), REST_PER_LOOK * watcher.look_s))
        except (StopWatching, KeyboardInterrupt):
            with suppress(CbctoolError, OSError):  # what cannot be written any more, the next start finds
                journal.hand_back()
                if watcher.news:
                    watcher.write_tables()
            watcher.beat("stopped")
            raise
        except BaseException:  # what is in hand counts as tried: it may be the cause
            watcher.beat("ended by an error")
            raise


class Step(Enum):
    """What is to be done about a slide that the inbox tells of."""

    QUEUE = auto()  # new, changed, or its report is gone
    REQUEUE = auto()  # it failed by being away, which is no try
    WAIT = auto()  # it failed, or its report lacks a field that may come, and is tried again in its time
    PUT_AWAY_DONE = auto()
    PUT_AWAY_FAILED = auto()
    NOTHING = auto()  # it is in the queue or in hand, or its report lacks a field until a file changes


def next_step(before: Entry | None, signature: str, most_tries: int, report: Manifest | None) -> Step:
    """Tell what is to be done about a slide, from all that is known of it.

    Parameters
    ----------
    before : Entry or None
        What the journal has for its place in the inbox.
    signature : str
        What lies there now.
    most_tries : int
        After so many it is given up.
    report : Manifest or None
        Of its report, where that stands.
    """
    if before is None or before.signature != signature:
        return Step.QUEUE
    if before.state in (State.QUEUED, State.RUNNING):
        return Step.NOTHING
    if before.state == State.FAILED:
        if before.attempts >= most_tries:
            return Step.PUT_AWAY_FAILED
        return Step.WAIT if before.attempts else Step.REQUEUE
    if report is None:
        return Step.QUEUE
    if not report.lacking:
        return Step.PUT_AWAY_DONE
    return Step.WAIT if before.attempts < most_tries and may_pass(before.reason) else Step.NOTHING


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
        self.originals = Originals(self.inbox, journal)
        self.heart = Heartbeat(self.out, inbox)
        self.options = options
        self.on_outcome = on_outcome
        self.due: dict[str, float] = {}  # slide -> monotonic time of its next try
        self.news: dict[str, tuple[Failure, ...]] = {}  # slides that the tables lack in their last state
        self.tables_due = True  # a crash may have come before the tables
        self.tables_after = 0.0  # not sooner
        self.look_s = 0.0  # that the last look took
        self.paused = ""  # why, while the loop waits
        self.rest_until = 0.0
        journal.recover()
        self.names = {_key(entry.slide): entry.slide for entry in journal.entries()}

    @property
    def most_tries(self) -> int:
        """Tries after which a slide is set aside."""
        return 1 + len(self.options.retry_waits_s)

    def turn(self) -> bool:
        """One look, and at most one batch of work; True where more is queued.

        An output folder that fails or cannot be reached, a locked journal, a full disk and a slide sheet with a fault
        are waited for: nothing is lost, tried or given up meanwhile.
        """
        try:
            if self.paused:
                if self.journal.reopen():
                    self.inbox.tell_again()
                self.journal.hand_back()  # what could not be, when the fault came
                manifest.prepare_output(self.out, clear=False)  # or every quiet look would pass for the end of it
            busy = self._turn()
        except (CbctoolError, OSError) as error:
            reason = error.message if isinstance(error, CbctoolError) else str(error)
            if not self.paused:
                logger.warning("waiting: %s", reason)
            self.paused = reason
            self.heart.paused = True
            self.beat(f"waiting: {reason}")
            return False
        if self.paused:
            logger.warning("going on")
            self.paused = ""
            self.heart.paused = False
        return busy

    def _turn(self) -> bool:
        now = time.monotonic()
        arrived = self.inbox.scan(now)
        self.look_s = time.monotonic() - now
        if not self.inbox.reachable:
            self.beat("inbox unreachable")
            return False
        self._take_up(arrived)
        self._requeue_what_is_due(now)
        if now < self.rest_until:
            raise OutputError(self.paused)
        batch = self._batch()
        self.beat("analysing" if batch else "watching")
        if batch:
            if short := self._short_of_space():
                raise OutputError(short, "Free some space.")
            self._analyse(batch)
        if time.monotonic() >= self.tables_after:
            self.write_tables()
        return bool(batch)

    def beat(self, state: str) -> None:
        """Say what the loop is at."""
        counts = None
        with suppress(OutputError):
            counts = self.journal.counts()
        self.heart.beat(state, counts)

    def _beat_on(self, state: str) -> None:
        """The same in the midst of long work, now and then."""
        if self.heart.age_s > BEAT_S:
            self.beat(state)

    # ---------------------------------------------------------------------------------------------------- what to do

    def _take_up(self, arrived: Sequence[Settled]) -> None:
        """Do what is next for each slide that has come to rest; a slide sheet that has, is read first."""
        at_rest = any(settled.path.name == SHEET_NAME for settled in arrived)
        if (at_rest or self.sheet.fault) and self.sheet.look(at_rest):
            self.inbox.tell_again()  # a slide whose row has changed has another signature now
        try:
            for first in range(0, len(arrived), TAKEN_AT_ONCE):
                with self.journal.at_once():
                    closed = [self._take(settled) for settled in arrived[first : first + TAKEN_AT_ONCE]]
                for entry, folder in filter(None, closed):  # now that the journal is written
                    self.originals.put_away(entry, folder)
                self._beat_on("taking up")
        except (CbctoolError, OSError):
            for settled in arrived:  # nothing that could not be written down is forgotten
                self.inbox.forget(settled.path)
            raise
        if self.sheet.fault:
            raise UsageError(self.sheet.fault)

    def _take(self, settled: Settled) -> tuple[Entry, Path | None] | None:
        """Do what is next for a slide; of one whose original has served, tell where that goes."""
        path = settled.path
        if path.name == SHEET_NAME:
            return None
        before = self.journal.at(path)
        name = before.slide if before is not None else self._name(path)
        signature = self._signature(settled, name)
        report = None if before is None else manifest.read_manifest(self.out / folder_name(name))
        step = next_step(before, signature, self.most_tries, report)
        if before is None or step is Step.QUEUE:
            self.journal.queue(name, path, signature)
            self.names[_key(name)] = name
            self.due.pop(name, None)
            logger.info("%s: queued", name)
        elif step is Step.REQUEUE:
            self.journal.requeue(name)
        elif step is Step.WAIT:  # after a restart, or back with its share: not sooner than otherwise
            self.due.setdefault(name, self._next_try(before.attempts))
        elif step is Step.PUT_AWAY_DONE:
            return before, self.options.move_done
        elif step is Step.PUT_AWAY_FAILED:
            return before, self.options.move_failed
        return None

    def _requeue_what_is_due(self, now: float) -> None:
        for slide in [slide for slide, at in self.due.items() if at <= now]:
            entry = self.journal.named(slide)
            if entry is not None and entry.state in (State.FAILED, State.DONE) and self.inbox.holds(Path(entry.path)):
                self.journal.requeue(slide)
            del self.due[slide]

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
            place = self.out / folder_name(name)
            done = manifest.read_manifest(place)
            its_own = done is not None and done.content_sha256 == self._content(path)
            if its_own or not _there(place):  # what cannot be read may be anybody's report
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
            elif entry.attempts >= self.most_tries:
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

    # ------------------------------------------------------------------------------------------------------ analysis

    def _analyse(self, batch: list[Entry]) -> None:
        fault: OutputError | OSError | None = None
        entries = {entry.slide: entry for entry in batch}
        beside: dict[str, tuple[Failure, ...]] = {}  # files of a slide's folder that are no fields, and should be
        slides = []
        for entry in batch:
            try:
                slide, beside[entry.slide] = self._discovered(Path(entry.path), entry.slide)
            except CbctoolError as error:
                if os.path.lexists(entry.path):  # otherwise the next look says what has become of it
                    self.journal.start(entry.slide)
                    self._failed(entry, (Failure(entry.slide, entry.path, error.message, error.advice),))
            else:
                slides.append(slide)

        def in_hand() -> Iterator[Slide]:
            for slide in with_twins_named(slides, self.out):
                if fault or self._short_of_space():
                    return
                self.journal.start(slide.name)
                yield slide

        try:
            for outcome in self.analyser.run(in_hand()):
                try:
                    if isinstance(outcome, SlideDone | SlideFailed):
                        name = outcome.slide.name
                        self._came_to(entries[name], outcome, beside[name])
                    self.on_outcome(outcome)
                except (OutputError, OSError) as error:  # what is in hand is finished, nothing more is begun
                    fault = fault or error
                self._beat_on("analysing")
            if fault:
                raise fault
        except (OutputError, OSError):  # disk full, rights lost
            self.rest_until = time.monotonic() + REST_S
            self.journal.hand_back()
            raise

    def _came_to(self, entry: Entry, outcome: SlideDone | SlideFailed, beside: tuple[Failure, ...]) -> None:
        failures = (*beside, *outcome.failures)
        if outcome.failures and not _all_there(outcome.slide):
            self.journal.give_back(entry.slide)  # the share dropped out under it
        elif isinstance(outcome, SlideDone):
            self._done(entry, failures, lacking=bool(outcome.failures))
        else:
            self._failed(entry, failures)

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

    def _done(self, entry: Entry, failures: tuple[Failure, ...], lacking: bool) -> None:
        """A report stands; of one that lacks fields the original stays, so that what is mended makes it whole."""
        errors = "; ".join(failure.error for failure in failures)
        self.journal.finish(entry.slide, errors)
        self.news[entry.slide] = failures
        self._note(entry.slide, None)
        if not lacking:
            self.originals.put_away(entry, self.options.move_done)
        elif entry.attempts + 1 < self.most_tries and may_pass(errors):
            self.due[entry.slide] = self._next_try(entry.attempts + 1)

    def _failed(self, entry: Entry, failures: tuple[Failure, ...], tries: int | None = None) -> None:
        tries = tries or entry.attempts + 1
        reason = "; ".join(f"{failure.error} {failure.advice}" for failure in failures) or "nothing to analyse"
        self.journal.fail(entry.slide, reason)
        self.news[entry.slide] = failures
        if tries < self.most_tries:
            logger.warning("%s: try %d failed: %s", entry.slide, tries, reason)
            self.due[entry.slide] = self._next_try(tries)
            return
        logger.error("%s: set aside after %d tries: %s", entry.slide, tries, reason)
        advice = "Change or touch the file to have it tried again."
        self._note(entry.slide, f"{printable(entry.path)}\n{reason}\nTried {tries} times. {advice}\n")
        self.originals.put_away(entry, self.options.move_failed)

    def _next_try(self, tries: int) -> float:
        return time.monotonic() + self.options.retry_waits_s[tries - 1]

    def _note(self, slide: str, text: str | None) -> None:
        """Write down for people why a slide was set aside, or (None) take that back; the journal has it as well."""
        note = self.out / SET_ASIDE / f"{folder_name(slide)}.txt"
        try:
            if text is None:
                note.unlink(missing_ok=True)
            else:
                note.parent.mkdir(exist_ok=True)
                manifest.write_atomically(note, text)
        except (OutputError, OSError) as error:  # somebody has it open: no reason to stop
            logger.warning("%s: %s", note, error)

    def write_tables(self) -> None:
        """The tables over all slides, where they lack any; what cannot be written now (disk full, open in a
        spreadsheet) is next time.
        """
        if not (self.tables_due or self.news):
            return
        began = time.monotonic()
        failed = [
            {"slide": entry.slide, "status": "failed", "fields": 0}
            for entry in self.journal.entries(State.FAILED)
            if entry.attempts
        ]
        failures = list(itertools.chain.from_iterable(self.news.values()))
        write_tables(self.out, failed, failures, list(self.news), self.analyser)
        self.news, self.tables_due = {}, False
        took = time.monotonic() - began
        self.tables_after = began + took / TABLES_SHARE if took > TABLES_QUICK_S else 0.0


class _Sheet:
    """The inbox's slide sheet as it was when it last came to rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp: tuple[int, int] | None = None
        self.rows: Mapping[str, SheetRow] = {}
        self.fault = ""
        self.look()

    def look(self, at_rest: bool = True) -> bool:
        """Read it if it is another than before and ``at_rest``, or has a fault; tell whether it says something else.

        A fault is kept until it is mended: the sheet changed, closed by whoever had it open, or taken away.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:  # what was known holds until a restart
            self.stamp, self.fault = None, ""
            return False
        except OSError:  # the share is away
            return False
        stamp = (status.st_mtime_ns, status.st_size)
        same = stamp == self.stamp
        if (same and not self.fault) or not (same or at_rest):
            return False
        before, self.stamp, self.fault = self.rows, stamp, ""
        try:
            self.rows = {unicodedata.normalize("NFC", name): row for name, row in read_sheet(self.path).items()}
        except CbctoolError as error:
            self.fault = str(error)
        return self.rows != before

    def row(self, slide: str) -> SheetRow | None:
        """What the sheet says of a slide."""
        return self.rows.get(unicodedata.normalize("NFC", slide))

    def words(self, slide: str) -> list[object]:
        """The same, as what can be compared over restarts."""
        row = self.row(slide)
        # Not the row's number: a row put in above changes nothing for those below.
        return [] if row is None else list(dataclasses.asdict(dataclasses.replace(row, row=0)).values())


def _key(name: str) -> str:
    """By what two names are the same folder on every file system."""
    return folder_name(unicodedata.normalize("NFC", name)).casefold()


def _there(path: Path) -> bool:
    """Whether something lies at a path; an error where that cannot be told."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _all_there(slide: Slide) -> bool:
    """Whether all files of a slide can be looked at."""
    with suppress(OSError):
        return all(path.stat() is not None for path in slide.paths)
    return False
