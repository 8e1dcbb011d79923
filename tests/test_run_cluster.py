"""The same workers on a Dask cluster: two separate worker processes on loopback, one of them killed in mid-run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from written import numbers

from cbctool.errors import UsageError
from cbctool.run.analyse import analyse
from cbctool.run.discover import discover_slides
from cbctool.run.pipeline import Analyser, FieldsProgress, Settings, SlideDone
from cbctool.run.pool import open_pool

# Dask's own threads may warn at shutdown; ours must not.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Address of a scheduler with two single-threaded workers, and the workers' processes."""
    processes = []
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes.append(
        subprocess.Popen([*dask, "--no-dashboard", "--scheduler-file", str(file)], **quiet)  # type: ignore[call-overload]
    )
    for _ in range(2):
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-dashboard"]
        worker += ["--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path / "dask"), "--host", "127.0.0.1"]
        processes.append(subprocess.Popen(worker, **quiet))  # type: ignore[call-overload]
    from distributed import Client

    try:
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            address = str(client.scheduler.address)
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_numbers_and_survives_a_worker(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], drawn_slides: Path, tmp_path: Path
) -> None:
    address, workers = cluster
    slides = tmp_path / "slides"
    shutil.copytree(drawn_slides, slides)
    for i in range(8):
        data = (drawn_slides / "single.png").read_bytes()
        (slides / "two-fields" / f"more-{i}.png").write_bytes(data + bytes([i]))
    done = []
    with Analyser(Settings(out=tmp_path / "cluster", jobs=1, cluster=address)) as analyser:
        for outcome in analyser.run(discover_slides(slides).slides):
            if isinstance(outcome, FieldsProgress) and workers[0].poll() is None:
                workers[0].kill()
            elif isinstance(outcome, SlideDone):
                done.append(outcome)
    assert workers[0].wait() != 0
    assert sorted(one.slide.name for one in done) == ["single", "two-fields"]
    assert not any(one.failures for one in done)
    analyse(slides, Settings(out=tmp_path / "local", jobs=2))
    for slide in ("single", "two-fields"):
        assert numbers(tmp_path / "cluster" / slide) == numbers(tmp_path / "local" / slide)


def test_a_call_that_hangs_is_given_up_and_the_worker_goes_on(
    cluster: tuple[str, list[subprocess.Popen[bytes]]],
) -> None:
    pool = open_pool(1, cluster[0])
    try:
        hanging = [pool.submit(time.sleep, 60.0, timeout_s=0.2) for _ in range(2)]
        for call in hanging:
            with pytest.raises(TimeoutError):
                call.result(30)
        assert pool.submit(divmod, 7, 2, timeout_s=30.0).result(30) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 7, 0, timeout_s=30.0).result(30)
    finally:
        pool.close()


def test_a_scheduler_that_does_not_answer_is_said_so(drawn_slides: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Dask scheduler"):
        analyse(drawn_slides, Settings(out=tmp_path / "out", cluster="tcp://127.0.0.1:9"))
