"""What is a slide, what is not, and what is said about the rest."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hostile_files import encode, scene
from hypothesis import given
from hypothesis import strategies as st

from cbctool.errors import ExitCode, InputError, UsageError
from cbctool.records import Slide
from cbctool.run.discover import (
    discover_slides,
    field_name,
    folder_name,
    is_temporary,
    natural_key,
    slide_files,
)
from cbctool.run.manifest import content_sha256
from cbctool.run.pipeline import hash_inputs

PNG = encode(scene(16, 16), "PNG")


def content(slide: Slide) -> str:
    return content_sha256(hash_inputs(slide))


def put(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def pyramid(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((256, 256, 3), np.uint8), tile=(64, 64), photometric="rgb")
        writer.write(np.zeros((128, 128, 3), np.uint8), tile=(64, 64), photometric="rgb", subfiletype=1)
    return path


def test_files_folders_and_whole_slides_are_slides(tmp_path: Path) -> None:
    put(tmp_path / "b.png")
    put(tmp_path / "case/f10.jpg")
    put(tmp_path / "case/f2.jpg")
    pyramid(tmp_path / "scan.tif")
    put(tmp_path / "flat.tif", encode(scene(), "TIFF"))
    found = discover_slides(tmp_path)
    assert [(slide.name, slide.whole_slide) for slide in found.slides] == [
        ("b", False), ("case", False), ("flat", False), ("scan", True),
    ]  # fmt: skip
    case = found.slides[1]
    assert [path.name for path in case.paths] == ["f2.jpg", "f10.jpg"]
    assert case.root == tmp_path / "case"
    assert field_name(case, case.paths[0]) == "f2.jpg"
    assert found.failures == found.notes == ()


def test_natural_order(tmp_path: Path) -> None:
    for name in ("s10", "s9", "S1", "s01b", "a"):
        put(tmp_path / f"{name}.png")
    assert [slide.name for slide in discover_slides(tmp_path).slides] == ["a", "S1", "s01b", "s9", "s10"]


@given(st.lists(st.text(max_size=8), max_size=6))
def test_natural_order_is_an_order(names: list[str]) -> None:
    once = sorted(names, key=natural_key)
    assert sorted(set(names), key=natural_key) == list(dict.fromkeys(once))


def test_one_file(tmp_path: Path) -> None:
    (slide,) = discover_slides(put(tmp_path / "a.b.png")).slides
    assert (slide.name, slide.root, slide.whole_slide) == ("a.b", tmp_path, False)
    (scan,) = discover_slides(pyramid(tmp_path / "scan.tif")).slides
    assert scan.whole_slide
    (odd,) = discover_slides(put(tmp_path / "picture")).slides
    assert odd.name == "picture"


def test_nothing_there_is_an_input_error(tmp_path: Path) -> None:
    put(tmp_path / "text/readme.txt", b"hello")
    for path in (tmp_path / "absent", tmp_path / "text", tmp_path / "text/readme.txt", tmp_path / "absent/deeper"):
        with pytest.raises(InputError) as caught:
            discover_slides(path)
        assert caught.value.exit_code == ExitCode.INPUT
        assert caught.value.advice
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        discover_slides(tmp_path / "empty")


def test_clashing_names_keep_their_ending(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "A.bmp", "b.png", "c.png"):
        put(tmp_path / name)
    put(tmp_path / "c/c.png")
    assert sorted(slide.name for slide in discover_slides(tmp_path).slides) == [
        "A.bmp",
        "a.jpg",
        "a.png",
        "b",
        "c",
        "c.png",
    ]


@given(
    st.lists(
        st.sampled_from(["a.png", "A.PNG", "a.jpg", "a", "a.png.jpg", "b.tif", "é.png", "e\u0301.png"]), unique=True
    )
)
def test_names_and_folders_never_clash(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("clash")
    for name in names:
        put(folder / name)
    put(folder / "z.png")
    slides = discover_slides(folder).slides
    assert len(slides) == len(names) + 1
    assert len({folder_name(slide.name).casefold() for slide in slides}) == len(slides)


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "._a.png",
        "~$a.png",
        "a.png.part",
        "a.jpg.tmp",
        "a.png~",
        "a.crdownload",
        "done",
    ],
)
def test_temporary_and_system_files_are_not_seen(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / name)
    assert is_temporary(name)
    found = discover_slides(tmp_path)
    assert [slide.name for slide in found.slides] == ["a"]
    assert found.failures == found.notes == ()


def test_sidecars_are_noted_and_strangers_fail(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "notes.txt", b"hello")
    put(tmp_path / "no_ending")
    put(tmp_path / "photo.heic", b"\0\0\0\x18ftypheic" + bytes(50))
    found = discover_slides(tmp_path)
    assert [slide.name for slide in found.slides] == ["a", "no_ending"]
    assert found.notes == ("Ignored, being no pictures: notes.txt.",)
    (failure,) = found.failures
    assert failure.slide == "photo"
    assert "HEIC" in failure.error
    assert failure.advice


def test_deeper_folders_are_named_and_skipped_and_empty_ones_fail(tmp_path: Path) -> None:
    put(tmp_path / "case/f.png")
    put(tmp_path / "case/deeper/g.png")
    (tmp_path / "void").mkdir()
    found = discover_slides(tmp_path)
    assert [len(slide.paths) for slide in found.slides] == [1]
    assert any("case/deeper" in note for note in found.notes)
    assert [failure.slide for failure in found.failures] == ["void"]


def test_where_only_deeper_folders_hold_pictures_they_are_named(tmp_path: Path) -> None:
    put(tmp_path / "patient" / "slide" / "1.png")
    with pytest.raises(InputError, match=r"patient/slide lies deeper .* give .*patient itself"):
        discover_slides(tmp_path)
    with pytest.raises(InputError, match="patient is a folder and was skipped"):
        discover_slides(tmp_path, one_slide=True)


def test_the_sheet_that_is_used_is_not_called_ignored(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "slides.csv", b"slide,wbc\na,7\n")
    assert discover_slides(tmp_path).notes == ()
    other = put(tmp_path / "other.csv", b"slide,wbc\na,8\n")
    assert discover_slides(tmp_path, sheet=other).notes == ("Ignored, being no pictures: slides.csv.",)


def test_one_slide_takes_a_flat_folder(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    put(folder / "f2.png")
    put(folder / "f10.png")
    put(folder / "inner/f3.png")
    for wanted, name in ((True, "flat"), ("P 12", "P 12")):
        found = discover_slides(folder, one_slide=wanted)
        (slide,) = found.slides
        assert slide.name == name
        assert [path.name for path in slide.paths] == ["f2.png", "f10.png"]
        assert any("inner" in note for note in found.notes)


def test_output_inside_input_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "in/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "in/reports", tmp_path / "in/../in/x", tmp_path / "link/r"):
        with pytest.raises(UsageError, match="inside the input"):
            discover_slides(tmp_path / "in", out=out)
    assert discover_slides(tmp_path / "in", out=tmp_path / "reports").slides
    assert discover_slides(tmp_path / "in/a.png", out=tmp_path / "in/reports").slides


def test_links_are_followed_and_loops_refused(tmp_path: Path) -> None:
    put(tmp_path / "store/a.png")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked.png").symlink_to(tmp_path / "store/a.png")
    (folder / "case").symlink_to(tmp_path / "store")
    (folder / "up").symlink_to(tmp_path)
    (folder / "self").symlink_to(folder)
    found = discover_slides(folder)
    assert [slide.name for slide in found.slides] == ["case", "linked"]
    assert sorted(failure.slide for failure in found.failures) == ["self", "up"]


def test_the_sheet_in_the_folder_is_read(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    put(tmp_path / "slides.csv", b"slide,wbc,um_per_px,fields,comment\na,7.5,0.1,consecutive,=1+1\nzz,,,,\n")
    found = discover_slides(tmp_path)
    a, b = found.slides
    assert (a.wbc_10e9_per_l, a.um_per_px, a.consecutive, a.comment) == (7.5, 0.1, True, "=1+1")
    assert b.wbc_10e9_per_l is None
    assert any("'zz'" in note and "row 3" in note for note in found.notes)
    put(tmp_path / "other.csv", b"slide,wbc\nb,5\n")
    assert [slide.wbc_10e9_per_l for slide in discover_slides(tmp_path, sheet=tmp_path / "other.csv").slides] == [
        None,
        5.0,
    ]
    put(tmp_path / "slides.csv", b"slide,wbc\na,x\n")
    with pytest.raises(UsageError, match="row 2, column wbc"):
        discover_slides(tmp_path)


def test_same_content_has_the_same_hash_under_any_name(tmp_path: Path) -> None:
    other = encode(255 - scene(16, 16), "PNG")
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    put(tmp_path / "c.png", other)
    put(tmp_path / "d/f1.png")
    put(tmp_path / "d/f2.png", other)
    put(tmp_path / "e/x.png", other)
    put(tmp_path / "e/y.png")
    a, b, c, d, e = (content(slide) for slide in discover_slides(tmp_path).slides)
    assert a == b != c
    assert d == e
    assert len({a, c, d}) == 3
    put(tmp_path / "b.png", other)
    assert content(discover_slides(tmp_path).slides[1]) == c


def test_companions_of_a_scan_are_no_slides_and_belong_to_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSlide knows no synthetic MRXS; what is tested is the company, not the format.
    monkeypatch.setattr("cbctool.run.discover.is_whole_slide", lambda path: path.suffix in (".mrxs", ".vms", ".dcm"))
    put(tmp_path / "scan.mrxs", b"x")
    put(tmp_path / "scan/Slidedat.ini", b"y")
    put(tmp_path / "scan/Data0000.dat", b"z")
    put(
        tmp_path / "ham.vms",
        b"[Virtual Microscope Specimen]\nImageFile=ham.jpg\nMacroImage=ham_macro.jpg\nMapFile=ham_map.jpg\n",
    )
    for name in ("ham.jpg", "ham_macro.jpg", "ham_map.jpg", "own.jpg"):
        put(tmp_path / name)
    for number, series in ((1, b"1.2.3"), (2, b"1.2.3"), (3, b"1.2.4")):
        uid = b"\x20\x00\x0e\x00UI" + struct.pack("<H", len(series)) + series
        put(tmp_path / f"d{number}.dcm", bytes(128) + b"DICM" + uid + bytes([number]))
    found = discover_slides(tmp_path)
    assert [slide.name for slide in found.slides] == ["d1", "d3", "ham", "own", "scan"]
    assert found.failures == ()
    scan = found.slides[4]
    assert [path.name for path in slide_files(scan)] == ["scan.mrxs", "Data0000.dat", "Slidedat.ini"]
    before = content(scan)
    put(tmp_path / "scan/Data0000.dat", b"changed")
    assert content(scan) != before


@given(st.text(max_size=300))
def test_folder_names_are_safe_everywhere(name: str) -> None:
    made = folder_name(name)
    assert 0 < len(made.encode("utf-8", "surrogatepass")) <= 180
    assert not set(made) & set('<>:"/\\|?*\0\n')
    assert made not in (".", "..")
    assert not made.startswith(".")
    assert made[-1] not in ". "


def test_folder_names_differ_and_keep_clear_of_the_runs_own_files() -> None:
    names = [
        "index.html",
        "Summary.csv",
        "failed",
        "CON",
        "nul.txt",
        "a/b",
        "a\\b",
        "a_b",
        "x" * 200,
        "x" * 201,
        "..",
        ".",
    ]
    made = [folder_name(name) for name in names]
    assert len({one.casefold() for one in made}) == len(names)
    assert not {"index.html", "summary.csv", "failed", "con", "nul.txt"} & {one.casefold() for one in made}
    assert folder_name("Fall 17 – Ä") == "Fall 17 – Ä"


@pytest.mark.real
def test_real_folders(data_folder: Path) -> None:
    assert len(discover_slides(data_folder / "bccd/images").slides) == 292
    found = discover_slides(data_folder / "all_idb1")
    assert [(slide.name, len(slide.paths)) for slide in found.slides] == [("images", 54), ("original", 4)]


@pytest.fixture
def data_folder() -> Path:
    import os

    folder = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}")
    return folder


def test_a_folder_that_may_not_be_entered_is_a_failure_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:  # for root, nothing is
        raise PermissionError(13, "Permission denied")

    for name in ("iterdir", "is_file"):
        monkeypatch.setattr(Path, name, refused)
    found = discover_slides(tmp_path)
    assert found.slides == ()
    assert "cannot be listed: permission denied" in found.failures[0].error


@pytest.mark.parametrize("one_slide", [None, True])
def test_fields_whose_names_are_printed_alike_are_not_taken_for_one(tmp_path: Path, one_slide: bool | None) -> None:
    for name in (b"f_\xe4.png", b"f_\xf6.png", b"f_a.png"):
        put(tmp_path / "case" / os.fsdecode(name))
    found = discover_slides(tmp_path / "case" if one_slide else tmp_path, one_slide)
    (case,) = found.slides
    assert sorted(field_name(case, path) for path in case.paths) == ["f_a.png", "f_\ufffd.png"]
    (failure,) = found.failures
    assert "printed like another picture" in failure.error
    assert failure.error.isprintable()


@pytest.mark.parametrize("name", ["con", "NUL.png", "nul.a", "aux .x", "COM1", "lpt¹", "CONIN$"])
def test_what_windows_keeps_for_devices_is_no_folder(name: str) -> None:
    assert folder_name(name).startswith(f"_{name}-")


def test_one_file_has_the_name_that_was_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "image1.png")
    for wanted, name in (("patient-17", "patient-17"), (True, "image1"), (None, "image1")):
        assert discover_slides(tmp_path / "image1.png", one_slide=wanted).slides[0].name == name
