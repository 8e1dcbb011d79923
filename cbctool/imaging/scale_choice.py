"""Which scale a field goes by: what was given, what its file states, its own red cells, or its slide's other fields."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cbctool.errors import CalibrationError
from cbctool.imaging.headers import CREDIBLE_UM_PER_PX
from cbctool.records import Scale, ScaleSource

if TYPE_CHECKING:
    from cbctool.imaging.scale import RedCellScale


@dataclass(frozen=True)
class ScaleOptions:
    """When a scale is believed.

    Attributes
    ----------
    min_um_per_px, max_um_per_px : float
        Metadata outside are those of a screen or a printer (72-300 dpi is 85-350 um/px), not of a microscope: a 100x
        objective and a small pixel give 0.02 um/px, a 10x objective about 1.
    disagreement : float
        Metadata and red cells that differ by more than this share are both reported, with a warning. Microcytic and
        macrocytic blood stays within 10 % of 7.5 um; a wrong objective is off by 1.6 or more.
    uncertain : float
        A field whose own estimate is less certain than this takes its slide's, if that is more certain.
    play : float
        A scale that differs by less is not worth segmenting a field again: red cells of one person vary as much.
    agreement : float
        Scatter of a slide's fields over their own standard error from which they were not taken alike, so that their
        number makes nothing more certain.
    systematic : float
        What no number of red cells makes more certain, as in :class:`cbctool.imaging.scale.RedCellOptions`.
    """

    min_um_per_px: float = CREDIBLE_UM_PER_PX[0]
    max_um_per_px: float = CREDIBLE_UM_PER_PX[1]
    disagreement: float = 0.20
    uncertain: float = 0.06
    play: float = 0.04
    agreement: float = 1.5
    systematic: float = 0.03


def pool_scales(scales: Sequence[Scale], options: ScaleOptions | None = None) -> Scale | None:
    """The scale of fields of one slide: the median of theirs; None where there are none.

    Fields that agree as well as their uncertainties say were taken alike, and their median is the more certain the more
    they are (down to what red cells of one person tell at all); where they do not agree it is as uncertain as they
    scatter.
    """
    if not scales:
        return None
    options = options or ScaleOptions()
    values = [scale.um_per_px for scale in scales]
    middle = statistics.median(values)
    # 1.4826: median absolute deviation to standard deviation, 1.2533: to the standard error of a median
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values) / middle
    each = statistics.median(scale.uncertainty for scale in scales)
    uncertainty = max(spread, each)
    if spread <= options.agreement * each:
        uncertainty = min(each, math.hypot(1.2533 * uncertainty / math.sqrt(len(values)), options.systematic))
    return Scale(middle, ScaleSource.SLIDE, uncertainty, sum(scale.red_cells for scale in scales))


def scales_by_slide(
    fields: Mapping[int, tuple[Scale | None, tuple[int, int]]], options: ScaleOptions | None = None
) -> dict[int, Scale]:
    """Which fields of a slide are to be analysed again with a scale of the slide, and with which.

    Parameters
    ----------
    fields : mapping of int to (Scale or None, (height, width))
        By index; None where a field has no scale.
    options : ScaleOptions, optional

    Returns
    -------
    dict of int to Scale
        Fields without a scale take that of all others. Those that went by their own red cells take that of the fields
        of their size, which one camera took, where it is better and differs by more than ``play``.
    """
    options = options or ScaleOptions()
    known = {index: (scale, size) for index, (scale, size) in fields.items() if scale is not None}
    of_all = pool_scales([scale for scale, _ in known.values()], options)
    if of_all is None:
        return {}
    chosen = {index: of_all for index, (scale, _) in fields.items() if scale is None}
    for size in {size for _, size in known.values()}:
        alike = {index: scale for index, (scale, its) in known.items() if its == size}
        pooled = pool_scales(list(alike.values()), options)
        for index, scale in alike.items():
            if pooled is None or scale.source is not ScaleSource.RED_CELLS:
                continue
            is_near = abs(math.log(scale.um_per_px / pooled.um_per_px)) < options.play
            if not is_near and _is_better(pooled, scale.uncertainty, options):
                chosen[index] = pooled
    return chosen


def _is_better(slide: Scale, uncertainty: float, options: ScaleOptions) -> bool:
    """Whether a slide's scale tells a field's better than its own red cells do, with their uncertainty."""
    return uncertainty > options.uncertain and slide.uncertainty < uncertainty


def resolve_scale(
    given: float | None,
    metadata: float | None,
    red_cells: RedCellScale | None,
    slide: Scale | None = None,
    name: str = "field",
    options: ScaleOptions | None = None,
) -> tuple[Scale, tuple[str, ...]]:
    """Choose a field's scale: what the user gave, else credible metadata, else its red cells, else its slide's scale.

    The slide's goes before that of few red cells where it is more certain (see :class:`ScaleOptions`).

    Parameters
    ----------
    given : float or None
        um/px from the command line or the slide sheet.
    metadata : float or None
        um/px that the file states.
    red_cells : RedCellScale or None
        Estimate from the field's own red cells.
    slide : Scale or None
        Scale of the slide's other fields.
    name : str
        Name of the field, for messages.
    options : ScaleOptions, optional

    Returns
    -------
    scale : Scale
    warnings : tuple of str
        What the reader of the report should know.

    Raises
    ------
    CalibrationError
        If there is no scale.
    """
    options = options or ScaleOptions()
    if given is not None and not (math.isfinite(given) and given > 0):
        raise ValueError(f"um_per_px must be positive, got {given}")
    cells, own = (red_cells.n_single_red_cells, red_cells.um_per_px) if red_cells else (0, math.nan)
    warnings: list[str] = []
    if metadata is not None and not options.min_um_per_px <= metadata <= options.max_um_per_px:
        warnings.append(f"{name}: the file states {metadata:g} um/px, which no microscope gives; it is not used.")
        metadata = None
    stated, source = (given, ScaleSource.GIVEN) if given is not None else (metadata, ScaleSource.METADATA)
    if stated is not None:
        if (
            red_cells
            and abs(math.log(stated / own)) > math.log1p(options.disagreement) + red_cells.relative_uncertainty
        ):
            said = "given" if source is ScaleSource.GIVEN else "stated by the file"
            warnings.append(
                f"{name}: the scale {said}, {stated:.4g} um/px, and the {own:.4g} um/px from {cells} single red cells "
                f"differ by {100 * abs(stated / own - 1):.0f} %. Check which objective was used."
            )
        return Scale(stated, source, 0.0, cells, own), tuple(warnings)
    if red_cells and not (slide and _is_better(slide, red_cells.relative_uncertainty, options)):
        return Scale(own, ScaleSource.RED_CELLS, red_cells.relative_uncertainty, cells, own), tuple(warnings)
    if slide:
        return Scale(slide.um_per_px, ScaleSource.SLIDE, slide.uncertainty, cells, own), tuple(warnings)
    raise CalibrationError(
        f"{name}: no physical scale: none was given, the file states no credible one, and there are too few single "
        "red cells to measure it.",
        "Pass --um-per-px (0.06-0.25 for 100x to 40x objectives) or add um_per_px to the slide sheet.",
    )
