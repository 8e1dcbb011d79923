"""Text as spreadsheets and annotation tools save it: their country's separator and decimal comma, their encoding."""

from __future__ import annotations

import math


def decode(data: bytes) -> str:
    """Text of a file: UTF-8 or UTF-16 by its mark, UTF-8 without one or, failing that, Windows-1252."""
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def separator(text: str) -> str:
    """What separates the columns of a table: comma, semicolon or tab, whichever its heading has most of."""
    return max(",;\t", key=text.lstrip("\r\n").partition("\n")[0].count)


def parse_number(text: str, delimiter: str) -> float:
    """A finite number, with a decimal comma unless commas separate.

    Raises
    ------
    ValueError
    """
    value = float(text if delimiter == "," else text.replace(",", "."))
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no finite number")
    return value
