"""Pictures of every kind that is read, and broken, lying and hostile files, all made here and kept nowhere."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms


def scene(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Draw a pale field with a pink and a violet disc, not symmetric in any direction."""
    rows, cols = np.mgrid[:height, :width]
    rgb = np.full((height, width, 3), (240, 235, 238), np.uint8)
    rgb[(rows - height * 0.3) ** 2 + (cols - width * 0.25) ** 2 < (height * 0.18) ** 2] = (214, 150, 160)
    rgb[(rows - height * 0.6) ** 2 + (cols - width * 0.7) ** 2 < (height * 0.25) ** 2] = (96, 52, 140)
    return rgb


def encode(rgb: NDArray[np.uint8], form: str, **options: object) -> bytes:
    """Encode an array with Pillow."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, form, **options)
    return out.getvalue()


def tiff(pixels: NDArray[np.generic], **options: object) -> bytes:
    """Encode an array with tifffile."""
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Build a PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, data: bytes, *chunks: bytes) -> bytes:
    """Build a PNG from its header's claims and any compressed data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ifd_tiff(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """Build a little-endian TIFF with one directory at byte 8, of (tag, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + struct.pack("<I", following) + tail


def lying_tiff(**claims: int) -> bytes:
    """Build an 8 x 8 RGB TIFF and overwrite what some of its tags claim."""
    tags = {"width": 8, "height": 8, "compression": 1, "offset": 200, "rows": 8, "count": 192, "samples": 3, "bits": 8}
    tags |= {key: value for key, value in claims.items() if key in tags}
    return ifd_tiff(
        [
            (256, 4, 1, tags["width"]),
            (257, 4, 1, tags["height"]),
            (258, 3, 1, tags["bits"]),
            (259, 3, 1, tags["compression"]),
            (262, 3, 1, 2),
            (273, 4, claims.get("offsets", 1), tags["offset"]),
            (277, 3, 1, tags["samples"]),
            (278, 4, 1, tags["rows"]),
            (279, 4, claims.get("counts", 1), tags["count"]),
        ],
        claims.get("following", 0),
        bytes(range(256)) * 2,
    )


@functools.cache
def good_files() -> dict[str, bytes]:
    """Map a name to a picture that must be read."""
    rgb = scene()
    alpha = np.dstack([rgb, np.where(rgb[..., 0] > 200, 255, 128).astype(np.uint8)])
    grey = rgb[..., 1]
    p3 = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    exif = Image.Exif()
    exif[0x0112] = 6
    animated = io.BytesIO()
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    apng = io.BytesIO()
    frames[0].save(apng, "PNG", save_all=True, append_images=frames[1:])
    nan = rgb.astype(np.float32) / 255
    nan[:4, :4] = np.nan
    return {
        "plain.jpg": encode(rgb, "JPEG", quality=92),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": _cmyk(rgb, "JPEG"),
        "rotated.jpg": encode(rgb, "JPEG", exif=exif),
        "profile.jpg": encode(rgb, "JPEG", icc_profile=p3),
        "plain.png": encode(rgb, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "animated.png": apng.getvalue(),
        "one_bit.png": _converted(rgb, "1", "PNG"),
        "palette.png": _converted(rgb, "P", "PNG"),
        "sixteen.png": _png16(rgb),
        "one_pixel.png": encode(rgb[:1, :1], "PNG"),
        "thin.png": encode(np.repeat(rgb[:1, :1], 60000, axis=1), "PNG"),
        "plain.bmp": encode(rgb, "BMP"),
        "palette.bmp": _converted(rgb, "P", "BMP"),
        "plain.webp": encode(rgb, "WEBP", lossless=True),
        "lossy.webp": encode(rgb, "WEBP"),
        "animated.webp": animated.getvalue(),
        "plain.tif": tiff(rgb, photometric="rgb"),
        "big.tif": tiff(rgb, photometric="rgb", bigtiff=True),
        "deflate.tif": tiff(rgb, photometric="rgb", compression="deflate", rowsperstrip=16),
        "lzw.tif": encode(rgb, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": tiff(rgb, photometric="rgb", compression="jpeg", tile=(32, 32)),
        "ycbcr.tif": encode(rgb, "TIFF", compression="jpeg", quality=90),
        "tiled.tif": tiff(rgb, photometric="rgb", tile=(32, 48)),
        "planar.tif": tiff(np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate"),
        "sixteen.tif": tiff(rgb.astype(np.uint16) * 257, photometric="rgb"),
        "twelve.tif": tiff(rgb.astype(np.uint16) * 16, photometric="rgb"),
        "float.tif": tiff(nan, photometric="rgb"),
        "grey.tif": tiff(grey, photometric="minisblack"),
        "inverted.tif": tiff(255 - grey, photometric="miniswhite"),
        "one_bit.tif": _converted(rgb, "1", "TIFF"),
        "cmyk.tif": _cmyk(rgb, "TIFF"),
        "palette.tif": _converted(rgb, "P", "TIFF"),
        "alpha.tif": tiff(alpha, photometric="rgb", extrasamples=["unassalpha"]),
        "pages.tif": tiff(np.stack([rgb, 255 - rgb]), photometric="rgb"),
    }


@functools.cache
def tiny_pictures() -> dict[str, bytes]:
    """Map a name to a picture of a few hundred bytes, for mutation."""
    rgb = scene(8, 10)
    return {
        "tiny.tif": tiff(rgb, photometric="rgb", metadata=None),
        "tiny_tiled.tif": tiff(rgb, photometric="rgb", metadata=None, tile=(16, 16), compression="deflate"),
        "tiny16.tif": tiff(rgb.astype(np.uint16) * 16, photometric="rgb", metadata=None, resolution=(1e5, 1e5, 3)),
        "tiny.png": encode(rgb, "PNG"),
        "tiny.bmp": encode(rgb, "BMP"),
        "tiny.webp": encode(rgb, "WEBP"),
        "tiny.jpg": encode(rgb, "JPEG", quality=30),
    }


def pyramid(subifds: bool = False, compression: str = "deflate") -> bytes:
    """Build a small pyramidal TIFF."""
    rgb, out = scene(64, 96), io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        common = {"tile": (32, 32), "photometric": "rgb", "compression": compression, "metadata": None}
        writer.write(rgb, subifds=1 if subifds else None, resolution=(40_000, 40_000), resolutionunit=3, **common)
        writer.write(np.ascontiguousarray(rgb[::2, ::2]), subfiletype=1, **common)
    return out.getvalue()


@functools.cache
def bombed_files() -> dict[str, bytes]:
    """Map a name to a small whole picture with something in it that unpacks to 48 or 64 MB."""
    bomb, rgb = zlib.compress(bytes(64 << 20), 9), scene(16, 16)
    text = png_chunk(b"zTXt", b"Comment\0\0" + bomb)
    long = png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb)
    profile = png_chunk(b"iCCP", b"x\0\0" + bomb)

    def with_chunk(picture: bytes, chunk: bytes) -> bytes:
        return picture[:33] + chunk + picture[33:]  # behind the header

    palette, plain = _converted(rgb, "P", "PNG"), encode(rgb, "PNG")
    return {
        "text.png": with_chunk(palette, text),
        "long_text.png": with_chunk(palette, long),
        "profile.png": with_chunk(palette, profile),
        "plain_text.png": with_chunk(plain, text),
        "plain_profile.png": with_chunk(plain, profile),
        "strip.tif": tiff(np.zeros((4000, 4000, 3), np.uint8), photometric="rgb", compression="deflate"),
    }


@functools.cache
def bad_files() -> dict[str, bytes]:
    """Map a name to a file that must be refused with a sentence."""
    rgb = scene()
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    jpeg, deflate = encode(noise, "JPEG"), zlib.compress(bytes(1 << 20), 9)
    bomb_profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(64 << 20), 9))
    half = len(jpeg) // 2
    return {
        "empty.jpg": b"",
        "zeros.png": bytes(5000),
        "text.jpg": b"this is no picture\n" * 20,
        "page.png": b"<!DOCTYPE html><script>alert(1)</script>",
        "cell.gif": encode(rgb, "GIF"),
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "scan.dcm": bytes(128) + b"DICM" + bytes(100),
        "only_magic.png": b"\x89PNG\r\n\x1a\n",
        "only_magic.jpg": b"\xff\xd8\xff",
        "only_magic.tif": b"II*\0",
        "only_magic.webp": b"RIFF\x04\0\0\0WEBP",
        "only_magic.bmp": b"BM" + bytes(12) + b"\x28\0\0\0",
        "hole.jpg": jpeg[:half] + bytes(600) + jpeg[half + 600 :],
        "preallocated.jpg": jpeg[:half] + bytes(len(jpeg) - half),
        "no_scan.jpg": jpeg[:2] + b"\xff\xd9",
        "bomb.png": png(50_000, 50_000, 8, 2, deflate),
        "bomb_grey.png": png(2**31 - 1, 2**31 - 1, 1, 0, deflate),
        "short_data.png": png(64, 64, 8, 2, zlib.compress(bytes(100))),
        "zero_width.png": png(0, 10, 8, 2, deflate),
        "colour_type.png": png(8, 8, 8, 5, deflate),
        "bomb_profile_and_short.png": png(64, 64, 8, 2, zlib.compress(b""), bomb_profile),
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "rle_bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 8, 1, 0, 0, 0, 0, 0),
        "bomb.webp": _huge_webp(),
        "bomb.tif": lying_tiff(width=50_000, height=50_000, rows=50_000),
        "bomb_deflate.tif": lying_tiff(width=2**31, height=2**31, compression=8),
        "beyond.tif": lying_tiff(offset=10_000),
        "huge_count.tif": lying_tiff(count=2**32 - 1),
        "many_offsets.tif": lying_tiff(offsets=2**32 - 1),
        "zip_bombed_tags.tif": lying_tiff(offsets=2**30, counts=2**30),
        "no_samples.tif": lying_tiff(samples=0),
        "many_samples.tif": lying_tiff(samples=65535),
        "odd_bits.tif": lying_tiff(bits=33),
        "no_tags.tif": ifd_tiff([]),
        "ifd_beyond.tif": struct.pack("<2sHI", b"II", 42, 1 << 30),
        "ifd_self.tif": ifd_tiff([], following=8),
        "zero_rows.tif": lying_tiff(height=0),
        "unknown_compression.tif": lying_tiff(compression=65000),
        "two_channels.tif": tiff(np.zeros((32, 32, 2), np.uint8), photometric="minisblack", planarconfig="contig"),
        "five_channels.tif": tiff(np.zeros((32, 32, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
        "all_nan.tif": tiff(np.full((32, 32, 3), np.nan, np.float32), photometric="rgb"),
        "complex.tif": tiff(np.ones((32, 32), np.complex64)),
        "volume.tif": tiff(
            np.zeros((20, 32, 32), np.uint8), photometric="minisblack", volumetric=True, tile=(16, 16, 16)
        ),
    }


def _converted(rgb: NDArray[np.uint8], mode: str, form: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(out, form)
    return out.getvalue()


def _cmyk(rgb: NDArray[np.uint8], form: str) -> bytes:
    return _converted(rgb, "CMYK", form)


def _png16(rgb: NDArray[np.uint8]) -> bytes:
    rows = (rgb.astype(">u2") * 257).reshape(len(rgb), -1)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    return png(rgb.shape[1], rgb.shape[0], 16, 2, zlib.compress(raw))


def _huge_webp() -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (16382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
