"""Names that are safe where they go."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cbctool.report.names import overlay_names, plain_text, spreadsheet_text

ANY_TEXT = st.text(st.characters(codec=None, exclude_characters="\0"), max_size=300)


def test_formulas_are_text() -> None:
    assert spreadsheet_text("=1+1") == "'=1+1"
    assert spreadsheet_text("@cmd") == "'@cmd"
    assert spreadsheet_text("-2") == "'-2"
    assert spreadsheet_text("\t=x") == "'\t=x"
    assert spreadsheet_text("a=b") == "a=b"


@given(st.text())
def test_escaped_text_comes_back(text: str) -> None:
    escaped = spreadsheet_text(text)
    assert not escaped.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert plain_text(escaped) == text


def test_undecodable_file_name_can_be_written() -> None:
    assert spreadsheet_text("a\udcff.png").encode("utf-8") == b"a\\udcff.png"


def test_plain_names_stay_as_they_are() -> None:
    names = overlay_names(["BloodImage_00001.jpg", "IMG-2.tif"])
    assert names == {"BloodImage_00001.jpg": "overlay_BloodImage_00001.jpg", "IMG-2.tif": "overlay_IMG-2.jpg"}


@given(st.lists(ANY_TEXT, unique=True, max_size=20))
def test_every_field_has_a_safe_name_of_its_own(fields: list[str]) -> None:
    names = overlay_names(fields)
    assert list(names) == fields
    assert len({name.lower() for name in names.values()}) == len(fields)
    for name in names.values():
        assert re.fullmatch(r"overlay_[A-Za-z0-9._-]+\.jpg", name)
        assert len(name) <= 255


def test_folders_and_clashes_are_told_apart() -> None:
    names = overlay_names(["a/b.png", "a_b.png", "A_B.PNG", "a_b.jpg"])
    assert len({name.lower() for name in names.values()}) == 4
