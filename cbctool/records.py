"""The vocabulary: every record that passes between the rooms. Read this first.

    slides/ -> Slide -> Field -> labels -> Cells + crops -> Predictions -> Differential -> Flags -> SlideResult -> files

All records are frozen. Units are in the names: ``um_per_px`` micrometres per pixel of the input file, ``area_um2``
square micrometres, ``row_px``/``col_px`` pixels of the input file with origin top left and row down. Boxes are
half-open. A measure that does not apply is NaN. This module imports nothing of ours and nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

RED_CELL_UM = 7.5
"""Diameter of a red cell on a dry smear, micrometres (7.2-7.5 in the literature): the one constant behind scales."""

SMUDGE_CELL = "smudge cell"
"""The reason of an artefact that is counted and shown all the same: a leukocyte crushed in spreading."""

CROP_UM = 19.0
"""Side of the classifier's window, micrometres: BloodMNIST's 200 px at 0.095 um/px, 2.53 red-cell diameters."""

CROP_PX = 28
"""Side of the classifier's input, pixels."""

THUMBNAIL_PX = 96
"""Side of the gallery pictures, pixels; they show 1.25 windows (23.75 um) so that the neighbourhood can be seen."""

THUMBNAIL_UM = 1.25 * CROP_UM

SCHEMA_VERSION = "1.0"
"""Version of ``result.json``; names only ever get added."""


class CellClass(StrEnum):
    """The eight classes in BloodMNIST's own order: a member's position is its label and its network output."""

    BASOPHIL = "basophil"
    EOSINOPHIL = "eosinophil"
    ERYTHROBLAST = "erythroblast"
    IMMATURE_GRANULOCYTE = "immature_granulocyte"
    LYMPHOCYTE = "lymphocyte"
    MONOCYTE = "monocyte"
    NEUTROPHIL = "neutrophil"
    PLATELET = "platelet"


CLASSES: tuple[CellClass, ...] = tuple(CellClass)

LEUKOCYTES: tuple[CellClass, ...] = (
    CellClass.NEUTROPHIL,
    CellClass.LYMPHOCYTE,
    CellClass.MONOCYTE,
    CellClass.EOSINOPHIL,
    CellClass.BASOPHIL,
    CellClass.IMMATURE_GRANULOCYTE,
)
"""The denominator of the differential, in the order in which haematology prints it."""


class CellKind(StrEnum):
    """What segmentation says an object is, by stain and size; it decides the denominator."""

    NUCLEATED = "nucleated"
    PLATELET = "platelet"
    ERYTHROCYTE = "erythrocyte"
    ARTEFACT = "artefact"


class CellStatus(StrEnum):
    """What became of an object in the count."""

    CLASSIFIED = "classified"
    UNCLASSIFIED = "unclassified"  # with a reason; nucleated ones are reported beside the differential
    EXCLUDED = "excluded"  # with a reason: artefact, or nucleus cut by the edge of the field
    NOT_CLASSIFIED_BY_DESIGN = ""  # red cells


class ScaleSource(StrEnum):
    """Where a field's um/px came from, in order of trust."""

    GIVEN = "given"  # --um-per-px or the slide sheet
    METADATA = "metadata"  # of the file, where credible
    RED_CELLS = "red_cells"  # the field's own single red cells
    SLIDE = "slide"  # borrowed from the other fields of the slide


class Severity(StrEnum):
    """How urgently a person should look."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


class Adequacy(StrEnum):
    """How far a count of this many leukocytes carries."""

    NONE = "no differential"  # < 50
    LIMITED = "limited"  # 50-99
    REPORTABLE = "reportable"  # >= 100
    PREFERRED = "preferred"  # >= 200


class TileUse(StrEnum):
    """What became of a tile of a whole-slide file."""

    COUNTED = "counted"
    TOO_THICK = "too thick"  # cells lie on one another
    TOO_THIN = "too thin"  # the feathered edge, or hardly any cells
    UNFIT = "unfit"  # out of focus, overexposed ...
    FAILED = "failed"  # could not be read or analysed
    BACKGROUND = "background"  # empty on the thumbnail, never read


class Unfit(StrEnum):
    """Why a field is not counted: how its reason begins."""

    UNDEREXPOSED = "underexposed"
    OVEREXPOSED = "overexposed"
    BLANK = "blank"
    TOO_THICK = "too thick"
    TOO_THIN = "too thin"
    OUT_OF_FOCUS = "out of focus"

    def since(self, particulars: str) -> str:
        """The reason as a person reads it."""
        return f"{self}: {particulars}"


# --------------------------------------------------------------------------------------------------------------- input


@dataclass(frozen=True)
class Slide:
    """One smear: a picture, a folder of field pictures, or a whole-slide file.

    Attributes
    ----------
    name : str
        The file's stem or the folder's name; unique within a run.
    root : Path
        The folder that field names are relative to.
    paths : tuple of Path
        The field pictures in natural order; for a whole-slide file, that file alone.
    whole_slide : bool
        True when ``paths[0]`` is read tile by tile.
    um_per_px : float or None
        Scale given by the user for this slide; it overrides everything.
    wbc_10e9_per_l : float or None
        The analyser's leukocyte count, for absolute values. Never invented.
    wbc_uncorrected : bool
        True when that count still includes nucleated red cells.
    consecutive : bool
        True when the fields were taken one after the other without choosing, so that cells per area mean something.
    warnings : tuple of str
        What a reader of the report should know about the slide ("same content as slide B").
    """

    name: str
    root: Path
    paths: tuple[Path, ...]
    whole_slide: bool = False
    um_per_px: float | None = None
    wbc_10e9_per_l: float | None = None
    wbc_uncorrected: bool = False
    age_years: float | None = None
    sample_id: str = ""
    comment: str = ""
    consecutive: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Field:
    """One field of view (or tile), decoded.

    Attributes
    ----------
    slide, name : str
        The slide's name and the picture's path relative to the slide.
    rgb : (H, W, 3) uint8 array
        As a person sees it: orientation, palette, alpha and colour space already resolved.
    um_per_px : float or None
        Scale that the file's metadata state, if credible.
    row_px, col_px : int
        Position of the top left corner in the file (level 0 for a whole-slide file); 0 for a photo.
    warnings : tuple of str
        What a reader of the report should know about the file ("page 1 of 5 was read").
    """

    slide: str
    name: str
    rgb: NDArray[Any]
    um_per_px: float | None = None
    row_px: int = 0
    col_px: int = 0
    warnings: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------------- imaging


@dataclass(frozen=True)
class Scale:
    """Physical scale of a field.

    Attributes
    ----------
    um_per_px : float
        Micrometres per pixel of the input file.
    source : ScaleSource
    uncertainty : float
        Relative standard error of ``um_per_px`` (0.02 is 2 %); 0 where it was given.
    red_cells : int
        Single red cells behind the estimate from red cells (0 if none was made).
    red_cell_um_per_px : float
        That estimate, kept beside a given or metadata scale so that the two can be compared; NaN if none.
    """

    um_per_px: float
    source: ScaleSource
    uncertainty: float = 0.0
    red_cells: int = 0
    red_cell_um_per_px: float = math.nan


@dataclass(frozen=True)
class FieldQuality:
    """How fit a field is to be counted.

    ``blur_um`` is the width (sigma) of the edges, or of the cells' outlines, micrometres; ``exposure`` the background
    level, 0-1 of full scale; ``clipped`` the share of pixels at full black or white; ``cell_cover`` the share of the
    field under cells; ``overlap`` the share of red-cell area in clumps. ``fit`` False excludes the field from the
    count, with ``reason``.
    ``stain_od`` is the mean optical density (R, G, B) of nuclei, NaN if there are none.
    """

    fit: bool
    reason: str = ""
    blur_um: float = math.nan
    exposure: float = math.nan
    clipped: float = 0.0
    cell_cover: float = math.nan
    overlap: float = math.nan
    stain_od: tuple[float, float, float] = (math.nan, math.nan, math.nan)

    @property
    def unfit(self) -> Unfit | None:
        """The reason as a program compares it; None where there is none, or another."""
        begins = self.reason.partition(":")[0]
        return next((one for one in Unfit if one == begins), None)


@dataclass(frozen=True, slots=True)
class Cell:
    """One object that segmentation found, measured. Units and sources of the measures: :mod:`cbctool.imaging.measure`.

    ``cell`` numbers the objects of a field from 1, top to bottom. The measures after ``reason`` are NaN where they do
    not apply (a red cell has no nucleus).
    """

    cell: int
    kind: CellKind
    row_px: float
    col_px: float
    ymin_px: int
    xmin_px: int
    ymax_px: int
    xmax_px: int
    area_um2: float
    touches_edge: bool
    nucleus_touches_edge: bool = False
    reason: str = ""  # of an artefact: "smudge cell", "stain debris", "annotation", ...
    equivalent_diameter_um: float = math.nan
    circularity: float = math.nan
    eccentricity: float = math.nan
    nucleus_area_um2: float = math.nan
    nc_ratio: float = math.nan
    nuclear_lobes: float = math.nan
    nuclear_solidity: float = math.nan
    chromatin_texture: float = math.nan
    nucleus_od: float = math.nan
    cytoplasm_od: float = math.nan
    haematoxylin_od: float = math.nan
    eosin_od: float = math.nan
    granularity: float = math.nan


@dataclass(frozen=True)
class FieldSummary:
    """What the report keeps of a field.

    ``preview_jpeg`` is the field as JPEG, at most 1600 px on its longer side (``preview_scale`` preview px per field
    px), as photographed; the report draws the annotations on it.
    """

    name: str
    height_px: int
    width_px: int
    scale: Scale
    quality: FieldQuality
    area_mm2: float
    row_px: int = 0
    col_px: int = 0
    preview_jpeg: bytes = b""
    preview_scale: float = 1.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FieldResult:
    """What comes back from a worker for one field: small things only.

    Attributes
    ----------
    summary : FieldSummary
    cells : tuple of Cell
        Everything found, red cells included.
    crops : (N, 28, 28, 3) uint8 array
        Normalised windows of the nucleated cells and platelets, the network's input.
    crop_cells : (N,) int array
        Index into ``cells`` of each crop.
    thumbnails : tuple of bytes
        One JPEG (96 x 96) per crop, as photographed; empty bytes for platelets.
    seconds : mapping of str to float
        Time per stage (decode, calibrate, segment, measure, crop).
    """

    summary: FieldSummary
    cells: tuple[Cell, ...]
    crops: NDArray[Any]
    crop_cells: NDArray[Any]
    thumbnails: tuple[bytes, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------- classifier


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself; it travels with every result.

    Attributes
    ----------
    name, sha256, architecture, trained_on, date : str
    validated : bool
        True for weights in the project's registry; a lab's own refit is "local, not validated by the project".
    temperature : float
        Divides the logits before the softmax.
    abstain_below : float
        A cell whose highest probability is below this is unclassified.
    unknown_above : float
        A cell whose unknown-score is above this is unlike anything trained on.
    confusion : tuple of tuples of int
        (8, 8) counts on held-out cells, row = truth, column = call, before abstention.
    unknown_rate : tuple of float
        Per class, the share of held-out cells of that class whose unknown-score is above ``unknown_above``.
    stain_od : tuple of tuples of float
        Percentiles 1, 50, 99 of the mean nuclear optical density (R, G, B) of the training cells, row = percentile.
    metrics : mapping of str to float
    unknown_percentiles : tuple of float
        Percentiles 1, 50, 99 of the unknown-score of held-out cells of all classes alike; empty if not measured. They
        give the score a scale, so that "far above" means something.
    white_balanced : bool
        Whether the crops that it was taught had their background at white, and so need it; the study's had not.
    """

    name: str
    sha256: str
    architecture: str
    validated: bool
    trained_on: str
    date: str
    temperature: float
    abstain_below: float
    unknown_above: float
    confusion: tuple[tuple[int, ...], ...]
    unknown_rate: tuple[float, ...] = ()
    stain_od: tuple[tuple[float, ...], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    unknown_percentiles: tuple[float, ...] = ()
    white_balanced: bool = True


@dataclass(frozen=True, eq=False)
class Scores:
    """What the network says of N crops.

    ``probabilities`` (N, 8) float32, rows sum to 1, columns in ``CLASSES`` order; ``unknown`` (N,) float32, higher is
    less like anything trained on.
    """

    probabilities: NDArray[Any]
    unknown: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The call on one cell. ``probabilities`` are in ``CLASSES`` order."""

    cell_class: CellClass | None  # the most probable class, also where the status is unclassified; None for artefacts
    probability: float
    probabilities: tuple[float, ...]
    unknown_score: float
    status: CellStatus
    reason: str = ""
    blast_like: bool = False
    blast_reasons: tuple[str, ...] = ()
    blast_evidence: float = math.nan  # log odds, blast to normal, the slide's distribution included; no probability


@dataclass(frozen=True, slots=True)
class Observation:
    """One row of ``cells.csv``: a cell, where it is, and the call on it (None for red cells)."""

    field: str
    cell: Cell
    prediction: Prediction | None
    thumbnail: bytes = b""
    called: CellClass | None = None  # the software's own call, where a reviewer has changed it


# ---------------------------------------------------------------------------------------------------------- haematology


@dataclass(frozen=True)
class DifferentialRow:
    """One class of the differential. Percentages are of classified leukocytes, NaN where there are none.

    ``ci_low``/``ci_high``: exact 95 % interval for sampling alone. ``total_low``/``total_high``: with the classifier's
    own error added. ``outside`` is "", "low", "high" (interval outside too), "borderline low" or "borderline high".
    ``absolute_10e9_per_l`` is NaN unless the analyser's WBC was given.
    """

    cell_class: CellClass
    count: int
    percent: float
    ci_low: float
    ci_high: float
    total_low: float
    total_high: float
    reference_low: float
    reference_high: float
    outside: str = ""
    absolute_10e9_per_l: float = math.nan
    absolute_reference_low: float = math.nan
    absolute_reference_high: float = math.nan
    absolute_outside: str = ""


@dataclass(frozen=True)
class Differential:
    """The counts of one slide. Cells cut by the edge and artefacts are in none of the counts but their own."""

    rows: tuple[DifferentialRow, ...]
    adequacy: Adequacy
    leukocytes: int  # classified: the denominator
    unclassified: int  # nucleated cells without a call
    erythroblasts: int
    nrbc_per_100_wbc: float
    platelets: int
    erythrocytes: int
    platelets_per_1000_red_cells: float
    platelets_per_mm2: float
    area_mm2: float
    cut_by_edge: int
    smudge_cells: int
    artefacts: int  # smudge cells included
    blast_like: int
    wbc_10e9_per_l: float = math.nan
    wbc_corrected_10e9_per_l: float = math.nan
    platelet_estimate_10e9_per_l: float = math.nan  # only with a lab-calibrated factor
    reference: str = ""  # for which ages the reference intervals hold, and where they come from


@dataclass(frozen=True)
class FlagRule:
    """One entry of the flag registry, from which legend and docs are generated."""

    code: str
    severity: Severity
    short: str
    long: str
    rule: str
    source: str


@dataclass(frozen=True)
class Flag:
    """A rule that fired on a slide: ``text`` is one sentence with the numbers; ``cells`` are (field, cell) evidence."""

    code: str
    severity: Severity
    short: str
    text: str
    cells: tuple[tuple[str, int], ...] = ()


# -------------------------------------------------------------------------------------------------------------- result


@dataclass(frozen=True)
class Failure:
    """One row of ``failures.csv``."""

    slide: str
    path: str
    error: str
    advice: str


@dataclass(frozen=True)
class Review:
    """Who confirmed or corrected a result, and when (ISO 8601).

    ``corrections`` are the calls changed by all reviews so far, ``number`` which review this is, from 1.
    """

    reviewer: str
    reviewed_at: str
    corrections: int
    number: int = 1


@dataclass(frozen=True)
class TileMap:
    """Which parts of a whole-slide file were counted.

    ``uses`` has a row per row of tiles, top to bottom; tiles are equal parts of ``height_px`` x ``width_px`` (level 0).
    ``overview_jpeg`` is the slide at a few hundred pixels; empty where the file holds no small level.
    """

    uses: tuple[tuple[TileUse, ...], ...]
    height_px: int
    width_px: int
    overview_jpeg: bytes = b""


@dataclass(frozen=True)
class SlideResult:
    """Everything about one analysed slide; every output is written from this and nothing else.

    ``status`` is "done", or "partial" when some fields failed. ``analysed_at`` is ISO 8601 UTC. ``identity`` is the
    hash of the slide's content, the weights and the options that change numbers. ``options`` are those, printable.
    ``tiles`` is None where the slide is no whole-slide file.
    """

    slide: Slide
    status: str
    fields: tuple[FieldSummary, ...]
    observations: tuple[Observation, ...]
    differential: Differential
    flags: tuple[Flag, ...]
    weights: WeightsInfo
    um_per_px: float
    analysed_at: str
    version: str
    identity: str
    device: str
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    review: Review | None = None
    supersedes: str = ""
    tiles: TileMap | None = None
