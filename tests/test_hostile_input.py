"""Whatever lies in the input folder gets a picture or a sentence: no crash, no hang, no memory, nothing written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_files import bad_files, bombed_files, encode, good_files, scene
from written import table

from cbctool.errors import CbctoolError, ExitCode, InputError, UnreadableImageError
from cbctool.imaging.read import read_field
from cbctool.imaging.whole_slide import is_whole_slide, open_whole_slide
from cbctool.run.discover import discover_slides, folder_name
from cbctool.run.manifest import content_sha256
from cbctool.run.pipeline import hash_inputs
from cbctool.run.sheet import parse_sheet


def outcome(path: Path) -> str:
    """Read a file both ways; return "read" or the sentence, and fail on anything else."""
    refusal: UnreadableImageError | None = None
    try:
        if is_whole_slide(path):
            open_whole_slide(path).close()
        field = read_field(path, "slide", "field")
    except UnreadableImageError as error:
        refusal = error
    if refusal is not None:
        assert refusal.message.endswith(".")
        assert refusal.message.isprintable()
        assert refusal.advice
        return refusal.message
    assert field.rgb.dtype == np.uint8
    assert field.rgb.ndim == 3
    assert field.rgb.shape[2] == 3
    assert all(warning.isprintable() for warning in field.warnings)
    return "read"


TRUNCATED = [
    "plain.jpg", "progressive.jpg", "plain.png", "alpha.png", "sixteen.png", "plain.bmp", "plain.webp", "lossy.webp",
    "animated.webp", "plain.tif", "deflate.tif", "jpeg.tif", "tiled.tif", "lzw.tif", "big.tif",
]  # fmt: skip


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_at_every_five_percent_is_refused(tmp_path: Path, name: str) -> None:
    data, path = good_files()[name], tmp_path / name
    for percent in range(0, 100, 5):
        path.write_bytes(data[: len(data) * percent // 100])
        assert outcome(path) != "read", percent
    path.write_bytes(data[:-1])
    assert name.endswith((".tif", ".jpg")) or outcome(path) != "read"
    path.write_bytes(data)
    assert outcome(path) == "read"


def test_a_jpeg_whose_transfer_left_zeros_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    data, path = encode(noise, "JPEG"), tmp_path / "a.jpg"
    for percent in range(10, 90, 10):
        cut = len(data) * percent // 100
        path.write_bytes(data[:cut] + bytes(len(data) - cut))
        assert outcome(path) != "read", percent


@pytest.mark.parametrize("name", sorted(good_files()))
def test_bit_flips_end_in_a_picture_or_a_sentence(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(7)
    data, path = good_files()[name], tmp_path / name
    header = min(len(data), 400)
    for trial in range(24):
        broken = bytearray(data)
        for at in rng.integers(0, header if trial % 2 else len(data), 1 + trial % 4):
            broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        outcome(path)


@pytest.mark.parametrize("name", sorted(bad_files()))
def test_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bad_files()[name])
    assert outcome(path) != "read"


FINDINGS = sorted((Path(__file__).parent / "fuzz/findings").iterdir())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.stem)
@pytest.mark.timeout(30)
def test_what_fuzzing_found_stays_fixed(tmp_path: Path, finding: Path) -> None:
    for name in ("a.tif", "a.csv"):
        path = tmp_path / name
        path.write_bytes(finding.read_bytes())
        outcome(path)
    refusal: CbctoolError | None = None
    try:
        parse_sheet(finding.read_bytes(), "slides.csv")
    except CbctoolError as error:
        refusal = error
    assert refusal is None or refusal.message.isprintable()


@pytest.mark.parametrize("extension", ["", ".txt", ".tif", ".jpg", ".xyz"])
def test_a_wrong_ending_does_not_stop_reading(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    path.write_bytes(good_files()["plain.png"])
    assert outcome(path) == "read"


def test_places_that_are_no_files_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s.jpg"))
    listener.close()
    for name in ("fifo.jpg", "folder.jpg", "loop.jpg", "dangling.jpg", "device.jpg", "s.jpg", "absent.jpg"):
        assert outcome(tmp_path / name) != "read", name
    assert outcome(Path("a\0b.jpg")) != "read"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(good_files()["plain.png"])
    path.chmod(0)
    assert "permission" in outcome(path)


def test_discovery_of_a_folder_full_of_it(tmp_path: Path) -> None:
    for name, data in {**good_files(), **{f"bad_{name}": data for name, data in bad_files().items()}}.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "fifo.jpg")
    os.mkfifo(tmp_path / "fifo.unknown")
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "endless").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "😐.png").write_bytes(good_files()["plain.png"])
    (tmp_path / "new\nline.png").write_bytes(good_files()["plain.png"])
    (tmp_path / "=cmd().png").write_bytes(good_files()["plain.png"])
    (tmp_path / "<b>.png").write_bytes(good_files()["plain.png"])
    (tmp_path / ("n" * 251 + ".png")).write_bytes(good_files()["plain.png"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(good_files()["plain.png"])
    found = discover_slides(tmp_path)
    names = [slide.name for slide in found.slides]
    assert len(set(names)) == len(names)
    assert {"😐", "=cmd()", "<b>", "new�line", "n" * 251, "�"} <= set(names)
    assert {failure.slide for failure in found.failures} >= {"x", "endless", "loop", "fifo"}
    for slide in found.slides:
        slide.name.encode()
        assert len(content_sha256(hash_inputs(slide))) == 64
        made = tmp_path.parent / f"out_{tmp_path.name}" / folder_name(slide.name)
        made.mkdir(parents=True)  # every name makes a folder, and no two the same one
    for failure in found.failures:
        assert failure.error.isprintable()
        assert failure.advice


SHEETS = [
    b"", b"\0", b"\xff\xfe", b"\xff\xfea", b"PK\x03\x04", b"slide", b'slide\n"', b"slide,slide\n", b"a;b\n",
    b"slide\n=cmd()", b"slide,wbc\nx,1e999\n", b"slide,wbc\nx,nan\n", b"slide,age\nx,-1\n", b"\xef\xbb\xbfslide\nx",
    b"slide\n" + b"x" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("data", SHEETS)
def test_any_sheet_is_a_table_or_a_sentence(data: bytes) -> None:
    refusal: CbctoolError | None = None
    try:
        sheet = parse_sheet(data, "slides.csv")
    except CbctoolError as error:
        refusal = error
    if refusal is None:
        assert all(row.slide == name for name, row in sheet.items())
    else:
        assert "slides.csv" in refusal.message
        assert refusal.advice


BOUNDED = """
import resource, sys
from pathlib import Path
from cbctool.errors import CbctoolError
from cbctool.imaging.read import read_field
from cbctool.run.discover import discover_slides
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_field(path, "s", "f")
    except CbctoolError:
        pass
discover_slides(Path(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_stays_bounded_over_the_whole_corpus(tmp_path: Path) -> None:
    for name, data in {**bad_files(), **good_files()}.items():
        (tmp_path / name).write_bytes(data)
    for name, data in bombed_files().items():
        (tmp_path / f"bombed_{name}").write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 150, "MB grown"


@pytest.mark.parametrize("name", sorted(bombed_files()))
def test_bombs_inside_whole_pictures_end_in_a_picture_or_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bombed_files()[name])
    outcome(path)


NAMES = ["new\nline.png", "😐.png", "=cmd().png", "<b>.png", "a;rm -rf $HOME;.png", "n" * 251 + ".png", "../up.png"]


def test_all_of_it_together_is_analysed_or_named_with_its_reason(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for name, data in {**good_files(), **{f"bad_{name}": data for name, data in bad_files().items()}}.items():
        (slides / name).write_bytes(data)
    for number, name in enumerate(NAMES):
        (slides / name.replace("../", "..\\")).write_bytes(good_files()["plain.png"] + bytes([number]))
    os.mkfifo(slides / "fifo.jpg")
    (slides / "x.jpg").mkdir()
    (slides / "endless").symlink_to(slides)
    (slides / "loop").symlink_to(slides / "loop")
    (slides / "device.jpg").symlink_to("/dev/zero")
    before = {path.name: path.lstat().st_mtime_ns for path in slides.iterdir()}
    run = subprocess.run(
        [sys.executable, "-m", "cbctool", "analyze", slides, "--out", out, "--um-per-px", "0.2", "--jobs", "1"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=250,
    )  # fmt: skip
    assert run.returncode == ExitCode.PARTIAL, run.stderr
    assert "Traceback" not in run.stderr
    rows = {row["slide"]: row for row in table(out / "summary.csv")}
    reasons = {row["slide"]: row for row in table(out / "failures.csv")}
    assert all(row["error"] and row["advice"] for row in reasons.values())
    assert {name for name, row in rows.items() if row["status"] == "failed"} <= set(reasons)
    assert {f"bad_{Path(name).stem}" for name in bad_files() if not name.endswith((".gif", ".heic"))} <= {
        name.partition(".")[0] for name in reasons
    }
    assert {"fifo", "x", "endless", "loop", "device"} <= {name.partition(".")[0] for name in reasons}
    assert len([name for name, row in rows.items() if row["status"] == "done"]) >= len(good_files())
    assert {path.name: path.lstat().st_mtime_ns for path in slides.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "slides"]  # nothing anywhere else


def test_nothing_is_written_beside_the_input(tmp_path: Path) -> None:
    for name, data in {**bad_files(), **good_files()}.items():
        (tmp_path / name).write_bytes(data)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    discover_slides(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        outcome(path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_an_endless_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(InputError):
        discover_slides(tmp_path / "a")
    with pytest.raises(InputError):
        discover_slides(Path("/dev/null"))
    with pytest.raises(InputError):
        discover_slides(Path("a\0b"))


def test_pictures_of_extreme_shape_are_read(tmp_path: Path) -> None:
    rgb = scene()
    for shape in ((1, 1), (1, 60000), (60000, 1)):
        path = tmp_path / "a.png"
        path.write_bytes(encode(np.broadcast_to(rgb[:1, :1], (*shape, 3)).copy(), "PNG"))
        assert read_field(path, "s", "f").rgb.shape[:2] == shape
