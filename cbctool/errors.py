"""What a user can cause, each with its exit code and what to do about it.

A programmer's mistake is a plain ``ValueError``. Everything here carries one sentence that names the file, what was
wrong, and ``advice``: what to do. The command line prints both and exits with ``exit_code``; for one field or slide of
many they become a row in ``failures.csv``.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The contract with scripts that call ``cbctool``."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    PARTIAL = 3
    ALL_FAILED = 4
    INPUT = 5
    WEIGHTS = 6
    OUTPUT = 7
    INTERRUPTED = 130


class CbctoolError(Exception):
    """Base of all errors that a user can cause.

    Parameters
    ----------
    message : str
        One sentence: the file or option, and what was wrong with it.
    advice : str
        What to do about it, one sentence.
    """

    exit_code: ExitCode = ExitCode.UNEXPECTED

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()

    def __reduce__(self) -> tuple[type[CbctoolError], tuple[str, str]]:
        # Errors cross process borders whole: BaseException's own __reduce__ would lose the advice.
        return type(self), (self.message, self.advice)


class UsageError(CbctoolError):
    """An option, profile, slide sheet or truth file that cannot be used as given."""

    exit_code = ExitCode.USAGE


class InputError(CbctoolError):
    """The input is not there, is empty, or holds nothing to analyse."""

    exit_code = ExitCode.INPUT


class UnreadableImageError(InputError):
    """One image cannot be read; the others go on."""


class CalibrationError(InputError):
    """No physical scale (or no white point) can be found for a field."""


class WeightsError(CbctoolError):
    """A weights file is missing, not trusted, or not one of ours."""

    exit_code = ExitCode.WEIGHTS


class OutputError(CbctoolError):
    """The output folder cannot be written to, or the disk is full."""

    exit_code = ExitCode.OUTPUT


class ReportInUseError(CbctoolError):
    """One slide's earlier report is open, or something else lies in its place; the other slides go on."""

    exit_code = ExitCode.OUTPUT


class TrainingDataError(UsageError):
    """The folder of training pictures has a fault that would spoil the result."""
