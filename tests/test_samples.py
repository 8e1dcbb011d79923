"""What lies in samples/ is what the script draws, and its truth can be read by the program."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cbctool.errors import OutputError
from cbctool.records import CellKind
from cbctool.synthetic.samples import SAMPLES, TRUTH_COLUMNS, render_sample, truth_csv, write_samples

FOLDER = Path(__file__).parents[1] / "samples"
SMALL = tuple(replace(sample, fields=1, shape=(200, 260), nucleated=4) for sample in SAMPLES[:2])


def stored_truth() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((FOLDER / "truth.csv").read_text(encoding="utf-8"))))


def test_folders_hold_the_declared_fields_and_stay_small() -> None:
    assert sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) == sorted(s.name for s in SAMPLES)
    for sample in SAMPLES:
        assert len(list((FOLDER / sample.name).glob("*.jpg"))) == sample.fields
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 8e6


def test_the_first_field_is_what_the_script_draws() -> None:
    sample = SAMPLES[0]
    name, rgb, _ = next(iter(render_sample(sample)))
    stored = cv2.imread(str(FOLDER / sample.name / name))[..., ::-1]
    # Another processor may round otherwise: JPEG's own loss is some 2 grey levels.
    assert np.abs(stored.astype(float) - rgb).mean() < 4


def test_truth_lists_enough_leukocytes_for_a_differential() -> None:
    rows = stored_truth()
    assert tuple(rows[0]) == TRUTH_COLUMNS
    whole = [r for r in rows if r["kind"] == CellKind.NUCLEATED and r["nucleus_touches_edge"] == "false"]
    per_slide = Counter(row["path"].split("/")[0] for row in whole)
    assert all(per_slide[sample.name] >= 100 for sample in SAMPLES)
    for row in rows[:200]:
        assert (FOLDER / row["path"]).is_file()
        assert int(row["xmin"]) < int(row["xmax"])
        assert int(row["ymin"]) < int(row["ymax"])


def test_the_pictures_of_the_slides_are_what_their_names_say() -> None:
    rows = stored_truth()

    def share(slide: str, name: str) -> float:
        nucleated = [r for r in rows if r["path"].startswith(slide + "/") and r["kind"] == CellKind.NUCLEATED]
        return sum(r["name"] == name for r in nucleated) / len(nucleated)

    assert share("eosinophilia", "eosinophil") > 0.15 > 0.08 > share("normal", "eosinophil")
    assert share("immature-granulocytes-nrbc", "immature_granulocyte") > 0.1
    assert share("immature-granulocytes-nrbc", "erythroblast") > 0.05
    assert share("blast-like", "blast") > 0.6
    assert share("normal", "blast") == 0


def test_writing_twice_gives_the_same_bytes_and_truth(tmp_path: Path) -> None:
    first, second = (write_samples(tmp_path / name, SMALL) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    text = truth_csv(SMALL)
    assert text == truth_csv(SMALL)
    assert {row["path"] for row in csv.DictReader(io.StringIO(text))} == {f"{s.name}/field_01.jpg" for s in SMALL}


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        write_samples(tmp_path / "taken", SMALL[:1])
