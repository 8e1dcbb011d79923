"""Where the work is done: processes of this machine, or a Dask cluster, behind one small interface.

A plain ``ProcessPoolExecutor`` breaks as a whole when one worker dies; pebble replaces the worker, and the same goes
for one that takes too long. Only the task in hand is marked.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from cbctool.errors import UsageError

logger = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerLostError(Exception):
    """A worker died with the task in hand (killed, out of memory, crashed in a decoder)."""


class Pool(Protocol):
    """Runs functions elsewhere. Futures raise what those raised, ``TimeoutError`` or :class:`WorkerLostError`."""

    width: int

    def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        """Schedule one call."""

    def close(self) -> None:
        """Free the workers at once; what they have in hand is dropped."""


class LocalPool:
    """Spawned worker processes on this machine.

    Parameters
    ----------
    jobs : int
        Number of processes; each runs single-threaded, so that they do not fight over the cores.
    """

    def __init__(self, jobs: int) -> None:
        self.width = jobs
        self._pool = self._start()

    def _start(self) -> Any:
        import multiprocessing

        from pebble import ProcessPool

        for name in THREAD_VARIABLES:  # read by BLAS when a spawned worker imports numpy
            os.environ.setdefault(name, "1")
        return ProcessPool(
            max_workers=self.width, initializer=_start_worker, context=multiprocessing.get_context("spawn")
        )

    def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        outcome: Future[Any] = Future()
        try:
            inner = self._schedule(function, arguments, timeout_s)
        except RuntimeError:  # the pool broke as a whole: a worker was killed while it held nothing, or the channel
            logger.warning("the worker pool broke and was started again")
            self.close()
            self._pool = self._start()
            inner = self._schedule(function, arguments, timeout_s)
        due = time.monotonic() + timeout_s
        inner.add_done_callback(lambda done: _settle(outcome, done, early=time.monotonic() < due))
        return outcome

    def _schedule(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float) -> Any:
        with _no_ctrl_c():  # the first call starts the threads that start the workers
            return self._pool.schedule(function, args=arguments, timeout=timeout_s)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()


class DaskPool:
    """Workers of a Dask cluster; they must see the same files under the same paths.

    Parameters
    ----------
    address : str
        Of the scheduler, ``tcp://host:8786``.
    """

    def __init__(self, address: str) -> None:
        from distributed import Client

        try:
            self._client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"--cluster {address}: no Dask scheduler answers there.",
                "Start one with `dask scheduler`, or leave it out.",
            ) from error
        self._executor = self._client.get_executor(pure=False, retries=2)
        self.width = max(1, sum(self._client.nthreads().values()))

    def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        outcome: Future[Any] = Future()
        inner = self._executor.submit(_in_time, timeout_s, function, *arguments)
        inner.add_done_callback(lambda done: _settle(outcome, done))
        return outcome

    def close(self) -> None:
        self._executor.shutdown(wait=False)
        self._client.close(timeout=2)


def open_pool(jobs: int, cluster: str | None = None) -> Pool:
    """The pool that the options ask for."""
    return DaskPool(cluster) if cluster else LocalPool(jobs)


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Ctrl-C waits until the end, and threads and processes begun inside never see it: the parent decides.

    It reaches the whole group, and a worker that is still importing would say so in a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # where it starts, it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import gc

    import cv2

    cv2.setNumThreads(1)
    # A slide's report holds hundreds of thousands of small records without a cycle among them; looking for cycles after
    # every 700 new ones takes an eighth of its time.
    gc.set_threshold(100_000, 50, 50)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc hand the arrays of one field on to the next, instead of back to the system page by page."""
    import ctypes

    trim_threshold, mmap_threshold, largest_array = -1, -3, 256 << 20
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, largest_array)
        libc.mallopt(mmap_threshold, largest_array)
    except (OSError, TypeError, AttributeError):  # another C library has other ways
        return


def give_back_freed_memory() -> None:
    """Undo what :func:`_keep_freed_memory` has kept so far: a large report makes no use of the arrays of fields."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return


class _TooLate:
    """What a call came to that took too long: a result and no error, since Dask tries again what fails."""


def _in_time(timeout_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and wait no longer than that; a Dask worker cannot stop it, but does not wait for it either."""
    call: Future[Any] = Future()

    def work() -> None:
        try:
            call.set_result(function(*arguments))
        except BaseException as error:
            call.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    concurrent.futures.wait([call], timeout_s)
    return call.result() if call.done() else _TooLate()


def _settle(outcome: Future[Any], done: Future[Any], early: bool = False) -> None:
    """Pass a future's end on, in the words of :class:`Pool`.

    A task that was stopped ``early`` has not taken too long: the clock was put forward, or the machine has slept, and
    pebble goes by the clock on the wall.
    """
    if outcome.cancelled() or not outcome.set_running_or_notify_cancel():
        return
    if done.cancelled():
        outcome.set_exception(WorkerLostError("cancelled"))
        return
    error = done.exception()
    if error is None and not isinstance(done.result(), _TooLate):
        outcome.set_result(done.result())
    elif early and isinstance(error, TimeoutError):
        outcome.set_exception(WorkerLostError("stopped, since the clock was put forward"))
    elif error is None or isinstance(error, TimeoutError | concurrent.futures.TimeoutError):
        outcome.set_exception(TimeoutError("took too long"))
    elif type(error).__name__ in ("ProcessExpired", "BrokenProcessPool", "KilledWorker", "BrokenExecutor"):
        outcome.set_exception(WorkerLostError(str(error)))
    else:
        outcome.set_exception(error)
