"""The README tells the truth: its commands exist, its files are there, CI runs its test line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from cbctool.cli import app

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_ci_runs_the_test_line_word_for_word() -> None:
    line = 'pip install ".[test]" && pytest'
    assert line in README.splitlines()
    assert line in (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("words", sorted(set(re.findall(r"`(cbctool [a-z][^`]*)`", README))))
def test_every_command_shown_exists_with_its_options(words: str) -> None:
    name = words.split()[1]
    assert name in COMMANDS
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", words)) <= known


def test_every_command_is_shown() -> None:
    for name in COMMANDS:
        assert f"cbctool {name}" in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (CHECKOUT / target).is_file()
