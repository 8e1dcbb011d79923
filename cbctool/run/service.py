"""What makes a loop a service of the machine: one at a time, stopped by the system, woken by the file system."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbctool.errors import OutputError
from cbctool.run import manifest

logger = logging.getLogger(__name__)

LOCK = ".watch.lock"


class StopWatching(BaseException):
    """A signal to stop, wherever the loop is; not an error, so that nothing that handles errors swallows it."""


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """A lock of the operating system on an output folder, which a crash does not leave behind.

    Raises
    ------
    OutputError
        Where another has it, or the folder cannot be written to.
    """
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
def stoppable(by: type[BaseException] = StopWatching) -> Iterator[None]:
    """SIGTERM raises ``by``, and so do a terminal that closes (not under ``nohup``) and, on Windows, Ctrl-Break.

    A watch would otherwise leave slides in hand as tried, and after four such ends as the cause of them; a run would
    leave its tables unwritten.
    """

    def stop(*_: object) -> None:
        raise by

    there = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    heard = [number for number in there if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, stop) for number in heard}
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
def file_events(folder: Path, wanted: bool = True) -> Iterator[threading.Event]:
    """An event that wakes the loop when the file system tells of a change; where it does not, nothing ever sets it.

    Only the folder itself is observed, not the folders in it: one watch of the system's limited number, however many
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
    library.addHandler(logging.NullHandler())  # what it says while it is stopped is for nobody
    try:
        observer = Observer()
        observer.schedule(Wake(), str(folder), recursive=False)
        observer.start()
    except OSError as error:  # inotify's limits, or a file system without events
        logger.warning("no file events from %s (%s); looking at intervals instead", folder, error)
        yield wake
        return
    library.addHandler(told)
    try:
        yield wake
    finally:
        library.removeHandler(told)
        observer.stop()
        observer.join()
