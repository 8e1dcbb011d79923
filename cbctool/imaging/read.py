"""Read one picture as the RGB a person sees, or say in one sentence why it cannot be read.

The content decides, never the name. A plain 8-bit JPEG or PNG, which is what cameras and microscopes write, takes a
fast path whose cost is that of the decoder alone; everything else goes through Pillow or tifffile and comes out the
same: (H, W, 3) uint8 sRGB, upright, on white.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import re
import stat
import struct
import warnings as python_warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cbctool.errors import UnreadableImageError
from cbctool.imaging.headers import (
    EXTENSIONS,
    Header,
    credible_um_per_px,
    looks_like,
    read_header,
    sniff,
    unfilled_bytes,
)
from cbctool.records import Field

log = logging.getLogger(__name__)

# What these two complain of in broken files is said in our own sentence, or is in the field's warnings.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
logging.getLogger("imagecodecs").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class ReadOptions:
    """Limits of one picture held in memory as a whole.

    Attributes
    ----------
    max_pixels : int
        Larger ones are refused from their header, before any decoding. 200 million is the largest camera sensor sold
        (200 MP telephones; microscope cameras end near 65 MP) and 600 MB as RGB. A whole-slide file is read in
        tiles and knows no such limit.
    max_bytes : int
        Limit of the file itself, read into memory whole: 200 million pixels of 16-bit RGB, uncompressed.
    """

    max_pixels: int = 200_000_000
    max_bytes: int = 1_210_000_000


def read_field(path: Path, slide: str, name: str, options: ReadOptions | None = None) -> Field:
    """Read the picture at ``path``.

    Parameters
    ----------
    path : Path
        A PNG, JPEG, BMP, TIFF or WebP file under any name.
    slide, name : str
        What the field will be called.
    options : ReadOptions, optional

    Returns
    -------
    Field
        With (H, W, 3) uint8 sRGB pixels, the scale that the file credibly states, and a warning for everything a reader
        of the report should know: a page or frame chosen, bits rescaled, a colour profile converted, a wrong ending.

    Raises
    ------
    UnreadableImageError
        Whatever is wrong with the file, with one sentence of what and one of what to do.
    """
    options = options or ReadOptions()
    shown = printable(path)
    data = read_bytes(path, options.max_bytes)
    form = sniff(data)
    if form is None:
        if not data:
            raise UnreadableImageError(f"{shown} is empty (0 bytes).", "Copy or export the picture again.")
        raise UnreadableImageError(
            f"{shown} is no picture that can be read: it is {looks_like(data)}.", "Save it as PNG, JPEG or TIFF."
        )
    # A PNG has its checksums, a JPEG its end, behind which some cameras fill up the block.
    if form not in ("PNG", "JPEG") and (unfilled := unfilled_bytes(data)):
        raise UnreadableImageError(
            f"{shown} is cut short: its last {unfilled} bytes are empty, as a copy that was broken off leaves them.",
            "Copy or export the picture again; as PNG, if it really ends in black.",
        )
    warnings: list[str] = []
    promised = EXTENSIONS.get(path.suffix.lower())
    if promised != form:
        warnings.append(f"named {path.suffix or 'without an ending'!s} but the content is {form}; read as {form}")
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")  # the decoders' own; ours are in the field's warnings
            if form == "TIFF":
                rgb, um_per_px = _read_tiff(data, shown, options, warnings)
            else:
                header = read_header(data, shown)
                _refuse_large(shown, header.height_px, header.width_px, options)
                rgb, um_per_px = _decode(data, header, shown, warnings), header.um_per_px
    except UnreadableImageError:
        raise
    except MemoryError:
        raise UnreadableImageError(
            f"{shown} does not fit into this machine's memory.", "Export it smaller, or use a machine with more memory."
        ) from None
    except Exception as error:  # a decoder may raise anything on a broken file; whatever it is, it is this file's fault
        log.debug("reading %s", shown, exc_info=True)
        said = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UnreadableImageError(
            f"{shown} is damaged or not a {form} that can be read: {said}.", f"Copy or export the {form} again."
        ) from None
    return Field(slide, name, np.ascontiguousarray(rgb), um_per_px, warnings=tuple(warnings))


def printable(text: object) -> str:
    """Write a path or message on one line: control characters and undecodable bytes are escaped, the rest is kept."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for reading; a FIFO, device, folder or link without end is refused and never waited for.

    Raises
    ------
    UnreadableImageError
    """
    shown = printable(path)
    try:
        file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        raise UnreadableImageError(f"{shown} cannot be opened: {_reason(error)}.", _advice(error)) from None
    if not stat.S_ISREG(mode):
        file.close()
        raise UnreadableImageError(f"{shown} is {_kind(mode)}, not a file.", "Remove it from the input.")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a FIFO that nobody writes to would wait for ever, whatever was there a moment ago.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a regular file whole, if it is not larger than ``max_bytes``.

    Raises
    ------
    UnreadableImageError
    """
    shown = printable(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise UnreadableImageError(
                f"{shown} is {size / 1e6:.0f} MB, more than the {max_bytes / 1e6:.0f} MB that one picture may have.",
                "Export it smaller, or as a tiled pyramidal TIFF, which is read tile by tile.",
            )
        try:
            return file.read(size)  # and no more, should it still grow
        except OSError as error:
            raise UnreadableImageError(f"{shown} cannot be read: {_reason(error)}.", _advice(error)) from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else "its name is no valid path"


def _advice(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        or_close = ", or close it where it is open" if os.name == "nt" else ""
        return f"Give the user who runs cbctool permission to read it{or_close}."
    if isinstance(error, IsADirectoryError):
        return "Remove it from the input, or put pictures into it."
    return "Check the file, the link or the network share."


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _refuse_large(shown: str, height: int, width: int, options: ReadOptions) -> None:
    if height < 1 or width < 1:
        raise UnreadableImageError(f"{shown} states a size of {width} x {height} pixels.", "Export the picture again.")
    if height * width > options.max_pixels:
        raise UnreadableImageError(
            f"{shown} states {width} x {height} pixels, more than the {options.max_pixels / 1e6:.0f} million that one "
            "picture may have.",
            "Export it smaller, or as a tiled pyramidal TIFF, which is read tile by tile.",
        )


# ------------------------------------------------------------------------------------------- PNG, JPEG, BMP and WebP


def _decode(data: bytes, header: Header, shown: str, warnings: list[str]) -> NDArray[Any]:
    """Decode what :func:`read_header` has found whole and of a bearable size."""
    if header.frames > 1:
        warnings.append(f"an animation of {header.frames} frames; the first was read")
    rgb = _decode_as_stored(data, header, warnings)
    if rgb.shape[:2] != (header.height_px, header.width_px):
        raise UnreadableImageError(f"{shown} decodes to another size than it states.", "Export the picture again.")
    press = header.format == "JPEG" and header.components == 4  # its profile has done its work
    if header.format == "JPEG" and (press or (rgb[-1, -1] == 128).all()) and _ran_out(data, header, rgb):
        raise UnreadableImageError(
            f"{shown} is cut short: the JPEG ends before its last pixel.", "Copy or export the picture again."
        )
    if header.icc and not press:
        rgb = _to_srgb(rgb, header.icc, warnings)
    return _upright(rgb, header.orientation)


def _decode_as_stored(data: bytes, header: Header, warnings: list[str]) -> NDArray[Any]:
    if header.plain:
        # libjpeg-turbo and libpng without a detour over BGR: 0.75x (JPEG) and 0.73x (PNG) of cv2.imread's time.
        pixels = imagecodecs.jpeg8_decode(data) if header.format == "JPEG" else imagecodecs.png_decode(data)
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        return _grey_to_rgb(pixels, warnings) if pixels.ndim == 2 else pixels
    if header.format == "PNG" and header.bits == 16:
        pixels = imagecodecs.png_decode(data)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return _samples_to_rgb(pixels, 16, header.components in (2, 4), False, warnings)
    return _decode_pillow(data, header, warnings)


def _ran_out(data: bytes, header: Header, rgb: NDArray[Any]) -> bool:
    """Whether a JPEG's data end before its picture does.

    libjpeg then paints the rest in mid-grey without a word. It uses more data where it has run out, and only then.
    """
    more = data[: header.end] + bytes(range(128)) + data[header.end :]  # 0 first: the cut may follow a 0xFF
    return not np.array_equal(_decode_as_stored(more, header, []), rgb)


def _decode_pillow(data: bytes, header: Header, warnings: list[str]) -> NDArray[Any]:
    with Image.open(io.BytesIO(data), formats=[header.format.upper()]) as image:
        image.load()
        mode = image.mode
        if mode == "CMYK":
            warnings.append("stored as CMYK for print; converted to RGB")
            return _cmyk_to_rgb(image, header.icc, warnings)
        if mode in ("1", "L", "LA", "I", "I;16", "F"):
            warnings.append(_no_colour(1 if mode == "1" else 8))
        if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = np.asarray(image.convert("RGBA"))
            return _on_white(rgba[..., :3], rgba[..., 3], warnings)
        return np.asarray(image.convert("RGB"))


def _cmyk_to_rgb(image: Image.Image, icc: bytes, warnings: list[str]) -> NDArray[Any]:
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return np.asarray(converted)
        except (ImageCms.PyCMSError, OSError):
            warnings.append("its colour profile is damaged and was not used")
    return np.asarray(image.convert("RGB"))


# --------------------------------------------------------------------------------------------------------------- TIFF


def _read_tiff(data: bytes, shown: str, options: ReadOptions, warnings: list[str]) -> tuple[NDArray[Any], float | None]:
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        page = tif.pages.first
        # Not by tif.series, which follows a circular chain of pages for ever; len notices it.
        pages, pages_read = len(tif.pages), 1
        planes = pages >= 3 and page.samplesperpixel == 1 and _pages_are_channels(str(page.description or ""))
        wanted: list[Any] = [tif.pages.get(i, aspage=True) for i in range(3)] if planes else [page]
        for one in wanted:
            _check_tiff_page(one, shown, len(data), options)
            if _tags_stated(tif.tiff, one.offset, data) & _TELLING_TAGS - {tag.code for tag in one.tags}:
                raise UnreadableImageError(
                    f"{shown} is cut short: the TIFF ends before its description.", "Copy or export the picture again."
                )
        if planes:
            pixels, pages_read = np.stack([one.asarray() for one in wanted], axis=-1), 3
        else:
            pixels = _colour_last(page)
        if pages > pages_read:
            which = "page 1" if pages_read == 1 else "pages 1 to 3 (red, green, blue)"
            warnings.append(f"{which} of {pages} was read; the others were not")
        um_per_px = tiff_um_per_px(tif, page)
        return _tiff_rgb(page, pixels, planes, shown, warnings), um_per_px


_TELLING_TAGS = frozenset(
    {*range(256, 260), 262, 273, *range(277, 280), *range(282, 285), *range(320, 326), 338, 347, 34675}
)
"""Size, samples, strips and tiles, density, colours, profile. tifffile passes over a tag whose value lies behind the
file's end, and takes a picture without its bits per sample for black and white."""


def _tags_stated(tiff: Any, at: int, data: bytes) -> set[int]:
    """Codes of all tags in the directory at a byte, also of those without a value."""
    (count,) = struct.unpack_from(tiff.tagnoformat, data, at)
    first = at + tiff.tagnosize
    return {struct.unpack_from(f"{tiff.byteorder}H", data, first + i * tiff.tagsize)[0] for i in range(count)}


def _pages_are_channels(text: str) -> bool:
    """Tell whether OME-XML or ImageJ's text says that three pages are red, green and blue of one flat picture."""
    sizes = dict(re.findall(r'\bSize([CZT])\s*=\s*["\'](\d{1,9})["\']', text))
    if sizes:
        return (sizes.get("C"), sizes.get("Z", "1"), sizes.get("T", "1")) == ("3", "1", "1")
    return text.startswith("ImageJ=") and {"channels=3", "images=3"} <= set(text.split())


def _check_tiff_page(page: Any, shown: str, size: int, options: ReadOptions) -> None:
    """Hold a directory's claims against the file before anything is allocated for them."""
    _refuse_large(shown, page.imagelength, page.imagewidth, options)
    if page.imagedepth != 1 or page.samplesperpixel > 8 or page.dtype is None:
        raise UnreadableImageError(
            f"{shown} is not a flat picture of up to four colours.", "Export one field as 8-bit RGB TIFF or PNG."
        )
    if page.imagelength * page.imagewidth * page.samplesperpixel * page.dtype.itemsize > 6 * options.max_pixels:
        raise UnreadableImageError(f"{shown} is too large to be held in memory.", "Export it as 8-bit RGB.")
    # A tile larger than the picture is legal padding up to one tile; beyond that it is a bomb.
    tile = page.tilelength * page.tilewidth if page.is_tiled else 0
    if tile > max(4 * page.imagelength * page.imagewidth, 1 << 24):
        raise UnreadableImageError(f"{shown} states tiles larger than its picture.", "Export the picture again.")
    offsets, counts = page.dataoffsets, page.databytecounts
    # Some writers give one strip for all, and state a fraction of its rows; what is not compressed is then whole.
    stored = sum(counts) if page.compression == tifffile.COMPRESSION.NONE else 0
    if len(offsets) < math.prod(page.chunked) and stored < page.nbytes:
        raise UnreadableImageError(
            f"{shown} is damaged: {len(offsets)} of its {math.prod(page.chunked)} parts are there.",
            "Export the TIFF again.",
        )
    if len(offsets) != len(counts) or not offsets or min(counts, default=0) < 1 or min(offsets) < 8:
        raise UnreadableImageError(f"{shown} is damaged: parts of its picture are missing.", "Export the TIFF again.")
    if max(offset + count for offset, count in zip(offsets, counts, strict=True)) > size:
        raise UnreadableImageError(
            f"{shown} is cut short: the TIFF ends before its last pixel.", "Copy or export the picture again."
        )


def _colour_last(page: Any) -> NDArray[Any]:
    """Decode a page to (H, W, S), whatever its planar configuration."""
    pixels = np.asarray(page.asarray())
    axes = page.axes
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif axes == "YX":
        pixels = pixels[..., None]
    elif axes != "YXS":
        raise ValueError(f"axes {axes} are not those of a flat picture")
    return pixels


def _tiff_rgb(page: Any, pixels: NDArray[Any], planes: bool, shown: str, warnings: list[str]) -> NDArray[Any]:
    photometric = page.photometric
    names = tifffile.PHOTOMETRIC
    samples = pixels.shape[2]
    alpha = bool(page.extrasamples) and page.extrasamples[0] in (1, 2)
    colours = samples - len(page.extrasamples)
    if colours == 3 and len(page.extrasamples) == 1 and not alpha:
        warnings.append("a fourth channel of unstated meaning was left out")
    elif len(page.extrasamples) > alpha:
        colours = 0  # several stains or wavelengths, not a colour photo and its opacity
    if planes:
        colours, alpha = 3, False
    icc = page.tags.valueof(34675)
    icc = bytes(icc) if isinstance(icc, bytes | bytearray) else b""
    if photometric == names.PALETTE and page.colormap is not None:
        table = (np.asarray(page.colormap) >> 8).astype(np.uint8).T  # (entries, 3); TIFF stores them times 257
        rgb = table[np.minimum(pixels[..., 0], len(table) - 1)]
    elif photometric == names.SEPARATED and colours == 4:
        warnings.append("stored as CMYK for print; converted to RGB")
        ink = _to_uint8(pixels[..., :4], page.bitspersample, warnings)
        rgb = _cmyk_to_rgb(Image.fromarray(ink, "CMYK"), icc, warnings)
        icc = b""
    elif colours in (1, 3) and photometric in (
        names.MINISBLACK,
        names.MINISWHITE,
        names.RGB,
        names.YCBCR,
    ):
        inverted = photometric == names.MINISWHITE
        bits = page.bitspersample
        bits = max(bits) if isinstance(bits, tuple) else bits
        wanted = pixels[..., : colours + alpha]
        rgb = _samples_to_rgb(
            wanted, bits, alpha, inverted, warnings, premultiplied=alpha and page.extrasamples[0] == 1
        )
    else:
        raise UnreadableImageError(
            f"{shown} has {samples} channels ({getattr(photometric, 'name', photometric)}) and is no colour photo.",
            "Export one field as 8-bit RGB TIFF or PNG.",
        )
    if icc:
        rgb = _to_srgb(rgb, icc, warnings)
    orientation = page.tags.valueof(274)
    return _upright(rgb, orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1)


_UM_PER = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


def tiff_um_per_px(tif: Any, page: Any) -> float | None:
    """Read the scale from OME-XML, ImageJ's unit or the resolution tags, in that order; None unless credible."""
    text = str(page.description or "").replace("\\u00B5", "µ")
    if "PhysicalSizeX" in text:  # OME-XML, by pattern: no XML parser sees what a stranger wrote
        stated: dict[str, str] = dict(re.findall(r'\bPhysicalSize([XY](?:Unit)?)\s*=\s*["\']([^"\']{1,40})["\']', text))
        try:
            x = float(stated["X"]) * _UM_PER[stated.get("XUnit") or ""]
            y = float(stated.get("Y") or stated["X"]) * _UM_PER[stated.get("YUnit") or stated.get("XUnit") or ""]
            return credible_um_per_px(1 / x, 1 / y)
        except (KeyError, ValueError, ZeroDivisionError):
            return None
    density = [page.tags.valueof(tag) for tag in (282, 283)]
    if not all(isinstance(one, tuple) and len(one) == 2 and one[1] for one in density):
        return None
    x, y = (one[0] / one[1] for one in density)
    unit = re.search(r"^unit=(\S+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    um = _UM_PER.get(unit.group(1)) if unit else {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof(296, 2)))
    return credible_um_per_px(x / um, y / um) if um else None


# ----------------------------------------------------------------------------------------------------- samples to RGB


def _samples_to_rgb(
    pixels: NDArray[Any], bits: int, alpha: bool, inverted: bool, warnings: list[str], premultiplied: bool = False
) -> NDArray[Any]:
    """Turn (H, W, 1-4) samples of any type into (H, W, 3) uint8."""
    scaled = _to_uint8(pixels, bits, warnings)
    colours = scaled[..., :-1] if alpha else scaled
    if inverted:
        colours = 255 - colours
    if colours.shape[2] == 1:
        colours = _grey_to_rgb(colours[..., 0], warnings, bits)
    return _on_white(colours, scaled[..., -1], warnings, premultiplied) if alpha else colours


def _to_uint8(pixels: NDArray[Any], bits: Any, warnings: list[str]) -> NDArray[Any]:
    bits = max(bits) if isinstance(bits, tuple) else bits
    if pixels.dtype == np.uint8 and bits == 8:
        return pixels
    if pixels.dtype == np.bool_ or bits == 1:
        return (pixels != 0).astype(np.uint8) * 255
    if pixels.dtype.kind in "fc":
        return _float_to_uint8(pixels, warnings)
    if pixels.dtype.kind not in "iu":
        raise ValueError(f"samples of type {pixels.dtype} are no picture")
    if pixels.dtype.kind == "i":
        if pixels.size and pixels.min() < 0:
            raise ValueError("it has negative pixels")
        bits -= 1
    if bits < 8:
        return (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    # Cameras deliver 10, 12 or 14 bits in 16; a bright field fills its range, so the brightest pixel tells which.
    top = int(pixels.max()) if pixels.size else 0
    used = next((depth for depth in (8, 10, 12, 14, 16, 24) if depth <= bits and top < 2**depth), bits)
    warnings.append(
        f"{bits} bits per sample; scaled to 8"
        if used == bits
        else f"{used} of {bits} bits per sample are used; scaled to 8"
    )
    if used <= 16:
        table = ((np.arange(2**used, dtype=np.uint32) * 255 + (2**used - 1) // 2) // (2**used - 1)).astype(np.uint8)
        return table[pixels]
    return (pixels >> (used - 8)).astype(np.uint8)


def _float_to_uint8(pixels: NDArray[Any], warnings: list[str]) -> NDArray[Any]:
    if pixels.dtype.kind == "c":
        raise ValueError("it holds complex numbers")
    finite = np.isfinite(pixels)
    if not finite.any():
        raise ValueError("no pixel of it is a number")
    # Below a picture's own range there is nothing to see; the range is the narrowest customary one that holds it.
    top = float(pixels.max(where=finite, initial=0))
    full = next((limit for limit in (1.0, 255.0, 4095.0, 65535.0) if top <= limit), top)
    if top <= 0:
        full = 1.0
    missing = int(finite.size - np.count_nonzero(finite))
    warnings.append(f"floating point; scaled to 8 bits from 0 to {full:g}")
    if missing:
        warnings.append(f"{missing} samples are not a number; shown white")
    scaled = np.where(finite, pixels, full) * (255.0 / full)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _no_colour(bits: int) -> str:
    words = "black and white only" if bits == 1 else "grey, without the colours of the stain"
    return f"{words}: its cells cannot be told apart reliably"


def _grey_to_rgb(grey: NDArray[Any], warnings: list[str], bits: int = 8) -> NDArray[Any]:
    warnings.append(_no_colour(bits))
    return np.repeat(grey[..., None], 3, axis=2)


def _on_white(rgb: NDArray[Any], alpha: NDArray[Any], warnings: list[str], premultiplied: bool = False) -> NDArray[Any]:
    """Composite on white, as a viewer with a white page shows it."""
    if alpha.min(initial=255) == 255:
        return rgb
    warnings.append("partly transparent; shown on white")
    opacity = alpha[..., None].astype(np.uint16)
    ink = rgb.astype(np.uint16) * (255 if premultiplied else opacity)
    return np.minimum((ink + (255 - opacity) * 255 + 127) // 255, 255).astype(np.uint8)


def _upright(rgb: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo EXIF's orientation (1-8; TIFF 6.0 tag 274: where the stored first row and column lie when seen upright)."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _to_srgb(rgb: NDArray[Any], icc: bytes, warnings: list[str]) -> NDArray[Any]:
    try:
        found = _srgb_transform(icc)
    except (ImageCms.PyCMSError, OSError, ValueError):
        warnings.append("its colour profile is damaged or not for RGB and was not used")
        return rgb
    if found is None:
        return rgb
    transform, name = found
    warnings.append(f"colour profile {name!r} converted to sRGB")
    return np.asarray(transform.apply(Image.fromarray(rgb, "RGB")))


@functools.lru_cache(maxsize=8)
def _srgb_transform(icc: bytes) -> tuple[Any, str] | None:
    """Build the transform to sRGB, or None where the profile moves no colour by more than 2 of 255 (it is sRGB)."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(27, 27, 3)
    moved = np.asarray(transform.apply(Image.fromarray(cube, "RGB"))).astype(int) - cube
    if np.abs(moved).max() <= 2:
        return None
    return transform, printable(ImageCms.getProfileDescription(profile).strip())[:60] or "unnamed"
