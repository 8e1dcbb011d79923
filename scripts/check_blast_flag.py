"""Check the blast flag on pictures that it was not made from: ALL-IDB1 (leukaemia and healthy) and BCCD.

Run: ``python scripts/check_blast_flag.py [--weights FILE | --without-network] [--insult NAME] [--pictures FOLDER]
[--json]``

Every field is taken as a slide of its own, through the program's own stages; BCCD also as one slide of all its fields.
Beside the flag stand two baselines: counting dark blobs alone (the best threshold for these very fields, so an
optimistic one), and naming the camera alone (in ALL-IDB1 the small fields are all leukaemia). The fields of the one
camera that took both are given apart. Nothing is fitted here. With ``--insult`` (as ``cbctool validate`` has it) the
fields go through it first, and take its settings in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import rankdata

from cbctool.errors import CbctoolError
from cbctool.hematology import interpret
from cbctool.hematology.blast import BlastOptions, find_blasts, weigh_cells
from cbctool.hematology.calls import call_cells
from cbctool.hematology.intervals import clopper_pearson
from cbctool.hematology.profile import Profile
from cbctool.imaging.field import analyse_field
from cbctool.imaging.read import read_field
from cbctool.imaging.segment import SegmentOptions
from cbctool.records import CLASSES, CellKind, FieldSummary, Observation, Scale, ScaleSource, Scores, Slide, WeightsInfo
from cbctool.run.insult import Insult, apply_insult, parse_insult

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MATCH_UM = 5.0  # between a cell's centre and its point
FLAGS = {"blast_like_cells", "blast_like_predominance"}


class NoNetwork:
    """Morphometry alone: every class equally likely, nothing unknown."""

    info = WeightsInfo("none", "", "", False, "", "", 1.0, 0.0, 1.0, tuple(tuple(row) for row in np.eye(8, dtype=int)))

    def classify(self, crops: Any) -> Scores:
        """Say nothing."""
        return Scores(np.full((len(crops), len(CLASSES)), 1 / len(CLASSES)), np.zeros(len(crops)))


@dataclass(frozen=True)
class Analysed:
    """One field as a slide of its own."""

    path: Path
    summary: FieldSummary
    observations: list[Observation]
    codes: set[str]
    evidence: float
    cell_evidence: list[tuple[Observation, float]]

    @property
    def nucleated(self) -> int:
        """Dark blobs."""
        return sum(o.cell.kind is CellKind.NUCLEATED for o in self.observations)

    @property
    def flagged(self) -> bool:
        """Whether a blast flag was raised."""
        return bool(FLAGS & self.codes)


def analyse(
    paths: list[Path],
    classifier: Any,
    options: BlastOptions,
    slide_scale: Scale | None = None,
    insult: Insult | None = None,
) -> Iterator[Analysed]:
    """Each field through reading, imaging, network, calls and interpretation."""
    for number, path in enumerate(paths):
        try:
            field = read_field(path, path.stem, path.name)
            result = analyse_field(field, slide_scale=slide_scale)
            if insult is not None:
                working_px = SegmentOptions().working_um_per_px / result.summary.scale.um_per_px
                rgb = apply_insult(field.rgb, insult.kind, insult.setting(number), working_px)
                result = analyse_field(replace(field, rgb=rgb), slide_scale=slide_scale)
        except CbctoolError as error:
            print(f"{path.name}: {error}")
            continue
        scores = classifier.classify(result.crops)
        calls = call_cells(result.cells, result.crop_cells, scores, classifier.info)
        # As one slide the fields may have the same numbers: the name keeps them apart.
        seen = [Observation(path.name, cell, call) for cell, call in zip(result.cells, calls, strict=True)]
        slide = Slide(path.stem, path.parent, (path,))
        said = interpret(slide, [result.summary], seen, classifier.info, Profile(), options)
        index, weights = weigh_cells(said.observations, classifier.info, options)
        _, finding = find_blasts(said.observations, classifier.info, options)
        pairs = [(said.observations[i], float(weight)) for i, weight in zip(index, weights, strict=True)]
        codes = {flag.code for flag in said.flags}
        yield Analysed(path, result.summary, list(said.observations), codes, finding.evidence, pairs)


def area_under_curve(positive: list[float], negative: list[float]) -> float:
    """Probability that a positive has more evidence than a negative (Mann-Whitney)."""
    ranks = rankdata([*positive, *negative])
    wins = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def share(hits: int, total: int) -> str:
    """A count of a total with its exact 95 % interval."""
    low, high = clopper_pearson(hits, total)
    return f"{hits}/{total} ({100 * float(low):.0f}-{100 * float(high):.0f} %)"


def points(folder: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Kind, row and column of the annotated points of every field."""
    found = defaultdict(list)
    with (folder / "points.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["id"]].append((row["kind"], float(row["y"]), float(row["x"])))
    return found


def labelled_evidence(fields: list[Analysed], folder: Path, alone: bool) -> tuple[list[float], list[float]]:
    """Evidence of annotated blasts, and of the leukocytes of the healthy fields; ``alone`` without their slide's."""
    annotated = points(folder)
    blasts, healthy = [], []
    for field in fields:
        um = field.summary.scale.um_per_px
        for observation, own in field.cell_evidence:
            cell, prediction = observation.cell, observation.prediction
            assert prediction is not None
            evidence = max(own if alone else prediction.blast_evidence, -50.0)
            near = [
                (np.hypot(row - cell.row_px, col - cell.col_px) * um, kind)
                for kind, row, col in annotated[field.path.stem]
            ]
            distance, kind = min(near, default=(np.inf, ""))
            if distance > MATCH_UM:
                continue
            if kind == "blast":
                blasts.append(evidence)
            elif field.path.stem.endswith("_0"):
                healthy.append(evidence)
    return blasts, healthy


def best_blob_count(ill: list[Analysed], healthy: list[Analysed]) -> tuple[int, int, int]:
    """The number of dark blobs that best tells the two apart, and how many of each reach it."""
    return max(
        (
            (k, sum(f.nucleated >= k for f in ill), sum(f.nucleated >= k for f in healthy))
            for k in range(1, max(f.nucleated for f in ill) + 1)
        ),
        key=lambda found: found[1] / len(ill) - found[2] / len(healthy),
    )


def draw(field: Analysed, folder: Path) -> None:
    """The field with the evidence of every nucleated cell."""
    picture = cv2.imread(str(field.path))
    for observation, evidence in field.cell_evidence:
        cell, prediction = observation.cell, observation.prediction
        assert prediction is not None
        colour = (0, 140, 0) if prediction.blast_like else (0, 0, 255)
        cv2.rectangle(picture, (cell.xmin_px, cell.ymin_px), (cell.xmax_px, cell.ymax_px), colour, 1)
        diameter = 2 * np.sqrt(cell.nucleus_area_um2 / np.pi)
        text = f"{evidence:.1f} d{diameter:.1f} nc{cell.nc_ratio:.2f} s{cell.nuclear_solidity:.2f}"
        text += f" {str(prediction.cell_class)[:5]} {prediction.probability:.2f} u{prediction.unknown_score:.2f}"
        place = (max(cell.xmin_px - 20, 0), max(cell.ymin_px - 3, 10))
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1)
    cv2.imwrite(str(folder / f"{field.path.stem}.png"), picture)


def main() -> None:
    """Print the table; with ``--json``, one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--without-network", action="store_true", help="morphometry alone")
    parser.add_argument("--insult", type=parse_insult, help="what the fields go through first, as for validate")
    parser.add_argument("--pictures", type=Path, help="draw every field that is flagged wrongly into this folder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.without_network:
        classifier: Any = NoNetwork()
    else:
        from cbctool.classifier.predict import Classifier

        classifier = Classifier(arguments.weights, device="cpu")
    options = BlastOptions()

    folder = DATA / "all_idb1"
    fields = list(analyse(sorted((folder / "images").glob("*.jpg")), classifier, options, insult=arguments.insult))
    ill = [f for f in fields if f.path.stem.endswith("_1")]
    healthy = [f for f in fields if f.path.stem.endswith("_0")]
    both = [f.summary.width_px == 1296 for f in ill], [f.summary.width_px == 1296 for f in healthy]
    same_ill = [f for f, same in zip(ill, both[0], strict=True) if same]
    same_healthy = [f for f, same in zip(healthy, both[1], strict=True) if same]
    blobs, ill_blobs, healthy_blobs = best_blob_count(ill, healthy)
    blasts, normal = labelled_evidence(fields, folder, alone=False)
    own_blasts, own_normal = labelled_evidence(fields, folder, alone=True)

    # Fields with too few single red cells borrow the scale of the others: 7.5 um over the 103 px of BCCD's boxes.
    borrowed = Scale(7.5 / 103, ScaleSource.SLIDE)
    bccd_paths = sorted((DATA / "bccd" / "images").glob("*.jpg"))
    bccd = list(analyse(bccd_paths, classifier, options, borrowed, arguments.insult))
    pooled = interpret(
        Slide("bccd", DATA, ()),
        [f.summary for f in bccd],
        [replace(o, thumbnail=b"") for f in bccd for o in f.observations],
        classifier.info,
        Profile(),
        options,
    )
    pooled_codes = {flag.code for flag in pooled.flags}
    figures = {
        "weights": classifier.info.name,
        "all_flagged": sum(f.flagged for f in ill),
        "all_fields": len(ill),
        "healthy_flagged": sum(f.flagged for f in healthy),
        "healthy_fields": len(healthy),
        "one_camera_all_flagged": sum(f.flagged for f in same_ill),
        "one_camera_all_fields": len(same_ill),
        "one_camera_healthy_flagged": sum(f.flagged for f in same_healthy),
        "one_camera_healthy_fields": len(same_healthy),
        "blob_threshold": blobs,
        "blobs_all_flagged": ill_blobs,
        "blobs_healthy_flagged": healthy_blobs,
        "camera_all_flagged": len(ill) - len(same_ill),
        "cell_auroc": area_under_curve(blasts, normal),
        "cell_alone_auroc": area_under_curve(own_blasts, own_normal),
        "blasts": len(blasts),
        "normal_leukocytes": len(normal),
        "bccd_flagged": sum(f.flagged for f in bccd),
        "bccd_fields": len(bccd),
        "bccd_pooled_flagged": bool(FLAGS & pooled_codes),
    }
    wrong = [f for f in ill if not f.flagged] + [f for f in (*healthy, *bccd) if f.flagged]
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for field in wrong:
            draw(field, arguments.pictures)
    if arguments.json:
        print(json.dumps(figures | {"wrong": {f.path.name: round(f.evidence, 2) for f in wrong}}))
        return
    print(f"weights: {classifier.info.name}; exact 95 % intervals\n")
    print(f"{'':34s}{'ALL fields flagged':26s}healthy fields flagged")
    print(f"{'blast flag':34s}{share(figures['all_flagged'], len(ill)):26s}", end="")
    print(share(figures["healthy_flagged"], len(healthy)))
    print(f"{f'dark blobs, {blobs} or more':34s}{share(ill_blobs, len(ill)):26s}{share(healthy_blobs, len(healthy))}")
    print(f"{'camera alone':34s}{share(len(ill) - len(same_ill), len(ill)):26s}{share(0, len(healthy))}")
    print(f"{'blast flag, camera with both':34s}{share(figures['one_camera_all_flagged'], len(same_ill)):26s}", end="")
    print(share(figures["one_camera_healthy_flagged"], len(same_healthy)))
    print(f"\ncells: {len(blasts)} blasts against {len(normal)} leukocytes of healthy fields, AUROC ", end="")
    print(f"{figures['cell_auroc']:.3f} with their slide's distribution, {figures['cell_alone_auroc']:.3f} without")
    print(f"BCCD: {share(figures['bccd_flagged'], len(bccd))} of fields flagged; pooled as one slide: ", end="")
    print("flagged" if figures["bccd_pooled_flagged"] else "not flagged")
    for field in wrong:
        evidence = sorted((round(e, 1) for _, e in field.cell_evidence), reverse=True)[:5]
        print(f"  wrong: {field.path.name}: evidence {field.evidence:.2f}, cells {evidence}")


if __name__ == "__main__":
    main()
