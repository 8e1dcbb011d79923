"""The cells that a person should look at, in which order and under which number: shared by PDF and HTML."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cbctool.records import CLASSES, LEUKOCYTES, CellClass, CellKind, Observation, Prediction, SlideResult
from cbctool.report.style import MARKS, SEVERITY_ORDER, mark_key

GALLERY_ORDER: tuple[str, ...] = ("unclassified", *LEUKOCYTES, CellClass.ERYTHROBLAST, "excluded")


@dataclass(frozen=True)
class Shown:
    """One cell of a gallery: ``number`` field.cell ("3.17"), ``call`` code and probability, ``note`` second guess.

    ``call`` of a blast-like cell has no probability, which would read as that of a blast.
    """

    observation: Observation
    number: str
    key: str
    call: str
    note: str
    flagged: bool
    flags: tuple[str, ...] = ()

    @property
    def thumbnail(self) -> bytes:
        return self.observation.thumbnail


@dataclass(frozen=True)
class Group:
    """The gallery of one class; ``note`` says how many there are and how many are shown."""

    key: str
    title: str
    note: str
    cells: tuple[Shown, ...]


def numbered_fields(result: SlideResult) -> Mapping[str, int]:
    """Field name to its number in the report, from 1."""
    return {summary.name: i for i, summary in enumerate(result.fields, start=1)}


def shown_cells(result: SlideResult) -> list[Shown]:
    """Every cell that has a picture, in the order of the observations."""
    numbers = numbered_fields(result)
    flags = flags_of_cells(result)
    cells = []
    for observation in result.observations:
        if not observation.thumbnail:
            continue
        key = mark_key(observation)
        identity = (observation.field, observation.cell.cell)
        cells.append(
            Shown(
                observation,
                f"{numbers.get(observation.field, 0)}.{observation.cell.cell}",
                key,
                _call(observation, key),
                _note(observation),
                identity in flags,
                flags.get(identity, ()),
            )
        )
    return cells


def _call(observation: Observation, key: str) -> str:
    prediction = observation.prediction
    if observation.called is not None or prediction is None or prediction.probability != prediction.probability:
        return MARKS[key].code  # a person's word has no probability
    if prediction.blast_like:
        return f"{MARKS[key].code} blast-like"
    return f"{MARKS[key].code} {min(prediction.probability, 0.995):.2f}"


def _note(observation: Observation) -> str:
    prediction = observation.prediction
    if observation.called is not None:
        return f"was {MARKS[observation.called].code}"
    if prediction is None or prediction.cell_class is None or not prediction.probabilities:
        return ""
    if mark_key(observation) in ("unclassified", "excluded"):
        return f"{MARKS[prediction.cell_class].code}?"
    second = second_guess(prediction)
    return f"{MARKS[second[0]].code} {second[1]:.2f}" if second[1] >= 0.005 else ""


def second_guess(prediction: Prediction) -> tuple[CellClass, float]:
    """The second most probable class and its probability."""
    ranked = sorted(zip(prediction.probabilities, CLASSES, strict=True), key=lambda pair: -pair[0])
    return ranked[1][1], ranked[1][0]


def flags_of_cells(result: SlideResult) -> Mapping[tuple[str, int], tuple[str, ...]]:
    """(field, cell) to the short names of the flags it is evidence for."""
    found: dict[tuple[str, int], tuple[str, ...]] = defaultdict(tuple)
    for flag in result.flags:
        for identity in flag.cells:
            found[identity] += (flag.short,)
    return found


def flagged_cells(result: SlideResult, most: int) -> tuple[list[Shown], int]:
    """Cells that raised flags, at most ``most``, and how many there are.

    Each flag gives a cell in turn, so that none is crowded out; what is chosen stands by flag, the most severe first.
    """
    shown = {(s.observation.field, s.observation.cell.cell): s for s in shown_cells(result)}
    queues = [
        [identity for identity in flag.cells if identity in shown]
        for flag in sorted(result.flags, key=lambda flag: SEVERITY_ORDER[flag.severity])
    ]
    turns = sorted((turn, place, cell) for place, queue in enumerate(queues) for turn, cell in enumerate(queue))
    chosen: dict[tuple[str, int], int] = {}
    for _, place, identity in turns:
        if len(chosen) < most:
            chosen.setdefault(identity, place)
    total = len({identity for queue in queues for identity in queue})
    return [shown[identity] for identity in sorted(chosen, key=chosen.__getitem__)], total


def gallery_groups(result: SlideResult, most: int) -> list[Group]:
    """Galleries per class in order of doubt, ``most`` cells in all.

    Blast-like cells come first, by their evidence: the probability of a class that is not theirs says nothing of a
    blast. The least probable calls follow. Where there are more cells than ``most``, each class gives up its surest
    ones; small classes stay whole.
    """
    cells: dict[str, list[Shown]] = defaultdict(list)
    for shown in shown_cells(result):
        if _in_gallery(shown.observation):
            cells[shown.key].append(shown)
    # What was found as a platelet or an artefact has no picture, also where a reviewer knows better.
    unseen = Counter(mark_key(o) for o in result.observations if _in_gallery(o) and not o.thumbnail)
    quota = _quota([len(cells[key]) for key in GALLERY_ORDER], most)
    groups = []
    for key in GALLERY_ORDER:
        ordered = sorted(cells[key], key=_doubt)
        if ordered:
            count = f"{len(ordered)}"
            note = count if len(ordered) <= quota else f"{count}, of which the {quota} most doubtful are shown"
            if unseen[key]:
                note += f", {unseen[key]} more without a picture"
            if blasts := sum(_blast_like(shown) for shown in ordered):
                note += f"; {blasts} blast-like, the most blast-like first"
            groups.append(Group(key, MARKS[key].label, note, tuple(ordered[:quota])))
    return groups


REASONS = 12
"""Lines of reasons below a gallery; every cell's own are in ``cells.csv``."""


def doubts(group: Group) -> list[str]:
    """Why cells are blast-like, unclassified or not counted: a line per reason with the cells' numbers.

    Every blast has its own measures: where there are too many lines it is theirs that are cut.
    """
    blasts: dict[str, list[str]] = defaultdict(list)
    others: dict[str, list[str]] = defaultdict(list)
    for shown in group.cells:
        prediction = shown.observation.prediction
        if prediction is None:
            continue
        if prediction.blast_like:
            blasts["blast-like: " + ", ".join(prediction.blast_reasons)].append(shown.number)
        elif group.key in ("unclassified", "excluded") and prediction.reason:
            others[prediction.reason].append(shown.number)
    told = _reason_lines(blasts, max(REASONS - len(others), 1))
    return told + _reason_lines(others, max(REASONS - len(told), 1))


def _reason_lines(reasons: Mapping[str, Sequence[str]], most: int) -> list[str]:
    lines = [f"{', '.join(cells[:12])}{' …' if len(cells) > 12 else ''}: {reason}" for reason, cells in reasons.items()]
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more reasons, in cells.csv"]


def _in_gallery(observation: Observation) -> bool:
    """Nucleated cells, and what a reviewer has taken out from among them."""
    return observation.cell.kind is CellKind.NUCLEATED or observation.called is not None


def _blast_like(shown: Shown) -> bool:
    prediction = shown.observation.prediction
    return prediction is not None and prediction.blast_like


def _doubt(shown: Shown) -> tuple[bool, bool, float]:
    """Sorts the most doubtful first: blast-like cells by falling evidence, the others by rising probability."""
    prediction = shown.observation.prediction
    blast_like = _blast_like(shown)
    value = math.nan
    if prediction is not None:
        value = -prediction.blast_evidence if blast_like else prediction.probability
    return (not blast_like, shown.observation.called is not None, math.inf if value != value else value)


def _quota(sizes: list[int], most: int) -> int:
    """The largest number per class with which all classes together stay within ``most``."""
    left, classes = most, len(sizes)
    for size in sorted(sizes):
        if size * classes > left:
            return left // classes
        left -= size
        classes -= 1
    return max(sizes, default=0)
