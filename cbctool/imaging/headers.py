"""What an image file says about itself, read from its bytes before any pixel is decoded.

Nothing here allocates more than the file's own size, so that a decompression bomb, a truncated transfer or a wrong
extension is met with a sentence and not with a decoder. Structures walked: JPEG markers (ITU-T T.81, JFIF 1.02,
Adobe APP14), PNG chunks (PNG 3rd edition, including the CRC of each), RIFF/WebP chunks, the BMP header. TIFF is read by
tifffile in :mod:`cbctool.imaging.read`.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import NoReturn

from PIL import Image

from cbctool.errors import UnreadableImageError

EXTENSIONS: dict[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".btf": "TIFF",
    ".webp": "WebP",
}
"""The endings of the formats that are read as fields, lower case, and the format each promises."""

CREDIBLE_UM_PER_PX = (0.02, 1.0)
"""Scales that a light microscope and its camera can have, um/px: 2.4 um pixels behind a 100x objective with a 1.2x
relay give 0.02; a 10x objective with 10 um pixels gives 1.0. A camera's default density (72, 96, 150, 300, 600 dpi)
says 353 to 42 um/px and so falls outside by itself."""

_BLOCK = 4096  # bytes in which systems write to disks and caches

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # within a scan: neither a stuffed 0xFF nor a restart

_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "a GIF"),
    (4, b"ftypheic", "a HEIC photo"),
    (4, b"ftypheix", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIF photo"),
    (4, b"ftypmsf1", "a HEIF photo"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftypcrx", "a camera raw file"),
    (4, b"ftyp", "a video"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    *((0, b"P%c\n" % kind, "a Netpbm picture") for kind in b"123456"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a zip archive or Office document"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"ZISRAWFILE", "a Zeiss CZI file"),
    (0, b"\xda\xce\xbe\x0a", "a Nikon ND2 file"),
    (0, b"\x70\x00\x00\x00", "a Leica LIF file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (128, b"DICM", "a DICOM file"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office or Olympus container file"),
    (0, b"FUJIFILM", "a camera raw file"),
    (0, b"IIRO", "a camera raw file"),
    (0, b"<?xml", "an XML text"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
)


@dataclass(frozen=True)
class Header:
    """A file's own statement.

    ``orientation`` is EXIF's 1-8; ``frames`` counts pictures in an animation; ``icc`` is an embedded colour profile,
    empty if none; ``um_per_px`` is None where no credible scale is stated; ``components`` are samples per
    pixel as stored; ``end`` is the byte after a JPEG's last scan.
    """

    format: str
    height_px: int
    width_px: int
    bits: int = 8
    components: int = 3
    plain: bool = True
    orientation: int = 1
    frames: int = 1
    icc: bytes = b""
    um_per_px: float | None = None
    end: int = 0


def sniff(data: bytes) -> str | None:
    """Name the format that ``data`` begins like: PNG, JPEG, BMP, TIFF, WebP, or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and data[8:10] != b"CR":
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if (
        data[:2] == b"BM"
        and len(data) >= 18
        and struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124)
    ):
        return "BMP"
    return None


def looks_like(data: bytes) -> str:
    """Say in words what bytes that are no readable picture seem to be, for the error's sentence."""
    if data[8:10] == b"CR" and data[:4] == b"II*\0":
        return "a camera raw file"
    for offset, magic, words in _OTHER_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            return words
    head = data[:4096]
    if not head.strip(b"\0"):
        return "a run of zero bytes"
    if b"\0" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) == 0:
        return "a text"
    return "of no format known here"


def read_header(data: bytes, path: str) -> Header:
    """Read the header of a PNG, JPEG, BMP or WebP held in ``data`` and check that the file is whole.

    Raises
    ------
    UnreadableImageError
        Where the file is cut short, damaged or none of these formats.
    """
    readers = {"PNG": _png, "JPEG": _jpeg, "BMP": _bmp, "WebP": _webp}
    form = sniff(data)
    if form not in readers:
        raise ValueError(f"read_header cannot read {form}")
    try:
        return readers[form](data, path)
    except (struct.error, IndexError):
        _truncated(path, form)


def unfilled_bytes(data: bytes) -> int:
    """Count the zero bytes at a file's end that begin where a block of the disk does; 0 where they begin elsewhere.

    A copy that gives a file its full length first and is broken off leaves just that. A picture that is itself black
    at its end looks so by chance in 1 of 4096 cases.
    """
    filled = len(data) if data[-1:] != b"\0" else len(data.rstrip(b"\0"))
    return 0 if filled % _BLOCK else len(data) - filled


def credible_um_per_px(px_per_um_x: float, px_per_um_y: float) -> float | None:
    """Turn a stated density into um/px, or None where no microscope has it or pixels differ by over 1 %."""
    if not (px_per_um_x > 0 and px_per_um_y > 0) or abs(px_per_um_x / px_per_um_y - 1) > 0.01:
        return None
    um_per_px = 2 / (px_per_um_x + px_per_um_y)
    low, high = CREDIBLE_UM_PER_PX
    return um_per_px if low <= um_per_px <= high else None


def exif_orientation(exif: bytes) -> int:
    """Read EXIF's orientation (1-8) from an APP1 or eXIf block; 1 where there is none or the block is damaged."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(0x0112, 1)
    except Exception:  # a damaged EXIF block must not cost the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _truncated(path: str, form: str) -> NoReturn:
    raise UnreadableImageError(
        f"{path} is cut short: the {form} ends before its last pixel.", "Copy or export the picture again."
    )


def _damaged(path: str, form: str, what: str) -> NoReturn:
    raise UnreadableImageError(f"{path} is damaged: {what}.", f"Copy or export the {form} again.")


def _jpeg(data: bytes, path: str) -> Header:
    at, size = 2, len(data)
    frame: tuple[int, int, int, int] | None = None
    names, progressive = b"", False
    orientation, density, icc, adobe = 1, None, {}, None
    while True:
        while at < size and data[at] != 0xFF:  # stray bytes between markers are legal to skip
            at += 1
        while at < size and data[at] == 0xFF:
            at += 1
        if at >= size:
            _truncated(path, "JPEG")
        marker = data[at]
        at += 1
        if marker == 0xD9:
            _truncated(path, "JPEG")
        if marker in (0x01, *range(0xD0, 0xD9)):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        body = data[at + 2 : at + length]
        if length < 2 or at + length > size:
            _truncated(path, "JPEG")
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)):
            frame = struct.unpack_from(">BHHB", body)
            names, progressive = body[6::3][: frame[3]], marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == 0xE0 and body[:5] == b"JFIF\0":
            density = struct.unpack_from(">BHH", body, 7)
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = exif_orientation(body)
        elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0":
            icc[body[12]] = body[14:]
        elif marker == 0xEE and body[:5] == b"Adobe":
            adobe = body[11] if len(body) > 11 else None
        at += length
        if marker == 0xDA:
            break
    if frame is None:
        _damaged(path, "JPEG", "it has no frame header")
    # Inside the scans 0xFF is always followed by a stuffing zero or a restart, so this finds the true end; what a
    # camera appends after it (a second picture, a thumbnail) does not matter.
    end = data.find(b"\xff\xd9", at)
    if end < 0:
        _truncated(path, "JPEG")
    # No Huffman stream carries 512 zero bytes; a broken transfer into a preallocated file does.
    if data.find(bytes(512), at, end) >= 0:
        _damaged(path, "JPEG", "a stretch of its data is empty")
    if not _all_scans(data, at - length, end, names, progressive):
        _truncated(path, "JPEG")
    bits, height, width, components = frame
    unit, x, y = density or (0, 0, 0)
    um = {1: 25400.0, 2: 10000.0}.get(unit)
    return Header(
        "JPEG",
        height,
        width,
        bits,
        components,
        # Without JFIF or Adobe's word three components named R, G, B are RGB to every decoder used here alike.
        plain=bits == 8 and components in (1, 3) and adobe in (None, 0, 1),
        orientation=orientation,
        icc=b"".join(icc[key] for key in sorted(icc)),
        um_per_px=credible_um_per_px(x / um, y / um) if um else None,
        end=end,
    )


def _all_scans(data: bytes, at: int, end: int, names: bytes, progressive: bool) -> bool:
    """Whether the scans from byte ``at`` to ``end`` give every component, and every coefficient of it to its last bit.

    A decoder shows what is missing as a blur or as grey. Only a progressive JPEG, or one with a scan for each
    component, has more than one.
    """
    left = {(name, k) for name in names for k in range(64)}
    while True:
        (length, count) = struct.unpack_from(">HB", data, at)
        first, last, bits = data[at + length - 3 : at + length] if progressive else (0, 63, 0)
        if bits & 15 == 0:
            left -= {(name, k) for name in data[at + 3 : at + 3 + 2 * count : 2] for k in range(first, last + 1)}
        if not left:
            return True
        while True:
            marker = _JPEG_MARKER.search(data, at + length, end)
            if marker is None:
                return False
            at = marker.end()
            if marker[1] == b"\xda":
                break
            (length,) = struct.unpack_from(">H", data, at)


def _png(data: bytes, path: str) -> Header:
    view, at = memoryview(data), 8
    ihdr: tuple[int, ...] | None = None
    orientation, frames, icc, um_per_px, plain = 1, 1, b"", None, True
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            _truncated(path, "PNG")
        body = view[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(body, zlib.crc32(kind)) != crc:
            _damaged(path, "PNG", "a checksum in it does not match")
        if ihdr is None and kind != b"IHDR":
            _damaged(path, "PNG", "it does not begin with its header")
        if kind == b"IHDR":
            ihdr = struct.unpack_from(">IIBBBBB", body)
        elif kind == b"tRNS":
            plain = False
        elif kind == b"acTL":
            frames = max(1, struct.unpack_from(">I", body)[0])
        elif kind == b"eXIf":
            orientation = exif_orientation(b"Exif\0\0" + bytes(body))
        elif kind == b"pHYs" and length == 9:
            x, y, unit = struct.unpack_from(">IIB", body)
            um_per_px = credible_um_per_px(x / 1e6, y / 1e6) if unit == 1 else None
        elif kind == b"iCCP":
            icc = _inflate(bytes(body).partition(b"\0")[2][1:])
        elif kind == b"IEND":
            break
        at += 12 + length
    assert ihdr is not None
    width, height, bits, colour = ihdr[:4]
    components = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    if not components:
        _damaged(path, "PNG", f"it states colour type {colour}, which does not exist")
    plain = plain and bits == 8 and colour in (0, 2)
    return Header("PNG", height, width, bits, components, plain, orientation, frames, icc, um_per_px)


def _inflate(data: bytes, limit: int = 4 << 20) -> bytes:
    """Inflate an embedded profile, at most ``limit`` bytes (press profiles are 0.5-3 MB); empty where it is damaged."""
    try:
        stream = zlib.decompressobj()
        out = stream.decompress(data, limit)
    except zlib.error:
        return b""
    return b"" if stream.unconsumed_tail else out


def _bmp(data: bytes, path: str) -> Header:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        return Header("BMP", height, width, bits, plain=False)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    x, y = struct.unpack_from("<ii", data, 38)
    (offset,) = struct.unpack_from("<I", data, 10)
    if compression in (0, 3) and offset + (abs(width) * bits + 31) // 32 * 4 * abs(height) > len(data):
        _truncated(path, "BMP")
    return Header("BMP", abs(height), abs(width), bits, plain=False, um_per_px=credible_um_per_px(x / 1e6, y / 1e6))


def _webp(data: bytes, path: str) -> Header:
    # Walked by hand: Pillow's opener already allocates the whole canvas, twice.
    (size,) = struct.unpack_from("<I", data, 4)
    end, at = size + 8, 12
    if end > len(data):
        _truncated(path, "WebP")
    width = height = frames = 0
    exif = icc = b""
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        body = at + 8
        if body + length > end:
            _truncated(path, "WebP")
        if kind == b"VP8X":
            width = 1 + int.from_bytes(data[body + 4 : body + 7], "little")
            height = 1 + int.from_bytes(data[body + 7 : body + 10], "little")
        elif kind == b"VP8 " and not width:
            width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, body + 6))
        elif kind == b"VP8L" and not width:
            (word,) = struct.unpack_from("<I", data, body + 1)
            width, height = 1 + (word & 0x3FFF), 1 + (word >> 14 & 0x3FFF)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            exif = data[body : body + length]
        elif kind == b"ICCP":
            icc = data[body : body + length]
        at = body + length + length % 2
    if not (width and height):
        _damaged(path, "WebP", "it has no picture in it")
    orientation = exif_orientation(exif) if exif else 1
    return Header("WebP", height, width, plain=False, orientation=orientation, frames=max(1, frames), icc=icc)
