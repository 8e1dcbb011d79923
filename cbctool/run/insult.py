"""Digital insults: what another camera, stain, magnification, focus or codec would have done to the same picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.errors import UsageError
from cbctool.imaging.background import estimate_background
from cbctool.imaging.segment import SegmentOptions
from cbctool.imaging.stain import DENSITY_UNIT, optical_density, red_cell_colour, stain_densities


class InsultKind(StrEnum):
    """What is done to a picture."""

    GAINS = "gains"  # a factor per channel R, G, B; what passes full scale is lost, as in a camera
    GAMMA = "gamma"
    STAIN = "stain"  # a factor on the optical density per channel R, G, B
    RESTAIN = "restain"  # other colours of red cells and of nuclei, R, G, B of each on white ground
    RESIZE = "resize"
    BLUR = "blur"  # Gaussian, sigma in pixels of the working scale of segmentation
    JPEG = "jpeg"  # quality
    LIGHT = "light"  # share lost in the corner, share of tint, amplitude and number of a flickering lamp's bands
    CAMERA = "camera"  # what a camera's own program does: share clipped, saturation, sharpening, noise, quality


EXTREMES: Mapping[InsultKind, tuple[tuple[float, ...], ...]] = {
    InsultKind.GAINS: (
        (1.3, 1, 0.7),
        (0.7, 1, 1.3),
        (0.7, 1.3, 0.7),
        (1.3, 0.7, 1.3),
        (0.7, 0.7, 0.7),
        (1.3, 1.3, 1.3),
    ),
    InsultKind.GAMMA: ((0.8,), (1.25,)),
    # pale, dark, rich in azure, rich in eosin
    InsultKind.STAIN: ((0.5, 0.5, 0.5), (1.5, 1.5, 1.5), (1.35, 1.05, 0.9), (0.8, 1.2, 1.1)),
    # grey; brown, without eosin; olive; pink; blue, of an alkaline buffer; faded
    InsultKind.RESTAIN: (
        (196, 196, 200, 100, 70, 160),
        (205, 175, 140, 105, 60, 150),
        (190, 185, 160, 115, 75, 125),
        (235, 165, 185, 150, 70, 170),
        (195, 205, 222, 60, 65, 150),
        (225, 205, 185, 165, 130, 175),
    ),
    InsultKind.RESIZE: ((0.5,), (2.0,)),
    InsultKind.BLUR: ((1.0,),),
    InsultKind.JPEG: ((50.0,),),
    # vignetting, a lens or lamp that shades colours, the flicker of a lamp, all of them but mildly
    InsultKind.LIGHT: ((0.6, 0, 0, 0), (0, 0.2, 0, 0), (0, 0, 0.06, 9), (0.4, 0.1, 0.03, 4)),
    # auto levels, saturated colours, halos and smear of a phone, noise of a dark room, all of them but mildly
    InsultKind.CAMERA: (
        (0.01, 1, 0, 0, 95),
        (0, 1.7, 0, 0, 95),
        (0, 1, 1.5, 0, 75),
        (0, 1, 0, 12, 50),
        (0.002, 1.3, 0.7, 5, 75),
    ),
}
"""The ends of what the project promises to stand: casts and stains of every hue, dark and bright, half and double,
uneven light, and the programs of cameras."""

_HALO_PX = 2.0
"""Radius (sigma) of a phone's sharpening, pixels of its picture."""

_WHITE_PERCENTILE = 95.0


@dataclass(frozen=True)
class Insult:
    """One kind of insult and the settings that the fields take in turn."""

    kind: InsultKind
    settings: tuple[tuple[float, ...], ...]

    def setting(self, position: int) -> tuple[float, ...]:
        """The setting of the field at this position in the list."""
        return self.settings[position % len(self.settings)]


def parse_insult(text: str) -> Insult:
    """Read ``NAME`` (all of :data:`EXTREMES`, the fields taking them in turn) or ``NAME:VALUE[,VALUE ...]``.

    Raises
    ------
    UsageError
        For a name or value that is none.
    """
    name, separator, values = text.partition(":")
    if name not in {k.value for k in InsultKind}:
        raise UsageError(f"--insult {text!r} is unknown.", f"Use one of: {', '.join(InsultKind)}.")
    kind = InsultKind(name)
    if not separator:
        return Insult(kind, EXTREMES[kind])
    try:
        setting = tuple(float(v) for v in values.split(","))
    except ValueError:
        setting = ()
    least = 0.0 if kind in (InsultKind.CAMERA, InsultKind.LIGHT) else 1e-9
    most = {InsultKind.RESTAIN: 255.0, InsultKind.LIGHT: 100.0}.get(kind, np.inf)
    if len(setting) != len(EXTREMES[kind][0]) or not all(least <= v <= most for v in setting):
        example = ",".join(f"{v:g}" for v in EXTREMES[kind][0])
        raise UsageError(f"--insult {text!r}: its value cannot be used.", f"Write for example {kind}:{example}.")
    return Insult(kind, (setting,))


def apply_insult(
    rgb: NDArray[Any], kind: InsultKind, setting: tuple[float, ...], working_px: float = 1.0
) -> NDArray[Any]:
    """The picture after the insult.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
    kind : InsultKind
    setting : tuple of float
        One value, or three factors (R, G, B). Of a camera: share of the pixels clipped at either end of each channel
        ("auto levels", 0 for none), factor on the saturation, amount of sharpening after the noise was smeared away,
        sigma of the noise in grey levels, quality of the JPEG. Of light: share lost in the corner farthest from a
        middle that lies aside, share of red lost towards the right and of blue towards the left, amplitude of the bands
        that a flickering lamp leaves, and their number from top to bottom. Of restaining: colour of red cells, colour
        of nuclei.
    working_px : float
        Pixels of this picture per pixel of the working scale; a blur asks for it, and restaining.

    Returns
    -------
    (H, W, 3) uint8 array
        Of another size after ``resize``.

    Notes
    -----
    ``restain`` takes the picture apart into what its red cells and its nuclei absorb (Ruifrok & Johnston 2001) and puts
    it together in other colours; of what is neither, as granules, half is left. Where it shows no nuclei, all is red
    cells.
    """
    value = setting[0]
    if kind is InsultKind.GAINS:
        return np.clip(np.rint(rgb * np.asarray(setting)), 0, 255).astype(np.uint8)
    if kind is InsultKind.STAIN:
        # the light end of each channel is the background, which has no density
        white = np.percentile(rgb.reshape(-1, 3), _WHITE_PERCENTILE, axis=0)
        levels = white * (np.arange(256)[:, np.newaxis] / np.maximum(white, 1)) ** np.asarray(setting)
        return np.asarray(cv2.LUT(rgb, np.clip(np.rint(levels), 0, 255).astype(np.uint8)[np.newaxis]))
    if kind is InsultKind.RESTAIN:
        return _restained(rgb, np.array(setting[:3]), np.array(setting[3:]), working_px)
    if kind is InsultKind.LIGHT:
        return _in_uneven_light(rgb, *setting)
    if kind is InsultKind.GAMMA:
        table = np.rint(255 * (np.arange(256) / 255) ** value).astype(np.uint8)
        return np.asarray(cv2.LUT(rgb, table))
    if kind is InsultKind.RESIZE:
        size = (max(1, round(rgb.shape[1] * value)), max(1, round(rgb.shape[0] * value)))
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if value < 1 else cv2.INTER_CUBIC))
    if kind is InsultKind.BLUR:
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), value * working_px))
    return _as_jpeg(_through_camera(rgb, *setting[:-1]) if kind is InsultKind.CAMERA else rgb, setting[-1])


def _restained(rgb: NDArray[Any], red_cell: NDArray[Any], nucleus: NDArray[Any], working_px: float) -> NDArray[Any]:
    """The picture with its usual red cell and its usual nucleus in the given colours (R, G, B)."""
    height, width = rgb.shape[:2]
    background = estimate_background(rgb)
    flat = background.apply(rgb)
    levels = optical_density(flat)
    usual = SegmentOptions()
    own = red_cell_colour(levels, usual.min_od, usual.working_um_per_px / working_px)
    red = own.level / own.green_per_red
    axes = np.array([[red, own.level, red / own.red_per_blue]]) / DENSITY_UNIT
    new = -np.log10(red_cell / 255.0)[np.newaxis]
    azure = stain_densities(levels, own)[0]
    absorbs = azure[azure > usual.min_od * DENSITY_UNIT]
    if len(absorbs):
        deep = azure > cv2.threshold(absorbs, 0, 255, cv2.THRESH_OTSU)[0]
        if deep.any() and azure[deep].mean() > _NUCLEAR_AZURE * own.level:
            axes = np.vstack([axes, np.median(levels[deep], axis=0) / DENSITY_UNIT])
            new = np.vstack([new, -np.log10(nucleus / 255.0)])
    density = -np.log10((flat.reshape(-1, 3) + 1.0) / 256.0)  # (pixels, 3)
    amounts = density @ np.linalg.pinv(axes)
    for stain in (0, 1) if len(axes) == 2 else ():
        none = amounts[:, stain] < 0  # no stain gives light: what is left is the other's
        other = axes[1 - stain]
        amounts[none, 1 - stain] = density[none] @ other / (other @ other)
        amounts[none, stain] = 0.0
    rest = density - amounts @ axes
    light = cv2.resize(background.levels, (width, height)).reshape(-1, 3)
    restained = light * 10.0 ** -(amounts @ new + 0.5 * rest)
    return np.clip(np.rint(restained), 0, 255).astype(np.uint8).reshape(rgb.shape)


_NUCLEAR_AZURE = 2.0
"""Azure density of nuclei over the density of red cells, at least: 2.8 and more in BCCD, PBC and ALL-IDB1."""


def _in_uneven_light(rgb: NDArray[Any], vignetting: float, tint: float, flicker: float, bands: float) -> NDArray[Any]:
    """The picture through a lens that darkens its corners, under a lamp that stands askew and flickers; uint8."""
    height, width = rgb.shape[:2]
    down = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, np.newaxis]
    right = ((np.arange(width, dtype=np.float32) + 0.5) / width)[np.newaxis]
    across, up = 0.6 * width, 0.4 * height  # the middle of the light
    distance = ((right * width - across) ** 2 + (down * height - up) ** 2) / (across**2 + (height - up) ** 2)
    light = (1.0 - vignetting * distance) * (1.0 - flicker + flicker * np.sin(2.0 * np.pi * bands * down))
    shades = np.stack([light * (1.0 - tint * right), light, light * (1.0 - tint + tint * right)], axis=-1)
    return np.clip(np.rint(rgb * shades), 0, 255).astype(np.uint8)


def _as_jpeg(rgb: NDArray[Any], quality: float) -> NDArray[Any]:
    """The picture written as JPEG and read again; colours at half resolution, as OpenCV and cameras write them."""
    code = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    bgr = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(bgr[..., ::-1])


def _through_camera(
    rgb: NDArray[Any], clipped: float, saturation: float, sharpening: float, noise: float
) -> NDArray[Any]:
    """Noise of the sensor, then denoising and sharpening, colours and levels of the camera's program; uint8."""
    picture = np.ascontiguousarray(rgb)
    if noise:
        grain = np.random.default_rng(0).normal(0.0, noise, rgb.shape)
        picture = np.clip(np.rint(picture + grain), 0, 255).astype(np.uint8)
    if sharpening:
        smooth = cv2.bilateralFilter(picture, 7, 25, 3)
        halo = cv2.GaussianBlur(smooth, (0, 0), _HALO_PX)
        picture = np.asarray(cv2.addWeighted(smooth, 1.0 + sharpening, halo, -sharpening, 0.0))
    if saturation != 1:  # hue and value stay, as in HSV
        value = picture.max(axis=2, keepdims=True).astype(float)
        most = value / np.maximum(value - picture.min(axis=2, keepdims=True), 1)
        picture = np.rint(value - np.minimum(saturation, most) * (value - picture)).astype(np.uint8)
    if clipped:
        low, high = np.percentile(picture.reshape(-1, 3), [100 * clipped, 100 * (1 - clipped)], axis=0)
        picture = np.clip(np.rint((picture - low) * (255.0 / np.maximum(high - low, 1))), 0, 255).astype(np.uint8)
    return picture
