"""Watching a folder: what has come to rest, on a clock that the test turns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cbctool.run.inbox import Inbox


def names(settled: list) -> list[str]:
    return [one.path.name for one in settled]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    (tmp_path / "in").mkdir()
    return Inbox(tmp_path / "in", settle_s=5, settle_folder_s=300)


def test_a_file_settles_after_five_quiet_seconds_and_is_told_once(inbox: Inbox) -> None:
    (inbox.folder / "a.jpg").write_bytes(b"1")
    assert inbox.scan(0) == []
    assert inbox.next_due(0) == 5
    assert inbox.scan(4.9) == []
    assert names(inbox.scan(5)) == ["a.jpg"]
    assert inbox.scan(100) == []
    assert inbox.next_due(100) == float("inf")


def test_a_file_that_grows_starts_to_settle_anew(inbox: Inbox) -> None:
    path = inbox.folder / "a.jpg"
    path.write_bytes(b"1")
    inbox.scan(0)
    path.write_bytes(b"12")
    assert inbox.scan(5) == []
    assert inbox.scan(9) == []
    assert names(inbox.scan(10)) == ["a.jpg"]


def test_an_old_modification_time_does_not_make_a_new_file_look_settled(inbox: Inbox) -> None:
    path = inbox.folder / "a.jpg"
    path.write_bytes(b"1")
    os.utime(path, (0, 0))  # as `cp -p` leaves it
    assert inbox.scan(1000) == []


def test_a_changed_file_is_told_again(inbox: Inbox) -> None:
    path = inbox.folder / "a.jpg"
    path.write_bytes(b"1")
    inbox.scan(0)
    assert names(inbox.scan(5)) == ["a.jpg"]
    path.write_bytes(b"22")
    assert inbox.scan(6) == []
    assert names(inbox.scan(11)) == ["a.jpg"]


def test_a_folder_waits_for_the_microscopist_or_for_the_file_done(inbox: Inbox) -> None:
    slide = inbox.folder / "slide"
    slide.mkdir()
    assert inbox.scan(0) == []  # empty: nothing to settle
    (slide / "1.jpg").write_bytes(b"1")
    inbox.scan(10)
    assert inbox.scan(100) == []
    (slide / "2.jpg").write_bytes(b"2")
    inbox.scan(200)
    assert inbox.scan(499) == []
    (slide / "done").touch()
    inbox.scan(499)
    assert names(inbox.scan(504)) == ["slide"]


def test_a_folder_without_done_settles_in_the_end(inbox: Inbox) -> None:
    slide = inbox.folder / "slide"
    slide.mkdir()
    (slide / "1.jpg").write_bytes(b"1")
    inbox.scan(0)
    assert names(inbox.scan(300)) == ["slide"]


def test_temporary_files_are_not_seen(inbox: Inbox) -> None:
    for name in (".hidden.jpg", "a.jpg.part", "~$a.jpg", "Thumbs.db", "b.tmp"):
        (inbox.folder / name).write_bytes(b"1")
    inbox.scan(0)
    assert inbox.scan(1000) == []


def test_links_out_of_the_inbox_are_refused_and_links_within_followed(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"1")
    (inbox.folder / "inside.jpg").write_bytes(b"1")
    (inbox.folder / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    (inbox.folder / "in.jpg").symlink_to(inbox.folder / "inside.jpg")
    (inbox.folder / "loop.jpg").symlink_to(inbox.folder / "loop.jpg")
    inbox.scan(0)
    assert names(inbox.scan(5)) == ["in.jpg", "inside.jpg"]


def test_a_share_that_drops_out_and_comes_back_loses_nothing(inbox: Inbox) -> None:
    (inbox.folder / "a.jpg").write_bytes(b"1")
    inbox.scan(0)
    assert names(inbox.scan(5)) == ["a.jpg"]
    away = inbox.folder.with_name("away")
    inbox.folder.rename(away)
    assert inbox.scan(6) == []
    assert not inbox.reachable
    away.rename(inbox.folder)
    assert inbox.scan(7) == []  # known, not told again
    assert inbox.reachable


def test_what_vanishes_and_returns_is_told_again(inbox: Inbox) -> None:
    path = inbox.folder / "a.jpg"
    path.write_bytes(b"1")
    inbox.scan(0)
    inbox.scan(5)
    path.unlink()
    inbox.scan(6)
    path.write_bytes(b"1")
    inbox.scan(7)
    assert names(inbox.scan(12)) == ["a.jpg"]


def test_a_fifo_is_told_like_a_file_so_that_somebody_learns_of_it(inbox: Inbox) -> None:
    os.mkfifo(inbox.folder / "pipe.jpg")
    inbox.scan(0)
    assert names(inbox.scan(5)) == ["pipe.jpg"]


@pytest.mark.parametrize("marker", ["done", "DONE", "done.txt"])
def test_a_marker_may_be_written_as_windows_writes_it(inbox: Inbox, marker: str) -> None:
    (inbox.folder / "slide").mkdir()
    (inbox.folder / "slide" / "1.jpg").write_bytes(b"1")
    (inbox.folder / "slide" / marker).touch()
    inbox.scan(0)
    assert names(inbox.scan(5)) == ["slide"]


def test_what_lies_beside_pictures_is_not_told_but_the_slide_sheet_is(inbox: Inbox) -> None:
    for name in ("notes.txt", "protocol.pdf", "slides.csv", "other.csv"):
        (inbox.folder / name).write_bytes(b"1")
    (inbox.folder / "papers").mkdir()
    (inbox.folder / "papers" / "notes.txt").write_bytes(b"1")
    inbox.scan(0)
    assert names(inbox.scan(1000)) == ["slides.csv"]


def test_one_bad_link_in_a_folder_does_not_hide_the_folder(inbox: Inbox, tmp_path: Path) -> None:
    slide = inbox.folder / "slide"
    slide.mkdir()
    (slide / "1.jpg").write_bytes(b"1")
    (slide / "2.jpg").symlink_to(slide / "nowhere.jpg")
    (tmp_path / "outside.jpg").write_bytes(b"1")
    (slide / "3.jpg").symlink_to(tmp_path / "outside.jpg")
    inbox.scan(0)
    (told,) = inbox.scan(300)
    assert [name for name, _, _ in told.signature] == ["1.jpg"]


def test_a_link_to_the_inbox_itself_is_refused_and_said_once(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    (inbox.folder / "a.jpg").write_bytes(b"1")
    (inbox.folder / "endless").symlink_to(inbox.folder)
    (inbox.folder / "above").symlink_to(inbox.folder.parent)
    inbox.scan(0)
    assert names(inbox.scan(1000)) == ["a.jpg"]
    assert len(caplog.records) == 2


def test_a_whole_slide_file_settles_with_its_folder_and_is_one_entry(inbox: Inbox) -> None:
    (inbox.folder / "scan.mrxs").write_bytes(b"1")
    (inbox.folder / "scan").mkdir()
    (inbox.folder / "scan" / "Data0000.dat").write_bytes(b"1")
    inbox.scan(0)
    (inbox.folder / "scan" / "Data0001.dat").write_bytes(b"1")
    assert inbox.scan(5) == []  # still being copied
    (told,) = inbox.scan(10)
    assert told.path.name == "scan.mrxs"
    assert inbox.holds(told.path)
    assert not inbox.changed(told)
    (inbox.folder / "scan" / "Data0001.dat").write_bytes(b"12")
    assert inbox.changed(told)


def test_a_folder_that_is_copied_before_its_whole_slide_file_is_no_slide(inbox: Inbox) -> None:
    (inbox.folder / "scan").mkdir()
    (inbox.folder / "scan" / "Slidedat.ini").write_bytes(b"1")
    (inbox.folder / "scan" / "Data0000.dat").write_bytes(b"1")
    inbox.scan(0)
    assert inbox.scan(1000) == []


def test_everything_is_told_again_when_asked(inbox: Inbox) -> None:
    (inbox.folder / "a.jpg").write_bytes(b"1")
    inbox.scan(0)
    inbox.scan(5)
    inbox.tell_again()
    assert names(inbox.scan(6)) == ["a.jpg"]
    assert inbox.scan(7) == []


def test_a_folder_whose_files_may_not_be_looked_at_is_told_so_that_somebody_learns_of_it(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox.folder / "slide").mkdir()
    (inbox.folder / "slide" / "1.jpg").write_bytes(b"1")
    looked = os.stat

    def refused(path: os.PathLike[str], **options: Any) -> os.stat_result:  # for root, nothing is
        if os.fspath(path).endswith("1.jpg"):
            raise PermissionError(13, "Permission denied")
        return looked(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    inbox.scan(0)
    assert names(inbox.scan(300)) == ["slide"]


def test_a_folder_of_folders_alone_is_told_and_an_empty_one_is_waited_for(inbox: Inbox) -> None:
    (inbox.folder / "empty").mkdir()
    (inbox.folder / "case" / "slide 1").mkdir(parents=True)
    inbox.scan(0)
    assert names(inbox.scan(300)) == ["case"]
    (inbox.folder / "case" / "1.png").write_bytes(b"1")  # its fields come after all
    inbox.scan(301)
    assert [one.signature[0][0] for one in inbox.scan(601)] == ["1.png"]


def test_what_a_listing_says_of_a_file_that_grows_is_not_believed(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NTFS brings a folder's word on a file up to date when that is closed; the stale listing is made here."""
    path = inbox.folder / "a.jpg"
    path.write_bytes(b"1")
    stale = path.stat()
    scandir = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path
            self.is_symlink, self.is_file = entry.is_symlink, entry.is_file

        def __fspath__(self) -> str:
            return self.path

        def stat(self) -> os.stat_result:
            return stale

    @contextmanager
    def listed(folder: object) -> Iterator[Iterator[Entry]]:
        with scandir(folder) as listing:
            yield map(Entry, listing)

    monkeypatch.setattr(os, "scandir", listed)
    inbox.scan(0)
    path.write_bytes(b"12")
    assert inbox.scan(5) == []
    assert names(inbox.scan(10)) == ["a.jpg"]
