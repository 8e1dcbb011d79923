"""What a lab PC does to a run: full disk, lost rights, replaced weights, a locked journal, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written import table

from cbctool.classifier.weights import default_weights
from cbctool.errors import OutputError
from cbctool.run.analyse import analyse
from cbctool.run.discover import discover_slides
from cbctool.run.journal import Journal
from cbctool.run.pipeline import Analyser, Settings, SlideDone, SlideFailed
from cbctool.run.pool import Pool
from cbctool.run.tasks import analyse_field_task
from cbctool.run.watch import WatchOptions, _Watcher


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB of its own; skipped where it cannot be mounted (not root, or in a container)."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True, capture_output=True)


def visible(out: Path) -> list[str]:
    return sorted(p.name for p in out.iterdir() if p.is_dir() and not p.name.startswith("."))


def test_a_full_disk_stops_the_run_and_a_larger_one_completes_it(drawn_slides: Path, small_disk: Path) -> None:
    out = small_disk / "reports"
    with pytest.raises(OutputError, match=r"disk is full|No space|no space"):
        analyse(drawn_slides, Settings(out=out, jobs=1))
    assert all((out / name / "manifest.json").is_file() for name in visible(out))  # whatever is there is whole
    remount(small_disk, "size=200m")
    report = analyse(drawn_slides, Settings(out=out, jobs=1))
    assert report.slides_done + report.slides_skipped == 2
    assert visible(out) == ["single", "two-fields"]
    assert len(table(out / "summary.csv")) == 2


def test_a_report_that_somebody_has_open_costs_its_own_slide_alone(
    drawn_slides: Path, small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    slides = tmp_path_factory.mktemp("slides")
    picture = (drawn_slides / "single.png").read_bytes()
    (slides / f"{small_disk.name}.png").write_bytes(picture)  # its report's place cannot be renamed: as open on Windows
    (slides / "free.png").write_bytes(picture + b"free")
    report = analyse(slides, Settings(out=small_disk.parent, jobs=1))
    assert (report.slides_done, report.slides_failed) == (1, 1)
    (failure,) = report.failures
    assert failure.slide == small_disk.name
    assert "cannot be replaced" in failure.error
    assert not list(small_disk.parent.glob(".partial-*"))


def test_rights_lost_in_mid_run_lose_nothing(drawn_slides: Path, small_disk: Path) -> None:
    remount(small_disk, "size=200m")
    out = small_disk / "reports"
    with Analyser(Settings(out=out, jobs=1)) as analyser:
        remount(small_disk, "ro")
        with pytest.raises(OutputError):
            list(analyser.run(discover_slides(drawn_slides).slides))
    remount(small_disk, "rw")
    assert visible(out) == []
    assert analyse(drawn_slides, Settings(out=out, jobs=1)).slides_done == 2


def test_after_a_fault_no_worker_writes_on_behind_the_back_of_the_next_pass(drawn_slides: Path, tmp_path: Path) -> None:
    slides, out, away = tmp_path / "slides", tmp_path / "out", tmp_path / "away"
    slides.mkdir()
    for i in range(12):
        (slides / f"{i:02}.png").write_bytes((drawn_slides / "single.png").read_bytes() + bytes([i]))
    told = []

    def until_the_share_is_gone(analyser: Analyser) -> None:
        for outcome in analyser.run(discover_slides(slides).slides):
            if isinstance(outcome, SlideDone):
                told.append(outcome.slide.name)
                if out.is_dir():
                    out.rename(away)
                    out.touch()

    with Analyser(Settings(out=out, jobs=2)) as analyser:
        with pytest.raises(OutputError):
            until_the_share_is_gone(analyser)
        out.unlink()
        away.rename(out)
        analyser._pool.submit(len, (), timeout_s=60).result()  # behind whatever was left
        assert visible(out) == sorted(told)
        assert sum(isinstance(o, SlideDone) for o in analyser.run(discover_slides(slides).slides)) == 12


def test_weights_replaced_while_running_do_not_reach_a_result(drawn_slides: Path, tmp_path: Path) -> None:
    weights = tmp_path / "lab.safetensors"
    shutil.copy(default_weights(), weights)
    with Analyser(Settings(out=tmp_path / "out", jobs=1, weights=weights)) as analyser:
        before = analyser.classifier.info.sha256
        weights.write_bytes(b"something else")
        done = [o for o in analyser.run(discover_slides(drawn_slides).slides) if isinstance(o, SlideDone)]
    assert {one.row["weights_sha256"] for one in done} == {before}


def test_a_field_that_takes_too_long_is_stopped_and_marked_and_the_worker_replaced(
    drawn_slides: Path, tmp_path: Path
) -> None:
    impatient = Settings(out=tmp_path / "out", jobs=1, field_timeout_s=0.02)
    with Analyser(impatient) as analyser:
        outcomes = [o for o in analyser.run(discover_slides(drawn_slides).slides) if isinstance(o, SlideFailed)]
        assert {one.slide.name for one in outcomes} == {"single", "two-fields"}
        assert all("took too long" in failure.error for one in outcomes for failure in one.failures)
        analyser.settings = replace(impatient, field_timeout_s=120.0)
        done = [o for o in analyser.run(discover_slides(drawn_slides).slides) if isinstance(o, SlideDone)]
    assert len(done) == 2


def test_a_field_over_which_workers_die_is_marked_and_the_others_go_on(drawn_slides: Path, tmp_path: Path) -> None:
    class Poisoned:
        """The analyser's pool, in which one field ends its worker at once, as the system does when memory is short."""

        def __init__(self, pool: Pool) -> None:
            self.pool, self.width = pool, pool.width

        def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
            if function is analyse_field_task and arguments[0].name == "single.png":
                function, arguments = os._exit, (137,)
            return self.pool.submit(function, *arguments, timeout_s=timeout_s)

    with Analyser(Settings(out=tmp_path / "out", jobs=1)) as analyser:
        whole, analyser._pool = analyser._pool, Poisoned(analyser._pool)
        outcomes = list(analyser.run(discover_slides(drawn_slides).slides))
        analyser._pool = whole
    (failed,) = [one for one in outcomes if isinstance(one, SlideFailed)]
    assert failed.slide.name == "single"
    assert "worker died" in failed.failures[0].error
    assert [one.slide.name for one in outcomes if isinstance(one, SlideDone)] == ["two-fields"]


def test_watch_waits_for_a_locked_journal_and_for_space(drawn_slides: Path, tmp_path: Path) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(drawn_slides / "single.png", inbox)
    out.mkdir()
    with Journal(out, timeout_s=0.05) as journal, Analyser(Settings(out=out, jobs=1)) as analyser:
        watcher = _Watcher(inbox, journal, analyser, WatchOptions(settle_s=0, min_free_bytes=0), lambda _: None)
        holder = sqlite3.connect(journal.path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        watcher.turn()
        assert "locked" in watcher.paused
        holder.close()
        watcher.options = WatchOptions(settle_s=0, min_free_bytes=1 << 60)
        watcher.turn()
        assert "needed" in watcher.paused
        assert journal.counts()["queued"] == 1
        watcher.options = WatchOptions(settle_s=0, min_free_bytes=0)
        watcher.turn()
        assert watcher.paused == ""
        assert journal.counts()["done"] == 1


def test_a_clock_that_jumps_forward_costs_no_field(
    drawn_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time

    class Jumping:
        """The analyser's pool; the clock is put forward by a day while the first field is in hand."""

        def __init__(self, pool: Pool) -> None:
            self.pool, self.width = pool, pool.width

        def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
            if time.time is not clock or function is not analyse_field_task:
                return self.pool.submit(function, *arguments, timeout_s=timeout_s)
            future = self.pool.submit(time.sleep, 30, timeout_s=timeout_s)
            while not any(task.started for task in self.pool._pool._pool_manager.task_manager.tasks.values()):
                os.sched_yield()
            monkeypatch.setattr(time, "time", lambda: clock() + 86_400)
            return future

    with Analyser(Settings(out=tmp_path / "out", jobs=1)) as analyser:
        pool, analyser._pool = analyser._pool, Jumping(analyser._pool)
        outcomes = list(analyser.run(discover_slides(drawn_slides).slides))
        analyser._pool = pool
    assert sorted(one.slide.name for one in outcomes if isinstance(one, SlideDone)) == ["single", "two-fields"]
    assert not any(one.failures for one in outcomes if isinstance(one, SlideDone))


def test_a_clock_that_jumps_back_changes_nothing(
    drawn_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    out.mkdir()
    shutil.copy(drawn_slides / "single.png", inbox)
    with Journal(out) as journal, Analyser(Settings(out=out, jobs=1)) as analyser:
        watcher = _Watcher(inbox, journal, analyser, WatchOptions(settle_s=0, min_free_bytes=0), lambda _: None)
        watcher.turn()
        monkeypatch.setattr(time, "time", lambda: 0.0)
        (inbox / "later.png").write_bytes((drawn_slides / "single.png").read_bytes() + b"later")
        watcher.turn()
        assert journal.counts()["done"] == 2
