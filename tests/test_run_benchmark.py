"""The benchmarks run on next to nothing and count what is there; how long anything takes is not looked at."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cbctool.run.benchmark import Benchmark, Timing, benchmark, render_slides, table, to_json
from cbctool.run.benchmark_slides import flatness_table, time_long_run, time_night, time_whole_slide, whole_slide_table
from cbctool.run.discover import discover_slides


def test_rendered_slides_differ_to_the_byte(tmp_path: Path) -> None:
    render_slides(tmp_path, 2, 2, (80, 60), 0.5)
    slides = discover_slides(tmp_path).slides
    assert [len(slide.paths) for slide in slides] == [2, 2]
    assert len({path.read_bytes() for slide in slides for path in slide.paths}) == 4


def test_a_benchmark_accounts_for_every_field(tmp_path: Path) -> None:
    found = benchmark(slides=1, fields=2, size=(320, 240), um_per_px=0.25, jobs=[1], repeats=1, crops=200)
    (timing,) = found.timings
    assert (timing.slides, timing.fields, timing.jobs) == (1, 2, 1)
    assert timing.cells > 20
    assert {"decode", "segment", "classify"} <= set(timing.stages)
    assert timing.ratio > 1
    assert "| 1 | cpu |" in table(found)
    assert json.loads(to_json(found))["timings"][0]["fields"] == 2


def test_cores_at_work_are_processor_time_over_time() -> None:
    one = Timing(
        jobs=1, device="cpu", repeats=1, seconds=10.0, spread=0.0, decode_seconds=2.0, first_field_seconds=1.0,
        stages={"decode": 2.0}, peak_memory_bytes=10**9, slides=1, fields=100, megapixels=200.0, cells=1000,
        start_cpu_seconds=1.0, cpu_ms_per_field=105.0,
    )  # fmt: skip
    two = dataclasses.replace(one, jobs=2, seconds=6.0)
    assert one.cores_at_work == pytest.approx(1.15)
    text = table(Benchmark("1", "a machine", "fields", (one, two)))
    assert "analysis x1.67, decode only x1.00. Cores at work in the analysis: 1.15, then 1.92" in text


def test_long_runs_are_marked_early_and_late() -> None:
    run = time_long_run(2, 5, jobs=1)
    assert (run.slides, run.fields) == (2, 5)
    assert run.last_cpu_ms > 0
    assert run.last_bytes > 50e6
    assert "| 2 | 5 |" in flatness_table([run])[2]


def test_a_whole_slide_is_held_against_what_was_drawn(tmp_path: Path) -> None:
    timing = time_whole_slide(2000, 1, tmp_path)
    assert timing.once + timing.missed + timing.twice == timing.drawn
    assert timing.tiles["counted"] > 0
    assert timing.drawn > 10
    assert timing.once >= 0.9 * timing.drawn
    assert timing.twice == 0
    assert abs(timing.red_cells_found - timing.red_cells_drawn) < 0.15 * timing.red_cells_drawn
    assert len(whole_slide_table([timing])) == 3


def test_a_night_has_every_slide_and_every_crop() -> None:
    night = time_night(slides=3, jobs=1, cells=20)
    assert night.slides == 3
    assert night.cells % 3 == 0
    assert night.cells > 30
    assert 0 < night.network_share < 1
