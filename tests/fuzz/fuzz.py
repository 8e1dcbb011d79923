"""Coverage-guided fuzzing of everything that reads a stranger's bytes. How to run it: README.md beside this file.

    python tests/fuzz/fuzz.py reader -runs=100000

Each target takes bytes and must end in a result or a ``CbctoolError`` whose words are printable. Anything else is a
finding: another exception, more than 10 s, or more than 2 GB.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cbctool", "tifffile", "PIL"]):
    from cbctool.errors import CbctoolError
    from cbctool.hematology.profile import load_profile
    from cbctool.imaging.headers import read_header, sniff
    from cbctool.imaging.read import ReadOptions, read_field
    from cbctool.imaging.tiles import plan_tiles, read_tile
    from cbctool.imaging.whole_slide import is_whole_slide, open_whole_slide
    from cbctool.run.discover import clean_name, folder_name, natural_key
    from cbctool.run.sheet import parse_sheet
    from cbctool.run.truth import read_differentials, read_truth
    from cbctool.run.truth_formats import detect_format

sys.path.insert(0, str(Path(__file__).parents[1]))
from hostile_files import bad_files, good_files, pyramid, tiny_pictures

# libFuzzer leaves without cleaning up: one folder per target, emptied at the start of the next run.
FOLDER = (
    Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / f"cbctool_fuzz_{''.join(sys.argv[1:2])}"
)
SMALL = ReadOptions(max_pixels=1_000_000, max_bytes=1_000_000)


def reader(data: bytes) -> None:
    """Read bytes as a field."""
    path = FOLDER / "field.png"
    path.write_bytes(data)
    field = read_field(path, "slide", "field", SMALL)
    assert field.rgb.ndim == 3
    assert field.rgb.shape[2] == 3
    assert field.rgb.size <= 3 * SMALL.max_pixels
    assert all(one.isprintable() for one in field.warnings)
    assert field.um_per_px is None or 0.02 <= field.um_per_px <= 1.0


def headers(data: bytes) -> None:
    """Read the header alone, with checksums left as they are: most mutants get no further in a PNG."""
    if sniff(data) not in (None, "TIFF"):
        read_header(data, "field")


def whole_slide(data: bytes) -> None:
    """Open, plan and read the first and last tile."""
    path = FOLDER / "slide.tif"
    path.write_bytes(data)
    if not is_whole_slide(path):
        return
    slide = open_whole_slide(path)
    try:
        if slide.shapes[0][0] * slide.shapes[0][1] > 1 << 26:
            return  # lawful, and slow to plan
        tiles = plan_tiles(slide)
    finally:
        slide.close()
    for tile in (tiles[0], tiles[-1]):
        read_tile(path, tile, "slide")


def sheet(data: bytes) -> None:
    """Parse a slide sheet."""
    for name, row in parse_sheet(data, "slides.csv").items():
        assert row.slide == name
        assert name


def names(data: bytes) -> None:
    """Make file and folder names of anything."""
    text = data.decode("utf-8", "surrogateescape")
    assert clean_name(text).isprintable()
    assert 0 < len(folder_name(clean_name(text)).encode()) <= 180
    natural_key(text)


def profile(data: bytes) -> None:
    """Load a lab profile."""
    path = FOLDER / "profile.toml"
    path.write_bytes(data)
    load_profile(path)


def truth(data: bytes) -> None:
    """Detect and read truth files; the first byte chooses the ending."""
    if not data:
        return
    place = FOLDER / "truth"
    place.mkdir(exist_ok=True)
    path = place / ("field" + (".csv", ".json", ".xml", ".txt")[data[0] % 4])
    path.write_bytes(data[1:])
    try:
        with contextlib.suppress(CbctoolError):
            read_differentials(path)
        read_truth(path, [place / "field.jpg"], detect_format(path))
    finally:
        path.unlink()


TARGETS: dict[str, tuple[Callable[[bytes], None], int]] = {
    "reader": (reader, 8192),
    "headers": (headers, 8192),
    "whole_slide": (whole_slide, 16384),
    "sheet": (sheet, 1024),
    "names": (names, 300),
    "profile": (profile, 1024),
    "truth": (truth, 2048),
}


def seeds(target: str) -> dict[str, bytes]:
    """Give the fuzzer something to mutate."""
    if target in ("reader", "headers"):
        good = {name: data for name, data in good_files().items() if len(data) < 8192}
        return {**tiny_pictures(), **good, **{name: data for name, data in bad_files().items() if len(data) < 8192}}
    if target == "whole_slide":
        return {"pyramid": pyramid(), "subifds": pyramid(subifds=True), "jpeg": pyramid(compression="jpeg")}
    if target == "sheet":
        return {
            "full": b"slide,wbc,wbc_uncorrected,um_per_px,sample_id,age,comment,fields\n17,7.5,yes,0.1,A,34,,",
            "semicolon": b'slide;wbc;comment\na;7,5;"x;y"\n',
            "utf16": "slide\tage\na\t3\n".encode("utf-16"),
        }
    if target == "profile":
        return {"profile": b'name = "Lab"\n[reference.neutrophil]\nlow = 40.0\nhigh = 80.0\n'}
    if target == "truth":
        return {
            "csv": b"\0field,kind,ymin,xmin,ymax,xmax\nfield.jpg,WBC,1,2,30,40\n",
            "points": b"\0field,row,col,kind\nfield.jpg,10,12,blast\n",
            "differential": b"\0slide,neutrophil,lymphocyte,monocyte,eosinophil,basophil\nfield,60,30,6,3,1\n",
            "coco": b'\1{"images":[{"id":1,"file_name":"field.jpg","height":9,"width":9}],"annotations":[{"id":1,'
            b'"image_id":1,"category_id":1,"bbox":[1,2,3,4]}],"categories":[{"id":1,"name":"WBC"}]}',
            "voc": b"\2<annotation><filename>field.jpg</filename><size><width>9</width><height>9</height></size>"
            b"<object><name>WBC</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
            b"</annotation>",
            "yolo": b"\x030 0.5 0.5 0.2 0.2\n",
        }
    return {"name": "field 10 – Ä.png".encode()}


def main() -> None:
    """Run one target; the other arguments are libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: fuzz.py {{{','.join(TARGETS)}}} [-runs=N] [CORPUS_FOLDER]")
    name = sys.argv[1]
    target, max_len = TARGETS[name]
    shutil.rmtree(FOLDER, ignore_errors=True)
    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True)
    for seed, data in seeds(name).items():
        (corpus / seed).write_bytes(data)

    def one(data: bytes) -> None:
        try:
            target(data)
        except CbctoolError as error:
            if not (error.message.isprintable() and error.message and error.advice):
                raise AssertionError(f"unprintable or without advice: {error!r}") from error

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    limits = ["-timeout=10", "-rss_limit_mb=2000", f"-max_len={max_len}"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
