"""One field of view, from decoded pixels to what the rest of the program needs of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field

import cv2
import numpy as np

from cbctool.imaging.background import Background, estimate_background
from cbctool.imaging.crop import crop_windows, thumbnail_jpegs
from cbctool.imaging.measure import measure_cells
from cbctool.imaging.pyramid import Pyramid
from cbctool.imaging.quality import QualityOptions, assess_field
from cbctool.imaging.scale import estimate_scale
from cbctool.imaging.scale_choice import resolve_scale
from cbctool.imaging.segment import Segmentation, SegmentOptions, segment, working_copy
from cbctool.records import CellKind, Field, FieldResult, FieldSummary, Scale, ScaleSource

_PREVIEW_PX = 1600
_PREVIEW_QUALITY = 85


@dataclass(frozen=True)
class ImagingOptions:
    """Options of the whole room, one part per stage.

    ``white_balanced`` crops have their background at white, as most weights were taught them.
    """

    white_balanced: bool = True
    segment: SegmentOptions = dataclass_field(default_factory=SegmentOptions)
    quality: QualityOptions = dataclass_field(default_factory=QualityOptions)


_USUAL = ImagingOptions()


def analyse_field(
    field: Field,
    options: ImagingOptions | None = None,
    given_um_per_px: float | None = None,
    slide_scale: Scale | None = None,
) -> FieldResult:
    """Calibrate, segment, measure and crop one field.

    Parameters
    ----------
    field : Field
    options : ImagingOptions, optional
    given_um_per_px : float, optional
        Scale stated by the user; it overrides everything.
    slide_scale : Scale, optional
        Scale of the slide's other fields, for a field that has too few single red cells of its own.

    Returns
    -------
    FieldResult
        Positions are pixels of the field, without its ``row_px``/``col_px`` offset in a whole-slide file.

    Raises
    ------
    CalibrationError
        If there is no scale.

    Notes
    -----
    Working memory is in proportion to the area of blood: 11.2 bytes per pixel of a field of 0.12 um/px, beside the
    field itself (growth of the largest resident size from 2 to 18 megapixels).
    """
    options = options or _USUAL
    seconds: dict[str, float] = {}
    clock = _Stopwatch(seconds)
    height, width = field.rgb.shape[:2]

    pyramid = Pyramid(field.rgb)
    background = estimate_background(field.rgb)
    scale, warnings = _scale(field, pyramid, background, given_um_per_px, slide_scale)
    clock.lap("calibrate")

    segmentation = _segment(pyramid, background, scale.um_per_px, options.segment)
    outside = background.surround_small
    clock.lap("segment")

    quality = assess_field(
        field.rgb,
        background.white_level,
        segmentation.density,
        segmentation.um_per_px,
        segmentation.nuclei,
        segmentation.cell_labels > 0,
        outside,
        options.quality,
    )
    clock.lap("quality")

    rim = background.surround(*segmentation.azure.shape) if background.has_surround else None
    cells = measure_cells(segmentation, height, width, rim)
    clock.lap("measure")

    chosen = [i for i, cell in enumerate(cells) if cell.kind in (CellKind.NUCLEATED, CellKind.PLATELET)]
    centres = np.array([(cells[i].row_px, cells[i].col_px) for i in chosen]).reshape(-1, 2)
    crops = crop_windows(pyramid, centres, scale.um_per_px, background if options.white_balanced else None)
    nucleated = [cells[i].kind is CellKind.NUCLEATED for i in chosen]
    pictures = iter(thumbnail_jpegs(pyramid, centres[np.array(nucleated, bool)], scale.um_per_px))
    thumbnails = tuple(next(pictures) if is_nucleated else b"" for is_nucleated in nucleated)
    clock.lap("crop")

    preview, preview_scale = _preview(pyramid)
    clock.lap("preview")
    if segmentation.colourless:
        warnings = (*warnings, f"{field.name}: a grey picture; cells are told by darkness alone, calls are doubtful.")
    if background.is_clipped(1) and background.is_clipped(2) and scale.source is ScaleSource.RED_CELLS:
        told = f"{field.name}: overexposed, its background is at full scale; red cells lack their palest parts, and the"
        warnings = (*warnings, f"{told} scale from them is doubtful. Pass --um-per-px.")
    summary = FieldSummary(
        name=field.name,
        height_px=height,
        width_px=width,
        scale=scale,
        quality=quality,
        area_mm2=height * width * float(1.0 - outside.mean()) * scale.um_per_px**2 / 1e6,
        row_px=field.row_px,
        col_px=field.col_px,
        preview_jpeg=preview,
        preview_scale=preview_scale,
        warnings=(*field.warnings, *warnings),
    )
    return FieldResult(summary, cells, crops, np.array(chosen, dtype=np.int64), thumbnails, seconds)


class _Stopwatch:
    """Adds the time since the last lap to a mapping."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] = now - self._last
        self._last = now


def _scale(
    field: Field,
    pyramid: Pyramid,
    background: Background,
    given: float | None,
    slide_scale: Scale | None,
) -> tuple[Scale, tuple[str, ...]]:
    """The field's scale by order of trust, and what is to be said about it."""
    expected = given or field.um_per_px or (slide_scale.um_per_px if slide_scale else None)
    red_cells = estimate_scale(pyramid, background=background, near_um_per_px=expected)
    return resolve_scale(given, field.um_per_px, red_cells, slide_scale, field.name)


def _segment(pyramid: Pyramid, background: Background, um_per_px: float, options: SegmentOptions) -> Segmentation:
    """Segment a field of which only the working copy is normalised."""
    level, _, zoom = pyramid.at(um_per_px / options.working_um_per_px)
    # no name for the copy, so that it can go as soon as it is not needed any more
    found = segment(
        background.apply(working_copy(level, um_per_px / zoom, options.working_um_per_px)),
        options.working_um_per_px,
        options,
        background.is_clipped(2),
    )
    height, width = found.azure.shape
    per_row, per_col = pyramid.rgb.shape[0] / height, pyramid.rgb.shape[1] / width
    return replace(found, um_per_px=um_per_px * (per_row * per_col) ** 0.5, px_per_row=per_row, px_per_col=per_col)


def _preview(pyramid: Pyramid) -> tuple[bytes, float]:
    """The field as JPEG, reduced by a whole number, which is several times faster than by any other."""
    rgb = pyramid.rgb
    factor = min(-(-max(rgb.shape[:2]) // _PREVIEW_PX), *rgb.shape[:2])
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    small = rgb
    if factor == 2:
        small = pyramid.level(1)
    elif factor > 1:
        small = cv2.resize(rgb[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
    blue_first = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, _PREVIEW_QUALITY])
    return encoded[1].tobytes(), 1.0 / factor
