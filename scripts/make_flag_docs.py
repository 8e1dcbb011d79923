"""Write docs/flags.md from the flag registry and docs/profile.example.toml from the default profile.

Run: ``python scripts/make_flag_docs.py [--check]``; with ``--check`` it writes nothing and fails if one is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cbctool.hematology.flags import RULES
from cbctool.hematology.profile import Profile, describe_profile
from cbctool.records import Severity

DOCS = Path(__file__).resolve().parent.parent / "docs"
MEANING = {
    Severity.CRITICAL: "look at the film now",
    Severity.WARNING: "look before the result is used",
    Severity.NOTE: "good to know",
}


def flag_table() -> str:
    """Markdown of every rule, grouped by severity."""
    parts = [
        "# Flags\n\n"
        "Made by `scripts/make_flag_docs.py` from the registry in `cbctool/hematology/flags.py`; do not edit.\n\n"
        "A flag asks for a person's eyes. It is no diagnosis. Codes are stable: they are what `summary.csv` lists. A "
        'profile switches single flags off with `off = ["code"]` under `[flags]`.\n'
    ]
    for severity in Severity:
        parts.append(f"\n## {severity.capitalize()}: {MEANING[severity]}\n\n")
        parts.append("| code | means | raised when | source |\n|---|---|---|---|\n")
        for rule in RULES:
            if rule.severity is severity:
                meaning = f"**{rule.short}.** {rule.long}"
                cells = (f"`{rule.code}`", meaning, rule.rule, rule.source)
                parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def example_profile() -> str:
    """The default profile with a head that says how to use it."""
    return (
        "# A laboratory's profile: cbctool analyze ... --profile lab.toml\n"
        "# Every key may be left out; these are the defaults with their sources. [[reference]] bands, one per age,\n"
        "# replace the default adult band as a whole. Made by scripts/make_flag_docs.py.\n\n"
        f"{describe_profile(Profile())}"
    )


def main() -> None:
    """Write both, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for name, text in {"flags.md": flag_table(), "profile.example.toml": example_profile()}.items():
        path = DOCS / name
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is out of date: run scripts/make_flag_docs.py")


if __name__ == "__main__":
    main()
