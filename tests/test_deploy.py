"""The service files: their commands are ones that this version takes, and their forms those of the two systems."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import typer

from cbctool.cli import app

DEPLOY = Path(__file__).parents[1] / "deploy"
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def understood(arguments: list[str]) -> dict[str, object]:
    """What the command line makes of these words; it fails on any that it does not know."""
    command = typer.main.get_command(app)
    root = command.make_context("cbctool", ["watch"], resilient_parsing=True)
    name, watch, rest = command.resolve_command(root, arguments)
    assert name == "watch"
    return watch.make_context("watch", rest).params


def unit_lines() -> list[str]:
    return (DEPLOY / "cbctool-watch.service").read_text(encoding="ascii").splitlines()


def test_the_systemd_unit_starts_a_watch_that_may_write_where_it_has_to() -> None:
    (start,) = [line.partition("=")[2] for line in unit_lines() if line.startswith("ExecStart=")]
    (writable,) = [line.partition("=")[2].split() for line in unit_lines() if line.startswith("ReadWritePaths=")]
    options = understood(shlex.split(start)[1:])
    assert str(options["out"]) in writable
    assert str(Path(str(options["log_file"])).parent) in writable


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "cbctool-watch.service"
    unit.write_text("\n".join(unit_lines()).replace("/opt/cbctool/bin/cbctool", "/bin/true"))
    run = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "cbctool-watch.service" not in run.stderr


def test_the_windows_task_keeps_to_the_schema_where_it_bites() -> None:
    text = (DEPLOY / "cbctool-watch.xml").read_text(encoding="ascii")
    task = ElementTree.fromstring(text)
    assert task.tag == f"{TASK}Task"
    assert "encoding" not in text.splitlines()[0]  # read as UTF-16 by one tool and as bytes by another
    count = task.findtext(f"{TASK}Settings/{TASK}RestartOnFailure/{TASK}Count")
    assert 1 <= int(count or 0) <= 255  # unsignedByte
    for trigger in task.find(f"{TASK}Triggers") or ():  # a sequence; the other elements may come in any order
        order = ["Enabled", "StartBoundary", "EndBoundary", "Repetition", "ExecutionTimeLimit", "Delay"]
        names = [one.tag.removeprefix(TASK) for one in trigger]
        assert names == sorted(names, key=order.index)
    words = task.findtext(f"{TASK}Actions/{TASK}Exec/{TASK}Arguments") or ""
    assert str(understood(words.split())["out"]) == r"C:\cbctool\reports"
