"""Reading: every kind of file comes out as the RGB a person sees, or as one sentence."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hostile_files import bad_files, encode, good_files, png, png_chunk, scene, tiff
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cbctool.errors import UnreadableImageError
from cbctool.imaging.read import ReadOptions, open_regular, printable, read_field
from cbctool.records import Field

RGB = scene()
GREY = np.repeat(RGB[..., 1:2], 3, axis=2)


@pytest.fixture
def data_folder() -> Path:
    folder = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}")
    return folder


def put(folder: Path, data: bytes, name: str = "a.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(folder: Path, data: bytes, name: str = "a.png") -> Field:
    return read_field(put(folder, data, name), "slide", name)


LOSSLESS_RGB = [
    "plain.png", "animated.png", "plain.bmp", "plain.webp", "animated.webp", "plain.tif", "big.tif", "deflate.tif",
    "lzw.tif", "tiled.tif", "planar.tif", "sixteen.png", "sixteen.tif", "pages.tif",
]  # fmt: skip


@pytest.mark.parametrize("name", LOSSLESS_RGB)
def test_lossless_files_give_back_their_pixels(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    assert field.rgb.dtype == np.uint8
    assert field.rgb.flags.c_contiguous
    assert_array_equal(field.rgb, RGB)


@pytest.mark.parametrize("name", sorted(good_files()))
def test_every_kind_is_read_as_rgb(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    assert field.rgb.dtype == np.uint8
    assert field.rgb.ndim == 3
    assert field.rgb.shape[2] == 3
    assert (field.slide, field.name, field.row_px, field.col_px) == ("slide", name, 0, 0)


@pytest.mark.parametrize(
    "name",
    ["plain.jpg", "progressive.jpg", "cmyk.jpg", "lossy.webp", "jpeg.tif", "ycbcr.tif", "cmyk.tif", "profile.jpg"],
)
def test_lossy_and_print_colours_stay_close(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    assert field.rgb.shape == RGB.shape
    assert np.abs(field.rgb.astype(int) - RGB).mean() < 3


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "inverted.tif"])
def test_grey_is_repeated_and_said(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    assert_array_equal(field.rgb, GREY)
    assert any("grey" in warning for warning in field.warnings)


@pytest.mark.parametrize("name", ["one_bit.png", "one_bit.tif"])
def test_one_bit_is_black_and_white(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    expected = np.asarray(Image.fromarray(RGB).convert("1").convert("RGB"))
    assert_array_equal(field.rgb, expected)
    assert any("black and white" in warning for warning in field.warnings)


def test_one_bit_min_is_white(tmp_path: Path) -> None:
    bits = np.zeros((8, 16), bool)
    bits[:, :8] = True
    field = read(tmp_path, tiff(bits, photometric="miniswhite"), "a.tif")
    assert (field.rgb[:, :8] == 0).all()
    assert (field.rgb[:, 8:] == 255).all()


@pytest.mark.parametrize("name", ["palette.png", "palette.bmp", "palette.tif"])
def test_palette_is_looked_up(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    expected = np.asarray(Image.fromarray(RGB).convert("P").convert("RGB"))
    assert_array_equal(field.rgb, expected)


@pytest.mark.parametrize("name", ["alpha.png", "alpha.tif"])
def test_alpha_is_shown_on_white(tmp_path: Path, name: str) -> None:
    field = read(tmp_path, good_files()[name], name)
    alpha = np.where(RGB[..., :1] > 200, 255, 128) / 255
    assert np.abs(field.rgb - (RGB * alpha + 255 * (1 - alpha))).max() <= 1
    assert any("white" in warning for warning in field.warnings)


def test_premultiplied_alpha_is_not_darkened_twice(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), (100, 50, 25, 128), np.uint8)
    field = read(tmp_path, tiff(pixels, photometric="rgb", extrasamples=["assocalpha"]), "a.tif")
    assert_array_equal(field.rgb[0, 0], [227, 177, 152])


def test_opaque_alpha_says_nothing(tmp_path: Path) -> None:
    field = read(tmp_path, encode(np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]), "PNG"))
    assert_array_equal(field.rgb, RGB)
    assert field.warnings == ()


def test_transparent_colour_is_shown_on_white(tmp_path: Path) -> None:
    raw = b"".join(b"\0" + row.tobytes() for row in np.full((4, 4, 3), 7, np.uint8))
    field = read(tmp_path, png(4, 4, 8, 2, zlib.compress(raw), png_chunk(b"tRNS", struct.pack(">HHH", 7, 7, 7))))
    assert (field.rgb == 255).all()


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_sixteen_bit_containers_are_scaled_by_the_bits_in_use(tmp_path: Path, bits: int) -> None:
    used = {9: 10}.get(bits, bits)
    full = 2**bits - 1
    ramp = np.repeat(np.linspace(0, full, 64).round().astype(np.uint16)[None, :, None], 3, axis=2)
    field = read(tmp_path, tiff(np.repeat(ramp, 8, axis=0), photometric="rgb"), "a.tif")
    expected = np.round(ramp[0, :, 0] * 255.0 / (2**used - 1))
    assert np.abs(field.rgb[0, :, 0] - expected).max() <= 1
    assert any(f"{used} " in warning and "scaled to 8" in warning for warning in field.warnings)


def test_floats_not_a_number_are_white_and_said(tmp_path: Path) -> None:
    field = read(tmp_path, good_files()["float.tif"], "float.tif")
    assert (field.rgb[:4, :4] == 255).all()
    assert_array_equal(field.rgb[4:], RGB[4:])
    assert any("48 samples are not a number" in warning for warning in field.warnings)


@pytest.mark.parametrize(("full", "says"), [(1.0, "0 to 1"), (255.0, "0 to 255"), (4095.0, "4095"), (1e7, "1e+07")])
def test_floats_are_scaled_from_their_customary_range(tmp_path: Path, full: float, says: str) -> None:
    field = read(tmp_path, tiff((RGB / RGB.max() * full).astype(np.float32), photometric="rgb"), "a.tif")
    assert field.rgb.max() == 255
    assert any(says in warning for warning in field.warnings)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_undone(tmp_path: Path, form: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, form, exif=exif)
    with Image.open(io.BytesIO(out.getvalue())) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    field = read(tmp_path, out.getvalue(), "a." + form.lower())
    assert_array_equal(field.rgb, expected)


def _wide_profile() -> bytes:
    """Build an RGB profile with primaries swapped, so that a conversion cannot be missed."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    where = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = where[b"rXYZ"], where[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_foreign_colour_profile_is_converted_and_said(tmp_path: Path, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    field = read(tmp_path, encode(RGB, form, icc_profile=_wide_profile(), **options), "a." + form.lower())
    assert np.abs(field.rgb[..., ::-1].astype(int) - RGB).mean() < 3
    assert any("converted to sRGB" in warning for warning in field.warnings)


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    field = read(tmp_path, encode(RGB, "PNG", icc_profile=profile))
    assert_array_equal(field.rgb, RGB)
    assert field.warnings == ()


@pytest.mark.parametrize("profile", [b"garbage", bytes(200)])
def test_a_broken_profile_does_not_cost_the_picture(tmp_path: Path, profile: bytes) -> None:
    field = read(tmp_path, encode(RGB, "PNG", icc_profile=profile))
    assert_array_equal(field.rgb, RGB)
    assert any("profile" in warning for warning in field.warnings)


def test_pages_and_frames_are_said(tmp_path: Path) -> None:
    assert any("page 1 of 2" in one for one in read(tmp_path, good_files()["pages.tif"], "a.tif").warnings)
    for name in ("animated.png", "animated.webp"):
        assert any("2 frames" in one for one in read(tmp_path, good_files()[name], name).warnings)


def test_three_grey_pages_that_are_channels_become_colour(tmp_path: Path) -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, np.moveaxis(RGB, 2, 0), photometric="minisblack", ome=True, metadata={"axes": "CYX"})
    field = read(tmp_path, out.getvalue(), "a.ome.tif")
    assert_array_equal(field.rgb, RGB)


# ------------------------------------------------------------------------------------------------------------- scale


def _tiff_scale(tmp_path: Path, **options: object) -> float | None:
    return read(tmp_path, tiff(RGB, photometric="rgb", **options), "a.tif").um_per_px


def test_scale_from_tiff_resolution(tmp_path: Path) -> None:
    assert _tiff_scale(tmp_path, resolution=(100_000, 100_000), resolutionunit=3) == pytest.approx(0.1)
    assert _tiff_scale(tmp_path, resolution=(254_000, 254_000), resolutionunit=2) == pytest.approx(0.1)
    assert _tiff_scale(tmp_path, resolution=(100_000, 50_000), resolutionunit=3) is None
    assert _tiff_scale(tmp_path, resolution=(100_000, 100_000), resolutionunit=1) is None


@pytest.mark.parametrize("dpi", [1, 72, 96, 150, 180, 300, 600, 1200, 2400])
def test_a_cameras_default_density_is_no_scale(tmp_path: Path, dpi: int) -> None:
    assert _tiff_scale(tmp_path, resolution=(dpi, dpi), resolutionunit=2) is None
    assert read(tmp_path, encode(RGB, "JPEG", dpi=(dpi, dpi)), "a.jpg").um_per_px is None
    assert read(tmp_path, encode(RGB, "PNG", dpi=(dpi, dpi))).um_per_px is None
    assert read(tmp_path, encode(RGB, "BMP", dpi=(dpi, dpi)), "a.bmp").um_per_px is None


def test_scale_from_ome_xml(tmp_path: Path) -> None:
    for size, unit in ((0.12, "µm"), (120.0, "nm"), (0.00012, "mm")):
        out = io.BytesIO()
        meta = {
            "axes": "YXS",
            "PhysicalSizeX": size,
            "PhysicalSizeXUnit": unit,
            "PhysicalSizeY": size,
            "PhysicalSizeYUnit": unit,
        }
        tifffile.imwrite(out, RGB, photometric="rgb", ome=True, metadata=meta)
        assert read(tmp_path, out.getvalue(), "a.tif").um_per_px == pytest.approx(0.12)


def test_an_incredible_ome_scale_is_none(tmp_path: Path) -> None:
    assert (
        _tiff_scale(tmp_path, description='<OME><Pixels PhysicalSizeX="1e999" PhysicalSizeXUnit="furlong"/></OME>')
        is None
    )
    assert _tiff_scale(tmp_path, description='<OME><Pixels PhysicalSizeX="0"/></OME>', metadata=None) is None


def test_scale_from_imagej(tmp_path: Path) -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, RGB, imagej=True, resolution=(5, 5), metadata={"unit": "um"})
    assert read(tmp_path, out.getvalue(), "a.tif").um_per_px == pytest.approx(0.2)


def test_scale_from_png_and_jpeg_density(tmp_path: Path) -> None:
    assert read(tmp_path, encode(RGB, "PNG", dpi=(101_600, 101_600))).um_per_px == pytest.approx(0.25, rel=1e-3)
    data = bytearray(encode(RGB, "JPEG"))
    struct.pack_into(">BHH", data, data.index(b"JFIF") + 7, 2, 50_000, 50_000)
    assert read(tmp_path, bytes(data), "a.jpg").um_per_px == pytest.approx(0.2)


# ------------------------------------------------------------------------------------------------- names and places


@pytest.mark.parametrize(
    "name", ["😐.png", "Ölbild ñ 血.png", "=cmd().png", "<b>.png", "new\nline.png", "é" * 125 + ".png"]
)
def test_any_name_is_read(tmp_path: Path, name: str) -> None:
    assert_array_equal(read(tmp_path, encode(RGB, "PNG"), name).rgb, RGB)


def test_a_name_that_is_no_utf8_is_read_and_refused_in_printable_words(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    path.write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="empty") as caught:
        read_field(path, "s", "n")
    caught.value.message.encode()
    path.write_bytes(encode(RGB, "PNG"))
    assert_array_equal(read_field(path, "s", "n").rgb, RGB)


def test_content_decides_and_a_wrong_ending_is_said(tmp_path: Path) -> None:
    field = read(tmp_path, encode(RGB, "PNG"), "a.jpg")
    assert_array_equal(field.rgb, RGB)
    assert field.warnings == ("named .jpg but the content is PNG; read as PNG",)


def test_a_message_is_one_line_and_tells_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        read(tmp_path, b"text", "new\nline\x1b[31m.png")
    assert caught.value.message.isprintable()
    assert caught.value.advice


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    assert printable(text).isprintable()


def test_limits_are_the_callers(tmp_path: Path) -> None:
    path = put(tmp_path, encode(RGB, "PNG"))
    with pytest.raises(UnreadableImageError, match="128 x 96"):
        read_field(path, "s", "n", ReadOptions(max_pixels=1000))
    with pytest.raises(UnreadableImageError, match="MB"):
        read_field(path, "s", "n", ReadOptions(max_bytes=100))


def test_an_open_file_is_closed_when_it_is_refused(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(5):
        with pytest.raises(UnreadableImageError):
            open_regular(Path(os.devnull))
        with pytest.raises(UnreadableImageError):
            open_regular(tmp_path)
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    assert after == before


def test_trailing_bytes_after_a_jpeg_do_not_matter(tmp_path: Path) -> None:
    whole = encode(RGB, "JPEG")
    expected = read(tmp_path, whole, "a.jpg").rgb
    assert_array_equal(read(tmp_path, whole + b"camera's own notes" + bytes(900), "a.jpg").rgb, expected)


def test_a_thumbnail_in_exif_does_not_hide_truncation(tmp_path: Path) -> None:
    thumbnail = encode(RGB[::8, ::8], "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    whole = encode(RGB, "JPEG")
    data = whole[:2] + segment + whole[2:]
    assert read(tmp_path, data, "a.jpg").rgb.shape == RGB.shape
    with pytest.raises(UnreadableImageError, match="cut short"):
        read(tmp_path, data[:-100], "a.jpg")


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12).map(lambda s: (*s, 3))))
def test_png_and_tiff_round_trip_any_picture(tmp_path_factory: pytest.TempPathFactory, rgb: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("round")
    assert_array_equal(read(folder, encode(rgb, "PNG")).rgb, rgb)
    assert_array_equal(read(folder, tiff(rgb, photometric="rgb", planarconfig="contig"), "a.tif").rgb, rgb)


@pytest.mark.real
def test_real_fields_are_what_opencv_reads(data_folder: Path) -> None:
    for path in sorted((data_folder / "bccd/images").glob("*.jpg"))[:20]:
        assert_array_equal(read_field(path, "s", path.name).rgb, cv2.imread(str(path))[..., ::-1])


def test_bad_files_name_the_file(tmp_path: Path) -> None:
    for name, data in bad_files().items():
        with pytest.raises(UnreadableImageError) as caught:
            read(tmp_path, data, name)
        assert name in caught.value.message
        assert caught.value.message.endswith(".")
        assert caught.value.advice.endswith(".")


def test_nothing_is_said_of_a_plain_file(tmp_path: Path) -> None:
    for name in ("plain.jpg", "plain.png", "plain.tif", "plain.bmp", "plain.webp"):
        field = read(tmp_path, good_files()[name], name)
        assert field.warnings == ()
        assert field.um_per_px is None or math.isfinite(field.um_per_px)


# ------------------------------------------------------------------------------------------------ half-copied pictures


def speckled(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    noise = np.random.default_rng(3).integers(-12, 12, (height, width, 3))
    return np.clip(scene(height, width) + noise, 1, 254).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 4}, {"progressive": True}, {"grey": True}])
def test_a_jpeg_that_was_closed_too_early_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    rgb = speckled()
    pixels = rgb[..., 1] if options.pop("grey", False) else rgb
    whole, path = encode(pixels, "JPEG", quality=90, **options), tmp_path / "a.jpg"
    for share in (0.3, 0.5):
        path.write_bytes(whole[: int(len(whole) * share)] + b"\xff\xd9")  # libjpeg paints the rest grey
        with pytest.raises(UnreadableImageError, match="cut short"):
            read_field(path, "s", "a")


def test_a_whole_jpeg_that_ends_in_middle_grey_is_read(tmp_path: Path) -> None:
    rgb, path = scene(), tmp_path / "a.jpg"
    rgb[64:] = 128
    path.write_bytes(encode(rgb, "JPEG"))
    assert (read_field(path, "s", "a").rgb[-1, -1] == 128).all()


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(tmp_path: Path, kept: int) -> None:
    whole, path = encode(speckled(), "JPEG", progressive=True), tmp_path / "a.jpg"
    scans = [match.start() for match in re.finditer(rb"\xff\xda", whole)]
    assert len(scans) > kept
    path.write_bytes(whole[: scans[kept]] + b"\xff\xd9")
    with pytest.raises(UnreadableImageError, match="cut short"):
        read_field(path, "s", "a")


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.webp"])
def test_a_copy_that_was_given_its_length_first_and_broken_off_is_refused(tmp_path: Path, name: str) -> None:
    rgb, path = speckled(200, 260), tmp_path / name
    whole = tiff(rgb, photometric="rgb") if name == "a.tif" else encode(rgb, path.suffix[1:].upper(), lossless=True)
    path.write_bytes(whole)
    read_field(path, "s", "a")
    path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    with pytest.raises(UnreadableImageError, match=f"its last {len(whole) - 8192} bytes are empty"):
        read_field(path, "s", "a")


def test_a_picture_that_is_black_at_its_end_is_read(tmp_path: Path) -> None:
    rgb, path = speckled(200, 260), tmp_path / "a.tif"
    rgb[150:] = 0
    path.write_bytes(tiff(rgb, photometric="rgb"))
    assert not read_field(path, "s", "a").rgb[150:].any()


@pytest.mark.parametrize(
    "options", [{"rowsperstrip": 16}, {"tile": (32, 32)}, {"compression": "lzw", "rowsperstrip": 9}]
)
def test_a_tiff_that_lists_too_few_strips_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, path = bytearray(tiff(speckled(), photometric="rgb", **options)), tmp_path / "a.tif"
    with tifffile.TiffFile(io.BytesIO(whole)) as tif:
        lists = [tag for tag in tif.pages.first.tags if tag.code in (273, 279, 324, 325)]
    for tag in lists:
        struct.pack_into("<I", whole, tag.offset + 4, 3)
    path.write_bytes(whole)
    with pytest.raises(UnreadableImageError, match=r"3 of its \d+ parts are there"):
        read_field(path, "s", "a")


def test_one_strip_for_all_rows_is_enough_whatever_it_states(tmp_path: Path) -> None:
    rgb, path = speckled(), tmp_path / "a.tif"
    whole = bytearray(tiff(rgb, photometric="rgb", rowsperstrip=96))
    with tifffile.TiffFile(io.BytesIO(whole)) as tif:
        rows = tif.pages.first.tags[278]
    struct.pack_into("<H" if rows.dtype == 3 else "<I", whole, rows.valueoffset, 8)
    path.write_bytes(whole)
    assert (read_field(path, "s", "a").rgb == rgb).all()


def test_a_tiff_whose_description_is_cut_is_not_read_as_black_and_white(tmp_path: Path) -> None:
    whole, path = encode(speckled(), "TIFF", compression="tiff_lzw"), tmp_path / "a.tif"  # libtiff ends with the tags
    for lost in range(1, 8):
        path.write_bytes(whole[:-lost])
        with pytest.raises(UnreadableImageError):
            read_field(path, "s", "a")
