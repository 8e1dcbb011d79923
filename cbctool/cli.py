"""The command line: typer signatures, a progress bar and the exit code. Each command is about one call into ``run``.

Everything heavy is imported inside the commands, so that ``cbctool --help`` answers at once.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import sys
import threading
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
    typer.Option(min=0.02, max=1.0, help="Scale of the pictures in micrometres per pixel; overrides everything else."),
]
AlreadyCropped = Annotated[
    bool, typer.Option("--already-cropped", help="Single-cell pictures are 19 um windows, as BloodMNIST's.")
]
ProfileFile = Annotated[
    Path | None, typer.Option(help="The lab's profile (TOML): intervals, thresholds, name, outputs.")
]


def main() -> NoReturn:
    """Run the command line and exit with a code of :class:`cbctool.errors.ExitCode`."""
    _say_in_utf8()
    if "" in sys.argv[1:]:  # as a path it would be the current folder
        _fail("an argument is empty; is a variable of the calling script not set?", ExitCode.USAGE)
    arguments = attach_slide_name(sys.argv[1:])
    try:
        code = app(args=arguments, prog_name="cbctool", standalone_mode=False)
        if code == ExitCode.INTERRUPTED:  # newer typer turns Ctrl-C into this code by itself
            raise KeyboardInterrupt
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


def _say_in_utf8() -> None:
    """Have every name be printable: Windows would write what goes into a file or pipe in its country's code page.

    A slide called 😐 would then end a finished run with an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            into_file = sys.platform == "win32" and not stream.isatty()
            stream.reconfigure(encoding="utf-8" if into_file else None, errors="backslashreplace")


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
    """Exit, also where the thread that loads the network still waits for an import that a signal has broken off.

    The interpreter would wait for that thread for ever. What has to be closed is closed by now, or ends with its pipe.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]  # None: closed, as by a scheduler
    for stream in streams:
        stream.flush()
    if code == ExitCode.INTERRUPTED or threading.active_count() > 1:
        logging.shutdown()
        os._exit(int(code))
    raise SystemExit(int(code))


def _fail(sentence: str, code: int, error: BaseException | None = None) -> NoReturn:
    if error is not None and "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    logger.debug("%s", sentence, exc_info=error)
    print(f"cbctool: {sentence}", file=sys.stderr)
    _leave(code)


def _configure_logging(quiet: bool, verbose: bool, log_file: Path | None) -> None:
    root = logging.getLogger("cbctool")
    root.setLevel(logging.DEBUG)
    root.handlers.clear()
    logging.raiseExceptions = False  # a log that cannot be written (full disk) is not answered by a traceback per line
    console = logging.StreamHandler()
    console.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    console.setFormatter(logging.Formatter("cbctool: %(message)s"))
    root.addHandler(console)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                log_file, maxBytes=10_000_000, backupCount=5, encoding="utf-8"
            )
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
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""


@app.command()
def analyze(
    slides: Annotated[
        Path, typer.Argument(help="A folder (each picture and each sub-folder of fields is a slide) or one file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the reports; made if it is not there.")] = Path(
        "reports"
    ),
    um_per_px: UmPerPx = None,
    wbc: Annotated[
        float | None, typer.Option(min=0, help="The analyser's leukocyte count, 10^9/L, for absolute counts.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Slide sheet (CSV: slide, wbc, um_per_px, sample_id, comment ...). [default: slides.csv in it]"
        ),
    ] = None,
    one_slide: Annotated[
        str | None,
        typer.Option(help="Take a flat folder as the fields of one slide, under this name.", metavar="[NAME]"),
    ] = None,
    profile: ProfileFile = None,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: Annotated[str, typer.Option(help="Crops per pass of the network, or auto.")] = "auto",
    jobs: Jobs = None,
    cluster: Annotated[
        str | None, typer.Option(help="Dask scheduler to work on, tcp://host:8786. [default: this machine]")
    ] = None,
    field_timeout: Annotated[float, typer.Option(min=1, help="Seconds until a field is given up.")] = 120.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Redo slides that are done and unchanged.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    log_file: LogFile = None,
    debug: Debug = False,
) -> int:
    """Count the cells of every slide and write a report on each."""
    _configure_logging(quiet, verbose, log_file)
    from cbctool.run.analyse import analyse
    from cbctool.run.pipeline import Settings
    from cbctool.run.service import stoppable
    from cbctool.run.words import Progress, closing_table, report_json

    settings = Settings(
        out=out,
        weights=weights,
        profile=profile,
        device=device,
        batch_size=_batch_size(batch_size),
        jobs=jobs,
        um_per_px=um_per_px,
        wbc_10e9_per_l=wbc,
        overwrite=overwrite,
        cluster=cluster,
        field_timeout_s=field_timeout,
    )
    with stoppable(KeyboardInterrupt), Progress(hidden=quiet or sys.stderr is None) as progress:
        report = analyse(
            slides,
            settings,
            one_slide=None if one_slide is None else one_slide or True,
            sheet=sheet,
            on_start=progress.start,
            on_outcome=progress.tell,
        )
    if json:
        print(report_json(report, out))
    elif not quiet:
        print(closing_table(report, out))
    return report.exit_code


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither auto nor a number of crops", param_hint="--batch-size")


@app.command()
def info(
    profile: Annotated[
        bool, typer.Option("--profile", help="Print the lab profile in force, with the source of each default.")
    ] = False,
    profile_file: Annotated[Path | None, typer.Option(help="The profile to print; default: the built-in one.")] = None,
    weights: Weights = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Versions, device, weights and their figures, formats that can be read."""
    from cbctool.run.words import describe_installation, describe_profile_file

    print(describe_profile_file(profile_file) if profile else describe_installation(weights, as_json=json))


@app.command()
def validate(
    fields: Annotated[
        Path | None, typer.Argument(help="Annotated fields; or reports or slides, for manual differentials.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Annotation: VOC, YOLO, COCO, LabelMe; CSV of boxes, points or classes; masks; manual differentials."
        ),
    ] = None,
    truth_format: Annotated[
        str | None,
        typer.Option(
            help="voc, yolo, coco, labelme, boxes, points, masks, field-classes, differentials. [default: by content]"
        ),
    ] = None,
    name_map: Annotated[
        list[str] | None,
        typer.Option("--map", help="NAME=KIND: what a name in the annotation means (a kind, a class, or ignore)."),
    ] = None,
    bloodmnist: Annotated[
        Path | None, typer.Option(help="Score the classifier on this .npz of MedMNIST's layout.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(help="Score the classifier on single-cell pictures, one sub-folder per class.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the .npz [default: test], sub-folder of --crops, or of --fields-list (train,val)."),
    ] = None,
    fields_list: Annotated[
        Path | None, typer.Option(help="Judge only these fields: a name per line, or a CSV with an id or path column.")
    ] = None,
    insult: Annotated[
        str | None,
        typer.Option(
            help="Judge again after gains, gamma, stain, restain, resize, blur, jpeg, light, camera (one: gamma:0.8)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for JSON, CSV and a PDF with pictures of the mistakes.")
    ] = None,
    um_per_px: UmPerPx = None,
    already_cropped: AlreadyCropped = False,
    weights: Weights = None,
    device: Device = "auto",
    jobs: Jobs = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    log_file: LogFile = None,
    debug: Debug = False,
) -> None:
    """Compare with what people say: cells in fields, differentials of slides, classes of single cells."""
    _configure_logging(quiet, verbose, log_file)
    from cbctool.run import validate as room
    from cbctool.run.insult import parse_insult
    from cbctool.run.truth import parse_name_map
    from cbctool.run.truth_formats import parse_format

    options = room.ValidateOptions(
        truth_format=parse_format(truth_format) if truth_format else None,
        name_map=parse_name_map(name_map or ()),
        um_per_px=um_per_px,
        already_cropped=already_cropped,
        fields_list=fields_list,
        splits=tuple(split.split(",")) if split else (),
        insult=parse_insult(insult) if insult else None,
        weights=weights,
        device=device,
        jobs=jobs,
    )
    if out is not None:
        room.check_folder(out)
    with room.ProgressBar(hidden=quiet) as progress:
        result = room.validate(
            fields, truth, bloodmnist=bloodmnist, crops=crops, options=options, progress=progress.tell
        )
    if out is not None:
        room.write_validation(result, out)
    print(room.to_json(result.figures) if json else room.summary(result.figures))


@app.command()
def report(
    slide: Annotated[Path, typer.Argument(help="The folder of one slide's report.", metavar="SLIDE_REPORT")],
    reviewer: Annotated[str, typer.Option(help="Who confirms the result; it turns from preliminary to reviewed.")],
    corrections: Annotated[
        Path | None,
        typer.Option(
            help="Its cells.csv with `class` changed: a class, artefact or unclassified. [default: all calls are right]"
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="The lab's profile (TOML). [default: the one that the report was made with]")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    debug: Debug = False,
) -> None:
    """Confirm or correct a slide's report as a qualified person; every output is written anew."""
    _configure_logging(quiet, verbose, log_file)
    from cbctool.run.review import review_slide, review_text

    result = review_slide(slide, corrections, reviewer, profile)
    if not quiet:
        print(review_text(result))


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for weights, model card, log and checkpoint.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with one sub-folder of single-cell pictures per class (unknown/ for what is none), or with "
            "such folders under train/, val/ and test/. [default: BloodMNIST]"
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder with bloodmnist.npz. [default: medmnist's own, downloaded]")
    ] = None,
    um_per_px: UmPerPx = None,
    already_cropped: AlreadyCropped = False,
    recipe: Annotated[str, typer.Option(help="default, or paper for the study's network.")] = "default",
    init: Annotated[
        Path | None, typer.Option(help="Weights to fine-tune; a shipped file by name (default, paper).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the pictures. [default: the recipe's; more for few pictures]")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after this many epochs without a better validation loss; 0: never.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of everything random.")] = 0,
    device: Device = "auto",
    allow_worse: Annotated[
        bool, typer.Option("--allow-worse", help="Write weights that are worse than those training started from.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    log_file: LogFile = None,
    debug: Debug = False,
) -> None:
    """Train a network on a lab's own cells or on BloodMNIST; run again after a kill, it goes on from the last epoch."""
    _configure_logging(quiet, verbose, log_file)
    from cbctool.run import train as room
    from cbctool.run.validate import to_json

    request = room.TrainRequest(
        out=out,
        data=data,
        root=root,
        um_per_px=um_per_px,
        already_cropped=already_cropped,
        recipe=recipe,
        init=init,
        epochs=epochs,
        patience=patience,
        seed=seed,
        device=device,
        allow_worse=allow_worse,
    )
    with room.TrainingBar(hidden=quiet) as bar:
        report = room.train(request, bar.step, bar.epoch, bar.picture)
    print(to_json({"weights": str(report.weights), **report.test}) if json else room.summary(report))


@app.command()
def watch(
    inbox: Annotated[
        Path, typer.Argument(help="Folder to watch; each picture and each sub-folder of fields is a slide.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the reports; outside the inbox.")],
    settle: Annotated[float, typer.Option(min=0, help="Seconds for which a file has to be quiet.")] = 5.0,
    settle_folder: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds for which a folder of fields has to be quiet, unless it holds a file `done`."
        ),
    ] = 300.0,
    poll: Annotated[float, typer.Option(min=0.1, help="Longest time between two looks, seconds.")] = 5.0,
    events: Annotated[bool, typer.Option(help="Use the file system's events; off for network shares.")] = True,
    min_free_gb: Annotated[float, typer.Option(min=0, help="Wait while less than this is free in --out.")] = 1.0,
    move_done: Annotated[
        Path | None,
        typer.Option(
            help="Move originals here after analysis; where a field is missing they stay. [default: leave them]"
        ),
    ] = None,
    move_failed: Annotated[
        Path | None, typer.Option(help="Move originals here once they are given up. [default: leave them]")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics on 127.0.0.1 at this port.")
    ] = None,
    um_per_px: UmPerPx = None,
    profile: ProfileFile = None,
    weights: Weights = None,
    device: Device = "auto",
    jobs: Jobs = None,
    field_timeout: Annotated[float, typer.Option(min=1, help="Seconds until a field is given up.")] = 120.0,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    debug: Debug = False,
) -> None:
    """Watch a folder and analyse every slide that is finished, until stopped (Ctrl-C, SIGTERM)."""
    _configure_logging(quiet, verbose, log_file)
    from cbctool.run.pipeline import Settings
    from cbctool.run.watch import WatchOptions, watch

    settings = Settings(
        out=out,
        weights=weights,
        profile=profile,
        device=device,
        jobs=jobs,
        um_per_px=um_per_px,
        field_timeout_s=field_timeout,
    )
    options = WatchOptions(
        settle_s=settle,
        settle_folder_s=settle_folder,
        poll_s=poll,
        events=events,
        min_free_bytes=int(min_free_gb * 1e9),
        metrics_port=metrics_port,
        move_done=move_done,
        move_failed=move_failed,
    )
    watch(inbox, settings, options)


@app.command()
def status(
    reports: Annotated[Path, typer.Argument(help="The --out folder of a `cbctool watch`.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What became of every slide of a watched folder."""
    from cbctool.run.journal import status_text

    print(status_text(reports, as_json=json))


@app.command()
def benchmark(
    source: Annotated[Path | None, typer.Argument(help="A folder of slides. [default: slides rendered for it]")] = None,
    slides: Annotated[int, typer.Option(min=1, help="Rendered slides.")] = 3,
    fields: Annotated[int, typer.Option(min=1, help="Fields of each.")] = 20,
    size: Annotated[str, typer.Option(help="Pixels of a field, WIDTHxHEIGHT.")] = "1632x1224",
    um_per_px: Annotated[float, typer.Option(min=0.03, max=0.5, help="Scale of rendered fields.")] = 0.12,
    jobs: Annotated[str | None, typer.Option(help="Numbers of workers, such as 1,2. [default: 1 to all cores]")] = None,
    device: Annotated[str, typer.Option(help="Where the network runs, such as cpu,cuda.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 3,
    weights: Weights = None,
    whole_slide: Annotated[
        int | None, typer.Option(min=1000, max=100_000, help="Instead: one rendered whole slide this many pixels wide.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Draw the result into this picture (PNG, SVG, PDF).")] = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Slides per minute, and where the time goes, beside the time for decoding alone."""
    import re

    _configure_logging(quiet, False, None)
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if match is None:
        raise typer.BadParameter(f"{size!r} is not WIDTHxHEIGHT", param_hint="--size")
    if jobs is not None and not re.fullmatch(r"[1-9]\d{0,2}(,[1-9]\d{0,2})*", jobs):
        raise typer.BadParameter(f"{jobs!r} is not a list of numbers such as 1,2", param_hint="--jobs")
    widths = [int(number) for number in jobs.split(",")] if jobs else None
    if whole_slide is not None:
        from cbctool.run import benchmark_slides as scale

        timings = scale.benchmark_whole_slide(whole_slide, widths)
        print(scale.to_json(timings) if json else "\n".join(scale.whole_slide_table(timings)))
        return
    from cbctool.run import benchmark as bench

    result = bench.benchmark(
        source,
        slides=slides,
        fields=fields,
        size=(int(match[1]), int(match[2])),
        um_per_px=um_per_px,
        jobs=widths,
        devices=device.split(","),
        repeats=repeats,
        weights=weights,
        tell=(lambda _: None) if quiet else (lambda what: print(f"cbctool: {what}", file=sys.stderr)),
    )
    if save is not None:
        bench.save_picture(result, save)
    print(bench.to_json(result) if json else bench.table(result))


@app.command()
def fetch_samples(
    folder: Annotated[Path, typer.Argument(help="Where the fields go; made if it is not there.")] = Path(
        "bccd-samples"
    ),
    timeout: Annotated[float, typer.Option(min=1, help="Longest silence of the server, seconds.")] = 30.0,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Download nine real fields of the BCCD data set (MIT licence), checked by SHA-256. Needs a network."""
    _configure_logging(quiet, verbose, None)
    from cbctool.run import fetch_samples as samples

    for path in samples.fetch_samples(folder, timeout_s=timeout):
        print(path)
