"""What was done before: identity, manifests, and folders that appear whole."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from cbctool.errors import OutputError, ReportInUseError
from cbctool.records import Slide
from cbctool.run import manifest

SLIDE = Slide("a", Path("in"), (Path("in/a.jpg"),))
INPUTS = {"a.jpg": "00ff"}


def identity(slide: Slide = SLIDE, inputs: dict[str, str] = INPUTS, weights: str = "w", **options: object) -> str:
    return manifest.identity(slide, inputs, weights, options)


def test_identity_changes_with_everything_that_changes_numbers() -> None:
    base = identity()
    assert identity() == base
    changed = [
        identity(inputs={"a.jpg": "00fe"}),
        identity(inputs={"b.jpg": "00ff"}),
        identity(weights="v"),
        identity(um_per_px=0.1),
        identity(dataclasses.replace(SLIDE, wbc_10e9_per_l=5.0)),
        identity(dataclasses.replace(SLIDE, name="b")),
        identity(dataclasses.replace(SLIDE, warnings=("same content as b",))),
    ]
    assert len({base, *changed}) == len(changed) + 1


def test_identity_does_not_depend_on_where_the_slide_lies() -> None:
    assert identity(dataclasses.replace(SLIDE, root=Path("other"), paths=(Path("other/a.jpg"),))) == identity()


def test_content_hash_ignores_names_and_order() -> None:
    assert manifest.content_sha256({"a": "1", "b": "2"}) == manifest.content_sha256({"x": "2", "y": "1"})
    assert manifest.content_sha256({"a": "1"}) != manifest.content_sha256({"a": "2"})


def test_manifest_round_trip(tmp_path: Path) -> None:
    one = manifest.Manifest("a", "id", "content", [3], INPUTS, {"slide": "a", "leukocytes": 7})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / manifest.MANIFEST).write_text(manifest.manifest_text(one))
    assert manifest.read_manifest(tmp_path / "a") == one
    assert list(manifest.finished_slides(tmp_path)) == [one]
    empty = manifest.manifest_text(dataclasses.replace(one, row={"slide": "a", "neutrophil_percent": math.nan}))
    assert json.loads(empty)["row"] == {"slide": "a", "neutrophil_percent": None}, "NaN is no JSON"
    (tmp_path / "a" / manifest.MANIFEST).write_text(empty)
    found = manifest.read_manifest(tmp_path / "a")
    assert found is not None
    assert math.isnan(found.row["neutrophil_percent"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"slide": "a"}', "\xff\xfe"])
def test_a_broken_manifest_is_none_so_that_the_slide_is_redone(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.MANIFEST).write_text(text, encoding="latin-1")
    assert manifest.read_manifest(tmp_path) is None


def test_put_in_place_replaces_a_folder_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        folder = manifest.partial_folder(tmp_path, "a")
        (folder / "result.json").write_text(content)
        (folder / f"overlay_{content}.jpg").touch()
        manifest.put_in_place(folder, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["overlay_new.jpg", "result.json"]
    assert (tmp_path / "a" / "result.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_somebody_put_beside_a_report_is_carried_over(tmp_path: Path) -> None:
    (tmp_path / "a" / "scans").mkdir(parents=True)
    for name in ("result.json", "report.pdf", "signed.txt", "scans/page.txt"):
        (tmp_path / "a" / name).write_text("old")
    folder = manifest.partial_folder(tmp_path, "a")
    (folder / "result.json").write_text("new")
    manifest.put_in_place(folder, tmp_path / "a")
    files = {p.relative_to(tmp_path / "a").as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"result.json": "new", "signed.txt": "old", "scans/page.txt": "old"}


def test_what_is_for_reading_alone_is_carried_over_and_what_may_not_be_read_fails_the_slide_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, copied = Path.open, shutil.copy2

    def open_as_user(self: Path, mode: str = "r", **options: object) -> IO:  # for root, every file is open
        if "+" in mode and not self.stat().st_mode & 0o200:
            raise PermissionError(13, "Permission denied")
        return opened(self, mode, **options)

    def copy_as_user(source: Path, target: Path, **options: object) -> object:
        if not source.stat().st_mode & 0o400:
            raise PermissionError(13, "Permission denied")
        return copied(source, target, **options)

    monkeypatch.setattr(Path, "open", open_as_user)
    monkeypatch.setattr(shutil, "copy2", copy_as_user)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("old")
    signed = tmp_path / "a" / "signed.txt"
    signed.write_text("seen")
    signed.chmod(0o444)
    folder = manifest.partial_folder(tmp_path, "a")
    (folder / "result.json").write_text("new")
    manifest.put_in_place(folder, tmp_path / "a")
    assert (tmp_path / "a" / "result.json").read_text() == "new"
    assert signed.read_text() == "seen"
    signed.chmod(0o000)
    folder = manifest.partial_folder(tmp_path, "a")
    with pytest.raises(ReportInUseError, match="cannot be read"):
        manifest.put_in_place(folder, tmp_path / "a")
    assert signed.exists()


@pytest.fixture
def as_user() -> Iterator[Path]:
    """A folder of a user who is not root, to whom no folder is closed."""
    with tempfile.TemporaryDirectory() as folder:
        if os.name == "nt" or os.geteuid():
            yield Path(folder)
            return
        nobody = 65534
        os.chown(folder, nobody, nobody)
        os.seteuid(nobody)
        yield Path(folder)
        os.seteuid(0)


def test_a_report_that_was_made_read_only_is_replaced_again_and_again(as_user: Path) -> None:
    place = as_user / "a"
    for text in ("first", "second", "third"):
        folder = manifest.partial_folder(as_user, "a")
        (folder / "result.json").write_text(text)
        manifest.put_in_place(folder, place)
        assert (place / "result.json").read_text() == text
        assert [path.name for path in as_user.iterdir()] == ["a"]
        (place / "result.json").chmod(0o444)
        place.chmod(0o555)
    manifest.remove(place)
    assert not place.exists()


def test_what_a_removed_folder_links_to_stays_as_it_is(as_user: Path) -> None:
    outside = as_user / "outside"
    outside.mkdir()
    (outside / "1.png").touch()
    outside.chmod(0o555)
    (as_user / "a").mkdir()
    (as_user / "a" / "link").symlink_to(outside)
    (as_user / "a").chmod(0o555)
    manifest.remove(as_user / "a")
    assert outside.stat().st_mode & 0o777 == 0o555
    assert (outside / "1.png").exists()
    outside.chmod(0o755)


@pytest.mark.parametrize("what", ["pictures", "file", "link"])
def test_what_is_no_report_is_never_replaced(tmp_path: Path, what: str) -> None:
    place = tmp_path / "a"
    if what == "pictures":
        place.mkdir()
        (place / "1.png").touch()
    elif what == "file":
        place.touch()
    else:
        place.symlink_to("nowhere")
    folder = manifest.partial_folder(tmp_path, "a")
    with pytest.raises(ReportInUseError, match="no report of cbctool"):
        manifest.put_in_place(folder, place)
    assert os.path.lexists(place)
    assert what != "pictures" or (place / "1.png").exists()


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="zombies are a thing of Unix")
def test_a_killed_process_that_nobody_has_waited_for_is_not_at_work(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # until it has ended; it stays a zombie
    folder = tmp_path / f".partial-1-{dead.pid}"
    folder.mkdir()
    manifest.discard_partial(tmp_path)
    dead.wait()
    assert not folder.exists()


def test_preparing_clears_up_after_a_run_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / f".partial-1-{2**22 + 1}").mkdir()  # beyond the largest process number of Linux
    (tmp_path / f".partial-old-{os.getpid()}").mkdir()  # the number has come round to another process
    os.utime(tmp_path / f".partial-old-{os.getpid()}", (0, 0))
    (tmp_path / f".partial-3-{os.getpid()}").mkdir()  # somebody is writing a report right now
    (tmp_path / ".replaced-lost").mkdir()  # killed between the two renames: the old report is all there is
    (tmp_path / ".replaced-lost" / "report.pdf").touch()
    (tmp_path / ".replaced-stands").mkdir()
    (tmp_path / "stands").mkdir()
    manifest.prepare_output(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".partial-3-{os.getpid()}", "lost", "stands"]
    assert (tmp_path / "lost" / "report.pdf").exists()


def test_an_output_folder_that_cannot_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        manifest.prepare_output(tmp_path / "file" / "reports")


def test_writing_atomically_leaves_no_half_file(tmp_path: Path) -> None:
    place = tmp_path / "run.json"
    manifest.write_atomically(place, "one")
    manifest.write_atomically(place, "two")
    assert place.read_text() == "two"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        manifest.write_atomically(tmp_path / "folder", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "run.json"]


def test_a_file_that_a_scanner_looks_at_is_renamed_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses meanwhile; here the refusals are made, not Windows."""
    refusals = [PermissionError(13, "The file is used by another process")] * 2
    replace = Path.replace

    def looked_at(self: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", looked_at)
    monkeypatch.setattr(manifest, "RENAME_WAITS_S", (0.0, 0.0))
    folder = manifest.partial_folder(tmp_path, "a")
    (folder / "result.json").write_text("new")
    manifest.put_in_place(folder, tmp_path / "a")
    assert (tmp_path / "a" / "result.json").read_text() == "new"
    refusals = [PermissionError(13, "The file is used by another process")] * 3
    with pytest.raises(OutputError):
        manifest.write_atomically(tmp_path / "b", "text")
    assert not list(tmp_path.glob(".b*"))


def test_an_output_folder_that_is_taken_away_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be read"):
        list(manifest.finished_slides(tmp_path / "gone"))
