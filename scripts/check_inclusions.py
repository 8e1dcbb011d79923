"""Check the flag for bodies in red cells: where platelets lie in real fields, and malaria parasites drawn into them.

Run: ``python scripts/check_inclusions.py [--pictures FOLDER]``

First the real fields (ALL-IDB1, every third of BCCD, every sixtieth of PBC): platelet objects well within red cells,
and how many would be there by chance. Then ALL-IDB1's healthy fields with parasites in some of their red cells: how
many are flagged, each as a slide of its own, and whether all are as one slide. Parasites are drawn in the field's own
nuclear colour, in the sizes and shapes that textbooks commonly give: a ring of a fifth to a third of the red cell, an
amoeboid trophozoite, a schizont of 8 to 20 merozoites, the banana of a falciparum gametocyte. Nothing is fitted here.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cbctool.classifier.predict import Classifier
from cbctool.errors import CbctoolError
from cbctool.hematology import interpret
from cbctool.hematology.calls import call_cells
from cbctool.hematology.inclusions import find_inclusions
from cbctool.hematology.profile import Profile
from cbctool.imaging.field import analyse_field
from cbctool.imaging.read import read_field
from cbctool.records import CellKind, Field, FieldResult, FieldSummary, Observation, Slide

DATA = Path(os.environ.get("CBCTOOL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
STAGES = ("ring", "trophozoite", "schizont", "gametocyte")
SIDE_UM = 12.0
NUCLEUS = (0.9, 1.3, 0.4)  # natural optical density R, G, B where a field shows no leukocyte
BLUE, VIOLET, PIGMENT = (1.0, 0.7, 0.5), (0.7, 0.95, 0.75), (0.5, 0.55, 0.65)  # of the nuclei's density; the last alone
SHARPNESS_UM = 0.18  # sigma of an oil objective

Disc = NDArray[np.float32]
Seen = tuple[list[FieldSummary], list[Observation]]


def disc(side: int, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Disc:
    """A filled ellipse with soft edges, 0 to 1."""
    picture = np.zeros((side, side), np.float32)
    centre, axes = (round(16 * x), round(16 * y)), (max(1, round(16 * rx)), max(1, round(16 * ry)))
    cv2.ellipse(picture, centre, axes, angle, 0, 360, (1.0,), -1, cv2.LINE_AA, 4)
    return picture


def parasite(stage: str, um: float, rng: np.random.Generator) -> tuple[Disc, Disc, Disc]:
    """Cytoplasm, chromatin and pigment (0 to 1) of one parasite in a square of 12 um."""
    side = int(SIDE_UM / um) | 1
    blue, chromatin, pigment = (np.zeros((side, side), np.float32) for _ in range(3))
    middle = np.full(2, side / 2)

    def add(to: Disc, at: NDArray[np.float64], rx: float, ry: float) -> None:
        np.maximum(to, disc(side, *at, rx / um, ry / um, rng.uniform(0, 180)), out=to)

    def near(spread_um: float) -> NDArray[np.float64]:
        return middle + rng.normal(0, spread_um / um, 2)

    if stage == "ring":
        at, radius, turn = near(0.7), rng.uniform(0.9, 1.5), rng.uniform(0, 2 * np.pi)
        blue = 0.45 * (disc(side, *at, radius / um, radius / um) - disc(side, *at, *2 * [(radius - 0.35) / um]))
        for dot in range(1 + (rng.random() < 0.2)):
            add(chromatin, at + radius / um * np.array([np.cos(turn + dot), np.sin(turn + dot)]), 0.4, 0.35)
    elif stage == "trophozoite":
        for _ in range(6):
            add(blue, near(0.9), rng.uniform(0.7, 1.4), rng.uniform(0.6, 1.2))
        add(chromatin, near(0.7), rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.7))
        for _ in range(8):
            add(pigment, near(0.9), 0.15, 0.15)
        blue *= 0.5
    elif stage == "schizont":
        radius = rng.uniform(2.4, 3.3)
        blue = 0.35 * disc(side, *middle, radius / um, radius / um)
        for _ in range(rng.integers(8, 21)):
            turn, away = rng.uniform(0, 2 * np.pi), 0.85 * radius / um * np.sqrt(rng.random())
            add(chromatin, middle + away * np.array([np.cos(turn), np.sin(turn)]), 0.45, 0.35)
        for _ in range(10):
            add(pigment, near(0.4), 0.18, 0.18)
    else:
        turn = rng.uniform(0, 2 * np.pi)
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        for place in np.linspace(-1, 1, 25):
            at = middle + (4.6 * place * along + 1.6 * (place**2 - 0.4) * across) / um
            width = 1.2 * np.sqrt(1 - 0.75 * place**2)
            add(blue, at, width, width)
            if abs(place) < 0.3:
                add(chromatin, at, 0.6 * width, 0.6 * width)
        blue, chromatin = 0.45 * blue, 0.6 * chromatin
    return blue.clip(0, 1), chromatin, pigment


def infect(field: Field, found: FieldResult, share: float, rng: np.random.Generator) -> tuple[Field, int]:
    """The field with a parasite in this share of its whole red cells, and how many there are."""
    um = found.summary.scale.um_per_px
    density = np.log(256.0 / (field.rgb.astype(np.float32) + 1.0))
    nuclei = [density[int(c.row_px), int(c.col_px)] for c in found.cells if c.kind is CellKind.NUCLEATED]
    nucleus = np.median(nuclei, axis=0) if nuclei else np.array(NUCLEUS)
    red = [c for c in found.cells if c.kind is CellKind.ERYTHROCYTE and not c.touches_edge]
    ill = [c for c in red if rng.random() < share]
    for cell in ill:
        blue, chromatin, pigment = parasite(STAGES[rng.integers(len(STAGES))], um, rng)
        stain = blue[..., np.newaxis] * BLUE * nucleus + chromatin[..., np.newaxis] * VIOLET * nucleus
        stain = cv2.GaussianBlur(stain + pigment[..., np.newaxis] * np.array(PIGMENT), (0, 0), SHARPNESS_UM / um)
        top, left = int(cell.row_px) - len(blue) // 2, int(cell.col_px) - len(blue) // 2
        y0, x0 = max(top, 0), max(left, 0)
        part = density[y0 : top + len(blue), x0 : left + len(blue)]
        part += stain[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]]
    rgb = np.clip(np.rint(256.0 * np.exp(-density) - 1.0), 0, 255).astype(np.uint8)
    return replace(field, rgb=rgb), len(ill)


def fields_of(name: str) -> Iterator[tuple[Field, FieldResult]]:
    """Some fields of a collection."""
    paths, um_per_px = {
        "ALL-IDB1, healthy": (sorted((DATA / "all_idb1" / "images").glob("*_0.jpg")), None),
        "ALL-IDB1, leukaemia": (sorted((DATA / "all_idb1" / "images").glob("*_1.jpg")), None),
        "BCCD": (sorted((DATA / "bccd" / "images").glob("*.jpg"))[::3], 7.5 / 103),
        "PBC": (sorted((DATA / "pbc" / "images").rglob("*.jpg"))[::60], 0.190),
    }[name]
    for path in paths:
        try:
            field = read_field(path, path.stem, path.name)
            yield field, analyse_field(field, given_um_per_px=um_per_px)
        except CbctoolError as error:
            print(f"{path.name}: {error}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="folder for the fields with drawn parasites")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    classifier = Classifier(device="cpu")
    print("| fields | platelet objects | well within red cells | by chance | fields flagged | as one slide |")
    print("|---|---|---|---|---|---|")
    for name in ("ALL-IDB1, healthy", "ALL-IDB1, leukaemia", "BCCD", "PBC"):
        seen = [([result.summary], observe(result, classifier)) for _, result in fields_of(name)]
        found = find_inclusions(*pooled(seen))
        inside = len(found.cells)
        print(f"| {name} | {found.bodies} | {inside} | {found.by_chance:.0f} | {flags(seen, classifier)} |", flush=True)
    print("\n| red cells with a parasite | parasites | bodies in red cells | also as | fields flagged | as one slide |")
    print("|---|---|---|---|---|---|")
    for share in (0.0, 0.01, 0.02, 0.05, 0.1):
        rng = np.random.default_rng(0)
        drawn, seen, extra = 0, [], Counter[str]()
        for field, before in fields_of("ALL-IDB1, healthy"):
            ill, count = infect(field, before, share, rng)
            result = analyse_field(ill)
            seen.append(([result.summary], observe(result, classifier)))
            drawn += count
            extra.update(nucleated(seen[-1][1]))
            extra.subtract(nucleated(observe(before, classifier)))
            if options.pictures and share == 0.05:
                options.pictures.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(options.pictures / f"{field.name}.png"), ill.rgb[..., ::-1])
        inside = len(find_inclusions(*pooled(seen)).cells)
        also = ", ".join(f"{count:+d} {name}" for name, count in extra.most_common() if count)
        print(f"| {100 * share:g} % | {drawn} | {inside} | {also} | {flags(seen, classifier)} |", flush=True)


def observe(result: FieldResult, classifier: Classifier) -> list[Observation]:
    """The field's cells with their calls."""
    scores = classifier.classify(result.crops)
    calls = call_cells(result.cells, result.crop_cells, scores, classifier.info)
    return [Observation(result.summary.name, cell, call) for cell, call in zip(result.cells, calls, strict=True)]


def pooled(seen: list[Seen]) -> Seen:
    """All fields, and all their cells."""
    return [one for fields, _ in seen for one in fields], [one for _, cells in seen for one in cells]


def flags(seen: list[Seen], classifier: Classifier) -> str:
    """How many fields are flagged as slides of their own, and whether they are as one slide."""

    def flagged(fields: list[FieldSummary], observations: list[Observation]) -> bool:
        raised = interpret(Slide("fields", Path(), ()), fields, observations, classifier.info, Profile()).flags
        return "bodies_in_red_cells" in {flag.code for flag in raised}

    return f"{sum(flagged(*one) for one in seen)} of {len(seen)} | {'yes' if flagged(*pooled(seen)) else 'no'}"


def nucleated(observations: list[Observation]) -> Counter[str]:
    """Nucleated cells by what they are called."""
    return Counter(
        str(o.prediction.cell_class if o.prediction.status == "classified" else o.prediction.status)
        for o in observations
        if o.cell.kind is CellKind.NUCLEATED and o.prediction is not None
    )


if __name__ == "__main__":
    main()
