"""What the command line says: progress, the closing table, and what is installed."""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cbctool.records import LEUKOCYTES, Adequacy
from cbctool.run.analyse import RunReport
from cbctool.run.discover import Discovery
from cbctool.run.pipeline import FieldsProgress, Outcome

_SHORT = dict(zip(LEUKOCYTES, ("N", "L", "M", "E", "B", "IG"), strict=True))


class Progress:
    """One bar over slides, with fields and cells per second; a context manager. Writes to stderr."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None
        self._fields = self._cells = 0
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, found: Discovery) -> None:
        """Show the bar once it is known how many slides there are."""
        from tqdm import tqdm

        self._bar = tqdm(total=len(found.slides), unit="slide", disable=self._hidden or None, file=sys.stderr)

    def tell(self, outcome: Outcome) -> None:
        """Count what happened."""
        if isinstance(outcome, FieldsProgress):
            self._fields += outcome.fields
            self._cells += outcome.cells
            seconds = max(time.monotonic() - self._began, 1e-3)
            self._bar.set_postfix_str(
                f"{self._fields / seconds:.1f} fields/s, {self._cells / seconds:.0f} cells/s", refresh=False
            )
        else:
            self._bar.update(1)


def closing_table(report: RunReport, out: Path) -> str:
    """The slides of a run as a table for the terminal."""
    lines = []
    if report.rows:
        rows = [("slide", "leukocytes", "differential, %", "flags"), *map(_table_row, report.rows)]
        widths = [max(_width(row[i]) for row in rows) for i in range(3)]
        for row in rows:
            cells = [text + " " * (width - _width(text)) for text, width in zip(row[:3], widths, strict=True)]
            lines.append("  ".join([*cells, row[3]]).rstrip())
        lines.append("")
    done = [f"{report.slides_done} analysed"]
    done += [f"{report.slides_skipped} unchanged"] if report.slides_skipped else []
    done += [f"{report.slides_failed} failed"] if report.slides_failed else []
    lines.append(
        f"Slides: {', '.join(done)}; {report.fields} fields, {report.cells} cells in {report.seconds:.1f} s. "
        f"Reports: {out}"
    )
    if report.failures:
        lines.append(f"{len(report.failures)} picture(s) could not be analysed, see {out / 'failures.csv'}.")
    lines.append("Research use; preliminary until a qualified person has confirmed it.")
    return "\n".join(lines)


def _table_row(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = "".join(c if c.isprintable() else "�" for c in str(row["slide"]))
    if row["status"] == "failed":
        return name, "–", "failed, see failures.csv", ""
    values = [(_SHORT[one], _number(row.get(f"{one}_percent"))) for one in LEUKOCYTES]
    if row.get("adequacy") == Adequacy.NONE:  # so few cells carry no percentage
        counts = [f"{short} {value * int(row['leukocytes']) / 100:.0f}" for short, value in values if value > 0]
        differential = " ".join([*counts, "(cells)"]) if counts else ""
    else:
        differential = " ".join(f"{short} {value:.0f}" for short, value in values if not math.isnan(value))
    return name, str(row["leukocytes"]), differential or "–", str(row["flags"]).replace(";", ", ")


def _number(value: Any) -> float:
    return float(value) if value not in (None, "") else math.nan


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters and emoji take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def report_json(report: RunReport, out: Path) -> str:
    """The same for machines: one JSON object."""
    return json.dumps(
        {
            "out": str(out),
            "exit_code": int(report.exit_code),
            "slides": [{k: _plain(v) for k, v in row.items()} for row in report.rows],
            "failures": [asdict(failure) for failure in report.failures],
            "notes": list(report.notes),
            "seconds": round(report.seconds, 3),
        },
        indent=1,
        ensure_ascii=False,
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_PACKAGES = (
    *("torch", "torchvision", "opencv-python-headless", "scikit-image", "numpy", "scipy", "pillow", "tifffile"),
    *("openslide-python", "reportlab", "pydantic", "safetensors"),
)


def describe_installation(weights: Path | None = None, as_json: bool = False) -> str:
    """Versions, devices, weights with their figures, formats."""
    import torch

    from cbctool.classifier.weights import weights_info
    from cbctool.imaging.headers import EXTENSIONS
    from cbctool.imaging.whole_slide import WHOLE_SLIDE_EXTENSIONS

    info = weights_info(weights)
    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    versions = {"cbctool": _version("cbctool"), "python": platform.python_version()}
    versions |= {name: _version(name) for name in _PACKAGES}
    facts = {
        "versions": versions,
        "platform": platform.platform(),
        "devices": devices,
        "weights": {
            "name": info.name,
            "sha256": info.sha256,
            "validated": info.validated,
            "architecture": info.architecture,
            "trained_on": info.trained_on,
            "date": info.date,
            "metrics": {k: _plain(v) for k, v in info.metrics.items()},
        },
        "formats": sorted(EXTENSIONS),
        "whole_slide_formats": sorted(WHOLE_SLIDE_EXTENSIONS),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }
    if as_json:
        return json.dumps(facts, indent=1)
    standing = "shipped with cbctool" if info.validated else "local, not validated by the project"
    lines = [f"{name} {number}" for name, number in versions.items()]
    lines += [f"platform {facts['platform']}", f"devices {', '.join(devices)}"]
    lines += [f"weights {info.name}, {standing}", f"  sha256 {info.sha256}", f"  architecture {info.architecture}"]
    lines += [f"  trained on {info.trained_on}, {info.date}"]
    lines += [f"  {name} {value:.4g}" for name, value in info.metrics.items()]
    lines += [f"pictures {' '.join(sorted(EXTENSIONS))}", f"whole slides {' '.join(sorted(WHOLE_SLIDE_EXTENSIONS))}"]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def describe_profile_file(path: Path | None) -> str:
    """The lab profile in force, every value with its source."""
    from cbctool.hematology.profile import describe_profile, load_profile

    return describe_profile(load_profile(path))
