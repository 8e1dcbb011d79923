"""What dyes, light and camera make of a smear: stain vectors and looks.

A drawn cell is four maps of dye amount; a look turns dye into optical density (Beer-Lambert: densities add where cells
overlap) and density into the picture of one microscope and camera.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

DYES: tuple[str, ...] = ("azure", "eosin", "methylene_blue", "haemoglobin")
"""Order of the dye channels of a drawn cell.

One unit of a dye is what a condensed neutrophil nucleus (azure), an eosinophil's granules (eosin), the cytoplasm of a
plasmacytoid cell (methylene blue) or the thick rim of a red cell (haemoglobin, with the eosin that it binds) holds.
"""


@dataclass(frozen=True)
class Look:
    """One laboratory's stain, light and camera.

    Attributes
    ----------
    azure, eosin, methylene_blue, haemoglobin : tuple of float
        Decadic optical density in R, G, B of one unit of each dye. The defaults are medians over PBC frames
        (60 per class; CellaVision DM96, May-Gruenwald-Giemsa): neutrophil nuclei (0.52, 0.82, 0.19), eosinophil
        cytoplasm (0.15, 0.33, 0.16), red-cell rims (0.108, 0.159, 0.095).
    background : tuple of float
        Grey levels (R, G, B) where there is no cell: the cast of lamp and white balance.
    vignette, tilt : float
        Share of light lost in the corners, and from one side to the other.
    blur_um : float
        Sigma of the optics' point spread, micrometres; a 100x/1.3 lens in focus has about 0.1.
    sharpen : float
        Strength of the camera's unsharp mask; 0 is none.
    noise : float
        Standard deviation of the sensor noise, grey levels.
    jpeg_quality : int or None
        The camera's JPEG; None is uncompressed.
    """

    azure: tuple[float, float, float] = (0.54, 0.84, 0.205)
    eosin: tuple[float, float, float] = (0.115, 0.36, 0.18)
    methylene_blue: tuple[float, float, float] = (0.50, 0.45, 0.10)
    haemoglobin: tuple[float, float, float] = (0.108, 0.159, 0.100)
    background: tuple[float, float, float] = (245.0, 224.0, 202.0)
    vignette: float = 0.04
    tilt: float = 0.02
    blur_um: float = 0.12
    sharpen: float = 0.0
    noise: float = 1.6
    jpeg_quality: int | None = None

    def vectors(self) -> NDArray[np.float32]:
        """Return the (4, 3) matrix of densities, rows in ``DYES`` order."""
        return np.array([self.azure, self.eosin, self.methylene_blue, self.haemoglobin], np.float32)


LOOKS: dict[str, Look] = {
    # The DM96's peach field with its sharpened edges.
    "peach": Look(sharpen=0.5),
    # The DM96's other white balance: a cool field, bluer nuclei.
    "cool": Look(background=(214.0, 212.0, 226.0), azure=(0.50, 0.76, 0.16), haemoglobin=(0.12, 0.16, 0.085)),
    # A photo through an eyepiece adapter in the manner of BCCD: green-grey field, brick cells, blue nuclei.
    "green": Look(
        background=(206.0, 218.0, 204.0),
        azure=(0.62, 0.66, 0.12),
        eosin=(0.10, 0.38, 0.22),
        methylene_blue=(0.52, 0.40, 0.08),
        haemoglobin=(0.085, 0.20, 0.19),
        vignette=0.10,
        blur_um=0.22,
        noise=2.5,
    ),
    # A dim warm lamp without white balance in the manner of ALL-IDB1.
    "olive": Look(
        background=(176.0, 172.0, 140.0),
        azure=(0.52, 0.86, 0.22),
        haemoglobin=(0.085, 0.21, 0.19),
        vignette=0.12,
        tilt=0.05,
        blur_um=0.18,
        noise=2.2,
    ),
}
"""Looks by name."""


def vary_look(look: Look, rng: np.random.Generator) -> Look:
    """Return ``look`` as the same laboratory has it on another day.

    Each dye takes 0.9 to 1.1 of its strength, each channel of the background moves by up to 3 %.
    """
    azure, eosin, blue, haemoglobin = (_scaled(getattr(look, dye), float(rng.uniform(0.9, 1.1))) for dye in DYES)
    r, g, b = (float(np.clip(v * rng.uniform(0.97, 1.03), 0, 250)) for v in look.background)
    return replace(look, azure=azure, eosin=eosin, methylene_blue=blue, haemoglobin=haemoglobin, background=(r, g, b))


def _scaled(vector: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    r, g, b = vector
    return r * factor, g * factor, b * factor
