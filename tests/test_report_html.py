"""report.html and index.html: self-contained, escaped, linked, worst first."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

from slides import RULES, slide_result, tile_map

from cbctool.records import Failure, Flag, Severity, SlideResult
from cbctool.report import ReportStyle, read_table, summary_row, write_run
from cbctool.report.html import index_html, report_html

EVIL = "<script>alert(1)</script>\"' & {{ 7*7 }}"
COUNTS = {"neutrophil": 120, "lymphocyte": 60, "erythroblast": 2, "platelet": 4}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects elements, and notices one that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(result: SlideResult, overlays: dict[str, str] | None = None, **style: object) -> Page:
    return Page(report_html(result, ReportStyle(**style), RULES, overlays))  # type: ignore[arg-type]


def test_nothing_comes_from_outside_the_file() -> None:
    found = page(slide_result(COUNTS, red_cells=9))
    assert found.every("link") == found.every("script") == []
    for tag, attribute in (("img", "src"), ("image", "href")):
        sources = [a[attribute] or "" for a in found.every(tag)]
        assert sources
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_a_whole_slide_has_its_map_with_a_legend() -> None:
    found = page(dataclasses.replace(slide_result(COUNTS), tiles=tile_map()))
    text = " ".join("".join(found.text).split())
    assert "Of 12 tiles 2 were counted" in text
    assert "too thick: 1" in text
    assert [a.get("aria-label", "") for a in found.every("svg")].count("") < len(found.every("svg"))
    marks = [a["fill"] for a in found.every("rect") if a.get("fill") in ("#0072B2", "#E69F00")]
    assert marks.count("#E69F00") == 1
    assert any(a.get("alt") == "The slide" for a in found.every("img"))


def test_every_cell_leads_to_its_place_in_the_field() -> None:
    found = page(slide_result(COUNTS, unclassified=2))
    targets = {a["id"] for a in found.every("g")}
    links = [a["href"] or "" for a in found.every("a")]
    assert len(links) == 184
    assert all(link.startswith("#") and link[1:] in targets for link in links)


def test_cells_of_fields_that_are_not_shown_lead_to_the_overlay() -> None:
    found = page(slide_result({"neutrophil": 2}, fields=2), {"field_02.png": "overlay_field_02.jpg"}, html_fields=1)
    links = {a["href"] for a in found.every("a")}
    assert links == {"#cell-1-1", "overlay_field_02.jpg"}


def test_same_content_as_the_pdf() -> None:
    flags = (Flag("blast_like", Severity.CRITICAL, "Blast-like cells", "2 unlike any.", (("field_01.png", 1),)),)
    text = " ".join(page(slide_result(COUNTS, blast_like=2, flags=flags, wbc=7.0), lab_name="Lab Ω").text)
    for expected in (
        *("Lab Ω", "PRELIMINARY", "180 leukocytes classified", "2 unlike any.", "66.7", "40 – 80", "per 100 WBC"),
        *(
            "Cells that raised flags",
            "N:C 0.90",
            "hand-made tables",
            "Bands are not separated",
            "0123456789abcdef",
            "4.67",
        ),
    ):
        assert expected in text


def test_users_text_is_escaped_everywhere() -> None:
    result = slide_result(COUNTS, name=EVIL, comment=EVIL, field_names=[EVIL + ".png", "b.png"], unclassified=1)
    slide = dataclasses.replace(result.slide, sample_id=EVIL)
    failure = Failure(EVIL, EVIL, EVIL, EVIL)
    result = dataclasses.replace(result, slide=slide, warnings=(EVIL,), failures=(failure,), options={EVIL: EVIL})
    rules = [dataclasses.replace(RULES[0], long=EVIL)]
    text = report_html(result, ReportStyle(lab_name=EVIL), rules)
    index = index_html([summary_row(result)], [failure], ReportStyle(lab_name=EVIL))
    assert "<script>alert" not in text + index
    assert text.count("&lt;script&gt;alert(1)") > 8
    assert "{{ 7*7 }}" in text
    assert EVIL in "".join(Page(text).text)
    assert EVIL in "".join(Page(index).text)


def test_too_few_leukocytes_have_no_percentages() -> None:
    text = " ".join(page(slide_result({"neutrophil": 7, "lymphocyte": 3})).text)
    assert "counts only" in text
    assert "70.0" not in text


def test_size_is_bounded() -> None:
    few = page(slide_result({"neutrophil": 60}, fields=5), html_cells=20, html_preview_bytes=1)
    assert len(few.every("img")) == 20
    assert few.every("image") == []


def test_index_has_the_worst_first_and_links_to_every_report(tmp_path: Path) -> None:
    def slide(name: str, severity: Severity | None, **more: str) -> dict[str, object]:
        flags = [Flag("x", severity, "X", "x.")] if severity else []
        return {**summary_row(slide_result(COUNTS, name=name, flags=flags)), **more}

    rows = [
        slide("fine", None),
        slide("a note", Severity.NOTE),
        slide("warned", Severity.WARNING),
        slide("lost a field", None, status="partial"),
        slide("too few", None, adequacy="no differential"),
        slide("blasts?", Severity.CRITICAL),
        {"slide": "broken", "status": "failed"},
    ]
    write_run(tmp_path, rows, [], ReportStyle(), folder_of=lambda name: name.replace("?", "_"))
    text = (tmp_path / "index.html").read_text()
    order = re.findall(r"<td class=\"name\"><a href=\"[^\"]*\">([^<]*)</a></td>|<td class=\"name\">(broken)</td>", text)
    names = [a or b for a, b in order]
    assert names == ["broken", "blasts?", "lost a field", "too few", "warned", "a note", "fine"]
    assert text.count('<td class="n">66.7</td>') == 5, "no percentages where there is no differential"
    links = [a["href"] for a in Page(text).every("a")]
    assert links[:2] == ["blasts_/report.html", "lost%20a%20field/report.html"]


def test_index_has_a_heading_for_every_column_and_names_flags_in_words(tmp_path: Path) -> None:
    flags = [Flag("blast_like_cells", Severity.CRITICAL, "B", "b."), Flag("nrbc", Severity.WARNING, "N", "n.")]
    row = summary_row(slide_result(COUNTS, flags=flags)) | {"comment": "second film"}
    write_run(tmp_path, [row], [], ReportStyle())
    found = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert len(found.every("th")) == len(found.every("td"))
    text = " ".join("".join(found.text).split())
    assert "blast-like cells; NRBC" in text
    assert "second film" in text


def test_index_from_rows_read_back_is_the_same(tmp_path: Path) -> None:
    rows = [summary_row(slide_result(COUNTS, name=name, flags=[Flag("x", Severity.NOTE, "X", "x.")])) for name in "ba"]
    write_run(tmp_path, rows, [Failure("=c", "p", "e", "a")], ReportStyle())
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    failures = [Failure(**row) for row in read_table(tmp_path / "failures.csv")]
    write_run(tmp_path, read_table(tmp_path / "summary.csv"), failures, ReportStyle())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
    assert set(first) == {"summary.csv", "failures.csv", "index.html"}


def test_empty_slide_and_empty_run() -> None:
    page(slide_result({}, fields=1))
    Page(index_html([], [], ReportStyle()))
