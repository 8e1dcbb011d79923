"""Watching an inbox for real: processes, signals, a broken file, a second watcher."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from written import table

from cbctool.errors import ExitCode, InputError, OutputError, UsageError
from cbctool.run import manifest, originals
from cbctool.run import watch as room
from cbctool.run.heartbeat import metrics_text
from cbctool.run.journal import Entry, Journal, State, status_text
from cbctool.run.manifest import hash_file, read_manifest
from cbctool.run.originals import free_place, move
from cbctool.run.pipeline import Analyser, Settings
from cbctool.run.service import StopWatching, file_events, stoppable
from cbctool.run.watch import Step, WatchOptions, _Watcher, next_step, watch


@contextmanager
def watching(inbox: Path, out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "cbctool", "watch", str(inbox), "--out", str(out), "--jobs", "1"]
    command += ["--settle", "0.2", "--settle-folder", "0.5", "--poll", "0.2", "--min-free-gb", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    """Look again and again until it is so; a test that waits in vain fails here."""
    import threading

    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.05)


def counts(out: Path) -> dict[str, int]:
    try:
        return json.loads(status_text(out, as_json=True))["counts"]
    except Exception:
        return {}


@pytest.fixture
def inbox(drawn_slides: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    shutil.copytree(drawn_slides, folder)
    return folder


def test_what_is_there_and_what_arrives_is_analysed_and_sigterm_ends_it(inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with watching(inbox, out, "--metrics-port", "18923") as process:
        wait_for(lambda: counts(out).get("done") == 2)
        second = subprocess.run(
            [sys.executable, "-m", "cbctool", "watch", str(inbox), "--out", str(out)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == ExitCode.OUTPUT
        assert "another `cbctool watch`" in second.stderr
        data = bytearray((inbox / "single.png").read_bytes())
        (inbox / "later.png").write_bytes(data + b"later")
        (inbox / "broken.png").write_bytes(data[:3000])
        wait_for(lambda: counts(out).get("done") == 3 and counts(out).get("failed") == 1)
        metrics = urllib.request.urlopen("http://127.0.0.1:18923/metrics", timeout=10).read().decode()
        assert "cbctool_slides{" in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert json.loads((out / "heartbeat.json").read_text())["state"] == "stopped"
    assert (out / "later" / "report.pdf").exists()
    assert "broken" in status_text(out)
    assert (inbox / "broken.png").exists()  # an original is never moved unasked


def test_a_kill_loses_nothing_and_done_is_not_done_again(inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with watching(inbox, out) as process:
        wait_for(lambda: counts(out).get("done") == 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with Journal(out) as journal:
        journal.start("single")  # as if it had been in hand
    stamp = (out / "two-fields" / "manifest.json").stat().st_mtime_ns
    shutil.copy(inbox / "two-fields" / "1.png", inbox / "two-fields" / "3.png")
    with watching(inbox, out) as process:  # the lock did not outlive the crash
        wait_for(lambda: counts(out).get("done") == 2 and (out / "two-fields" / "overlay_3.jpg").exists())
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert (out / "two-fields" / "manifest.json").stat().st_mtime_ns != stamp
    result = json.loads((out / "two-fields" / "result.json").read_text(encoding="utf-8"))
    assert result["supersedes"]
    assert json.loads((out / "single" / "result.json").read_text(encoding="utf-8"))["supersedes"] == ""


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError):
        watch(tmp_path / "nowhere", Settings(out=tmp_path / "out"))
    with pytest.raises(UsageError, match="inside"):
        watch(tmp_path / "in", Settings(out=tmp_path / "in" / "out"))


def test_what_no_waiting_mends_ends_the_watch_at_the_start(inbox: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cuda:99"):
        watch(inbox, Settings(out=tmp_path / "out", jobs=1, device="cuda:99"))


def test_a_stop_while_the_output_folder_is_away_is_a_stop(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise StopWatching

    def away(_: object) -> None:
        raise OutputError("away")

    monkeypatch.setattr(_Watcher, "turn", stop)
    monkeypatch.setattr(Journal, "hand_back", away)
    watch(inbox, Settings(out=tmp_path / "out", jobs=1))
    assert json.loads((tmp_path / "out" / "heartbeat.json").read_text())["state"] == "stopped"


def entry(state: State, attempts: int = 1, signature: str = "now", reason: str = "") -> Entry:
    return Entry("a", "in/a.png", signature, state, reason, attempts, "", "", "")


WHOLE = manifest.Manifest("a", "", "", (), {}, {"status": "done"})
LACKING = dataclasses.replace(WHOLE, row={"status": "partial"})
SIGNED = dataclasses.replace(WHOLE, row={"status": "partial", "reviewer": "Dr. Grün"})


@pytest.mark.parametrize(
    ("before", "report", "step"),
    [
        (None, None, Step.QUEUE),
        (None, WHOLE, Step.QUEUE),
        *((entry(state, signature="before"), WHOLE, Step.QUEUE) for state in State),
        *((entry(state), report, Step.NOTHING) for state in (State.QUEUED, State.RUNNING) for report in (None, WHOLE)),
        (entry(State.DONE), WHOLE, Step.PUT_AWAY_DONE),
        (entry(State.DONE), SIGNED, Step.PUT_AWAY_DONE),
        (entry(State.DONE), None, Step.QUEUE),  # its report is gone
        (entry(State.DONE), LACKING, Step.NOTHING),
        (entry(State.DONE, reason="took too long and was stopped"), LACKING, Step.WAIT),
        (entry(State.DONE, 4, reason="took too long and was stopped"), LACKING, Step.NOTHING),
        (entry(State.FAILED, 0), None, Step.REQUEUE),
        (entry(State.FAILED, 1), WHOLE, Step.WAIT),
        (entry(State.FAILED, 3), None, Step.WAIT),
        (entry(State.FAILED, 4), None, Step.PUT_AWAY_FAILED),
    ],
)
def test_what_is_next_for_a_slide(before: Entry | None, report: manifest.Manifest | None, step: Step) -> None:
    assert next_step(before, "now", 4, report) is step


# ----------------------------------------------------------------------------- one look after the other, by hand


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    """One set of workers for all tests below; each has slides of its own names and content."""
    with Analyser(Settings(out=tmp_path_factory.mktemp("out"), jobs=1)) as one:
        yield one


class Lab:
    """A watcher over an inbox of its own, turned by hand."""

    def __init__(self, folder: Path, analyser: Analyser, picture: bytes) -> None:
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.out = analyser.settings.out
        self.picture = picture
        self.folder = folder
        self.analyser = analyser
        self.journal = Journal(folder)
        self.start()

    def start(self, **options: object) -> None:
        quick = {"settle_s": 0.0, "settle_folder_s": 0.0, "min_free_bytes": 0, **options}
        self.watcher = _Watcher(self.inbox, self.journal, self.analyser, WatchOptions(**quick), lambda _: None)

    def put(self, name: str, content: str = "") -> Path:
        path = self.inbox / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.picture + str(self.folder).encode() + (content or name).encode())
        return path

    def turn(self) -> None:
        while self.watcher.turn():
            pass

    def states(self) -> dict[str, str]:
        return {entry.slide: entry.state for entry in self.journal.entries()}

    def result(self, slide: str) -> dict:
        return json.loads((self.out / slide / "result.json").read_text(encoding="utf-8"))


@pytest.fixture
def lab(tmp_path: Path, analyser: Analyser, drawn_slides: Path) -> Iterator[Lab]:
    one = Lab(tmp_path, analyser, (drawn_slides / "single.png").read_bytes())
    with one.journal:
        yield one


def test_what_was_moved_is_closed_and_a_later_file_of_its_name_is_another_slide(lab: Lab, tmp_path: Path) -> None:
    done = tmp_path / "done"
    lab.start(move_done=done)
    first = lab.put("image1.png", "patient A")
    kept = first.read_bytes()
    lab.turn()
    assert [path.name for path in done.iterdir()] == ["image1.png"]
    lab.put("image1.png", "patient B")
    lab.turn()
    assert lab.states() == {"image1": "done", "image1.png": "done"}
    assert lab.result("image1")["supersedes"] == ""  # nobody's report was overwritten
    stamp = (lab.out / "image1" / "result.json").stat().st_mtime_ns
    (lab.inbox / "image1.png").write_bytes(kept)  # patient A once more
    lab.turn()
    assert lab.states() == {"image1": "done", "image1.png": "done"}
    assert (lab.out / "image1" / "result.json").stat().st_mtime_ns == stamp
    assert sorted(path.name for path in done.iterdir()) == ["image1-2.png", "image1-3.png", "image1.png"]
    assert list(lab.inbox.iterdir()) == []


def test_originals_that_a_person_took_out_of_the_done_folder_give_their_reports_to_nobody(
    lab: Lab, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    lab.start(move_done=done)
    names = []
    for patient in "ABC":
        lab.put("image2.png", f"patient {patient}")
        lab.turn()
        assert not lab.watcher.paused
        names += [path.name for path in done.iterdir()]
        shutil.rmtree(done)  # to the archive
    assert names == ["image2.png", "image2-2.png", "image2-3.png"]
    assert lab.states() == {"image2": "done", "image2.png": "done", "image2-2": "done"}
    assert all(lab.result(slide)["supersedes"] == "" for slide in lab.states())


def test_a_report_that_cannot_be_read_is_not_given_to_another_slide(lab: Lab, tmp_path: Path) -> None:
    lab.start(move_done=tmp_path / "done")
    lab.put("image3.png", "patient A")
    lab.turn()
    manifest = lab.out / "image3" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"")  # as a power cut leaves it, or while a virus scanner holds it
    lab.put("image3.png", "patient B")
    lab.turn()
    manifest.write_bytes(whole)
    assert lab.states() == {"image3": "done", "image3.png": "done"}
    assert lab.result("image3.png")["supersedes"] == ""


def test_slides_that_come_together_are_written_down_together_and_all_or_none(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        lab.put(f"many{number}.png")
    lab.watcher.options = WatchOptions(min_free_bytes=1 << 60)
    said: list[str] = []
    lab.journal._db.set_trace_callback(said.append)
    queue = lab.journal.queue

    def fault(slide: str, *rest: Any) -> None:
        queue(slide, *rest)
        if slide == "many5":
            raise OutputError("locked")

    with monkeypatch.context() as once:
        once.setattr(lab.journal, "queue", fault)
        lab.turn()
    assert lab.states() == {}
    lab.watcher.paused = ""  # with the same open journal
    lab.turn()
    assert said.count("COMMIT") == 1
    assert list(lab.states().values()) == ["queued"] * 9


def test_a_note_that_cannot_be_written_stops_nobody(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.start(retry_waits_s=())
    (lab.out / "failed" / "a1.txt").mkdir(parents=True)  # it can neither be replaced nor removed
    (lab.inbox / "a1.png").write_bytes(b"broken")
    lab.put("a2.png")
    lab.turn()
    assert lab.states() == {"a1": "failed", "a2": "done"}
    assert "a1.txt" in caplog.text
    lab.put("a1.png")
    lab.turn()
    assert lab.states() == {"a1": "done", "a2": "done"}
    (lab.out / "failed" / "a1.txt").rmdir()


def test_a_journal_that_fails_in_mid_batch_costs_no_slide_its_report(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        lab.put(f"mid{number}.png")
    finish = lab.journal.finish

    def locked_once(slide: str, reason: str) -> None:
        monkeypatch.setattr(lab.journal, "finish", finish)
        raise OutputError("locked")

    monkeypatch.setattr(lab.journal, "finish", locked_once)
    lab.turn()
    assert lab.watcher.paused == "locked"
    assert sorted(lab.states().values()) == ["done", "done", "queued"]
    assert {path.parent.name for path in lab.out.glob("mid*/manifest.json")} == {"mid0", "mid1", "mid2"}
    lab.watcher.rest_until = 0.0
    lab.turn()
    assert set(lab.states().values()) == {"done"}


def test_a_journal_that_goes_is_waited_for_and_one_that_comes_back_is_used(lab: Lab) -> None:
    lab.put("here.png")
    lab.turn()
    journal, away = lab.journal.path, lab.folder / "away"
    journal.rename(away)  # with the share
    lab.put("meanwhile.png")
    for _ in range(3):
        lab.turn()
        assert "journal" in lab.watcher.paused
    assert not journal.exists()  # nothing is begun below the place of the share
    shutil.copy(away, journal)  # another file, as after the share's return an open one is of no use
    lab.turn()
    assert not lab.watcher.paused
    assert lab.states() == {"here": "done", "meanwhile": "done"}
    journal.write_bytes(b"spoilt" * 1000)
    lab.watcher.paused = "a fault"
    lab.turn()
    lab.turn()
    assert lab.states() == {"here": "done", "meanwhile": "done"}
    assert list(lab.folder.glob("journal-broken-*"))


def test_an_output_folder_without_rights_is_waited_for_and_not_called_mended_at_every_look(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OutputError("no rights")

    lab.put("rights.png")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(lab.journal, "queue", refused)
        lab.turn()
        meanwhile.setattr(manifest, "prepare_output", refused)
        lab.inbox.joinpath("rights.png").rename(lab.folder / "rights.png")
        for _ in range(3):  # nothing that would have to be written
            lab.turn()
        assert lab.watcher.paused
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["waiting: no rights"]
    lab.turn()
    assert not lab.watcher.paused


def test_what_goes_before_it_is_opened_is_no_try(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab.put("fleeting.png")
    batch = lab.watcher._batch
    monkeypatch.setattr(lab.watcher, "_batch", lambda: (batch(), path.unlink(missing_ok=True))[0])
    lab.turn()
    assert lab.journal.named("fleeting").attempts == 0


def test_what_cannot_be_moved_is_moved_at_the_next_start(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = lab.put("later.png")
    lab.start(move_done=tmp_path / "done")
    with monkeypatch.context() as once:
        once.setattr(originals, "move", refused)
        lab.turn()
    assert "cannot be moved" in caplog.text
    assert Path(lab.journal.named("later").path) == path
    stamp = (lab.out / "later" / "result.json").stat().st_mtime_ns
    lab.start(move_done=tmp_path / "done")
    lab.turn()
    assert (tmp_path / "done" / "later.png").exists()
    assert (lab.out / "later" / "result.json").stat().st_mtime_ns == stamp


def test_what_could_not_be_looked_into_once_is_looked_at_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    lab.put("again.png")
    with monkeypatch.context() as once:
        once.setattr(lab.watcher, "_name", refused)
        lab.turn()
    assert lab.states() == {}
    lab.turn()
    assert lab.states() == {"again": "done"}


def test_a_folder_that_grows_while_it_is_analysed_is_not_moved_before_all_of_it_is_done(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.start(move_done=tmp_path / "done")
    lab.put("growing/1.png")
    start = lab.journal.start
    monkeypatch.setattr(lab.journal, "start", lambda slide: (start(slide), lab.put("growing/2.png")))
    assert lab.watcher.turn()
    assert (lab.inbox / "growing").is_dir()
    monkeypatch.undo()
    lab.turn()
    assert not (lab.inbox / "growing").exists()
    assert len(lab.result("growing")["fields"]) == 2


def test_a_file_replaced_while_it_is_analysed_has_the_report_of_its_last_content(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.put("replaced.png", "first")
    finish = lab.journal.finish
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(lab.journal, "finish", lambda *a: (lab.put("replaced.png", "second, longer"), finish(*a)))
        lab.watcher.turn()
    lab.turn()
    done = read_manifest(lab.out / "replaced")
    assert list(done.inputs.values()) == [hash_file(lab.inbox / "replaced.png")]
    assert lab.result("replaced")["supersedes"]


def test_slides_that_lie_a_folder_too_deep_are_said_and_not_passed_over(lab: Lab) -> None:
    lab.put("case/notes.txt")
    (lab.inbox / "case" / "slide 1").mkdir()
    (lab.inbox / "case" / "slide 1" / "1.png").write_bytes(lab.picture)
    lab.turn()
    assert lab.states() == {"case": "failed"}
    assert "slide 1 is a folder and was skipped" in lab.journal.named("case").reason


def test_every_slide_has_a_name_of_its_own(lab: Lab) -> None:
    for name in ("same.png", "same.jpg", "same.bmp", "same/1.png", "Same.webp"):
        lab.put(name)
    lab.turn()
    assert len(lab.states()) == 5
    assert set(lab.states().values()) == {"done"}
    assert len({name.casefold() for name in lab.states()}) == 5


def test_names_that_are_hard_to_write_down(lab: Lab) -> None:
    for name in (b"odd \xff.png", b"new\nline.png", b"=cmd().png", "<b>😐.png".encode()):
        (lab.inbox / os.fsdecode(name)).write_bytes(lab.picture + name + str(lab.folder).encode())
    (lab.inbox / os.fsdecode(b"\xfe.png")).write_bytes(b"broken")
    lab.start(retry_waits_s=())
    lab.turn()
    assert lab.states() == {"odd �": "done", "new�line": "done", "=cmd()": "done", "<b>😐": "done", "�": "failed"}
    status_text(lab.folder, as_json=True).encode()
    status_text(lab.folder).encode()


def test_retries_with_growing_waits_and_then_set_aside_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    lab.start(retry_waits_s=(30.0, 300.0), move_failed=tmp_path / "bad")
    whole = lab.put("late.png").read_bytes()
    (lab.inbox / "late.png").write_bytes(whole[:3000])
    waits = []
    for _ in range(2):
        lab.turn()
        waits.append(lab.watcher.due["late"] - time.monotonic())
        lab.turn()  # not yet
        assert lab.states() == {"late": "failed"}
        lab.watcher.due["late"] = 0.0
    assert waits == pytest.approx([30.0, 300.0], abs=20)
    assert not (lab.out / "failed" / "late.txt").exists()
    lab.turn()
    note = (lab.out / "failed" / "late.txt").read_text(encoding="utf-8")
    assert "late.png" in note
    assert "Tried 3 times" in note
    assert (tmp_path / "bad" / "late.png").read_bytes() == whole[:3000]
    assert {row["slide"]: row["status"] for row in table(lab.out / "summary.csv")}["late"] == "failed"
    (lab.inbox / "late.png").write_bytes(whole)  # exported once more
    lab.turn()
    assert lab.states() == {"late": "done"}
    assert not (lab.out / "failed" / "late.txt").exists()
    assert all(row["slide"] != "late" for row in table(lab.out / "failures.csv"))


def test_a_field_that_becomes_whole_later_makes_the_report_whole(lab: Lab, tmp_path: Path) -> None:
    lab.start(move_done=tmp_path / "done")
    lab.put("mended/1.png")
    whole = lab.put("mended/2.png").read_bytes()
    (lab.inbox / "mended" / "2.png").write_bytes(whole[:3000])
    for _ in range(5):  # a file that stays as it is makes no further work
        lab.turn()
    assert lab.journal.named("mended").attempts == 1
    assert not lab.watcher.due
    assert (lab.inbox / "mended").is_dir()
    lab.start(move_done=tmp_path / "done")  # nor does a restart
    lab.turn()
    assert lab.journal.named("mended").attempts == 1
    before = lab.result("mended")
    assert [before["status"], len(before["fields"])] == ["partial", 1]
    (lab.inbox / "mended" / "2.png").write_bytes(whole)
    lab.turn()
    after = lab.result("mended")
    assert [after["status"], len(after["fields"])] == ["done", 2]
    assert before["identity"][:12] in after["supersedes"]
    assert all(row["slide"] != "mended" for row in table(lab.out / "failures.csv"))
    assert sorted(path.name for path in (tmp_path / "done" / "mended").iterdir()) == ["1.png", "2.png"]


def test_a_field_that_failed_by_the_moment_is_tried_again_a_few_times(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = {"retry_waits_s": (30.0, 300.0), "move_done": tmp_path / "done"}
    lab.start(**waits)
    lab.put("busy/1.png")
    lab.put("busy/2.png")
    submit = lab.analyser._pool.submit

    def stopped(function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        if getattr(arguments[0], "name", "") != "2.png":
            return submit(function, *arguments, timeout_s=timeout_s)
        late: Future[Any] = Future()
        late.set_exception(TimeoutError("took too long"))
        return late

    with monkeypatch.context() as busy:
        busy.setattr(lab.analyser._pool, "submit", stopped)
        for attempts in (1, 2):
            lab.turn()
            lab.turn()  # not yet
            assert lab.journal.named("busy").attempts == attempts
            lab.start(**waits)  # a restart does not forget it
            lab.turn()
            assert lab.watcher.due["busy"] > time.monotonic() + 20
            lab.watcher.due["busy"] = 0.0
    assert lab.result("busy")["status"] == "partial"
    lab.turn()
    assert lab.result("busy")["status"] == "done"
    assert lab.result("busy")["supersedes"]
    assert (tmp_path / "done" / "busy").is_dir()
    lab.put("slow/2.png")
    lab.put("slow/1.png")
    monkeypatch.setattr(lab.analyser._pool, "submit", stopped)
    for _ in range(5):
        lab.turn()
        lab.watcher.due = dict.fromkeys(lab.watcher.due, 0.0)
    assert lab.journal.named("slow").attempts == 3  # and no more
    assert lab.states()["slow"] == "done"


def test_nothing_is_tried_and_nothing_given_up_while_the_share_is_away(lab: Lab) -> None:
    lab.start(retry_waits_s=(1000.0,))
    (lab.inbox / "b.png").write_bytes(b"broken")
    lab.turn()
    lab.watcher.due["b"] = 0.0
    away = lab.inbox.with_name("away")
    lab.inbox.rename(away)
    for _ in range(5):
        lab.turn()
    assert json.loads((lab.out / "heartbeat.json").read_text())["state"] == "inbox unreachable"
    assert lab.journal.named("b").attempts == 1
    lab.inbox.mkdir()  # unmounted: the empty folder beneath shows
    lab.turn()
    assert lab.journal.named("b").attempts == 1
    lab.inbox.rmdir()
    away.rename(lab.inbox)
    lab.turn()
    lab.start(retry_waits_s=(1000.0,))
    lab.turn()
    assert lab.journal.named("b").attempts == 1  # neither its return nor a restart shortens the wait
    assert lab.watcher.due["b"] > time.monotonic() + 900
    lab.watcher.due["b"] = 0.0
    lab.turn()
    assert lab.journal.named("b").attempts == 2


def test_a_share_that_drops_out_under_a_slide_does_not_count_as_a_try(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.put("under.png")
    away = lab.inbox.with_name("away")
    start = lab.journal.start
    monkeypatch.setattr(lab.journal, "start", lambda slide: (start(slide), lab.inbox.rename(away)))
    lab.watcher.turn()
    assert lab.states() == {"under": "queued"}
    assert lab.journal.named("under").attempts == 0
    monkeypatch.undo()
    away.rename(lab.inbox)
    lab.turn()
    assert lab.states() == {"under": "done"}


def test_what_was_taken_away_before_its_turn_is_said_and_taken_up_when_it_returns(lab: Lab) -> None:
    path = lab.put("gone.png")
    lab.watcher.options = WatchOptions(min_free_bytes=1 << 60)
    lab.turn()
    path.rename(lab.folder / "gone.png")
    lab.watcher.options = WatchOptions(min_free_bytes=0)
    lab.turn()
    assert lab.states() == {"gone": "failed"}
    assert "no longer" in lab.journal.named("gone").reason
    (lab.folder / "gone.png").rename(path)
    lab.turn()
    assert lab.states() == {"gone": "done"}


def test_a_slide_that_ends_the_program_again_and_again_is_set_aside_and_takes_no_other_with_it(lab: Lab) -> None:
    for name in ("poison", "innocent"):
        path = lab.put(f"{name}.png")
        lab.journal.queue(name, path, "signature of an earlier day")
    for _ in range(4):
        lab.journal.start("poison")  # and the program ends
    lab.journal.start("innocent")
    lab.start()
    lab.watcher.inbox.scan(0.0)  # seen, not settled: what was queued before is done at once
    batches = []
    while batch := lab.watcher._batch():
        batches.append([entry.slide for entry in batch])
        lab.watcher._analyse(batch)
    assert batches == [["innocent"]]
    assert lab.states() == {"poison": "failed", "innocent": "done"}
    assert "ended 4 times" in (lab.out / "failed" / "poison.txt").read_text(encoding="utf-8")


def test_a_changed_row_of_the_slide_sheet_redoes_its_slide_alone(lab: Lab) -> None:
    sheet = lab.inbox / "slides.csv"
    sheet.write_text("slide,sample_id\nx1,S-1\n")
    lab.put("x1.png")
    lab.put("x2.png")
    lab.turn()
    assert lab.states() == {"x1": "done", "x2": "done"}
    assert lab.result("x1")["slide"]["sample_id"] == "S-1"
    stamp = (lab.out / "x1" / "result.json").stat().st_mtime_ns
    sheet.write_text("slide,sample_id\nx2,S-2\nx1,S-1\n")
    lab.turn()
    lab.turn()
    assert lab.result("x2")["slide"]["sample_id"] == "S-2"
    assert (lab.out / "x1" / "result.json").stat().st_mtime_ns == stamp
    sheet.write_text("slide,wbc\nx2,many\n")
    lab.put("x3.png")
    lab.turn()
    assert "slides.csv" in lab.watcher.paused  # a person has to mend it; nobody's slide fails for it
    assert lab.states() == {"x1": "done", "x2": "done", "x3": "queued"}
    lab.start()
    lab.turn()
    assert "slides.csv" in lab.watcher.paused
    sheet.write_text("slide,wbc\nx3,7\nx2,6\nx1,5\n")
    lab.turn()
    lab.turn()
    assert lab.states() == {"x1": "done", "x2": "done", "x3": "done"}
    assert lab.result("x3")["slide"]["wbc_10e9_per_l"] == 7


def test_a_slide_sheet_that_was_open_elsewhere_or_is_taken_away_holds_nobody_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> None:
        raise UsageError(f"{path} cannot be opened: Permission denied.", "Check the slide sheet.")

    sheet = lab.inbox / "slides.csv"
    sheet.write_text("slide,sample_id\ny1,S-1\n")
    lab.put("y1.png")
    with monkeypatch.context() as in_a_spreadsheet:
        in_a_spreadsheet.setattr(room, "read_sheet", locked)
        lab.turn()
        lab.turn()
        assert "cannot be opened" in lab.watcher.paused
    lab.turn()  # closed without a change
    lab.turn()
    assert lab.states() == {"y1": "done"}
    assert lab.result("y1")["slide"]["sample_id"] == "S-1"
    sheet.write_text("slide,wbc\ny1,many\n")
    lab.put("y2.png")
    lab.turn()
    assert lab.states() == {"y1": "done", "y2": "queued"}
    sheet.rename(lab.folder / "slides.csv")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(lab.watcher, "_batch", list)
        lab.turn()
    (lab.folder / "slides.csv").rename(sheet)  # as it was: with its share
    lab.turn()
    assert "many" in lab.watcher.paused
    sheet.unlink()
    lab.turn()
    assert lab.states() == {"y1": "done", "y2": "done"}


def test_links_out_of_the_inbox_are_not_followed_from_within_a_folder(lab: Lab, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(lab.picture + b"secret")
    lab.put("linked/1.png")
    (lab.inbox / "linked" / "2.png").symlink_to(secret)
    (lab.inbox / "only").mkdir()
    (lab.inbox / "only" / "1.png").symlink_to(secret)
    lab.turn()
    assert lab.states() == {"linked": "done"}
    assert [field["name"] for field in lab.result("linked")["fields"]] == ["1.png"]


def test_work_is_done_in_batches_and_the_tables_are_fresh_after_each(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 2)
    for number in range(3):
        lab.put(f"batch{number}.png")
    seen = []
    while lab.watcher.turn():
        seen.append({row["slide"] for row in table(lab.out / "summary.csv")} & {"batch0", "batch1", "batch2"})
    assert [len(names) for names in seen] == [2, 3]


def test_tables_that_cannot_be_written_now_are_written_at_the_next_look(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.put("open.png")
    lab.put("spoilt.png").write_bytes(b"broken")
    (lab.out / "summary.csv").unlink(missing_ok=True)
    (lab.out / "summary.csv").mkdir()  # as when a spreadsheet holds it on Windows: it cannot be replaced
    lab.turn()
    assert lab.watcher.paused
    assert lab.states() == {"open": "done", "spoilt": "failed"}
    (lab.out / "summary.csv").rmdir()
    lab.turn()
    assert not lab.watcher.paused
    assert any(row["slide"] == "open" for row in table(lab.out / "summary.csv"))
    assert any(row["slide"] == "spoilt" for row in table(lab.out / "failures.csv"))


def test_tables_that_take_long_are_written_less_often_and_at_the_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds = time.monotonic, [0.0]
    write = room.write_tables

    def slowly(*arguments: Any) -> None:
        write(*arguments)
        seconds[0] += 10.0

    monkeypatch.setattr(time, "monotonic", lambda: clock() + seconds[0])
    monkeypatch.setattr(room, "write_tables", slowly)
    lab.put("slow1.png")
    lab.turn()
    lab.put("slow2.png")
    lab.turn()
    assert {"slow1", "slow2"} & {row["slide"] for row in table(lab.out / "summary.csv")} == {"slow1"}
    seconds[0] += 300.0
    lab.turn()
    assert {"slow1", "slow2"} <= {row["slide"] for row in table(lab.out / "summary.csv")}
    lab.put("slow3.png")
    lab.turn()
    lab.watcher.write_tables()  # as when it is stopped
    assert "slow3" in {row["slide"] for row in table(lab.out / "summary.csv")}


def test_tables_that_a_crash_came_before_are_written_at_the_start(lab: Lab) -> None:
    lab.put("early.png")
    lab.turn()
    (lab.out / "summary.csv").write_text("slide\n")
    lab.start()
    lab.turn()
    assert "early" in {row["slide"] for row in table(lab.out / "summary.csv")}


def test_reports_that_cannot_be_reached_are_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError(errno.EHOSTDOWN, "Host is down")

    lab.put("patient.png")
    with monkeypatch.context() as away:
        away.setattr(room, "with_twins_named", unreachable)
        lab.turn()
        assert "Host is down" in lab.watcher.paused
        assert lab.states() == {"patient": "queued"}
    lab.turn()
    assert lab.states() == {"patient": "queued"}  # it rests
    lab.watcher.rest_until = 0.0
    lab.turn()
    assert lab.states() == {"patient": "done"}


# ------------------------------------------------------------------------------------------------ its small parts


def test_moving_over_file_systems_shows_nothing_half_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near = Path.rename

    def far(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return near(self, target)

    monkeypatch.setattr(Path, "rename", far)
    (tmp_path / "done").mkdir()
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "1.png").write_bytes(b"1")
    (tmp_path / "a.png").write_bytes(b"a")
    for name in ("slide", "a.png"):
        move(tmp_path / name, free_place(tmp_path / name, tmp_path / "done"))
    assert (tmp_path / "done" / "slide" / "1.png").read_bytes() == b"1"
    assert (tmp_path / "done" / "a.png").read_bytes() == b"a"
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["a.png", "slide"]
    assert not (tmp_path / "slide").exists()
    assert not (tmp_path / "a.png").exists()


def test_a_copy_is_on_the_disk_before_the_original_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, fsync = Path.rename, os.fsync
    events: list[str] = []

    def far(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        events.append(f"{self.name} -> {target.name}")
        return near(self, target)

    def flushed(number: int) -> None:
        events.append(Path(f"/proc/self/fd/{number}").readlink().name)
        fsync(number)

    monkeypatch.setattr(Path, "rename", far)
    monkeypatch.setattr(os, "fsync", flushed)
    (tmp_path / "done").mkdir()
    (tmp_path / "slide").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "slide" / name).write_bytes(b"1")
    move(tmp_path / "slide", tmp_path / "done" / "slide")
    assert sorted(events[:2]) == ["1.png", "2.png"]
    assert events[2:] == [".moving-slide -> slide", "done", "slide -> .moved-slide"]


def test_a_stop_while_an_original_is_taken_away_leaves_its_report_as_it_is(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, remove = Path.rename, manifest.remove

    def far(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return near(self, target)

    def half_removed(path: Path) -> None:
        if path.parent == lab.inbox and path.is_dir():
            next(path.iterdir()).unlink()
            raise StopWatching
        remove(path)

    lab.start(move_done=tmp_path / "done")
    lab.put("halved/1.png")
    lab.put("halved/2.png")
    with monkeypatch.context() as over_a_network:
        over_a_network.setattr(Path, "rename", far)
        over_a_network.setattr(manifest, "remove", half_removed)
        with pytest.raises(StopWatching):
            lab.turn()
    lab.journal.hand_back()
    lab.start(move_done=tmp_path / "done")
    lab.turn()
    assert lab.states() == {"halved": "done"}
    assert len(lab.result("halved")["fields"]) == 2
    assert len(list((tmp_path / "done" / "halved").iterdir())) == 2


def test_a_whole_slide_file_is_moved_with_what_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "scan.mrxs").write_bytes(b"m")
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "Data0000.dat").write_bytes(b"d")
    (tmp_path / "done" / "scan").mkdir(parents=True)
    target = free_place(tmp_path / "scan.mrxs", tmp_path / "done")
    target.parent.mkdir()
    move(tmp_path / "scan.mrxs", target)
    assert target == tmp_path / "done" / "scan-2" / "scan.mrxs"
    assert (target.parent / "scan" / "Data0000.dat").read_bytes() == b"d"
    (tmp_path / "other" / "scan.mrxs").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        move(target, tmp_path / "other" / "scan.mrxs")
    assert target.is_file()
    assert (target.parent / "scan" / "Data0000.dat").exists()


def test_what_cannot_be_taken_away_stays_and_is_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, target: Path) -> Path:
        if self.parent == target.parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return near(self, target)

    near = Path.rename
    monkeypatch.setattr(Path, "rename", read_only)
    (tmp_path / "done").mkdir()
    (tmp_path / "a.png").write_bytes(b"a")
    with pytest.raises(PermissionError):
        move(tmp_path / "a.png", tmp_path / "done" / "a.png")
    assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png"]
    assert (tmp_path / "a.png").exists()


def test_a_terminal_that_closes_stops_the_watch_unless_it_runs_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(StopWatching), stoppable():
            signal.raise_signal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("step", ["__init__", "schedule", "start"])
def test_without_file_events_it_looks_at_intervals_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, step: str
) -> None:
    from watchdog.observers import Observer

    def limit(*_: object, **__: object) -> None:
        raise OSError(number, "inotify limit reached")

    monkeypatch.setattr(Observer, step, limit)
    with file_events(tmp_path, wanted=True) as wake:
        assert not wake.is_set()
    assert "looking at intervals instead" in caplog.text


def test_events_wake_the_loop_and_lost_ones_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with file_events(tmp_path, wanted=True) as wake:
        (tmp_path / "a.png").write_bytes(b"1")
        assert wake.wait(30)
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed")
    assert "the next look finds what they missed" in caplog.text


def test_metrics_text() -> None:
    text = metrics_text({"queued": 1, "done": 2}, 3.0, paused=True)
    assert 'cbctool_slides{state="queued"} 1\n' in text
    assert "cbctool_paused 1\n" in text
    sample = r'[a-z_]+(\{[a-z]+="[a-z]+"(,[a-z]+="[a-z]+")*\})? [0-9.]+'
    comment = r"# (HELP|TYPE) [a-z_]+ .+"
    assert all(re.fullmatch(f"{sample}|{comment}", line) for line in text.splitlines())
