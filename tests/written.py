"""Reading what a run wrote, times and durations apart."""

from __future__ import annotations

import csv
import json
from pathlib import Path

TIMES = {
    "seconds",
    "analysed_at",
    "started_at",
    "finished_at",
    "timestamp",
    "issued",
    "valueDateTime",
    "lastUpdated",
}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def numbers(out: Path) -> dict[str, object]:
    """Every CSV and JSON below a folder but the run's own, times and durations apart."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*.json")):
        if path.name != "run.json":
            found[str(path.relative_to(out))] = without_times(json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(out.rglob("*.csv")):
        found[str(path.relative_to(out))] = [without_times(row) for row in table(path)]
    return found
