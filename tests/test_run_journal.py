"""The journal of a watched folder."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cbctool.errors import InputError, OutputError
from cbctool.run.journal import Journal, status_text


def states(journal: Journal) -> dict[str, tuple[str, int]]:
    return {entry.slide: (entry.state, entry.attempts) for entry in journal.entries()}


def test_a_slide_goes_from_queued_to_done(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("a", Path("in/a.jpg"), "1")
        assert states(journal) == {"a": ("queued", 0)}
        journal.start("a")
        assert states(journal) == {"a": ("running", 1)}
        journal.finish("a")
        assert states(journal) == {"a": ("done", 1)}
        assert journal.counts() == {"queued": 0, "running": 0, "done": 1, "failed": 0}


def test_attempts_go_on_counting_until_the_file_changes(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("a", Path("in/a.jpg"), "1")
        for _ in range(2):
            journal.start("a")
            journal.fail("a", "truncated")
            journal.requeue("a")
        assert states(journal) == {"a": ("queued", 2)}
        journal.queue("a", Path("in/a.jpg"), "2")
        assert states(journal) == {"a": ("queued", 0)}


def test_what_was_in_hand_is_handed_back_uncounted(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("a", Path("in/a.jpg"), "1")
        journal.start("a")
    with Journal(tmp_path) as journal:  # a crash later
        journal.hand_back()
        assert states(journal) == {"a": ("queued", 0)}


def test_one_path_has_one_row(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("a", Path("in/a.jpg"), "1")
        journal.queue("a.jpg", Path("in/a.jpg"), "2")
        assert list(states(journal)) == ["a.jpg"]


def test_a_locked_journal_is_said_so(tmp_path: Path) -> None:
    with Journal(tmp_path, timeout_s=0.05) as journal:
        holder = sqlite3.connect(journal.path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match=r"journal\.sqlite.*locked"):
            journal.queue("a", Path("in/a.jpg"), "1")
        holder.close()
        journal.queue("a", Path("in/a.jpg"), "1")
        assert len(journal.entries()) == 1


def test_status_prints_every_slide(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("a", Path("in/a.jpg"), "1")
        journal.start("a")
        journal.fail("a", "a.jpg is truncated.")
        journal.queue("b", Path("in/b.jpg"), "1")
    text = status_text(tmp_path)
    assert "1 queued" in text
    assert "1 failed" in text
    assert "a: a.jpg is truncated." in text
    told = json.loads(status_text(tmp_path, as_json=True))
    assert told["counts"]["queued"] == 1
    assert [slide["slide"] for slide in told["slides"]] == ["a", "b"]


def test_status_without_a_journal_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no journal"):
        status_text(tmp_path)


def test_a_damaged_journal_is_put_beside_and_begun_anew(tmp_path: Path) -> None:
    for damage in (b"no database at all, but long enough to be looked into " * 40, None):
        with Journal(tmp_path) as journal:
            for number in range(200):
                journal.queue(f"slide {number}", Path(f"in/{number}.jpg"), "x" * 200)
        path = tmp_path / "journal.sqlite"
        data = path.read_bytes()
        path.write_bytes(damage or data[:4096] + bytes(4096) + data[8192:])
        with Journal(tmp_path) as journal:
            assert journal.entries() == []
            journal.queue("a", Path("in/a.jpg"), "1")
        broken = list(tmp_path.glob("journal-broken-*"))
        assert len(broken) == 1
        broken[0].unlink()


def test_what_a_crash_left_in_hand_is_tried_again_and_the_try_counts(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("a", Path("in/a.jpg"), "1")
        journal.start("a")
        journal.recover()
        assert states(journal) == {"a": ("queued", 1)}


def test_a_path_that_is_no_utf8_is_kept(tmp_path: Path) -> None:
    path = Path(os.fsdecode(b"in/\xff.jpg"))
    with Journal(tmp_path) as journal:
        journal.queue("a", path, "1")
        assert journal.at(path) == journal.named("a")
        assert Path(journal.entries()[0].path) == path
    json.loads(status_text(tmp_path, as_json=True).encode())


def test_status_doubts_a_watch_that_has_long_said_nothing(tmp_path: Path) -> None:
    Journal(tmp_path).__exit__()
    for state, said in (("watching", True), ("stopped", False)):
        (tmp_path / "heartbeat.json").write_text(json.dumps({"time": "2026-01-01T00:00:00+00:00", "state": state}))
        assert ("still running?" in status_text(tmp_path)) is said


def test_status_can_be_read_after_a_kill_in_the_middle_of_a_write(tmp_path: Path) -> None:
    code = (
        "import os, sys, sqlite3; from pathlib import Path; from cbctool.run.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.queue('a', Path('a.jpg'), '1')\n"
        "journal._db.execute('PRAGMA cache_size=1'); journal._db.execute('BEGIN')\n"
        "for n in range(500): journal._db.execute('INSERT INTO slides VALUES (?,?,?,?,?,0,?,?,?)', "
        "(str(n), str(n), 'x' * 2000, 'queued', '', '', '', ''))\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    assert (tmp_path / "journal.sqlite-journal").stat().st_size > 0
    assert [one["slide"] for one in json.loads(status_text(tmp_path, as_json=True))["slides"]] == ["a"]
