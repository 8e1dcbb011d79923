"""Names that are safe where they go: files on any file system, cells of a spreadsheet."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

FORMULA_LEADERS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""A text cell that starts with one of these is run as a formula by a spreadsheet (OWASP, CSV injection)."""

STEM_BYTES = 120
"""Longest stem of an overlay's name; file systems allow 255 bytes for the whole name."""


def spreadsheet_text(text: str) -> str:
    """Text that a spreadsheet shows and never runs: a leading apostrophe is put before formulas (and apostrophes).

    :func:`plain_text` takes it off again. Lone surrogates (undecodable file names) become visible escapes.
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"'{text}" if text.startswith(("'", *FORMULA_LEADERS)) else text


def plain_text(text: str) -> str:
    """The inverse of :func:`spreadsheet_text`."""
    return text.removeprefix("'")


def overlay_names(fields: Iterable[str]) -> dict[str, str]:
    """File name ``overlay_<field>.jpg`` for each field: safe on every file system, unique, at most 255 bytes.

    The field's extension is dropped. What is not an ASCII letter, digit, dot, dash or underscore becomes ``_``; a name
    that had to be changed, or that would clash (also where case is ignored), ends in eight digits of its own hash.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for field in fields:
        stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", field) or field
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._")[:STEM_BYTES] or "field"
        if safe != stem or safe.lower() in taken:
            digest = hashlib.sha256(field.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            safe = f"{safe}_{digest}"
        taken.add(safe.lower())
        names[field] = f"overlay_{safe}.jpg"
    return names
