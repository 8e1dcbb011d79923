"""The stages together: slides in, reports out, whatever one field does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from slides import weights_info
from written import numbers, table

from cbctool.errors import ExitCode, InputError, OutputError, UsageError, WeightsError
from cbctool.records import CLASSES, Failure, Slide
from cbctool.run import manifest, pipeline, tasks
from cbctool.run.analyse import RunReport, analyse, with_twins_named
from cbctool.run.discover import discover_slides
from cbctool.run.parcel import Shelf
from cbctool.run.pipeline import (
    Analyser,
    Outcome,
    Settings,
    SlideDone,
    SlideFailed,
    file_sizes,
    hash_inputs,
)
from cbctool.run.pool import LocalPool, Pool

PER_SLIDE = {"report.pdf", "differential.csv", "cells.csv", "result.json", "manifest.json", "report.html"}


def finished_slides(out: Path) -> set[str]:
    """Slides whose folder is in place (``*`` of a glob would find the hidden ones in the making, too)."""
    return {p.parent.name for p in out.glob("[!.]*/manifest.json")}


@pytest.fixture(scope="module")
def analysed(drawn_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    out = tmp_path_factory.mktemp("reports") / "new" / "reports"
    return out, analyse(drawn_slides, Settings(out=out, jobs=2))


def test_every_slide_gets_its_files(analysed: tuple[Path, RunReport]) -> None:
    out, report = analysed
    assert report.exit_code is ExitCode.OK
    assert {p.name for p in out.iterdir()} == {
        "summary.csv", "failures.csv", "index.html", "run.json", "single", "two-fields",
    }  # fmt: skip
    for slide in ("single", "two-fields"):
        assert {p.name for p in (out / slide).iterdir()} >= PER_SLIDE
    assert {p.name for p in (out / "two-fields").glob("overlay_*")} == {"overlay_1.jpg", "overlay_2.jpg"}


def test_the_drawn_cells_are_found_and_scaled(analysed: tuple[Path, RunReport]) -> None:
    out, _ = analysed
    rows = {row["slide"]: row for row in table(out / "summary.csv")}
    assert set(rows) == {"single", "two-fields"}
    for name, fields in (("single", 1), ("two-fields", 2)):
        assert int(rows[name]["fields"]) == fields
        assert float(rows[name]["um_per_px"]) == pytest.approx(0.25, rel=0.08)
        cells = [row for row in table(out / name / "cells.csv") if row["kind"] == "nucleated"]
        assert len(cells) == pytest.approx(6 * fields, abs=2 * fields)
        assert int(rows[name]["erythrocytes"]) == pytest.approx(60 * fields, rel=0.25)


def test_a_slide_of_many_fields_waits_on_the_disk_and_gives_the_same(
    analysed: tuple[Path, RunReport], drawn_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_down = []
    put = Shelf.put
    monkeypatch.setattr(pipeline, "FIELDS_IN_MEMORY", 1)
    monkeypatch.setattr(Shelf, "put", lambda shelf, parcel: laid_down.append(put(shelf, parcel)) or laid_down[-1])
    out = tmp_path / "reports"
    analyse(drawn_slides, Settings(out=out, jobs=1))
    assert [parcel.packed for parcel in laid_down] == [b"", b""], "the two fields of two-fields, not that of single"
    assert numbers(out) == numbers(analysed[0])
    assert (out / "two-fields" / "overlay_2.jpg").read_bytes() == (
        analysed[0] / "two-fields" / "overlay_2.jpg"
    ).read_bytes()
    assert not list(out.glob(".*"))


def discs(places: list[tuple[int, int]], diameter: int) -> Any:
    """A field with red cells at (row, col)."""
    rgb = np.full((300, 400, 3), (205, 212, 210), np.uint8)
    for row, col in places:
        cv2.circle(rgb, (col, row), diameter // 2, (160, 165, 190), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(rgb, (0, 0), 0.8)


@pytest.fixture
def uneven_slide(tmp_path: Path) -> Slide:
    """A slide of one camera: three fields with many red cells, one with three that the edge halves, and are small."""
    folder = tmp_path / "slides" / "uneven"
    folder.mkdir(parents=True)
    for name in "abc":
        cv2.imwrite(
            str(folder / f"{name}.png"), discs([(r, c) for r in range(40, 280, 60) for c in range(40, 390, 60)], 40)
        )
    cv2.imwrite(str(folder / "few.png"), discs([(0, 100), (0, 300), (299, 200)], 34))
    return discover_slides(folder.parent).slides[0]


def scales(out: Path) -> dict[str, tuple[str, float]]:
    fields = json.loads((out / "uneven" / "result.json").read_text(encoding="utf-8"))["fields"]
    return {field["name"]: (field["scale"]["source"], field["scale"]["um_per_px"]) for field in fields}


def test_a_field_with_few_red_cells_is_analysed_again_with_its_slides_scale(
    uneven_slide: Slide, tmp_path: Path
) -> None:
    with Analyser(Settings(out=tmp_path / "out", jobs=1)) as analyser:
        outcomes = list(analyser.run([uneven_slide]))
    assert sum(one.fields for one in outcomes if isinstance(one, pipeline.FieldsProgress)) == 4
    (done,) = (one for one in outcomes if isinstance(one, SlideDone))
    assert (done.fields, done.failures) == (4, ())
    found = scales(tmp_path / "out")
    assert {source for source, _ in found.values()} == {"red_cells", "slide"}
    assert found["few.png"] == ("slide", pytest.approx(found["a.png"][1], rel=1e-6))


def test_a_field_that_fails_the_second_time_stays_with_its_own_scale(
    uneven_slide: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = pipeline._Run._submit

    def only_once(run: Any, in_hand: Any, index: int, attempt: int = 1) -> None:
        if in_hand.tasks[index].slide_scale is None:
            submit(run, in_hand, index, attempt)
        else:
            lost: Future[Any] = Future()
            lost.set_exception(TimeoutError())
            run.fields[lost] = (in_hand, index, attempt)

    monkeypatch.setattr(pipeline._Run, "_submit", only_once)
    with Analyser(Settings(out=tmp_path / "out", jobs=1)) as analyser:
        outcomes = list(analyser.run([uneven_slide]))
    assert sum(one.fields for one in outcomes if isinstance(one, pipeline.FieldsProgress)) == 4
    (done,) = (one for one in outcomes if isinstance(one, SlideDone))
    assert (done.fields, done.failures) == (4, ())
    assert {source for source, _ in scales(tmp_path / "out").values()} == {"red_cells"}


def test_a_run_that_breaks_off_leaves_nothing_on_the_disk(
    drawn_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def full(run: Any, in_hand: Any) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        raise OutputError("full", "free some")

    monkeypatch.setattr(pipeline, "FIELDS_IN_MEMORY", 0)
    monkeypatch.setattr(pipeline._Run, "_report", full)
    slides = discover_slides(drawn_slides).slides[:1]
    with Analyser(Settings(out=tmp_path, jobs=1)) as analyser, pytest.raises(OutputError):
        list(analyser.run(slides))
    assert [name.split("-")[0] for name in seen] == [".partial"]
    assert not list(tmp_path.iterdir())


def test_weights_that_know_fewer_classes_say_so() -> None:
    confusion = [[0] * 8 for _ in CLASSES]
    for known in (3, 4, 5, 6, 7):
        confusion[known][known] = 9
    info = replace(weights_info(), name="ours", confusion=tuple(map(tuple, confusion)))
    (warning,) = tasks.untaught(info)
    assert warning.startswith(
        "The weights ours do not know, or were not checked on: basophil, eosinophil, erythroblast."
    )
    assert tasks.untaught(replace(info, confusion=((1,) * 8,) * 8)) == []


def test_run_json_says_what_was_run(analysed: tuple[Path, RunReport]) -> None:
    out, _ = analysed
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["counts"]["slides_done"] == 2
    assert run["counts"]["fields"] == 3
    assert set(run["inputs"]) == {"single", "two-fields"}
    assert len(run["weights"]["sha256"]) == 64
    assert {"decode", "segment", "classify"} <= set(run["stage_seconds"])


def test_what_is_done_is_skipped_and_what_changed_is_redone(
    analysed: tuple[Path, RunReport], drawn_slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    shutil.copytree(analysed[0], out)
    before = (out / "two-fields" / "result.json").stat().st_ino
    slides = tmp_path / "slides"
    shutil.copytree(drawn_slides, slides)
    shutil.copy(slides / "two-fields" / "1.png", slides / "single.png")
    report = analyse(slides, Settings(out=out, jobs=1))
    assert (report.slides_done, report.slides_skipped) == (1, 1)
    assert (out / "two-fields" / "result.json").stat().st_ino == before
    changed = analyse(slides, Settings(out=out, jobs=1, um_per_px=0.26))
    assert (changed.slides_done, changed.slides_skipped) == (2, 0)


def test_a_killed_run_is_completed_to_the_same_numbers(
    analysed: tuple[Path, RunReport], drawn_slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    command = [sys.executable, "-m", "cbctool", "analyze", str(drawn_slides), "--out", str(out), "--jobs", "1"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not finished_slides(out):
        os.sched_yield()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for folder in (p for p in out.iterdir() if p.is_dir() and not p.name.startswith(".")):
        assert {p.name for p in folder.iterdir()} >= PER_SLIDE  # whatever is visible is whole
    report = analyse(drawn_slides, Settings(out=out, jobs=2))
    assert report.slides_done + report.slides_skipped == 2
    assert numbers(out) == numbers(analysed[0])
    assert not list(out.glob(".partial-*"))


@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stop_ends_with_130_and_keeps_what_is_finished(drawn_slides: Path, tmp_path: Path, stop: str) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for i in range(400):  # more than a busy machine finishes before this process has its next turn
        (slides / f"{i:03d}.png").write_bytes((drawn_slides / "single.png").read_bytes() + i.to_bytes(2))
    command = [sys.executable, "-m", "cbctool", "analyze", str(slides), "--out", str(out), "--jobs", "1"]
    # a shell without job control starts what it puts into the background with SIGINT ignored, nohup with SIGHUP, and
    # that is inherited
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for number, handler in before.items():
        signal.signal(number, handler)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not finished_slides(out):
        os.sched_yield()
    # A terminal sends Ctrl-C to the workers as well.
    (os.killpg if stop == "SIGINT" else os.kill)(process.pid, getattr(signal, stop))
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == ExitCode.INTERRUPTED
    assert "interrupted" in said
    assert "Traceback" not in said
    finished = finished_slides(out)
    assert 0 < len(finished) < 400
    assert {row["slide"] for row in table(out / "summary.csv")} == finished
    assert not list(out.glob(".partial-*"))


def test_one_bad_field_harms_nobody(drawn_slides: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    shutil.copytree(drawn_slides, slides)
    (slides / "two-fields" / "3.jpg").write_bytes(b"")
    (slides / "broken.png").write_bytes((slides / "single.png").read_bytes()[:2000])
    out = tmp_path / "reports"
    report = analyse(slides, Settings(out=out, jobs=2))
    assert report.exit_code is ExitCode.PARTIAL
    failures = {(row["slide"], Path(row["path"]).name): row for row in table(out / "failures.csv")}
    assert set(failures) == {("two-fields", "3.jpg"), ("broken", "broken.png")}
    assert all(row["error"] and row["advice"] for row in failures.values())
    rows = {row["slide"]: row for row in table(out / "summary.csv")}
    assert (rows["two-fields"]["status"], rows["single"]["status"]) == ("partial", "done")
    assert rows["broken"]["status"] == "failed"
    again = analyse(slides, Settings(out=out, jobs=2))  # what lacks a field is tried again, and fails again
    assert (again.exit_code, again.slides_skipped, again.slides_done) == (ExitCode.PARTIAL, 1, 1)
    assert len(table(out / "failures.csv")) == 2
    signed = json.loads((out / "two-fields" / "manifest.json").read_text(encoding="utf-8"))
    signed["row"]["reviewer"] = "Dr. Grün"  # as `cbctool report` leaves it: not replaced unasked
    (out / "two-fields" / "manifest.json").write_text(json.dumps(signed), encoding="utf-8")
    assert analyse(slides, Settings(out=out, jobs=2)).slides_skipped == 2
    assert len(table(out / "failures.csv")) == 2
    shutil.copy(slides / "single.png", slides / "broken.png")  # mended: the failure goes, the rest is skipped
    (slides / "two-fields" / "3.jpg").unlink()
    mended = analyse(slides, Settings(out=out, jobs=2))
    assert mended.exit_code is ExitCode.OK
    assert table(out / "failures.csv") == []
    result = json.loads((out / "two-fields" / "result.json").read_text(encoding="utf-8"))
    assert "signed by Dr. Grün" in result["supersedes"]


def test_a_report_never_takes_the_place_of_its_own_pictures(
    drawn_slides: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = shutil.copytree(drawn_slides / "two-fields", tmp_path / "smear")
    before = {p.name: p.read_bytes() for p in pictures.iterdir()}
    report = analyse(pictures, Settings(out=tmp_path, jobs=1), one_slide=True)
    assert report.exit_code is ExitCode.ALL_FAILED
    assert "in the way" in report.failures[0].error
    assert "in the way" in caplog.text
    assert {p.name: p.read_bytes() for p in pictures.iterdir()} == before


def test_all_failed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no picture")
    report = analyse(tmp_path / "in", Settings(out=tmp_path / "out", jobs=1))
    assert report.exit_code is ExitCode.ALL_FAILED


def test_the_same_content_under_two_names_is_said_on_both(drawn_slides: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("first.png", "second.png"):
        shutil.copy(drawn_slides / "single.png", slides / name)
    analyse(slides, Settings(out=tmp_path / "out", jobs=1))
    for name, other in (("first", "second"), ("second", "first")):
        result = json.loads((tmp_path / "out" / name / "result.json").read_text(encoding="utf-8"))
        assert any(f"Same content as slide {other}" in warning for warning in result["warnings"])


def test_of_many_slides_with_the_same_content_a_few_are_named(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(b"the same")
    first = with_twins_named(discover_slides(tmp_path).slides, tmp_path)[0]
    assert first.warnings == ("Same content as slide 1, 2, 3, 4, 5 and 3 more: a possible mix-up of samples.",)


def test_what_cannot_be_read_is_like_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    slides = discover_slides(tmp_path).slides

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "hash_file", refused)
    assert [slide.warnings for slide in with_twins_named(slides, tmp_path)] == [(), ()]


def test_a_worker_that_is_killed_costs_nothing(drawn_slides: Path, tmp_path: Path) -> None:
    import psutil

    slides = tmp_path / "slides"
    slides.mkdir()
    for i in range(6):
        shutil.copy(drawn_slides / "single.png", slides / f"{i}.png")
        with (slides / f"{i}.png").open("ab") as file:
            file.write(bytes([i]))  # another content
    from cbctool.run.discover import discover_slides

    killed = False
    done = []
    with Analyser(Settings(out=tmp_path / "out", jobs=2)) as analyser:
        for outcome in analyser.run(discover_slides(slides).slides):
            if not killed:
                workers = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
                workers[0].kill()
                killed = True
            if isinstance(outcome, SlideDone):
                done.append(outcome.slide.name)
    assert killed
    assert sorted(done) == [str(i) for i in range(6)]


def test_fields_are_cut_as_the_weights_were_taught(
    drawn_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights, balanced in ((None, True), (Path("paper"), False)):
        asked: list[bool] = []
        with Analyser(Settings(out=tmp_path / str(weights), jobs=1, weights=weights)) as analyser:
            submit = analyser._pool.submit

            def seen(function: Any, task: Any, *rest: Any, timeout_s: float, submit: Any = submit) -> Future[Any]:
                if isinstance(task, tasks.FieldTask):
                    asked.append(task.white_balanced)  # noqa: B023
                future: Future[Any] = submit(function, task, *rest, timeout_s=timeout_s)
                return future

            monkeypatch.setattr(analyser._pool, "submit", seen)
            list(analyser.run(discover_slides(drawn_slides).slides))
        assert asked == [balanced] * 3


def test_a_worker_that_is_killed_over_a_report_costs_nothing(drawn_slides: Path, tmp_path: Path) -> None:
    import psutil

    from cbctool.run.discover import discover_slides

    class Deadly:
        """The analyser's pool, whose first report kills its worker."""

        def __init__(self, pool: Pool) -> None:
            self.pool = pool
            self.killed = False

        def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
            future = self.pool.submit(function, *arguments, timeout_s=timeout_s)
            if not self.killed:
                self.killed = True
                for worker in psutil.Process().children():
                    if "spawn_main" in " ".join(worker.cmdline()):
                        worker.kill()
            return future

    with Analyser(Settings(out=tmp_path / "out", jobs=1)) as analyser:
        analyser._report_pool = deadly = Deadly(analyser._pool)
        outcomes = list(analyser.run(discover_slides(drawn_slides).slides))
        analyser._report_pool = analyser._pool
    assert deadly.killed
    assert sorted(one.slide.name for one in outcomes if isinstance(one, SlideDone)) == ["single", "two-fields"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"weights": Path("nowhere.safetensors")}, WeightsError),
        ({"device": "cuda:99"}, UsageError),
        ({"profile": Path("nowhere.toml")}, UsageError),
    ],
)
def test_what_stops_a_run_stops_it_at_once(drawn_slides: Path, tmp_path: Path, change: dict, error: type) -> None:
    with pytest.raises(error):
        analyse(drawn_slides, Settings(out=tmp_path / "out", jobs=1, **change))


def test_bad_input_and_output(drawn_slides: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="does not exist"):
        analyse(tmp_path / "nowhere", Settings(out=tmp_path / "out"))
    with pytest.raises(InputError, match="no picture"):
        analyse(tmp_path / "empty", Settings(out=tmp_path / "out"))
    with pytest.raises(UsageError, match="inside"):
        analyse(drawn_slides, Settings(out=drawn_slides / "out"))
    with pytest.raises(OutputError):
        analyse(drawn_slides, Settings(out=tmp_path / "file" / "out"))


def test_a_whole_slide_file_of_many_files_is_told_by_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan.mrxs").write_bytes(b"index")
    (tmp_path / "scan" / "Data0000.dat").write_bytes(b"pixels")
    slide = Slide("scan", tmp_path, (tmp_path / "scan.mrxs",), whole_slide=True)
    before = hash_inputs(slide)
    assert set(before) == {"scan.mrxs", "scan/Data0000.dat"}
    assert file_sizes(slide) == (5, 6)
    (tmp_path / "scan" / "Data0000.dat").write_bytes(b"others")
    assert hash_inputs(slide) != before


def test_exit_codes_of_a_report() -> None:
    failure = Failure("a", "a.jpg", "e", "a")

    def code(done: int, skipped: int, failed: int, failures: tuple[Failure, ...]) -> ExitCode:
        return RunReport((), failures, (), done, skipped, failed, 0, 0, 0.0, {}).exit_code

    assert code(1, 0, 0, ()) is ExitCode.OK
    assert code(0, 1, 0, ()) is ExitCode.OK
    assert code(1, 0, 1, (failure,)) is ExitCode.PARTIAL
    assert code(0, 0, 1, (failure,)) is ExitCode.ALL_FAILED


def test_finished_slides_of_earlier_runs_stay_in_the_summary(
    analysed: tuple[Path, RunReport], drawn_slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    shutil.copytree(analysed[0], out)
    analyse(drawn_slides / "single.png", Settings(out=out, jobs=1))
    assert [row["slide"] for row in table(out / "summary.csv")] == ["single", "two-fields"]
    assert len(list(manifest.finished_slides(out))) == 2


def test_failed_slides_of_earlier_runs_stay_in_both_tables(tmp_path: Path) -> None:
    out = tmp_path / "reports"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").touch()
        analyse(tmp_path / name, Settings(out=out, jobs=1))
    assert [(row["slide"], row["status"]) for row in table(out / "summary.csv")] == [
        ("one", "failed"), ("two", "failed"),
    ]  # fmt: skip
    assert [row["slide"] for row in table(out / "failures.csv")] == ["one", "two"]


def test_what_a_run_did_not_reach_stays_in_both_tables(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "reports"
    slides.mkdir()
    for name in ("one", "two"):
        (slides / f"{name}.png").touch()
    analyse(slides, Settings(out=out, jobs=1))

    def interrupt(outcome: Outcome) -> None:
        if isinstance(outcome, SlideFailed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(slides, Settings(out=out, jobs=1), on_outcome=interrupt)
    assert [row["slide"] for row in table(out / "summary.csv")] == ["one", "two"]
    assert sorted(row["slide"] for row in table(out / "failures.csv")) == ["one", "two"]


def test_a_worker_never_sees_ctrl_c_not_even_while_it_starts() -> None:
    pool = LocalPool(1)
    try:
        mask = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, (), timeout_s=60).result()
    finally:
        pool.close()
    assert signal.SIGINT in mask
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
