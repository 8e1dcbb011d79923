"""A person's word is last: apply a reviewer's corrections to a slide's report and write every output anew."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from cbctool import hematology, report
from cbctool.errors import InputError, OutputError, UsageError
from cbctool.hematology import flags
from cbctool.hematology.profile import Profile, load_profile
from cbctool.records import (
    CLASSES,
    CellClass,
    CellKind,
    CellStatus,
    Observation,
    Prediction,
    Review,
    SlideResult,
)
from cbctool.run import manifest
from cbctool.run.discover import folder_name
from cbctool.run.spreadsheet import decode, separator

logger = logging.getLogger(__name__)

ARTEFACT = "artefact"
UNCLASSIFIED = "unclassified"
WORDS: tuple[str, ...] = (*CLASSES, ARTEFACT, UNCLASSIFIED)
"""What may stand in ``class``: a class, or one of two words for what has none."""

REASON = "named by the reviewer"
LEFT_OPEN = "left open by the reviewer"


@dataclass(frozen=True)
class Correction:
    """One changed row: ``row`` counts the lines of the table from the heading, which is 1."""

    row: int
    field: str
    cell: int
    word: str  # one of WORDS


def review_slide(
    folder: Path,
    corrections: Path | None,
    reviewer: str,
    profile: Path | None = None,
    reviewed_at: datetime | None = None,
) -> SlideResult:
    """Confirm a slide's report, with corrections or without; all its files are replaced by one rename.

    By signing, the reviewer vouches for every call: the classifier's own error no longer widens an interval or
    discounts a rare cell. The software's call stays beside each changed one, and the slide turns from preliminary to
    reviewed.

    Parameters
    ----------
    folder : Path
        The slide's folder among the reports.
    corrections : Path or None
        Its ``cells.csv`` in which ``class`` was changed, or some rows of it; None where every call is right.
    reviewer : str
    profile : Path, optional
        The laboratory's profile; without it the one that the report was made with.
    reviewed_at : datetime, optional
        Now, without it.

    Returns
    -------
    SlideResult
        As written.

    Raises
    ------
    UsageError
        A bad row, named by its number, or no reviewer; nothing is written.
    InputError
        The folder is not a slide's report, or another version's.
    OutputError
        The new files cannot be written; the old ones stand.
    """
    if not reviewer.strip():
        raise UsageError("No reviewer is named.", "Pass --reviewer NAME: a report is signed by a person.")
    before = report.read_slide(folder)
    laboratory = load_profile(profile) if profile else _profile_of(before)
    observations = before.observations
    changes: list[Correction] = []
    if corrections is not None:
        changes = find_corrections(read_corrections(corrections), before, corrections.name)
        observations = apply_corrections(observations, changes)
    interpretation = hematology.interpret(
        before.slide, before.fields, observations, before.weights, laboratory, confirmed=True
    )
    moment = (reviewed_at or datetime.now(UTC)).isoformat(timespec="seconds")
    earlier = before.review or Review("", "", corrections=0, number=0)
    after = replace(
        before,
        observations=interpretation.observations,
        differential=interpretation.differential,
        flags=interpretation.flags,
        options={**before.options, "profile": laboratory.model_dump(mode="json")} if profile else before.options,
        review=Review(reviewer.strip(), moment, earlier.corrections + len(changes), earlier.number + 1),
    )
    _replace_report(folder, after, laboratory)
    return after


def review_text(result: SlideResult) -> str:
    """What a review came to, one line."""
    if result.review is None:
        raise ValueError("the result has not been reviewed")
    calls = f"{result.review.corrections} call{'' if result.review.corrections == 1 else 's'} changed"
    codes = ", ".join(flag.code for flag in result.flags) or "none"
    return f"{result.slide.name}: reviewed by {result.review.reviewer}, {calls}; flags: {codes}."


def read_corrections(path: Path) -> list[dict[str, str]]:
    """Rows of a table that a spreadsheet may have saved its own way: comma, semicolon or tab; UTF-8 or Windows-1252.

    Raises
    ------
    InputError, UsageError
        Where it cannot be read, or has no columns ``field``, ``cell`` and ``class``.
    """
    try:
        text = decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.", "Check the path of --corrections.") from error
    heading = text.splitlines()[0] if text.strip() else ""
    delimiter = separator(text)
    rows = [{k.strip(): v for k, v in row.items()} for row in report.parse_table(text, delimiter)]
    missing = {"field", "cell", "class"} - {name.strip().strip('"') for name in heading.split(delimiter)}
    if missing:
        raise UsageError(
            f"{path}: no column {', '.join(sorted(missing))}.",
            "Change `class` in the slide's own cells.csv and pass that.",
        )
    return rows


def find_corrections(rows: list[dict[str, str]], result: SlideResult, name: str) -> list[Correction]:
    """The rows in which a person changed something.

    A row is a correction where ``class`` differs from the report, or where an unclassified cell's ``status`` was set to
    ``classified`` (the guess in ``class`` is right) or a classified one's to ``unclassified``.

    Parameters
    ----------
    rows : list of dict
    result : SlideResult
    name : str
        Of the table, for messages.

    Raises
    ------
    UsageError
        Naming the first bad row by its number.
    """
    known = {(o.field, o.cell.cell): o for o in result.observations}
    seen: dict[tuple[str, int], int] = {}
    found = []
    for number, row in enumerate(rows, start=2):

        def bad(what: str, advice: str, number: int = number) -> UsageError:
            return UsageError(f"{name}: row {number}: {what}; nothing was changed.", advice)

        if not any(value.strip() for value in row.values()):
            continue
        if row.get("slide") and not _names(row["slide"], result.slide.name):
            raise bad(f"slide {row['slide']!r}, but the report is on {result.slide.name!r}", "Pass this slide's cells.")
        try:
            identity = (row["field"], int(float(row["cell"])))
            observation = known[identity]
        except (KeyError, ValueError, OverflowError):
            raise bad(
                f"the slide has no cell {row['cell']!r} in field {row['field']!r}", "Leave field and cell as they are."
            ) from None
        if identity in seen:
            raise bad(f"the cell stands in row {seen[identity]} too", "Keep one row per cell.")
        seen[identity] = number
        word = row["class"].strip().lower().replace(" ", "_")
        if word and word not in WORDS:
            raise bad(f"no class {row['class']!r}", f"Use one of {', '.join(WORDS)}.")
        changed = _changed(observation, word, row.get("status", "").strip().lower())
        if changed and observation.prediction is None:
            raise bad("a red cell has no call that could be changed", "Leave `class` empty for red cells.")
        if changed and row.get("called", observation.called or "").strip() != (observation.called or ""):
            raise bad("the table is older than the last review", "Change the cells.csv that stands in the folder now.")
        if changed:
            found.append(Correction(number, *identity, changed))
    return found


def _names(written: str, name: str) -> bool:
    """Whether a spreadsheet may have saved a slide's name so: of a number it drops zeros and all digits but six."""
    if written == name or not name.isdecimal():
        return written == name
    try:
        value = float(written.replace(",", "."))
    except ValueError:
        return False
    return abs(value - int(name)) <= (5e-6 * value if "e" in written.lower() else 0)


def _changed(observation: Observation, word: str, status: str) -> str:
    """The word that a row says differently from the report; "" where it says the same."""
    prediction = observation.prediction
    current = (prediction.cell_class or "") if prediction else ""
    was = prediction.status if prediction else CellStatus.NOT_CLASSIFIED_BY_DESIGN
    if word == current:
        if word and was is CellStatus.UNCLASSIFIED and status == CellStatus.CLASSIFIED:
            return word
        return UNCLASSIFIED if was is CellStatus.CLASSIFIED and status == CellStatus.UNCLASSIFIED else ""
    if word == "":  # emptied: no cell of any class
        return ARTEFACT
    if word == UNCLASSIFIED and was is CellStatus.UNCLASSIFIED:
        return ""
    return "" if word == ARTEFACT and observation.cell.kind is CellKind.ARTEFACT else word


def apply_corrections(observations: tuple[Observation, ...], corrections: list[Correction]) -> tuple[Observation, ...]:
    """The observations with a person's word on those that were changed, the software's own call beside it."""
    words = {(c.field, c.cell): c.word for c in corrections}
    return tuple(_named(o, words[o.field, o.cell.cell]) if (o.field, o.cell.cell) in words else o for o in observations)


def _named(observation: Observation, word: str) -> Observation:
    cell, before = observation.cell, observation.prediction
    if before is None:
        raise ValueError("a cell without a prediction cannot be renamed")
    called = observation.called or before.cell_class
    if word == ARTEFACT:
        prediction = replace(before, cell_class=None, status=CellStatus.EXCLUDED, reason=REASON)
        return replace(
            observation, cell=replace(cell, kind=CellKind.ARTEFACT, reason=REASON), prediction=prediction, called=called
        )
    # Of a cell that nobody can name the software's class stays as a guess, and it is still weighed as a blast.
    name = called if word == UNCLASSIFIED else CellClass(word)
    prediction = Prediction(
        cell_class=name,
        probability=before.probabilities[CLASSES.index(name)] if name else math.nan,
        probabilities=before.probabilities,
        unknown_score=before.unknown_score,
        status=CellStatus.CLASSIFIED,
        reason=REASON,
    )
    if cell.nucleus_touches_edge and before.status is CellStatus.EXCLUDED:
        # where a cell lies is not a matter of opinion
        prediction = replace(prediction, status=CellStatus.EXCLUDED, reason=before.reason)
    elif word == UNCLASSIFIED:
        prediction, called = replace(prediction, status=CellStatus.UNCLASSIFIED, reason=LEFT_OPEN), None
    kind = CellKind.PLATELET if name is CellClass.PLATELET else CellKind.NUCLEATED
    return replace(observation, cell=replace(cell, kind=kind, reason=""), prediction=prediction, called=called)


def _profile_of(result: SlideResult) -> Profile:
    """The profile that the report was made with, as its result tells."""
    stored = result.options.get("profile")
    try:
        return Profile.model_validate(stored) if isinstance(stored, Mapping) else Profile()
    except ValidationError as error:
        raise InputError(
            f"{result.slide.name}: its laboratory's profile, as version {result.version} wrote it, cannot be used.",
            "Pass --profile.",
        ) from error


def _replace_report(folder: Path, result: SlideResult, profile: Profile) -> None:
    """Write everything into a hidden folder beside, and swap the two by rename."""
    from cbctool.run.pipeline import report_style

    folder = folder.resolve()
    out = folder.parent
    style = report_style(profile)
    partial: Path | None = None
    try:
        partial = manifest.partial_folder(out, folder.name)
        report.write_slide(result, partial, style, flags.RULES)
        done = manifest.read_manifest(folder)
        if done is not None:
            text = manifest.manifest_text(replace(done, row=report.summary_row(result)))
            (partial / manifest.MANIFEST).write_text(text, encoding="utf-8")
        manifest.put_in_place(partial, folder)
    except OSError as error:
        raise OutputError(
            f"{folder}: the reviewed report cannot be written ({error.strerror}); the earlier one stands.",
            "Free some space or check the folder's rights, then run again.",
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    if (out / "summary.csv").is_file():
        _write_tables(out, result, style)


def _write_tables(out: Path, result: SlideResult, style: report.ReportStyle) -> None:
    """The tables over the whole output folder, with this slide's new row."""
    from cbctool.run.analyse import failures_before, rows_before

    rows: dict[str, Mapping[str, object]] = {row["slide"]: row for row in rows_before(out / "summary.csv", ("slide",))}
    rows |= {done.slide: done.row for done in manifest.finished_slides(out)}
    rows[result.slide.name] = report.summary_row(result)
    report.write_run(out, [rows[name] for name in sorted(rows)], failures_before(out), style, folder_name)
