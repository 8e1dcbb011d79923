"""The halved copies of a field that all stages share."""

from __future__ import annotations

from typing import Any

import cv2
from numpy.typing import NDArray

Array = NDArray[Any]


def halved(rgb: Array, zoom: float) -> tuple[Array, float]:
    """Halve a picture as often as a zoom allows: the mean of 2 x 2 pixels is the one average that is fast.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
    zoom : float
        Pixels wanted per pixel.

    Returns
    -------
    rgb : (h, w, 3) uint8 array
        An odd last row or column is left out.
    zoom : float
        Pixels wanted per pixel of that, above 0.5.
    """
    while zoom <= 0.5 and min(rgb.shape[:2]) > 1:
        height, width = rgb.shape[0] // 2, rgb.shape[1] // 2
        rgb = cv2.resize(rgb[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        zoom *= 2
    return rgb, zoom


class Pyramid:
    """A field at full size and halved once, twice ...: each made when it is first asked for, and shared by the stages.

    Parameters
    ----------
    rgb : (H, W, 3) uint8 array
    """

    def __init__(self, rgb: Array) -> None:
        self.levels: list[Array] = [rgb]

    @classmethod
    def of(cls, rgb: Array | Pyramid) -> Pyramid:
        """The pyramid of a picture that may be one already."""
        return rgb if isinstance(rgb, Pyramid) else cls(rgb)

    @property
    def rgb(self) -> Array:
        """The field at full size, (H, W, 3)."""
        return self.levels[0]

    def level(self, number: int) -> Array:
        """The field halved so many times; an odd last row or column is left out."""
        while len(self.levels) <= number:
            self.levels.append(halved(self.levels[-1], 0.5)[0])
        return self.levels[number]

    def at(self, zoom: float) -> tuple[Array, float, float]:
        """The smallest level with more pixels than a zoom needs, the rest of the zoom, and the level's own."""
        shorter = min(self.rgb.shape[:2])
        number = 0
        while zoom <= 0.5 and shorter >> number > 1:
            number, zoom = number + 1, zoom * 2
        return self.level(number), zoom, 0.5**number
