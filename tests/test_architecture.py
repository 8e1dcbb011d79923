"""Which room may import which, and what must not be loaded for a word of help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cbctool

PACKAGE = Path(cbctool.__file__).parent
ROOMS = ("imaging", "classifier", "hematology", "report", "synthetic")


def imported(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            modules |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("room", ROOMS)
def test_the_middle_rooms_import_only_the_vocabulary(room: str) -> None:
    foreign = tuple(f"cbctool.{other}" for other in (*ROOMS, "run", "cli") if other != room)
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        found = {module for module in imported(path) if module.startswith(foreign)}
        assert not found, f"{path.relative_to(PACKAGE)} imports {found}"


def loaded(code: str) -> set[str]:
    """Top-level modules in memory after running code in a fresh interpreter."""
    code += "\nimport sys; print(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import cbctool.hematology", {"torch", "cv2"}),
        ("import cbctool.records, cbctool.errors", {"torch", "cv2", "numpy"}),
        ("import cbctool.classifier.weights", {"torch", "cv2"}),
        ("import cbctool.run.tasks", {"torch"}),
        (
            "import sys; sys.argv = ['cbctool', '--help']\nfrom cbctool.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass",
            {"torch", "cv2", "pandas", "numpy", "scipy"},
        ),
    ],
)
def test_nothing_heavy_is_loaded_where_it_is_not_needed(code: str, absent: set[str]) -> None:
    assert not loaded(code) & absent


def test_nothing_that_comes_from_outside_is_unpickled() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path
        # The processes of one run talk to each other in pickles, as multiprocessing does; no file is ever one.
        assert "pickle.load" not in text or path.name == "parcel.py", path
