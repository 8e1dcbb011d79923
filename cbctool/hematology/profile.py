"""The laboratory's profile: its name, reference intervals, thresholds and outputs, read from a TOML file.

Every default carries the source that ``cbctool info --profile`` prints beside it. A wrong key or value is named with
its line, all of them at once.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cbctool.errors import UsageError
from cbctool.hematology import reference
from cbctool.records import LEUKOCYTES, CellClass

Output = Literal["pdf", "html", "overlays", "hl7", "fhir"]
Interval = tuple[float, float]


class _Section(BaseModel):
    """Frozen, and strict about keys: a misspelt threshold must not silently leave the default in force."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Lab(_Section):
    name: str = Field(default="", max_length=200, description="printed at the head of every report")
    logo: Path | None = Field(default=None, description="PNG or JPEG beside it; relative to this file")


class Report(_Section):
    page_size: Literal["A4", "Letter"] = Field(default="A4", description="of the PDF")
    outputs: tuple[Output, ...] = Field(
        default=("pdf", "html", "overlays", "hl7", "fhir"),
        description="beside differential.csv, cells.csv and result.json, which are always written",
    )


class Adequacy(_Section):
    """Leukocytes counted: below ``limited`` there is no differential, from ``preferred`` on it is as good as manual."""

    limited: int = Field(default=50, ge=1, description="below this many leukocytes: no differential")
    reportable: int = Field(default=100, ge=1, description="from this many: reportable")
    preferred: int = Field(default=200, ge=1, description="from this many: preferred (CLSI H20 counts 200 or 400)")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.limited <= self.reportable <= self.preferred:
            raise ValueError("limited, reportable and preferred must ascend")
        return self


class Platelets(_Section):
    per_1000_red_cells: Interval = Field(
        default=(27.0, 112.0),
        description="default: 150-450 x10^9/L platelets over 5.5 and 4.0 x10^12/L red cells, the lenient quotients",
    )
    estimate_factor: float | None = Field(
        default=None,
        gt=0,
        description="10^9/L for each platelet per 1,000 red cells, calibrated by the laboratory against its analyser; "
        "no estimate is printed without it",
    )

    @field_validator("per_1000_red_cells")
    @classmethod
    def _ordered(cls, value: Interval) -> Interval:
        return _ordered_interval(value)


class FlagThresholds(_Section):
    unclassified_percent: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="many unclassified: three times the 3 % that the weights leave open on held-out cells",
    )
    smudge_per_100_wbc: float = Field(
        default=10.0,
        ge=0,
        description="many smudge cells; default: commonly quoted, from where laboratories comment on them",
    )
    wbc_per_1000_red_cells: float = Field(
        default=8.0,
        ge=0,
        description="leukocytosis-like density: three times the highest normal quotient, 11 x10^9/L over 4.0 x10^12/L",
    )
    unfit_fields_percent: float = Field(
        default=20.0, ge=0, le=100, description="poor quality: share of fields not fit to count"
    )
    scale_disagreement_percent: float = Field(
        default=10.0, ge=0, description="scale doubtful: given or file's scale against the slide's own red cells"
    )
    coarsest_um_per_px: float = Field(
        default=0.34, gt=0, description="scale outside training: half of the classifier's 0.68 um pixel (Nyquist)"
    )
    large_platelets: int = Field(
        default=3, ge=1, description="platelet clumps: platelet objects as large as a red cell, at least this many"
    )
    large_platelets_percent: float = Field(
        default=1.0,
        ge=0,
        lt=100,
        description="platelet clumps: their share of platelet objects, percent, 95 % interval; in 29 healthy fields of "
        "ALL-IDB1 5 of 384 are, in BCCD none of 416",
    )
    bodies_in_red_cells: int = Field(
        default=5, ge=1, description="bodies in red cells: platelet objects well within red cells, at least this many"
    )
    off: tuple[str, ...] = Field(default=(), description="codes of flags that this laboratory does not want")

    @field_validator("off")
    @classmethod
    def _known_codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from cbctool.hematology.flags import CODES  # the registry reads these thresholds

        unknown = sorted(set(value) - CODES)
        if unknown:
            raise ValueError(f"no such flag: {', '.join(unknown)}")
        return value


class ReferenceBand(_Section):
    """Reference intervals for one age band, from (included) to (excluded)."""

    age_from_years: float = Field(default=0.0, ge=0)
    age_to_years: float | None = Field(default=None, gt=0)
    source: str = Field(default="", max_length=500)
    percent: dict[CellClass, Interval] = Field(default_factory=dict)
    absolute_10e9_per_l: dict[CellClass, Interval] = Field(default_factory=dict)

    @field_validator("percent", "absolute_10e9_per_l")
    @classmethod
    def _intervals(cls, value: dict[CellClass, Interval]) -> dict[CellClass, Interval]:
        for cell_class, interval in value.items():
            if cell_class not in LEUKOCYTES:
                raise ValueError(f"{cell_class} is not in the differential")
            _ordered_interval(interval)
        return value

    @field_validator("percent")
    @classmethod
    def _at_most_100(cls, value: dict[CellClass, Interval]) -> dict[CellClass, Interval]:
        for cell_class, (_, high) in value.items():
            if high > 100:
                raise ValueError(f"{cell_class}: {high} is more than 100 percent")
        return value

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.age_to_years is not None and self.age_to_years <= self.age_from_years:
            raise ValueError("age_to_years must be above age_from_years")
        return self

    def holds(self, age_years: float) -> bool:
        """Whether the band covers this age."""
        return self.age_from_years <= age_years and (self.age_to_years is None or age_years < self.age_to_years)

    @property
    def ages(self) -> str:
        """The ages it holds for, in words."""
        until = "" if self.age_to_years is None else f" to under {self.age_to_years:g}"
        return f"from {self.age_from_years:g}{until} years"


def _ordered_interval(interval: Interval) -> Interval:
    low, high = interval
    if low < 0 or high <= low:
        raise ValueError(f"[{low:g}, {high:g}] is not an interval: give a low and a higher high, from 0 up")
    return interval


ADULT = ReferenceBand(
    age_from_years=reference.ADULT_FROM_YEARS,
    source=f"percent: {reference.PERCENT_SOURCE}; absolute: {reference.ABSOLUTE_SOURCE}",
    percent=reference.ADULT_PERCENT,
    absolute_10e9_per_l=reference.ADULT_ABSOLUTE,
)


class Profile(_Section):
    """All that a laboratory can set. ``Profile()`` is the default."""

    lab: Lab = Lab()
    report: Report = Report()
    adequacy: Adequacy = Adequacy()
    platelets: Platelets = Platelets()
    flags: FlagThresholds = FlagThresholds()
    reference: tuple[ReferenceBand, ...] = (ADULT,)

    @field_validator("reference")
    @classmethod
    def _bands_apart(cls, value: tuple[ReferenceBand, ...]) -> tuple[ReferenceBand, ...]:
        bands = sorted(value, key=lambda band: band.age_from_years)
        for younger, older in pairwise(bands):
            if younger.age_to_years is None or younger.age_to_years > older.age_from_years:
                raise ValueError(f"two age bands hold at {older.age_from_years:g} years")
        return value

    def band(self, age_years: float | None) -> ReferenceBand | None:
        """Reference band for an age; without an age the adult one is taken. None where no band covers the age."""
        age = reference.ADULT_FROM_YEARS if age_years is None else age_years
        return next((band for band in self.reference if band.holds(age)), None)


def load_profile(path: Path | None = None) -> Profile:
    """Read a laboratory's profile.

    Parameters
    ----------
    path : Path or None
        A TOML file; None gives the defaults. ``[[reference]]`` bands replace the default adult band as a whole.

    Raises
    ------
    UsageError
        When the file cannot be read or is no TOML, or naming every wrong key or value with its line.
    """
    if path is None:
        return Profile()
    try:
        text = path.read_text(encoding="utf-8-sig")
        settings = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the profile cannot be read ({error}).", "Give a UTF-8 TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not a TOML file: {error}.", "See docs/profile.example.toml.") from error
    try:
        profile = Profile.model_validate(settings)
    except ValidationError as error:
        lines = _lines_of_keys(text)
        faults = "; ".join(_fault(detail, lines) for detail in error.errors())
        raise UsageError(f"{path}: {faults}.", "See docs/profile.example.toml for every key.") from error
    return _with_logo(profile, path, text)


def _with_logo(profile: Profile, path: Path, text: str) -> Profile:
    """The logo's path is relative to the profile; a missing one is found now, not after a night of analysis."""
    if profile.lab.logo is None:
        return profile
    logo = path.parent / profile.lab.logo
    if not logo.is_file():
        line = _line_of(("lab", "logo"), _lines_of_keys(text))
        raise UsageError(f"{path}: line {line}: lab.logo: no file {logo}.", "Give a path relative to the profile.")
    return profile.model_copy(update={"lab": profile.lab.model_copy(update={"logo": logo})})


def _fault(detail: Mapping[str, Any], lines: Mapping[tuple[str | int, ...], int]) -> str:
    key = tuple(part for part in detail["loc"] if part != "[key]")
    message = {"extra_forbidden": "no such key"}.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    name = ".".join(str(part) for part in key)
    line = _line_of(key, lines)
    return f"line {line}: {name}: {message}" if name else message


def _line_of(key: tuple[str | int, ...], lines: Mapping[tuple[str | int, ...], int]) -> int:
    """The line of the key, or of the nearest thing around it."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def _lines_of_keys(text: str) -> dict[tuple[str | int, ...], int]:
    """Line number (from 1) of every table and key of a TOML text; :mod:`tomllib` does not keep them."""
    lines: dict[tuple[str | int, ...], int] = {}
    arrays: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = tuple(_numbered(header[2], arrays, opens=header[1] == "[["))
            for depth in range(1, len(table) + 1):
                lines.setdefault(table[:depth], number)
        elif key := _KEY.match(line):
            path = (*table, *_parts(key[1]))
            for depth in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:depth], number)
    return lines


def _numbered(name: str, arrays: dict[tuple[str | int, ...], int], opens: bool) -> Iterator[str | int]:
    """A table's path with the position in each array of tables on the way: ``reference.percent`` in the third band."""
    parts = _parts(name)
    path: tuple[str | int, ...] = ()
    for i, part in enumerate(parts):
        path = (*path, part)
        yield part
        if opens and i == len(parts) - 1:
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            yield arrays[path]
            path = (*path, arrays[path])


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def describe_profile(profile: Profile) -> str:
    """The profile in force as TOML, the source or meaning of each value as a comment. It can be loaded again."""
    blocks = []
    for name, section in (
        ("lab", profile.lab),
        ("report", profile.report),
        ("adequacy", profile.adequacy),
        ("platelets", profile.platelets),
        ("flags", profile.flags),
    ):
        lines = [f"[{name}]"]
        for key, about in type(section).model_fields.items():
            value = getattr(section, key)
            lines.append(f"# {about.description}")
            lines.append(f"# {key} =" if value is None else f"{key} = {_toml(value)}")
        blocks.append("\n".join(lines))
    blocks.extend(_describe_band(band) for band in profile.reference)
    return "\n\n".join(blocks) + "\n"


def _describe_band(band: ReferenceBand) -> str:
    lines = ["[[reference]]", f"age_from_years = {_toml(band.age_from_years)}"]
    if band.age_to_years is not None:
        lines.append(f"age_to_years = {_toml(band.age_to_years)}")
    lines.append(f"source = {_toml(band.source)}")
    for table in ("percent", "absolute_10e9_per_l"):
        intervals: Mapping[CellClass, Interval] = getattr(band, table)
        if intervals:
            lines += [f"[reference.{table}]", *(f"{c.value} = {_toml(v)}" for c, v in intervals.items())]
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    # TOML's basic strings take JSON's escapes; DEL is the one character that JSON leaves plain and TOML does not.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
