"""The journal of a watched folder."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from cbctool.errors import OutputError
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
    with pytest.raises(OutputError, match="no journal"):
        status_text(tmp_path)
