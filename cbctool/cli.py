"""The command line: typer signatures, a progress bar and the exit code. Each command is about one call into ``run``.

Everything heavy is imported inside the commands, so that ``cbctool --help`` answers at once.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cbctool.errors import CbctoolError, ExitCode

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="cbctool",
    help="Differential counts from whole blood-smear images. Research use; counts are preliminary until a qualified "
    "person has confirmed them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would cost a third of the start
    context_settings={"help_option_names": ["-h", "--help"]},
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no messages but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is done to every slide.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Also write messages to this file (rotated at 10 MB, five kept).")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result to stdout as JSON, for machines.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Worker processes. [default: number of cores]")]
Weights = Annotated[
    Path | None, typer.Option(help="A lab's own weights file (.safetensors, its .sha256 beside it). [default: shipped]")
]
UmPerPx = Annotated[
    float | None,
    typer.Option(min=0.01, max=2.0, help="Scale of the pictures in micrometres per pixel; overrides everything else."),
]
ProfileFile = Annotated[Path | None, typer.Option(help="The lab's profile (TOML): intervals, thresholds, name, outputs.")]


def main() -> NoReturn:
    """Run the command line and exit with a code of :class:`cbctool.errors.ExitCode`."""
    arguments = attach_slide_name(sys.argv[1:])
    try:
        code = app(args=arguments, prog_name="cbctool", standalone_mode=False)
        _leave(int(code or 0))
    except CbctoolError as error:
        _fail(str(error), error.exit_code, error)
    except (KeyboardInterrupt, typer.Abort):
        print("cbctool: interrupted; finished slides are kept, the same command goes on from here.", file=sys.stderr)
        _leave(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `cbctool ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(ExitCode.OK)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}.", ExitCode.UNEXPECTED, error)
    except Exception as error:
        # Usage errors: older typer raises click's, newer its own; both carry these two.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message())
                _leave(ExitCode.USAGE)
            context = getattr(error, "ctx", None)
            hint = f" Try `{context.command_path} --help`." if context else ""
            _fail(error.format_message().rstrip(".") + f".{hint}", ExitCode.USAGE, error)
        _fail(
            f"unexpected {type(error).__name__}: {error}. Run again with --debug and report the traceback.",
            ExitCode.UNEXPECTED,
            error,
        )


def attach_slide_name(arguments: list[str]) -> list[str]:
    """Turn ``--one-slide NAME`` and a bare ``--one-slide`` into ``--one-slide=NAME`` and ``--one-slide=``.

    The next word is the name unless it is an option or something that exists (then it is the folder to analyse).
    """
    result: list[str] = []
    words = iter(range(len(arguments)))
    for i in words:
        word = arguments[i]
        if word != "--one-slide":
            result.append(word)
            continue
        following = arguments[i + 1] if i + 1 < len(arguments) else "-"
        if following.startswith("-") or Path(following).exists():
            result.append("--one-slide=")
        else:
            result.append(f"--one-slide={following}")
            next(words)
    return result


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    raise SystemExit(int(code))


def _fail(sentence: str, code: int, error: BaseException) -> NoReturn:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    logger.debug("%s", sentence, exc_info=error)
    print(f"cbctool: {sentence}", file=sys.stderr)
    _leave(code)


def _configure_logging(quiet: bool, verbose: bool, log_file: Path | None) -> None:
    root = logging.getLogger("cbctool")
    root.setLevel(logging.DEBUG)
    root.handlers.clear()
    console = logging.StreamHandler()
    console.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    console.setFormatter(logging.Formatter("cbctool: %(message)s"))
    root.addHandler(console)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(log_file, maxBytes=10_000_000, backupCount=5, encoding="utf-8")
        except OSError as error:
            from cbctool.errors import OutputError

            raise OutputError(
                f"{log_file}: the log file cannot be written ({error.strerror}).", "Give another --log-file."
            ) from error
        handler.setLevel(logging.DEBUG if verbose else logging.INFO)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)


def _print_version(wanted: bool) -> None:
    if wanted:
        from cbctool import __version__

        print(f"cbctool {__version__}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options that come before the command."""
