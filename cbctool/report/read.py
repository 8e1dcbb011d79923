"""Read a slide's report folder back to its result, pictures included: what a correction starts from."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

from cbctool.errors import InputError
from cbctool.records import SlideResult
from cbctool.report.pictures import OVERVIEW, pictures_of
from cbctool.report.result_json import result_of
from cbctool.report.tables import observation_of, parse_table


def read_slide(folder: Path) -> SlideResult:
    """The result that :func:`~cbctool.report.write.write_slide` wrote into ``folder``.

    Everything is taken from ``result.json`` and ``evidence.zip``, never from ``cells.csv``, which a person may have
    edited. Measures have the six significant digits of ``cells.csv``.

    Raises
    ------
    InputError
        Where the folder is not a slide's report, or its files are damaged.
    """
    advice = "Give the folder of one slide inside the reports, with result.json and evidence.zip as they were written."
    if not (folder / "result.json").is_file():
        raise InputError(f"{folder}: not a slide's report, there is no result.json.", advice)
    try:
        document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        with zipfile.ZipFile(folder / "evidence.zip") as archive:
            rows = parse_table(archive.read("cells.csv").decode("utf-8"))
            thumbnails = pictures_of(archive, "cells")
            previews = pictures_of(archive, "fields")
            overview = archive.read(OVERVIEW) if OVERVIEW in archive.namelist() else b""
        observations = tuple(observation_of(row, thumbnails.get(i, b"")) for i, row in enumerate(rows))
        names = [summary["name"] for summary in document["fields"]]
        return result_of(document, observations, {names[i]: jpeg for i, jpeg in previews.items()}, folder, overview)
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise InputError(f"{folder}: {name} cannot be read: {error.strerror or error}.", advice) from error
    except KeyError as error:
        raise InputError(f"{folder}: result.json or evidence.zip lacks {error}.", advice) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{folder}: result.json or evidence.zip is damaged ({error}).", advice) from error
