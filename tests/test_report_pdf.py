"""The PDF: what stands on page 1, escapes, fonts, sizes, and the same bytes for the same input."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import cv2
import numpy as np
import pypdf
import pytest
from slides import RULES, slide_result, tile_map

from cbctool.records import CellClass, CellKind, Flag, Review, Scale, ScaleSource, Severity, SlideResult
from cbctool.report import ReportStyle
from cbctool.report.pdf import report_pdf
from cbctool.report.sheet import BOLD, FONT, one_line, register_fonts, shortened, text_width, tint, wrapped

COUNTS = {
    "neutrophil": 120,
    "lymphocyte": 60,
    "monocyte": 10,
    "immature_granulocyte": 3,
    "erythroblast": 2,
    "platelet": 9,
}
FLAGS = (
    Flag("scale_disagrees", Severity.NOTE, "Scale disagrees", "Two scales.", ()),
    Flag("blast_like", Severity.CRITICAL, "Blast-like cells", "2 cells are unlike any class.", (("field_01.png", 1),)),
)


def pages(data: bytes) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages]


def pdf(result: SlideResult, **style: object) -> bytes:
    return report_pdf(result, ReportStyle(**style), RULES)  # type: ignore[arg-type]


def test_page_one_carries_the_decision() -> None:
    text = pages(pdf(slide_result(COUNTS, red_cells=100, unclassified=3, flags=FLAGS), lab_name="Lab Ω"))[0]
    for expected in (
        *("Lab Ω", "slide-1", "PRELIMINARY", "193 leukocytes classified", "3 of 198 nucleated cells unclassified"),
        *("2 cells are unlike any class.", "Neutrophils", "62.2", "54.9 – 69.0", "40 – 80", "1.0 per 100 WBC"),
        *("90 per 1,000 red cells", "morphology not assessed", "Confirmed by", "For research use"),
    ):
        assert expected in text
    assert text.index("Blast-like cells") < text.index("Scale disagrees"), "most severe first"


def test_galleries_fields_quality_and_method_follow() -> None:
    result = slide_result(COUNTS, red_cells=20, blast_like=2, flags=FLAGS)
    text = "\n".join(pages(pdf(result))[1:])
    for expected in (
        *(
            "Cells by class",
            "most doubtful",
            "Annotated fields",
            "Quality and scale of the fields",
            "Legend of flags",
        ),
        *("N:C 0.90", result.weights.sha256, result.weights.trained_on, "Bands are not separated", "ISLH 2005"),
    ):
        assert expected.lower() in text.lower()


def test_a_whole_slide_has_its_map_with_a_legend() -> None:
    result = slide_result(COUNTS)
    mapped = dataclasses.replace(result, tiles=tile_map())
    text = " ".join("\n".join(pages(pdf(mapped))).split())
    assert "Of 12 tiles 2 were counted" in text
    for entry in ("counted: 2", "too thick: 1", "too thin (feathered edge): 1", "failed: 1", "background: 6"):
        assert entry in text
    assert "were counted" not in "".join(pages(pdf(result)))
    assert pdf(dataclasses.replace(mapped, tiles=dataclasses.replace(tile_map(), overview_jpeg=b"")))


def test_no_blast_percentage_anywhere() -> None:
    text = "\n".join(pages(pdf(slide_result(COUNTS, blast_like=5, flags=FLAGS))))
    for line in text.splitlines():
        if "blast" in line.lower().replace("erythroblast", ""):
            assert not re.search(r"\d\s*%", line), line


def test_too_few_leukocytes_have_counts_and_no_percentages() -> None:
    text = pages(pdf(slide_result({"neutrophil": 7, "lymphocyte": 3})))[0]
    assert "no differential" in text
    assert "counts only" in text
    assert "70.0" not in text


def test_reviewed_report_names_the_reviewer_and_the_old_call() -> None:
    result = slide_result(COUNTS)
    first = next(i for i, o in enumerate(result.observations) if o.cell.kind is CellKind.NUCLEATED)
    changed = dataclasses.replace(result.observations[first], called=CellClass.BASOPHIL)
    observations = (*result.observations[:first], changed, *result.observations[first + 1 :])
    review = Review("Dr. Grün", "2026-03-02T10:00:00+00:00", 1)
    text = pages(pdf(dataclasses.replace(result, review=review, observations=observations)))
    assert "REVIEWED" in text[0]
    assert "PRELIMINARY" not in text[0]
    assert "Reviewed by Dr. Grün, 2026-03-02 10:00 UTC, 1 call changed" in text[0]
    assert "was BAS" in "\n".join(text)


def test_absolute_counts_stand_beside_percentages_only_where_wbc_is_given() -> None:
    assert "×10⁹/L" not in pages(pdf(slide_result(COUNTS)))[0]
    text = pages(pdf(slide_result(COUNTS, wbc=10.0)))[0]
    assert "×10⁹/L" in text
    assert "6.22" in text


def test_the_reference_intervals_and_the_age_stand_on_page_one() -> None:
    result = slide_result(COUNTS, wbc=7.0)
    counts = dataclasses.replace(result.differential, reference="from 18 years; a textbook")
    slide = dataclasses.replace(result.slide, age_years=61.0, wbc_uncorrected=True)
    text = " ".join(pages(pdf(dataclasses.replace(result, slide=slide, differential=counts)))[0].split())
    assert "Reference intervals: from 18 years; a textbook." in text
    assert "61 years" in text
    assert "from the analyser, not corrected for NRBC" in text
    silent = dataclasses.replace(slide, wbc_uncorrected=False)
    text = " ".join(pages(pdf(dataclasses.replace(result, slide=silent, differential=counts)))[0].split())
    assert "from the analyser, taken as corrected for NRBC" in text  # two were counted
    corrected = dataclasses.replace(counts, wbc_corrected_10e9_per_l=6.254)
    text = " ".join(pages(pdf(dataclasses.replace(result, slide=slide, differential=corrected)))[0].split())
    assert "corrected for NRBC to 6.25" in text  # as the flag has it; "NRBC 6.25" would be a count of NRBC
    assert "no class for blasts, plasma cells or atypical lymphocytes" in text


def test_a_long_comment_is_read_on_page_one_and_an_endless_one_is_cut() -> None:
    result = slide_result(COUNTS)
    for words in (20, 300):
        comment = " ".join(f"word{n}" for n in range(words))
        text = pages(pdf(dataclasses.replace(result, slide=dataclasses.replace(result.slide, comment=comment))))[0]
        assert "word0 word1" in text
        assert "word19" in text
        assert "word299" not in text
        assert ("…" in text) == (words == 300)


def test_platelets_have_the_profiles_interval_beside_them() -> None:
    result = slide_result(COUNTS, red_cells=100)
    assert "expected" not in pages(pdf(result))[0]
    options = {"profile": {"platelets": {"per_1000_red_cells": [27.0, 112.0]}}}
    assert "expected 27 – 112; 9 counted" in pages(pdf(dataclasses.replace(result, options=options)))[0]


def test_rules_that_the_laboratory_has_switched_off_are_not_said_to_be_quiet() -> None:
    result = slide_result(COUNTS, flags=[Flag("blast_like", Severity.CRITICAL, "Blast-like cells", "x.")])
    options = {"profile": {"flags": {"off": ["scale_disagrees"]}}}
    text = pages(pdf(dataclasses.replace(result, options=options)))[-1].partition("Legend of flags")[2]
    assert text.index("not raised") < text.index("Immature granulocytes") < text.index("switched off")
    assert text.index("switched off") < text.index("Scale disagrees")
    assert "switched off" not in pages(pdf(result))[-1]


def test_smudge_cells_have_a_number_of_their_own() -> None:
    result = slide_result(COUNTS)
    counts = dataclasses.replace(result.differential, cut_by_edge=2, artefacts=5, smudge_cells=4)
    text = pages(pdf(dataclasses.replace(result, differential=counts)))[0]
    assert "2 at the edge, 1 artefact\n4 smudge cells" in text


@pytest.mark.parametrize(("um_per_px", "columns"), [(0.05, 3), (0.17, 2), (0.4, 1)])
def test_fields_are_drawn_at_the_size_of_their_cells_with_a_scale_bar(um_per_px: float, columns: int) -> None:
    result = slide_result(COUNTS, fields=6)
    scale = Scale(um_per_px, ScaleSource.GIVEN)
    result = dataclasses.replace(
        result, fields=tuple(dataclasses.replace(field, scale=scale) for field in result.fields)
    )
    reader = pypdf.PdfReader(io.BytesIO(pdf(result)))
    found = []
    for page in reader.pages:
        page.extract_text(visitor_text=lambda text, _cm, tm, *_: found.append((text, round(tm[4]), round(tm[5]))))
    heads = [(x, y) for text, x, y in found if text.startswith("Field ")]
    assert len(heads) == 6
    assert len({x for x, _ in heads}) == columns
    assert sum("µm" in text and text.strip()[0].isdigit() and len(text) < 8 for text, *_ in found) >= 6


def test_annotations_do_not_leave_their_field() -> None:
    reader = pypdf.PdfReader(io.BytesIO(pdf(slide_result(COUNTS, fields=4))))
    page = next(page for page in reader.pages if "Annotated fields" in page.extract_text())
    drawn = page.get_contents().get_data().split()
    assert drawn.count(b"W*") == 4, "a clipping path for each field"


def test_users_text_is_shown_as_it_is() -> None:
    name = "<b>&amp; 😐 Ω/…\n\udcff" + "x" * 300
    result = slide_result({"neutrophil": 1}, name=name, comment="<font size=99>", field_names=["<i>.png"])
    text = "\n".join(pages(pdf(result)))
    assert "<b>&amp; U+1F610 Ω/… \\udcffx" in text
    assert "<font size=99>" in text
    assert "<i>.png" in text


def test_same_input_same_bytes_and_epoch_sets_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slide_result(COUNTS, red_cells=20, flags=FLAGS)
    assert pdf(result) == pdf(result)
    assert pdf(result) == pdf(dataclasses.replace(result, seconds=99.0))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert "2023-11-14 22:13 UTC" in pages(pdf(result))[0]


@pytest.mark.parametrize("size", ["A4", "Letter"])
def test_fonts_are_embedded_and_nothing_leaves_the_page(size: str) -> None:
    many = tuple(
        Flag(f"f{i}", Severity.WARNING, f"Flag number {i} with a long name", "A long sentence. " * 12, ())
        for i in range(12)
    )
    reader = pypdf.PdfReader(io.BytesIO(pdf(slide_result(COUNTS, flags=many, fields=30), page_size=size)))
    width, height = (float(v) for v in reader.pages[0].mediabox[2:])
    assert (round(width), round(height)) == ((595, 842) if size == "A4" else (612, 792))
    for page in reader.pages:
        for font in page["/Resources"]["/Font"].values():
            name = font.get_object()["/BaseFont"]
            assert "DejaVu" in name or name == "/Helvetica", name  # Helvetica is declared by the library and never used
            if "DejaVu" in name:
                assert "/FontFile2" in font.get_object()["/FontDescriptor"]
        places: list[tuple[float, float]] = []
        page.extract_text(
            visitor_text=lambda t, cm, tm, f, s, p=places: p.append((tm[4], tm[5])) if t.strip() else None
        )
        assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert "Flag number 11" in "\n".join(page.extract_text() for page in reader.pages)


def test_200_cells_stay_below_two_megabytes() -> None:
    rng = np.random.default_rng(1)
    result = slide_result({"neutrophil": 200}, fields=40)

    def noisy(side: int, quality: int) -> bytes:
        picture = cv2.resize(rng.integers(0, 255, (side // 4, side // 4, 3), np.uint8), (side, side))
        return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])

    heavy = noisy(1600, 85)
    assert len(heavy) > 200_000
    result = dataclasses.replace(
        result,
        fields=tuple(dataclasses.replace(f, preview_jpeg=heavy) for f in result.fields),
        observations=tuple(dataclasses.replace(o, thumbnail=noisy(96, 90)) for o in result.observations),
    )
    assert len(pdf(result)) < 2_000_000


def test_more_cells_than_the_report_shows_are_said() -> None:
    text = "\n".join(pages(pdf(slide_result({"neutrophil": 60, "monocyte": 5}), pdf_cells=30)))
    assert "60, of which the 25 most doubtful are shown" in text


def test_empty_slide_has_a_report() -> None:
    assert "0 leukocytes classified" in pages(pdf(slide_result({}, fields=1)))[0]


def test_logo_is_drawn_and_a_missing_one_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logo = tmp_path / "logo.png"
    assert cv2.imwrite(str(logo), np.zeros((20, 60, 3), np.uint8))
    with_logo = pypdf.PdfReader(io.BytesIO(pdf(slide_result({}), logo=logo)))
    assert len(with_logo.pages[0].images) == 1
    pdf(slide_result({}), logo=tmp_path / "gone.png")
    assert "logo is left out" in caplog.text


def test_text_fits() -> None:
    register_fonts()
    assert shortened("short", FONT, 8, 100) == "short"
    cut = shortened("a_very_long_file_name_0001.png", FONT, 8, 60)
    assert "…" in cut
    assert cut.endswith("g")
    assert text_width(cut, FONT, 8) <= 60
    lines = wrapped("one two " + "x" * 80, BOLD, 8, 60)
    assert all(text_width(line, BOLD, 8) <= 60 for line in lines)
    assert "".join(lines).replace(" ", "") == "onetwo" + "x" * 80
    assert one_line("a\nb\udcff") == "a b\\udcff"
    assert one_line("日 Ж▲") == "U+65E5 Ж▲"
    assert all(line.strip() != "%)." for line in wrapped("in 119 cells (95 %).", FONT, 8, 66)), "a number keeps its %"
    assert tint("#000000") == "#808080"


def test_style_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="page_size"):
        ReportStyle(page_size="A5")
    with pytest.raises(ValueError, match="no such output: word"):
        ReportStyle(outputs=frozenset({"word"}))
