"""The command line: exit codes, one-sentence errors, help."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cbctool.cli import app, attach_slide_name
from cbctool.errors import CbctoolError, ExitCode
from cbctool.run.analyse import RunReport
from cbctool.run.journal import Journal
from cbctool.run.words import closing_table

COMMANDS = sorted(command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands)  # type: ignore[union-attr]


def cbctool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cbctool", *map(str, words)], capture_output=True, text=True, timeout=240, check=False
    )


def test_a_thread_that_never_ends_does_not_keep_the_program() -> None:
    code = (
        "import threading; from cbctool.cli import _leave\n"
        "threading.Thread(target=threading.Event().wait).start()\n"  # as one that waits for a broken-off import
        "print('said'); _leave(130)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout) == (130, "said\n")


def test_a_name_that_the_console_cannot_show_ends_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.queue("😐", tmp_path / "😐.png", "")
    command = [sys.executable, "-m", "cbctool", "status", str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0
    assert "\\U0001f610" in result.stdout


@pytest.mark.parametrize("words", [("analyze", ""), ("analyze", "slides", "--out", ""), ("watch", "", "--out", "x")])
def test_an_empty_argument_is_not_the_current_folder(words: tuple[str, ...]) -> None:
    result = cbctool(*words)
    assert result.returncode == ExitCode.USAGE
    assert "an argument is empty" in result.stderr


def test_a_program_without_a_console_ends_as_it_should(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.png").touch()
    words = [sys.executable, "-m", "cbctool", "analyze", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    ended = subprocess.run(f"exec {shlex.join(words)} >&- 2>&-", shell=True, check=False)
    assert ended.returncode == ExitCode.ALL_FAILED


def test_a_log_that_cannot_be_written_is_not_answered_by_tracebacks(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "log").symlink_to("/dev/full")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.png").touch()
    result = cbctool("analyze", tmp_path / "in", "--out", tmp_path / "out", "--log-file", tmp_path / "log", "-v")
    assert result.returncode == ExitCode.ALL_FAILED
    assert "Traceback" not in result.stderr
    assert "empty.png" in result.stderr


def test_help_names_every_command() -> None:
    result = cbctool("--help")
    assert result.returncode == 0
    assert {"analyze", "benchmark", "fetch-samples", "info", "report", "status", "train", "validate", "watch"} <= set(
        COMMANDS
    )
    for command in COMMANDS:
        assert command in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = cbctool(command, "--help")
    assert result.returncode == 0
    assert "--help" in result.stdout


def test_version() -> None:
    result = cbctool("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("cbctool ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["in", "--one-slide"], ["in", "--one-slide="]),
        (["in", "--one-slide", "S 12"], ["in", "--one-slide=S 12"]),
        (["--one-slide", ".", "--out", "x"], ["--one-slide=", ".", "--out", "x"]),
        (["in", "--one-slide", "--json"], ["in", "--one-slide=", "--json"]),
        (["in", "--one-slide=S"], ["in", "--one-slide=S"]),
    ],
)
def test_a_slide_name_is_optional(words: list[str], expected: list[str]) -> None:
    assert attach_slide_name(words) == expected


def test_errors_keep_their_advice_across_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(CbctoolError("a.jpg: broken.", "Mend it.")))
    assert (error.message, error.advice) == ("a.jpg: broken.", "Mend it.")


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("cbctool: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def picture(drawn_slides: Path) -> Path:
    return drawn_slides / "single.png"


def test_usage_errors_exit_2(picture: Path, tmp_path: Path) -> None:
    assert cbctool().returncode == ExitCode.USAGE
    for words in (
        ["no-such-command"],
        ["analyze"],
        ["analyze", picture, "--jobs", "many"],
        ["analyze", picture, "--batch-size", "0"],
        ["analyze", picture, "--um-per-px", "-1"],
        ["analyze", picture, "--out", tmp_path / "o", "--device", "abacus"],
    ):
        result = cbctool(*words)
        assert result.returncode == ExitCode.USAGE, words
        one_sentence(result)


def test_input_errors_exit_5(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no picture")
    for source in ("nowhere", "empty", "text.txt"):
        result = cbctool("analyze", tmp_path / source, "--out", tmp_path / "out")
        assert result.returncode == ExitCode.INPUT, source
        assert source in one_sentence(result)
    assert cbctool("train", "--out", tmp_path / "w", "--data", tmp_path / "nowhere").returncode == ExitCode.INPUT
    assert cbctool("status", tmp_path / "empty").returncode == ExitCode.INPUT


def test_weights_that_are_not_trusted_exit_6(picture: Path, tmp_path: Path) -> None:
    from cbctool.classifier.weights import default_weights

    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(default_weights().read_bytes() + b"\0")
    result = cbctool("analyze", picture, "--out", tmp_path / "out", "--weights", wrong)
    assert result.returncode == ExitCode.WEIGHTS
    wrong.with_name("wrong.safetensors.sha256").write_text("0" * 64)
    result = cbctool("analyze", picture, "--out", tmp_path / "out", "--weights", wrong)
    assert result.returncode == ExitCode.WEIGHTS
    assert "expected sha256 0000" in one_sentence(result)


def test_an_output_that_cannot_be_written_exits_7(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = cbctool("analyze", picture, "--out", tmp_path / "file" / "out")
    assert result.returncode == ExitCode.OUTPUT
    one_sentence(result)


def test_validate_overwrites_no_file_of_another(picture: Path, tmp_path: Path) -> None:
    fields = tmp_path / "fields.csv"
    fields.write_text("id,classes\nsingle,neutrophil\n")
    result = cbctool("validate", picture, "--truth", fields, "--out", tmp_path)
    assert result.returncode == ExitCode.OUTPUT
    assert "holds no validation" in one_sentence(result)
    assert fields.read_text() == "id,classes\nsingle,neutrophil\n"


def test_a_truncated_picture_beside_a_good_one_exits_3(picture: Path, tmp_path: Path) -> None:
    slides = tmp_path / "in"
    slides.mkdir()
    (slides / "good.png").write_bytes(picture.read_bytes())
    (slides / "cut.png").write_bytes(picture.read_bytes()[:5000])
    out = tmp_path / "out"
    result = cbctool("analyze", slides, "--out", out, "--jobs", "1", "--json", "--log-file", tmp_path / "log" / "l.txt")
    assert result.returncode == ExitCode.PARTIAL
    told = json.loads(result.stdout)
    assert [slide["slide"] for slide in told["slides"]] == ["cut", "good"]
    assert [failure["slide"] for failure in told["failures"]] == ["cut"]
    assert "cut" in (tmp_path / "log" / "l.txt").read_text(encoding="utf-8")
    quiet = cbctool("analyze", slides, "--out", out, "--jobs", "1", "--quiet")
    assert quiet.returncode == ExitCode.PARTIAL
    assert quiet.stdout == ""


def test_the_closing_table(picture: Path, tmp_path: Path) -> None:
    result = cbctool("analyze", picture, "--out", tmp_path / "out", "--jobs", "1")
    assert result.returncode == 0
    assert result.stdout.startswith("slide")
    assert "Slides: 1 analysed" in result.stdout
    assert "preliminary" in result.stdout


@pytest.mark.parametrize(
    ("leukocytes", "adequacy", "told"), [(8, "no differential", "N 6 L 2 (cells)"), (200, "preferred", "N 75 L 25")]
)
def test_the_closing_table_has_no_percentages_of_a_few_cells(leukocytes: int, adequacy: str, told: str) -> None:
    row = {"slide": "a", "status": "done", "leukocytes": leukocytes, "adequacy": adequacy, "flags": ""}
    row |= {"neutrophil_percent": 75.0, "lymphocyte_percent": 25.0}
    report = RunReport((row,), (), (), 1, 0, 0, 1, 9, 1.0, {})
    assert told in closing_table(report, Path("out"))


def test_info_tells_versions_weights_and_formats() -> None:
    told = json.loads(cbctool("info", "--json").stdout)
    assert told["weights"]["validated"] is True
    assert "cpu" in told["devices"]
    assert {".png", ".jpg", ".tif"} <= set(told["formats"])
    profile = cbctool("info", "--profile")
    assert "preferred = 200" in profile.stdout


def test_the_log_file_is_rotated(tmp_path: Path) -> None:
    code = (
        "import logging, sys; from pathlib import Path; from cbctool.cli import _configure_logging\n"
        "_configure_logging(quiet=True, verbose=False, log_file=Path(sys.argv[1]))\n"
        "for _ in range(14): logging.getLogger('cbctool.run').warning('x' * 5_000_000)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "log" / "watch.log"], check=True)
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert names == ["watch.log", *(f"watch.log.{number}" for number in range(1, 6))]
    assert all(path.stat().st_size <= 10_000_000 for path in (tmp_path / "log").iterdir())
