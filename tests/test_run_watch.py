"""Watching an inbox for real: processes, signals, a broken file, a second watcher."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbctool.errors import ExitCode, InputError, UsageError
from cbctool.run.journal import Journal, status_text
from cbctool.run.pipeline import Settings
from cbctool.run.watch import metrics_text, watch


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


def test_metrics_text() -> None:
    text = metrics_text({"queued": 1, "done": 2}, 3.0, paused=True)
    assert 'cbctool_slides{state="queued"} 1\n' in text
    assert "cbctool_paused 1\n" in text
